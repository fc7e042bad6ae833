//! OpenStack's network_data.json: links, networks on them, and services.

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::{self, Each, Node, Value};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::machine::Nic;
use super::model::{Kind, Link, Match, Network, Route};
use super::params;
use super::types::{Ip, Mac, Word, is_name, net, usual_bits};
use super::v2::LEFT_OUT;

#[derive(Default, Deserialize)]
#[serde(default)]
struct LinkEntry {
    id: Word,
    r#type: Word,
    ethernet_mac_address: Option<Mac>,
    mtu: Option<u32>,
    bond_links: Each<Word>,
    bond_mode: Option<Word>,
    bond_miimon: Option<Word>,
    bond_xmit_hash_policy: Option<Word>,
    vlan_id: Option<u16>,
    vlan_link: Option<Word>,
    vlan_mac_address: Option<Mac>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NetworkEntry {
    link: Word,
    r#type: Word,
    ip_address: Option<Word>,
    netmask: Option<Word>,
    gateway: Option<Ip>,
    routes: Each<RouteEntry>,
    dns_nameservers: Each<Ip>,
    services: Each<Service>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RouteEntry {
    network: Word,
    netmask: Option<Word>,
    gateway: Option<Ip>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Service {
    r#type: Word,
    address: Option<Ip>,
    #[serde(rename = "port")]
    _port: Option<IgnoredAny>,
}

/// Reads the document. The names are those of the machine's interfaces with the addresses of the links.
pub fn read(node: &Node, nics: &[Nic], told: &mut Vec<Diagnostic>) -> Network {
    let mut links: Vec<(String, Link)> = Vec::new();
    let mut entries: Vec<(String, &Node, LinkEntry)> = Vec::new();
    for (index, node) in items(node, "links").iter().enumerate() {
        let path = format!("links[{index}]");
        let entry = entry::<LinkEntry>(node, &path, told);
        entries.extend(entry.map(|entry| (path, node, entry)));
    }
    // What others are made of may stand after them.
    entries.sort_by_key(|(_, _, entry)| ["bond", "vlan"].iter().position(|kind| *kind == entry.r#type.0));
    for (path, node, entry) in entries {
        if let Some(link) = link(&entry, &links, nics, (node, &path), told) {
            links.push((entry.id.0, link));
        }
    }
    // What the members of a bond have is the bond's.
    for (index, node) in items(node, "networks").iter().enumerate() {
        let path = format!("networks[{index}]");
        let Some(entry) = entry::<NetworkEntry>(node, &path, told) else { continue };
        match links.iter_mut().find(|(id, _)| *id == entry.link.0) {
            Some((_, link)) => network(link, entry, (node, &path), told),
            None => {
                told.push(node.diagnostic(Severity::Error, &path, "its `link` is none of the links that can be used"))
            }
        }
    }
    let mut servers = Vec::new();
    for (index, node) in items(node, "services").iter().enumerate() {
        let service = entry::<Service>(node, &format!("services[{index}]"), told);
        servers.extend(service.filter(|service| service.r#type.0 == "dns").and_then(|service| service.address));
    }
    for (_, link) in links.iter_mut().filter(|(_, link)| link.has_addresses()) {
        link.dns.extend(servers.iter().map(|ip| ip.0));
        link.dns.dedup();
    }
    Network { links: links.into_iter().map(|(_, link)| link).collect() }
}

fn items<'a>(node: &'a Node, key: &str) -> &'a [Node] {
    match node.get(key).map(|node| &node.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}

/// One entry. Keys of other releases are no matter: the document is a program's and not a person's.
fn entry<T: serde::de::DeserializeOwned>(node: &Node, path: &str, told: &mut Vec<Diagnostic>) -> Option<T> {
    let checked = yaml::read_rest::<T>(node, path);
    told.extend(checked.diagnostics.into_iter().filter(|finding| finding.severity == Severity::Error));
    checked.value
}

fn link(
    entry: &LinkEntry,
    before: &[(String, Link)],
    nics: &[Nic],
    (node, path): (&Node, &str),
    told: &mut Vec<Diagnostic>,
) -> Option<Link> {
    let mac = entry.ethernet_mac_address.clone().map(|mac| mac.0);
    let name_of = |id: &Word| before.iter().find(|(known, _)| *known == id.0).map(|(_, link)| link.name.clone());
    let mut refuse = |message: String| {
        told.push(node.diagnostic(Severity::Error, path, message));
        None
    };
    let mut link = match entry.r#type.0.as_str() {
        "bond" => {
            let count = before.iter().filter(|(_, link)| matches!(link.kind, Kind::Bond { .. })).count();
            let members = entry.bond_links.iter().filter_map(name_of).collect();
            let settings = [
                ("mode", &entry.bond_mode),
                ("mii-monitor-interval", &entry.bond_miimon),
                ("transmit-hash-policy", &entry.bond_xmit_hash_policy),
            ];
            let setting =
                |(key, value): (&str, &Option<Word>)| Some((params::find(params::BOND, key)?, value.clone()?.0));
            let params = settings.into_iter().filter_map(setting).collect();
            let kind = Kind::Bond { members, primary: None };
            Link { kind, params, mac, ..Link::physical(&format!("bond{count}")) }
        }
        "vlan" => match (entry.vlan_id, entry.vlan_link.as_ref().and_then(name_of)) {
            (Some(id), Some(below)) if id < 4095 && is_name(&format!("{below}.{id}")) => {
                let name = format!("{below}.{id}");
                let mac = entry.vlan_mac_address.clone().map(|mac| mac.0);
                Link { kind: Kind::Vlan { id, link: below }, mac, ..Link::physical(&name) }
            }
            _ => {
                return refuse("a VLAN needs a `vlan_id` and a `vlan_link` that is one of the links".to_owned());
            }
        },
        "infiniband" | "ib" => {
            told.push(node.diagnostic(Severity::Warning, path, format!("`infiniband` {LEFT_OUT}")));
            return None;
        }
        // Whatever the host calls what is behind it (ovs, bridge, vif, phy): the machine sees an interface.
        _ => {
            let Some(mac) = mac else {
                return refuse(
                    "its `ethernet_mac_address` is missing, so nobody knows which interface it is".to_owned(),
                );
            };
            let Some(nic) = nics.iter().find(|nic| nic.mac == mac) else {
                return refuse(format!("no interface of this machine has the hardware address {mac}"));
            };
            let matches = Match { mac: Some(mac), ..Match::default() };
            Link { matches, renamed: true, ..Link::physical(&nic.name) }
        }
    };
    link.mtu = entry.mtu.filter(|mtu| *mtu > 0);
    Some(link)
}

fn network(link: &mut Link, entry: NetworkEntry, (node, path): (&Node, &str), told: &mut Vec<Diagnostic>) {
    match entry.r#type.0.as_str() {
        "ipv4_dhcp" | "dhcp4" => link.dhcp4 = true,
        "ipv6_dhcp" | "dhcp6" | "ipv6_dhcpv6-stateful" => link.dhcp6 = true,
        "ipv6_slaac" | "ipv6_dhcpv6-stateless" => link.accept_ra = Some(true),
        "ipv4" | "ipv6" => {
            let address = entry.ip_address.as_ref().map_or("", |word| word.0.as_str());
            match net(address, entry.netmask.as_ref().map(|mask| mask.0.as_str()), usual_bits) {
                Some(net) => link.addresses.push(net),
                None => told.push(node.diagnostic(Severity::Error, path, "its `ip_address` is not an address")),
            }
        }
        other => {
            told.push(node.diagnostic(Severity::Error, path, format!("`{}` is no known type", other.escape_debug())));
        }
    }
    link.routes.extend(entry.gateway.map(|ip| Route::default_via(ip.0)));
    for route in entry.routes.0 {
        let to = net(&route.network.0, route.netmask.as_ref().map(|mask| mask.0.as_str()), usual_bits);
        match (to, route.gateway) {
            (Some(to), Some(via)) => {
                let to = Some(to).filter(|to| !to.ends_with("/0"));
                link.routes.push(Route { to, via: Some(via.0), ..Route::default() });
            }
            _ => told.push(node.diagnostic(Severity::Error, path, "a route needs a `network` and a `gateway`")),
        }
    }
    link.dns.extend(entry.dns_nameservers.iter().map(|ip| ip.0));
    let dns = entry.services.0.into_iter().filter(|service| service.r#type.0 == "dns");
    link.dns.extend(dns.filter_map(|service| service.address).map(|ip| ip.0));
}
