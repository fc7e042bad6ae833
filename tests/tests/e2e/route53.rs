//! Names in Route53.

use aws_sdk_ec2::types::InstanceStateName;
use aws_sdk_route53::types::{Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet, RrType};
use kiln_schema::{OutcomeKind, State};
use kiln_tests::{Answer, Server, lab};

/// A zone of a test's own.
struct Zone {
    id: String,
    name: String,
}

impl Zone {
    fn new(name: &str) -> Zone {
        let lab = lab();
        let reference = format!("{name}-{}", std::process::id());
        let made =
            lab.block_on(lab.route53.create_hosted_zone().name(name).caller_reference(reference).send()).unwrap();
        Zone { id: made.hosted_zone().unwrap().id().to_owned(), name: name.to_owned() }
    }

    /// `NAME TYPE VALUE` of all records but those that every zone has.
    fn records(&self) -> Vec<String> {
        let lab = lab();
        let answer = lab.block_on(lab.route53.list_resource_record_sets().hosted_zone_id(&self.id).send()).unwrap();
        let own = answer.resource_record_sets().iter().filter(|r| !matches!(r.r#type(), RrType::Ns | RrType::Soa));
        let mut told: Vec<String> =
            own.map(|r| format!("{} {} {}", r.name(), r.r#type().as_str(), r.resource_records()[0].value())).collect();
        told.sort();
        told
    }

    /// Another instance takes a name.
    fn take(&self, name: &str, address: &str) {
        let lab = lab();
        let value = ResourceRecord::builder().value(address).build().unwrap();
        let set =
            ResourceRecordSet::builder().name(name).r#type(RrType::A).ttl(60).resource_records(value).build().unwrap();
        let change = Change::builder().action(ChangeAction::Upsert).resource_record_set(set).build().unwrap();
        let batch = ChangeBatch::builder().changes(change).build().unwrap();
        let request = lab.route53.change_resource_record_sets().hosted_zone_id(&self.id).change_batch(batch);
        lab.block_on(request.send()).unwrap();
    }
}

fn config(zone: &Zone, host: &str) -> String {
    let name = &zone.name;
    format!(
        "route53: {{zone: {name}, name: {host}.{name}, aliases: [www-{host}.{name}], \
         ptr: {{name: \"ptr-{host}.{name}\", zone: {name}}}, ttl: 60, required: true}}\n"
    )
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_cname_and_ptr_come_in_one_change_and_go_with_the_machine() {
    let zone = Zone::new("come-and-go");
    let machine = lab().launch(&format!("#cloud-config\n{}", config(&zone, "web")));
    let status = machine.settled();
    assert_eq!(status.state, State::Done, "{status:?}");
    let (name, address) = (&zone.name, machine.ask("hostname -I").trim().to_owned());
    let expected = [
        format!("ptr-web.{name}. PTR web.{name}"),
        format!("web.{name}. A {address}"),
        format!("www-web.{name}. CNAME web.{name}"),
    ];
    let records: Vec<String> = zone.records().iter().map(|r| r.trim_end_matches('.').to_owned()).collect();
    assert_eq!(records, expected);
    machine.shell("systemctl poweroff");
    machine.becomes(&InstanceStateName::Stopped);
    assert_eq!(zone.records(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_name_that_another_instance_has_taken_stays() {
    let zone = Zone::new("taken");
    let machine = lab().launch(&format!("#cloud-config\n{}", config(&zone, "web")));
    assert_eq!(machine.settled().state, State::Done);
    let name = &zone.name;
    zone.take(&format!("web.{name}"), "10.9.9.9");
    machine.shell("systemctl poweroff");
    machine.becomes(&InstanceStateName::Stopped);
    // What points at the name belongs to whoever has the name.
    let expected = [
        format!("ptr-web.{name}. PTR web.{name}."),
        format!("web.{name}. A 10.9.9.9"),
        format!("www-web.{name}. CNAME web.{name}."),
    ];
    assert_eq!(zone.records(), expected);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn register_false_does_nothing() {
    let zone = Zone::new("nothing");
    let user_data = format!("#cloud-config\n{}", config(&zone, "web").replace("{zone", "{register: false, zone"));
    let machine = lab().launch(&user_data);
    let status = machine.settled();
    let route53 = status.handlers.iter().find(|h| h.name == "route53").unwrap();
    assert_eq!((route53.outcome, route53.reason.as_deref()), (OutcomeKind::Skipped, Some("switched-off")));
    assert_eq!(zone.records(), Vec::<String>::new());
}

/// What Route53 answers when it is asked too often.
const THROTTLING: &str = "<?xml version=\"1.0\"?><ErrorResponse \
    xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Error><Type>Sender</Type><Code>Throttling</Code>\
    <Message>Rate exceeded</Message></Error><RequestId>1</RequestId></ErrorResponse>";

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn twenty_throttlings_end_in_success() {
    let changed = "<?xml version=\"1.0\"?><ChangeResourceRecordSetsResponse \
        xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><ChangeInfo><Id>/change/C1</Id>\
        <Status>PENDING</Status><SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt></ChangeInfo>\
        </ChangeResourceRecordSetsResponse>";
    let zone = "<?xml version=\"1.0\"?><GetHostedZoneResponse \
        xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><HostedZone><Id>/hostedzone/Z0123456789ABC</Id>\
        <Name>busy.test.</Name><CallerReference>1</CallerReference></HostedZone></GetHostedZoneResponse>";
    let server = Server::start(move |number, request| match number {
        0..20 => Answer::Status(400, THROTTLING.to_owned()),
        _ if request.line.starts_with("GET") => Answer::Status(200, zone.to_owned()),
        _ => Answer::Status(200, changed.to_owned()),
    });
    let machine = lab().launch("#cloud-config\n{}\n");
    assert_eq!(machine.settled().state, State::Done);
    machine.ask(
        "printf 'route53: {zone: Z0123456789ABC, name: web.busy.test, required: true}\\n' >/etc/kiln/agent.d/r.yaml",
    );
    let ran = machine.shell(&format!("AWS_ENDPOINT_URL_ROUTE_53={} kiln-agent boot --stage final", server.url));
    assert_eq!(ran.code, 0, "{ran:?}");
    let requests = server.requests();
    let lines: Vec<&str> = requests.iter().map(|r| r.line.as_str()).collect();
    assert_eq!(lines.len(), 22, "{lines:?}");
    assert!(lines[21].starts_with("POST") && requests[21].text().contains("<Name>web.busy.test"), "{lines:?}");
    let authorization = requests[21].headers.iter().find(|h| h.to_lowercase().starts_with("authorization")).unwrap();
    let key = machine.ask(
        "T=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token); \
         C=http://169.254.169.254/latest/meta-data/iam/security-credentials/; \
         curl -s -H \"X-aws-ec2-metadata-token: $T\" $C$(curl -s -H \"X-aws-ec2-metadata-token: $T\" $C) | \
         grep -o 'AccessKeyId[^,]*' | cut -d'\"' -f3",
    );
    assert!(authorization.contains(&format!("Credential={key}/")), "{authorization} is not of {key}");
}
