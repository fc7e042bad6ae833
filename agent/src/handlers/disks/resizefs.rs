//! The file system at / that grows with its disk.

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::super::edit::must;
use super::super::{Failure, Finds, Frequency, Handled, Handler, Outcome, check};
use super::WORTH;
use super::block::{self, Block};
use crate::context::Context;
use crate::system::System;

const INSTALL: &str = "install it into the image, or set `resize_rootfs: false`";

/// Starts its arguments and does not wait for them; a program that lacks is still told.
const BESIDE: &str = "command -v \"$1\" >/dev/null || { echo \"$1 is not installed\" >&2; exit 127; }
\"$@\" >/dev/null 2>&1 &";

/// Lets the file system at / grow.
pub struct ResizeFs;

/// Keys of the growing.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// True, as without the key: the file system at / fills its disk. `noblock`: so it does beside the
    /// rest of the boot. False: it stays as it is.
    #[serde(deserialize_with = "yaml::tolerant")]
    #[schemars(extend("type" = ["boolean", "string", "null"]))]
    resize_rootfs: Option<String>,
}

impl Handler for ResizeFs {
    const NAME: &'static str = "resizefs";
    const SUMMARY: &'static str = "Lets the file system at / grow with its disk";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Boot;
    const FINDS: Option<Finds> = Some(|system, config, _| {
        if config.get("resize_rootfs").is_some() {
            return true;
        }
        // Its turn is decided before growpart has run.
        block::root(system).is_some_and(|(mount, device)| {
            device.could_grow(system)
                || bytes(system, &mount.kind, &device).is_some_and(|held| is_short(system, &device, held))
        })
    });
    type Config = Config;

    /// What nobody asked for degrades the boot at most.
    fn best_effort(config: &Config) -> bool {
        config.resize_rootfs.is_none()
    }

    fn check(config: &Node) -> Vec<Diagnostic> {
        let words = ["true", "false", "yes", "no", "on", "off", "noblock"];
        config.get("resize_rootfs").and_then(|node| check::word(node, "resize_rootfs", &words)).into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let system = &context.system;
        let word = config.resize_rootfs.as_deref().unwrap_or("true");
        match scalar::boolean(word) {
            Some(false) => return Ok(Outcome::Skipped(Reason::SwitchedOff, "resize_rootfs is false".to_owned())),
            None if word != "noblock" => {
                return Err(super::config(format!("resize_rootfs: `{word}` is none of true, false and noblock")));
            }
            _ => {}
        }
        let nothing = |why: String| Ok(Outcome::Skipped(Reason::NothingToDo, why));
        let Some((mount, device)) = block::root(system) else {
            return nothing("no disk is under /, as in a container".to_owned());
        };
        let path = device.path();
        let Some(held) = bytes(system, &mount.kind, &device) else {
            let message = format!("/ is {} on {path}, which the agent cannot let grow; do so in `bootcmd`", mount.kind);
            return Err(Failure::new(Reason::Unsupported, message));
        };
        if !is_short(system, &device, held) {
            return nothing(format!("the file system at / fills {path}"));
        }
        let words: &[&str] = match mount.kind.as_str() {
            "xfs" => &["xfs_growfs", "/"],
            "btrfs" => &["btrfs", "filesystem", "resize", "max", "/"],
            _ => &["resize2fs", &path],
        };
        let beside = word == "noblock";
        let command = if beside {
            // What a command leaves behind keeps running; a failure shows at the next boot, which tries again.
            context.command("/bin/sh").args(["-c", BESIDE, "sh"]).args(words.iter().copied())
        } else {
            context.command(words[0]).args(words[1..].iter().copied())
        };
        must(context, &command, INSTALL)?;
        let detail =
            json!({"device": path, "kind": mount.kind, "was": held, "bytes": device.bytes(system), "beside": beside});
        Ok(Outcome::Ok(Some(detail)))
    }
}

/// Whether a file system of so many bytes leaves much of its device unused.
fn is_short(system: &System, device: &Block, held: u64) -> bool {
    device.bytes(system).saturating_sub(held) > WORTH
}

/// How many bytes a file system says it has; none for a kind that cannot grow here.
fn bytes(system: &System, kind: &str, device: &Block) -> Option<u64> {
    let path = device.path();
    let read = |at: u64, count: usize| -> Option<Vec<u8>> {
        let head = system.head(&path, at + count as u64).ok()?;
        head.get(usize::try_from(at).ok()?..).filter(|bytes| bytes.len() == count).map(<[u8]>::to_vec)
    };
    let little = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let big = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    match kind {
        // Linux, Documentation/filesystems/ext4/super.rst: blocks at 4 and, for 64 bit, 0x150; their size at 0x18.
        "ext2" | "ext3" | "ext4" => {
            let head = read(1024, 1024)?;
            let is_wide = little(&head[0x60..0x64]) & 0x80 != 0;
            let high = if is_wide { little(&head[0x150..0x154]) << 32 } else { 0 };
            let blocks = high | little(&head[4..8]);
            let size = 1024_u64.checked_shl(u32::try_from(little(&head[0x18..0x1c])).ok()?)?;
            (head[0x38..0x3a] == [0x53, 0xef]).then(|| blocks.checked_mul(size)).flatten()
        }
        // xfs_format.h: size of a block at 4, blocks at 8. The kernel writes them at the next unmount or
        // recovery: a second look in the same boot sees the old ones, and xfs_growfs then has nothing to do.
        "xfs" => {
            let head = read(0, 16)?;
            head.starts_with(b"XFSB").then(|| big(&head[8..16]).checked_mul(big(&head[4..8]))).flatten()
        }
        // btrfs_tree.h: the superblock at 64 KiB has its magic at 0x40, and this device's bytes in the item at 0xc9.
        "btrfs" => {
            let head = read(0x1_0000, 0x200)?;
            (&head[0x40..0x48] == b"_BHRfS_M").then(|| little(&head[0xd1..0xd9]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::fake;
    use super::*;
    use crate::system::FileOptions;
    use crate::testing;

    /// A superblock of a file system of so many MiB.
    fn superblock(kind: &str, mib: u64) -> Vec<u8> {
        let mut bytes = vec![0; 0x1_0200];
        match kind {
            "ext4" => {
                let blocks = u32::try_from(mib << 8).unwrap();
                bytes[1024 + 4..1024 + 8].copy_from_slice(&blocks.to_le_bytes());
                bytes[1024 + 0x18] = 2;
                bytes[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
            }
            "xfs" => {
                bytes[..4].copy_from_slice(b"XFSB");
                bytes[4..8].copy_from_slice(&4096_u32.to_be_bytes());
                bytes[8..16].copy_from_slice(&(mib << 8).to_be_bytes());
            }
            _ => {
                bytes[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
                bytes[0x1_00d1..0x1_00d9].copy_from_slice(&(mib << 20).to_le_bytes());
            }
        }
        bytes
    }

    /// A machine whose partition of 64 MiB at / holds such a file system.
    fn machine(keys: &str, kind: &str, mib: u64) -> Option<(tempfile::TempDir, Context)> {
        let tree = tempfile::tempdir().unwrap();
        let context = testing::machine(tree.path(), &["/usr/bin/dash"], keys)?;
        let system = &context.system;
        if !fake::disk(system, &[(1, 2048, 131_072), (2, 133_120, 2048)]) {
            return None;
        }
        // A file stands for the device, as its bytes are to be read.
        system.remove("/dev/vdx1").unwrap();
        system.write("/dev/vdx1", superblock(kind, mib), FileOptions::default()).unwrap();
        fake::mount_root(system, kind);
        system.link("/bin/sh", "/usr/bin/dash").unwrap();
        for name in ["resize2fs", "xfs_growfs", "btrfs"] {
            program(system, name, &format!("echo \"{name} $*\" >> /said"));
        }
        Some((tree, context))
    }

    fn program(system: &System, name: &str, script: &str) {
        let script = format!("#!/usr/bin/dash\n{script}\n");
        testing::executable(system, format!("/usr/bin/{name}"), script);
    }

    /// Runs on such a machine: whether it was found to have work, how it ended, and what was run.
    fn run(keys: &str, kind: &str, mib: u64) -> Option<(bool, Handled, String)> {
        let (_tree, mut context) = machine(keys, kind, mib)?;
        let found = ResizeFs::FINDS.is_some_and(|finds| finds(&context.system, &context.config, &[]));
        let handled = context.run_handler::<ResizeFs>();
        Some((found, handled, context.system.read_text("/said").unwrap_or_default()))
    }

    #[test]
    fn with_noblock_the_boot_goes_on_beside_it() {
        use nix::sys::stat::Mode;
        let Some((tree, mut context)) = machine("resize_rootfs: noblock", "ext4", 30) else { return };
        for pipe in ["gate", "out"] {
            nix::unistd::mkfifo(&tree.path().join(pipe), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
        // It ends only after the handler has: the gate is opened below.
        program(&context.system, "resize2fs", "read word < /gate; echo \"resize2fs $*\" > /out");
        let Ok(Outcome::Ok(Some(detail))) = context.run_handler::<ResizeFs>() else { panic!("it failed") };
        assert_eq!(detail["beside"], true);
        let opened = context.command("/bin/sh").args(["-c", "echo go > /gate; read line < /out; echo \"$line\""]);
        assert_eq!(context.run(&opened).unwrap().text(), "resize2fs /dev/vdx1");
    }

    #[test]
    fn a_program_that_lacks_is_told_in_either_mode() {
        for (keys, sentence) in [
            ("", "resize2fs is not installed; install it into the image, or set `resize_rootfs: false`"),
            ("resize_rootfs: noblock", "/bin/sh exited 127: resize2fs is not installed"),
        ] {
            let Some((_tree, mut context)) = machine(keys, "ext4", 30) else { return };
            context.system.remove("/usr/bin/resize2fs").unwrap();
            assert_eq!(context.run_handler::<ResizeFs>().unwrap_err().message, sentence);
        }
    }

    #[test]
    fn a_file_system_that_is_short_grows_by_its_own_program() {
        for (kind, command) in [("ext4", "resize2fs /dev/vdx1\n"), ("xfs", "xfs_growfs /\n")] {
            let Some((found, handled, said)) = run("", kind, 30) else { return };
            assert!(found && matches!(handled, Ok(Outcome::Ok(_))), "{kind}: {handled:?}");
            assert_eq!(said, command);
        }
    }

    #[test]
    fn a_file_system_that_fills_its_disk_starts_nothing() {
        for kind in ["ext4", "xfs"] {
            let Some((found, handled, said)) = run("resize_rootfs: true", kind, 62) else { return };
            assert!(found && said.is_empty(), "{kind}");
            let Some((found, ..)) = run("", kind, 62) else { return };
            assert!(!found, "{kind}");
            assert!(matches!(handled, Ok(Outcome::Skipped(Reason::NothingToDo, _))), "{kind}: {handled:?}");
        }
    }

    #[test]
    fn the_bytes_of_each_kind_are_read_from_its_superblock() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        if !fake::disk(&system, &[(1, 2048, 131_072)]) {
            return;
        }
        let device = Block::at(&system, "/dev/vdx1").unwrap();
        system.remove("/dev/vdx1").unwrap();
        for kind in ["ext4", "xfs", "btrfs"] {
            system.write("/dev/vdx1", superblock(kind, 48), FileOptions::default()).unwrap();
            assert_eq!(bytes(&system, kind, &device), Some(48 << 20), "{kind}");
            for wrong in [Vec::new(), vec![0; 100], vec![0xff; 0x1_0200]] {
                system.write("/dev/vdx1", wrong, FileOptions::default()).unwrap();
                assert_eq!(bytes(&system, kind, &device), None, "{kind}");
            }
        }
        assert_eq!(bytes(&system, "zfs", &device), None);
    }

    #[test]
    fn what_cannot_grow_or_is_off_is_told() {
        let Some((found, handled, _)) = run("", "f2fs", 30) else { return };
        assert!(!found && handled.unwrap_err().message.starts_with("/ is f2fs on /dev/vdx1"));
        let Some((_, handled, said)) = run("resize_rootfs: off", "ext4", 30) else { return };
        assert!(said.is_empty() && matches!(handled, Ok(Outcome::Skipped(Reason::SwitchedOff, _))));
        let Some((_, handled, said)) = run("resize_rootfs: wrong", "ext4", 30) else { return };
        assert!(said.is_empty() && handled.unwrap_err().reason == Reason::Config);
    }
}
