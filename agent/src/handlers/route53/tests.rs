//! Against a server that answers as the Route53 API does, over HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::registered::{FILE, Registered, Removed, of_this_instance, release_with};
use super::*;
use crate::datasources::Instance;
use crate::net::testing::{Received, Reply, Server, answer};
use crate::system::FileOptions;

/// Zone id, record name and type, to ttl and value.
type Records = Arc<Mutex<BTreeMap<(String, String, String), (String, String)>>>;

/// The service: its zones, and its records, which a test may change too.
struct Dns {
    server: Server,
    records: Records,
}

const ZONES: &[(&str, &str, bool)] = &[
    ("ZMAIN", "example.org.", true),
    ("ZWORLD", "example.org.", false),
    ("ZREV", "10.in-addr.arpa.", true),
    ("ZREVNEAR", "0.10.in-addr.arpa.", true),
    ("ZTWICE", "twice.org.", true),
    ("ZTWICE2", "twice.org.", true),
];

/// The text between two tags, as often as it is there.
fn all<'a>(text: &'a str, tag: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    text.split(&open).skip(1).filter_map(|rest| rest.split_once(&close)).map(|(inner, _)| inner).collect()
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\"?><ErrorResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Error>\
         <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    );
    answer(status, body)
}

fn document(root: &str, inner: &str) -> Reply {
    let xmlns = "xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"";
    answer(200, format!("<?xml version=\"1.0\"?><{root} {xmlns}>{inner}</{root}>"))
}

fn zone_xml((id, name, private): &(&str, &str, bool)) -> String {
    format!(
        "<HostedZone><Id>/hostedzone/{id}</Id><Name>{name}</Name><CallerReference>c</CallerReference>\
         <Config><PrivateZone>{private}</PrivateZone></Config></HostedZone>"
    )
}

impl Dns {
    /// `fault` may answer instead; it gets the number of requests before.
    fn start(fault: impl Fn(&Received, usize) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let records: Records = Arc::default();
        let kept = records.clone();
        let server =
            Server::start(move |request, before| fault(request, before).unwrap_or_else(|| reply(request, &kept)));
        Dns { server, records }
    }

    fn service(&self) -> Service {
        Service::for_test(&self.server.url(""), Instant::now() + Duration::from_secs(60))
    }

    fn set(&self, zone: &str, name: &str, kind: &str, value: &str) {
        let key = (zone.to_owned(), name.to_owned(), kind.to_owned());
        self.records.lock().unwrap().insert(key, ("300".to_owned(), value.to_owned()));
    }

    /// `ZONE name TYPE value`, sorted.
    fn shown(&self) -> Vec<String> {
        let records = self.records.lock().unwrap();
        records.iter().map(|((zone, name, kind), (_, value))| format!("{zone} {name} {kind} {value}")).collect()
    }

    fn batches(&self) -> usize {
        self.server.received().iter().filter(|request| request.method == "POST").count()
    }
}

fn reply(request: &Received, records: &Records) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    let parts: Vec<&str> = path.split('/').skip(2).collect();
    match parts.as_slice() {
        ["hostedzonesbyname"] => {
            let from = ZONES.iter().filter(|(_, name, _)| Some(*name) >= asked("dnsname"));
            let zones: String = from.map(zone_xml).collect();
            let rest = "<IsTruncated>false</IsTruncated><MaxItems>100</MaxItems>";
            document("ListHostedZonesByNameResponse", &format!("<HostedZones>{zones}</HostedZones>{rest}"))
        }
        ["hostedzone", id] => match ZONES.iter().find(|(zone, _, _)| zone == id) {
            Some(zone) => document("GetHostedZoneResponse", &zone_xml(zone)),
            None => error(404, "NoSuchHostedZone", &format!("No hosted zone found with ID: {id}")),
        },
        ["hostedzone", id, "rrset"] if request.method == "GET" => {
            let from = (asked("name").unwrap().replace("%2A", "*"), asked("type").unwrap().to_owned());
            let records = records.lock().unwrap();
            let in_zone = records.iter().filter(|((zone, _, _), _)| zone == id);
            let first =
                in_zone.map(|((_, n, k), v)| ((n, k), v)).find(|((n, k), _)| ((*n).clone(), (*k).clone()) >= from);
            let set = first.map_or(String::new(), |((name, kind), (ttl, value))| {
                format!(
                    "<ResourceRecordSet><Name>{}</Name><Type>{kind}</Type><TTL>{ttl}</TTL><ResourceRecords>\
                     <ResourceRecord><Value>{value}</Value></ResourceRecord></ResourceRecords></ResourceRecordSet>",
                    name.replace('*', "\\052")
                )
            });
            let rest = "<IsTruncated>false</IsTruncated><MaxItems>1</MaxItems>";
            let sets = format!("<ResourceRecordSets>{set}</ResourceRecordSets>{rest}");
            document("ListResourceRecordSetsResponse", &sets)
        }
        ["hostedzone", id, "rrset"] => change(id, &request.body, records),
        _ => error(400, "InvalidInput", path),
    }
}

/// A batch: all or nothing, as the service does it.
fn change(zone: &str, body: &str, records: &Records) -> Reply {
    let mut records = records.lock().unwrap();
    let mut next = records.clone();
    for change in all(body, "Change") {
        let one = |tag| all(change, tag)[0].to_owned();
        let key = (zone.to_owned(), one("Name"), one("Type"));
        let value = (one("TTL"), one("Value"));
        if one("Action") == "UPSERT" {
            next.insert(key, value);
        } else if next.remove(&key) != Some(value) {
            let message = format!(
                "[Tried to delete resource record set [name='{}', type='{}'] but the values provided do not match the current values]",
                key.1, key.2
            );
            return error(400, "InvalidChangeBatch", &message);
        }
    }
    *records = next;
    let info = "<Id>/change/C1</Id><Status>PENDING</Status><SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt>";
    document("ChangeResourceRecordSetsResponse", &format!("<ChangeInfo>{info}</ChangeInfo>"))
}

/// A machine with this user-data and this address.
struct Machine {
    tree: tempfile::TempDir,
    user_data: String,
    instance: Instance,
}

fn machine(id: &str, address: &str, user_data: &str) -> Machine {
    let mut instance = Instance::new("ec2", id);
    instance.hostname = Some("web-1.internal".to_owned());
    instance.local_ipv4 = Some(address.to_owned());
    instance.region = Some("eu-west-1".to_owned());
    Machine { tree: tempfile::tempdir().unwrap(), user_data: user_data.to_owned(), instance }
}

impl Machine {
    fn context(&self) -> Context {
        let mut context = Context::for_test(self.tree.path(), &self.user_data);
        context.instance = Arc::new(self.instance.clone());
        let text = serde_json::to_vec(&self.instance).unwrap();
        context.system.write(kiln_schema::paths::INSTANCE, text, FileOptions::mode(0o600)).unwrap();
        context
    }

    fn register(&self, service: &Service) -> Handled {
        let context = self.context();
        let config = kiln_schema::yaml::read::<Config>(&context.config, "");
        assert_eq!(config.diagnostics, []);
        let keys = config.value.unwrap().route53.unwrap();
        register(&wanted(&keys, &context)?, &context, service)
    }

    fn detail(&self, service: &Service) -> Json {
        match self.register(service) {
            Ok(Outcome::Ok(Some(detail))) => detail,
            other => panic!("{other:?}"),
        }
    }

    fn release(&self, service: &Service) -> Removed {
        let system = self.context().system;
        let registered = of_this_instance(&system).unwrap().expect("nothing is registered");
        release_with(&system, &registered, service).unwrap()
    }
}

const WHOLE: &str = "route53: {zone: ZMAIN, name: '{{ hostname }}', aliases: [www, api.example.org], ptr: {name: ptr}}";

#[test]
fn address_aliases_and_ptr_of_one_zone_are_one_batch() {
    let dns = Dns::start(|_, _| None);
    let mut machine = machine("i-1", "10.0.0.1", WHOLE);
    machine.instance.ipv6 = Some("2001:db8:0::1".to_owned());
    let detail = machine.detail(&dns.service());
    let expected = [
        "ZMAIN api.example.org. CNAME web-1.example.org.",
        "ZMAIN ptr.example.org. PTR web-1.example.org.",
        "ZMAIN web-1.example.org. A 10.0.0.1",
        "ZMAIN web-1.example.org. AAAA 2001:db8::1",
        "ZMAIN www.example.org. CNAME web-1.example.org.",
    ];
    assert_eq!(dns.shown(), expected);
    assert_eq!(dns.batches(), 1);
    assert_eq!(detail.pointer("/changes/0/zone"), Some(&json!("example.org")));
    assert_eq!(detail.pointer("/changes/0/zone_id"), Some(&json!("ZMAIN")));
    assert_eq!(detail.pointer("/changes/0/change_id"), Some(&json!("C1")));
    let first = json!({"name": "web-1.example.org.", "type": "A", "ttl": 300, "value": "10.0.0.1"});
    assert_eq!(detail.pointer("/changes/0/records/0"), Some(&first));
    machine.detail(&dns.service());
    assert_eq!(dns.shown(), expected, "a second boot changes nothing");
}

#[test]
fn a_ptr_in_a_reverse_zone_is_a_batch_of_its_own_in_the_nearest_zone() {
    for (ptr, place) in [
        ("true", "ZREVNEAR 1.0.0.10.in-addr.arpa."),
        ("yes", "ZREVNEAR 1.0.0.10.in-addr.arpa."),
        ("ZREV", "ZREV 1.0.0.10.in-addr.arpa."),
        ("10.in-addr.arpa", "ZREV 1.0.0.10.in-addr.arpa."),
        ("{zone: ZREV, name: 1.0-63}", "ZREV 1.0-63.10.in-addr.arpa."),
    ] {
        let dns = Dns::start(|_, _| None);
        let user_data = format!("route53: {{zone: example.org, name: web, ptr: {ptr}}}");
        machine("i-1", "10.0.0.1", &user_data).detail(&dns.service());
        let expected = ["ZMAIN web.example.org. A 10.0.0.1".to_owned(), format!("{place} PTR web.example.org.")];
        assert_eq!(dns.shown(), expected, "{ptr}");
        assert_eq!(dns.batches(), 2, "{ptr}");
    }
}

#[test]
fn a_zone_is_found_by_id_and_by_name_and_public_beside_private() {
    for (keys, zone) in [
        ("zone: ZWORLD", "ZWORLD"),
        ("zone: /hostedzone/ZWORLD", "ZWORLD"),
        ("zone: example.org", "ZMAIN"),
        ("zone: Example.ORG.", "ZMAIN"),
        ("zone: example.org, address: public", "ZWORLD"),
    ] {
        let dns = Dns::start(|_, _| None);
        let mut machine = machine("i-1", "10.0.0.1", &format!("route53: {{name: web, {keys}}}"));
        machine.instance.public_ipv4 = Some("203.0.113.9".to_owned());
        machine.detail(&dns.service());
        assert!(dns.shown()[0].starts_with(&format!("{zone} web.example.org. A ")), "{keys}: {:?}", dns.shown());
    }
}

#[test]
fn what_cannot_be_registered_is_one_sentence() {
    for (keys, reason, says) in [
        ("name: web", Reason::Config, "route53.zone is missing"),
        ("zone: ZMAIN", Reason::Config, "route53.name is missing"),
        ("zone: ZNONE, name: web", Reason::Refused, "NoSuchHostedZone: No hosted zone found with ID: ZNONE"),
        ("zone: nowhere.org, name: web", Reason::Refused, "no hosted zone named nowhere.org."),
        ("zone: twice.org, name: web", Reason::Config, "ZTWICE, ZTWICE2; write the id of one"),
        ("zone: ZMAIN, name: '{{ hostnme }}'", Reason::Template, "did you mean `hostname`"),
        ("zone: ZMAIN, name: 'web {{ hostname }}'", Reason::Config, "`web web-1.example.org.` is not a name in DNS"),
        ("zone: ZMAIN, name: ''", Reason::Config, "is not a name in DNS"),
        ("zone: ZMAIN, name: web.other.org.", Reason::Config, "is not within the hosted zone example.org."),
        ("zone: ZMAIN, name: web, address: public", Reason::Config, "no public IPv4 address"),
        ("zone: ZMAIN, name: web, ptr: {name: 1.0.0.172.in-addr.arpa}", Reason::Refused, "no hosted zone is there for"),
    ] {
        let dns = Dns::start(|_, _| None);
        let failure = machine("i-1", "10.0.0.1", &format!("route53: {{{keys}}}")).register(&dns.service()).unwrap_err();
        assert!(failure.message.contains(says), "{keys}: {}", failure.message);
        assert_eq!(failure.reason, reason, "{keys}");
        assert_eq!(dns.batches(), 0, "{keys}");
    }
}

#[test]
fn a_failure_degrades_the_boot_unless_the_name_is_required() {
    for (user_data, best_effort) in [("route53: {zone: Z}", true), ("route53: {required: true}", false)] {
        let context = Context::for_test(tempfile::tempdir().unwrap().path(), user_data);
        let prepared = super::super::Entry::of::<Route53>().prepare(&context.config);
        assert_eq!(prepared.run.unwrap().best_effort, best_effort);
    }
}

#[test]
fn a_bake_and_a_switch_do_nothing_at_all() {
    for user_data in ["route53: {register: no}", "{route53: {zone: ZMAIN, name: web}, kiln: {baking: true}}"] {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        let outcome = context.run_handler::<Route53>().unwrap();
        assert!(matches!(outcome, Outcome::Skipped(Reason::SwitchedOff, _)), "{outcome:?}");
        assert!(!context.system.exists(FILE));
    }
}

#[test]
fn twenty_throttles_end_in_success() {
    // Half of them in each of the two forms that the service has.
    let dns = Dns::start(|request, before| match (request.method.as_str(), before) {
        ("POST", 1..=10) => Some(error(400, "Throttling", "Rate exceeded")),
        ("POST", 11..=20) => Some(error(400, "PriorRequestNotComplete", "The request was rejected")),
        _ => None,
    });
    machine("i-1", "10.0.0.1", "route53: {zone: ZMAIN, name: web}").detail(&dns.service());
    assert_eq!(dns.batches(), 21);
    assert_eq!(dns.shown(), ["ZMAIN web.example.org. A 10.0.0.1"]);
}

#[test]
fn throttling_without_end_ends_at_the_deadline() {
    let dns = Dns::start(|_, _| Some(error(400, "Throttling", "Rate exceeded")));
    let began = Instant::now();
    let service = Service::for_test(&dns.server.url(""), began + Duration::from_secs(3));
    let failure = machine("i-1", "10.0.0.1", "route53: {zone: ZMAIN, name: web}").register(&service).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(20));
    let start = "Route53 GetHostedZone ZMAIN: Throttling: Rate exceeded";
    assert!(failure.message.starts_with(start) && failure.message.contains(" tries in "), "{}", failure.message);
    assert_eq!(failure.reason, Reason::Network);
}

#[test]
fn a_refusal_is_told_at_once_and_in_the_words_of_the_service() {
    let dns = Dns::start(|request, _| {
        (request.method == "POST").then(|| error(403, "AccessDenied", "User: x is not authorized to perform: y"))
    });
    let failure = machine("i-1", "10.0.0.1", "route53: {zone: ZMAIN, name: web}").register(&dns.service()).unwrap_err();
    assert_eq!(failure.reason, Reason::Refused);
    let message = "Route53 ChangeResourceRecordSets in ZMAIN: AccessDenied: User: x is not authorized to perform: y";
    assert_eq!(failure.message, message);
    assert_eq!(dns.batches(), 1);
}

#[test]
fn what_was_registered_goes_and_nothing_else() {
    let dns = Dns::start(|_, _| None);
    dns.set("ZMAIN", "other.example.org.", "A", "10.9.9.9");
    let machine = machine("i-1", "10.0.0.1", "route53: {zone: ZMAIN, name: '*.web', aliases: [www], ptr: true}");
    machine.detail(&dns.service());
    assert_eq!(dns.shown().len(), 4);
    let removed = machine.release(&dns.service());
    assert_eq!((removed.removed.len(), removed.left.len()), (3, 0));
    assert_eq!(dns.shown(), ["ZMAIN other.example.org. A 10.9.9.9"]);
    assert!(of_this_instance(&machine.context().system).unwrap().is_none(), "a second release has nothing to do");
}

#[test]
fn a_name_that_another_instance_took_over_stays_with_its_aliases() {
    let dns = Dns::start(|_, _| None);
    let user_data = "route53: {zone: ZMAIN, name: web, aliases: [www], ptr: true}";
    let (old, new) = (machine("i-1", "10.0.0.1", user_data), machine("i-2", "10.0.0.2", user_data));
    old.detail(&dns.service());
    new.detail(&dns.service());
    let removed = old.release(&dns.service());
    assert_eq!(removed.left.iter().map(|r| r.kind.as_str()).collect::<Vec<_>>(), ["A", "CNAME"]);
    let expected = [
        "ZMAIN web.example.org. A 10.0.0.2",
        "ZMAIN www.example.org. CNAME web.example.org.",
        "ZREVNEAR 2.0.0.10.in-addr.arpa. PTR web.example.org.",
    ];
    assert_eq!(dns.shown(), expected);
}

#[test]
fn a_name_taken_over_between_look_and_removal_stays_too() {
    let records: Records = Arc::default();
    let kept = records.clone();
    let taken = Mutex::new(false);
    let server = Server::start(move |request, _| {
        if request.body.contains("DELETE") && !std::mem::replace(&mut *taken.lock().unwrap(), true) {
            let key = ("ZMAIN".to_owned(), "web.example.org.".to_owned(), "A".to_owned());
            kept.lock().unwrap().insert(key, ("300".to_owned(), "10.0.0.2".to_owned()));
        }
        reply(request, &kept)
    });
    let dns = Dns { server, records };
    let machine = machine("i-1", "10.0.0.1", "route53: {zone: ZMAIN, name: web, aliases: [www]}");
    machine.detail(&dns.service());
    let removed = machine.release(&dns.service());
    assert_eq!((removed.removed.len(), removed.left.len()), (0, 2));
    let expected = ["ZMAIN web.example.org. A 10.0.0.2", "ZMAIN www.example.org. CNAME web.example.org."];
    assert_eq!(dns.shown(), expected);
}

#[test]
fn an_image_of_a_registered_instance_does_not_remove_that_instances_names() {
    let dns = Dns::start(|_, _| None);
    let mut machine = machine("i-1", "10.0.0.1", "route53: {zone: ZMAIN, name: web}");
    machine.detail(&dns.service());
    machine.instance.id = "i-2".to_owned();
    assert!(of_this_instance(&machine.context().system).unwrap().is_none());
    machine.context().system.remove(kiln_schema::paths::INSTANCE).unwrap();
    let system = crate::system::System::new(machine.tree.path());
    let failure = of_this_instance(&system).unwrap_err();
    assert!(failure.message.starts_with("the names of i-1 in "), "{}", failure.message);
}

#[test]
fn a_name_that_is_no_longer_configured_goes_at_the_next_boot() {
    let dns = Dns::start(|_, _| None);
    let mut machine = machine("i-1", "10.0.0.1", "route53: {zone: ZMAIN, name: web, aliases: [www, api]}");
    machine.detail(&dns.service());
    machine.user_data = "route53: {zone: ZMAIN, name: app, aliases: [www]}".to_owned();
    machine.detail(&dns.service());
    let expected = ["ZMAIN app.example.org. A 10.0.0.1", "ZMAIN www.example.org. CNAME app.example.org."];
    assert_eq!(dns.shown(), expected);
    let kept = Registered::read(&machine.context().system).unwrap().unwrap();
    assert_eq!(kept.batches[0].records.len(), 2);
}

#[test]
fn a_crash_before_the_answer_leaves_nothing_that_a_release_does_not_find() {
    let dns = Dns::start(|request, _| match request.body.contains("UPSERT") {
        true => Some(error(403, "AccessDenied", "no")),
        false => None,
    });
    let machine = machine("i-1", "10.0.0.1", "route53: {zone: ZMAIN, name: web}");
    machine.register(&dns.service()).unwrap_err();
    // The batch had arrived all the same.
    dns.set("ZMAIN", "web.example.org.", "A", "10.0.0.1");
    assert_eq!(machine.release(&dns.service()).removed.len(), 1);
    assert!(dns.shown().is_empty());
}

#[test]
fn a_reverse_name_is_that_of_the_address() {
    for (address, name) in [
        ("10.1.2.3", "3.2.1.10.in-addr.arpa."),
        ("2001:db8::1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."),
    ] {
        assert_eq!(plan::reverse_name(address.parse().unwrap()), name);
    }
}

#[test]
fn names_that_nobody_could_take_out_at_the_end_are_told_before_they_are_written() {
    let told = |user_data: &str| {
        let (node, _) = kiln_schema::yaml::parse("user-data", user_data).unwrap();
        Route53::check(&node).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let keys = "route53: {zone: z, name: n}\n";
    let both = told(&format!("{keys}disable_ec2_metadata: yes\n"));
    assert!(both.len() == 1 && both[0].starts_with("user-data:2:23: warning: disable_ec2_metadata: "), "{both:?}");
    for fine in [
        keys.to_owned(),
        format!("{keys}disable_ec2_metadata: false\n"),
        "route53: {register: no}\ndisable_ec2_metadata: true\n".to_owned(),
        "route53:\ndisable_ec2_metadata: true\n".to_owned(),
    ] {
        assert!(told(&fine).is_empty(), "{fine}");
    }
}
