//! `kiln-agent status`: how this boot stands, for a person, a script and a provisioner.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use kiln_schema::duration;
use kiln_schema::paths;
use kiln_schema::status::{OutcomeKind, State, Status};

use super::print::{Format, columns, complain, say, say_json};
use crate::report::current;
use crate::system::System;

/// Exit code when the deadline of `--wait` passed.
const DEADLINE: u8 = 6;

/// Arguments of `status`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Exit codes:
  0  done: everything ran and nothing failed
  1  failed, or the status file cannot be read
  2  degraded: only handlers failed that are best effort
  3  running
  4  not started at this boot
  5  disabled: the agent was told to do nothing
  6  the timeout of --wait passed first
 64  the command line cannot be understood")]
pub struct Args {
    /// Sleep until the boot has ended; at most for the timeout
    #[arg(long)]
    wait: bool,
    /// How long --wait waits at most, such as 90s, 20m or 1h30m
    #[arg(long, value_name = "TIME", default_value = "20m", requires = "wait", value_parser = duration::parse)]
    timeout: Duration,
    /// Print `text` for a person, or `json`, the whole status file, for a program
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    format: Format,
}

/// Tells the status. The exit code is that of the state.
pub fn run(system: &System, args: &Args) -> ExitCode {
    let mut late = false;
    if args.wait {
        let ended = |system: &System| current(system).map_or(true, |status| status.state.is_final());
        match system.wait_for(paths::RUN, Instant::now() + args.timeout, ended) {
            Ok(ended) => late = !ended,
            Err(error) => {
                complain(&format!("cannot wait for the boot to end: {error}"));
                return ExitCode::FAILURE;
            }
        }
    }
    let status = match current(system) {
        Ok(status) => status,
        Err(sentence) => {
            complain(&sentence);
            return ExitCode::FAILURE;
        }
    };
    match args.format {
        Format::Json => say_json(&status),
        Format::Text => say(&text(&status)),
    }
    // It may have ended between the deadline and the look.
    if late && !status.state.is_final() {
        let doing = status.handlers.iter().find(|handler| handler.outcome == OutcomeKind::Running);
        let doing = doing.map_or(String::new(), |handler| format!("; {} is running", handler.name));
        complain(&format!(
            "the boot had not ended after {}{doing}; `journalctl -t kiln-agent` tells more",
            duration::show(args.timeout)
        ));
        return ExitCode::from(DEADLINE);
    }
    ExitCode::from(status.state.exit_code())
}

/// The status as a person reads it: the state first, then what to know about it.
fn text(status: &Status) -> String {
    let mut facts: Vec<(&str, String)> = vec![("state", status.state.name().to_owned())];
    if let Some(stage) = status.stage {
        facts.push(("stage", stage.name().to_owned()));
    }
    if let Some(id) = &status.instance_id {
        facts.push(("instance", id.clone()));
    }
    if let Some(source) = &status.source {
        facts.push(("source", source.clone()));
    }
    if let Some(started) = &status.started {
        facts.push(("started", started.clone()));
    }
    if let Some(finished) = &status.finished {
        let took = span(status).map_or(String::new(), |took| format!(" (took {})", duration::show(took)));
        facts.push(("finished", format!("{finished}{took}")));
    }
    match status.state {
        State::NotStarted => facts.push(("hint", "no stage has begun at this boot".to_owned())),
        State::Disabled => {
            let hint = format!("{} exists, or the kernel was started with kiln=disabled", paths::DISABLED);
            facts.push(("hint", hint));
        }
        _ => {}
    }
    let mut text = columns(&facts.into_iter().map(|(key, value)| vec![key.into(), value]).collect::<Vec<_>>(), "");
    let counts = [OutcomeKind::Ok, OutcomeKind::Skipped, OutcomeKind::Failed, OutcomeKind::Running].map(|kind| {
        let number = status.handlers.iter().filter(|handler| handler.outcome == kind).count();
        (number > 0).then(|| format!("{number} {}", kind.name()))
    });
    if !status.handlers.is_empty() {
        text.push_str(&format!("handlers  {}\n", counts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    }
    for handler in &status.handlers {
        let message = handler.message.as_deref().unwrap_or("no message");
        let reason = handler.reason.as_deref().unwrap_or("no reason");
        match handler.outcome {
            OutcomeKind::Running => {
                text.push_str(&format!("\nrunning: {} since {}\n", handler.name, handler.started));
            }
            OutcomeKind::Failed => {
                let effort = if handler.best_effort { ", best effort" } else { "" };
                let stage = handler.stage.name();
                text.push_str(&format!("\nfailed: {} ({stage}, {reason}{effort})\n  {message}\n", handler.name));
            }
            OutcomeKind::Ok | OutcomeKind::Skipped => {}
        }
    }
    if !status.diagnostics.is_empty() {
        text.push_str("\nfindings:\n");
        for finding in &status.diagnostics {
            text.push_str(&format!("  {finding}\n"));
        }
    }
    if let Some(plan) = &status.planned_shutdown {
        text.push_str(&format!(
            "\nplanned: {} at {}, because {}\n  to cancel it: {}\n",
            plan.action, plan.at, plan.because, plan.cancel
        ));
    }
    text
}

/// From the start of the first stage to the end of the last.
pub fn span(status: &Status) -> Option<Duration> {
    let started: jiff::Timestamp = status.started.as_ref()?.parse().ok()?;
    let finished: jiff::Timestamp = status.finished.as_ref()?.parse().ok()?;
    Duration::try_from(finished.duration_since(started)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

    fn tree(status: &[u8]) -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write(BOOT_ID, "this-boot\n", FileOptions::default()).unwrap();
        system.write(paths::STATUS, status, FileOptions::default()).unwrap();
        (tree, system)
    }

    fn written(boot_id: &str, state: State) -> Vec<u8> {
        let mut status = Status::new("0", boot_id);
        status.state = state;
        serde_json::to_vec(&status).unwrap()
    }

    #[test]
    fn the_success_of_an_earlier_boot_is_not_one_of_this_boot() {
        let (_tree, system) = tree(&written("earlier-boot", State::Done));
        assert_eq!(current(&system).unwrap().state, State::NotStarted);
        let (_tree, system) = tree(&written("this-boot", State::Done));
        assert_eq!(current(&system).unwrap().state, State::Done);
    }

    #[test]
    fn a_damaged_status_is_neither_success_nor_a_reason_to_wait() {
        let whole = written("this-boot", State::Done);
        for damaged in [&b""[..], b"\0\0\0", b"[]", b"null", &whole[..whole.len() / 2]] {
            let (_tree, system) = tree(damaged);
            let sentence = current(&system).unwrap_err();
            assert!(sentence.starts_with("/run/kiln/status.json: "), "{sentence}");
        }
    }

    #[test]
    fn a_switch_to_disabled_tells_only_where_nothing_ran() {
        let (_tree, system) = tree(&written("earlier-boot", State::Done));
        system.write(paths::DISABLED, "", FileOptions::default()).unwrap();
        assert_eq!(current(&system).unwrap().state, State::Disabled);
        system.write(paths::STATUS, written("this-boot", State::Failed), FileOptions::default()).unwrap();
        assert_eq!(current(&system).unwrap().state, State::Failed);
    }
}
