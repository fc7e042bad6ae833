//! `merge_how`: how a later part of the user-data is laid over the parts before it.
//!
//! It is a text, `list(append)+dict(no_replace,recurse_list)+str()`, or a list of `{name, settings}`; it
//! stands in the part itself (also as `merge_type`) or in its MIME header, and is for that part alone.

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::{self, Node, Scalar, Value};
use schemars::{Schema, json_schema};
use serde::Deserialize;

/// The key's two names.
pub const KEYS: &[&str] = &["merge_how", "merge_type"];

/// The settings of all kinds of values.
const SETTINGS: [&str; 9] = [
    "allow_delete",
    "no_replace",
    "replace",
    "append",
    "prepend",
    "recurse_dict",
    "recurse_list",
    "recurse_array",
    "recurse_str",
];

/// The JSON schema of the key, under both names.
pub fn schema() -> Schema {
    json_schema!({"properties": {
        "merge_how": {
            "description": "How this part of the user-data is laid over the parts before it: a text such as \
                `list(append)+dict(no_replace)+str()`, or the same as a list. For this part alone.",
            "oneOf": [{"type": "string"}, {"type": "array", "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "`dict`, `list` or `str`."},
                    "settings": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": format!("What is done with two of them, of `{}`.", SETTINGS.join("`, `")),
                    },
                },
                "required": ["name"],
            }}],
        },
        "merge_type": {"description": "Another name of `merge_how`.", "type": ["string", "array"]},
    }})
}

/// What is done with two values of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mergers {
    dict: Option<Vec<String>>,
    list: Option<Vec<String>>,
    text: Option<Vec<String>>,
}

impl Mergers {
    /// Reads the form of a list, or of a text; with what is worth a warning. `path` is its key.
    ///
    /// # Errors
    /// A sentence.
    pub fn of_node(node: &Node, path: &str) -> Result<(Self, Vec<Diagnostic>), String> {
        #[derive(Deserialize)]
        struct Merger {
            name: String,
            #[serde(default)]
            settings: Vec<String>,
        }
        match &node.value {
            Value::Scalar(text) => Ok((Self::of_text(&text.text)?, Vec::new())),
            _ => {
                let checked = yaml::read_portable::<Vec<Merger>>(node, path);
                let Some(list) = checked.value else {
                    let error = checked.diagnostics.iter().rfind(|finding| finding.severity == Severity::Error);
                    let why = error.map_or_else(String::new, |d| d.message.clone());
                    return Err(format!(
                        "it is a text such as `list(append)+dict()`, or a list of `name` and `settings`: {why}"
                    ));
                };
                let mut mergers = Mergers::default();
                list.into_iter().try_for_each(|merger| mergers.add(&merger.name, merger.settings))?;
                Ok((mergers, checked.diagnostics))
            }
        }
    }

    /// Reads the form of a text.
    ///
    /// # Errors
    /// A sentence.
    pub fn of_text(text: &str) -> Result<Self, String> {
        let mut mergers = Mergers::default();
        for word in text.split('+').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, settings) = match word.split_once('(') {
                Some((name, rest)) => (name, rest.strip_suffix(')').ok_or("a bracket is not closed")?),
                None => (word, ""),
            };
            mergers.add(name, settings.split(',').map(str::to_owned).collect())?;
        }
        Ok(mergers)
    }

    fn add(&mut self, name: &str, settings: Vec<String>) -> Result<(), String> {
        let slot = match name.trim() {
            "dict" => &mut self.dict,
            "list" => &mut self.list,
            "str" => &mut self.text,
            _ => return Err("it knows `dict`, `list` and `str` alone".to_owned()),
        };
        let settings: Vec<String> =
            settings.iter().map(|s| s.trim().to_lowercase()).filter(|s| !s.is_empty()).collect();
        if let Some(unknown) = settings.iter().find(|setting| !SETTINGS.contains(&setting.as_str())) {
            return Err(format!("`{unknown}` is no setting; there are {}", SETTINGS.join(", ")));
        }
        slot.get_or_insert(settings);
        Ok(())
    }

    /// These, and others for the kinds that these say nothing of.
    pub fn or(self, other: Mergers) -> Mergers {
        Mergers { dict: self.dict.or(other.dict), list: self.list.or(other.list), text: self.text.or(other.text) }
    }

    /// Lays a value over another. A kind without a merger keeps the old value.
    pub fn merge(&self, old: Node, new: Node) -> Node {
        let place = old.place.clone();
        match (old.value, &self.dict, &self.list, &self.text) {
            (Value::Map(entries), Some(how), ..) => match new.value {
                Value::Map(new_entries) => {
                    let value = Value::Map(self.maps(entries, new_entries, how));
                    Node { value, place }
                }
                _ => Node { value: Value::Map(entries), place },
            },
            (Value::List(items), _, Some(how), _) => match new.value {
                Value::List(new_items) => Node { value: Value::List(self.lists(items, new_items, how)), place },
                _ if has(how, &["append", "prepend", "no_replace"]) => Node { value: Value::List(items), place },
                value => Node { value, place: new.place },
            },
            (Value::Scalar(text), _, _, Some(how)) if is_text(&text) => match new.value {
                Value::Scalar(more) if has(how, &["append"]) => {
                    let text = Scalar { text: text.text + &more.text, plain: false, tag: None };
                    Node { value: Value::Scalar(text), place }
                }
                value => Node { value, place: new.place },
            },
            (value, ..) => Node { value, place },
        }
    }

    fn maps(&self, mut entries: Vec<yaml::Entry>, new: Vec<yaml::Entry>, how: &[String]) -> Vec<yaml::Entry> {
        for entry in new {
            let Some(at) = entries.iter().position(|e| e.key == entry.key) else {
                entries.push(entry);
                continue;
            };
            if entry.value.is_null() && has(how, &["allow_delete"]) {
                entries.remove(at);
                continue;
            }
            let recurse = match &entry.value.value {
                Value::List(_) => has(how, &["recurse_list", "recurse_array"]),
                Value::Scalar(text) => is_text(text) && has(how, &["recurse_str"]),
                Value::Map(_) => true,
            };
            if has(how, &["replace"]) {
                entries[at] = entry;
            } else if recurse {
                let hole = Node::empty_map(entry.place.clone());
                let old = std::mem::replace(&mut entries[at].value, hole);
                entries[at].value = self.merge(old, entry.value);
            }
        }
        entries
    }

    fn lists(&self, mut items: Vec<Node>, mut new: Vec<Node>, how: &[String]) -> Vec<Node> {
        if has(how, &["append"]) {
            items.append(&mut new);
        } else if has(how, &["prepend"]) {
            new.append(&mut items);
            return new;
        } else if !has(how, &["no_replace"]) {
            for (old, new) in items.iter_mut().zip(new) {
                let recurse = match &new.value {
                    Value::List(_) => has(how, &["recurse_list", "recurse_array"]),
                    Value::Scalar(text) => is_text(text) && has(how, &["recurse_str"]),
                    Value::Map(_) => has(how, &["recurse_dict"]),
                };
                *old = if recurse { self.merge(old.clone(), new) } else { new };
            }
        }
        items
    }
}

fn has(how: &[String], any: &[&str]) -> bool {
    how.iter().any(|setting| any.contains(&setting.as_str()))
}

fn is_text(scalar: &Scalar) -> bool {
    yaml::scalar::untyped(scalar).is_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(how: &str, old: &str, new: &str) -> String {
        let node = |text: &str| yaml::parse("t", text).unwrap().0;
        Mergers::of_text(how).unwrap().merge(node(old), node(new)).to_json().to_string()
    }

    #[test]
    fn every_setting_does_what_its_name_says() {
        let old = "{l: [1, 2], d: {x: 1}, s: a, n: 1, only: 1}";
        let new = "{l: [3], d: {x: 2, y: 2}, s: b, n: 2, more: 2}";
        for (how, result) in [
            ("dict()", r#"{"l":[1,2],"d":{"x":1,"y":2},"s":"a","n":1,"only":1,"more":2}"#),
            ("dict(replace)", r#"{"l":[3],"d":{"x":2,"y":2},"s":"b","n":2,"only":1,"more":2}"#),
            (
                "list(append)+dict(no_replace, recurse_list)+str()",
                r#"{"l":[1,2,3],"d":{"x":1,"y":2},"s":"a","n":1,"only":1,"more":2}"#,
            ),
            (
                "dict(recurse_array,recurse_str)+list(prepend)+str(append)",
                r#"{"l":[3,1,2],"d":{"x":1,"y":2},"s":"ab","n":1,"only":1,"more":2}"#,
            ),
            ("dict(recurse_list)+list()", r#"{"l":[3,2],"d":{"x":1,"y":2},"s":"a","n":1,"only":1,"more":2}"#),
            ("dict(recurse_list)+list(no_replace)", r#"{"l":[1,2],"d":{"x":1,"y":2},"s":"a","n":1,"only":1,"more":2}"#),
        ] {
            assert_eq!(merged(how, old, new), result, "{how}");
        }
        assert_eq!(merged("dict(allow_delete)", "{a: 1, b: 1}", "{a: ~}"), r#"{"b":1}"#);
        assert_eq!(merged("list(append)", "{a: 1}", "{a: 2}"), r#"{"a":1}"#);
    }

    #[test]
    fn both_forms_are_read_and_a_wrong_one_is_told() {
        let node =
            yaml::parse("t", "[{name: list, settings: [append]}, {name: dict, settings: [no_replace, recurse_list]}]")
                .unwrap()
                .0;
        let text = Mergers::of_text("list(append)+dict(no_replace,recurse_list)").unwrap();
        assert_eq!(Mergers::of_node(&node, "merge_how").unwrap(), (text, Vec::new()));
        let odd = yaml::parse("t", "{name: list, settings: append, badkey: 1}").unwrap().0;
        let (read, told) = Mergers::of_node(&odd, "merge_how").unwrap();
        assert_eq!(read, Mergers::of_text("list(append)").unwrap());
        let mut told: Vec<_> = told.iter().map(|finding| finding.path.as_str()).collect();
        told.sort_unstable();
        assert_eq!(told, ["merge_how", "merge_how.badkey", "merge_how.settings"]);
        assert!(Mergers::of_text("set(append)").unwrap_err().contains("it knows"));
        assert!(Mergers::of_text("list(append").unwrap_err().contains("not closed"));
        let wrong = yaml::parse("t", "[{settings: [append]}]").unwrap().0;
        assert!(Mergers::of_node(&wrong, "merge_how").unwrap_err().contains("`name` is missing"));
    }
}
