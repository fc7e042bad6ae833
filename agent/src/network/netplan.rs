//! The file of netplan.

use kiln_schema::yaml::{Node, Place};
use serde_json::{Map, Value as Json, json};

use super::emit::emit;
use super::model::{Kind, Link, Network, Overrides, Route, Rule};
use super::{File, HEADER};

/// The file; closed to others, as it may hold passwords of wireless networks.
pub const FILE: &str = "/etc/netplan/50-cloud-init.yaml";

/// The file of a document that is in netplan's own format.
pub fn pass_through(node: &Node) -> File {
    let inner = emit(node);
    let inner: String = inner.lines().map(|line| format!("  {line}\n")).collect();
    File { path: FILE.to_owned(), text: format!("{HEADER}network:\n{inner}"), mode: 0o600 }
}

/// The file of interfaces that were told in another format.
pub fn file(network: &Network) -> File {
    let mut root = json!({"version": 2});
    for link in &network.links {
        let section = match link.kind {
            Kind::Physical => "ethernets",
            Kind::Bond { .. } => "bonds",
            Kind::Bridge { .. } => "bridges",
            Kind::Vlan { .. } => "vlans",
        };
        root[section][&link.name] = Json::Object(interface(link));
    }
    pass_through(&Node::from_json(&root, &Place::whole(FILE)))
}

fn interface(link: &Link) -> Map<String, Json> {
    let mut keys = Map::new();
    let mut put = |key: &str, value: Json| {
        let empty = match &value {
            Json::Null | Json::Bool(false) => true,
            Json::Array(items) => items.is_empty(),
            Json::Object(fields) => fields.is_empty(),
            _ => false,
        };
        if !empty {
            keys.insert(key.to_owned(), value);
        }
    };
    let matches = &link.matches;
    let fields = [
        ("macaddress", json!(matches.mac)),
        ("name", json!(matches.name)),
        ("driver", if matches.drivers.is_empty() { Json::Null } else { json!(matches.drivers) }),
    ];
    put("match", present(fields));
    if link.renamed {
        put("set-name", json!(link.name));
    }
    match &link.kind {
        Kind::Bond { members, primary } => {
            // Netplan wants the empty list too.
            put("interfaces", json!(members));
            let mut params = params(link);
            params.extend(primary.iter().map(|primary| ("primary".to_owned(), json!(primary))));
            put("parameters", Json::Object(params));
        }
        Kind::Bridge { members } => {
            put("interfaces", json!(members));
            put("parameters", Json::Object(params(link)));
        }
        Kind::Vlan { id, link } => {
            put("id", json!(id));
            put("link", json!(link));
        }
        Kind::Physical => {}
    }
    put("macaddress", json!(link.mac));
    put("mtu", json!(link.mtu));
    put("wakeonlan", json!(link.wake_on_lan));
    put("optional", json!(link.optional));
    put("dhcp4", json!(link.dhcp4));
    put("dhcp4-overrides", overrides(&link.dhcp4_overrides));
    put("dhcp6", json!(link.dhcp6));
    put("dhcp6-overrides", overrides(&link.dhcp6_overrides));
    put("accept-ra", link.accept_ra.map_or(Json::Null, |on| Json::String(if on { "yes" } else { "no" }.to_owned())));
    put("addresses", json!(link.addresses));
    put("routes", link.routes.iter().map(route).collect());
    put("routing-policy", link.rules.iter().map(rule).collect());
    let mut names = Map::new();
    if !link.dns.is_empty() {
        names.insert("addresses".to_owned(), json!(link.dns));
    }
    if !link.search.is_empty() {
        names.insert("search".to_owned(), json!(link.search));
    }
    put("nameservers", Json::Object(names));
    keys
}

fn params(link: &Link) -> Map<String, Json> {
    let value = |param: &str, text: &str| match (param, text) {
        ("arp-ip-targets", targets) => targets.split_whitespace().collect(),
        // Numbers and switches are not text to netplan.
        (_, "on" | "yes" | "true") => json!(true),
        (_, "off" | "no" | "false") => json!(false),
        (_, text) => text.parse::<u32>().map_or_else(|_| json!(text), |number| json!(number)),
    };
    link.params.iter().map(|(param, text)| (param.v2.to_owned(), value(param.v2, text))).collect()
}

fn overrides(overrides: &Overrides) -> Json {
    let mut keys: Map<String, Json> =
        overrides.switches.iter().map(|(_, key, on)| ((*key).to_owned(), json!(on))).collect();
    keys.extend(overrides.metric.map(|metric| ("route-metric".to_owned(), json!(metric))));
    keys.extend(overrides.hostname.iter().map(|name| ("hostname".to_owned(), json!(name))));
    Json::Object(keys)
}

fn route(route: &Route) -> Json {
    let fields = [
        ("to", json!(route.target())),
        ("via", json!(route.via)),
        ("from", json!(route.from)),
        ("metric", json!(route.metric)),
        ("table", json!(route.table)),
        ("on-link", if route.on_link { json!(true) } else { Json::Null }),
        ("type", json!(route.kind)),
        // A network on the interface itself has no gateway, and netplan wants that said.
        ("scope", json!(route.scope.or(route.via.is_none().then_some("link")))),
        ("mtu", json!(route.mtu)),
    ];
    present(fields)
}

fn rule(rule: &Rule) -> Json {
    let fields = [
        ("from", json!(rule.from)),
        ("to", json!(rule.to)),
        ("table", json!(rule.table)),
        ("priority", json!(rule.priority)),
        ("mark", json!(rule.mark)),
    ];
    present(fields)
}

fn present<const N: usize>(fields: [(&str, Json); N]) -> Json {
    fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.to_owned(), value)).collect()
}
