//! New file systems, and swap areas.

use kiln_schema::yaml::{self, Argv};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::super::Failure;
use super::super::edit::{Pairs, command_of, must};
use super::block::Block;
use super::setup::{Signature, wipe};
use super::{config, names};
use crate::context::Context;

/// A file system to make.
#[derive(Deserialize, JsonSchema)]
pub struct Filesystem {
    /// The disk or partition, by its path, its alias, or `ALIAS.2` for the second partition.
    device: String,
    /// Its label.
    #[serde(default)]
    label: Option<String>,
    /// Its kind: `ext4`, `xfs`, `swap`, and whatever else the image has a mkfs for.
    #[serde(default)]
    filesystem: Option<String>,
    /// The partition's number. `any`, as without the key: the first that is free, unless one has such a
    /// file system; `auto`: one with the label too. `none`: the disk itself.
    #[serde(default, deserialize_with = "yaml::tolerant")]
    partition: Option<String>,
    /// Make it even if the device holds something.
    #[serde(default)]
    overwrite: bool,
    /// Make it in place of a file system of this kind.
    #[serde(default)]
    replace_fs: Option<String>,
    /// More arguments for mkfs.
    #[serde(default, deserialize_with = "yaml::tolerant")]
    extra_opts: Vec<String>,
    /// The command in place of mkfs, with `%(label)s`, `%(filesystem)s` and `%(device)s` filled in.
    #[serde(default)]
    cmd: Option<Argv>,
}

impl Filesystem {
    /// Whether a device holds it already; `any` asks for no label.
    fn is(&self, found: &Signature, with_label: bool) -> bool {
        found.kind.is_some()
            && found.kind.as_deref() == self.filesystem.as_deref()
            && (!with_label || found.label.as_deref().unwrap_or("") == self.label.as_deref().unwrap_or(""))
    }

    fn replaces(&self, found: &Signature) -> bool {
        found.kind.is_some() && found.kind == self.replace_fs
    }
}

/// What becomes of a device.
enum Choice {
    Make(Block),
    Keep(Block),
}

/// What can be said of an entry without the disk.
///
/// # Errors
/// What is wrong with it.
pub fn check(wanted: &Filesystem) -> Result<(), Failure> {
    if wanted.filesystem.is_none() && wanted.cmd.is_none() {
        return Err(config("neither `filesystem` nor `cmd` is given, so nobody knows what to make"));
    }
    if wanted.filesystem.as_deref().is_some_and(|kind| !is_word(kind)) {
        return Err(config("filesystem: this is no kind of file system; write one such as ext4"));
    }
    let word = wanted.partition.as_deref().unwrap_or("any").to_lowercase();
    if !matches!(word.as_str(), "any" | "auto" | "none") && word.parse::<u64>().is_err() {
        return Err(config(format!("partition: `{word}` is none of any, auto, none and a number")));
    }
    Ok(())
}

/// Makes a file system, unless it is there.
///
/// # Errors
/// What the device holds, or who uses it, where that forbids it.
pub fn make(context: &Context, aliases: &Pairs, wanted: &Filesystem) -> Result<Json, Failure> {
    check(wanted)?;
    let (device, word) = find(context, aliases, wanted)?;
    match choose(context, &device, word.as_deref(), wanted)? {
        Choice::Keep(block) => Ok(json!({"device": block.path(), "changed": false})),
        Choice::Make(block) => {
            write(context, &block, wanted)?;
            Ok(json!({"device": block.path(), "filesystem": wanted.filesystem, "changed": true}))
        }
    }
}

/// The disk or partition that is named, and the word at `partition` where that leaves a choice.
fn find(context: &Context, aliases: &Pairs, wanted: &Filesystem) -> Result<(Block, Option<String>), Failure> {
    let (name, dotted) = match names::split(&wanted.device) {
        // A path with a dot in it is one, where it is there.
        _ if context.system.exists(&wanted.device) => (wanted.device.as_str(), None),
        split => split,
    };
    let disk = names::path(context, aliases, name)?;
    let word = wanted.partition.as_deref().unwrap_or("any").to_lowercase();
    let number = dotted.or_else(|| word.parse().ok());
    let Some(number) = number else {
        return match word.as_str() {
            "none" => Ok((names::device(context, &disk)?, None)),
            _ => Ok((names::device(context, &disk)?, Some(word))),
        };
    };
    if names::partition(context, &disk, number).is_none() {
        names::settle(context);
    }
    match names::partition(context, &disk, number) {
        Some(path) => Ok((names::device(context, &path)?, None)),
        None => {
            Err(config(format!("{disk} has no partition {number}; make it with `disk_setup`, or look at its number")))
        }
    }
}

fn choose(context: &Context, device: &Block, word: Option<&str>, wanted: &Filesystem) -> Result<Choice, Failure> {
    let path = device.path();
    let Some(word) = word else {
        let found = Signature::of(context, &path)?;
        if wanted.is(&found, true) && !wanted.overwrite {
            return Ok(Choice::Keep(device.clone()));
        }
        return match found.held() {
            Some(held) if !wanted.overwrite && !wanted.replaces(&found) => {
                let label = found.label.map_or(String::new(), |label| format!(" labelled `{label}`"));
                let advice = "`overwrite: true` would destroy it";
                Err(config(format!("{path} holds {held}{label}, and nothing was changed; {advice}")))
            }
            _ => Ok(Choice::Make(device.clone())),
        };
    };
    let mut candidates = device.partitions(&context.system);
    if candidates.is_empty() {
        candidates.push(device.clone());
    }
    let mut found = Vec::new();
    for block in candidates {
        found.push((Signature::of(context, &block.path())?, block));
    }
    let with_label = word == "auto";
    // A disk that has it must be seen first, or each new instance would use up one more partition.
    let fits: [&dyn Fn(&Signature) -> bool; 3] =
        [&|found| wanted.is(found, with_label), &|found| wanted.replaces(found), &|found| found.held().is_none()];
    for (turn, fits) in fits.iter().enumerate() {
        if let Some((_, block)) = found.iter().find(|(signature, _)| fits(signature)) {
            return Ok(if turn == 0 { Choice::Keep(block.clone()) } else { Choice::Make(block.clone()) });
        }
    }
    match found.into_iter().next() {
        // There is one candidate only: nobody could mean another.
        Some((_, block)) if wanted.overwrite && device.partitions(&context.system).is_empty() => {
            Ok(Choice::Make(block))
        }
        _ => Err(config(format!("nothing on {path} is free, and nothing was changed; give the number at `partition`"))),
    }
}

fn write(context: &Context, block: &Block, wanted: &Filesystem) -> Result<(), Failure> {
    let path = block.path();
    if let Some(user) = block.user(&context.system) {
        return Err(config(format!("{path} is in use ({user}), and nothing was changed; name a device that is not")));
    }
    let label = wanted.label.as_deref().unwrap_or("");
    let kind = wanted.filesystem.as_deref().unwrap_or("");
    if let Some(cmd) = &wanted.cmd {
        let fill =
            |text: &str| text.replace("%(label)s", label).replace("%(filesystem)s", kind).replace("%(device)s", &path);
        let cmd = match cmd {
            Argv::Shell(line) => Argv::Shell(fill(line)),
            Argv::Words(words) => Argv::Words(words.iter().map(|word| fill(word)).collect()),
        };
        return must(context, &command_of(context, &cmd), "look at `cmd`").map(drop);
    }
    // What an older file system leaves behind would make the device look like both.
    let had = Signature::of(context, &path)?.held().is_some();
    if had {
        wipe(context, &path)?;
    }
    let is_disk = block.parent(&context.system).is_none();
    let (program, label_flag, force) = flags(kind);
    let mut args: Vec<&str> = Vec::new();
    if !label.is_empty() {
        args.extend([label_flag, label]);
    }
    if is_disk || had {
        args.extend(force);
    }
    match wanted.extra_opts.as_slice() {
        // One text is a line of arguments.
        [line] => args.extend(line.split_whitespace()),
        many => args.extend(many.iter().map(String::as_str)),
    }
    args.push(&path);
    let advice = format!("install the tools of {kind} into the image");
    must(context, &context.command(&program).args(args), &advice).map(drop)
}

/// The program that makes a kind of file system, its flag for a label, and that for a whole disk.
fn flags(kind: &str) -> (String, &'static str, Option<&'static str>) {
    let (label, force) = match kind {
        "ext2" | "ext3" | "ext4" | "ntfs" => ("-L", Some("-F")),
        "xfs" | "btrfs" => ("-L", Some("-f")),
        "f2fs" => ("-l", Some("-f")),
        "vfat" | "fat" | "msdos" => ("-n", Some("-I")),
        _ => ("-L", None),
    };
    let program = if kind == "swap" { "mkswap".to_owned() } else { format!("mkfs.{kind}") };
    (program, label, force)
}

/// Letters and digits: it becomes part of a program's name.
fn is_word(kind: &str) -> bool {
    !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::super::DiskSetup;
    use super::super::block::fake;
    use crate::handlers::{Handled, Outcome};
    use crate::testing;

    const NOTHING: &str = "exit 2";

    /// Runs on a disk with two partitions, of which `blkid` tells (`$4` is the device); what was run.
    fn run(entry: &str, blkid: &str) -> Option<(Handled, String)> {
        let tree = tempfile::tempdir().unwrap();
        let user_data = format!("device_aliases: {{data: /dev/vdx}}\nfs_setup:\n- {entry}\n");
        let mut context = testing::machine(tree.path(), &["/usr/bin/dash"], &user_data)?;
        let system = context.system.clone();
        if !fake::disk(&system, &[(1, 2048, 100_000), (2, 102_048, 100_000)]) {
            return None;
        }
        system.link("/bin/sh", "/usr/bin/dash").unwrap();
        for name in ["mkfs.ext4", "mkfs.xfs", "mkfs.vfat", "mkswap", "wipefs", "own"] {
            let script = format!("#!/usr/bin/dash\necho \"{name} $*\" >> /said\n");
            testing::executable(&system, format!("/usr/bin/{name}"), script);
        }
        let script = format!("#!/usr/bin/dash\n{blkid}\n");
        testing::executable(&system, "/usr/bin/blkid", script);
        let handled = context.run_handler::<DiskSetup>();
        Some((handled, system.read_text("/said").unwrap_or_default()))
    }

    #[test]
    fn an_empty_device_gets_its_file_system() {
        for (entry, said) in [
            ("{device: data.2, filesystem: ext4, label: fs2}", "mkfs.ext4 -L fs2 /dev/vdx2\n"),
            ("{device: vdx, partition: 1, filesystem: xfs}", "mkfs.xfs /dev/vdx1\n"),
            ("{device: /dev/vdx1, filesystem: vfat, label: EFI}", "mkfs.vfat -n EFI /dev/vdx1\n"),
            ("{device: data, filesystem: ext4, partition: auto}", "mkfs.ext4 /dev/vdx1\n"),
            ("{device: data.1, filesystem: swap, label: swap}", "mkswap -L swap /dev/vdx1\n"),
            ("{device: data, filesystem: ext4, partition: none}", "mkfs.ext4 -F /dev/vdx\n"),
            ("{device: data.1, filesystem: ext4, extra_opts: '-b 4096'}", "mkfs.ext4 -b 4096 /dev/vdx1\n"),
            ("{device: data.1, filesystem: ext4, extra_opts: [-E, 'a b']}", "mkfs.ext4 -E a b /dev/vdx1\n"),
            (
                "{device: data.1, filesystem: ext4, label: l, cmd: 'own -t %(filesystem)s -L %(label)s %(device)s'}",
                "own -t ext4 -L l /dev/vdx1\n",
            ),
            ("{device: data.1, cmd: [own, '%(device)s']}", "own /dev/vdx1\n"),
        ] {
            let Some((handled, ran)) = run(entry, NOTHING) else { return };
            assert!(matches!(handled, Ok(Outcome::Ok(_))), "{entry}: {handled:?}");
            assert_eq!(ran, said, "{entry}");
        }
    }

    #[test]
    fn a_file_system_that_is_there_stays() {
        for (entry, blkid) in [
            ("{device: data.1, filesystem: ext4, label: x}", "echo TYPE=ext4; echo LABEL=x"),
            ("{device: data, filesystem: ext4, label: y}", "[ $4 = /dev/vdx2 ] && echo TYPE=ext4; exit 2"),
            ("{device: data, filesystem: ext4, label: y, overwrite: true}", "echo TYPE=ext4; echo LABEL=x"),
            ("{device: data, partition: auto, filesystem: xfs, label: x}", "echo TYPE=xfs; echo LABEL=x"),
        ] {
            let blkid = blkid.replace("; exit 2", " && exit 0; exit 2");
            let Some((handled, ran)) = run(entry, &blkid) else { return };
            let Ok(Outcome::Ok(Some(detail))) = handled else { panic!("{entry}: {handled:?}") };
            assert!(detail["done"][0]["changed"] == false && ran.is_empty(), "{entry}: {ran}");
        }
    }

    #[test]
    fn what_a_device_holds_is_destroyed_only_where_that_is_said() {
        let ntfs = "echo TYPE=ntfs; echo LABEL=old";
        for entry in [
            "{device: data.1, filesystem: ext4}",
            "{device: data, filesystem: ext4}",
            "{device: data, filesystem: ext4, partition: none}",
            "{device: data, filesystem: ext4, overwrite: true}",
            "{device: data.1, cmd: 'own %(device)s'}",
            "{device: data.1, filesystem: ntfs, label: new}",
            "{device: data.1, filesystem: ext4, replace_fs: xfs}",
        ] {
            let Some((handled, ran)) = run(entry, ntfs) else { return };
            let failure = handled.unwrap_err();
            assert!(failure.message.contains("nothing was changed"), "{entry}: {}", failure.message);
            assert_eq!(ran, "", "{entry}");
        }
        for entry in [
            "{device: data.1, filesystem: ext4, overwrite: true}",
            "{device: data, filesystem: ext4, replace_fs: ntfs}",
            "{device: data.1, filesystem: ext4, replace_fs: ntfs}",
        ] {
            let Some((handled, ran)) = run(entry, ntfs) else { return };
            assert!(matches!(handled, Ok(Outcome::Ok(_))), "{entry}: {handled:?}");
            assert_eq!(ran, "wipefs --all /dev/vdx1\nmkfs.ext4 -F /dev/vdx1\n", "{entry}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_entry() {
        for (entry, sentence) in [
            ("{device: data.7, filesystem: ext4}", "fs_setup[0] (line 3): /dev/vdx has no partition 7"),
            ("{device: /dev/vdz, filesystem: ext4}", "/dev/vdz is not there; attach the disk"),
            ("{device: /dev/null, filesystem: ext4}", "/dev/null is no disk"),
            ("{device: data.1}", "neither `filesystem` nor `cmd` is given"),
            ("{device: data.1, filesystem: ../ext4}", "this is no kind of file system"),
            ("{device: data.1, filesystem: zfs}", "mkfs.zfs is not installed; install the tools of zfs"),
            ("{device: data, filesystem: ext4, partition: two}", "`two` is none of any, auto, none and a number"),
            ("{device: nowhere, filesystem: ext4}", "no disk has the name `nowhere`"),
        ] {
            let Some((handled, ran)) = run(entry, NOTHING) else { return };
            let failure = handled.unwrap_err();
            assert!(failure.message.contains(sentence), "{entry}: {}", failure.message);
            assert_eq!(ran, "", "{entry}");
        }
    }
}
