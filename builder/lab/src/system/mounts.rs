//! Overlays, and finding what is mounted where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Mounts an overlay. The kernel takes its options as one page of text, so all paths in `options`
/// may be relative to `folder`, which keeps a stack of hundreds of layers within the page.
///
/// # Errors
/// What the kernel answers.
pub fn overlay(folder: &Path, options: &str, at: &Path) -> io::Result<()> {
    // A thread of its own, as a working folder belongs to the whole process unless it is unshared.
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| -> io::Result<()> {
            unshare(CloneFlags::CLONE_FS)?;
            std::env::set_current_dir(folder)?;
            Ok(mount(Some("kiln-lab"), at, Some("overlay"), MsFlags::empty(), Some(options))?)
        });
        mounting.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread ended early")))
    })
}

/// Unmounts what is mounted here; at once for new users and for good when the last one is gone.
///
/// # Errors
/// What the kernel answers, but for nothing being mounted there.
pub fn unmount(at: &Path) -> io::Result<()> {
    match umount2(at, MntFlags::empty()) {
        Err(nix::Error::EBUSY) => umount2(at, MntFlags::MNT_DETACH).map_err(Into::into),
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        other => other.map_err(Into::into),
    }
}

/// The mount points at and below a folder, the innermost first.
///
/// # Errors
/// When the table of mounts cannot be read.
pub fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(points_below(&fs::read_to_string("/proc/self/mountinfo")?, folder))
}

fn points_below(table: &str, folder: &Path) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    // Later lines were mounted later, so those go first.
    found.reverse();
    found
}

/// Space, tab, newline and backslash stand as octal numbers in the table.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte as char);
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    PathBuf::from(plain)
}

/// Where the machine has the unified tree of control groups.
///
/// # Errors
/// When the table of mounts cannot be read.
pub fn cgroup2() -> io::Result<Option<PathBuf>> {
    Ok(of_type(&fs::read_to_string("/proc/self/mountinfo")?, "cgroup2"))
}

fn of_type(table: &str, kind: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (mount, about) = line.split_once(" - ")?;
        (about.split(' ').next()? == kind).then(|| mount.split(' ').nth(4).map(unescape))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
23 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 23 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
41 23 0:40 / /var/lib/kiln-lab/a/machines/i-1/root rw - overlay kiln-lab rw
42 41 0:41 / /var/lib/kiln-lab/a/machines/i-1/root/proc rw - proc proc rw
43 23 0:42 / /var/lib/kiln-lab/ab/x\\040y rw - overlay kiln-lab rw
";

    #[test]
    fn mounts_of_another_lab_are_not_taken() {
        let mine = points_below(TABLE, Path::new("/var/lib/kiln-lab/a"));
        let root = PathBuf::from("/var/lib/kiln-lab/a/machines/i-1/root");
        assert_eq!(mine, [root.join("proc"), root]);
    }

    #[test]
    fn a_space_in_a_mount_point_is_read() {
        assert_eq!(points_below(TABLE, Path::new("/var/lib/kiln-lab/ab")), [PathBuf::from("/var/lib/kiln-lab/ab/x y")]);
    }

    #[test]
    fn the_unified_tree_is_found_where_it_is() {
        assert_eq!(of_type(TABLE, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(of_type(TABLE, "nfs"), None);
    }
}
