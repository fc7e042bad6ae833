//! Where the package grub-pc installs its boot loader when it is brought up to date.

use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::must;
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;

/// Tells debconf the disk of the boot loader.
pub struct GrubDpkg;

/// Keys of the boot loader.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The disk of the boot loader.
    grub_dpkg: Option<Keys>,
    /// The older name of `grub_dpkg`.
    #[serde(rename = "grub-dpkg")]
    older: Option<Keys>,
}

/// The disk of the boot loader.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// False leaves the answers of the image; true without the key.
    enabled: Option<bool>,
    /// The disk; without the key the one that /boot is on.
    #[serde(rename = "grub-pc/install_devices")]
    devices: Option<String>,
    /// Install no boot loader; without the key where no disk is found.
    #[serde(rename = "grub-pc/install_devices_empty", deserialize_with = "yaml::tolerant")]
    empty: Option<bool>,
}

impl Handler for GrubDpkg {
    const NAME: &'static str = "grub_dpkg";
    const SUMMARY: &'static str = "Tells debconf the disk of the boot loader";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let Some(keys) = config.grub_dpkg.as_ref().or(config.older.as_ref()) else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no disk is given".to_owned()));
        };
        if keys.enabled == Some(false) {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "grub_dpkg.enabled is false".to_owned()));
        }
        if context.system.distro().is_red_hat() {
            return Ok(Outcome::Skipped(Reason::Unsupported, "this distribution has no debconf".to_owned()));
        }
        let devices = keys.devices.clone().unwrap_or_else(|| disk(context)).trim().to_owned();
        if devices.contains('\n') {
            let message = "grub_dpkg: `grub-pc/install_devices` has a line's end in it; write disks between commas";
            return Err(Failure::new(Reason::Config, message));
        }
        let empty = keys.empty.unwrap_or(devices.is_empty());
        let answers = format!(
            "grub-pc grub-pc/install_devices string {devices}\ngrub-pc grub-pc/install_devices_empty boolean {empty}\n"
        );
        let command = context.command("debconf-set-selections").input(answers);
        must(context, &command, "install the package debconf into the image")?;
        Ok(Outcome::Ok(Some(json!({"devices": devices, "empty": empty}))))
    }
}

/// The disk that /boot is on, by a name that stays; empty where none is found, as in a container.
fn disk(context: &Context) -> String {
    let said = |command| match context.run(&command) {
        Ok(finished) if finished.success() => finished.text(),
        _ => String::new(),
    };
    let disk = said(context.command("grub-probe").args(["-t", "disk", "/boot"])).trim().to_owned();
    if disk.is_empty() || !context.system.exists(&disk) {
        return String::new();
    }
    let links = said(context.command("udevadm").args(["info", "--root", "--query=symlink", &disk]));
    let by_id = links.split_whitespace().filter(|link| link.contains("disk/by-id")).min().map(str::to_owned);
    by_id.unwrap_or(disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;
    use crate::testing;

    /// Runs on a tree whose programs tell what they were given; what debconf was told.
    fn run(keys: &str, by_id: &str) -> Option<(String, Handled)> {
        let tree = tempfile::tempdir().unwrap();
        let mut context =
            testing::machine(tree.path(), &["/usr/bin/dash", "/usr/bin/cat"], &format!("grub_dpkg: {keys}"))?;
        for (path, script) in [
            ("/usr/bin/debconf-set-selections", "cat > /said".to_owned()),
            ("/usr/sbin/grub-probe", "[ \"$*\" = '-t disk /boot' ] && echo /dev/vda".to_owned()),
            ("/usr/bin/udevadm", format!("echo {by_id}")),
        ] {
            let script = format!("#!/usr/bin/dash\n{script}\n");
            testing::executable(&context.system, path, script);
        }
        context.system.write("/dev/vda", "", FileOptions::default()).unwrap();
        let handled = context.run_handler::<GrubDpkg>();
        Some((context.system.read_text("/said").unwrap_or_default(), handled))
    }

    #[test]
    fn debconf_is_told_the_disk_that_is_given_or_found() {
        let links = "/dev/disk/by-path/pci /dev/disk/by-id/z /dev/disk/by-id/a";
        for (keys, by_id, devices, empty) in [
            ("{enabled: true}", links, "/dev/disk/by-id/a", false),
            ("{enabled: true}", "/dev/disk/by-path/pci", "/dev/vda", false),
            ("{grub-pc/install_devices: /dev/sda, grub-pc/install_devices_empty: 'on'}", links, "/dev/sda", true),
            ("{grub-pc/install_devices: ''}", links, "", true),
        ] {
            let Some((said, handled)) = run(keys, by_id) else { return };
            handled.unwrap();
            let answers = format!(
                "grub-pc grub-pc/install_devices string {devices}\n\
                 grub-pc grub-pc/install_devices_empty boolean {empty}\n"
            );
            assert_eq!(said, answers, "{keys}");
        }
    }

    #[test]
    fn what_is_off_or_wrong_reaches_no_debconf() {
        let Some((said, handled)) = run("{enabled: false}", "") else { return };
        assert!(said.is_empty() && matches!(handled, Ok(Outcome::Skipped(Reason::SwitchedOff, _))));
        let Some((said, handled)) = run("{grub-pc/install_devices: \"a\\nb b/c string d\"}", "") else { return };
        assert!(said.is_empty() && handled.unwrap_err().message.contains("has a line's end in it"));
        let tree = tempfile::tempdir().unwrap();
        let failure =
            Context::for_test(tree.path(), "grub-dpkg: {enabled: yes}").run_handler::<GrubDpkg>().unwrap_err();
        assert_eq!(
            failure.message,
            "debconf-set-selections is not installed; install the package debconf into the image"
        );
    }
}
