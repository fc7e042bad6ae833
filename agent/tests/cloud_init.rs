//! The program under the names of cloud-init, as scripts and packer templates call it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test prepares trees and runs the program itself")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

const BOOT_ID: &str = "9b6c1a8e-3f1d-4a51-9d0e-4b1f6c2d7e88";
/// A boot that failed, of [`BOOT_ID`].
const FAILED: &str = include_str!("../schema/fixtures/status-1.json");

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Machine(tempfile::tempdir().unwrap());
        machine.put("proc/sys/kernel/random/boot_id", BOOT_ID);
        machine
    }

    /// In this state, and with a failure that only degrades where that is the state.
    fn in_state(state: &str) -> Self {
        let mut status: Json = serde_json::from_str(FAILED).unwrap();
        status["state"] = state.into();
        if state != "failed" {
            status["diagnostics"] = json!([]);
            status["handlers"] = json!([]);
        }
        let machine = Machine::new();
        machine.put("run/kiln/status.json", &status.to_string());
        machine
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, name: &str, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-agent"));
        command.arg0(name).arg("--root").arg(self.root()).args(args.split_whitespace());
        command.stdin(Stdio::null()).env_remove("INVOCATION_ID");
        command
    }

    fn output(&self, name: &str, args: &str) -> (Option<i32>, String) {
        let Output { status, stdout, .. } = self.command(name, args).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap())
    }
}

#[test]
fn every_state_has_the_word_and_the_exit_code_of_cloud_init() {
    for (state, word, code) in [
        ("done", "status: done\n", 0),
        ("degraded", "status: done\n", 2),
        ("failed", "status: error\n", 1),
        ("disabled", "status: disabled\n", 0),
        ("not-started", "status: not started\n", 0),
        ("splendid", "status: error\n", 1),
    ] {
        let machine = Machine::in_state(state);
        assert_eq!(machine.output("cloud-init", "status"), (Some(code), word.to_owned()), "{state}");
    }
}

#[test]
fn a_status_of_another_boot_or_a_damaged_one_is_no_success() {
    let machine = Machine::in_state("done");
    machine.put("proc/sys/kernel/random/boot_id", "another");
    assert_eq!(machine.output("cloud-init", "status").1, "status: not started\n");
    machine.put("run/kiln/status.json", "{");
    assert_eq!(machine.output("cloud-init", "status --wait"), (Some(1), String::new()));
}

#[test]
fn a_program_gets_all_fields_in_every_format() {
    let machine = Machine::in_state("failed");
    let (code, text) = machine.output("cloud-init", "status --format json");
    let told: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(1));
    for field in [
        "boot_status_code",
        "datasource",
        "detail",
        "errors",
        "extended_status",
        "init",
        "init-local",
        "last_update",
        "modules-config",
        "modules-final",
        "recoverable_errors",
        "stage",
        "status",
    ] {
        assert!(told.get(field).is_some(), "{field}: {text}");
    }
    assert!(!told["errors"].as_array().unwrap().is_empty());
    let (_, yaml) = machine.output("cloud-init", "status --format yaml");
    assert!(yaml.starts_with("---\n") && yaml.contains("\nstatus: error\n"), "{yaml}");
    let (_, long) = machine.output("cloud-init", "status --long");
    let heads: Vec<&str> = long.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    assert_eq!(heads[..5], ["status", "extended_status", "boot_status_code", "last_update", "detail"], "{long}");
    assert!(long.contains("\nerrors:\n\t- ") && long.contains("\nrecoverable_errors:"), "{long}");
}

#[test]
fn a_wait_ends_with_the_boot_and_its_result_is_there_then() {
    let machine = Machine::in_state("running");
    machine.put("usr/lib/kiln/cloud-init", "");
    let mut waiting = machine.command("cloud-init", "status --wait").stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiting.try_wait().unwrap().is_none(), "it must not return before the end");
    machine.put(
        "run/kiln/new",
        &fs::read_to_string(machine.root().join("run/kiln/status.json")).unwrap().replace("running", "done"),
    );
    fs::rename(machine.root().join("run/kiln/new"), machine.root().join("run/kiln/status.json")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiting.try_wait().unwrap().is_none(), "result.json is not there yet");
    machine.put("run/cloud-init/result.json", "{}");
    let began = Instant::now();
    let output = waiting.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"\nstatus: done\n"[..]));
}

#[test]
fn a_wait_has_an_end_of_its_own() {
    let machine = Machine::in_state("not-started");
    assert_eq!(machine.output("cloud-init", "status --wait --timeout 100ms").0, Some(1));
    assert_eq!(machine.output("cloud-init", "status --wait --timeout soon").0, Some(2));
}

#[test]
fn a_boot_by_hand_leaves_what_other_tools_read() {
    let machine = Machine::new();
    machine.put("usr/lib/kiln/cloud-init", "");
    machine.put("var/lib/cloud/seed/nocloud/meta-data", "instance-id: i-7\nlocal-hostname: web.example.org\n");
    machine.put("var/lib/cloud/seed/nocloud/user-data", "#cloud-config\nwrite_files:\n- {path: /made, content: x}\n");
    assert_eq!(machine.output("cloud-id", "").0, Some(3));
    for stage in ["init --local", "init", "modules --mode=config", "modules --mode=final"] {
        assert!(!machine.root().join("run/cloud-init/result.json").exists(), "before {stage}");
        assert_eq!(machine.output("cloud-init", stage), (Some(0), String::new()), "{stage}");
    }
    let result = fs::read_to_string(machine.root().join("run/cloud-init/result.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<Json>(&result).unwrap(),
        json!({"v1": {"datasource": "DataSourceNoCloud", "errors": []}})
    );
    assert_eq!(machine.output("cloud-init", "status --wait"), (Some(0), "\nstatus: done\n".to_owned()));
    assert_eq!(machine.output("cloud-init", "query local_hostname"), (Some(0), "web\n".to_owned()));
    assert_eq!(machine.output("cloud-init", "query nope").0, Some(1));
    assert_eq!(machine.output("cloud-id", ""), (Some(0), "nocloud\n".to_owned()));
    assert_eq!(machine.output("cloud-init", "single --name cc_write_files"), (Some(0), told_before(&machine)));
    assert_eq!(machine.output("cloud-init", "schema --system"), (Some(0), "Valid schema user-data\n".to_owned()));
    assert_eq!(machine.output("cloud-init", "clean --seed").0, Some(0));
    let left: Vec<_> = fs::read_dir(machine.root().join("var/lib/cloud")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(machine.output("cloud-init", "status").1, "status: not started\n");
}

/// What is said of a handler whose turn has passed; the time is of the run.
fn told_before(machine: &Machine) -> String {
    let (_, text) = machine.output("cloud-init", "single --name write_files");
    assert!(text.starts_with("write_files skipped: ok at an earlier boot, "), "{text}");
    text
}

#[test]
fn without_the_package_a_boot_leaves_nothing_of_cloud_init() {
    let machine = Machine::new();
    machine.put("var/lib/kiln/seed/nocloud/user-data", "#cloud-config\n{}\n");
    assert_eq!(machine.output("cloud-init", "init").0, Some(0));
    assert!(!machine.root().join("run/cloud-init").exists() && !machine.root().join("var/lib/cloud").exists());
}

#[test]
fn a_machine_on_which_cloud_init_is_disabled_stays_as_it_is() {
    let machine = Machine::new();
    machine.put("usr/lib/kiln/cloud-init", "");
    machine.put("etc/cloud/cloud-init.disabled", "");
    machine.put("var/lib/kiln/seed/nocloud/user-data", "#cloud-config\nwrite_files:\n- {path: /made, content: x}\n");
    assert_eq!(machine.output("cloud-init", "init").0, Some(0));
    assert!(!machine.root().join("made").exists());
    let (code, long) = machine.output("cloud-init", "status --wait --long");
    assert_eq!(code, Some(0));
    assert!(long.starts_with("\nstatus: disabled\n") && long.contains("\nboot_status_code: disabled-by-marker-file\n"));
    fs::remove_file(machine.root().join("etc/cloud/cloud-init.disabled")).unwrap();
    machine.put("proc/cmdline", "cloud-init=disabled\n");
    let (_, long) = machine.output("cloud-init", "status --long");
    assert!(long.contains("\nboot_status_code: disabled-by-kernel-command-line\n"), "{long}");
    assert_eq!(machine.output("cloud-id", "").0, Some(2));
}
