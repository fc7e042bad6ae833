//! The keys of kiln.yaml, as serde reads them. What a key may hold is here; what fits together is in `load`.

use std::fmt;
use std::time::Duration;

use indexmap::IndexMap;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::checks::CheckKeys;
use super::from::From;

/// The whole file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub defaults: Defaults,
    pub images: IndexMap<String, Image>,
    pub targets: IndexMap<String, Target>,
}

/// What holds for every image that does not say otherwise.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Defaults {
    pub target: Option<String>,
    pub owner: Option<String>,
    pub environment: Option<String>,
    pub region: Option<String>,
    pub store: Option<Vec<Store>>,
    pub arch: Option<Vec<Arch>>,
    pub ssh_username: Option<String>,
    pub gate_timeout: Option<Timeout>,
    pub bake_timeout: Option<Timeout>,
    pub instance_type: Option<InstanceType>,
    pub prove: Option<bool>,
}

/// One image.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Image {
    pub layer: Layer,
    pub from: From,
    #[serde(default)]
    pub role: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub build: Option<String>,
    #[serde(default)]
    pub release: Option<String>,
    #[serde(default)]
    pub provision: Vec<String>,
    #[serde(default)]
    pub files: Vec<FileToPlace>,
    #[serde(default)]
    pub tests: Vec<String>,
    #[serde(default)]
    pub checks: Vec<CheckKeys>,
    /// Kept as a tree: see [`Recipe::user_data`](super::Recipe::user_data).
    #[serde(default, rename = "user_data")]
    pub _user_data: Option<IgnoredAny>,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub environment: Option<String>,
    #[serde(default)]
    pub store: Option<Vec<Store>>,
    #[serde(default)]
    pub arch: Option<Vec<Arch>>,
    #[serde(default)]
    pub ssh_username: Option<String>,
    #[serde(default)]
    pub gate_timeout: Option<Timeout>,
    #[serde(default)]
    pub bake_timeout: Option<Timeout>,
    #[serde(default)]
    pub instance_type: Option<InstanceType>,
    #[serde(default)]
    pub seal: Seal,
    #[serde(default)]
    pub prove: Option<bool>,
}

/// What an image is allowed to bring, each with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Seal {
    /// Entries of the checklist that are passed over.
    pub skip: IndexMap<String, String>,
    /// Files and folders that may hold what looks like a secret; `*` stands for part of a name.
    pub permit: IndexMap<String, String>,
}

/// A file or folder that the image gets.
#[derive(Debug, serde::Deserialize)]
pub(super) struct FileToPlace {
    pub source: String,
    pub destination: String,
}

/// Where images are made.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Target {
    pub kind: Kind,
    #[serde(default)]
    pub account_id: Option<String>,
    #[serde(default)]
    pub s3_bucket: Option<String>,
    #[serde(default)]
    pub x509_cert_path: Option<String>,
    #[serde(default)]
    pub x509_key_path: Option<String>,
    #[serde(default)]
    pub iam_instance_profile: Option<String>,
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub regions: Vec<String>,
    #[serde(default)]
    pub share_with: Vec<String>,
    #[serde(default)]
    pub encrypt: IndexMap<String, String>,
    #[serde(default)]
    pub deprecate_after: Option<Timeout>,
    #[serde(default)]
    pub packer: Option<PackerSettings>,
}

/// Which packer a target is for.
#[derive(Debug, serde::Deserialize)]
pub(super) struct PackerSettings {
    /// Relative to kiln.yaml.
    #[serde(default)]
    pub plugin_path: Option<String>,
}

/// The builder of packer that makes the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub(super) enum Kind {
    #[serde(rename = "amazon-ebs")]
    AmazonEbs,
    #[serde(rename = "amazon-instance")]
    AmazonInstance,
}

/// How far an image is from a stock system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// A stock system.
    Foundation,
    /// Patched, with the agent and what every machine has.
    Golden,
    /// A stack, such as a servlet container.
    Base,
    /// An application.
    App,
}

impl Layer {
    /// The word in kiln.yaml and in the tag.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Foundation => "foundation",
            Layer::Golden => "golden",
            Layer::Base => "base",
            Layer::App => "app",
        }
    }
}

/// What the machine's root lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// A network volume.
    #[default]
    Ebs,
    /// Disks of the host; the image lies in S3.
    #[serde(rename = "instance-store")]
    InstanceStore,
}

impl Store {
    /// The word in kiln.yaml, in the name and in the tag, and EC2's for the device of a root.
    pub fn name(self) -> &'static str {
        match self {
            Store::Ebs => "ebs",
            Store::InstanceStore => "instance-store",
        }
    }
}

/// The processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize)]
pub enum Arch {
    /// 64-bit x86.
    #[default]
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    #[serde(rename = "arm64")]
    Arm64,
}

impl Arch {
    /// Every processor.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Arm64];

    /// The word of kiln.yaml and of EC2.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "arm64",
        }
    }

    /// Debian's word, in the name of a package file.
    pub fn debian(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// The instance type to bake on when kiln.yaml names none.
    pub fn instance_type(self, store: Store) -> &'static str {
        match (self, store) {
            (Arch::X86_64, Store::Ebs) => "t3.small",
            // Only old types can have their root on disks of the host.
            (Arch::X86_64, Store::InstanceStore) => "m3.medium",
            (Arch::Arm64, _) => "t4g.small",
        }
    }
}

/// The instance to bake on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InstanceType {
    /// One type, for images of one processor.
    One(String),
    /// A type a processor.
    ByArch(IndexMap<Arch, String>),
}

impl InstanceType {
    /// The type for this processor.
    pub fn of(&self, arch: Arch) -> Option<&String> {
        match self {
            InstanceType::One(name) => Some(name),
            InstanceType::ByArch(names) => names.get(&arch),
        }
    }
}

impl<'de> Deserialize<'de> for InstanceType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = InstanceType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an instance type, or a mapping from processors to instance types")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<InstanceType, E> {
                Ok(InstanceType::One(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InstanceType, A::Error> {
                let mut names = IndexMap::new();
                while let Some(arch) = map.next_key::<String>()? {
                    if let Some(arch) = Arch::ALL.into_iter().find(|known| known.name() == arch) {
                        names.insert(arch, map.next_value()?);
                    }
                }
                Ok(InstanceType::ByArch(names))
            }
        }
        deserializer.deserialize_struct("InstanceType", &["x86_64", "arm64"], Either)
    }
}

/// A length of time such as `90s`, `20m` or `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub Duration);

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Timeout;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timeout, E> {
                match kiln_schema::duration::parse(text) {
                    Ok(span) if span.is_zero() => Err(de::Error::custom("no time at all")),
                    Ok(span) => Ok(Timeout(span)),
                    Err(why) => Err(de::Error::custom(why)),
                }
            }
        }
        deserializer.deserialize_string(Text)
    }
}
