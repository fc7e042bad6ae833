//! The command line as a person and a provisioner meet it: the real binary on trees, good and broken.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test prepares trees and runs the program itself")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use serde_json::{Value as Json, json};

const BOOT_ID: &str = "9b6c1a8e-3f1d-4a51-9d0e-4b1f6c2d7e88";
/// A boot that failed, of [`BOOT_ID`].
const FAILED: &str = include_str!("../schema/fixtures/status-1.json");

/// A machine's root, with a boot of its own.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.put("proc/sys/kernel/random/boot_id", BOOT_ID);
        tree
    }

    fn with_status(status: &str) -> Self {
        let tree = Tree::new();
        tree.put("run/kiln/status.json", status);
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The program on this tree, in it, with `args` parted at blanks.
    fn command(&self, args: &str) -> Command {
        let mut command = program();
        command.arg("--root").arg(self.0.path()).args(args.split_whitespace()).current_dir(self.0.path());
        command
    }

    fn output(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    fn json(&self, args: &str) -> Json {
        serde_json::from_slice(&self.output(args).stdout).unwrap()
    }

    /// What a person sees, with the tree's path as `[ROOT]`, which is new at every run.
    fn seen(&self, args: &str) -> String {
        seen(args, &self.output(args), Some(self.0.path()))
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-agent"));
    command.stdin(Stdio::null()).env_remove("INVOCATION_ID");
    command
}

fn seen(args: &str, output: &Output, root: Option<&Path>) -> String {
    let mut text = format!("$ kiln-agent {args}\n");
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        text.push_str(format!("! {line}").trim_end());
        text.push('\n');
    }
    text.push_str(&format!("exit {}\n", output.status.code().unwrap_or(-1)));
    match root {
        Some(root) => text.replace(&root.display().to_string(), "[ROOT]"),
        None => text,
    }
}

fn help(command: &str) -> String {
    let args = format!("{command} --help");
    seen(&args, &program().args(args.split_whitespace()).output().unwrap(), None)
}

/// The status of a boot in this state, without handlers.
fn status_in(state: &str) -> String {
    let mut status: Json = serde_json::from_str(FAILED).unwrap();
    status["state"] = state.into();
    status["handlers"] = json!([]);
    status["diagnostics"] = json!([]);
    status.to_string()
}

#[test]
fn help_of_the_commands() {
    for command in ["status", "validate", "plan", "handlers", "schema", "analyze", "clean"] {
        insta::assert_snapshot!(format!("help-{command}"), help(command));
    }
}

#[test]
fn every_option_is_explained_and_every_help_fits_a_terminal() {
    let program = kiln_agent::cli::Cli::command();
    let mut commands: Vec<&str> = vec![""];
    for command in program.get_subcommands() {
        assert!(command.get_about().is_some(), "{} has no sentence", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
        }
        commands.push(command.get_name());
    }
    for command in commands {
        let help = help(command);
        assert!(help.ends_with("exit 0\n"), "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
    }
}

#[test]
fn a_command_line_that_cannot_be_understood_is_answered_with_a_hint() {
    let tree = Tree::new();
    tree.put("u.yaml", "#cloud-config\n");
    let mut text = String::new();
    for args in [
        "staus",
        "status --wiat",
        "status --timeout 5m",
        "status --wait --timeout 20",
        "status --format yaml",
        "validate",
        "validate u.yaml --stirct",
        "plan --fromat json u.yaml",
        "handlers puppet",
        "schema --format text",
        "analyze --json",
        "clean --log",
        "clean --instance",
    ] {
        let seen = tree.seen(args);
        assert!(seen.ends_with("exit 64\n"), "{seen}");
        text.push_str(&seen);
        text.push('\n');
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_document_that_cannot_be_read_is_named() {
    let tree = Tree::new();
    tree.put("folder/file", "");
    insta::assert_snapshot!(
        ["validate missing.yaml", "validate folder", "plan missing.yaml", "plan", "plan folder/file/below"]
            .map(|args| tree.seen(args))
            .join("\n")
    );
}

#[test]
fn the_status_of_a_failed_boot() {
    insta::assert_snapshot!(Tree::with_status(FAILED).seen("status"));
}

#[test]
fn the_status_of_a_failed_boot_for_a_program_is_the_file() {
    let output = Tree::with_status(FAILED).output("status --format json");
    let told: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told, serde_json::from_str::<Json>(FAILED).unwrap());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn every_state_has_its_exit_code_and_a_wait_ends_in_each() {
    for (state, code, waited) in [
        ("done", 0, 0),
        ("failed", 1, 1),
        ("degraded", 2, 2),
        ("running", 3, 6),
        ("not-started", 4, 6),
        ("disabled", 5, 5),
        ("splendid", 1, 1),
    ] {
        let tree = Tree::with_status(&status_in(state));
        assert_eq!(tree.output("status").status.code(), Some(code), "{state}");
        assert_eq!(tree.output("status --wait --timeout 100ms").status.code(), Some(waited), "{state}");
    }
}

#[test]
fn a_machine_without_a_status_of_this_boot() {
    let earlier = Tree::with_status(&status_in("done").replace(BOOT_ID, "another-boot"));
    let disabled = Tree::new();
    disabled.put("etc/kiln/disabled", "");
    let switched_off = Tree::new();
    switched_off.put("proc/cmdline", "quiet kiln=disabled\n");
    insta::assert_snapshot!(
        [
            Tree::new().seen("status"),
            Tree::new().seen("status --wait --timeout 50ms"),
            earlier.seen("status"),
            disabled.seen("status --wait"),
            switched_off.seen("status --wait"),
        ]
        .join("\n")
    );
}

#[test]
fn a_status_that_cannot_be_read_is_a_sentence() {
    let cut = Tree::with_status(&FAILED[..200]);
    let empty = Tree::with_status("");
    let other = Tree::with_status("[1]");
    let folder = Tree::new();
    folder.put("run/kiln/status.json/file", "");
    insta::assert_snapshot!(
        [
            cut.seen("status"),
            cut.seen("status --wait"),
            empty.seen("status --format json"),
            other.seen("analyze"),
            folder.seen("status"),
        ]
        .join("\n")
    );
}

#[test]
fn a_wait_ends_when_the_boot_does() {
    let tree = Tree::new();
    let begun = Instant::now();
    let child = tree.command("status --wait --timeout 1m").stdout(Stdio::piped()).spawn().unwrap();
    tree.put("run/kiln/status.json", status_in("running"));
    // As the agent writes it: beside the file, then in its place.
    tree.put("run/kiln/.status.json.new", status_in("degraded"));
    fs::rename(tree.path("run/kiln/.status.json.new"), tree.path("run/kiln/status.json")).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("state     degraded\n"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn findings_of_user_data() {
    let tree = Tree::new();
    tree.put("good.yaml", "#cloud-config\nhostname: web\n");
    let bad = "#cloud-config\nhostnam: web\nhostname: [a]\npreserve_hostname: perhaps\nfqdn: a\nfqdn: b\n";
    tree.put("bad.yaml", bad);
    tree.put("broken.yaml", "#cloud-config\nhostname: a: b\n");
    tree.put("escape.yaml", "#cloud-config\nhostname: \u{1b}[31mred\n");
    tree.put("note.txt", "Dear machine,\n");
    insta::assert_snapshot!(
        [
            "validate good.yaml",
            "validate bad.yaml",
            "validate bad.yaml --strict --format json",
            "validate broken.yaml",
            "validate escape.yaml",
        ]
        .map(|args| tree.seen(args))
        .join("\n")
    );
    // Every error has a place, also that of a document which is none.
    let seen = tree.seen("validate note.txt");
    assert!(seen.contains("\nnote.txt:1:1: error: ") && seen.contains("\n 1 | Dear machine,\n   | ^\n"), "{seen}");
}

#[test]
fn user_data_may_come_on_standard_input() {
    let tree = Tree::new();
    let mut child = tree.command("validate -").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"#cloud-config\nhostnam: a\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("standard input:2:1: warning: hostnam: unknown key; did you mean `hostname`?\n"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(0));
}

/// The turn of the `hostname` handler in a plan.
fn planned(plan: &Json) -> Json {
    let handlers = plan["handlers"].as_array().unwrap();
    handlers.iter().find(|planned| planned["handler"] == "hostname").unwrap().clone()
}

#[test]
fn a_plan_tells_where_each_value_comes_from_and_no_value() {
    let tree = Tree::new();
    tree.put("etc/kiln/agent.d/10-name.yaml", "\nfqdn: hunter2.example.org\nhostname: low\n");
    tree.put("u.yaml", "#cloud-config\nhostname: hunter2\n");
    let plan = tree.json("plan u.yaml --format json");
    let own = planned(&plan);
    assert_eq!(
        own["values"],
        json!([
            {"key": "hostname", "source": "user-data", "line": 2},
            {"key": "fqdn", "source": "/etc/kiln/agent.d/10-name.yaml", "line": 2}
        ])
    );
    assert!(own["built_in"].as_array().unwrap().contains(&"preserve_hostname".into()));
    let orders = plan["handlers"].as_array().unwrap().iter().map(|planned| planned["order"].as_u64().unwrap());
    assert!(orders.eq(1..=plan["handlers"].as_array().unwrap().len() as u64));
    let text = String::from_utf8(tree.output("plan u.yaml").stdout).unwrap();
    let block = text.split_once(". hostname, once an instance: ").unwrap().1;
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let rows: Vec<String> = block.lines().skip(1).take(2).map(words).collect();
    assert_eq!(rows, ["hostname user-data:2", "fqdn /etc/kiln/agent.d/10-name.yaml:2"]);
    assert!(!text.contains("hunter2") && !plan.to_string().contains("hunter2"));
}

#[test]
fn a_plan_without_a_file_is_that_of_the_machine() {
    let tree = Tree::new();
    tree.put("var/lib/kiln/seed/nocloud/user-data", "#cloud-config\npreserve_hostname: true\n");
    tree.put("var/lib/kiln/seed/nocloud/meta-data", "instance-id: i-plan\n");
    tree.output("boot --stage local");
    assert_eq!(planned(&tree.json("plan --format json"))["values"][0]["key"], "preserve_hostname");
}

#[test]
fn a_bad_document_is_planned_as_far_as_it_goes() {
    let tree = Tree::new();
    tree.put("u.yaml", "#cloud-config\nhostname: [a]\nrole: web\n");
    let output = tree.output("plan u.yaml");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("role  user-data:3"), "{text}");
    assert!(text.contains("user-data:2:11: error: hostname: expected text, found a list"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn handlers_are_listed_in_the_order_of_the_boot() {
    let tree = Tree::new();
    tree.put("usr/lib/kiln/handlers.d/nagios", "#!/bin/sh\n");
    fs::set_permissions(tree.path("usr/lib/kiln/handlers.d/nagios"), fs::Permissions::from_mode(0o755)).unwrap();
    let listed = tree.json("handlers --format json");
    let listed = listed.as_array().unwrap();
    let rank = |stage: &Json| ["local", "init", "final"].iter().position(|name| stage == name).unwrap();
    assert!(listed.is_sorted_by_key(|handler| rank(&handler["stage"])));
    assert!(listed.iter().any(|handler| handler["name"] == "nagios" && handler["keys"][0] == "nagios"));
    let text = String::from_utf8(tree.output("handlers").stdout).unwrap();
    assert!(text.starts_with("NAME"));
    for handler in listed {
        let name = format!("\n{} ", handler["name"].as_str().unwrap());
        assert!(text.contains(&name), "{name} lacks in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn the_schema_is_an_object_that_knows_every_key() {
    let tree = Tree::new();
    let schema = tree.json("schema");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let listed = tree.json("handlers --format json");
    for key in listed.as_array().unwrap().iter().flat_map(|handler| handler["keys"].as_array().unwrap()) {
        assert!(schema["properties"][key.as_str().unwrap()].is_object(), "{key}");
    }
}

#[test]
fn where_the_time_of_a_boot_went() {
    let tree = Tree::with_status(FAILED);
    insta::assert_snapshot!(
        [tree.seen("analyze"), tree.seen("analyze --format json"), Tree::new().seen("analyze")].join("\n")
    );
}

#[test]
fn a_cleaned_machine_runs_everything_again() {
    let tree = Tree::new();
    tree.put("var/lib/kiln/seed/nocloud/user-data", "#cloud-config\nhostname: web\n");
    tree.put("var/lib/kiln/seed/nocloud/meta-data", "instance-id: i-clean\n");
    let outcome_of_boot = |id: &str| {
        tree.put("proc/sys/kernel/random/boot_id", id);
        tree.output("boot");
        let status = tree.json("status --format json");
        let mut handlers = status["handlers"].as_array().unwrap().iter();
        handlers.find(|handler| handler["name"] == "hostname").unwrap()["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(outcome_of_boot("boot-1"), "ok");
    assert_eq!(outcome_of_boot("boot-2"), "skipped");
    let seen = tree.seen("clean");
    assert!(seen.contains("\nremoved /var/lib/kiln/instances\n") && seen.ends_with("\nexit 0\n"), "{seen}");
    assert!(tree.seen("clean").contains("\nnothing to forget\n"));
    assert!(tree.path("var/lib/kiln/seed/nocloud/user-data").exists());
    assert_eq!(outcome_of_boot("boot-3"), "ok");
    assert!(tree.seen("clean --seed").contains("\nremoved /var/lib/kiln/seed/nocloud\n"));
}

#[test]
fn a_running_agent_keeps_its_state() {
    let tree = Tree::with_status(&status_in("running"));
    insta::assert_snapshot!([tree.seen("clean"), tree.seen("clean --force"), tree.seen("clean")].join("\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let tree = Tree::new();
    for args in ["schema", "handlers", "completions bash"] {
        let mut child = tree.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args}");
        assert_eq!(output.status.code(), Some(0), "{args}");
    }
}
