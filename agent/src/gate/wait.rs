//! Waiting for the agent to finish, asleep until its status changes.

use std::io;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kiln_schema::paths;
use kiln_schema::status::{HandlerReport, OutcomeKind, State, Status};

use crate::report;
use crate::system::System;

/// How the wait ended.
pub struct Waited {
    /// The status at the end, or why there is none to be read.
    pub status: Result<Status, String>,
    /// The state is final; otherwise the time was over.
    pub finished: bool,
}

impl Waited {
    /// Everything ran and nothing failed.
    pub fn is_done(&self) -> bool {
        self.finished && self.status.as_ref().is_ok_and(|status| status.state == State::Done)
    }
}

/// Waits until the state is final or the time is over. `tell` gets what is waited for and the
/// time that is left, on every change.
///
/// # Errors
/// When the status cannot be watched.
pub fn for_the_agent(system: &System, timeout: Duration, tell: &mut dyn FnMut(&str, Duration)) -> io::Result<Waited> {
    let deadline = Instant::now() + timeout;
    let mut told = String::new();
    let is_final = |system: &System| match report::current(system) {
        Ok(status) if !status.state.is_final() => {
            let doing = doing(&status);
            if doing != told {
                tell(&doing, deadline.saturating_duration_since(Instant::now()));
                told = doing;
            }
            false
        }
        // The file is only ever replaced as a whole: one that cannot be read now never can.
        Ok(_) | Err(_) => true,
    };
    // An agent that is killed wakes the wait as well: the kernel lets go of its lock.
    let finished = system.wait_for(paths::RUN, deadline, is_final)?;
    Ok(Waited { status: report::current(system), finished })
}

/// What the agent is at: `final stage, handler runcmd`.
pub fn doing(status: &Status) -> String {
    let Some(stage) = status.stage else {
        return "it has not started".to_owned();
    };
    match running(status) {
        Some(handler) => format!("{} stage, handler {}", stage.name(), handler.name),
        None => format!("{} stage, no handler is running", stage.name()),
    }
}

/// The same with how long the handler has been running, for the sentence that tells why the wait was given up.
pub fn doing_since(status: &Status, now: Timestamp) -> String {
    let since = running(status).and_then(|handler| handler.started.parse::<Timestamp>().ok());
    match since.and_then(|since| Duration::try_from(now.duration_since(since)).ok()) {
        Some(time) => {
            let time = Duration::from_secs(time.as_secs());
            format!("{} has been running for {}", doing(status), kiln_schema::duration::show(time))
        }
        None => doing(status),
    }
}

fn running(status: &Status) -> Option<&HandlerReport> {
    status.handlers.iter().rev().find(|handler| handler.outcome == OutcomeKind::Running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;
    use kiln_schema::status::Stage;

    fn running_since(started: &str) -> Status {
        let mut status = Status::new("0", "boot");
        status.state = State::Running;
        status.stage = Some(Stage::Final);
        status.handlers.push(HandlerReport {
            name: "runcmd".into(),
            stage: Stage::Final,
            outcome: OutcomeKind::Running,
            best_effort: false,
            started: started.into(),
            duration_ms: 0,
            reason: None,
            message: None,
            detail: None,
        });
        status
    }

    #[test]
    fn the_sentence_names_stage_handler_and_time() {
        let now: Timestamp = "2026-01-01T00:20:05Z".parse().unwrap();
        let status = running_since("2026-01-01T00:00:00Z");
        assert_eq!(doing_since(&status, now), "final stage, handler runcmd has been running for 20m 5s");
        // A clock that was set back in between, or a start that nobody can read, is left out.
        assert_eq!(doing_since(&running_since("2027-01-01T00:00:00Z"), now), "final stage, handler runcmd");
        assert_eq!(doing_since(&running_since("noon"), now), "final stage, handler runcmd");
        assert_eq!(doing_since(&Status::new("0", "b"), now), "it has not started");
    }

    #[test]
    fn a_wait_ends_with_the_status_or_with_the_time() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let lock = system.lock(paths::LOCK).unwrap();
        assert!(lock.is_some(), "this test is the agent");
        let report = report::Report::begin(&system);
        let mut told = Vec::new();
        let status = running_since("2026-01-01T00:00:00Z");
        let boot_id = system.boot_id().to_owned();
        report.update(|own| own.clone_from(&Status { boot_id, ..status })).unwrap();
        let waited = for_the_agent(&system, Duration::from_millis(50), &mut |line, left| {
            assert!(left <= Duration::from_millis(50));
            told.push(line.to_owned());
        })
        .unwrap();
        assert!(!waited.finished && !waited.is_done());
        assert_eq!(told, ["final stage, handler runcmd"]);
        let writer = std::thread::spawn(move || report.update(|status| status.state = State::Done).unwrap());
        let waited = for_the_agent(&system, Duration::from_secs(20), &mut |_, _| {}).unwrap();
        writer.join().unwrap();
        assert!(waited.is_done());
    }

    #[test]
    fn nothing_is_waited_for_where_nothing_will_come() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write(paths::DISABLED, "", FileOptions::default()).unwrap();
        let waited = for_the_agent(&system, Duration::from_secs(20), &mut |_, _| {}).unwrap();
        assert!(waited.finished && waited.status.unwrap().state == State::Disabled);
        system.write(paths::STATUS, "{", FileOptions::default()).unwrap();
        let waited = for_the_agent(&system, Duration::from_secs(20), &mut |_, _| {}).unwrap();
        assert!(waited.finished && waited.status.unwrap_err().contains(paths::STATUS));
    }
}
