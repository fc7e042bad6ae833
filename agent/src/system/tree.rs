//! Trees of files, looked at and removed without following links and without crossing into mounts.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;

use super::System;

/// What something in a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, wherever it leads.
    Link,
    /// A socket, pipe or device.
    Other,
}

/// Something in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its absolute path under the root.
    pub path: String,
    /// What it is; a link is a link.
    pub kind: Kind,
    /// Bytes of a regular file.
    pub size: u64,
}

impl System {
    /// What is at a path; none if nothing is there or it cannot be reached.
    pub fn look(&self, path: &str) -> Option<Found> {
        let metadata = fs::symlink_metadata(self.path(path)).ok()?;
        let kind = match metadata.file_type() {
            t if t.is_symlink() => Kind::Link,
            t if t.is_dir() => Kind::Folder,
            t if t.is_file() => Kind::File,
            _ => Kind::Other,
        };
        Some(Found { path: path.to_owned(), kind, size: metadata.len() })
    }

    /// What is in a folder, by name; nothing if it is a link, a file, or not there.
    pub fn children(&self, folder: &str) -> Vec<Found> {
        if self.look(folder).is_none_or(|found| found.kind != Kind::Folder) {
            return Vec::new();
        }
        let names = self.list(folder).unwrap_or_default();
        let folder = folder.trim_end_matches('/');
        names.iter().filter_map(|name| self.look(&format!("{folder}/{name}"))).collect()
    }

    /// Where other file systems are mounted under the root, as paths under the root.
    pub fn mount_points(&self) -> BTreeSet<String> {
        let root = fs::canonicalize(self.root()).unwrap_or_else(|_| self.root().to_owned());
        let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let places = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
        let inside = places.filter_map(|place| {
            let place = PathBuf::from(std::ffi::OsString::from_vec(unescape(place)));
            let below = place.strip_prefix(&root).ok()?.to_str()?.to_owned();
            (!below.is_empty()).then(|| format!("/{below}"))
        });
        inside.collect()
    }

    /// The first bytes of a regular file. A link is not followed and a pipe not waited for.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn head(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let open = || {
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let file: File = OpenOptions::new().read(true).custom_flags(flags.bits()).open(self.path(path))?;
            let mut bytes = Vec::new();
            file.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        open().map_err(|error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    /// Empties a file where it is: whoever has it open goes on writing to it. A link is not followed.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn truncate(&self, path: &str) -> io::Result<()> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let opened = OpenOptions::new().write(true).truncate(true).custom_flags(flags.bits()).open(self.path(path));
        opened.map(drop).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    /// Removes something with all that is in it, but not what is mounted there. How many things went.
    ///
    /// # Errors
    /// The first of the system's errors, with the path in its text; the rest was removed nevertheless.
    pub fn remove_tree(&self, found: &Found, mounts: &BTreeSet<String>) -> io::Result<u64> {
        let below = format!("{}/", found.path);
        let kept = |mount: &String| *mount == found.path || mount.starts_with(&below);
        if found.kind != Kind::Folder || !mounts.iter().any(kept) {
            let count = self.count(found);
            return self.remove(&found.path).map(|()| count);
        }
        let (mut count, mut first) = (0, Ok(()));
        for child in self.children(&found.path) {
            if mounts.contains(&child.path) {
                continue;
            }
            match self.remove_tree(&child, mounts) {
                Ok(removed) => count += removed,
                Err(error) => first = first.and(Err(error)),
            }
        }
        first.map(|()| count)
    }

    fn count(&self, found: &Found) -> u64 {
        let inner = if found.kind == Kind::Folder { self.children(&found.path) } else { Vec::new() };
        1 + inner.iter().map(|child| self.count(child)).sum::<u64>()
    }
}

/// The kernel writes blanks in its table as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if *byte == b'\\' => {
                bytes.push(code);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn links_are_seen_and_never_followed() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/secret/file", "text", FileOptions::default()).unwrap();
        system.link("/tmp/way", "/secret").unwrap();
        system.link("/tmp/file", "/secret/file").unwrap();
        assert_eq!(system.look("/tmp/way").unwrap().kind, Kind::Link);
        assert!(system.children("/tmp/way").is_empty());
        assert!(system.head("/tmp/file", 10).is_err() && system.truncate("/tmp/file").is_err());
        for found in system.children("/tmp") {
            system.remove_tree(&found, &BTreeSet::new()).unwrap();
        }
        assert!(system.children("/tmp").is_empty());
        assert_eq!(system.read_text("/secret/file").unwrap(), "text");
    }

    #[test]
    fn what_is_mounted_stays() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for path in ["/tmp/a/b/other", "/tmp/a/mine", "/tmp/a/disk/theirs"] {
            system.write(path, "", FileOptions::default()).unwrap();
        }
        let mounts = BTreeSet::from(["/tmp/a/disk".to_owned()]);
        assert_eq!(system.remove_tree(&system.look("/tmp/a").unwrap(), &mounts).unwrap(), 3);
        assert!(system.exists("/tmp/a/disk/theirs"));
        assert!(!system.exists("/tmp/a/b") && !system.exists("/tmp/a/mine"));
    }

    #[test]
    fn the_mounts_of_this_machine_are_found() {
        let mounts = System::new("/").mount_points();
        assert!(mounts.contains("/proc") && !mounts.contains("/"), "{mounts:?}");
        assert_eq!(unescape(br"/mnt/my\040disk\134"), br"/mnt/my disk\");
    }
}
