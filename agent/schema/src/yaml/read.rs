//! A part of a tree read as a type, with everything that is worth telling of it.
//!
//! What serde cannot carry goes beside it: a warning for a key that a type does not know, and the
//! error of a list item that [`Each`](super::Each) leaves out. Both are kept in a thread-local list
//! while [`read`] runs, because a `Deserialize` implementation has no other way to say two things.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};

use super::de::{Error, Path, Reader, Tolerance};
use super::node::{Node, Place, Scalar, Value};
use crate::diagnostic::{Diagnostic, Severity};

/// More findings of one severity in one part are not told one by one: nobody reads them.
const MAX_FINDINGS: usize = 200;
/// More errors of one type's own fields are not looked for.
const MAX_ERRORS: usize = 50;

thread_local! {
    static FINDINGS: RefCell<Vec<Diagnostic>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a finding beside the value that is being read.
pub(super) fn tell(place: &Place, severity: Severity, finding: impl FnOnce() -> Diagnostic) {
    FINDINGS.with_borrow_mut(|findings| {
        let so_far = findings.iter().filter(|finding| finding.severity == severity).count();
        if so_far < MAX_FINDINGS {
            findings.push(finding());
        } else if so_far == MAX_FINDINGS {
            findings.push(place.diagnostic(severity, "", "more of this kind follow from here and are not listed"));
        }
    });
}

/// A value as far as it could be read, and everything that is wrong with it.
#[derive(Debug)]
pub struct Checked<T> {
    /// The value; none if an error stands at it rather than at an item of one of its lists.
    pub value: Option<T>,
    /// Errors and warnings, in the order of the document.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads a part of a tree as a type, and takes every spelling that can be meant.
///
/// `path` is the key under which the part stands, for the findings; empty at the root. Keys that the
/// type does not know are warnings, with the nearest known key as the suggestion.
pub fn read<T: DeserializeOwned>(node: &Node, path: &str) -> Checked<T> {
    whole(read_with(node, path, Tolerance::Everywhere))
}

/// The same, but with a value also where something is wrong: its fields have their defaults there.
///
/// For what must be done as far as it can be understood, such as the network's configuration.
pub fn read_rest<T: DeserializeOwned>(node: &Node, path: &str) -> Checked<T> {
    read_with(node, path, Tolerance::Everywhere).0
}

/// Reads a part of a tree as [`read`] does, and warns of spellings that other readers of cloud-config
/// refuse or take for something else: a quoted boolean, a number for text, one value for a list.
pub fn read_portable<T: DeserializeOwned>(node: &Node, path: &str) -> Checked<T> {
    whole(read_with(node, path, Tolerance::Nowhere))
}

fn whole<T>((checked, is_whole): (Checked<T>, bool)) -> Checked<T> {
    Checked { value: checked.value.filter(|_| is_whole), ..checked }
}

/// What can be read, and whether that is all of it.
fn read_with<T: DeserializeOwned>(node: &Node, path: &str, tolerance: Tolerance) -> (Checked<T>, bool) {
    let (result, mut diagnostics) = attempt(node, path, tolerance);
    let mut error = match result {
        Ok(value) => return (Checked { value: Some(value), diagnostics }, true),
        Err(error) => error.finding,
    };
    // A type stops at its first error. The others are found by reading again without what is wrong.
    let mut rest = node.clone();
    for _ in 0..MAX_ERRORS {
        let pruned = prune(&mut rest, &error);
        diagnostics.push(*error);
        if !pruned {
            break;
        }
        let (result, findings) = attempt::<T>(&rest, path, tolerance);
        for finding in findings {
            // What was taken out is nothing to tell of.
            if !diagnostics.contains(&finding) && !diagnostics.iter().any(|told| is_error_at(told, &finding)) {
                diagnostics.push(finding);
            }
        }
        match result {
            Ok(value) => return (Checked { value: Some(value), diagnostics }, false),
            Err(next) if !diagnostics.iter().any(|told| is_same_place(told, &next.finding)) => error = next.finding,
            Err(_) => break,
        }
    }
    (Checked { value: None, diagnostics }, false)
}

/// One reading, with what was told beside it.
fn attempt<T: DeserializeOwned>(node: &Node, path: &str, tolerance: Tolerance) -> (Result<T, Error>, Vec<Diagnostic>) {
    let outer = FINDINGS.take();
    let reader = Reader { node, path: Path::Start(path), tolerance };
    let result = reader.at_here(T::deserialize(reader));
    (result, FINDINGS.replace(outer))
}

/// Takes out the value that an error is about, so that its field has its default. False if there is none.
fn prune(node: &mut Node, error: &Diagnostic) -> bool {
    if stands_at(&node.place, error) {
        let something = !node.is_null();
        // A list keeps its length, as paths count its items.
        node.value = Value::Scalar(Scalar { text: String::new(), plain: true, tag: None });
        return something;
    }
    let mut pruned = false;
    match &mut node.value {
        Value::Scalar(_) => {}
        // An alias may have put the value in several places, so the search goes on after the first.
        Value::List(items) => items.iter_mut().for_each(|item| pruned |= prune(item, error)),
        Value::Map(entries) => {
            let before = entries.len();
            entries.retain(|entry| !stands_at(&entry.value.place, error));
            pruned = entries.len() < before;
            entries.iter_mut().for_each(|entry| pruned |= prune(&mut entry.value, error));
        }
    }
    pruned
}

/// Whether a finding stands where an error was told.
fn is_error_at(told: &Diagnostic, next: &Diagnostic) -> bool {
    told.severity == Severity::Error && (told.line, told.column) == (next.line, next.column)
}

/// What is told of a place that was wrong already follows from the first error there.
fn is_same_place(told: &Diagnostic, next: &Diagnostic) -> bool {
    told.severity == next.severity && told.line == next.line && told.column == next.column
}

fn stands_at(place: &Place, error: &Diagnostic) -> bool {
    Some(place.line) == error.line && Some(place.column) == error.column && place.source.name == error.source
}

/// The names of the fields of a struct: the keys that it reads.
pub fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    /// What stops the reading. It says nothing: every boot stops once for each handler, and text costs.
    #[derive(Debug)]
    struct Stop;
    impl fmt::Display for Stop {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("only the names were wanted")
        }
    }
    impl std::error::Error for Stop {}
    impl de::Error for Stop {
        fn custom<T: fmt::Display>(_: T) -> Self {
            Stop
        }
    }
    struct Names<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = Stop;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(Stop)
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Stop)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names: &'static [&'static str] = &[];
    let _ = T::deserialize(Names(&mut names));
    names
}
