//! User-data: bytes to parts. Pure functions with limits on size, depth and number; nothing here has effects.
//!
//! A document is a container (gzip, base64, MIME) or a part. What a part is, its first line says
//! (`#cloud-config`, `#!`), or its MIME type: `kinds` has the table. A part that cannot be used is a
//! diagnostic, and the other parts count.

mod expand;
mod kinds;
mod merge;
mod merge_how;
mod mime;

use kiln_schema::Severity;
use kiln_schema::diagnostic::{Diagnostic, nearest};
use kiln_schema::yaml::{self, Node, Place, Value};

pub use expand::gunzip;
use kinds::Kind;
pub use merge::{layer, part};
use merge_how::Mergers;

/// Most bytes that a document may become once it is expanded.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most containers in one another.
const MAX_DEPTH: usize = 10;
/// Most parts.
const MAX_PARTS: usize = 1000;

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
    /// Scripts, in the order of their names.
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
    let mut reader = Reader { name, data: UserData::empty(name), parts: 0, bytes_left: MAX_BYTES, configs: 0 };
    reader.read(Item { bytes, kind: None, file_name: None, merge: None, in_mime: false, depth: 0 });
    reader.data.scripts.sort_by(|a, b| a.name.cmp(&b.name));
    reader.data
}

/// A piece of user-data on its way to be a part.
struct Item<'a> {
    bytes: &'a [u8],
    /// What its MIME type says it is; else its first line decides.
    kind: Option<Kind>,
    file_name: Option<String>,
    /// How its MIME header wants it merged.
    merge: Option<String>,
    in_mime: bool,
    /// Containers around it.
    depth: usize,
}

struct Reader<'a> {
    name: &'a str,
    data: UserData,
    /// Parts of MIME documents so far.
    parts: usize,
    /// What may still be expanded.
    bytes_left: usize,
    /// Documents that were merged.
    configs: usize,
}

impl Reader<'_> {
    fn read(&mut self, item: Item<'_>) {
        if item.depth > MAX_DEPTH {
            return self.refuse(&item, format!("containers in containers, more than {MAX_DEPTH} deep"));
        }
        if expand::is_gzip(item.bytes) {
            return match gunzip(item.bytes, self.bytes_left) {
                Ok(bytes) => {
                    self.bytes_left -= bytes.len();
                    self.read(Item { bytes: &bytes, depth: item.depth + 1, ..item });
                }
                Err(why) => self.refuse(&item, why),
            };
        }
        let text = kinds::without_lead(item.bytes);
        if text.is_empty() {
            return;
        }
        let sniffed = kinds::of_first_line(text);
        if let Some(kind) = item.kind.or(sniffed) {
            return self.part(&item, kind);
        }
        if mime::is_mime(text) {
            return self.mime(text, &item);
        }
        if let Some(bytes) = expand::base64(text).filter(|_| !item.in_mime) {
            return self.read(Item { bytes: &bytes, depth: item.depth + 1, ..item });
        }
        self.unknown(&item, text);
    }

    fn part(&mut self, item: &Item<'_>, kind: Kind) {
        let source = self.label(item);
        match kind {
            Kind::CloudConfig => self.cloud_config(&source, item),
            Kind::Script => {
                let name = self.script_name(item.file_name.as_deref());
                let body = kinds::with_unix_lines(kinds::without_lead(item.bytes));
                self.data.scripts.push(Script { name, body });
            }
            Kind::Unsupported(what, instead) => {
                let message = format!("{what} is not run by this agent; {instead}");
                self.data.diagnostics.push(Diagnostic::error(source, message));
            }
        }
    }

    fn cloud_config(&mut self, source: &str, item: &Item<'_>) {
        let text = match kinds::text(item.bytes) {
            Ok(text) => text,
            Err((line, why)) => {
                let mut finding = Diagnostic::error(source, why);
                finding.line = line;
                return self.data.diagnostics.push(finding);
            }
        };
        match yaml::parse(source, text) {
            Ok((node, warnings)) => {
                self.data.diagnostics.extend(warnings);
                if node.is_null() {
                    return;
                }
                if !matches!(node.value, Value::Map(_)) {
                    let message = format!("the document must be a mapping of keys, not {}", node.kind());
                    let finding = node.diagnostic(Severity::Error, "", message);
                    return self.data.diagnostics.push(finding);
                }
                let (node, mergers) = self.mergers(source, node, item.merge.as_deref());
                let so_far = std::mem::replace(&mut self.data.config, Node::empty_map(node.place.clone()));
                self.data.config = match mergers {
                    _ if self.configs == 0 => node,
                    Some(mergers) => mergers.merge(so_far, node),
                    None => part(so_far, node),
                };
                self.configs += 1;
            }
            Err(finding) => self.data.diagnostics.push(*finding),
        }
    }

    /// Takes `merge_how` out of a part: what it says, and then what the header says.
    fn mergers(&mut self, source: &str, mut node: Node, header: Option<&str>) -> (Node, Option<Mergers>) {
        let mut found: Option<Mergers> = None;
        if let Value::Map(entries) = &mut node.value {
            let named = |entry: &yaml::Entry| ["merge_how", "merge_type"].contains(&entry.key.as_str());
            for entry in entries.extract_if(.., |entry| named(entry)) {
                match Mergers::of_node(&entry.value) {
                    Ok(mergers) => found = Some(found.unwrap_or_default().or(mergers)),
                    Err(why) => {
                        self.data.diagnostics.push(entry.value.diagnostic(Severity::Error, &entry.key, why));
                    }
                }
            }
        }
        match header.map(Mergers::of_text) {
            Some(Ok(mergers)) => found = Some(found.unwrap_or_default().or(mergers)),
            Some(Err(why)) => {
                let message = format!("the header Merge-Type cannot be used: {why}");
                self.data.diagnostics.push(Diagnostic::error(source, message));
            }
            None => {}
        }
        (node, found)
    }

    fn mime(&mut self, text: &[u8], item: &Item<'_>) {
        let (parts, problem) = mime::split(text);
        if let Some(problem) = problem {
            let mut finding = Diagnostic::error(self.label(item), problem.message);
            if problem.is_warning {
                finding.severity = Severity::Warning;
            }
            self.data.diagnostics.push(finding);
        }
        for part in parts {
            if self.parts >= MAX_PARTS {
                let message = format!("there are more than {MAX_PARTS} parts; the rest is not read");
                let finding = Diagnostic::error(self.name, message);
                if !self.data.diagnostics.contains(&finding) {
                    self.data.diagnostics.push(finding);
                }
                return;
            }
            let mut inner =
                Item { bytes: &[], kind: None, file_name: None, merge: None, in_mime: true, depth: item.depth + 1 };
            let part = match part {
                Ok(part) => part,
                Err(why) => {
                    self.refuse(&inner, why);
                    continue;
                }
            };
            if part.has_launch_index {
                let source = format!("{} part {}", self.name, self.parts + 1);
                let message = "the header Launch-Index is not heeded; the part is used like any other";
                self.data.diagnostics.push(Diagnostic::warning(source, message));
            }
            inner.file_name = part.file_name;
            inner.merge = part.merge;
            inner.bytes = &part.body;
            match kinds::of_mime_type(&part.mime_type) {
                kinds::Declared::Sniff => self.read(inner),
                kinds::Declared::Container => self.read(Item { in_mime: true, ..inner }),
                kinds::Declared::Script => {
                    let kind = kinds::of_first_line(kinds::without_lead(&part.body)).unwrap_or(Kind::Script);
                    self.read(Item { kind: Some(kind), ..inner });
                }
                kinds::Declared::Kind(kind) => self.read(Item { kind: Some(kind), ..inner }),
                kinds::Declared::Unknown => {
                    let message = format!("the type {} is not one of user-data", part.mime_type);
                    self.refuse(&inner, message);
                }
            }
        }
    }

    fn unknown(&mut self, item: &Item<'_>, text: &[u8]) {
        if let Err((_, why)) = kinds::text(item.bytes) {
            return self.refuse(item, why);
        }
        let source = self.label(item);
        let first = String::from_utf8_lossy(text);
        let first: String = first.lines().next().unwrap_or_default().trim_end().chars().take(40).collect();
        let message = "not a kind of user-data: the first line must be `#cloud-config` or `#!` and an interpreter";
        let mut finding = Diagnostic::error(source, message);
        finding.suggestion = nearest(&first.to_lowercase(), ["#cloud-config"]);
        self.data.diagnostics.push(finding);
    }

    fn refuse(&mut self, item: &Item<'_>, why: String) {
        let source = self.label(item);
        self.data.diagnostics.push(Diagnostic::error(source, why));
    }

    /// Counts a part, and names it: `user-data`, or `user-data part 2` of a MIME document.
    fn label(&mut self, item: &Item<'_>) -> String {
        if !item.in_mime {
            return self.name.to_owned();
        }
        self.parts += 1;
        format!("{} part {}", self.name, self.parts)
    }

    /// The name that the part asks for, as one safe and unused file name.
    fn script_name(&self, asked: Option<&str>) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._-+".contains(c) { c } else { '_' };
        let last = asked.and_then(|name| name.rsplit(['/', '\\']).next()).unwrap_or_default();
        let name: String = last.trim_start_matches('.').chars().take(100).map(safe).collect();
        let name = if name.is_empty() { format!("part-{:03}", self.parts.max(1)) } else { name };
        let taken = |name: &String| self.data.scripts.iter().any(|script| script.name == *name);
        let mut numbered = (2..).map(|number| format!("{name}-{number}"));
        if taken(&name) { numbered.find(|name| !taken(name)).unwrap_or(name) } else { name }
    }
}

#[cfg(test)]
mod tests;
