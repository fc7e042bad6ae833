//! Partitions that grow to the end of their disk.

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Each, Node, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::super::edit::must;
use super::super::{Failure, Finds, Frequency, Handled, Handler, Outcome, check};
use super::block::{self, Block};
use super::{Pass, WORTH, config};
use crate::context::Context;
use crate::system::RunError;

/// Whoever puts this file into an image wants no growing.
const DISABLED: &str = "/etc/growroot-disabled";
const INSTALL: &str = "install growpart (cloud-guest-utils, in Red Hat's family cloud-utils-growpart) or sfdisk, \
    or set `growpart: {mode: off}`";

/// Lets partitions grow.
pub struct Growpart;

/// Keys of the growing.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Which partitions grow; without the key the one under /.
    growpart: Option<Keys>,
}

/// Which partitions grow.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// `auto`, as without the key, or `growpart`: growpart, else sfdisk. `off` or false: nothing grows.
    #[schemars(extend("type" = ["boolean", "string", "null"]))]
    mode: Option<String>,
    /// Mount points and devices; / alone without the key.
    devices: Option<Each<String>>,
    /// Grow even if the image has /etc/growroot-disabled.
    ignore_growroot_disabled: bool,
}

impl Handler for Growpart {
    const NAME: &'static str = "growpart";
    const SUMMARY: &'static str = "Lets the partition under / grow with its disk";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Boot;
    const FINDS: Option<Finds> = Some(|system, config, _| {
        let root_could_grow = || block::root(system).is_some_and(|(_, device)| device.could_grow(system));
        config.get("growpart").is_some() || (root_could_grow() && !system.exists(DISABLED))
    });
    type Config = Config;

    /// What nobody asked for degrades the boot at most.
    fn best_effort(config: &Config) -> bool {
        config.growpart.is_none()
    }

    fn check(config: &Node) -> Vec<Diagnostic> {
        let mode = config.get("growpart").and_then(|keys| keys.get("mode"));
        let words = ["auto", "growpart", "gpart", "off", "false", "no"];
        mode.and_then(|node| check::word(node, "growpart.mode", &words)).into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let none = Keys::default();
        let keys = config.growpart.as_ref().unwrap_or(&none);
        let skipped = |why: &str| Ok(Outcome::Skipped(Reason::SwitchedOff, why.to_owned()));
        let mode = keys.mode.as_deref().unwrap_or("auto");
        match mode {
            _ if scalar::boolean(mode) == Some(false) => return skipped("growpart.mode is off"),
            "auto" | "growpart" => {}
            "gpart" => {
                return Err(Failure::new(Reason::Unsupported, "growpart.mode: gpart is FreeBSD's; write `auto`"));
            }
            _ => return Err(super::config(format!("growpart.mode: `{mode}` is none of auto, growpart and off"))),
        }
        if !keys.ignore_growroot_disabled && context.system.exists(DISABLED) {
            return skipped("/etc/growroot-disabled is there");
        }
        let root = [String::from("/")];
        let mut pass = Pass::default();
        for name in keys.devices.as_deref().unwrap_or(&root) {
            match device(context, name) {
                Ok(Some(device)) => pass.note(name, grow(context, name, &device)),
                Ok(None) => {}
                Err(failure) => pass.note("growpart.devices", Err(failure)),
            }
        }
        pass.outcome("no disk is under /, as in a container")
    }
}

/// The device that a name means; none for the root of a container.
fn device(context: &Context, name: &str) -> Result<Option<Block>, Failure> {
    let system = &context.system;
    let found = match block::mounted_at(system, name) {
        _ if name == "/" => return Ok(block::root(system).map(|(_, block)| block)),
        Some((_, block)) => Some(block),
        None => Block::at(system, name),
    };
    found.map(Some).ok_or_else(|| config(format!("{name} is neither a disk nor a place where one is mounted")))
}

fn grow(context: &Context, name: &str, device: &Block) -> Result<Json, Failure> {
    let system = &context.system;
    let before = device.bytes(system);
    let path = device.path();
    if let Some(below) = device.below(system).iter().find(|part| part.room(system) > WORTH) {
        let message = format!(
            "{path} is made of {}, behind which {} MiB are free, by LVM, LUKS or RAID; grow both in `bootcmd` (growpart, then \
             pvresize and lvextend, or cryptsetup resize), or set `growpart: {{mode: off}}`",
            below.path(),
            below.room(system) >> 20
        );
        return Err(Failure::new(Reason::Unsupported, message));
    }
    let parent = device.parent(system).filter(|_| device.room(system) > WORTH);
    let Some((disk, number)) = parent else {
        return Ok(json!({"place": name, "device": path, "bytes": before, "changed": false}));
    };
    let number = number.to_string();
    let growpart = context.command("growpart").args([disk.path(), number.clone()]);
    match context.run(&growpart) {
        // 1 is its word for a partition that cannot be larger, say that of an MBR at 2 TiB.
        Ok(finished) if finished.code == Some(1) => {
            return Ok(json!({"place": name, "device": path, "bytes": before, "changed": false}));
        }
        Ok(finished) if finished.success() => {}
        Err(RunError::Missing(_)) => {
            // The disk is in use, so sfdisk must not ask the kernel to read the whole table again.
            let sfdisk = ["--no-reread", "--no-tell-kernel", "-N", &number, &disk.path()].map(str::to_owned);
            must(context, &context.command("sfdisk").args(sfdisk).input(", +\n"), INSTALL)?;
            must(context, &context.command("partx").args(["--update", "--nr", &number, &disk.path()]), INSTALL)?;
        }
        Ok(finished) => {
            let said = finished.last_lines(2).join(" ");
            let message = format!("growpart {} {number} {}: {said}", disk.path(), finished.ending());
            return Err(Failure::new(Reason::CommandFailed, message));
        }
        Err(error) => return Err(error.into()),
    }
    let after = device.bytes(system);
    if after <= before {
        let message = format!(
            "{path} still has {before} bytes, though the table of {} was written; reboot, or look at it with \
             `sfdisk --verify`",
            disk.path()
        );
        return Err(Failure::new(Reason::CommandFailed, message));
    }
    Ok(json!({"place": name, "device": path, "bytes": after, "was": before, "changed": true}))
}

#[cfg(test)]
mod tests {
    use super::super::block::fake;
    use super::*;
    use crate::system::FileOptions;
    use crate::testing;

    /// Runs on a machine whose first partition is at / and whose programs are these scripts.
    fn run(
        keys: &str,
        partitions: &[(u64, u64, u64)],
        programs: &[(&str, &str)],
    ) -> Option<(tempfile::TempDir, Context, Handled, String)> {
        let tree = tempfile::tempdir().unwrap();
        let mut context = testing::machine(tree.path(), &["/usr/bin/dash", "/usr/bin/cat"], keys)?;
        if !fake::disk(&context.system, partitions) {
            return None;
        }
        fake::mount_root(&context.system, "ext4");
        for (name, script) in programs {
            let script = format!("#!/usr/bin/dash\necho \"{name} $*\" >> /said\n{script}\n");
            testing::executable(&context.system, format!("/usr/bin/{name}"), script);
        }
        let handled = context.run_handler::<Growpart>();
        let said = context.system.read_text("/said").unwrap_or_default();
        Some((tree, context, handled, said))
    }

    const GROWN: &str = "echo 2000000 > /sys/devices/vdx/vdx1/size";
    const SMALL: &[(u64, u64, u64)] = &[(1, 2048, 100_000)];

    fn is_found(context: &Context) -> bool {
        Growpart::FINDS.is_some_and(|finds| finds(&context.system, &context.config, &[]))
    }

    #[test]
    fn a_partition_grows_once_and_then_asks_for_nothing() {
        let Some((_tree, mut context, handled, said)) = run("", SMALL, &[("growpart", GROWN)]) else { return };
        let Ok(Outcome::Ok(Some(detail))) = handled else { panic!("{handled:?}") };
        let done = &detail["done"][0];
        assert_eq!((&done["was"], &done["bytes"]), (&json!(51_200_000), &json!(1_024_000_000)));
        assert_eq!(said, "growpart /dev/vdx 1\n");
        context.system.write("/sys/devices/vdx/vdx1/size", "2095000\n", FileOptions::default()).unwrap();
        assert!(!is_found(&context));
        context.run_handler::<Growpart>().unwrap();
        assert_eq!(context.system.read_text("/said").unwrap(), said);
    }

    #[test]
    fn without_growpart_sfdisk_does_it() {
        let programs = [("sfdisk", "cat >> /said"), ("partx", GROWN)];
        let Some((_, _, handled, said)) = run("growpart: {mode: auto}", SMALL, &programs) else { return };
        assert!(matches!(handled, Ok(Outcome::Ok(_))), "{handled:?}");
        let sfdisk = "sfdisk --no-reread --no-tell-kernel -N 1 /dev/vdx\n, +\n";
        assert_eq!(said, format!("{sfdisk}partx --update --nr 1 /dev/vdx\n"));
    }

    #[test]
    fn what_did_not_grow_is_told() {
        for (programs, sentence) in [
            (&[][..], "/: sfdisk is not installed; install growpart (cloud-guest-utils"),
            (&[("growpart", "echo FAILED: no space >&2; exit 2")], "growpart /dev/vdx 1 exited 2: FAILED: no space"),
            (&[("growpart", "exit 0")], "/dev/vdx1 still has 51200000 bytes"),
        ] {
            let Some((_tree, context, handled, _)) = run("", SMALL, programs) else { return };
            let failure = handled.unwrap_err();
            assert!(failure.message.contains(sentence), "{}", failure.message);
            assert!(is_found(&context), "it is told at the next boot too");
        }
        let Some((_, _, handled, _)) = run("growpart: {devices: [/, /dev/none]}", SMALL, &[("growpart", GROWN)]) else {
            return;
        };
        let failure = handled.unwrap_err();
        assert!(failure.message.contains("growpart.devices: /dev/none is neither a disk"), "{}", failure.message);
        assert_eq!(failure.detail.unwrap()["done"][0]["changed"], true);
    }

    #[test]
    fn a_disk_of_lvm_that_could_be_larger_is_told_and_left_alone() {
        let Some((_tree, context, _, _)) = run("growpart: {mode: off}", SMALL, &[("growpart", GROWN)]) else { return };
        let write = |path: &str, text: &str| context.system.write(path, text, FileOptions::default()).unwrap();
        write("/sys/dev/block/253:0/uevent", "DEVNAME=dm-0\n");
        write("/dev/dm-0", "");
        context.system.make_dir("/sys/dev/block/253:0/slaves", 0o755, None).unwrap();
        context.system.link("/sys/dev/block/253:0/slaves/vdx1", "/sys/devices/vdx/vdx1").unwrap();
        write("/proc/self/mountinfo", "27 1 253:0 / / rw - xfs /dev/mapper/vg-root rw\n");
        assert!(is_found(&context));
        let (_, device) = block::root(&context.system).unwrap();
        let failure = grow(&context, "/", &device).unwrap_err();
        assert!(failure.message.starts_with("/dev/dm-0 is made of /dev/vdx1, behind which 97"), "{}", failure.message);
    }

    #[test]
    fn switched_off_or_without_a_disk_nothing_runs() {
        for keys in ["growpart: {mode: off}", "growpart: {mode: 'false'}"] {
            let Some((_, _, handled, said)) = run(keys, SMALL, &[("growpart", GROWN)]) else { return };
            assert!(matches!(handled, Ok(Outcome::Skipped(Reason::SwitchedOff, _))) && said.is_empty());
        }
        for (mode, reason) in [("gpart", Reason::Unsupported), ("maybe", Reason::Config)] {
            let Some((_, _, handled, said)) = run(&format!("growpart: {{mode: {mode}}}"), SMALL, &[]) else { return };
            assert!(handled.unwrap_err().reason == reason && said.is_empty());
        }
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "growpart: {devices: [/]}");
        assert!(is_found(&context), "the key asks for it");
        let handled = context.run_handler::<Growpart>();
        assert!(matches!(handled, Ok(Outcome::Skipped(Reason::NothingToDo, _))), "{handled:?}");
        fake::disk(&context.system, SMALL);
        fake::mount_root(&context.system, "ext4");
        context.system.write(DISABLED, "", FileOptions::default()).unwrap();
        let handled = context.run_handler::<Growpart>();
        assert!(matches!(handled, Ok(Outcome::Skipped(Reason::SwitchedOff, _))), "{handled:?}");
        let unasked = Context::for_test(tree.path(), "{}");
        assert!(!is_found(&unasked));
    }
}
