//! How single keys of users and groups are read.

use std::borrow::Cow;
use std::fmt;

use kiln_schema::yaml::{self, Spelled, scalar};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

/// A password or its hash, as spelled: `12:30:45` stays what it is. `Debug` does not show it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The password, if it is not empty.
    pub fn given(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Password(none)" } else { "Password(given)" })
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Password)
    }
}

impl JsonSchema for Password {
    fn schema_name() -> Cow<'static, str> {
        "Password".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "A password or its hash", "type": ["string", "number"]})
    }
}

/// Whether whoever logs in as this user is told to log in as the default user: true, false or `default`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirect(pub bool);

impl<'de> Deserialize<'de> for Redirect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word: String = yaml::tolerant(deserializer)?;
        match scalar::boolean(&word) {
            Some(wanted) => Ok(Redirect(wanted)),
            None if word == "default" => Ok(Redirect(true)),
            None => Err(de::Error::custom("expected true, false or `default`")),
        }
    }
}

impl JsonSchema for Redirect {
    fn schema_name() -> Cow<'static, str> {
        "Redirect".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "true, false or `default`", "enum": [true, false, "default", null]})
    }
}

/// Days after the end of a password until the account is closed; false for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Days(pub Option<i64>);

impl<'de> Deserialize<'de> for Days {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        match word.parse() {
            Ok(days @ -1..=99_999) => Ok(Days(Some(days))),
            _ if word.is_empty() || scalar::boolean(&word) == Some(false) => Ok(Days(None)),
            _ => Err(de::Error::custom("expected a number of days")),
        }
    }
}

impl JsonSchema for Days {
    fn schema_name() -> Cow<'static, str> {
        "Days".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "A number of days", "type": ["integer", "string", "null"], "pattern": "^-?[0-9]+$"})
    }
}

/// A date, `2032-09-01`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Date(pub String);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        match word.parse::<jiff::civil::Date>() {
            Ok(date) => Ok(Date(date.to_string())),
            Err(_) => Err(de::Error::custom("expected a date such as 2032-09-01")),
        }
    }
}

impl JsonSchema for Date {
    fn schema_name() -> Cow<'static, str> {
        "Date".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "A date", "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"})
    }
}

/// Whether a key is there that this version does not do. Its value is never kept: it may be a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsupported(pub bool);

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Presence;
        impl<'de> Visitor<'de> for Presence {
            type Value = Unsupported;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E: de::Error>(self, wanted: bool) -> Result<Unsupported, E> {
                Ok(Unsupported(wanted))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Unsupported, E> {
                Ok(Unsupported(false))
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Unsupported, E> {
                Ok(Unsupported(true))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Unsupported, E> {
                Ok(Unsupported(true))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Unsupported, E> {
                Ok(Unsupported(true))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Unsupported, E> {
                Ok(Unsupported(true))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Unsupported, A::Error> {
                let mut any = false;
                while seq.next_element::<de::IgnoredAny>()?.is_some() {
                    any = true;
                }
                Ok(Unsupported(any))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unsupported, A::Error> {
                while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
                Ok(Unsupported(true))
            }
        }
        deserializer.deserialize_any(Presence)
    }
}

impl JsonSchema for Unsupported {
    fn schema_name() -> Cow<'static, str> {
        "Unsupported".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "Not done by this version", "enum": [null, false]})
    }
}

/// The members of a group: a list, or text with commas.
struct Members(Vec<String>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        yaml::tolerant(deserializer).map(Members)
    }
}

/// Groups with their members; an item of a list may hold several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups(pub Vec<(String, Vec<String>)>);

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrMembers;
        impl<'de> Visitor<'de> for NameOrMembers {
            type Value = Groups;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a group's name, or a mapping of names to members")
            }

            fn visit_str<E: de::Error>(self, names: &str) -> Result<Groups, E> {
                Ok(Groups(split(names).map(|name| (name, Vec::new())).collect()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Groups, A::Error> {
                let mut groups = Vec::new();
                while let Some((name, members)) = map.next_entry::<String, Option<Members>>()? {
                    groups.push((
                        name,
                        members.iter().flat_map(|members| &members.0).flat_map(|names| split(names)).collect(),
                    ));
                }
                Ok(Groups(groups))
            }
        }
        deserializer.deserialize_struct(yaml::STRUCT_OR_LIST, &[], NameOrMembers)
    }
}

impl JsonSchema for Groups {
    fn schema_name() -> Cow<'static, str> {
        "Group".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "A name, or a name with its members", "type": ["string", "object"],
            "additionalProperties": {"type": ["array", "string", "null"], "items": {"type": "string"}}})
    }
}

/// Sudo rules: a text, a list, or false.
///
/// # Errors
/// That it is none of these.
pub fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Rule(String);
    impl<'de> Deserialize<'de> for Rule {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let Spelled(rule) = Spelled::deserialize(deserializer)?;
            if rule.parse::<f64>().is_ok() {
                return Err(de::Error::custom("a number is no rule of sudo; write one such as ALL=(ALL) NOPASSWD:ALL"));
            }
            Ok(Rule(rule))
        }
    }
    let rules: Option<Vec<Rule>> = yaml::tolerant(deserializer)?;
    Ok(rules.map(|rules| rules.into_iter().map(|rule| rule.0).collect()))
}

/// Names of groups: a text with commas, a list, or the keys of a mapping.
///
/// # Errors
/// That it is none of these.
pub fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<Vec<String>>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("names of groups (text with commas, or a list)")
        }

        fn visit_str<E: de::Error>(self, names: &str) -> Result<Self::Value, E> {
            if scalar::boolean(names).is_some() {
                return Err(de::Error::custom("expected names of groups (text with commas, or a list)"));
            }
            Ok(Some(vec![names.to_owned()]))
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = seq.next_element::<String>()? {
                names.push(name);
            }
            Ok(Some(names))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some((name, _)) = map.next_entry::<String, de::IgnoredAny>()? {
                names.push(name);
            }
            Ok(Some(names))
        }
    }
    deserializer.deserialize_struct(yaml::STRUCT_OR_LIST, &[], Names)
}

/// A list, or what stands for a list of one: text, and false for no sudo rules.
pub fn words(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "string", "null", "boolean"], "items": {"type": "string"}})
}

/// Names between commas.
pub fn split(names: &str) -> impl Iterator<Item = String> {
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_schema::yaml;

    #[derive(serde::Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Keys {
        passwd: Password,
        inactive: Days,
        expiredate: Option<Date>,
        redirect: Redirect,
    }

    fn read(text: &str) -> (Option<Keys>, Vec<String>) {
        let (node, _) = yaml::parse("user-data", text).unwrap();
        let checked = yaml::read::<Keys>(&node, "");
        (checked.value, checked.diagnostics.iter().map(|d| format!("{}: {}", d.path, d.message)).collect())
    }

    #[test]
    fn passwords_keep_their_spelling_and_are_never_shown() {
        for spelling in ["12:30:45", "0644", "1e3", "no", "2012-09-01", "'  '"] {
            let password = read(&format!("passwd: {spelling}")).0.unwrap().passwd;
            assert_eq!(password.given(), Some(spelling.trim_matches('\'')), "{spelling}");
            assert_eq!(format!("{password:?}"), "Password(given)");
        }
        assert_eq!(read("passwd: ''").0.unwrap().passwd.given(), None);
    }

    #[test]
    fn days_and_dates_are_read_from_their_spelling() {
        for (text, days) in [("5", Some(5)), ("'5'", Some(5)), ("-1", Some(-1)), ("false", None), ("''", None)] {
            assert_eq!(read(&format!("inactive: {text}")).0.unwrap().inactive.0, days, "{text}");
        }
        for date in ["2032-09-01", "'2032-09-01'"] {
            let read = read(&format!("expiredate: {date}")).0.unwrap().expiredate;
            assert_eq!(read, Some(Date("2032-09-01".to_owned())), "{date}");
        }
    }

    #[test]
    fn what_is_neither_is_an_error_with_its_place() {
        let (_, messages) = read("{inactive: true, expiredate: next year, redirect: bob}");
        assert_eq!(
            messages,
            [
                "inactive: expected a number of days",
                "expiredate: expected a date such as 2032-09-01",
                "redirect: expected true, false or `default`",
            ]
        );
        assert!(read("redirect: default").0.unwrap().redirect.0);
    }
}
