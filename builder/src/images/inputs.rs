//! Digests of everything that goes into an image: the bake key, and what it is made of.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Characters of an input's digest in the tag: enough to tell a change, and eleven inputs fit into one tag.
const SHORT: usize = 8;

/// What goes into an image, kind by kind, each with the digest of its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(Vec<(&'static str, String)>);

impl Inputs {
    /// Adds all of one kind, such as the scripts. The name is for people and goes into a tag.
    pub fn put(&mut self, name: &'static str, content: Content) {
        self.0.push((name, content.finish()));
    }

    /// The bake key: two images with the same one have the same inputs.
    pub fn key(&self) -> String {
        let mut all = Content::default();
        self.0.iter().for_each(|(name, digest)| all.add(name, digest.as_bytes()));
        all.finish()
    }

    /// The value of the tag that tells later bakes what this one was made of.
    pub fn tag(&self) -> String {
        let short = self.0.iter().map(|(name, digest)| format!("{name}={}", &digest[..SHORT]));
        short.collect::<Vec<_>>().join(" ")
    }

    /// What is another than in an image with this tag. Empty when the tag tells of no change.
    pub fn changed_since(&self, tag: &str) -> Vec<&str> {
        let was = |name: &str| tag.split(' ').find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
        let changed = self.0.iter().filter(|(name, digest)| was(name) != Some(&digest[..SHORT]));
        changed.map(|(name, _)| *name).collect()
    }
}

/// Gathers content to one digest. Every part has a label and a length, so that none can pass for another.
#[derive(Default)]
pub struct Content(Sha256);

impl Content {
    /// One part alone.
    pub fn of(content: &[u8]) -> Content {
        let mut one = Content::default();
        one.add("", content);
        one
    }

    /// Adds bytes.
    pub fn add(&mut self, label: &str, content: &[u8]) {
        for part in [label.as_bytes(), content] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Adds a file, or a folder with all that is in it: names, contents, execute bits, links.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn add_path(&mut self, label: &str, path: &Path) -> io::Result<()> {
        let path = &path.canonicalize()?;
        for entry in walk(path)? {
            let full = below(path, &entry);
            let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", full.display()));
            let about = fs::symlink_metadata(&full).map_err(at)?;
            self.add(label, entry.as_os_str().as_bytes());
            if about.is_symlink() {
                self.add("link", fs::read_link(&full).map_err(at)?.as_os_str().as_bytes());
            } else if about.is_file() {
                let kind = if about.permissions().mode() & 0o100 != 0 { "program" } else { "file" };
                self.add(kind, &fs::read(&full).map_err(at)?);
            }
        }
        Ok(())
    }

    /// The digest in hexadecimal.
    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Joined with nothing a path would get a slash, and a file with a slash is no file.
fn below(path: &Path, entry: &Path) -> PathBuf {
    if entry.as_os_str().is_empty() { path.to_owned() } else { path.join(entry) }
}

/// The path itself, as an empty one, and everything below it, sorted.
fn walk(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    let mut next = 0;
    while next < found.len() {
        let here = below(path, &found[next]);
        if fs::symlink_metadata(&here)?.is_dir() {
            for entry in fs::read_dir(&here)? {
                found.push(found[next].join(entry?.file_name()));
            }
        }
        next += 1;
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare folders")]
mod tests {
    use super::*;

    fn key(path: &Path) -> String {
        let mut key = Content::default();
        key.add_path("files", path).unwrap();
        key.finish()
    }

    #[test]
    fn the_key_changes_with_content_name_and_execute_bit_and_not_with_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "1").unwrap();
        let first = key(folder.path());
        fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(key(folder.path()), first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let program = key(folder.path());
        fs::rename(&file, folder.path().join("b")).unwrap();
        let renamed = key(folder.path());
        fs::write(folder.path().join("b"), "2").unwrap();
        let keys = [first, program, renamed, key(folder.path())];
        assert!(keys.iter().enumerate().all(|(i, key)| !keys[..i].contains(key)), "{keys:?}");
    }

    #[test]
    fn a_file_counts_by_content_and_a_link_to_it_as_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "1").unwrap();
        std::os::unix::fs::symlink("a", &link).unwrap();
        let first = key(&file);
        assert_eq!(key(&link), first);
        fs::write(&file, "2").unwrap();
        assert_ne!(key(&file), first);
    }

    #[test]
    fn a_part_cannot_pass_for_another() {
        let key = |parts: &[(&str, &str)]| {
            let mut key = Content::default();
            parts.iter().for_each(|(label, content)| key.add(label, content.as_bytes()));
            key.finish()
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b"), ("a", "c")]), key(&[("a", "bac")]));
    }

    #[test]
    fn a_change_is_told_by_its_kind() {
        let inputs = |script: &str| {
            let mut inputs = Inputs::default();
            inputs.put("base", Content::of(b"ami-1"));
            inputs.put("scripts", Content::of(script.as_bytes()));
            inputs
        };
        let (before, after) = (inputs("1"), inputs("2"));
        assert_ne!(before.key(), after.key());
        assert_eq!(after.changed_since(&before.tag()), ["scripts"]);
        assert!(before.changed_since(&before.tag()).is_empty());
        // An image from before there was such a tag, or such a kind.
        assert_eq!(after.changed_since(""), ["base", "scripts"]);
        assert_eq!(after.changed_since(before.tag().split(' ').next().unwrap()), ["scripts"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Content::default().add_path("files", Path::new("/nowhere/x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
