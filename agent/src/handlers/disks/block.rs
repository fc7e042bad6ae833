//! What the kernel tells of disks and of what is mounted. Everything here only reads.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::libc;

use super::{SECTOR, WORTH};
use crate::system::System;

/// Something mounted, a line of /proc/self/mountinfo.
pub struct Mount {
    /// Major and minor number of the device, `8:1`.
    number: String,
    /// Which folder of the file system it is.
    folder: String,
    /// The mount point.
    pub place: String,
    /// The kind of file system.
    pub kind: String,
    source: String,
}

impl Mount {
    /// The disk behind it; none where its number is of no disk, as those of btrfs, overlays and networks are.
    pub fn block(&self, system: &System) -> Option<Block> {
        Block::of_number(system, &self.number)
    }
}

/// Everything that is mounted.
pub fn mounts(system: &System) -> Vec<Mount> {
    // In a tree with a real /proc the table is that of the agent, and not of the tree.
    if !system.is_live() && system.exists("/proc/sys/vm") { Vec::new() } else { table(system) }
}

fn table(system: &System) -> Vec<Mount> {
    let table = system.read_text("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(2);
    let mut back = back.split(' ');
    Some(Mount {
        number: front.next()?.to_owned(),
        folder: front.next()?.to_owned(),
        place: unescape(front.next()?),
        kind: back.next()?.to_owned(),
        source: unescape(back.next()?),
    })
}

/// The kernel writes blanks in a path as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// What is mounted at a place, and the disk behind it; none for a container's root, an overlay, a tmpfs.
pub fn mounted_at(system: &System, place: &str) -> Option<(Mount, Block)> {
    let mount = mounts(system).into_iter().rfind(|mount| mount.place == place)?;
    // Another folder than the top is a bind mount, as a container has; in btrfs it is a subvolume.
    let block = match (mount.number.starts_with("0:"), mount.kind.as_str()) {
        (true, "btrfs") => Block::at(system, &mount.source)?,
        (false, _) if mount.folder == "/" => Block::of_number(system, &mount.number)?,
        _ => return None,
    };
    system.exists(block.path()).then_some((mount, block))
}

/// The disk under /, and what is on it, where the machine is one that has such a thing.
pub fn root(system: &System) -> Option<(Mount, Block)> {
    // A container's root is an overlay or a folder of the host, and its table of mounts is long.
    if system.is_live() && !system.root_is_of_a_disk() || system.exists("/run/systemd/container") {
        None
    } else {
        mounted_at(system, "/")
    }
}

/// A disk or a partition.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// Its number, `8:1`.
    number: String,
    /// The kernel's name, `sda1`.
    name: String,
}

impl Block {
    /// The device of a number.
    fn of_number(system: &System, number: &str) -> Option<Self> {
        let text = system.read_text(format!("/sys/dev/block/{number}/uevent")).ok()?;
        let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(Block { number: number.to_owned(), name: name.to_owned() })
    }

    /// The device that a path names, links followed.
    pub fn at(system: &System, path: &str) -> Option<Self> {
        let found = system.metadata(path).ok()?;
        if !found.file_type().is_block_device() {
            return None;
        }
        Self::of_number(system, &format!("{}:{}", libc::major(found.rdev()), libc::minor(found.rdev())))
    }

    /// `/dev/sda1`.
    pub fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// The device that stands first in a line of /etc/fstab: a path, or a tag by which udev has a link.
    pub fn of_source(system: &System, source: &str) -> Option<Self> {
        let Some((tag, value)) = source.split_once('=') else { return Self::at(system, source) };
        Self::at(system, &format!("/dev/disk/by-{}/{}", tag.to_lowercase(), value.trim_matches('"')))
    }

    fn fact(&self, system: &System, name: &str) -> Option<String> {
        let text = system.read_text(format!("/sys/dev/block/{}/{name}", self.number)).ok()?;
        Some(text.trim().to_owned())
    }

    fn count(&self, system: &System, name: &str) -> Option<u64> {
        self.fact(system, name)?.parse().ok()
    }

    /// Its size in bytes; 0 where the kernel does not tell.
    pub fn bytes(&self, system: &System) -> u64 {
        self.count(system, "size").unwrap_or(0) * SECTOR
    }

    /// The disk that it is a partition of, and its number there.
    pub fn parent(&self, system: &System) -> Option<(Block, u64)> {
        let partition = self.count(system, "partition")?;
        let disk = Block::of_number(system, &self.fact(system, "../dev")?)?;
        Some((disk, partition))
    }

    /// Its partition of a number.
    pub fn partition(&self, system: &System, number: u64) -> Option<Block> {
        self.partitions(system).into_iter().find(|block| block.count(system, "partition") == Some(number))
    }

    /// Its partitions, by number.
    pub fn partitions(&self, system: &System) -> Vec<Block> {
        let names = system.list(format!("/sys/dev/block/{}", self.number)).unwrap_or_default();
        let named = names.into_iter().filter_map(|name| {
            let partition: u64 = self.fact(system, &format!("{name}/partition"))?.parse().ok()?;
            Some((partition, Block { number: self.fact(system, &format!("{name}/dev"))?, name }))
        });
        let mut partitions: Vec<_> = named.collect();
        partitions.sort_unstable_by_key(|(partition, _)| *partition);
        partitions.into_iter().map(|(_, block)| block).collect()
    }

    /// The devices that it is made of, as LVM and LUKS do.
    pub fn below(&self, system: &System) -> Vec<Block> {
        let slaves = system.list(format!("/sys/dev/block/{}/slaves", self.number)).unwrap_or_default();
        let numbers = slaves.iter().filter_map(|name| self.fact(system, &format!("slaves/{name}/dev")));
        let mut found: Vec<Block> = numbers.filter_map(|number| Block::of_number(system, &number)).collect();
        // LVM on LUKS on a partition.
        let deeper: Vec<Block> = found.iter().flat_map(|block| block.below(system)).collect();
        found.extend(deeper);
        found
    }

    /// Free bytes right behind a partition; 0 for a whole disk.
    pub fn room(&self, system: &System) -> u64 {
        let Some((disk, _)) = self.parent(system) else { return 0 };
        let (Some(start), Some(size)) = (self.count(system, "start"), self.count(system, "size")) else { return 0 };
        let end = start + size;
        let others = disk.partitions(system).into_iter().filter_map(|other| other.count(system, "start"));
        let next = others.filter(|other| *other >= end).min();
        let limit = next.unwrap_or_else(|| disk.bytes(system) / SECTOR);
        limit.saturating_sub(end) * SECTOR
    }

    /// Whether it, or what it is made of, could be larger by more than alignment takes.
    pub fn could_grow(&self, system: &System) -> bool {
        self.room(system) > WORTH || self.below(system).iter().any(|part| part.room(system) > WORTH)
    }

    /// What uses it or one of its partitions: a mount point, `swap`, or a device made of it.
    pub fn user(&self, system: &System) -> Option<String> {
        // Also what another root has mounted is in use.
        let mounts = table(system);
        let swaps = system.read_text("/proc/swaps").unwrap_or_default();
        let user = |block: &Block| {
            if let Some(mount) = mounts.iter().find(|m| m.number == block.number || m.source == block.path()) {
                return Some(mount.place.clone());
            }
            if swaps.lines().any(|line| line.split_whitespace().next() == Some(&block.path())) {
                return Some("swap".to_owned());
            }
            system.list(format!("/sys/dev/block/{}/holders", block.number)).unwrap_or_default().into_iter().next()
        };
        user(self).or_else(|| self.partitions(system).iter().find_map(user))
    }
}

/// A machine's disks in a tree, for tests: sysfs, and devices whose numbers belong to nobody.
#[cfg(test)]
pub mod fake {
    use super::*;
    use crate::system::FileOptions;

    /// `vdx` of 1 GiB with these partitions (number, first sector, sectors), the first of them at / .
    ///
    /// False, with a word on standard error, where this process may not make devices.
    pub fn disk(system: &System, partitions: &[(u64, u64, u64)]) -> bool {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let write = |path: String, text: String| system.write(path, text, FileOptions::default()).unwrap();
        let folder = "/sys/devices/vdx";
        let mut nodes = vec![("vdx".to_owned(), 0)];
        write(format!("{folder}/uevent"), "MAJOR=240\nDEVNAME=vdx\n".to_owned());
        write(format!("{folder}/dev"), "240:0\n".to_owned());
        write(format!("{folder}/size"), "2097152\n".to_owned());
        for (number, start, size) in partitions {
            let name = format!("vdx{number}");
            let facts = [("start", *start), ("size", *size), ("partition", *number)];
            facts.iter().for_each(|(fact, value)| write(format!("{folder}/{name}/{fact}"), format!("{value}\n")));
            write(format!("{folder}/{name}/dev"), format!("240:{number}\n"));
            write(format!("{folder}/{name}/uevent"), format!("DEVNAME={name}\n"));
            system.link(format!("/sys/dev/block/240:{number}"), format!("../../devices/vdx/{name}")).unwrap();
            nodes.push((name, *number));
        }
        system.link("/sys/dev/block/240:0", "../../devices/vdx").unwrap();
        system.make_dir("/dev", 0o755, None).unwrap();
        for (name, minor) in nodes {
            let _ = system.remove(format!("/dev/{name}"));
            let node = system.path(format!("/dev/{name}"));
            if let Err(error) = mknod(&node, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), makedev(240, minor)) {
                crate::testing::skip(&format!("mknod(2): {error}"));
                return false;
            }
        }
        true
    }

    /// Has the first partition mounted at /.
    pub fn mount_root(system: &System, kind: &str) {
        let line = format!("27 1 240:1 / / rw,relatime shared:1 - {kind} /dev/vdx1 rw\n");
        system.write("/proc/self/mountinfo", line, FileOptions::default()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn the_room_behind_a_partition_ends_at_the_next_one_or_with_the_disk() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        if !fake::disk(&system, &[(1, 4096, 100_000), (2, 204_096, 1000), (14, 2048, 2048)]) {
            return;
        }
        let room = |path| Block::at(&system, path).unwrap().room(&system);
        assert_eq!(room("/dev/vdx1"), 100_000 * SECTOR);
        assert_eq!(room("/dev/vdx2"), (2_097_152 - 205_096) * SECTOR);
        assert_eq!((room("/dev/vdx14"), room("/dev/vdx")), (0, 0));
        let disk = Block::at(&system, "/dev/vdx").unwrap();
        let names: Vec<_> = disk.partitions(&system).iter().map(Block::path).collect();
        assert_eq!(names, ["/dev/vdx1", "/dev/vdx2", "/dev/vdx14"]);
    }

    #[test]
    fn a_container_and_what_is_no_disk_have_none_under_the_root() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        if !fake::disk(&system, &[(1, 2048, 1000)]) {
            return;
        }
        let is_found = |line: &str| {
            system.write("/proc/self/mountinfo", line, FileOptions::default()).unwrap();
            root(&system).is_some()
        };
        assert!(is_found("27 1 240:1 / / rw shared:1 - ext4 /dev/vdx1 rw\n"));
        assert!(is_found("27 1 0:30 /@rootfs / rw - btrfs /dev/vdx1 rw,subvol=/@rootfs\n"));
        for line in [
            "",
            "27 1 0:30 / / rw - overlay overlay rw,lowerdir=/dev/vdx1\n",
            "27 1 240:1 /machines/web / rw - ext4 /dev/vdx1 rw\n",
            "27 1 240:9 / / rw - ext4 /dev/vdx9 rw\n",
            "27 1 240:1 / /mnt rw - ext4 /dev/vdx1 rw\n",
            "27 1 240:1 / / rw - ext4\n",
        ] {
            assert!(!is_found(line), "{line}");
        }
        system.write("/run/systemd/container", "lxc", FileOptions::default()).unwrap();
        assert!(!is_found("27 1 240:1 / / rw - ext4 /dev/vdx1 rw\n"));
    }

    #[test]
    fn what_uses_a_disk_is_named() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        if !fake::disk(&system, &[(1, 2048, 1000), (2, 4096, 1000)]) {
            return;
        }
        let user = |path| Block::at(&system, path).unwrap().user(&system);
        assert_eq!((user("/dev/vdx"), user("/dev/vdx2")), (None, None));
        system.write("/proc/swaps", "Filename Type\n/dev/vdx2 partition 1 0 -2\n", FileOptions::default()).unwrap();
        assert_eq!((user("/dev/vdx").as_deref(), user("/dev/vdx2").as_deref()), (Some("swap"), Some("swap")));
        assert_eq!(user("/dev/vdx1"), None);
        fake::mount_root(&system, "ext4");
        assert_eq!(user("/dev/vdx").as_deref(), Some("/"));
        system.make_dir("/proc/sys/vm", 0o755, None).unwrap();
        assert!(root(&system).is_none(), "the table is not that of this tree");
        assert_eq!(user("/dev/vdx").as_deref(), Some("/"));
        system.make_dir("/sys/devices/vdx/vdx2/holders/dm-0", 0o755, None).unwrap();
        system.remove("/proc/swaps").unwrap();
        assert_eq!(user("/dev/vdx2").as_deref(), Some("dm-0"));
    }
}
