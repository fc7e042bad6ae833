//! What is under a folder, and how much it still takes.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use super::{Command, System};

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

/// What is deleted stays in the blocks of a disk until they are written again.
impl System {
    /// Has the disk of / forget the blocks that no file has, or writes zeros over them. What was done, as a sentence.
    pub fn free_blocks(&self) -> String {
        if !self.is_live() {
            return "nothing: this is a tree and no machine".to_owned();
        }
        if !self.root_is_of_a_disk() {
            return "nothing: what is mounted at / is no disk of its own, so no snapshot is made of its blocks"
                .to_owned();
        }
        let trim = Command::new("fstrim", TRIM_TIME).args(["--verbose", "/"]);
        if let Ok(finished) = self.run(&trim)
            && finished.success()
        {
            return format!("trimmed: {}", finished.last_lines(1).concat());
        }
        match zero_fill(&self.path(FILL), FILL_TIME) {
            Ok(filled) => filled.to_string(),
            Err(error) => format!("nothing: {FILL}: {error}"),
        }
    }
}

/// How long a disk may take to forget.
const TRIM_TIME: Duration = Duration::from_secs(120);
/// How long zeros are written: at 100 MB/s, 12 GB of free space.
const FILL_TIME: Duration = Duration::from_secs(120);
/// The file that takes all the space there is.
const FILL: &str = "/var/tmp/.kiln-zeros";

/// How zeros were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filled {
    bytes: u64,
    whole: bool,
}

impl fmt::Display for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes / 1_000_000;
        match self.whole {
            true => write!(f, "zeros over {megabytes} MB, all that was free"),
            false => write!(
                f,
                "zeros over {megabytes} MB, not all that was free: {} s were over; deleted files may be readable in \
                 the rest",
                FILL_TIME.as_secs()
            ),
        }
    }
}

/// Fills the file system with a file of zeros, for so long at most, and removes the file.
fn zero_fill(path: &Path, limit: Duration) -> io::Result<Filled> {
    let zeros = vec![0; 1024 * 1024];
    let until = Instant::now() + limit;
    // Of an earlier run that was killed.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let filled = (|| {
        let mut bytes = 0;
        while Instant::now() < until {
            match file.write(&zeros) {
                Ok(written) => bytes += written as u64,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    file.sync_all()?;
                    return Ok(Filled { bytes, whole: true });
                }
                Err(error) => return Err(error),
            }
        }
        file.sync_all()?;
        Ok(Filled { bytes, whole: false })
    })();
    fs::remove_file(path)?;
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_the_end_of_zeros_and_so_is_the_limit() {
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("zeros");
        assert_eq!(zero_fill(&path, Duration::ZERO).unwrap(), Filled { bytes: 0, whole: false });
        assert!(!path.exists());
        let none: Option<&str> = None;
        let size = Some("size=3m");
        let flags = nix::mount::MsFlags::empty();
        if nix::mount::mount(none, tree.path(), Some("tmpfs"), flags, size).is_err() {
            eprintln!("only root can mount a disk small enough to fill");
            return;
        }
        let filled = zero_fill(&path, Duration::from_secs(60));
        let left = fs::read_dir(tree.path()).unwrap().count();
        nix::mount::umount(tree.path()).unwrap();
        assert_eq!((filled.unwrap(), left), (Filled { bytes: 3 * 1024 * 1024, whole: true }, 0));
    }

    #[test]
    fn what_was_not_filled_is_told() {
        let partly = Filled { bytes: 5_000_000, whole: false }.to_string();
        assert!(partly.starts_with("zeros over 5 MB, not all") && partly.contains("readable"), "{partly}");
    }

    #[test]
    fn a_folder_has_free_bytes_and_a_missing_one_is_named() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert!(system.free_bytes("/").unwrap() > 0);
        assert!(system.free_bytes("/none").unwrap_err().to_string().starts_with("/none: "));
    }
}
