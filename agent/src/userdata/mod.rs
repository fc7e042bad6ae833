//! User-data: bytes to parts. Pure functions with limits on size, depth and number; nothing here has effects:
//! what a document needs of the outside comes with its [`Surroundings`].
//!
//! A document is a container (gzip, base64, MIME, an archive, a list of addresses) or a part. What a part is,
//! its first line says (`#cloud-config`, `#!`), or its MIME type: `kinds` has the table. A part that cannot be
//! used is a diagnostic, and the other parts count.

mod archive;
mod documents;
mod expand;
mod include;
mod jinja;
mod kinds;
mod merge;
pub mod merge_how;
mod mime;
mod patch;
mod reader;

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::yaml::{Node, Place, Value};

pub use expand::gunzip;
pub use include::Fetch;
pub use merge::{layer, part};
use reader::{Document, Item, Reader};

/// Most bytes that a document may become once it is expanded.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most containers in one another.
const MAX_DEPTH: usize = 10;
/// Most parts.
const MAX_PARTS: usize = 1000;

/// When a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At every boot, before anything else is done.
    Hook,
    /// At every boot, in the final stage.
    EveryBoot,
    /// Once an instance, before the user's other scripts.
    OnceAnInstance,
    /// Once in the life of a disk.
    OnceADisk,
    /// Once an instance, when everything else is done.
    Last,
}

/// A script to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// File name, without a folder.
    pub name: String,
    /// The script, from `#!` on.
    pub body: Vec<u8>,
    /// Its turn.
    pub when: When,
    /// It came with the vendor-data.
    pub of_vendor: bool,
}

/// What user-data amounts to.
#[derive(Clone, Debug)]
pub struct UserData {
    /// All cloud-config parts, merged.
    pub config: Node,
    /// Scripts of every kind, in the order of their names.
    pub scripts: Vec<Script>,
    /// What is wrong with it.
    pub diagnostics: Vec<Diagnostic>,
}

impl UserData {
    /// No parts at all. `name` is what a person would call the document: `user-data`.
    pub fn empty(name: &str) -> Self {
        UserData { config: Node::empty_map(Place::whole(name)), scripts: Vec::new(), diagnostics: Vec::new() }
    }
}

/// What user-data is read with.
#[derive(Default)]
pub struct Surroundings<'a> {
    /// What templates may use; none where there is no instance, and templates are looked at for their form.
    pub variables: Option<&'a dyn Fn() -> serde_json::Value>,
    /// The machine's number in its launch; without one it takes every part.
    pub launch_index: Option<u32>,
    /// Who gets included documents; without one they are left out, and their addresses looked at.
    pub fetcher: Option<&'a dyn Fetch>,
}

/// Reads user-data. A part that cannot be used is a diagnostic; the other parts count.
pub fn parse(name: &str, bytes: &[u8], surroundings: &Surroundings<'_>) -> UserData {
    let mut reader = Reader::new(name, surroundings);
    reader.read(Item { bytes, ..Item::default() });
    reader.data.scripts.sort_by(|a, b| a.name.cmp(&b.name));
    reader.data
}

/// Whether a document has nothing in it but its header: that reads as an empty mapping, also where a list belongs.
fn is_nothing(root: &Node) -> bool {
    root.is_null() || matches!(&root.value, Value::Map(entries) if entries.is_empty())
}

#[cfg(test)]
mod tests;
