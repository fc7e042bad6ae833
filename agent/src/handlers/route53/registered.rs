//! What stands in DNS because of this instance, and how it goes when the instance stops.
//!
//! A record is removed only while it still says what this instance wrote: another instance may have
//! taken over the name since. A CNAME says the same whoever has the name it points at, so it goes
//! only with an address of that name, in one batch: if somebody takes the name at this very moment,
//! the whole batch fails, and the records are looked at again.

use std::net::IpAddr;
use std::time::Instant;

use kiln_schema::paths;
use kiln_schema::status::Reason;
use serde::{Deserialize, Serialize};

use super::plan::{Batch, reverse_name};
use super::{Failure, USUAL_REGION};
use crate::datasources::Instance;
use crate::net::Error;
use crate::net::route53::{Action, Record, Route53 as Service, Standing, same_name};
use crate::system::{FileOptions, System};

/// Where it is kept.
pub const FILE: &str = "/var/lib/kiln/route53.json";
const SCHEMA: u32 = 1;
/// So often a batch is put together anew when somebody else changed a record meanwhile.
const LOOKS: usize = 3;

/// What an instance has registered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    schema: u32,
    /// The instance that wrote the records. An image may hold the file of the instance it was made from.
    pub instance_id: String,
    region: String,
    /// The records.
    pub batches: Vec<Batch>,
}

/// What came of removing records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Gone now.
    pub removed: Vec<Record>,
    /// No longer this instance's, so left.
    pub left: Vec<Record>,
}

impl Registered {
    /// The records of this instance.
    pub fn new(instance: &Instance, batches: Vec<Batch>) -> Self {
        let region = instance.region.clone().unwrap_or_else(|| USUAL_REGION.to_owned());
        Registered { schema: SCHEMA, instance_id: instance.id.clone(), region, batches }
    }

    /// What is kept, if anything is.
    pub fn read(system: &System) -> Result<Option<Self>, Failure> {
        match system.read(FILE) {
            Ok(bytes) => {
                let read = serde_json::from_slice(&bytes);
                read.map(Some).map_err(|e| Failure::new(Reason::Io, format!("{FILE} cannot be read: {e}; remove it")))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps it.
    pub fn write(&self, system: &System) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from)?;
        text.push(b'\n');
        Ok(system.write(FILE, text, FileOptions::mode(0o644).durable())?)
    }
}

/// Takes out of DNS exactly what this instance registered and what still points here. None if nothing
/// is registered.
///
/// # Errors
/// When the service cannot be asked before the deadline, or refuses; the next try takes up where this
/// one ended.
pub fn release(system: &System, deadline: Instant) -> Result<Option<Removed>, Failure> {
    let Some(registered) = of_this_instance(system)? else { return Ok(None) };
    let service = Service::new(system, &registered.region, deadline)?;
    release_with(system, &registered, &service).map(Some)
}

/// The registration, if it is this instance's own.
pub(super) fn of_this_instance(system: &System) -> Result<Option<Registered>, Failure> {
    let Some(registered) = Registered::read(system)? else { return Ok(None) };
    let instance = system.read(paths::INSTANCE).ok().and_then(|text| serde_json::from_slice::<Instance>(&text).ok());
    match instance {
        Some(instance) if instance.id == registered.instance_id => Ok(Some(registered)),
        // The instance that this image was made from may live.
        Some(_) => Ok(None),
        None => {
            let message = format!(
                "the names of {} in {FILE} were left in DNS, as no source told at this boot whether this is that instance",
                registered.instance_id
            );
            Err(Failure::new(Reason::Config, message))
        }
    }
}

pub(super) fn release_with(system: &System, registered: &Registered, service: &Service) -> Result<Removed, Failure> {
    let removed = remove(service, &registered.batches, &registered.batches)?;
    system.remove(FILE)?;
    Ok(removed)
}

/// Removes the records of `doomed` that are still this instance's. `known` is all that it has written.
pub fn remove(service: &Service, known: &[Batch], doomed: &[Batch]) -> Result<Removed, Error> {
    let mut outcome = Removed::default();
    for batch in doomed {
        for look in 1.. {
            let (going, left) = look_again(service, known, batch)?;
            let gone = if going.is_empty() { Ok(String::new()) } else { delete(service, batch, &going) };
            match gone {
                // Somebody changed one of them since it was read, so none was removed.
                Err(error) if is_race(&error) && look < LOOKS => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    outcome.removed.extend(going);
                    outcome.left.extend(left);
                    break;
                }
            }
        }
    }
    Ok(outcome)
}

fn delete(service: &Service, batch: &Batch, records: &[Record]) -> Result<String, Error> {
    service.change(&batch.zone_id, Action::Delete, records)
}

fn is_race(error: &Error) -> bool {
    error.reason == Reason::Refused && error.message.contains("InvalidChangeBatch")
}

/// The records of a batch as they stand now, and those that are no longer this instance's.
fn look_again(service: &Service, known: &[Batch], batch: &Batch) -> Result<(Vec<Record>, Vec<Record>), Error> {
    let addresses: Vec<(&str, &Record)> = records(known).filter(|(_, record)| is_address(record)).collect();
    let mut going = Vec::new();
    let mut left = Vec::new();
    for record in &batch.records {
        let standing = service.standing(&batch.zone_id, &record.name, &record.kind)?;
        let Standing::Simple(now) = standing else {
            left.extend(Some(record.clone()).filter(|_| standing == Standing::Other));
            continue;
        };
        let mut ours = is_same(&now, record);
        if ours && !is_of_addresses(record, &addresses) {
            // A name that points at ours goes with it, and stays with whoever has it now.
            for (zone, address) in addresses.iter().filter(|(_, a)| same_name(&a.name, &record.value)) {
                ours &= match service.standing(zone, &address.name, &address.kind)? {
                    Standing::Nothing => true,
                    Standing::Simple(now) => is_same(&now, address),
                    Standing::Other => false,
                };
            }
        }
        if ours { going.push(now) } else { left.push(record.clone()) }
    }
    Ok((going, left))
}

/// Whether no other instance can have written it, as it holds an address of this one.
fn is_of_addresses(record: &Record, addresses: &[(&str, &Record)]) -> bool {
    let reverse = |address: &Record| address.value.parse().ok().map(reverse_name);
    is_address(record)
        || addresses.iter().filter_map(|(_, address)| reverse(address)).any(|name| same_name(&name, &record.name))
}

fn records(batches: &[Batch]) -> impl Iterator<Item = (&str, &Record)> {
    batches.iter().flat_map(|batch| batch.records.iter().map(|record| (batch.zone_id.as_str(), record)))
}

fn is_address(record: &Record) -> bool {
    matches!(record.kind.as_str(), "A" | "AAAA")
}

/// Whether a record has the value that was written; its ttl may be another by now.
fn is_same(now: &Record, written: &Record) -> bool {
    match (now.value.parse::<IpAddr>(), written.value.parse::<IpAddr>()) {
        (Ok(now), Ok(written)) => now == written,
        _ => same_name(&now.value, &written.value),
    }
}
