//! Field types for documents of the network: each refuses what would be another line in a file of ours.

use std::net::IpAddr;

use serde::de::{self, Deserialize, Deserializer};

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub IpAddr);

/// `ADDRESS/BITS`; without bits, those of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net(pub String);

/// A hardware address, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mac(pub String);

/// The name of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name(pub String);

/// A word without spaces or control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word(pub String);

/// Where a route leads; none for everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target(pub Option<String>);

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteKind(pub &'static str);

/// How far away the target of a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(pub &'static str);

const ROUTE_KINDS: &[&str] =
    &["unicast", "anycast", "blackhole", "broadcast", "local", "multicast", "prohibit", "throw", "unreachable"];
const SCOPES: &[&str] = &["global", "link", "host"];

macro_rules! parsed {
    ($type:ty, $parse:expr, $message:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(text.trim()).ok_or_else(|| de::Error::custom($message))
            }
        }
    };
}

parsed!(Ip, |text: &str| text.parse().ok().map(Ip), "not an address; write one such as 192.0.2.1 or 2001:db8::1");
parsed!(
    Net,
    |text: &str| net(text, None, bits_of).map(Net),
    "not an address or a network; write one such as 192.0.2.0/24 or 2001:db8::/64"
);
parsed!(Mac, mac, "not a hardware address; write one such as '52:54:00:12:34:56'");
parsed!(Name, name, "not the name of an interface: at most 15 letters, digits and any of . _ - : @ +");
parsed!(Word, word, "not one word without spaces");

parsed!(Target, target, "not `default`, an address or a network; write one such as 192.0.2.0/24");
parsed!(
    RouteKind,
    |text: &str| one_of(ROUTE_KINDS, text).map(RouteKind),
    "none of unicast, anycast, blackhole, broadcast, local, multicast, prohibit, throw, unreachable"
);
parsed!(Scope, |text: &str| one_of(SCOPES, text).map(Scope), "none of global, link, host");

/// Bits of a whole address.
pub fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Bits of a network where a document says none: as cloud-init has them.
pub fn usual_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 24 } else { 64 }
}

/// `ADDRESS/BITS` from an address that may have its bits or, beside it, a mask or bits.
pub fn net(text: &str, mask: Option<&str>, usual: impl Fn(IpAddr) -> u8) -> Option<String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, mask),
    };
    let address: IpAddr = address.trim().parse().ok()?;
    let bits = match bits {
        Some(bits) => self::bits(bits.trim())?,
        None => usual(address),
    };
    (bits <= bits_of(address)).then(|| format!("{address}/{bits}"))
}

/// The bits that a mask has, or that are written as a number.
fn bits(mask: &str) -> Option<u8> {
    if let Ok(bits) = mask.parse() {
        return Some(bits);
    }
    let (ones, all) = match mask.parse().ok()? {
        IpAddr::V4(mask) => (u32::from(mask).leading_ones(), u32::from(mask).count_ones()),
        IpAddr::V6(mask) => (u128::from(mask).leading_ones(), u128::from(mask).count_ones()),
    };
    (ones == all).then(|| u8::try_from(ones).ok()).flatten()
}

fn target(text: &str) -> Option<Target> {
    if text == "default" {
        return Some(Target(None));
    }
    net(text, None, bits_of).map(|net| Target(Some(net)))
}

fn one_of(words: &'static [&'static str], text: &str) -> Option<&'static str> {
    words.iter().find(|word| **word == text).copied()
}

fn mac(text: &str) -> Option<Mac> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let fits = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    // An address of InfiniBand has 20 bytes.
    (matches!(parts.len(), 6 | 20) && parts.iter().all(fits)).then(|| Mac(parts.join(":").to_lowercase()))
}

fn name(text: &str) -> Option<Name> {
    // The kernel takes more; a shell and the files of ours would read it as something else.
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '@' | '+');
    (!text.is_empty() && text.len() < 16 && !matches!(text, "." | "..") && text.chars().all(fits))
        .then(|| Name(text.to_owned()))
}

/// The same name, where nothing is deserialized.
pub fn is_name(text: &str) -> bool {
    name(text).is_some()
}

fn word(text: &str) -> Option<Word> {
    let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '\\';
    (!text.is_empty() && text.chars().all(fits)).then(|| Word(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_bits_however_they_are_written() {
        for (text, mask, expected) in [
            ("10.0.0.1/8", None, Some("10.0.0.1/8")),
            ("10.0.0.1", Some("255.255.255.128"), Some("10.0.0.1/25")),
            ("10.0.0.1", Some("16"), Some("10.0.0.1/16")),
            ("10.0.0.1", None, Some("10.0.0.1/24")),
            ("2001:DB8::1", None, Some("2001:db8::1/64")),
            ("2001:db8::", Some("ffff:ffff::"), Some("2001:db8::/32")),
            ("10.0.0.1/33", None, None),
            ("10.0.0.1", Some("255.0.255.0"), None),
            ("10.0.0.256", None, None),
            ("10.0.0.1\nx", None, None),
        ] {
            assert_eq!(net(text, mask, usual_bits).as_deref(), expected, "{text} {mask:?}");
        }
    }

    #[test]
    fn names_and_addresses_cannot_leave_their_line_or_their_folder() {
        for bad in ["", "a b", "../x", "a/b", "x\ny", "sixteen-letters-x", "..", "a%b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name("bond0.100") && is_name("enp0s31f6"));
        assert_eq!(mac("52-54-00-AB-cd-EF").unwrap().0, "52:54:00:ab:cd:ef");
        assert!(mac("52:54:00:12:34").is_none() && mac("52:54:00:12:34:5g").is_none());
        assert!(word("a\nDNS=evil").is_none());
    }
}
