//! What a reader of the tree walks through: the items of a list, the fields of a mapping, a word.

use std::fmt;

use serde::de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::de::{Error, Path, Reader, Tolerance};
use super::node::{Entry, Node};
use super::read::tell;
use crate::diagnostic::{Severity, nearest};

pub(super) struct Expecting<'a, V>(pub &'a V);

impl<'de, V: Visitor<'de>> fmt::Display for Expecting<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

pub(super) struct Items<'de, 'p> {
    pub items: &'de [Node],
    pub path: &'p Path<'p>,
    pub next: usize,
    /// The one item is the value itself, so its path has no index.
    pub lone: bool,
    /// That of the items.
    pub tolerance: Tolerance,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(node) = self.items.get(self.next) else {
            return Ok(None);
        };
        let path = if self.lone { *self.path } else { Path::Index(self.path, self.next) };
        self.next += 1;
        let reader = Reader { node, path, tolerance: self.tolerance };
        reader.at_here(seed.deserialize(reader)).map(Some)
    }
}

/// A sequence of the one value that may fail: over before it began where the value cannot be read.
pub(super) struct One<'de, 'p>(pub Option<Reader<'de, 'p>>);

impl<'de> SeqAccess<'de> for One<'de, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(reader) = self.0.take() else {
            return Ok(None);
        };
        match reader.at_here(seed.deserialize(reader)) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                tell(&reader.node.place, Severity::Error, || *error.finding);
                Ok(None)
            }
        }
    }
}

pub(super) struct Fields<'de, 'p> {
    pub entries: &'de [Entry],
    pub path: &'p Path<'p>,
    pub current: Option<&'de Entry>,
    /// The fields of a struct; a map takes any key.
    pub known: Option<&'static [&'static str]>,
    /// That of the values.
    pub tolerance: Tolerance,
}

impl<'de> MapAccess<'de> for Fields<'de, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        while let Some((entry, rest)) = self.entries.split_first() {
            self.entries = rest;
            if let Some(known) = self.known
                && !known.contains(&entry.key.as_str())
            {
                tell(&entry.place, Severity::Warning, || {
                    let path = Path::Key(self.path, &entry.key).to_string();
                    let mut finding = entry.place.diagnostic(Severity::Warning, &path, "unknown key");
                    finding.suggestion = nearest(&entry.key, known.iter().copied());
                    finding
                });
                continue;
            }
            // A key without a value is as good as absent: the field has its default.
            if self.known.is_some() && entry.value.is_null() {
                // At the top such a key can say something: `ntp:` wants the defaults.
                if self.tolerance == Tolerance::Nowhere && !matches!(self.path, Path::Start("")) {
                    tell(&entry.place, Severity::Warning, || {
                        let path = Path::Key(self.path, &entry.key).to_string();
                        let message = "the key has no value, so it is as if it were not there";
                        entry.place.diagnostic(Severity::Warning, &path, message)
                    });
                }
                continue;
            }
            self.current = Some(entry);
            let key = seed.deserialize(entry.key.as_str().into_deserializer());
            return key.map(Some).map_err(|error: Error| {
                let path = Path::Key(self.path, &entry.key).to_string();
                let found = if error.is_mismatch { ", found text" } else { "" };
                let message = format!("the key: {}{found}", error.finding.message);
                let mut placed = entry.place.diagnostic(Severity::Error, &path, message);
                placed.suggestion = error.finding.suggestion;
                Error { finding: Box::new(placed), is_mismatch: false }
            });
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.current.take() {
            Some(entry) => {
                let path = Path::Key(self.path, &entry.key);
                let reader = Reader { node: &entry.value, path, tolerance: self.tolerance };
                reader.at_here(seed.deserialize(reader))
            }
            None => Err(de::Error::custom("a value without its key")),
        }
    }
}

pub(super) struct Word<'de, 'p>(pub Reader<'de, 'p>);

impl<'de> EnumAccess<'de> for Word<'de, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        Ok((seed.deserialize(self.0)?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'de, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(self.0.expected("a word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(self.0.expected("a word"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(self.0.expected("a word"))
    }
}
