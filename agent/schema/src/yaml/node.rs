//! The tree of a document: every value with its spelling and its place.

use std::sync::Arc;

use super::scalar;
use crate::diagnostic::{Diagnostic, Severity};

/// A document that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// What a person would call it: `user-data part 2`, `/etc/kiln/agent.yaml`.
    pub name: String,
    /// Its text, for excerpts.
    pub text: String,
}

/// A spot in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The document.
    pub source: Arc<Source>,
    /// From 1; 0 where the value stands in no line.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Place {
    /// A place in a document that has no lines, such as built-in defaults.
    pub fn whole(name: &str) -> Self {
        Place { source: Arc::new(Source { name: name.to_owned(), text: String::new() }), line: 0, column: 0 }
    }

    /// A finding at this place.
    pub fn diagnostic(&self, severity: Severity, path: &str, message: impl Into<String>) -> Diagnostic {
        let mut finding = Diagnostic::new(severity, self.source.name.clone(), message);
        path.clone_into(&mut finding.path);
        if self.line > 0 {
            finding.line = Some(self.line);
            finding.column = Some(self.column);
            finding.excerpt = self.source.text.lines().nth(self.line - 1).map(|l| l.trim_end().to_owned());
        }
        finding
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Its first character.
    pub place: Place,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text of some spelling; a type decides what it means.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the document; keys are unique.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key as spelled.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// The value.
    pub value: Node,
}

/// A scalar as spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// The text, quotes and escapes resolved.
    pub text: String,
    /// Neither quoted nor a block: only a plain scalar can be a null, and an untyped one a number.
    pub plain: bool,
    /// The name of a standard tag (`int`, `str`, `binary`), where the document wrote one.
    pub tag: Option<String>,
}

impl Scalar {
    /// `~`, `null` or nothing at all.
    pub fn is_null(&self) -> bool {
        match self.tag.as_deref() {
            Some(tag) => tag == "null",
            None => self.plain && scalar::is_null(&self.text),
        }
    }
}

impl Node {
    /// An empty mapping.
    pub fn empty_map(place: Place) -> Self {
        Node { value: Value::Map(Vec::new()), place }
    }

    /// A node for a value that no document spells, such as what a datasource tells.
    pub fn from_json(json: &serde_json::Value, place: &Place) -> Self {
        use serde_json::Value as Json;
        let plain = |text: String| Value::Scalar(Scalar { text, plain: true, tag: None });
        let value = match json {
            Json::Null => plain(String::new()),
            Json::Bool(truth) => plain(truth.to_string()),
            Json::Number(number) => plain(number.to_string()),
            Json::String(text) => Value::Scalar(Scalar { text: text.clone(), plain: false, tag: None }),
            Json::Array(items) => Value::List(items.iter().map(|item| Node::from_json(item, place)).collect()),
            Json::Object(fields) => Value::Map(
                fields
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        place: place.clone(),
                        value: Node::from_json(value, place),
                    })
                    .collect(),
            ),
        };
        Node { value, place: place.clone() }
    }

    /// What an untyped YAML 1.1 reader makes of the tree; dates keep their spelling.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar::untyped(scalar),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                serde_json::Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect())
            }
        }
    }

    /// The entries of a mapping; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// `~`, `null` or nothing at all.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// The kind of value, with its article, as an error names it. It never tells the value: that may be a password.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() => "nothing",
            Value::Scalar(scalar) => match scalar::untyped(scalar) {
                serde_json::Value::Bool(_) => "a boolean",
                serde_json::Value::Number(_) => "a number",
                _ => "text",
            },
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// A finding at this value.
    pub fn diagnostic(&self, severity: Severity, path: &str, message: impl Into<String>) -> Diagnostic {
        self.place.diagnostic(severity, path, message)
    }
}
