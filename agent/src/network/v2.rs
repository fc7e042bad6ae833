//! Version 2 of cloud-init's format, which is netplan's.

use kiln_schema::diagnostic::{Diagnostic, Severity, nearest};
use kiln_schema::yaml::{self, Each, Entry, Node, Value, scalar};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::model::{Kind, Link, Match, Network, Overrides, Route, Rule};
use super::params::{self, Param};
use super::types::{Ip, Mac, Name, Net, RouteKind, Scope, Target, Word, is_name};

/// How a finding ends that is about a part which is understood and cannot be done.
pub const LEFT_OUT: &str = "is not supported; it is left out";
/// Mappings of interfaces that are done.
const DONE: &[&str] = &["ethernets", "bonds", "bridges", "vlans"];
/// Mappings that netplan knows and nobody else does.
const NOT_DONE: &[&str] =
    &["wifis", "modems", "tunnels", "vrfs", "dummy-devices", "nm-devices", "virtual-ethernets", "openvswitch"];

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Interface {
    #[serde(rename = "match")]
    matches: Matches,
    set_name: Option<Name>,
    macaddress: Option<Mac>,
    mtu: Option<u32>,
    wakeonlan: bool,
    dhcp4: bool,
    dhcp6: bool,
    dhcp_identifier: Option<Word>,
    dhcp4_overrides: DhcpOverrides,
    dhcp6_overrides: DhcpOverrides,
    accept_ra: Option<bool>,
    addresses: Each<Net>,
    gateway4: Option<Ip>,
    gateway6: Option<Ip>,
    nameservers: Nameservers,
    routes: Each<RouteEntry>,
    routing_policy: Each<RuleEntry>,
    optional: bool,
    // Of bonds and bridges.
    interfaces: Each<Name>,
    parameters: Option<IgnoredAny>,
    // Of VLANs.
    id: Option<u16>,
    link: Option<Name>,
    // Says which program does it; there is but one here.
    renderer: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Matches {
    macaddress: Option<Mac>,
    name: Option<Word>,
    driver: Each<Word>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Nameservers {
    addresses: Each<Ip>,
    search: Each<Word>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct DhcpOverrides {
    use_dns: Option<bool>,
    use_domains: Option<bool>,
    use_hostname: Option<bool>,
    use_mtu: Option<bool>,
    use_ntp: Option<bool>,
    use_routes: Option<bool>,
    send_hostname: Option<bool>,
    hostname: Option<Word>,
    route_metric: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct RouteEntry {
    to: Target,
    via: Option<Ip>,
    from: Option<Ip>,
    metric: Option<u32>,
    table: Option<u32>,
    on_link: bool,
    r#type: Option<RouteKind>,
    scope: Option<Scope>,
    mtu: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuleEntry {
    from: Option<Net>,
    to: Option<Net>,
    table: Option<u32>,
    priority: Option<u32>,
    mark: Option<u32>,
}

/// Reads a document.
pub fn read(node: &Node, told: &mut Vec<Diagnostic>) -> Network {
    let mut network = Network::default();
    let mut renamed: Vec<(&str, String)> = Vec::new();
    for section in node.entries() {
        let key = section.key.as_str();
        if matches!(key, "version" | "renderer") {
            continue;
        }
        if NOT_DONE.contains(&key) {
            told.push(section.place.diagnostic(Severity::Warning, key, format!("`{key}` {LEFT_OUT}")));
        } else if DONE.contains(&key) {
            if !matches!(section.value.value, Value::Map(_)) && !section.value.is_null() {
                let message = format!("expected a mapping of interfaces, found {}", section.value.kind());
                told.push(section.value.diagnostic(Severity::Error, key, message));
            }
            for entry in section.value.entries() {
                let Some(link) = interface(key, entry, told) else { continue };
                if link.renamed {
                    renamed.push((&entry.key, link.name.clone()));
                }
                network.links.push(link);
            }
        } else {
            let mut finding = section.place.diagnostic(Severity::Warning, key, "unknown key");
            finding.suggestion = nearest(key, DONE.iter().copied());
            told.push(finding);
        }
    }
    // Others name an interface by its key, and it will have another name.
    let resolve = |name: &mut String| {
        if let Some((_, new)) = renamed.iter().find(|(key, _)| key == name) {
            name.clone_from(new);
        }
    };
    for link in &mut network.links {
        match &mut link.kind {
            Kind::Bond { members, primary } => members.iter_mut().chain(primary).for_each(resolve),
            Kind::Bridge { members } => members.iter_mut().for_each(resolve),
            Kind::Vlan { link, .. } => resolve(link),
            Kind::Physical => {}
        }
    }
    network
}

fn interface(section: &str, entry: &Entry, told: &mut Vec<Diagnostic>) -> Option<Link> {
    let path = format!("{section}.{}", entry.key);
    if !is_name(&entry.key) {
        let message = "this cannot name an interface: at most 15 letters, digits and any of . _ - : @ +";
        told.push(entry.place.diagnostic(Severity::Error, &path, message));
        return None;
    }
    let checked = yaml::read_rest::<Interface>(&entry.value, &path);
    told.extend(checked.diagnostics);
    // Of something else than a mapping nothing is left, and that would be an interface without addresses.
    let read = checked.value.filter(|_| matches!(entry.value.value, Value::Map(_)) || entry.value.is_null())?;
    let mut link = Link::physical(&entry.key);
    match section {
        "bonds" => {
            link.kind = Kind::Bond { members: names(&read.interfaces), primary: None };
            parameters(&mut link, params::BOND, &entry.value, &path, told);
        }
        "bridges" => {
            link.kind = Kind::Bridge { members: names(&read.interfaces) };
            parameters(&mut link, params::BRIDGE, &entry.value, &path, told);
        }
        "vlans" => match (read.id, &read.link) {
            (Some(id), Some(below)) if id < 4095 => link.kind = Kind::Vlan { id, link: below.0.clone() },
            _ => {
                let message = "a VLAN needs an `id` from 0 to 4094 and a `link`, the interface below it";
                told.push(entry.place.diagnostic(Severity::Error, &path, message));
                return None;
            }
        },
        _ => {
            let Matches { macaddress, name, driver } = read.matches;
            let drivers = driver.iter().map(|driver| driver.0.clone()).collect();
            link.matches = Match { mac: macaddress.map(|mac| mac.0), name: name.map(|name| name.0), drivers };
        }
    }
    misplaced(section, &entry.value, &path, told);
    if let (Some(name), Kind::Physical) = (read.set_name, &link.kind) {
        link.name = name.0;
        link.renamed = true;
    }
    link.mac = read.macaddress.map(|mac| mac.0);
    link.mtu = read.mtu;
    link.wake_on_lan = read.wakeonlan;
    link.dhcp4 = read.dhcp4;
    link.dhcp6 = read.dhcp6;
    link.dhcp_by_mac = read.dhcp_identifier.is_some_and(|word| word.0 == "mac");
    link.dhcp4_overrides = read.dhcp4_overrides.into();
    link.dhcp6_overrides = read.dhcp6_overrides.into();
    link.accept_ra = read.accept_ra;
    link.addresses = read.addresses.iter().map(|net| net.0.clone()).collect();
    link.routes = [read.gateway4, read.gateway6].into_iter().flatten().map(|ip| Route::default_via(ip.0)).collect();
    link.routes.extend(read.routes.0.into_iter().map(Route::from));
    link.rules = read.routing_policy.0.into_iter().map(Rule::from).collect();
    link.dns = read.nameservers.addresses.iter().map(|ip| ip.0).collect();
    link.search = read.nameservers.search.iter().map(|word| word.0.clone()).collect();
    link.optional = read.optional;
    Some(link)
}

/// Keys that say something of other kinds of interfaces.
fn misplaced(section: &str, node: &Node, path: &str, told: &mut Vec<Diagnostic>) {
    for (key, sections) in [
        ("match", &["ethernets"][..]),
        ("set-name", &["ethernets"]),
        ("interfaces", &["bonds", "bridges"]),
        ("parameters", &["bonds", "bridges"]),
        ("id", &["vlans"]),
        ("link", &["vlans"]),
    ] {
        let entry = node.entries().iter().find(|entry| entry.key == key);
        if let (Some(entry), false) = (entry, sections.contains(&section)) {
            let message = format!("this key is of {}", sections.join(" and "));
            told.push(entry.place.diagnostic(Severity::Warning, &format!("{path}.{key}"), message));
        }
    }
}

/// The settings of a bond or a bridge.
fn parameters(link: &mut Link, table: &'static [Param], node: &Node, path: &str, told: &mut Vec<Diagnostic>) {
    let Some(parameters) = node.get("parameters") else { return };
    params_of(link, table, parameters, &format!("{path}.parameters"), told);
}

/// The same, from the mapping itself.
pub fn params_of(link: &mut Link, table: &'static [Param], node: &Node, path: &str, told: &mut Vec<Diagnostic>) {
    for entry in node.entries() {
        let path = format!("{path}.{}", entry.key);
        let Some(text) = words(&entry.value) else {
            let message = format!("expected one value or a list of values, found {}", entry.value.kind());
            told.push(entry.value.diagnostic(Severity::Error, &path, message));
            continue;
        };
        if let Kind::Bond { primary, .. } = &mut link.kind
            && matches!(entry.key.as_str(), "primary" | "bond-primary" | "bond_primary")
            && is_name(&text)
        {
            *primary = Some(text);
            continue;
        }
        match params::find(table, &entry.key) {
            Some(param) => link.params.push((param, text)),
            None if matches!(entry.key.as_str(), "path-cost" | "port-priority") => {
                told.push(entry.place.diagnostic(Severity::Warning, &path, format!("`{}` {LEFT_OUT}", entry.key)));
            }
            None => {
                let mut finding = entry.place.diagnostic(Severity::Warning, &path, "unknown key");
                finding.suggestion = suggestion(table, &entry.key);
                told.push(finding);
            }
        }
    }
}

fn suggestion(table: &'static [Param], key: &str) -> Option<String> {
    // The names have `-`, which the search takes for `_`.
    let near = |name: &&Param| nearest(key, [name.v2.replace('-', "_").as_str(), name.v1.replace('-', "_").as_str()]);
    let found = table.iter().find(|param| near(param).is_some())?;
    Some(if key.contains("bond") || key.contains("bridge") { found.v1 } else { found.v2 }.to_owned())
}

/// One value, or several with spaces between.
fn words(node: &Node) -> Option<String> {
    let one = |node: &Node| match &node.value {
        Value::Scalar(scalar) if !node.is_null() => {
            let text = scalar::text(scalar);
            (!text.contains(|c: char| c.is_control() || c.is_whitespace())).then_some(text)
        }
        _ => None,
    };
    match &node.value {
        Value::List(items) => Some(items.iter().map(one).collect::<Option<Vec<_>>>()?.join(" ")),
        _ => one(node),
    }
}

fn names(names: &[Name]) -> Vec<String> {
    names.iter().map(|name| name.0.clone()).collect()
}

impl From<DhcpOverrides> for Overrides {
    fn from(read: DhcpOverrides) -> Self {
        let switches = [
            ("UseDNS", "use-dns", read.use_dns),
            ("UseDomains", "use-domains", read.use_domains),
            ("UseHostname", "use-hostname", read.use_hostname),
            ("UseMTU", "use-mtu", read.use_mtu),
            ("UseNTP", "use-ntp", read.use_ntp),
            ("UseRoutes", "use-routes", read.use_routes),
            ("SendHostname", "send-hostname", read.send_hostname),
        ];
        Overrides {
            switches: switches.into_iter().filter_map(|(networkd, v2, on)| Some((networkd, v2, on?))).collect(),
            metric: read.route_metric,
            hostname: read.hostname.map(|name| name.0),
        }
    }
}

impl From<RouteEntry> for Route {
    fn from(read: RouteEntry) -> Self {
        Route {
            to: read.to.0,
            via: read.via.map(|ip| ip.0),
            from: read.from.map(|ip| ip.0),
            metric: read.metric,
            table: read.table,
            on_link: read.on_link,
            kind: read.r#type.map(|kind| kind.0),
            scope: read.scope.map(|scope| scope.0),
            mtu: read.mtu,
        }
    }
}

impl From<RuleEntry> for Rule {
    fn from(read: RuleEntry) -> Self {
        let RuleEntry { from, to, table, priority, mark } = read;
        Rule { from: from.map(|net| net.0), to: to.map(|net| net.0), table, priority, mark }
    }
}
