//! EC2's interfaces, as the metadata service tells them.
//!
//! The first interface asks DHCP, and so does every other one, with a higher metric; their second and
//! further addresses are static. Answers from another interface than the first leave by that interface.

use std::net::IpAddr;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::{self, Each, Node};
use serde::Deserialize;

use super::machine::Nic;
use super::model::{Link, Match, Network, Route, Rule};

/// The metadata service gives text with one value a line for a list, and its reader may have split it.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Interface {
    device_number: u32,
    network_card: u32,
    local_ipv4s: Each<String>,
    ipv6s: Each<String>,
    subnet_ipv4_cidr_block: Option<String>,
    #[serde(alias = "subnet-ipv6-cidr-block")]
    subnet_ipv6_cidr_blocks: Each<String>,
}

/// Reads a mapping of hardware addresses to interfaces.
pub fn read(node: &Node, nics: &[Nic], told: &mut Vec<Diagnostic>) -> Network {
    let mut found: Vec<(Interface, &Nic)> = Vec::new();
    for entry in node.entries() {
        let checked = yaml::read_rest::<Interface>(&entry.value, &entry.key);
        told.extend(checked.diagnostics.into_iter().filter(|finding| finding.severity == Severity::Error));
        let Some(interface) = checked.value else { continue };
        let mac = entry.key.trim_end_matches('/').to_lowercase();
        match nics.iter().find(|nic| nic.mac == mac) {
            Some(nic) => found.push((interface, nic)),
            None => {
                let message = "no interface of this machine has this hardware address";
                told.push(entry.place.diagnostic(Severity::Warning, &entry.key, message));
            }
        }
    }
    found.sort_by_key(|(interface, nic)| (interface.network_card, interface.device_number, nic.name.clone()));
    Network { links: found.iter().zip(0..).map(|((interface, nic), index)| link(interface, nic, index)).collect() }
}

fn link(interface: &Interface, nic: &Nic, index: u32) -> Link {
    let metric = Some(100 * (index + 1));
    let v4 = lines(&interface.local_ipv4s);
    let v6 = lines(&interface.ipv6s);
    let mut link = Link::physical(&nic.name);
    link.matches = Match { mac: Some(nic.mac.clone()), ..Match::default() };
    link.renamed = true;
    link.dhcp4 = true;
    link.dhcp4_overrides.metric = metric;
    link.dhcp6 = !v6.is_empty();
    link.dhcp6_overrides.metric = metric.filter(|_| link.dhcp6);
    let block = interface.subnet_ipv4_cidr_block.as_deref().map(str::trim).and_then(|block| block.split_once('/'));
    let bits = block.map_or("32", |(_, bits)| bits);
    link.addresses.extend(v4.iter().skip(1).filter(|ip| ip.is_ipv4()).map(|ip| format!("{ip}/{bits}")));
    link.addresses.extend(v6.iter().skip(1).filter(|ip| ip.is_ipv6()).map(|ip| format!("{ip}/128")));
    if index > 0 {
        let table = Some(100 + index);
        // The router of a subnet has the address after that of the network.
        let router = block.and_then(|(network, _)| match network.parse().ok()? {
            IpAddr::V4(network) => u32::from(network).checked_add(1).map(|router| IpAddr::V4(router.into())),
            IpAddr::V6(_) => None,
        });
        if let (Some(router), Some((network, bits))) = (router, block) {
            link.routes.push(Route { table, ..Route::default_via(router) });
            link.routes.push(Route { to: Some(format!("{network}/{bits}")), table, ..Route::default() });
            let rule = |ip: &IpAddr| Rule { from: Some(format!("{ip}/32")), table, ..Rule::default() };
            link.rules.extend(v4.iter().filter(|ip| ip.is_ipv4()).map(rule));
        }
    }
    link
}

fn lines(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().flat_map(|text| text.split_whitespace()).filter_map(|text| text.parse().ok()).collect()
}
