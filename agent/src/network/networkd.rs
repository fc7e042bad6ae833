//! Files of systemd-networkd, and those of udev that give interfaces their names.

use super::model::{Kind, Link, Network, Overrides, Route};
use super::{File, HEADER};

/// The folder, and how every name in it begins that is ours.
pub const FOLDER: &str = "/etc/systemd/network";
/// How the name of every file of ours begins.
pub const PREFIX: &str = "10-cloud-init-";

/// The files.
pub fn files(network: &Network) -> Vec<File> {
    let mut files = Vec::new();
    for link in &network.links {
        files.extend(link_file(link));
        files.extend(netdev(link));
        files.push(file(link, "network", &dot_network(link, network)));
    }
    files
}

/// The file by which udev names an interface. It counts whichever program configures the network.
pub fn link_file(link: &Link) -> Option<File> {
    if link.kind != Kind::Physical || !(link.renamed || link.wake_on_lan) {
        return None;
    }
    let mut text = Text::new();
    text.section("Match");
    // An interface that is made of this one has its hardware address too, though not as a permanent one.
    text.line("PermanentMACAddress", link.matches.mac.as_deref());
    let own_name = link.matches == super::model::Match::default();
    text.line("OriginalName", link.matches.name.as_deref().or(own_name.then_some(link.name.as_str())));
    text.words("Driver", &link.matches.drivers);
    text.section("Link");
    if link.renamed {
        text.line("Name", Some(&link.name));
    } else {
        text.line("NamePolicy", Some("keep kernel database onboard slot path"));
    }
    text.flag("WakeOnLan", "magic", link.wake_on_lan);
    Some(file(link, "link", &text))
}

/// The file that has an interface made.
fn netdev(link: &Link) -> Option<File> {
    let (kind, section) = match link.kind {
        Kind::Physical => return None,
        Kind::Bond { .. } => ("bond", "Bond"),
        Kind::Bridge { .. } => ("bridge", "Bridge"),
        Kind::Vlan { .. } => ("vlan", "VLAN"),
    };
    let mut text = Text::new();
    text.section("NetDev");
    text.line("Name", Some(&link.name));
    text.line("Kind", Some(kind));
    text.line("MACAddress", link.mac.as_deref());
    text.number("MTUBytes", link.mtu);
    text.section(section);
    if let Kind::Vlan { id, .. } = link.kind {
        text.number("Id", Some(u32::from(id)));
    }
    for (param, value) in &link.params {
        text.line(param.networkd, Some(&param.for_networkd(value)));
    }
    Some(file(link, "netdev", &text))
}

fn dot_network(link: &Link, network: &Network) -> Text {
    let mut text = Text::new();
    let above = |name: &String| *name == link.name;
    let master = network.links.iter().find(|other| other.members().iter().any(above));
    text.section("Match");
    let matches = &link.matches;
    // A member of a bond gets the address of the bond.
    let in_bond = master.is_some_and(|master| matches!(master.kind, Kind::Bond { .. }));
    if let Some(mac) = &matches.mac {
        text.line(if in_bond { "PermanentMACAddress" } else { "MACAddress" }, Some(mac));
        // What is made of it has its address too.
        text.line("Type", Some("ether"));
    }
    text.words("Driver", &matches.drivers);
    let own_name = link.renamed || link.kind != Kind::Physical || *matches == super::model::Match::default();
    // One that is in use gets its name at the next start, and is known by its address until then.
    let has_both_names = link.renamed && matches.mac.is_some();
    let name = if own_name { Some(link.name.as_str()) } else { matches.name.as_deref() };
    text.line("Name", name.filter(|_| !has_both_names));
    text.section("Link");
    if link.kind == Kind::Physical {
        text.line("MACAddress", link.mac.as_deref());
    }
    text.number("MTUBytes", link.mtu);
    text.flag("RequiredForOnline", "no", link.optional);
    text.section("Network");
    text.line(
        "DHCP",
        Some(match (link.dhcp4, link.dhcp6) {
            (true, true) => "yes",
            (true, false) => "ipv4",
            (false, true) => "ipv6",
            (false, false) => "no",
        }),
    );
    // A member has no address, unless one is asked for.
    text.flag("LinkLocalAddressing", "no", master.is_some() && !link.has_addresses());
    text.line("IPv6AcceptRA", link.accept_ra.map(|on| if on { "true" } else { "false" }));
    // An address of its own is wanted also while no cable or member is there.
    text.flag("ConfigureWithoutCarrier", "true", link.kind != Kind::Physical);
    for server in &link.dns {
        text.line("DNS", Some(&server.to_string()));
    }
    text.words("Domains", &link.search);
    if let Some(master) = master {
        match &master.kind {
            Kind::Bond { primary, .. } => {
                text.line("Bond", Some(&master.name));
                text.flag("PrimarySlave", "true", primary.as_ref().is_some_and(above));
            }
            _ => text.line("Bridge", Some(&master.name)),
        }
    }
    for vlan in &network.links {
        text.flag("VLAN", &vlan.name, matches!(&vlan.kind, Kind::Vlan { link: below, .. } if above(below)));
    }
    text.section("DHCPv4");
    text.flag("ClientIdentifier", "mac", link.dhcp_by_mac);
    dhcp(&mut text, &link.dhcp4_overrides);
    text.number("RouteMetric", link.dhcp4_overrides.metric);
    text.section("DHCPv6");
    dhcp(&mut text, &link.dhcp6_overrides);
    text.section("IPv6AcceptRA");
    text.number("RouteMetric", link.dhcp6_overrides.metric);
    for address in &link.addresses {
        text.section("Address");
        text.line("Address", Some(address));
    }
    for route in &link.routes {
        dot_route(&mut text, route);
    }
    for rule in &link.rules {
        text.section("RoutingPolicyRule");
        text.line("From", rule.from.as_deref());
        text.line("To", rule.to.as_deref());
        text.number("Table", rule.table);
        text.number("Priority", rule.priority);
        text.number("FirewallMark", rule.mark);
    }
    text
}

fn dhcp(text: &mut Text, overrides: &Overrides) {
    for (key, _, on) in &overrides.switches {
        text.line(key, Some(if *on { "true" } else { "false" }));
    }
    text.line("Hostname", overrides.hostname.as_deref());
}

fn dot_route(text: &mut Text, route: &Route) {
    text.section("Route");
    // A gateway alone is the route to everything.
    let target = route.to.as_deref().or(route.via.is_none().then_some(route.target()));
    text.line("Destination", target);
    text.line("Gateway", route.via.map(|via| via.to_string()).as_deref());
    text.line("PreferredSource", route.from.map(|from| from.to_string()).as_deref());
    text.number("Metric", route.metric);
    text.number("Table", route.table);
    text.flag("GatewayOnLink", "true", route.on_link);
    text.line("Type", route.kind);
    text.line("Scope", route.scope);
    text.number("MTUBytes", route.mtu);
}

fn file(link: &Link, suffix: &str, text: &Text) -> File {
    File { path: format!("{FOLDER}/{PREFIX}{}.{suffix}", link.name), text: text.done.clone(), mode: 0o644 }
}

/// A file in sections; one without lines is not written.
struct Text {
    done: String,
    section: Option<&'static str>,
}

impl Text {
    fn new() -> Self {
        Text { done: HEADER.to_owned(), section: None }
    }

    fn section(&mut self, name: &'static str) {
        self.section = Some(name);
    }

    fn line(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            if let Some(section) = self.section.take() {
                self.done.push_str(&format!("\n[{section}]\n"));
            }
            self.done.push_str(&format!("{key}={value}\n"));
        }
    }

    fn number(&mut self, key: &str, value: Option<u32>) {
        self.line(key, value.map(|number| number.to_string()).as_deref());
    }

    fn flag(&mut self, key: &str, value: &str, on: bool) {
        self.line(key, on.then_some(value));
    }

    fn words(&mut self, key: &str, words: &[String]) {
        self.line(key, (!words.is_empty()).then(|| words.join(" ")).as_deref());
    }
}
