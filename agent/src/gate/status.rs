//! The check `status`: the agent ran to its end and nothing failed.

use std::time::Duration;

use kiln_schema::gate::Check;
use kiln_schema::status::{OutcomeKind, State, Status};

use super::wait::{Waited, doing_since};
use super::{failed, passed};
use crate::system::now;

const NAME: &str = "status";

/// Judges how the wait for the agent ended.
pub fn check(waited: &Waited, timeout: Duration) -> Check {
    match &waited.status {
        Err(unreadable) => failed(NAME, format!("the agent's status cannot be read: {unreadable}")),
        Ok(status) if waited.finished => match cause(status) {
            None => passed(NAME, format!("done; {}", what_ran(status))),
            Some(cause) => failed(NAME, cause),
        },
        Ok(status) => {
            let hint = match status.state {
                State::NotStarted => "; `systemctl status kiln-local kiln-init kiln-final` tells why",
                _ => "",
            };
            let (time, doing) = (spelled(timeout), doing_since(status, now()));
            failed(NAME, format!("the agent did not finish within {time}: {doing}{hint}"))
        }
    }
}

/// Why a status is not that of a good boot.
fn cause(status: &Status) -> Option<String> {
    let failure = || status.first_failure().unwrap_or_else(|| "it names no cause".to_owned());
    match status.state {
        // The word alone is not believed.
        State::Done if status.verdict() == State::Done => None,
        State::Done => match status.handlers.iter().find(|h| h.outcome == OutcomeKind::Running) {
            Some(handler) => Some(format!("the status says done while handler {} is still running", handler.name)),
            None => Some(format!("the status says done, but {}", failure())),
        },
        State::Disabled => Some(
            "the agent is disabled: remove /etc/kiln/disabled, or kiln=disabled from the kernel's command line"
                .to_owned(),
        ),
        state => Some(format!("the agent's status is {}: {}", state.name(), failure())),
    }
}

fn what_ran(status: &Status) -> String {
    let ok = status.handlers.iter().filter(|handler| handler.outcome == OutcomeKind::Ok).count();
    let skipped = status.handlers.len() - ok;
    format!("{ok} handlers ok, {skipped} skipped")
}

/// A timeout as the person wrote it: `20m`.
pub(super) fn spelled(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds % 3600 / 60, "m"), (seconds % 60, "s")];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { format!("{}ms", time.as_millis()) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_schema::diagnostic::Diagnostic;
    use kiln_schema::gate::CheckOutcome;
    use kiln_schema::status::{HandlerReport, Stage};

    fn status(state: State, handlers: &[(&str, OutcomeKind, Option<&str>)]) -> Status {
        let mut status = Status::new("0", "boot");
        status.state = state;
        status.stage = Some(Stage::Final);
        status.handlers.extend(handlers.iter().map(|(name, outcome, message)| HandlerReport {
            name: (*name).into(),
            stage: Stage::Final,
            outcome: *outcome,
            best_effort: *name == "phone_home",
            started: "2026-01-01T00:00:00Z".into(),
            duration_ms: 0,
            reason: None,
            message: message.map(str::to_owned),
            detail: None,
        }));
        status
    }

    fn judged(status: Status, finished: bool) -> (CheckOutcome, String) {
        let status = Ok(status);
        let check = check(&Waited { status, finished }, Duration::from_secs(1200));
        (check.outcome, check.message)
    }

    #[test]
    fn only_done_passes() {
        let good = status(State::Done, &[("hostname", OutcomeKind::Ok, None), ("puppet", OutcomeKind::Skipped, None)]);
        assert_eq!(judged(good, true), (CheckOutcome::Passed, "done; 1 handlers ok, 1 skipped".into()));
        let puppet = &[("puppet", OutcomeKind::Failed, Some("2 of 12 resources failed"))];
        let home = &[("phone_home", OutcomeKind::Failed, Some("refused"))];
        let mut bad_document = status(State::Failed, &[]);
        bad_document.diagnostics.push(Diagnostic::error("user-data", "not YAML"));
        for (status, cause) in [
            (status(State::Failed, puppet), "the agent's status is failed: puppet: 2 of 12 resources failed"),
            (status(State::Degraded, home), "the agent's status is degraded: phone_home: refused"),
            (bad_document, "the agent's status is failed: user-data: error: not YAML"),
            (status(State::Failed, &[]), "the agent's status is failed: it names no cause"),
            (status(State::Done, puppet), "the status says done, but puppet: 2 of 12 resources failed"),
            (
                status(State::Done, &[("runcmd", OutcomeKind::Running, None)]),
                "the status says done while handler runcmd is still running",
            ),
        ] {
            assert_eq!(judged(status, true), (CheckOutcome::Failed, cause.into()));
        }
        assert!(judged(status(State::Disabled, &[]), true).1.starts_with("the agent is disabled"));
    }

    #[test]
    fn an_agent_that_never_finishes_is_told_with_what_it_was_at() {
        let (outcome, message) = judged(status(State::Running, &[("runcmd", OutcomeKind::Running, None)]), false);
        assert_eq!(outcome, CheckOutcome::Failed);
        let expected = "the agent did not finish within 20m: final stage, handler runcmd has been running for ";
        assert!(message.starts_with(expected), "{message}");
        let (_, message) = judged(Status::new("0", "boot"), false);
        assert!(message.starts_with("the agent did not finish within 20m: it has not started; `systemctl"));
    }

    #[test]
    fn a_timeout_is_told_as_it_was_written() {
        for (milliseconds, text) in [(1_200_000, "20m"), (5_400_000, "1h30m"), (90_000, "1m30s"), (500, "500ms")] {
            assert_eq!(spelled(Duration::from_millis(milliseconds)), text);
        }
    }
}
