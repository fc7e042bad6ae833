//! Settings of bonds and bridges, each with its name in every format.

/// A setting.
#[derive(Debug, PartialEq)]
pub struct Param {
    /// In version 2 and in netplan.
    pub v2: &'static str,
    /// In version 1 and in ifupdown.
    pub v1: &'static str,
    /// In a .netdev of networkd.
    pub networkd: &'static str,
    /// What networkd needs after a bare number.
    pub unit: &'static str,
}

const fn param(v2: &'static str, v1: &'static str, networkd: &'static str, unit: &'static str) -> Param {
    Param { v2, v1, networkd, unit }
}

/// Of bonds. The name of the primary member is not among them: it is said at the member.
pub static BOND: &[Param] = &[
    param("mode", "bond-mode", "Mode", ""),
    param("lacp-rate", "bond-lacp-rate", "LACPTransmitRate", ""),
    param("mii-monitor-interval", "bond-miimon", "MIIMonitorSec", "ms"),
    param("min-links", "bond-min-links", "MinLinks", ""),
    param("transmit-hash-policy", "bond-xmit-hash-policy", "TransmitHashPolicy", ""),
    param("ad-select", "bond-ad-select", "AdSelect", ""),
    param("all-members-active", "bond-all-slaves-active", "AllSlavesActive", ""),
    param("arp-interval", "bond-arp-interval", "ARPIntervalSec", "ms"),
    param("arp-ip-targets", "bond-arp-ip-target", "ARPIPTargets", ""),
    param("arp-validate", "bond-arp-validate", "ARPValidate", ""),
    param("arp-all-targets", "bond-arp-all-targets", "ARPAllTargets", ""),
    param("up-delay", "bond-updelay", "UpDelaySec", "ms"),
    param("down-delay", "bond-downdelay", "DownDelaySec", "ms"),
    param("fail-over-mac-policy", "bond-fail-over-mac", "FailOverMACPolicy", ""),
    param("gratuitous-arp", "bond-num-grat-arp", "GratuitousARP", ""),
    param("packets-per-member", "bond-packets-per-slave", "PacketsPerSlave", ""),
    param("primary-reselect-policy", "bond-primary-reselect", "PrimaryReselectPolicy", ""),
    param("resend-igmp", "bond-resend-igmp", "ResendIGMP", ""),
    param("learn-packet-interval", "bond-lp-interval", "LearnPacketIntervalSec", "s"),
];

/// Of bridges.
pub static BRIDGE: &[Param] = &[
    param("ageing-time", "bridge_ageing", "AgeingTimeSec", "s"),
    param("priority", "bridge_bridgeprio", "Priority", ""),
    param("forward-delay", "bridge_fd", "ForwardDelaySec", "s"),
    param("hello-time", "bridge_hello", "HelloTimeSec", "s"),
    param("max-age", "bridge_maxage", "MaxAgeSec", "s"),
    param("stp", "bridge_stp", "STP", ""),
];

/// Older names of version 2.
const OLD: &[(&str, &str)] = &[
    ("all-slaves-active", "all-members-active"),
    ("packets-per-slave", "packets-per-member"),
    ("gratuitious-arp", "gratuitous-arp"),
    ("aging-time", "ageing-time"),
];

/// The setting of a name, of either version, with `-` or `_`.
pub fn find(table: &'static [Param], key: &str) -> Option<&'static Param> {
    let key = key.replace('_', "-");
    let key = OLD.iter().find(|(old, _)| *old == key).map_or(key.as_str(), |(_, new)| new);
    table.iter().find(|param| {
        let v1 = param.v1.replace('_', "-");
        // Version 1 also has them without the prefix.
        let short = v1.strip_prefix("bond-").or_else(|| v1.strip_prefix("bridge-"));
        param.v2 == key || v1 == key || short == Some(key)
    })
}

impl Param {
    /// The value as networkd wants it.
    pub fn for_networkd(&self, value: &str) -> String {
        match (self.networkd, value) {
            // The kernel's numbers for the modes.
            ("Mode", digit) if digit.len() == 1 => {
                let modes = [
                    "balance-rr",
                    "active-backup",
                    "balance-xor",
                    "broadcast",
                    "802.3ad",
                    "balance-tlb",
                    "balance-alb",
                ];
                digit.parse().ok().and_then(|n: usize| modes.get(n)).map_or(digit, |mode| mode).to_owned()
            }
            _ if !self.unit.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => format!("{value}{}", self.unit),
            _ => value.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_found_under_every_name_and_has_its_unit() {
        for key in ["mii-monitor-interval", "bond-miimon", "bond_miimon", "miimon"] {
            assert_eq!(find(BOND, key).unwrap().for_networkd("100"), "100ms", "{key}");
        }
        assert_eq!(find(BOND, "mode").unwrap().for_networkd("4"), "802.3ad");
        assert_eq!(find(BOND, "mode").unwrap().for_networkd("9"), "9");
        assert_eq!(find(BRIDGE, "bridge_fd").unwrap().for_networkd("0"), "0s");
        assert_eq!(find(BOND, "gratuitious-arp").unwrap().networkd, "GratuitousARP");
        assert!(find(BOND, "bond-speed").is_none() && find(BRIDGE, "path-cost").is_none());
    }
}
