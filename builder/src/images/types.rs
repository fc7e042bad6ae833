//! The keys of kiln.yaml, as serde reads them. What a key may hold is here; what fits together is in `load`.

use std::fmt;
use std::time::Duration;

use indexmap::IndexMap;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

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
    pub store: Option<Store>,
    pub arch: Option<Arch>,
    pub ssh_username: Option<String>,
    pub gate_timeout: Option<Timeout>,
    pub bake_timeout: Option<Timeout>,
    pub instance_type: Option<String>,
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
    /// Kept as a tree: see [`Recipe::user_data`](super::Recipe::user_data).
    #[serde(default, rename = "user_data")]
    pub _user_data: Option<IgnoredAny>,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub environment: Option<String>,
    #[serde(default)]
    pub store: Option<Store>,
    #[serde(default)]
    pub arch: Option<Arch>,
    #[serde(default)]
    pub ssh_username: Option<String>,
    #[serde(default)]
    pub gate_timeout: Option<Timeout>,
    #[serde(default)]
    pub bake_timeout: Option<Timeout>,
    #[serde(default)]
    pub instance_type: Option<String>,
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
    #[serde(rename = "kind")]
    pub _kind: Kind,
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
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
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub(super) enum Kind {
    #[serde(rename = "amazon-ebs")]
    AmazonEbs,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// A network volume.
    #[default]
    Ebs,
}

impl Store {
    /// The word in kiln.yaml, in the name and in the tag.
    pub fn name(self) -> &'static str {
        match self {
            Store::Ebs => "ebs",
        }
    }
}

/// The processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
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
    pub fn instance_type(self) -> &'static str {
        match self {
            Arch::X86_64 => "t3.small",
            Arch::Arm64 => "t4g.small",
        }
    }
}

/// What an image is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Another image of kiln.yaml.
    Image(String),
    /// An image of somebody else.
    Ami(AmiFilter),
}

/// Which image of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct AmiFilter {
    /// The accounts whose images count: an account number, `self`, `amazon` or `aws-marketplace`.
    #[serde(default)]
    pub owners: Vec<String>,
    /// The name, with `*` and `?`.
    pub name: String,
}

impl fmt::Display for AmiFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.owners.join(", "))
    }
}

impl<'de> Deserialize<'de> for From {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = From;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an image, or a mapping with the key `ami`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<From, E> {
                Ok(From::Image(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<From, A::Error> {
                match map.next_key::<String>()? {
                    Some(_) => {
                        let filter = map.next_value()?;
                        // Asked once more, so that the reader sees the unknown keys behind it.
                        while map.next_key::<String>()?.is_some() {
                            map.next_value::<IgnoredAny>()?;
                        }
                        Ok(From::Ami(filter))
                    }
                    None => Err(de::Error::missing_field("ami")),
                }
            }
        }
        deserializer.deserialize_struct("From", &["ami"], Either)
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
