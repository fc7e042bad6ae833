//! Sections of a file in the form of yum and zypper.

use std::fmt;

use kiln_schema::yaml::Texts;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Names and texts in the order of the document; a list is a text of so many lines. An entry without a value is left
/// out. One of the wrong type is an error of the whole, as half a repository may be one that nobody checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Section;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping of names to texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Section, A::Error> {
                let mut entries = Vec::new();
                while let Some((name, lines)) = map.next_entry::<String, Option<Texts>>()? {
                    if let Some(Texts(lines)) = lines.filter(|lines| !lines.0.is_empty()) {
                        entries.push((name, lines.join("\n")));
                    }
                }
                Ok(Section(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl JsonSchema for Section {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Section".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["object", "null"],
            "additionalProperties": {"type": ["string", "number", "boolean", "null", "array"],
                "items": {"type": ["string", "number", "boolean"]}}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_lines_and_another_type_an_error_with_its_place() {
        let read = |text: &str| {
            let node = kiln_schema::yaml::parse("doc", text).unwrap().0;
            let checked = kiln_schema::yaml::read::<Section>(&node, "k");
            (checked.value, checked.diagnostics.first().map(ToString::to_string))
        };
        let (value, told) = read("{b: [x, 1], a: 0644, c: , d: []}");
        let pairs = [("b", "x\n1"), ("a", "0644")].map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!((value.unwrap().0, told), (pairs.to_vec(), None));
        for (text, sentence) in [
            ("{a: x, b: {c: d}}", "doc:1:11: error: k.b: expected text, found a mapping"),
            ("{a: [x, [y]]}", "doc:1:9: error: k.a[1]: expected text, found a list"),
            ("[a]", "doc:1:1: error: k: expected a mapping, found a list"),
        ] {
            assert_eq!(read(text), (None, Some(sentence.to_owned())), "{text}");
        }
    }
}
