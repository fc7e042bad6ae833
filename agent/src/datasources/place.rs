//! What can be seen on the machine without the network: its firmware, folders, disks with a label.

use std::io;

use serde_json::Value as Json;

use crate::system::System;

/// Most bytes of a file of a seed.
const LIMIT: u64 = 16 * 1024 * 1024;
const LABELS: &str = "/dev/disk/by-label";

/// A value of the firmware (DMI), as `sys_vendor`; empty if it has none.
pub fn dmi(system: &System, name: &str) -> String {
    system.read_text(format!("/sys/class/dmi/id/{name}")).unwrap_or_default().trim().to_owned()
}

/// Where files for an instance lie.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder(String),
    /// A disk, by its device.
    Disk(String),
}

impl Place {
    /// The disk with this label, as it is written or in capital letters.
    pub fn disk(system: &System, label: &str) -> Option<Self> {
        let devices = [label.to_owned(), label.to_uppercase()].map(|label| format!("{LABELS}/{label}"));
        devices.into_iter().find(|device| system.exists(device)).map(Place::Disk)
    }

    /// The disk whose label begins so.
    pub fn disk_like(system: &System, start: &str) -> Option<Self> {
        let labels = system.list(LABELS).unwrap_or_default();
        labels.into_iter().find(|label| label.starts_with(start)).map(|label| Place::Disk(format!("{LABELS}/{label}")))
    }

    /// The first of these folders that has one of these files.
    pub fn folder(system: &System, folders: &[&str], files: &[&str]) -> Option<Self> {
        let has = |folder: &&&str| files.iter().any(|file| system.exists(format!("{folder}/{file}")));
        let found = folders.iter().find(has);
        found.map(|folder| Place::Folder((*folder).to_owned()))
    }

    /// Its path, for messages.
    pub fn name(&self) -> &str {
        match self {
            Place::Folder(path) | Place::Disk(path) => path,
        }
    }

    /// The files of these names; none for one that is not there.
    ///
    /// # Errors
    /// A sentence with the file or the disk that cannot be read.
    pub fn read<const N: usize>(&self, system: &System, names: [&str; N]) -> Result<[Option<Vec<u8>>; N], String> {
        let files = match self {
            Place::Disk(device) => system.read_disk(device, &names, LIMIT).map_err(|e| e.to_string())?,
            Place::Folder(folder) => {
                let read = |name: &&str| match system.read_limited(format!("{folder}/{name}"), LIMIT) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error.to_string()),
                };
                names.iter().map(read).collect::<Result<Vec<_>, _>>()?
            }
        };
        files.try_into().map_err(|_| format!("{}: a bug: not every file was looked for", self.name()))
    }
}

/// The text under a pointer such as `/compute/name`; a number is its digits, and what is empty is none.
pub fn text(json: &Json, pointer: &str) -> Option<String> {
    match json.pointer(pointer)? {
        Json::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Public keys of a text of lines, without what is empty or a comment.
pub fn key_lines(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;
    use serde_json::json;

    #[test]
    fn disks_are_found_by_their_label_and_folders_by_a_file() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert_eq!(Place::disk(&system, "config-2"), None);
        assert_eq!(Place::disk_like(&system, "rd_rdfe_"), None);
        for file in ["/dev/disk/by-label/CONFIG-2", "/dev/disk/by-label/rd_rdfe_stable.1", "/seed/b"] {
            system.write(file, "x", FileOptions::default()).unwrap();
        }
        assert_eq!(Place::disk(&system, "config-2").unwrap().name(), "/dev/disk/by-label/CONFIG-2");
        assert_eq!(Place::disk_like(&system, "rd_rdfe_").unwrap().name(), "/dev/disk/by-label/rd_rdfe_stable.1");
        assert_eq!(Place::folder(&system, &["/none", "/seed"], &["a"]), None);
        let folder = Place::folder(&system, &["/none", "/seed"], &["a", "b"]).unwrap();
        assert_eq!(folder.read(&system, ["a", "b"]), Ok([None, Some(b"x".to_vec())]));
        system.make_dir("/seed/c", 0o755, None).unwrap();
        assert!(folder.read(&system, ["c"]).unwrap_err().starts_with("/seed/c: "));
    }

    #[test]
    fn a_text_is_a_text_or_a_number_and_never_empty() {
        let json = json!({"a": " x ", "b": 42, "c": "", "d": {"e": true}});
        let found = ["/a", "/b", "/c", "/d", "/d/e", "/f"].map(|pointer| text(&json, pointer));
        assert_eq!(found, [Some("x".to_owned()), Some("42".to_owned()), None, None, None, None]);
    }
}
