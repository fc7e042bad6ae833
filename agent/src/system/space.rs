//! What is under a folder, and how much it still takes.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use super::System;

impl System {
    /// Whether what is mounted at / may be on a disk: no overlay, no tmpfs. Btrfs has no number of a device either.
    pub fn root_is_of_a_disk(&self) -> bool {
        let numbered = self.metadata("/").is_ok_and(|root| libc::major(root.dev()) != 0);
        numbered || statfs(self.root()).is_ok_and(|found| found.filesystem_type() == BTRFS_SUPER_MAGIC)
    }

    /// Free bytes of the file system that a folder is on.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn free_bytes(&self, folder: &str) -> io::Result<u64> {
        let found = statvfs(&self.followed(Path::new(folder)));
        let found =
            found.map_err(|errno| io::Error::new(io::Error::from(errno).kind(), format!("{folder}: {errno}")))?;
        Ok(found.blocks_available() * found.fragment_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_free_bytes_and_a_missing_one_is_named() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert!(system.free_bytes("/").unwrap() > 0);
        assert!(system.free_bytes("/none").unwrap_err().to_string().starts_with("/none: "));
    }
}
