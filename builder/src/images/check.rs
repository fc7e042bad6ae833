//! What must fit together in kiln.yaml, each finding at the place where the mistake stands.

use std::path::Path;

use indexmap::IndexMap;
use kiln_schema::diagnostic::{Diagnostic, Severity, nearest};
use kiln_schema::seal::IDS;
use kiln_schema::yaml::{Node, Place, Value};

use super::checks::{self, KINDS, WITHIN};
use super::names::{LONGEST_TAG, skipped};
use super::types::{File, Image, Kind};
use super::{Bundle, Endpoint, From, Target};
use crate::packer::scrub;

/// Owners of images that are names and not account numbers.
const NAMED_OWNERS: [&str; 3] = ["self", "amazon", "aws-marketplace"];

/// A step on the way from the root of the document to a value.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    Key(&'a str),
    Item(usize),
}
pub(super) use Step::{Item, Key};

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
            self.variants(name, image, file);
            self.inputs(name, image);
            self.checks(name, image);
            self.user_data(name);
            self.seal(name, image);
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
            let (region, distribution) = self.distribution(name, target, file.defaults.region.as_ref());
            let bundle = self.bundle(name, target);
            let plugin_path = target.packer.as_ref().and_then(|packer| packer.plugin_path.as_ref());
            let plugin_path = plugin_path.map(|path| self.folder.join(path));
            let target = Target { name: name.clone(), endpoint, region, distribution, bundle, plugin_path };
            checked.insert(name.clone(), target);
        }
        checked
    }

    /// The keys of a target that makes images on instance stores.
    fn bundle(&mut self, name: &str, target: &super::types::Target) -> Option<Bundle> {
        let at = [Key("targets"), Key(name)];
        let keys = [
            ("account_id", &target.account_id),
            ("s3_bucket", &target.s3_bucket),
            ("x509_cert_path", &target.x509_cert_path),
            ("x509_key_path", &target.x509_key_path),
            ("iam_instance_profile", &target.iam_instance_profile),
        ];
        if target.kind == Kind::AmazonEbs {
            for (key, _) in keys.iter().filter(|(_, value)| value.is_some()) {
                self.report(&[at[0], at[1], Key(key)], "only a target of the kind amazon-instance has this key");
            }
            return None;
        }
        for (key, _) in keys.iter().filter(|(_, value)| value.is_none()) {
            self.report(&at, format!("the key `{key}` is missing, which a target of the kind amazon-instance needs"));
        }
        let [account_id, s3_bucket, cert, key, instance_profile] = keys.map(|(_, value)| value.clone());
        let (account_id, cert, key) = (account_id?, cert?, key?);
        if !is_account(&account_id) {
            self.report(
                &[at[0], at[1], Key("account_id")],
                format!("`{account_id}` is no account: write its 12 digits in quotes"),
            );
        }
        self.exists(&[at[0], at[1], Key("x509_cert_path")], &cert);
        self.exists(&[at[0], at[1], Key("x509_key_path")], &key);
        let (x509_cert, x509_key) = (self.folder.join(cert), self.folder.join(key));
        Some(Bundle { account_id, s3_bucket: s3_bucket?, x509_cert, x509_key, instance_profile: instance_profile? })
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
                self.owners(&ami, &[ami[0], ami[1], ami[2], ami[3], Key("owners")], &filter.owners);
                self.placeholders(&[ami[0], ami[1], ami[2], ami[3], Key("name")], &filter.name);
                for (key, value) in &filter.tags {
                    self.placeholders(&[ami[0], ami[1], ami[2], ami[3], Key("tags"), Key(key)], value);
                }
            }
            From::Ssm(parameter) => {
                self.owners(&at, &[at[0], at[1], at[2], Key("owners")], &parameter.owners);
                self.placeholders(&[at[0], at[1], at[2], Key("ssm")], &parameter.name);
            }
        }
    }

    /// The accounts whose images are trusted, at `at`, which belong to what stands at `whole`.
    fn owners(&mut self, whole: &[Step<'_>], at: &[Step<'_>], owners: &[String]) {
        if owners.is_empty() {
            self.report(
                whole,
                "the key `owners` is missing: list the accounts you trust, because anyone can publish an image under \
                 any name",
            );
        }
        for (index, owner) in owners.iter().enumerate() {
            if !is_account(owner) && !NAMED_OWNERS.contains(&owner.as_str()) {
                self.report(
                    &[at, &[Item(index)]].concat(),
                    format!(
                        "`{owner}` is no account: write its 12 digits in quotes, or self, amazon or aws-marketplace"
                    ),
                );
            }
        }
    }

    /// Neither names of images nor of parameters have braces but for what stands for the processor.
    fn placeholders(&mut self, at: &[Step<'_>], text: &str) {
        if text.replace("{arch}", "").replace("{deb_arch}", "").contains(['{', '}']) {
            self.report(at, "only `{arch}` (x86_64 or arm64) and `{deb_arch}` (amd64 or arm64) may stand in braces");
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

    fn checks(&mut self, name: &str, image: &Image) {
        for (index, keys) in image.checks.iter().enumerate() {
            let at = [Key("images"), Key(name), Key("checks"), Item(index)];
            let Some(node) = self.find(&at) else { continue };
            let of_kind = |key: &str| KINDS.iter().find(|(kind, _)| *kind == key);
            let mut kinds = node.entries().iter().filter(|entry| of_kind(&entry.key).is_some());
            let Some((kind, beside)) = kinds.next().and_then(|entry| of_kind(&entry.key)) else {
                let known: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).collect();
                self.report(&at, format!("nothing to check; name one of {}", known.join(", ")));
                continue;
            };
            let mut findings = 0;
            for entry in node.entries().iter().filter(|entry| entry.key != *kind && entry.key != WITHIN) {
                let message = if of_kind(&entry.key).is_some() {
                    let other = &entry.key;
                    format!(
                        "a check is of one thing, and this one is of `{kind}` already: give `{other}` an entry of its own"
                    )
                } else if !beside.contains(&entry.key.as_str()) {
                    let known: Vec<_> = beside.iter().copied().chain([WITHIN]).collect();
                    format!("this key is not one of `{kind}`; there are {}", known.join(", "))
                } else {
                    continue;
                };
                findings += 1;
                let path = path(&[at[0], at[1], at[2], at[3], Key(&entry.key)]);
                self.findings.push(entry.place.diagnostic(Severity::Error, &path, message));
            }
            if let (0, Err((key, message))) = (findings, checks::assertions(keys)) {
                self.report(&[at[0], at[1], at[2], at[3], Key(key)], message);
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
        if let Some(entry) = node.entries().iter().find(|entry| entry.key == "role") {
            let path = path(&[at[0], at[1], at[2], Key("role")]);
            let message = "write `role` beside `user_data`, not in it";
            self.findings.push(entry.place.diagnostic(Severity::Error, &path, message));
        }
        let own = node.get("kiln").into_iter().flat_map(Node::entries).filter(|entry| entry.key != "tests");
        for entry in own {
            let path = path(&[at[0], at[1], at[2], Key("kiln"), Key(&entry.key)]);
            let message = "the bake sets this key itself; `tests` alone may stand here";
            self.findings.push(entry.place.diagnostic(Severity::Error, &path, message));
        }
        for (below, secret) in scrub::weak(node) {
            let message = "this secret cannot be kept out of logs, where it is taken out by its value: it has less \
                           than four characters or is a word that logs have; choose another";
            self.findings.push(secret.diagnostic(Severity::Error, &format!("{}.{below}", path(&at)), message));
        }
    }

    fn seal(&mut self, name: &str, image: &Image) {
        let at = [Key("images"), Key(name), Key("seal")];
        let seal = &image.seal;
        for id in seal.skip.keys().filter(|id| !IDS.contains(&id.as_str())) {
            let at = [at[0], at[1], at[2], Key("skip"), Key(id)];
            self.unknown(&at, "entry of the seal's checklist", id, IDS.iter().copied());
        }
        let is_path =
            |path: &str| path.starts_with('/') && !path.contains(|c: char| c.is_whitespace() || c.is_control());
        for path in seal.permit.keys().filter(|path| !is_path(path)) {
            let at = [at[0], at[1], at[2], Key("permit"), Key(path)];
            self.report(&at, format!("`{path}` is no absolute path without blanks"));
        }
        let told = |reason: &str| !reason.trim().is_empty() && !reason.chars().any(char::is_control);
        for (key, allowed) in [("skip", &seal.skip), ("permit", &seal.permit)] {
            for (what, _) in allowed.iter().filter(|(_, reason)| !told(reason)) {
                let at = [at[0], at[1], at[2], Key(key), Key(what)];
                self.report(&at, "say why in one line: the reason is recorded on the image");
            }
        }
        let length = skipped(seal).map_or(0, |tag| tag.chars().count());
        if length > LONGEST_TAG {
            let message = format!(
                "with its reasons this is {length} characters, and a tag takes {LONGEST_TAG}: shorten the reasons"
            );
            self.report(&at, message);
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

    fn unknown<'k, K: AsRef<str> + ?Sized + 'k>(
        &mut self,
        at: &[Step<'_>],
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'k K>,
    ) {
        let mut finding = self.finding(at, format!("there is no {what} `{name}`"));
        finding.suggestion = nearest(name, known.into_iter().map(AsRef::as_ref));
        self.findings.push(finding);
    }

    pub(super) fn report(&mut self, at: &[Step<'_>], message: impl Into<String>) {
        let finding = self.finding(at, message);
        // What is wrong with a default is found at every image.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
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

/// Whether this is the number of an account.
pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
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
