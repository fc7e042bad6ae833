//! User-data: bytes to parts. Pure functions with limits on size and depth; nothing here has effects.
//!
//! What a part is, its first line says (`#cloud-config`, `#!`), or its MIME type.

mod merge;

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::yaml::{self, Node, Place};

pub use merge::{layer, part};

/// A script to run in the final stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// File name, without a folder.
    pub name: String,
    /// The script, from `#!` on.
    pub body: Vec<u8>,
}

/// What user-data amounts to.
#[derive(Clone, Debug)]
pub struct UserData {
    /// All cloud-config parts, merged.
    pub config: Node,
    /// Scripts, in the order of the parts.
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

/// Reads user-data. A part that cannot be used is a diagnostic; the other parts count.
pub fn parse(name: &str, bytes: &[u8]) -> UserData {
    let mut data = UserData::empty(name);
    let text = String::from_utf8_lossy(bytes);
    let head = text.trim_start();
    if head.is_empty() {
        return data;
    }
    if head.starts_with("#cloud-config") {
        match yaml::parse(name, &text) {
            Ok((node, warnings)) => {
                data.config = node;
                data.diagnostics.extend(warnings);
            }
            Err(finding) => data.diagnostics.push(*finding),
        }
    } else if head.starts_with("#!") {
        data.scripts.push(Script { name: "part-001".to_owned(), body: head.as_bytes().to_vec() });
    } else {
        let message = "not a kind of user-data: the first line must be `#cloud-config` or `#!`";
        data.diagnostics.push(Diagnostic::error(name, message));
    }
    data
}
