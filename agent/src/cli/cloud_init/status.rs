//! `cloud-init status`: never better than the agent's own.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use kiln_schema::duration;
use kiln_schema::paths;
use kiln_schema::status::{State, Status};
use serde_json::Value as Json;

use super::super::print::{say, say_json};
use super::{Entry, USAGE, choice, complain, fail, flag, text, value, yaml};
use crate::cloud_init::{self, told};
use crate::report::current;
use crate::system::System;

/// What is written for other tools lies there this long after the boot's end at the latest.
const WRITTEN: Duration = Duration::from_secs(5);

/// How long `--wait` waits: longer than the stages may take.
const WAIT: Duration = Duration::from_secs(90 * 60);

/// The command.
pub const COMMAND: Entry = Entry {
    name: "status",
    about: "Tell how this boot stands, or wait for its end",
    after: "Exit codes:
  0  no error: done, running, not started or disabled
  1  something failed, or the timeout of --wait passed first
  2  something failed that only degrades the boot; or the command line cannot be understood",
    options: &[
        flag("long", 'l', "Tell more"),
        flag("wait", 'w', "Sleep until the boot has ended"),
        value("timeout", ' ', "TIME", "How long --wait waits at most, such as 20m; 90m without this"),
        choice("format", ' ', &["tabular", "json", "yaml"], "For a person, or all of it for a program"),
    ],
    run,
};

/// Tells the status; the exit code is 1 with errors, 2 with errors that only degrade the boot.
fn run(system: &System, args: &ArgMatches) -> ExitCode {
    let ended = |system: &System| current(system).map_or(true, |status| status.state.is_final());
    let waits = args.get_flag("wait");
    let timeout = match text(args, "timeout").map_or(Ok(WAIT), duration::parse) {
        Ok(timeout) => timeout,
        Err(why) => {
            complain(&format!("status: --timeout: {why}"));
            return ExitCode::from(USAGE);
        }
    };
    if waits {
        match system.wait_for(paths::RUN, Instant::now() + timeout, ended) {
            Ok(true) => wait_for_files(system),
            Ok(false) => complain(&format!("the boot had not ended after {}", duration::show(timeout))),
            Err(error) => complain(&format!("cannot wait for the boot to end: {error}")),
        }
    }
    let status = match current(system) {
        Ok(status) => status,
        Err(sentence) => return fail("status", &sentence),
    };
    let mut details = told::details(&status);
    let by_file = || [paths::DISABLED, cloud_init::DISABLED].iter().any(|path| system.exists(path));
    if status.state == State::Disabled && !by_file() {
        details["boot_status_code"] = "disabled-by-kernel-command-line".into();
    }
    match text(args, "format") {
        Some("json") => say_json(&details),
        Some("yaml") => say(&yaml::document(&details)),
        _ => say(&tabular(&details, args.get_flag("long"), waits)),
    }
    exit_code(&status, &details, waits)
}

/// Whoever waits reads result.json next, which is written after the agent's own status.
fn wait_for_files(system: &System) {
    let booted = current(system).is_ok_and(|status| status.state != State::Disabled && status.finished.is_some());
    if booted && cloud_init::is_installed(system) {
        let there = |system: &System| system.exists(cloud_init::RESULT);
        let _ = system.wait_for(cloud_init::RUN, Instant::now() + WRITTEN, there);
    }
}

fn exit_code(status: &Status, details: &Json, waited: bool) -> ExitCode {
    let some = |field: &str| details[field].as_array().is_some_and(|errors| !errors.is_empty());
    let degraded = details["recoverable_errors"].as_object().is_some_and(|levels| !levels.is_empty());
    if some("errors") || (waited && !status.state.is_final()) {
        ExitCode::FAILURE
    } else {
        ExitCode::from(if degraded { 2 } else { 0 })
    }
}

fn tabular(details: &Json, long: bool, waited: bool) -> String {
    let field = |name: &str| details[name].as_str().unwrap_or_default().to_owned();
    // Behind the dots that cloud-init prints while it waits.
    let mut text = if waited { "\n".to_owned() } else { String::new() };
    text.push_str(&format!("status: {}\n", field("status")));
    if !long {
        return text;
    }
    text.push_str(&format!("extended_status: {}\n", field("extended_status")));
    text.push_str(&format!("boot_status_code: {}\n", field("boot_status_code")));
    if !field("last_update").is_empty() {
        text.push_str(&format!("last_update: {}\n", field("last_update")));
    }
    text.push_str(&format!("detail: {}\n", field("detail")));
    let items = |errors: &Json| {
        let errors = errors.as_array().into_iter().flatten().filter_map(Json::as_str);
        errors.map(|error| format!("\n\t- {}", error.replace('\n', " "))).collect::<String>()
    };
    let errors = items(&details["errors"]);
    text.push_str(&format!("errors:{}\n", if errors.is_empty() { " []" } else { &errors }));
    let levels = details["recoverable_errors"].as_object().into_iter().flatten();
    let levels: String = levels.map(|(level, errors)| format!("\n{level}:{}", items(errors))).collect();
    text.push_str(&format!("recoverable_errors:{}\n", if levels.is_empty() { " {}" } else { &levels }));
    text
}
