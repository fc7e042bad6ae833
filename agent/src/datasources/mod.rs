//! Datasources: who tells an instance what it is.
//!
//! # Adding a source
//! 1. Write `datasources/NAME.rs` with a unit struct and `impl Datasource` for it.
//! 2. Add its module and its line in [`SOURCES`].
//!
//! What sources share is in `place` (firmware, folders, disks) and in [`crate::net::service`]; `testing`
//! has a service with every fault, which a new source is to survive.
//!
//! `detect` looks at the machine (DMI, labels, the kernel command line) and never at the network, so
//! that a boot never waits for a service of a cloud it is not in.

use std::time::Instant;

use kiln_schema::diagnostic::{Diagnostic, nearest};
use kiln_schema::status::Stage;
use serde::{Deserialize, Serialize};

use crate::network::NetworkConfig;
use crate::system::System;

pub mod azure;
mod configdrive;
mod digitalocean;
mod ec2;
mod gce;
mod nocloud;
mod openstack;
mod place;
#[cfg(test)]
mod testing;
mod vmware;

/// Every source, in the order in which they are asked. The first that the machine shows is not looked
/// beyond, so what most machines have comes early.
pub static SOURCES: &[&dyn Datasource] = &[
    &nocloud::NoCloud,
    &configdrive::ConfigDrive,
    &ec2::Ec2,
    &vmware::Vmware,
    &azure::Azure,
    &gce::Gce,
    &openstack::OpenStack,
    &digitalocean::DigitalOcean,
];

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

impl From<String> for SourceError {
    fn from(message: String) -> Self {
        SourceError { message }
    }
}

impl From<crate::net::Error> for SourceError {
    fn from(error: crate::net::Error) -> Self {
        SourceError { message: error.message }
    }
}

/// Who tells an instance what it is.
pub trait Datasource: Sync {
    /// The name in the status and in `datasource:`.
    fn name(&self) -> &'static str;

    /// Where it looks, in one line of documentation.
    fn summary(&self) -> &'static str;

    /// Whether it needs the network on this machine, and so the `init` stage.
    fn needs_network(&self, system: &System) -> bool;

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
    /// None that works without the network has one yet; ask again when the network is up.
    Later,
    /// No source has one, and why.
    None(String),
}

/// Asks the sources in order: the one that the kernel's command line names, else the pinned ones, else
/// those that the machine shows, else those that may be.
pub fn search(system: &System, pinned: Option<&[String]>, stage: Stage, deadline: Instant) -> Search {
    let mut failures: Vec<String> = Vec::new();
    let named = named_by_kernel(system.kernel_command_line()).map(|name| vec![name]);
    let seen = |wanted| SOURCES.iter().copied().filter(move |source| source.detect(system) == wanted);
    // One at a time: what nobody asks for is not looked for.
    let candidates: Box<dyn Iterator<Item = Candidate<'_>>> = match named.as_deref().or(pinned) {
        Some(names) => Box::new(names.iter().map(|name| Candidate::of(name))),
        None => Box::new(seen(Detected::Yes).chain(seen(Detected::Perhaps)).map(Candidate::Source)),
    };
    for candidate in candidates {
        let source = match candidate {
            Candidate::Source(source) => source,
            // The last resort of a list that has others hides no failure of theirs.
            Candidate::None if failures.is_empty() => return Search::Found(Box::new(Instance::new(NONE, NONE))),
            Candidate::None => continue,
            Candidate::Unknown(name) => {
                let meant = nearest(&name.to_lowercase(), SOURCES.iter().map(|s| s.name()));
                let hint = meant.map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
                failures.push(format!("{name}: no such datasource{hint}"));
                continue;
            }
        };
        if stage == Stage::Local && source.needs_network(system) {
            // A source without the network that comes later in the order must not win over this one.
            return Search::Later;
        }
        match source.fetch(system, deadline) {
            Ok(instance) => return Search::Found(Box::new(instance)),
            Err(error) => failures.push(format!("{}: {}", source.name(), error.message)),
        }
    }
    if stage == Stage::Local {
        // A disk and its label may still be on their way: this stage runs beside udev.
        return Search::Later;
    }
    if failures.is_empty() {
        let names: Vec<_> = SOURCES.iter().map(|s| s.name()).collect();
        failures.push(format!("nothing on this machine shows one; looked for {}", names.join(", ")));
    }
    Search::None(format!("no datasource gave an instance: {}", failures.join("; ")))
}

/// A source that is to be asked, or the name of one.
enum Candidate<'a> {
    Source(&'static dyn Datasource),
    /// The machine is to be set up by the image alone.
    None,
    Unknown(&'a str),
}

impl<'a> Candidate<'a> {
    /// cloud-init spells them Ec2 and NoCloud.
    fn of(name: &'a str) -> Self {
        match SOURCES.iter().find(|source| source.name().eq_ignore_ascii_case(name)) {
            Some(source) => Candidate::Source(*source),
            None if name.eq_ignore_ascii_case(NONE) => Candidate::None,
            None => Candidate::Unknown(name),
        }
    }
}

/// The source in `ds=NAME;…`; none for a name that nobody knows, as the machine may still show another.
fn named_by_kernel(line: &str) -> Option<String> {
    let line = line.replace(['"', '\''], "");
    let words = line.split_whitespace();
    let mut named = words.filter_map(|word| word.strip_prefix("ci.").unwrap_or(word).strip_prefix("ds="));
    let name = named.next()?.split(';').next()?.to_lowercase();
    let name = if name == "nocloud-net" { "nocloud".to_owned() } else { name };
    (!matches!(Candidate::of(&name), Candidate::Unknown(_))).then_some(name)
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
    /// Configuration that the source gives, below vendor-data: the name of the default user, and his password.
    pub settings: serde_json::Value,
    /// What is wrong with the machine although the source has told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Diagnostic>,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::system::FileOptions;

    const SEED: (&str, &str) = ("/var/lib/kiln/seed/nocloud/meta-data", "instance-id: i-seed");
    const DRIVE: (&str, &str) = ("/config-drive/openstack/latest/meta_data.json", r#"{"uuid": "i-drive"}"#);
    const GOOGLE: (&str, &str) = ("/sys/class/dmi/id/product_name", "Google Compute Engine");

    /// What the local stage finds: an id, or `later`.
    fn found(files: &[(&str, &str)], pinned: Option<&[&str]>) -> String {
        look(files, pinned, Stage::Local)
    }

    fn look(files: &[(&str, &str)], pinned: Option<&[&str]>, stage: Stage) -> String {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in files {
            system.write(path, text, FileOptions::default()).unwrap();
        }
        let pinned: Option<Vec<String>> = pinned.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let deadline = Instant::now() + Duration::from_secs(30);
        match search(&system, pinned.as_deref(), stage, deadline) {
            Search::Found(instance) => instance.id,
            Search::Later => "later".to_owned(),
            Search::None(why) => why,
        }
    }

    #[test]
    fn what_the_machine_shows_is_asked_in_order() {
        assert_eq!(found(&[SEED, DRIVE], None), "i-seed");
        assert_eq!(found(&[DRIVE, GOOGLE], None), "i-drive");
        assert_eq!(found(&[GOOGLE], None), "later");
        assert_eq!(found(&[], None), "later", "a disk may still show up");
        let why = look(&[], None, Stage::Init);
        assert!(
            why.contains("looked for nocloud, configdrive, ec2, vmware, azure, gce, openstack, digitalocean"),
            "{why}"
        );
        // A seed that cannot be used does not hide the next source.
        assert_eq!(found(&[(SEED.0, "- a"), DRIVE], None), "i-drive");
    }

    #[test]
    fn a_list_is_asked_without_detection_and_none_ends_it() {
        assert_eq!(found(&[SEED, DRIVE], Some(&["ConfigDrive", "None"])), "i-drive");
        assert_eq!(found(&[SEED], Some(&["GCE", "NoCloud"])), "later");
        assert_eq!(found(&[SEED], Some(&["None", "NoCloud"])), "none");
        let why = look(&[], Some(&["NoClud", "ConfigDrive", "None"]), Stage::Init);
        assert!(why.contains("NoClud: no such datasource; did you mean `nocloud`?; configdrive: no disk"), "{why}");
    }

    #[test]
    fn the_kernels_command_line_names_the_source() {
        let line = |text: &'static str| ("/proc/cmdline", text);
        assert_eq!(found(&[SEED, DRIVE, line("quiet ds=ConfigDrive ro\n")], Some(&["NoCloud"])), "i-drive");
        assert_eq!(found(&[SEED, DRIVE, line("'ci.ds=none;x=y'")], None), "none");
        assert_eq!(found(&[SEED, line("ds=gce")], None), "later");
        // Nobody knows this one, and the machine shows another.
        assert_eq!(found(&[SEED, line("ds=other")], None), "i-seed");
        // Its disk may still come.
        assert_eq!(found(&[DRIVE, line("ds=nocloud-net;i=i-line")], None), "later");
    }
}
