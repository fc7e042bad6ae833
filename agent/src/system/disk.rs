//! Reading files of a disk that is not mounted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use kiln_schema::paths;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::System;

/// Where a disk is mounted while it is read.
const MOUNT_POINT: &str = "/run/kiln/disk";

/// A file system by its name, and the bytes that tell it: where they stand, and what they are.
type Signature = (&'static str, u64, &'static [u8]);

const SIGNATURES: &[Signature] = &[
    ("iso9660", 0x8001, b"CD001"),
    ("udf", 0x8001, b"BEA01"),
    ("vfat", 54, b"FAT"),
    ("vfat", 82, b"FAT32"),
    ("ext4", 0x438, &[0x53, 0xef]),
];

impl System {
    /// The files of these paths below the top folder of a disk; none for a name that is not there.
    ///
    /// The disk is mounted read-only in a mount namespace of its own, which ends with the reading: nobody
    /// else sees it, and a crash leaves nothing mounted. A link on the disk is not followed.
    ///
    /// # Errors
    /// A sentence that names the disk: no file system that is known, the kernel cannot mount it, a file is
    /// larger than `limit`.
    pub fn read_disk(&self, device: &str, names: &[&str], limit: u64) -> io::Result<Vec<Option<Vec<u8>>>> {
        let source = self.path(device);
        let failed = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{device}: {what}: {error}"));
        let kind = file_system(&source).map_err(|e| failed("it cannot be read", e))?;
        let Some(kind) = kind else {
            return Err(io::Error::other(format!("{device}: it holds none of iso9660, udf, vfat and ext4")));
        };
        self.make_dir(paths::RUN, 0o755, None)?;
        self.make_dir(MOUNT_POINT, 0o700, None)?;
        let place = self.path(MOUNT_POINT);
        let read = std::thread::scope(|scope| {
            // A namespace belongs to a thread; this one ends with the scope, and the mount with it.
            let reader = scope.spawn(|| {
                mount_alone(&source, &place, kind).map_err(|errno| failed(&because(kind, errno), errno.into()))?;
                names.iter().map(|name| read_file(&place, name, limit).map_err(|e| failed(name, e))).collect()
            });
            reader.join().unwrap_or_else(|_| Err(io::Error::other(format!("{device}: the reader panicked"))))
        });
        // Empty, for the mount is gone.
        let _ = std::fs::remove_dir(&place);
        read
    }
}

fn because(kind: &str, errno: Errno) -> String {
    match errno {
        Errno::ENODEV => format!("the kernel has no {kind}; use another file system, or load the module"),
        _ => format!("its {kind} cannot be mounted"),
    }
}

fn mount_alone(source: &Path, place: &Path, kind: &str) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    // Else the mount would show in the namespace that this one was copied from.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(source), place, Some(kind), flags, nothing)
}

fn file_system(device: &Path) -> io::Result<Option<&'static str>> {
    let device = File::open(device)?;
    for (kind, offset, bytes) in SIGNATURES {
        let mut found = vec![0; bytes.len()];
        match device.read_exact_at(&mut found, *offset) {
            Ok(()) if found == *bytes => return Ok(Some(kind)),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

fn read_file(top: &Path, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let path = top.join(name);
    let folders = path.ancestors().skip(1).take_while(|folder| *folder != top);
    if folders.into_iter().any(Path::is_symlink) {
        return Err(io::Error::other("a link leads there, and links on a disk are not followed"));
    }
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
        // A pipe would never end.
        Ok(file) if !file.metadata()?.is_file() => return Err(io::Error::other("it is no regular file")),
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn a_disk_that_cannot_be_read_is_told_with_its_name() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let told = |device: &str| system.read_disk(device, &["user-data"], 10).unwrap_err().to_string();
        assert!(told("/dev/none").starts_with("/dev/none: it cannot be read: "));
        system.write("/dev/empty", vec![0; 70_000], FileOptions::default()).unwrap();
        assert_eq!(told("/dev/empty"), "/dev/empty: it holds none of iso9660, udf, vfat and ext4");
        let mut image = vec![0; 70_000];
        image[0x8001..0x8006].copy_from_slice(b"CD001");
        system.write("/dev/broken", image, FileOptions::default()).unwrap();
        assert!(told("/dev/broken").starts_with("/dev/broken: "), "{}", told("/dev/broken"));
        assert!(!system.exists(MOUNT_POINT));
    }

    #[test]
    fn a_folder_on_a_disk_may_not_lead_out_of_it() {
        let disk = tempfile::tempdir().unwrap();
        std::fs::create_dir(disk.path().join("a")).unwrap();
        std::fs::write(disk.path().join("a/b"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", disk.path().join("c")).unwrap();
        assert_eq!(read_file(disk.path(), "a/b", 10).unwrap(), Some(b"x".to_vec()));
        assert_eq!(read_file(disk.path(), "d/b", 10).unwrap(), None);
        assert!(read_file(disk.path(), "c/passwd", 1 << 20).unwrap_err().to_string().contains("not followed"));
    }
}
