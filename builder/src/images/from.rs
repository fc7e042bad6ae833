//! The key `from`: what an image is built on.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::types::Arch;

/// What an image is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Another image of kiln.yaml.
    Image(String),
    /// The newest of somebody else's images that fits.
    Ami(AmiFilter),
    /// The image whose id somebody keeps in a parameter.
    Ssm(Parameter),
}

/// Which image of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct AmiFilter {
    /// The accounts whose images count: an account number, `self`, `amazon` or `aws-marketplace`.
    #[serde(default)]
    pub owners: Vec<String>,
    /// The name, with `*` and `?`.
    pub name: String,
    /// Tags that it must have, the values with `*` and `?`.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// A parameter of SSM that holds the id of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name; a public one begins with `/aws/service/`.
    pub name: String,
    /// The accounts whose image it may name, as those of [`AmiFilter::owners`].
    pub owners: Vec<String>,
}

impl From {
    /// The same for one processor: `{arch}` is EC2's word for it and `{deb_arch}` Debian's.
    pub(super) fn of(&self, arch: Arch) -> From {
        let expand = |text: &String| text.replace("{arch}", arch.name()).replace("{deb_arch}", arch.debian());
        match self {
            From::Image(name) => From::Image(name.clone()),
            From::Ami(filter) => From::Ami(AmiFilter {
                owners: filter.owners.clone(),
                name: expand(&filter.name),
                tags: filter.tags.iter().map(|(key, value)| (key.clone(), expand(value))).collect(),
            }),
            From::Ssm(parameter) => {
                From::Ssm(Parameter { name: expand(&parameter.name), owners: parameter.owners.clone() })
            }
        }
    }
}

impl fmt::Display for AmiFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.owners.join(", "))?;
        self.tags.iter().try_for_each(|(key, value)| write!(f, ", {key}={value}"))
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.owners.join(", "))
    }
}

impl<'de> Deserialize<'de> for From {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("From", &["ami", "ssm", "owners"], OneOf)
    }
}

/// Reads a name or one of the mappings.
struct OneOf;

impl<'de> Visitor<'de> for OneOf {
    type Value = From;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an image, or a mapping with the key `ami` or `ssm`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<From, E> {
        Ok(From::Image(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<From, A::Error> {
        let (mut ami, mut ssm, mut owners) = (None, None, None);
        // To the end, so that the reader sees the unknown keys.
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "ami" => ami = Some(map.next_value()?),
                "ssm" => ssm = Some(map.next_value()?),
                _ => owners = Some(map.next_value::<Vec<String>>()?),
            }
        }
        match (ami, ssm, owners) {
            (Some(_), Some(_), _) => Err(de::Error::custom("either `ami` or `ssm`, not both")),
            (Some(_), None, Some(_)) => Err(de::Error::custom("`owners` belongs into `ami`, beside `name`")),
            (Some(filter), None, None) => Ok(From::Ami(filter)),
            (None, Some(name), owners) => Ok(From::Ssm(Parameter { name, owners: owners.unwrap_or_default() })),
            (None, None, _) => Err(de::Error::custom("the key `ami` or `ssm` is missing")),
        }
    }
}
