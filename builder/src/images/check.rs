//! What must fit together in kiln.yaml, each finding at the place where the mistake stands.

use std::path::Path;

use indexmap::IndexMap;
use kiln_schema::diagnostic::{Diagnostic, Severity, nearest};
use kiln_schema::yaml::{Node, Place, Value};

use super::types::{File, From, Image};
use super::{Endpoint, Target};
use crate::packer::scrub;

/// Owners of images that are names and not account numbers.
const NAMED_OWNERS: [&str; 3] = ["self", "amazon", "aws-marketplace"];

/// A step on the way from the root of the document to a value.
#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Item(usize),
}
use Step::{Item, Key};

/// Collects what is wrong.
pub(super) struct Checker<'a> {
    root: &'a Node,
    folder: &'a Path,
    pub findings: Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    pub fn new(root: &'a Node, folder: &'a Path) -> Self {
        Checker { root, folder, findings: Vec::new() }
    }

    /// Checks images and defaults.
    pub fn check(&mut self, file: &File) {
        if let Some(target) = &file.defaults.target
            && !file.targets.contains_key(target)
        {
            self.unknown(&[Key("defaults"), Key("target")], "target", target, file.targets.keys());
        }
        for (name, image) in &file.images {
            let at = [Key("images"), Key(name)];
            self.nameable(&at, name);
            let texts = [("version", &image.version), ("build", &image.build), ("release", &image.release)];
            for (key, text) in texts {
                if let Some(text) = text {
                    self.nameable(&[at[0], at[1], Key(key)], text);
                }
            }
            self.base(name, image, file);
            self.inputs(name, image);
            self.user_data(name);
        }
    }

    /// The targets, checked.
    pub fn targets(&mut self, file: &File) -> IndexMap<String, Target> {
        let mut checked = IndexMap::new();
        for (name, target) in &file.targets {
            let endpoint = match target.endpoint.as_deref() {
                None => Endpoint::Aws,
                Some("lab") => Endpoint::Lab,
                Some(url) if url.starts_with("http://") || url.starts_with("https://") => Endpoint::Url(url.to_owned()),
                Some(_) => {
                    let at = [Key("targets"), Key(name), Key("endpoint")];
                    self.report(&at, "neither `lab` nor an address that begins with http:// or https://");
                    continue;
                }
            };
            let region = target.region.as_ref().or(file.defaults.region.as_ref()).cloned();
            let plugin_path = target.packer.as_ref().and_then(|packer| packer.plugin_path.as_ref());
            let plugin_path = plugin_path.map(|path| self.folder.join(path));
            let target = Target { name: name.clone(), endpoint, region, plugin_path };
            checked.insert(name.clone(), target);
        }
        checked
    }

    fn base(&mut self, name: &str, image: &Image, file: &File) {
        let at = [Key("images"), Key(name), Key("from")];
        match &image.from {
            From::Image(base) if !file.images.contains_key(base) => {
                self.unknown(&at, "image", base, file.images.keys());
            }
            From::Image(_) => {
                // Told once, at the image of the circle that stands first.
                if let Some(circle) = circle(name, file)
                    && circle.iter().all(|other| file.images.get_index_of(*other) >= file.images.get_index_of(name))
                {
                    self.report(&at, format!("images are built on each other: {}", circle.join(" -> ")));
                }
            }
            From::Ami(filter) => {
                let ami = [at[0], at[1], at[2], Key("ami")];
                if filter.owners.is_empty() {
                    self.report(
                        &ami,
                        "the key `owners` is missing: list the accounts you trust, because anyone can publish an \
                         image under any name",
                    );
                }
                for (index, owner) in filter.owners.iter().enumerate() {
                    let account = owner.len() == 12 && owner.bytes().all(|byte| byte.is_ascii_digit());
                    if !account && !NAMED_OWNERS.contains(&owner.as_str()) {
                        self.report(
                            &[ami[0], ami[1], ami[2], ami[3], Key("owners"), Item(index)],
                            format!(
                                "`{owner}` is no account: write its 12 digits in quotes, or self, amazon or \
                                 aws-marketplace"
                            ),
                        );
                    }
                }
            }
        }
    }

    fn inputs(&mut self, name: &str, image: &Image) {
        for (index, script) in image.provision.iter().enumerate() {
            let at = [Key("images"), Key(name), Key("provision"), Item(index)];
            let path = self.folder.join(script);
            if path.is_dir() {
                self.report(&at, format!("`{script}` is a folder; name the script"));
            } else if !path.is_file() {
                self.report(&at, format!("there is no file `{script}` beside kiln.yaml"));
            }
        }
        for (index, test) in image.tests.iter().enumerate() {
            self.exists(&[Key("images"), Key(name), Key("tests"), Item(index)], test);
        }
        for (index, file) in image.files.iter().enumerate() {
            let at = [Key("images"), Key(name), Key("files"), Item(index)];
            self.exists(&[at[0], at[1], at[2], at[3], Key("source")], &file.source);
            let at = [at[0], at[1], at[2], at[3], Key("destination")];
            if !file.destination.starts_with('/') {
                self.report(&at, format!("`{}` is not an absolute path", file.destination));
            } else if file.destination.chars().any(char::is_control) {
                self.report(&at, "a path with a control character in it");
            }
        }
    }

    fn exists(&mut self, at: &[Step<'_>], given: &str) {
        if !self.folder.join(given).exists() {
            self.report(at, format!("there is no file or folder `{given}` beside kiln.yaml"));
        }
    }

    fn user_data(&mut self, name: &str) {
        let at = [Key("images"), Key(name), Key("user_data")];
        let Some(node) = self.find(&at).filter(|node| !node.is_null()) else { return };
        if !matches!(node.value, Value::Map(_)) {
            self.report(&at, format!("expected a mapping, found {}", node.kind()));
        }
        for (key, message) in
            [("kiln", "the bake sets this key itself"), ("role", "write `role` beside `user_data`, not in it")]
        {
            if let Some(entry) = node.entries().iter().find(|entry| entry.key == key) {
                let path = path(&[at[0], at[1], at[2], Key(key)]);
                self.findings.push(entry.place.diagnostic(Severity::Error, &path, message));
            }
        }
        for (below, secret) in scrub::weak(node) {
            let message = "this secret cannot be kept out of logs, where it is taken out by its value: it has less \
                           than four characters or is a word that logs have; choose another";
            self.findings.push(secret.diagnostic(Severity::Error, &format!("{}.{below}", path(&at)), message));
        }
    }

    fn nameable(&mut self, at: &[Step<'_>], text: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
        if text.is_empty() || !text.chars().all(fits) {
            self.report(
                at,
                format!("`{text}` cannot be part of an image's name; use letters, digits, `.`, `_` and `-`"),
            );
        }
    }

    fn unknown<'k>(&mut self, at: &[Step<'_>], what: &str, name: &str, known: impl IntoIterator<Item = &'k String>) {
        let mut finding = self.finding(at, format!("there is no {what} `{name}`"));
        finding.suggestion = nearest(name, known.into_iter().map(String::as_str));
        self.findings.push(finding);
    }

    fn report(&mut self, at: &[Step<'_>], message: impl Into<String>) {
        let finding = self.finding(at, message);
        self.findings.push(finding);
    }

    fn finding(&self, at: &[Step<'_>], message: impl Into<String>) -> Diagnostic {
        let place: &Place = self.find(at).map_or(&self.root.place, |node| &node.place);
        // The reader takes a lone value for a list of one; its path then has no index.
        let lone = |at: &[Step<'_>]| {
            matches!(at.last(), Some(Item(_)))
                && self.find(&at[..at.len() - 1]).is_some_and(|node| !matches!(node.value, Value::List(_)))
        };
        let at = if lone(at) { &at[..at.len() - 1] } else { at };
        place.diagnostic(Severity::Error, &path(at), message)
    }

    fn find(&self, at: &[Step<'_>]) -> Option<&'a Node> {
        at.iter().try_fold(self.root, |node, step| match (step, &node.value) {
            (Key(key), _) => node.get(key),
            (Item(index), Value::List(items)) => items.get(*index),
            (Item(_), _) => Some(node),
        })
    }
}

/// The way from this image along `from` back to itself, if it leads there.
fn circle<'f>(name: &'f str, file: &'f File) -> Option<Vec<&'f str>> {
    let mut way = vec![name];
    loop {
        let From::Image(next) = &file.images.get(*way.last()?)?.from else { return None };
        let closed = next == name;
        // A circle that this image leads into and is not part of is told at its own images.
        if !closed && way.contains(&next.as_str()) {
            return None;
        }
        way.push(next);
        if closed {
            return Some(way);
        }
    }
}

fn path(at: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in at {
        match step {
            Key(key) if text.is_empty() => text.push_str(key),
            Key(key) => text.push_str(&format!(".{key}")),
            Item(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}
