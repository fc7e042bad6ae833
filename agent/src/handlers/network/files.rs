//! The files on the machine: written, put back, and known again.

use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use kiln_schema::paths;
use sha2::{Digest as _, Sha256};

use super::super::Failure;
use super::super::edit::put;
use crate::network::{File, machine};
use crate::system::{FileOptions, System};

/// Files as they are before they are written; none where there is no file.
pub type Before = Vec<(String, u32, Option<Vec<u8>>)>;

/// Those that are about to be written or removed, and the record of what was written.
pub fn kept(system: &System, files: &[File]) -> Before {
    let paths = files.iter().map(|file| file.path.clone()).chain(machine::ours(system));
    let before = |path: String| {
        let mode = system.metadata(&path).map_or(0o600, |found| found.permissions().mode() & 0o7777);
        (path.clone(), mode, system.read(&path).ok())
    };
    paths.chain([paths::NETWORK_RECORD.to_owned()]).map(before).collect()
}

/// The failure, after the files have been put back.
pub fn restored(system: &System, before: &Before, failure: Failure) -> Failure {
    let put_back = before.iter().try_for_each(|(path, mode, old)| match old {
        Some(bytes) => system.write(path, bytes, FileOptions::mode(*mode)),
        None => system.remove(path),
    });
    let then = match put_back {
        Ok(()) => "the files are as they were".to_owned(),
        Err(error) => format!("the files could not be put back: {error}"),
    };
    Failure { message: format!("{}; {then}", failure.message), ..failure }
}

/// Writes the files and removes those of ours that are no more; which of them were other ones before.
pub fn write(system: &System, files: &[File]) -> Result<Vec<String>, Failure> {
    let mut changed = Vec::new();
    for file in files {
        if put(system, &file.path, &file.text, file.mode)? {
            changed.push(file.path.clone());
        }
    }
    for path in machine::ours(system) {
        if !files.iter().any(|file| file.path == path) {
            system.remove(&path)?;
            changed.push(path);
        }
    }
    Ok(changed)
}

/// What the files of ours hold, in few characters.
pub fn print_of(system: &System) -> String {
    let mut hash = Sha256::new();
    for path in machine::ours(system) {
        hash.update(system.read(&path).unwrap_or_default());
        hash.update(path);
    }
    STANDARD_NO_PAD.encode(hash.finalize())
}
