//! New partitions and file systems: `disk_setup`, then `fs_setup`.

use std::collections::BTreeMap;

use kiln_schema::Severity;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::super::edit::{Pairs, must};
use super::super::tools::not_text;
use super::super::{Failure, Frequency, Handled, Handler, items, reason_of};
use super::filesystems::{self, Filesystem};
use super::partitions::{self, Disk};
use super::{Pass, place, read};
use crate::context::Context;
use crate::system::RunError;

/// Makes partitions and file systems.
pub struct DiskSetup;

/// Keys of new partitions and file systems.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Names for disks, for `disk_setup`, `fs_setup` and `mounts`.
    device_aliases: Pairs,
    /// Partitions, by the disk.
    // The trees are read entry by entry, so that one that is wrong stops no other; these document them.
    #[schemars(with = "BTreeMap<String, Disk>")]
    disk_setup: Option<IgnoredAny>,
    /// File systems, in order.
    #[schemars(with = "Vec<Filesystem>")]
    fs_setup: Option<IgnoredAny>,
}

impl Handler for DiskSetup {
    const NAME: &'static str = "disk_setup";
    const SUMMARY: &'static str = "Makes partitions and file systems";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let disks = disks(config).iter();
        let disks = disks.flat_map(|entry| findings(&entry.value, &path_of(&entry.key), partitions::check));
        let systems = items(config, "fs_setup").iter().enumerate();
        let systems =
            systems.flat_map(|(index, item)| findings(item, &format!("fs_setup[{index}]"), filesystems::check));
        let shape =
            config.get("disk_setup").filter(|node| !node.is_null() && !matches!(node.value, yaml::Value::Map(_)));
        let shape = shape.map(|node| {
            let message = format!("expected a mapping of disks, found {}", node.kind());
            node.diagnostic(Severity::Error, "disk_setup", message)
        });
        let aliases = config.get("device_aliases").map_or_else(Vec::new, |it| not_text(it, "device_aliases", |_| true));
        let numbers = items(config, "fs_setup").iter().enumerate().filter_map(|(index, item)| {
            let number = item.get("partition").filter(|node| node.kind() == "a number")?;
            let message = "a number, which works here and which cloud-init's schema refuses";
            Some(number.diagnostic(Severity::Warning, &format!("fs_setup[{index}].partition"), message))
        });
        shape.into_iter().chain(disks).chain(systems).chain(aliases).chain(numbers).collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let tree = context.config.clone();
        let mut pass = Pass::default();
        for entry in disks(&tree) {
            let done = read(&entry.value)
                .and_then(|disk| partitions::make(context, &config.device_aliases, &entry.key, &disk));
            pass.note(&place(&path_of(&entry.key), &entry.value), done);
        }
        for (index, item) in items(&tree, "fs_setup").iter().enumerate() {
            let done = read(item).and_then(|system| filesystems::make(context, &config.device_aliases, &system));
            pass.note(&place(&format!("fs_setup[{index}]"), item), done);
        }
        pass.outcome("no disk is named")
    }
}

fn disks(config: &Node) -> &[yaml::Entry] {
    config.get("disk_setup").map_or(&[], Node::entries)
}

/// What is wrong with an entry before there is a disk.
fn findings<T: DeserializeOwned>(node: &Node, path: &str, check: fn(&T) -> Result<(), Failure>) -> Vec<Diagnostic> {
    let yaml::Checked { value, mut diagnostics } = yaml::read_portable::<T>(node, path);
    let failure = value.and_then(|value| check(&value).err());
    diagnostics.extend(failure.map(|failure| node.diagnostic(Severity::Error, path, failure.message)));
    diagnostics
}

fn path_of(disk: &str) -> String {
    format!("disk_setup.{disk}")
}

/// What a device holds.
#[derive(Debug, Default, PartialEq)]
pub struct Signature {
    /// The kind of file system, `swap` too.
    pub kind: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// The kind of partition table.
    pub table: Option<String>,
    /// There are signatures that contradict one another.
    pub is_mixed: bool,
    /// What a boot loader or a firmware keeps there without any signature, by the type of the partition.
    pub reserved: Option<&'static str>,
}

/// Types of partitions that hold no file system and are not free, as blkid writes them.
const RESERVED: &[(&str, &str)] = &[
    ("21686148-6449-6e6f-744e-656564454649", "the boot loader (BIOS boot)"),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", "the boot loader (PReP)"),
    ("0x41", "the boot loader (PReP)"),
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "the firmware's boot files (EFI system)"),
    ("0xef", "the firmware's boot files (EFI system)"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "room that is reserved for Windows"),
];

impl Signature {
    /// What a device holds, read from it and not from a cache.
    ///
    /// # Errors
    /// When blkid cannot tell: then nothing may be written there.
    pub fn of(context: &Context, path: &str) -> Result<Self, Failure> {
        let command = context.command("blkid").args(["--probe", "--output", "export", path]);
        let finished = context.run(&command).map_err(|error| match error {
            RunError::Missing(_) => Failure::new(
                Reason::MissingProgram,
                format!("{error}, so nobody can tell what {path} holds; install it into the image"),
            ),
            other => Failure::new(reason_of(&other), other.to_string()),
        })?;
        match finished.code {
            Some(0) => {}
            // It holds nothing; with a word about it, it could not be read.
            Some(2) if finished.stderr.is_empty() => {}
            Some(8) => return Ok(Signature { is_mixed: true, ..Signature::default() }),
            _ => {
                let said = finished.last_lines(1).join("");
                let message = format!("blkid {path} {}: {said}", finished.ending());
                return Err(Failure::new(Reason::CommandFailed, message));
            }
        }
        let text = finished.text();
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            Some(value.replace('\\', ""))
        };
        let role = field("PART_ENTRY_TYPE");
        let reserved = RESERVED.iter().find(|(kind, _)| role.as_deref() == Some(*kind)).map(|(_, what)| *what);
        Ok(Signature { kind: field("TYPE"), label: field("LABEL"), table: field("PTTYPE"), is_mixed: false, reserved })
    }

    /// For a message; none where there is nothing.
    pub fn held(&self) -> Option<String> {
        match self {
            Signature { is_mixed: true, .. } => Some("signatures of several file systems".to_owned()),
            Signature { kind: Some(kind), .. } => Some(kind.clone()),
            Signature { table: Some(table), .. } => Some(format!("a partition table ({table})")),
            Signature { reserved: Some(what), .. } => Some((*what).to_owned()),
            _ => None,
        }
    }
}

/// Removes every signature of a device. The kernel refuses it for what is mounted.
///
/// # Errors
/// When a signature stays.
pub fn wipe(context: &Context, path: &str) -> Result<(), Failure> {
    must(context, &context.command("wipefs").args(["--all", path]), "install util-linux into the image").map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::super::Outcome;
    use super::*;
    use crate::testing;

    fn signature(script: &str) -> Option<Result<Signature, Failure>> {
        let tree = tempfile::tempdir().unwrap();
        let context = testing::machine(tree.path(), &["/usr/bin/dash"], "")?;
        let script = format!("#!/usr/bin/dash\n{script}\n");
        testing::executable(&context.system, "/usr/sbin/blkid", script);
        Some(Signature::of(&context, "/dev/x"))
    }

    #[test]
    fn what_a_device_holds_is_told_or_nothing_may_be_written() {
        for (script, held) in [
            ("echo DEVNAME=/dev/x; echo LABEL=my\\\\ data; echo TYPE=ext4; echo USAGE=filesystem", Some("ext4")),
            ("echo PTTYPE=gpt; echo PTUUID=x", Some("a partition table (gpt)")),
            ("echo TYPE=swap", Some("swap")),
            (
                "echo PART_ENTRY_SCHEME=gpt; echo PART_ENTRY_TYPE=21686148-6449-6e6f-744e-656564454649",
                Some("the boot loader (BIOS boot)"),
            ),
            ("echo PART_ENTRY_TYPE=0fc63daf-8483-4772-8e79-3d69d8477de4", None),
            ("exit 8", Some("signatures of several file systems")),
            ("exit 2", None),
        ] {
            let Some(found) = signature(script) else { return };
            assert_eq!(found.unwrap().held().as_deref(), held, "{script}");
        }
        let Some(failed) = signature("echo 'cannot open' >&2; exit 4") else { return };
        assert_eq!(failed.unwrap_err().message, "blkid /dev/x exited 4: cannot open");
        let Some(unread) = signature("echo 'error: /dev/x: Input/output error' >&2; exit 2") else { return };
        assert!(unread.unwrap_err().message.ends_with("exited 2: error: /dev/x: Input/output error"));
        let tree = tempfile::tempdir().unwrap();
        let failure = Signature::of(&Context::for_test(tree.path(), ""), "/dev/x").unwrap_err();
        assert!(failure.message.starts_with("blkid is not installed, so nobody can tell what /dev/x holds"));
    }

    #[test]
    fn a_bad_entry_has_a_place_and_stops_no_other() {
        let document = "disk_setup:\n  /dev/a: {layout: [50, x]}\n  /dev/b: {tabel_type: gpt}\nfs_setup:\n- {filesystem: ext4}\n- 1\n";
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), document);
        let told: Vec<String> = DiskSetup::check(&context.config).iter().map(ToString::to_string).collect();
        for (found, part) in told.iter().zip([
            "2:25: error: disk_setup./dev/a.layout[1]: expected a number, found text",
            "3:12: warning: disk_setup./dev/b.tabel_type",
            "5:3: error: fs_setup[0]: the key `device` is missing",
            "6:3: error: fs_setup[1]",
        ]) {
            assert!(found.contains(part), "{part} in {told:?}");
        }
        for (document, told) in [
            ("disk_setup: {/dev/a: {layout: [60, 60]}}", "disk_setup./dev/a: layout: the percentages"),
            ("disk_setup: {/dev/a: {table_type: apm}}", "table_type: `apm` is none of"),
            ("fs_setup: [{device: sdb, filesystem: ext4, partition: two}]", "fs_setup[0]: partition: `two` is none"),
            ("fs_setup: [{device: sdb}]", "neither `filesystem` nor `cmd`"),
            (
                "disk_setup: {/dev/a: {layout: [50, 50]}}\nfs_setup: [{device: a.1, filesystem: xfs, partition: any}]",
                "",
            ),
        ] {
            let (config, _) = yaml::parse("x", document).unwrap();
            let found: String = DiskSetup::check(&config).iter().map(ToString::to_string).collect();
            assert!(found.contains(told) && found.is_empty() == told.is_empty(), "{document}: {found}");
        }
        let failure = context.run_handler::<DiskSetup>().unwrap_err();
        for part in ["disk_setup./dev/a (line 2): layout", "fs_setup[0] (line 5): the key", "fs_setup[1] (line 6)"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        for (document, told) in [("disk_setup: [/dev/sdb]", 1), ("disk_setup:", 0), ("fs_setup: []", 0)] {
            let mut context = Context::for_test(tree.path(), document);
            assert_eq!(DiskSetup::check(&context.config).len(), told, "{document}");
            assert!(matches!(context.run_handler::<DiskSetup>(), Ok(Outcome::Skipped(..))), "{document}");
        }
    }
}
