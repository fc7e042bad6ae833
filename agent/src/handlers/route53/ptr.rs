//! The key `ptr`: a truth value, a zone, or both name and zone.

use std::borrow::Cow;
use std::fmt;

use kiln_schema::yaml::scalar;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

const FIELDS: &[&str] = &["name", "zone"];

/// Whether and where the address gets its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ptr {
    /// Write one.
    pub write: bool,
    /// The record's name, where it is not the usual one of the address; a template.
    pub name: Option<String>,
    /// Id or name of the zone, where it is not the nearest one around the record.
    pub zone: Option<String>,
}

impl<'de> Deserialize<'de> for Ptr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Ptr;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("true, false, a zone, or a mapping of `name` and `zone`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ptr, E> {
                Ok(match scalar::boolean(text) {
                    Some(write) => Ptr { write, ..Ptr::default() },
                    None => Ptr { write: true, name: None, zone: Some(text.to_owned()) },
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ptr, A::Error> {
                let mut ptr = Ptr { write: true, ..Ptr::default() };
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "name" => ptr.name = map.next_value()?,
                        "zone" => ptr.zone = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(ptr)
            }
        }
        deserializer.deserialize_struct("Ptr", FIELDS, Parts)
    }
}

impl JsonSchema for Ptr {
    fn schema_name() -> Cow<'static, str> {
        "Ptr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json_schema!({"type": "string"});
        json_schema!({"oneOf": [{"type": "boolean"}, {"type": "string"}, {"type": "object",
            "properties": {"name": text, "zone": text}, "additionalProperties": false}]})
    }
}
