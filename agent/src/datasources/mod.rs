//! Datasources: who tells an instance what it is.
//!
//! # Adding a source
//! 1. Write `datasources/NAME.rs` with a unit struct and `impl Datasource` for it.
//! 2. Add its module and its line in [`SOURCES`].
//!
//! `detect` looks at the machine (DMI, labels, the kernel command line) and never at the network, so
//! that a boot never waits for a service of a cloud it is not in.

use std::time::Instant;

use kiln_schema::diagnostic::nearest;
use kiln_schema::status::Stage;
use serde::{Deserialize, Serialize};

use crate::network::NetworkConfig;
use crate::system::System;

mod ec2;
mod nocloud;

/// Every source, in the order in which they are asked.
pub static SOURCES: &[&dyn Datasource] = &[&nocloud::NoCloud, &ec2::Ec2];

/// Source and id of the instance when no source knows one: the machine is then set up by the image alone.
pub const NONE: &str = "none";

/// What a source says of the machine without asking anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// This is a machine of this source.
    Yes,
    /// Nothing tells; it may be asked last.
    Perhaps,
    /// It is not.
    No,
}

/// Why a source gave no instance.
#[derive(Clone, Debug)]
pub struct SourceError {
    /// What failed, on which input, what to do next.
    pub message: String,
}

/// Who tells an instance what it is.
pub trait Datasource: Sync {
    /// The name in the status and in `datasource:`.
    fn name(&self) -> &'static str;

    /// Whether it needs the network, and so the `init` stage.
    fn needs_network(&self) -> bool;

    /// What can be seen on the machine.
    fn detect(&self, system: &System) -> Detected;

    /// Asks for the instance, within the deadline.
    ///
    /// # Errors
    /// Why there is none.
    fn fetch(&self, system: &System, deadline: Instant) -> Result<Instance, SourceError>;
}

/// What came of asking the sources.
#[derive(Debug)]
pub enum Search {
    /// One answered.
    Found(Box<Instance>),
    /// None that works without the network has one; ask again when it is up.
    Later,
    /// No source has one, and why.
    None(String),
}

/// Asks the sources in order: the pinned ones, else those that the machine shows, else those that may be.
pub fn search(system: &System, pinned: Option<&[String]>, stage: Stage, deadline: Instant) -> Search {
    let mut failures: Vec<String> = Vec::new();
    let mut candidates: Vec<&dyn Datasource> = Vec::new();
    for name in pinned.unwrap_or_default() {
        // cloud-init spells them Ec2 and NoCloud, and lists None as the last resort.
        match SOURCES.iter().find(|source| source.name().eq_ignore_ascii_case(name)) {
            Some(source) => candidates.push(*source),
            None if name.eq_ignore_ascii_case("none") => {}
            None => {
                let meant = nearest(&name.to_lowercase(), SOURCES.iter().map(|s| s.name()));
                let hint = meant.map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
                failures.push(format!("{name}: no such datasource{hint}"));
            }
        }
    }
    if pinned.is_none() {
        let seen: Vec<_> = SOURCES.iter().map(|source| (*source, source.detect(system))).collect();
        for wanted in [Detected::Yes, Detected::Perhaps] {
            candidates.extend(seen.iter().filter(|(_, detected)| *detected == wanted).map(|(source, _)| *source));
        }
    }
    for source in &candidates {
        if stage == Stage::Local && source.needs_network() {
            // A source without the network that comes later in the order must not win over this one.
            return Search::Later;
        }
        match source.fetch(system, deadline) {
            Ok(instance) => return Search::Found(Box::new(instance)),
            Err(error) => failures.push(format!("{}: {}", source.name(), error.message)),
        }
    }
    if failures.is_empty() {
        let names: Vec<_> = SOURCES.iter().map(|s| s.name()).collect();
        failures.push(format!("nothing on this machine shows one; looked for {}", names.join(", ")));
    }
    Search::None(format!("no datasource gave an instance: {}", failures.join("; ")))
}

/// What a datasource told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Name of the source.
    pub source: String,
    /// The instance's id; handlers that run once an instance run again when it changes.
    pub id: String,
    /// The host name the source gives; may be a full name.
    pub hostname: Option<String>,
    /// Public keys for the default user, as lines of an authorized_keys file.
    pub public_keys: Vec<String>,
    /// The first IPv4 address, as the source knows it.
    pub local_ipv4: Option<String>,
    /// The public IPv4 address.
    pub public_ipv4: Option<String>,
    /// The first IPv6 address.
    pub ipv6: Option<String>,
    /// Region, as `eu-west-1`.
    pub region: Option<String>,
    /// Availability zone, as `eu-west-1a`.
    pub zone: Option<String>,
    /// Instance type.
    pub instance_type: Option<String>,
    /// The image it was started from.
    pub image_id: Option<String>,
    /// The account that owns it.
    pub account_id: Option<String>,
    /// Index in its launch, from 0.
    pub launch_index: Option<u32>,
    /// How the network is to be configured, where the source says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    /// The user-data as it came.
    #[serde(with = "base64_bytes")]
    pub user_data: Vec<u8>,
    /// The vendor-data as it came.
    #[serde(with = "base64_bytes")]
    pub vendor_data: Vec<u8>,
    /// All metadata as the source gave it, for `query` and templates. No credentials.
    pub metadata: serde_json::Value,
}

impl Instance {
    /// An instance of which only its id is known.
    pub fn new(source: &str, id: &str) -> Self {
        Instance { source: source.to_owned(), id: id.to_owned(), ..Instance::default() }
    }
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
