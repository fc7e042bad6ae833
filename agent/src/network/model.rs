//! What is to become of the network, whoever told it and whichever program does it.

use std::net::IpAddr;

use super::machine::Nic;
use super::params::Param;

/// All interfaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// In the order of the document.
    pub links: Vec<Link>,
}

/// What an interface is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Kind {
    /// The machine has it.
    #[default]
    Physical,
    /// Several as one.
    Bond {
        /// The interfaces in it.
        members: Vec<String>,
        /// The one to be used while it works.
        primary: Option<String>,
    },
    /// A switch.
    Bridge {
        /// Its ports.
        members: Vec<String>,
    },
    /// A part of another interface.
    Vlan {
        /// Its number, 0 to 4094.
        id: u16,
        /// The interface below.
        link: String,
    },
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    /// Its name, or what stands for it in names of files where only `matches` tells which it is.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Which of the machine's it is; all empty: the one of its name.
    pub matches: Match,
    /// Whether the machine's interface is to get its name.
    pub renamed: bool,
    /// The hardware address to give it, in lower case.
    pub mac: Option<String>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Whether it can be used for waking the machine.
    pub wake_on_lan: bool,
    /// Ask for an IPv4 address.
    pub dhcp4: bool,
    /// Ask for an IPv6 address.
    pub dhcp6: bool,
    /// Whether routers are believed; the system's own default if nothing is said.
    pub accept_ra: Option<bool>,
    /// Addresses, each as `ADDRESS/BITS`.
    pub addresses: Vec<String>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Which table is asked for which packets.
    pub rules: Vec<Rule>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Domains in which short names are looked for.
    pub search: Vec<String>,
    /// The boot does not wait for it.
    pub optional: bool,
    /// DHCP tells the hardware address as the client's id.
    pub dhcp_by_mac: bool,
    /// What of DHCPv4's answer counts.
    pub dhcp4_overrides: Overrides,
    /// What of DHCPv6's answer counts.
    pub dhcp6_overrides: Overrides,
    /// Further settings of a bond or a bridge.
    pub params: Vec<(&'static Param, String)>,
}

/// Which of the machine's interfaces is meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// By hardware address, in lower case.
    pub mac: Option<String>,
    /// By name; `*` stands for anything.
    pub name: Option<String>,
    /// By the kernel's driver; any of them.
    pub drivers: Vec<String>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// `ADDRESS/BITS`; none for everything.
    pub to: Option<String>,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The source address to prefer.
    pub from: Option<IpAddr>,
    /// The lower one wins.
    pub metric: Option<u32>,
    /// Its table.
    pub table: Option<u32>,
    /// The gateway is reached without a route to it.
    pub on_link: bool,
    /// `unicast`, `blackhole` and so on.
    pub kind: Option<&'static str>,
    /// `global`, `link` or `host`.
    pub scope: Option<&'static str>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
}

/// A rule of policy routing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Packets from here.
    pub from: Option<String>,
    /// Packets to here.
    pub to: Option<String>,
    /// The table to ask.
    pub table: Option<u32>,
    /// The lower one is asked first.
    pub priority: Option<u32>,
    /// Packets with this mark.
    pub mark: Option<u32>,
}

/// What of a DHCP answer counts; nothing said: the program's own default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Yes or no, each with its name in networkd and in netplan.
    pub switches: Vec<(&'static str, &'static str, bool)>,
    /// Metric of its routes.
    pub metric: Option<u32>,
    /// The name to tell the server.
    pub hostname: Option<String>,
}

impl Network {
    /// Whether any interface gets an address by it.
    pub fn gives_an_address(&self) -> bool {
        self.links.iter().any(Link::has_addresses)
    }

    /// Whether there is more than one interface that asks DHCP, as the machine's image has it do anyway.
    pub fn is_more_than_usual(&self) -> bool {
        self.links.len() > 1 || self.links.iter().any(Link::is_more_than_usual)
    }
}

impl Route {
    /// A route to everything.
    pub fn default_via(gateway: IpAddr) -> Self {
        Route { via: Some(gateway), ..Route::default() }
    }

    /// Whether it is of IPv6.
    pub fn is_v6(&self) -> bool {
        match (&self.to, self.via) {
            (_, Some(via)) => via.is_ipv6(),
            (Some(to), None) => to.contains(':'),
            (None, None) => false,
        }
    }

    /// Where it leads, also where that is everywhere.
    pub fn target(&self) -> &str {
        self.to.as_deref().unwrap_or(if self.is_v6() { "::/0" } else { "0.0.0.0/0" })
    }
}

impl Link {
    /// A physical interface of this name.
    pub fn physical(name: &str) -> Self {
        Link { name: name.to_owned(), ..Link::default() }
    }

    /// Whether anything gives it an address.
    pub fn has_addresses(&self) -> bool {
        self.dhcp4 || self.dhcp6 || !self.addresses.is_empty() || self.accept_ra == Some(true)
    }

    /// Whether there is more than to ask DHCP.
    pub fn is_more_than_usual(&self) -> bool {
        !(self.addresses.is_empty() && self.routes.is_empty()) || self.mtu.is_some()
    }

    /// Names of the machine's interfaces that are meant, as they will be.
    pub fn names(&self, nics: &[Nic]) -> Vec<String> {
        if self.renamed || self.kind != Kind::Physical || self.matches == Match::default() {
            return vec![self.name.clone()];
        }
        nics.iter().filter(|nic| self.matches.fits(nic)).map(|nic| nic.name.clone()).collect()
    }

    /// The members of a bond or a bridge.
    pub fn members(&self) -> &[String] {
        match &self.kind {
            Kind::Bond { members, .. } | Kind::Bridge { members } => members,
            Kind::Physical | Kind::Vlan { .. } => &[],
        }
    }
}

impl Match {
    /// Whether an interface is meant; a match that says nothing means none.
    pub fn fits(&self, nic: &Nic) -> bool {
        *self != Match::default()
            && self.mac.as_ref().is_none_or(|mac| *mac == nic.mac)
            && self.name.as_ref().is_none_or(|name| glob(name, &nic.name))
            && (self.drivers.is_empty() || self.drivers.iter().any(|driver| glob(driver, &nic.driver)))
    }
}

/// Whether a name fits a pattern in which `*` stands for anything and `?` for one character.
fn glob(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), next) => glob(&pattern[1..], name) || next.is_some_and(|c| glob(pattern, &name[c.len_utf8()..])),
        (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
            glob(&pattern[wanted.len_utf8()..], &name[found.len_utf8()..])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_fits_when_everything_that_is_said_does() {
        let nic = Nic {
            name: "ens5".into(),
            mac: "02:00:00:00:00:01".into(),
            driver: "ena".into(),
            is_up: false,
            is_real: true,
        };
        let fits = |mac: Option<&str>, name: Option<&str>, drivers: &[&str]| {
            let drivers = drivers.iter().map(|d| (*d).to_owned()).collect();
            Match { mac: mac.map(str::to_owned), name: name.map(str::to_owned), drivers }.fits(&nic)
        };
        assert!(fits(Some("02:00:00:00:00:01"), Some("en*"), &["virtio*", "ena"]));
        assert!(fits(None, Some("e?s5"), &[]) && fits(None, Some("*"), &[]));
        assert!(!fits(Some("02:00:00:00:00:02"), Some("en*"), &[]) && !fits(None, Some("en"), &[]));
        assert!(!fits(None, None, &["virtio"]) && !fits(None, None, &[]));
    }
}
