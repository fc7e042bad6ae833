//! Which disk a name of the user-data means.

use std::time::Duration;

use super::super::Failure;
use super::super::edit::Pairs;
use super::block::Block;
use super::config;
use crate::context::Context;

/// A link of udev is there long before this, or not at all.
const SETTLE: Duration = Duration::from_secs(30);

/// `data.2` is the second partition of `data`.
pub fn split(name: &str) -> (&str, Option<u64>) {
    match name.rsplit_once('.') {
        Some((disk, number)) if number.bytes().all(|b| b.is_ascii_digit()) => (disk, number.parse().ok()),
        _ => (name, None),
    }
}

/// The path of a disk by its alias, by a name of the cloud's (`ephemeral0`), by a short one (`sdb`), or by its path.
///
/// # Errors
/// When nothing has such a name.
pub fn path(context: &Context, aliases: &Pairs, name: &str) -> Result<String, Failure> {
    let name = aliases.0.iter().find(|(alias, _)| alias == name).map_or(name, |(_, device)| device);
    if name.starts_with("/dev/") && name != "/dev/ephemeral0" {
        return Ok(name.to_owned());
    }
    let name = name.trim_start_matches("/dev/");
    if is_short(name) {
        return Ok(format!("/dev/{name}"));
    }
    let name = if name == "ephemeral" { "ephemeral0" } else { name };
    let told = context.instance.metadata.pointer(&format!("/block-device-mapping/{name}"));
    let told = told.and_then(|device| device.as_str()).map(|device| device.trim_start_matches("/dev/"));
    let Some(device) = told else {
        return Err(config(format!(
            "no disk has the name `{name}`; give its path, or put the name in `device_aliases`"
        )));
    };
    // The cloud's name for a disk is that of another driver: its sdb is the kernel's xvdb or vdb.
    let letters = device.strip_prefix("sd").unwrap_or(device);
    let names = [device.to_owned(), format!("xvd{letters}"), format!("vd{letters}")];
    let found = names.iter().map(|name| format!("/dev/{name}")).find(|path| context.system.exists(path));
    found.ok_or_else(|| config(format!("`{name}` is {device} to the cloud, and the machine has no such disk")))
}

/// `sdb`, `xvdb1`, `vdb`, `hda`: names that are written without `/dev/`.
fn is_short(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let rest = ["xvd", "sd", "vd", "hd"].iter().find_map(|prefix| stem.strip_prefix(prefix));
    rest.is_some_and(|letters| !letters.is_empty() && letters.bytes().all(|b| b.is_ascii_lowercase()))
}

/// The path of a partition, if the disk has it: `sdb1`, `nvme1n1p1`, `by-id/x-part1`.
pub fn partition(context: &Context, disk: &str, number: u64) -> Option<String> {
    let system = &context.system;
    // The kernel says what is part of what: `vg-data1` beside `vg-data` is another volume.
    let wanted = Block::at(system, disk)?.partition(system, number)?;
    let names = [format!("{disk}-part{number}"), format!("{disk}p{number}"), format!("{disk}{number}")];
    let named = names.into_iter().find(|path| Block::at(system, path).as_ref() == Some(&wanted));
    Some(named.unwrap_or_else(|| wanted.path()))
}

/// The device of a path, for which udev gets a moment if it is not there yet.
///
/// # Errors
/// When there is no such device.
pub fn device(context: &Context, path: &str) -> Result<Block, Failure> {
    if !context.system.exists(path) {
        settle(context);
    }
    Block::at(&context.system, path).ok_or_else(|| {
        let why =
            if context.system.exists(path) { "is no disk" } else { "is not there; attach the disk before the boot" };
        config(format!("{path} {why}"))
    })
}

/// Lets udev make the names of what is new.
pub fn settle(context: &Context) {
    let seconds = SETTLE.min(context.time_left()).as_secs();
    // Without udev there is nobody to wait for.
    let _ = context.run(&context.command("udevadm").args(["settle".to_owned(), format!("--timeout={seconds}")]));
}

#[cfg(test)]
mod tests {
    use super::super::block;
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn a_name_means_its_alias_the_clouds_disk_or_a_path() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "");
        let mut instance = crate::datasources::Instance::new("test", "i-test");
        instance.metadata = serde_json::json!({"block-device-mapping": {"ephemeral0": "sdb", "ebs1": "/dev/sdf"}});
        context.instance = std::sync::Arc::new(instance);
        context.system.write("/dev/xvdb", "", FileOptions::default()).unwrap();
        let aliases =
            Pairs(vec![("data".to_owned(), "/dev/disk/by-id/x".to_owned()), ("log".to_owned(), "sdc".to_owned())]);
        for (name, expected) in [
            ("data", "/dev/disk/by-id/x"),
            ("log", "/dev/sdc"),
            ("xvdh", "/dev/xvdh"),
            ("sdaa1", "/dev/sdaa1"),
            ("/dev/vdb", "/dev/vdb"),
            ("ephemeral0", "/dev/xvdb"),
            ("ephemeral", "/dev/xvdb"),
            ("/dev/ephemeral0", "/dev/xvdb"),
        ] {
            assert_eq!(path(&context, &aliases, name).unwrap(), expected, "{name}");
        }
        for (name, sentence) in [
            ("dd", "no disk has the name `dd`"),
            ("sd", "no disk has the name `sd`"),
            ("ephemeral1", "no disk has the name `ephemeral1`"),
            ("ebs1", "`ebs1` is sdf to the cloud, and the machine has no such disk"),
        ] {
            let failure = path(&context, &aliases, name).unwrap_err();
            assert!(failure.message.starts_with(sentence), "{name}: {}", failure.message);
        }
    }

    #[test]
    fn a_partition_is_what_the_kernel_calls_one_and_never_a_disk_of_such_a_name() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "");
        if !block::fake::disk(&context.system, &[(1, 2048, 2048), (3, 8192, 2048)]) {
            return;
        }
        let link = |path: &str, target: &str| context.system.link(path, target).unwrap();
        link("/dev/disk/by-id/x", "../../vdx");
        link("/dev/disk/by-id/x-part3", "../../vdx3");
        link("/dev/mapper/vg-data", "../vdx");
        // Another volume, as its name alone would not tell.
        link("/dev/mapper/vg-data1", "../vdx3");
        let found = |disk, number| partition(&context, disk, number);
        assert_eq!(found("/dev/vdx", 1).as_deref(), Some("/dev/vdx1"));
        assert_eq!(found("/dev/vdx", 2), None);
        assert_eq!(found("/dev/disk/by-id/x", 3).as_deref(), Some("/dev/disk/by-id/x-part3"));
        assert_eq!(found("/dev/mapper/vg-data", 1).as_deref(), Some("/dev/vdx1"));
        assert_eq!((found("/dev/vdx1", 1), found("/dev/none", 1)), (None, None));
        assert_eq!((split("data.2"), split("data"), split("a.b")), (("data", Some(2)), ("data", None), ("a.b", None)));
        assert_eq!(split("10.0.0.5:/srv"), ("10.0.0.5:/srv", None));
    }
}
