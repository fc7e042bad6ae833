//! Version 1 of cloud-init's format: a list of interfaces, name servers and routes.

use std::net::IpAddr;

use kiln_schema::diagnostic::{Diagnostic, Severity, nearest};
use kiln_schema::yaml::{self, Each, Node, Value};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::model::{Kind, Link, Match, Network, Route};
use super::params;
use super::types::{Ip, Mac, Name, Word, net, usual_bits};
use super::v2::{LEFT_OUT, params_of};

const TYPES: &[&str] = &["physical", "bond", "bridge", "vlan", "nameserver", "route", "loopback"];
const SUBNETS: &[&str] = &[
    "dhcp",
    "dhcp4",
    "dhcp6",
    "static",
    "static6",
    "manual",
    "ipv6_slaac",
    "ipv6_dhcpv6-stateless",
    "ipv6_dhcpv6-stateful",
];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    r#type: Option<Word>,
    name: Option<Name>,
    mac_address: Option<Mac>,
    mtu: Option<u32>,
    wakeonlan: bool,
    #[serde(rename = "accept-ra", alias = "accept_ra")]
    accept_ra: Option<bool>,
    subnets: Option<IgnoredAny>,
    params: Option<IgnoredAny>,
    bond_interfaces: Each<Name>,
    bridge_interfaces: Each<Name>,
    vlan_link: Option<Name>,
    vlan_id: Option<u16>,
    address: Each<Word>,
    search: Each<Word>,
    interface: Option<Name>,
    id: Option<IgnoredAny>,
    destination: Option<Word>,
    netmask: Option<Word>,
    gateway: Option<Ip>,
    metric: Option<u32>,
    keep_configuration: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Subnet {
    r#type: Option<Word>,
    address: Option<Word>,
    netmask: Option<Word>,
    gateway: Option<Ip>,
    dns_nameservers: Each<String>,
    dns_search: Each<String>,
    routes: Each<SubnetRoute>,
    control: Option<IgnoredAny>,
    broadcast: Option<IgnoredAny>,
    ipv4: Option<IgnoredAny>,
    ipv6: Option<IgnoredAny>,
    metric: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SubnetRoute {
    #[serde(alias = "destination", alias = "address")]
    network: Option<Word>,
    netmask: Option<Word>,
    gateway: Option<Ip>,
    metric: Option<u32>,
}

/// Reads a document.
pub fn read(node: &Node, told: &mut Vec<Diagnostic>) -> Network {
    let mut network = Network::default();
    let (mut servers, mut search, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    for entry in node.entries().iter().filter(|entry| !matches!(entry.key.as_str(), "version" | "config")) {
        let mut finding = entry.place.diagnostic(Severity::Warning, &entry.key, "unknown key");
        finding.suggestion = nearest(&entry.key, ["config", "version"]);
        told.push(finding);
    }
    let items = match node.get("config") {
        Some(Node { value: Value::List(items), .. }) => items.as_slice(),
        other => {
            let message = "expected a list of interfaces under `config`";
            told.push(other.unwrap_or(node).diagnostic(Severity::Error, "config", message));
            &[]
        }
    };
    for (index, node) in items.iter().enumerate() {
        let path = format!("config[{index}]");
        let checked = yaml::read_rest::<Item>(node, &path);
        told.extend(checked.diagnostics);
        if !matches!(node.value, Value::Map(_)) {
            continue;
        }
        let Some(item) = checked.value else { continue };
        let kind = item.r#type.as_ref().map_or("", |word| word.0.as_str());
        match kind {
            "nameserver" => {
                let ips = ips(item.address.iter().map(|word| word.0.as_str()), node, &path, told);
                let words = item.search.iter().map(|word| word.0.clone());
                let named = item.interface.as_ref().and_then(|name| link_named(&mut network, &name.0));
                match named {
                    Some(link) => {
                        link.dns.extend(ips);
                        link.search.extend(words);
                    }
                    None => {
                        servers.extend(ips);
                        search.extend(words);
                    }
                }
            }
            "route" => routes.extend(route(
                item.destination.as_ref(),
                item.netmask.as_ref(),
                item.gateway,
                item.metric,
                (node, &path),
                told,
            )),
            // Every machine has it.
            "loopback" => {}
            "physical" | "bond" | "bridge" | "vlan" => network.links.extend(interface(item, node, &path, told)),
            _ => {
                let place = node.get("type").unwrap_or(node);
                let (severity, message) = match kind {
                    "infiniband" => (Severity::Warning, format!("`infiniband` {LEFT_OUT}")),
                    _ => (Severity::Error, format!("`type` must be one of {}", TYPES.join(", "))),
                };
                let mut finding = place.diagnostic(severity, &format!("{path}.type"), message);
                finding.suggestion = nearest(kind, TYPES.iter().copied());
                told.push(finding);
            }
        }
    }
    spread(&mut network, &servers, &search, routes);
    network
}

/// Gives what no interface is named for to those that it is of use to.
fn spread(network: &mut Network, servers: &[IpAddr], search: &[String], routes: Vec<Route>) {
    for link in network.links.iter_mut().filter(|link| link.has_addresses()) {
        link.dns.splice(0..0, servers.iter().copied());
        link.search.splice(0..0, search.iter().cloned());
    }
    for route in routes {
        let reaches = |link: &Link| link.addresses.iter().any(|net| route.via.is_some_and(|via| holds(net, via)));
        let index = network.links.iter().position(reaches);
        let index = index.or_else(|| network.links.iter().position(Link::has_addresses));
        if let Some(link) = index.and_then(|index| network.links.get_mut(index)) {
            link.routes.push(route);
        }
    }
}

/// Whether an address is in a network.
fn holds(net: &str, address: IpAddr) -> bool {
    let Some((of, bits)) = net.split_once('/') else { return false };
    let bits: u32 = bits.parse().unwrap_or(128);
    match (of.parse(), address) {
        (Ok(IpAddr::V4(of)), IpAddr::V4(address)) => {
            let differ = u32::from(of) ^ u32::from(address);
            differ.checked_shr(32 - bits.min(32)).unwrap_or(0) == 0
        }
        (Ok(IpAddr::V6(of)), IpAddr::V6(address)) => {
            let differ = u128::from(of) ^ u128::from(address);
            differ.checked_shr(128 - bits.min(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn link_named<'a>(network: &'a mut Network, name: &str) -> Option<&'a mut Link> {
    network.links.iter_mut().find(|link| link.name == name)
}

fn interface(item: Item, node: &Node, path: &str, told: &mut Vec<Diagnostic>) -> Option<Link> {
    let Some(name) = item.name else {
        if node.get("name").is_none() {
            told.push(node.diagnostic(Severity::Error, path, "the key `name` is missing"));
        }
        return None;
    };
    let mut link = Link::physical(&name.0);
    let names = |names: &[Name]| names.iter().map(|name| name.0.clone()).collect();
    let mac = item.mac_address.map(|mac| mac.0);
    match item.r#type.as_ref().map_or("", |word| word.0.as_str()) {
        "bond" => link.kind = Kind::Bond { members: names(&item.bond_interfaces), primary: None },
        "bridge" => link.kind = Kind::Bridge { members: names(&item.bridge_interfaces) },
        "vlan" => match (item.vlan_id, item.vlan_link) {
            (Some(id), Some(below)) if id < 4095 => link.kind = Kind::Vlan { id, link: below.0 },
            _ => {
                let message = "a VLAN needs a `vlan_id` from 0 to 4094 and a `vlan_link`, the interface below it";
                told.push(node.diagnostic(Severity::Error, path, message));
                return None;
            }
        },
        _ => {}
    }
    if link.kind == Kind::Physical {
        link.renamed = mac.is_some();
        link.matches = Match { mac, ..Match::default() };
    } else {
        link.mac = mac;
    }
    let table = if matches!(link.kind, Kind::Bond { .. }) { params::BOND } else { params::BRIDGE };
    if let (Some(params), Kind::Bond { .. } | Kind::Bridge { .. }) = (node.get("params"), &link.kind) {
        params_of(&mut link, table, params, &format!("{path}.params"), told);
    }
    link.mtu = item.mtu;
    link.wake_on_lan = item.wakeonlan;
    link.accept_ra = item.accept_ra;
    let subnets = match node.get("subnets") {
        Some(Node { value: Value::List(subnets), .. }) => subnets.as_slice(),
        Some(other) if !other.is_null() => {
            told.push(other.diagnostic(Severity::Error, &format!("{path}.subnets"), "expected a list of subnets"));
            &[]
        }
        _ => &[],
    };
    for (index, node) in subnets.iter().enumerate() {
        subnet(&mut link, node, &format!("{path}.subnets[{index}]"), told);
    }
    Some(link)
}

fn subnet(link: &mut Link, node: &Node, path: &str, told: &mut Vec<Diagnostic>) {
    let checked = yaml::read_rest::<Subnet>(node, path);
    told.extend(checked.diagnostics);
    let Some(read) = checked.value else { return };
    let kind = read.r#type.as_ref().map_or("", |word| word.0.as_str());
    match kind {
        "dhcp" | "dhcp4" => {
            link.dhcp4 = true;
            link.dhcp4_overrides.metric = read.metric.or(link.dhcp4_overrides.metric);
        }
        "dhcp6" => link.dhcp6 = true,
        "ipv6_dhcpv6-stateful" => {
            link.dhcp6 = true;
            link.accept_ra.get_or_insert(true);
        }
        "ipv6_slaac" | "ipv6_dhcpv6-stateless" => {
            link.accept_ra.get_or_insert(true);
        }
        "static" | "static6" => {
            let given = read.address.as_ref().map_or("", |word| word.0.as_str());
            match net(given, read.netmask.as_ref().map(|mask| mask.0.as_str()), usual_bits) {
                Some(net) => link.addresses.push(net),
                None => {
                    let place = node.get("address").unwrap_or(node);
                    let message = "expected an address such as 192.0.2.1/24, or one and a `netmask`";
                    told.push(place.diagnostic(Severity::Error, &format!("{path}.address"), message));
                }
            }
        }
        "manual" => {}
        _ => {
            let message = format!("`type` must be one of {}", SUBNETS.join(", "));
            let place = node.get("type").unwrap_or(node);
            let mut finding = place.diagnostic(Severity::Error, &format!("{path}.type"), message);
            finding.suggestion = nearest(kind, SUBNETS.iter().copied());
            told.push(finding);
        }
    }
    link.routes.extend(read.gateway.map(|ip| Route { metric: read.metric, ..Route::default_via(ip.0) }));
    for entry in read.routes.0 {
        let SubnetRoute { network, netmask, gateway, metric } = entry;
        link.routes.extend(route(network.as_ref(), netmask.as_ref(), gateway, metric, (node, path), told));
    }
    // Also several in one text.
    let split = |texts: &[String]| -> Vec<String> {
        texts.iter().flat_map(|text| text.split([' ', ',']).filter(|w| !w.is_empty()).map(str::to_owned)).collect()
    };
    let servers = split(&read.dns_nameservers);
    link.dns.extend(ips(servers.iter().map(String::as_str), node, path, told));
    link.search.extend(split(&read.dns_search).into_iter().filter(|word| !word.contains(char::is_control)));
}

fn ips<'a>(texts: impl Iterator<Item = &'a str>, node: &Node, path: &str, told: &mut Vec<Diagnostic>) -> Vec<IpAddr> {
    let mut good = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(ip) => good.push(ip),
            Err(_) => {
                let message = format!("the name server `{}` is not an address", text.escape_debug());
                told.push(node.diagnostic(Severity::Error, path, message));
            }
        }
    }
    good
}

fn route(
    to: Option<&Word>,
    mask: Option<&Word>,
    gateway: Option<Ip>,
    metric: Option<u32>,
    place: (&Node, &str),
    told: &mut Vec<Diagnostic>,
) -> Option<Route> {
    let (node, path) = place;
    let mask = mask.map(|mask| mask.0.as_str());
    let target = to.map(|to| if to.0 == "default" { Some(None) } else { net(&to.0, mask, usual_bits).map(Some) });
    match (target, gateway) {
        (Some(Some(to)), Some(via)) => {
            Some(Route { to: to.filter(|to| !to.ends_with("/0")), via: Some(via.0), metric, ..Route::default() })
        }
        _ => {
            let message = "a route needs a target such as 192.0.2.0/24 and a `gateway` that is an address";
            told.push(node.diagnostic(Severity::Error, path, message));
            None
        }
    }
}
