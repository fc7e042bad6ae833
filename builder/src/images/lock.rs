//! kiln.lock: which image of somebody else each image is built on, until somebody decides otherwise.
//!
//! The file is kept in version control, so it is the same for the same content: sorted, one value a line.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_schema::yaml;

use super::load::harden;
use super::{Error, From, Recipe};
use crate::aws::Ami;
use crate::system::files;

/// The form of the file that this program writes, and the newest that it reads.
const VERSION: u32 = 1;

const HEADING: &str = "\
# Which outside image each image of kiln.yaml is built on. Written by `kiln lock`; keep it in version control.
# `kiln outdated` tells what is newer, `kiln lock --update` takes it.
";

/// An image that is not to be replaced by a newer one unasked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Locked {
    /// `ami-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The account that it belonged to.
    pub owner: String,
    /// When it was made.
    pub created: String,
    /// The parameter that held its id, where kiln.yaml names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

impl Locked {
    /// What is to be kept of a base of this recipe.
    pub fn of(recipe: &Recipe, base: &Ami) -> Locked {
        Locked {
            id: base.id.clone(),
            name: base.name.clone(),
            owner: base.owner.clone(),
            created: base.created.clone(),
            parameter: match &recipe.from {
                From::Ssm(parameter) => Some(parameter.name.clone()),
                From::Ami(_) | From::Image(_) => None,
            },
        }
    }
}

/// The file: of each variant of an image and each place, the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    bases: BTreeMap<String, BTreeMap<String, Locked>>,
}

/// The file as it is read.
#[derive(Debug, serde::Deserialize)]
struct File {
    /// Judged before the rest is read.
    #[serde(rename = "version")]
    _version: u32,
    #[serde(default)]
    bases: BTreeMap<String, BTreeMap<String, Locked>>,
}

/// The lock file that belongs to this kiln.yaml.
pub fn path(kilnfile: &Path) -> PathBuf {
    kilnfile.with_extension("lock")
}

/// Reads the file. None when there is none.
///
/// # Errors
/// When it cannot be read or understood, as after a merge with conflicts.
pub fn load(path: &Path) -> Result<Option<Lock>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Unreadable { path: path.to_owned(), error }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Lock, Error> {
    let (root, mut findings) =
        yaml::parse(&path.display().to_string(), text).map_err(|finding| Error::Findings(vec![*finding]))?;
    // The version first: what a later one means is not for us to judge.
    let version = root.get("version").map(yaml::Node::to_json).and_then(|version| version.as_u64());
    if version.is_some_and(|version| version > u64::from(VERSION)) {
        return Err(Error::NewerLock(path.to_owned()));
    }
    let checked = yaml::read::<File>(&root, "");
    findings.extend(checked.diagnostics);
    match checked.value.filter(|_| findings.is_empty()) {
        Some(File { bases, .. }) => Ok(Lock { bases }),
        None => Err(Error::Findings(findings.into_iter().map(harden).collect())),
    }
}

impl Lock {
    /// The base of a variant at a place.
    pub fn base(&self, label: &str, place: &str) -> Option<&Locked> {
        self.bases.get(label)?.get(place)
    }

    /// Keeps a base.
    pub fn put(&mut self, label: &str, place: &str, base: Locked) {
        self.bases.entry(label.to_owned()).or_default().insert(place.to_owned(), base);
    }

    /// Leaves out what is not wanted any more, by label and place. Answers what went.
    pub fn keep_if(&mut self, wanted: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
        let mut gone = Vec::new();
        for (label, places) in &mut self.bases {
            places.retain(|place, _| {
                let keep = wanted(label, place);
                if !keep {
                    gone.push((label.clone(), place.clone()));
                }
                keep
            });
        }
        self.bases.retain(|_, places| !places.is_empty());
        gone
    }

    /// Writes the file in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        files::write(path, self.text().as_bytes(), 0o644)
            .map_err(|error| Error::Unwritable { path: path.to_owned(), error })
    }

    fn text(&self) -> String {
        let mut text =
            format!("{HEADING}version: {VERSION}\nbases:{}\n", if self.bases.is_empty() { " {}" } else { "" });
        for (label, places) in &self.bases {
            text += &format!("  {}:\n", quoted(label));
            for (place, base) in places {
                text += &format!("    {}:\n", quoted(place));
                let Locked { id, name, owner, created, parameter } = base;
                let keys = [("id", id), ("name", name), ("owner", owner), ("created", created)];
                for (key, value) in keys.into_iter().chain(parameter.iter().map(|name| ("parameter", name))) {
                    text += &format!("      {key}: {}\n", quoted(value));
                }
            }
        }
        text
    }
}

/// Text that every YAML reader takes for text: `1.10` and `no` are names too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare folders")]
mod tests {
    use super::*;

    fn locked(id: &str, parameter: Option<&str>) -> Locked {
        Locked {
            id: id.into(),
            name: "debian \"12\": no".into(),
            owner: "012345678901".into(),
            created: "2026-01-01T00:00:00.000Z".into(),
            parameter: parameter.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_is_the_same_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder.path().join("kiln.yaml"));
        assert_eq!(path.file_name().unwrap(), "kiln.lock");
        assert_eq!(load(&path).unwrap(), None);
        let entries = [("on", "lab/us-east-1"), ("golden:arm64", "prod/eu-west-1"), ("1.10", "lab/us-east-1")];
        let write = |order: &[usize]| {
            let mut lock = Lock::default();
            order.iter().for_each(|at| lock.put(entries[*at].0, entries[*at].1, locked("ami-1", Some("/a/b"))));
            lock.put("1.10", "prod/eu-west-1", locked("ami-2", None));
            lock.save(&path).unwrap();
            assert_eq!(load(&path).unwrap(), Some(lock));
            fs::read_to_string(&path).unwrap()
        };
        let text = write(&[0, 1, 2]);
        assert_eq!(write(&[2, 1, 0]), text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn an_empty_lock_is_read_again() {
        let text = Lock::default().text();
        assert_eq!(parse(Path::new("kiln.lock"), &text).unwrap(), Lock::default());
    }

    #[test]
    fn what_cannot_be_understood_is_told_at_its_place() {
        for (text, expected) in [
            ("version: 2\nwhatever: 1\n", "kiln.lock was written by a newer kiln: use that one"),
            ("bases: {}\n", "the key `version` is missing"),
            (
                "version: 1\nbases: {golden: {lab: {id: ami-1}}}\n",
                "kiln.lock:2:23: error: bases.golden.lab: the key `name` is missing",
            ),
            ("version: 1\nbase: {}\n", "kiln.lock:2:1: error: base: unknown key; did you mean `bases`?"),
            ("version: 1\n<<<<<<< HEAD\nbases: {}\n", "kiln.lock:"),
        ] {
            let error = parse(Path::new("kiln.lock"), text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text} gives {error}");
        }
    }

    #[test]
    fn what_is_not_wanted_any_more_is_left_out_and_told() {
        let mut lock = Lock::default();
        for (label, place) in [("a", "lab/x"), ("a", "old/x"), ("b", "lab/x")] {
            lock.put(label, place, locked("ami-1", None));
        }
        let gone = lock.keep_if(|label, place| label == "a" && place != "old/x");
        assert_eq!(gone, [("a".to_owned(), "old/x".to_owned()), ("b".to_owned(), "lab/x".to_owned())]);
        assert!(lock.base("a", "lab/x").is_some() && !lock.text().contains("\"b\""));
    }
}
