//! The end of a boot: what the console shows of it, and taking the machine down where that was asked for.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use kiln_schema::duration;
use kiln_schema::status::{OutcomeKind, Reason, Status};

use crate::report::Report;
use crate::system::{RunError, System};

/// Handlers that are named as the slowest.
const SLOWEST: usize = 3;
/// Characters of a line on the console.
const LINE: usize = 300;

/// Shows three lines on the console, if there is one: the state, the slowest handlers, the first failure.
pub fn show(system: &System, status: &Status) {
    if !system.has_console() {
        return;
    }
    if let Err(error) = system.print_to_console(&lines(status)) {
        tracing::warn!("the end of the boot could not be shown on the console: {error}");
    }
}

fn lines(status: &Status) -> String {
    let time = |at: &Option<String>| at.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
    let took = match (time(&status.started), time(&status.finished)) {
        (Some(begun), Some(ended)) => Duration::try_from(ended.duration_since(begun)).unwrap_or_default(),
        _ => Duration::ZERO,
    };
    let instance = status.instance_id.as_deref().unwrap_or("no instance");
    let source = status.source.as_deref().unwrap_or("no datasource");
    let mut state = format!("{} after {} ({instance}, {source})", status.state.name(), duration::show(took));
    if let Some(plan) = &status.planned_shutdown {
        state.push_str(&format!("; {} at {}, {}", plan.action, plan.at, plan.because));
    }
    // What ran at an earlier boot took its time then.
    let mut ran: Vec<_> = status.handlers.iter().filter(|handler| handler.outcome != OutcomeKind::Skipped).collect();
    ran.sort_by_key(|handler| std::cmp::Reverse(handler.duration_ms));
    let named = ran.iter().take(SLOWEST);
    let named =
        named.map(|handler| format!("{} {}", handler.name, duration::show(Duration::from_millis(handler.duration_ms))));
    let slowest = named.collect::<Vec<_>>().join(", ");
    let slowest = if slowest.is_empty() { "no handler ran".to_owned() } else { format!("slowest: {slowest}") };
    let failure = match status.first_failure() {
        Some(failure) => format!("first failure: {failure}"),
        None => "nothing failed".to_owned(),
    };
    [state, slowest, failure].iter().map(|line| format!("kiln-agent: {}\n", visible(line))).collect()
}

/// A line that a terminal shows and does not obey.
fn visible(line: &str) -> String {
    let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE).collect();
    if line.chars().count() > LINE { shown + "…" } else { shown }
}

/// Takes the machine down, if a handler asked for it. True if that failed: the status says so then, and
/// plans no shutdown any more.
///
/// It comes after everything is told and written: from here on the agent may be killed at any time.
///
/// # Errors
/// When the status cannot be written.
pub fn go_down(system: &System, report: &Report) -> io::Result<bool> {
    let Some(last) = report.take_last_act() else { return Ok(false) };
    let why = match system.run(&last.command) {
        Ok(finished) if finished.success() => return Ok(false),
        Ok(finished) => {
            let said = finished.last_lines(1).join("");
            (Reason::CommandFailed, format!("{} {}: {said}", last.command.program(), finished.ending()))
        }
        Err(error @ RunError::Missing(_)) => (Reason::MissingProgram, error.to_string()),
        Err(error) => (Reason::CommandFailed, error.to_string()),
    };
    let (reason, why) = why;
    tracing::error!("the machine does not go down: {why}");
    report.update(|status| {
        status.planned_shutdown = None;
        for handler in status.handlers.iter_mut().filter(|handler| handler.name == last.handler) {
            handler.outcome = OutcomeKind::Failed;
            handler.reason = Some(reason.code().to_owned());
            handler.message = Some(format!("the machine does not go down: {why}"));
        }
    })?;
    report.finish()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::LastAct;
    use crate::system::{Command, FileOptions};
    use kiln_schema::status::{HandlerReport, PlannedShutdown, Stage, State};

    fn handler(name: &str, outcome: OutcomeKind, duration_ms: u64, message: Option<&str>) -> HandlerReport {
        HandlerReport {
            name: name.to_owned(),
            stage: Stage::Final,
            outcome,
            best_effort: false,
            started: String::new(),
            duration_ms,
            reason: None,
            message: message.map(str::to_owned),
            detail: None,
        }
    }

    fn status() -> Status {
        let mut status = Status::new("1", "b");
        status.state = State::Failed;
        status.instance_id = Some("i-1".to_owned());
        status.source = Some("ec2".to_owned());
        status.started = Some("2026-01-01T00:00:00Z".to_owned());
        status.finished = Some("2026-01-01T00:02:05Z".to_owned());
        status.handlers = vec![
            handler("users", OutcomeKind::Ok, 40, None),
            handler("puppet", OutcomeKind::Failed, 90_000, Some("it broke\n\x1b[2Jx")),
            handler("old", OutcomeKind::Skipped, 99_999, None),
            handler("runcmd", OutcomeKind::Ok, 1_500, None),
            handler("hosts", OutcomeKind::Ok, 1, None),
        ];
        status
    }

    #[test]
    fn three_lines_tell_state_slowest_and_first_failure() {
        let mut status = status();
        let text = "kiln-agent: failed after 2m 5s (i-1, ec2)\n\
                    kiln-agent: slowest: puppet 1m 30s, runcmd 1.50s, users 40ms\n\
                    kiln-agent: first failure: puppet: it broke  [2Jx\n";
        assert_eq!(lines(&status), text);
        status.handlers.clear();
        status.state = State::Done;
        status.planned_shutdown = Some(PlannedShutdown {
            action: "reboot".to_owned(),
            at: "2026-01-01T00:03:05Z".to_owned(),
            because: "power_state".to_owned(),
            cancel: String::new(),
        });
        let text = "kiln-agent: done after 2m 5s (i-1, ec2); reboot at 2026-01-01T00:03:05Z, power_state\n\
                    kiln-agent: no handler ran\nkiln-agent: nothing failed\n";
        assert_eq!(lines(&status), text);
    }

    #[test]
    fn a_long_failure_is_cut_and_stays_one_line() {
        let mut status = status();
        status.handlers[1].message = Some("ä".repeat(1000));
        let text = lines(&status);
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("ä…\n") && text.lines().all(|line| line.chars().count() < 320), "{text}");
    }

    #[test]
    fn the_console_is_written_where_there_is_one() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        show(&system, &status());
        assert!(!system.exists("/dev/console"));
        system.write("/dev/console", "", FileOptions::default()).unwrap();
        show(&system, &status());
        assert_eq!(system.read_text("/dev/console").unwrap(), lines(&status()));
    }

    #[test]
    fn a_machine_that_does_not_go_down_is_a_failure_and_plans_none_any_more() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let report = Report::begin(&system);
        assert!(!go_down(&system, &report).unwrap(), "nobody asked for it");
        report.note(handler("power_state", OutcomeKind::Ok, 1, None));
        let plan = PlannedShutdown {
            action: "reboot".to_owned(),
            at: String::new(),
            because: String::new(),
            cancel: String::new(),
        };
        report.update(|status| status.planned_shutdown = Some(plan)).unwrap();
        let command = Command::new("no-such-shutdown", Duration::from_secs(5));
        report.do_last(LastAct { handler: "power_state", command });
        assert!(go_down(&system, &report).unwrap());
        let status = report.snapshot();
        assert_eq!(status.planned_shutdown, None);
        assert_eq!(status.state, State::Failed);
        let own = status.handlers.last().unwrap();
        assert_eq!(own.reason.as_deref(), Some("missing-program"));
        assert!(!go_down(&system, &report).unwrap(), "it is tried once");
    }
}
