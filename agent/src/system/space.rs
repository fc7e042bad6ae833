//! How much a disk still takes.

use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::System;

impl System {
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
