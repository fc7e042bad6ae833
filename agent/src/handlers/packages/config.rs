//! The keys of packages.

use std::borrow::Cow;
use std::fmt;

use kiln_schema::yaml::{Each, STRUCT_OR_LIST};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// Keys of the handler.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Packages to install: a name, `[name, version]`, or a mapping such as `apt: [names]`.
    pub packages: Each<Packages>,
    /// Fetch the lists of packages anew, also where nothing is to be installed.
    pub package_update: bool,
    /// Bring every package up to date.
    pub package_upgrade: bool,
    /// Reboot afterwards, a minute later, where the distribution asks for it.
    pub package_reboot_if_required: bool,
    /// The older name of `package_update`.
    pub apt_update: bool,
    /// The older name of `package_upgrade`.
    pub apt_upgrade: bool,
    /// The older name of `package_reboot_if_required`.
    pub apt_reboot_if_required: bool,
}

/// A package that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The program that installs it, where the user-data names one.
    pub manager: Option<String>,
    /// Its name.
    pub name: String,
    /// Its version, where only one will do.
    pub version: Option<String>,
}

/// The packages of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packages(pub Vec<Wanted>);

impl<'de> Deserialize<'de> for Packages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = Packages;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a package's name, [name, version], or a mapping such as `apt: [names]`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Packages, E> {
                Ok(Packages(vec![Wanted { manager: None, name: name.to_owned(), version: None }]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Packages, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = seq.next_element::<String>()? {
                    words.push(word);
                }
                match <[String; 2]>::try_from(words) {
                    Ok([name, version]) => Ok(Packages(vec![Wanted { manager: None, name, version: Some(version) }])),
                    Err(words) if words.len() == 1 => self.visit_str(&words.concat()),
                    Err(_) => Err(de::Error::custom("a list here is [name, version]; give each package its own line")),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Packages, A::Error> {
                let mut all = Vec::new();
                while let Some((manager, entries)) = map.next_entry::<String, Each<Packages>>()? {
                    let wanted = entries.iter().flat_map(|entry| entry.0.iter().cloned());
                    all.extend(wanted.map(|wanted| Wanted { manager: Some(manager.clone()), ..wanted }));
                }
                Ok(Packages(all))
            }
        }
        deserializer.deserialize_struct(STRUCT_OR_LIST, &[], Entry)
    }
}

impl JsonSchema for Packages {
    fn schema_name() -> Cow<'static, str> {
        "Package".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let name = json_schema!({"type": ["string", "number"]});
        let listed = json_schema!({"type": "array", "items": name, "minItems": 1, "maxItems": 2});
        json_schema!({"description": "A name, [name, version], or names by manager", "anyOf": [name, listed,
            {"type": "object", "additionalProperties": {"type": "array", "items": {"anyOf": [name, listed]}}}]})
    }
}
