//! From configuration and instance to batches of records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kiln_schema::status::Reason;
use serde::{Deserialize, Serialize};

use super::ptr::Ptr;
use super::{Address, Failure};
use crate::datasources::Instance;
use crate::net::route53::{Record, Route53 as Service, Zone, same_name};

/// What is to be registered, templates filled in.
pub struct Wanted {
    /// Id or name.
    pub zone: String,
    /// With or without the zone's name.
    pub name: String,
    /// The same.
    pub aliases: Vec<String>,
    /// One IPv4 address, one IPv6 address, or both.
    pub addresses: Vec<IpAddr>,
    /// The name of the address.
    pub ptr: Ptr,
    /// Of two zones with one name, the private one is meant.
    pub private: bool,
    /// Seconds.
    pub ttl: i64,
}

/// The records that go into one zone at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The zone's name, with its last dot.
    pub zone: String,
    /// The zone's id.
    pub zone_id: String,
    /// The id of the change that wrote them; empty before it.
    #[serde(default)]
    pub change: String,
    /// The records.
    pub records: Vec<Record>,
}

/// The addresses of the instance that are registered.
pub fn addresses(wanted: Address, instance: &Instance) -> Result<Vec<IpAddr>, Failure> {
    let v4 = match wanted {
        Address::Private => &instance.local_ipv4,
        Address::Public => &instance.public_ipv4,
    };
    let v4: Option<Ipv4Addr> = v4.as_ref().and_then(|text| text.parse().ok());
    let v6: Option<Ipv6Addr> = instance.ipv6.as_ref().and_then(|text| text.parse().ok());
    let addresses: Vec<IpAddr> = v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from)).collect();
    if wanted == Address::Public && v4.is_none() && instance.local_ipv4.is_some() {
        let message = "the instance has no public IPv4 address; give it one, or write `address: private`";
        return Err(Failure::new(Reason::Config, message));
    }
    if addresses.is_empty() {
        let message = format!("the source `{}` tells no address of this instance to register", instance.source);
        return Err(Failure::new(Reason::Config, message));
    }
    Ok(addresses)
}

/// The batches, one for each zone. Asks the service for the zones.
pub fn batches(wanted: &Wanted, service: &Service) -> Result<Vec<Batch>, Failure> {
    let zone = find_zone(&wanted.zone, wanted.private, service)?;
    let name = full_name(&wanted.name, &zone)?;
    let record = |name: &str, kind: &str, value: String| Record {
        name: name.to_owned(),
        kind: kind.to_owned(),
        ttl: wanted.ttl,
        value,
    };
    let of_address = |address: &IpAddr| {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        record(&name, kind, address.to_string())
    };
    let mut records: Vec<Record> = wanted.addresses.iter().map(of_address).collect();
    for alias in &wanted.aliases {
        let alias = full_name(alias, &zone)?;
        if records.iter().all(|record| record.name != alias) {
            records.push(record(&alias, "CNAME", name.clone()));
        }
    }
    let mut batches = vec![batch(zone.clone(), records)];
    if let (true, Some(address)) = (wanted.ptr.write, wanted.addresses.first()) {
        let (ptr_name, ptr_zone) = reverse_place(wanted, *address, &zone, service)?;
        let ptr = record(&ptr_name, "PTR", name.clone());
        if ptr_zone.id == zone.id {
            batches[0].records.push(ptr);
        } else {
            batches.push(batch(ptr_zone, vec![ptr]));
        }
    }
    Ok(batches)
}

/// Name and zone of the PTR.
fn reverse_place(wanted: &Wanted, address: IpAddr, main: &Zone, service: &Service) -> Result<(String, Zone), Failure> {
    let zone = wanted.ptr.zone.as_deref().map(|zone| find_zone(zone, wanted.private, service)).transpose()?;
    let name = match (&wanted.ptr.name, &zone) {
        (Some(name), Some(zone)) => full_name(name, zone)?,
        // Without a zone, a name that is not a full reverse name stands in the main zone.
        (Some(name), None) if !name.trim_end_matches('.').ends_with(".arpa") => full_name(name, main)?,
        (Some(name), None) => checked(&format!("{}.", name.trim_end_matches('.').to_lowercase()))?,
        (None, _) => reverse_name(address),
    };
    if let Some(zone) = zone {
        return Ok((name, zone));
    }
    if is_within(&name, &main.name) {
        return Ok((name, main.clone()));
    }
    // The nearest zone around the name. The zones `arpa.` and `in-addr.arpa.` are nobody's own.
    let mut around = name.as_str();
    while let Some((_, parent)) = around.split_once('.').filter(|(_, parent)| parent.matches('.').count() > 2) {
        around = parent;
        if let Some(zone) = pick(service.zones_named(around)?, wanted.private, around)? {
            return Ok((name, zone));
        }
    }
    let message = format!("no hosted zone is there for {name}; make one, write `ptr: ZONE`, or `ptr: false`");
    Err(Failure::new(Reason::Refused, message))
}

fn batch(zone: Zone, records: Vec<Record>) -> Batch {
    Batch { zone: zone.name, zone_id: zone.id, change: String::new(), records }
}

/// A zone by its id or name.
fn find_zone(wanted: &str, private: bool, service: &Service) -> Result<Zone, Failure> {
    let id = wanted.trim_start_matches("/hostedzone/");
    // An id has neither dots nor small letters. A zone named by one word alone can be given as `word.`.
    if id.len() > 3 && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
        return Ok(service.zone(id)?);
    }
    let name = format!("{}.", wanted.trim_end_matches('.').to_lowercase());
    pick(service.zones_named(&name)?, private, &name)?.ok_or_else(|| {
        let message = format!("there is no hosted zone named {name} in this account; look at route53.zone");
        Failure::new(Reason::Refused, message)
    })
}

/// Of several zones with one name, the only one of the wanted kind.
fn pick(zones: Vec<Zone>, private: bool, name: &str) -> Result<Option<Zone>, Failure> {
    let fitting: Vec<_> = zones.iter().filter(|zone| zone.private == private).collect();
    match (zones.as_slice(), fitting.as_slice()) {
        ([], _) => Ok(None),
        ([only], _) => Ok(Some(only.clone())),
        (_, [only]) => Ok(Some((*only).clone())),
        _ => {
            let ids: Vec<_> = zones.iter().map(|zone| zone.id.as_str()).collect();
            let message = format!("several hosted zones are named {name}: {}; write the id of one", ids.join(", "));
            Err(Failure::new(Reason::Config, message))
        }
    }
}

fn is_within(name: &str, zone: &str) -> bool {
    name == zone || name.strip_suffix(zone).is_some_and(|front| front.ends_with('.'))
}

/// The name with its last dot, within the zone.
fn full_name(name: &str, zone: &Zone) -> Result<String, Failure> {
    let lower = name.to_lowercase();
    let absolute = lower.ends_with('.');
    let dotted = format!("{}.", lower.trim_end_matches('.'));
    if is_within(&dotted, &zone.name) {
        return checked(&dotted);
    }
    if absolute {
        let message = format!("`{name}` is not within the hosted zone {}", zone.name);
        return Err(Failure::new(Reason::Config, message));
    }
    checked(&format!("{dotted}{}", zone.name))
}

/// Refuses what is no name in DNS: an empty variable in a template makes one.
fn checked(name: &str) -> Result<String, Failure> {
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/');
        label == "*" || (!label.is_empty() && label.len() <= 63 && label.bytes().all(plain))
    };
    if name.len() <= 255 && name.trim_end_matches('.').split('.').all(label) && !name.ends_with("..") {
        return Ok(name.to_owned());
    }
    let message = format!("`{name}` is not a name in DNS: letters, digits, `-` and `_`, at most 63 a label");
    Err(Failure::new(Reason::Config, message))
}

/// `4.3.2.1.in-addr.arpa.` of `1.2.3.4`.
pub fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(address) => {
            let digits = address.octets().into_iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
            digits.collect::<String>() + "ip6.arpa."
        }
    }
}

/// The records of `these` that have neither zone, name and type of one in `those`.
pub fn without(these: &[Batch], those: &[Batch]) -> Vec<Batch> {
    let kept = |id: &str, record: &Record| {
        let same = |other: &Record| same_name(&other.name, &record.name) && other.kind == record.kind;
        those.iter().any(|batch| batch.zone_id == id && batch.records.iter().any(same))
    };
    let mut left = these.to_vec();
    for batch in &mut left {
        let id = batch.zone_id.clone();
        batch.records.retain(|record| !kept(&id, record));
    }
    left.retain(|batch| !batch.records.is_empty());
    left
}
