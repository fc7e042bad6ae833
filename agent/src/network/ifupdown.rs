//! The file of ifupdown, Debian's older program.

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::scalar;

use super::machine::Nic;
use super::model::{Kind, Link, Network, Route};
use super::v2::LEFT_OUT;
use super::{File, HEADER, networkd};

/// The file.
pub const FILE: &str = "/etc/network/interfaces.d/50-cloud-init";

/// The file, and those by which udev names interfaces.
pub fn files(network: &Network, nics: &[Nic], told: &mut Vec<Diagnostic>) -> Vec<File> {
    let mut text = format!("{HEADER}auto lo\niface lo inet loopback\n");
    for link in &network.links {
        let names = link.names(nics);
        if names.is_empty() {
            let message = "no interface of this machine fits its `match`, which ifupdown has to know now";
            told.push(Diagnostic { path: link.name.clone(), ..Diagnostic::error("ifupdown", message) });
        }
        let unable = !link.dhcp4_overrides.switches.is_empty() || !link.dhcp6_overrides.switches.is_empty();
        if unable {
            let message = format!("choosing what of DHCP's answer counts {LEFT_OUT}: this machine uses ifupdown");
            let path = link.name.clone();
            told.push(Diagnostic { path, ..Diagnostic::new(Severity::Warning, "ifupdown", message) });
        }
        for name in names {
            text.push_str(&stanzas(link, &name, network));
        }
    }
    let links = network.links.iter().filter_map(networkd::link_file);
    std::iter::once(File { path: FILE.to_owned(), text, mode: 0o644 }).chain(links).collect()
}

/// The interfaces whose part of the new file is another one than in the old.
pub fn changed<'a>(old: &str, new: &'a str) -> Vec<&'a str> {
    let parts = new.split("\n\n").skip(1).filter(|part| !old.split("\n\n").any(|known| known.trim() == part.trim()));
    parts.filter_map(|part| part.split_whitespace().nth(1)).collect()
}

/// All of one interface.
fn stanzas(link: &Link, name: &str, network: &Network) -> String {
    let mut blocks: Vec<(&str, &str, Vec<String>)> = Vec::new();
    if link.dhcp4 {
        let metric = link.dhcp4_overrides.metric.map(|metric| format!("metric {metric}"));
        let hostname = link.dhcp4_overrides.hostname.as_ref().map(|name| format!("hostname {name}"));
        blocks.push(("inet", "dhcp", metric.into_iter().chain(hostname).collect()));
    }
    if link.dhcp6 {
        blocks.push(("inet6", "dhcp", Vec::new()));
    }
    for address in &link.addresses {
        let family = if address.contains(':') { "inet6" } else { "inet" };
        blocks.push((family, "static", vec![format!("address {address}")]));
    }
    if link.accept_ra == Some(true) && !blocks.iter().any(|(family, ..)| *family == "inet6") {
        blocks.push(("inet6", "auto", Vec::new()));
    }
    if blocks.is_empty() {
        blocks.push(("inet", "manual", Vec::new()));
    }
    let mut gateways = [false, false];
    for route in &link.routes {
        let family = if route.is_v6() { "inet6" } else { "inet" };
        let is_static = |block: &&mut (&str, &str, Vec<String>)| block.0 == family && block.1 == "static";
        // The first plain way out has a word of its own; ifupdown takes one a family.
        let plain = Route { to: None, via: None, ..route.clone() } == Route::default() && route.to.is_none();
        let taken = &mut gateways[usize::from(route.is_v6())];
        match (blocks.iter_mut().find(is_static), route.via) {
            (Some(block), Some(via)) if plain && !*taken => {
                *taken = true;
                block.2.push(format!("gateway {via}"));
            }
            (Some(block), _) => block.2.extend(both("route", &words_of(route, name))),
            (None, _) => blocks[0].2.extend(both("route", &words_of(route, name))),
        }
    }
    if let Some(on) = link.accept_ra {
        let index = blocks.iter().position(|(family, ..)| *family == "inet6").unwrap_or(0);
        blocks[index].2.push(format!("accept_ra {}", u8::from(on)));
    }
    blocks[0].2.extend(common(link, network));
    let word = if link.optional { "allow-hotplug" } else { "auto" };
    let mut text = format!("\n{word} {name}\n");
    for (family, method, lines) in blocks {
        text.push_str(&format!("iface {name} {family} {method}\n"));
        text.extend(lines.iter().map(|line| format!("    {line}\n")));
    }
    text
}

/// What is said of an interface once, whatever addresses it has.
fn common(link: &Link, network: &Network) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(link.mac.as_ref().map(|mac| format!("hwaddress {mac}")));
    lines.extend(link.mtu.map(|mtu| format!("mtu {mtu}")));
    for master in &network.links {
        if let (Kind::Bond { primary, .. }, true) = (&master.kind, master.members().contains(&link.name)) {
            lines.push(format!("bond-master {}", master.name));
            lines.extend(primary.iter().map(|primary| format!("bond-primary {primary}")));
        }
    }
    match &link.kind {
        Kind::Bond { .. } => lines.push("bond-slaves none".to_owned()),
        Kind::Bridge { members } if members.is_empty() => lines.push("bridge_ports none".to_owned()),
        Kind::Bridge { members } => lines.push(format!("bridge_ports {}", members.join(" "))),
        Kind::Vlan { id, link } => lines.extend([format!("vlan-raw-device {link}"), format!("vlan_id {id}")]),
        Kind::Physical => {}
    }
    for (param, value) in &link.params {
        let value = match (param.v1, scalar::boolean(value)) {
            ("bridge_stp", Some(on)) => {
                if on {
                    "on"
                } else {
                    "off"
                }
            }
            _ => value,
        };
        lines.push(format!("{} {value}", param.v1));
    }
    let join = |words: Vec<String>| (!words.is_empty()).then(|| words.join(" "));
    let servers = join(link.dns.iter().map(ToString::to_string).collect());
    lines.extend(servers.map(|servers| format!("dns-nameservers {servers}")));
    lines.extend(join(link.search.clone()).map(|search| format!("dns-search {search}")));
    for rule in &link.rules {
        let mut words = Vec::new();
        for (key, value) in [
            ("from", rule.from.clone()),
            ("to", rule.to.clone()),
            ("fwmark", rule.mark.map(|mark| mark.to_string())),
            ("table", rule.table.map(|table| table.to_string())),
            ("priority", rule.priority.map(|priority| priority.to_string())),
        ] {
            words.extend(value.map(|value| format!(" {key} {value}")));
        }
        let v6 = [&rule.from, &rule.to].iter().any(|net| net.as_ref().is_some_and(|net| net.contains(':')));
        lines.extend(both(if v6 { "-6 rule" } else { "rule" }, &words.concat()));
    }
    lines
}

/// A route as ip(8) takes it.
fn words_of(route: &Route, name: &str) -> String {
    let mut words = route.kind.map_or(String::new(), |kind| format!(" {kind}"));
    words.push_str(&format!(" {}", route.target()));
    let mut put = |key: &str, value: Option<String>| {
        words.extend(value.map(|value| format!(" {key} {value}")));
    };
    put("via", route.via.map(|via| via.to_string()));
    put("dev", Some(name.to_owned()));
    put("src", route.from.map(|from| from.to_string()));
    put("metric", route.metric.map(|metric| metric.to_string()));
    put("table", route.table.map(|table| table.to_string()));
    put("scope", route.scope.map(str::to_owned));
    put("mtu", route.mtu.map(|mtu| mtu.to_string()));
    if route.on_link {
        words.push_str(" onlink");
    }
    words
}

/// A line for going up and one for going down. Neither holds up the interface when it fails.
fn both(object: &str, words: &str) -> [String; 2] {
    let line = |when: &str, verb: &str| format!("{when} ip {object} {verb}{words} || true");
    [line("post-up", "add"), line("pre-down", "del")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interfaces_are_named_whose_part_of_the_file_is_another_one() {
        let block =
            |name: &str, address: &str| format!("\nauto {name}\niface {name} inet static\n    address {address}\n");
        let lo = "# x\nauto lo\niface lo inet loopback\n";
        let old = format!("{lo}{}{}", block("eth0", "10.0.0.1/8"), block("eth1", "10.0.0.2/8"));
        let new = format!("{lo}{}{}", block("eth0", "10.0.0.1/8"), block("eth1", "10.0.0.3/8"));
        assert_eq!(changed(&old, &new), ["eth1"]);
        assert_eq!(changed("", &new), ["eth0", "eth1"]);
        assert_eq!(changed(&new, &new), [""; 0]);
        assert_eq!(changed(&new, lo), [""; 0]);
    }
}
