//! The check `puppet`: its last run left nothing failed.

use jiff::Timestamp;
use kiln_schema::gate::Check;
use kiln_schema::status::{HandlerReport, OutcomeKind, Status};

use super::{failed, passed, skipped};
use crate::handlers::puppet::summary::Summary;
use crate::system::System;

const NAME: &str = "puppet";

/// Judges puppet by the handler's report and by puppet's own summary, if the handler had a turn.
pub fn check(system: &System, status: Option<&Status>) -> Check {
    let Some(handler) = handler(status) else {
        return skipped(NAME, "the user-data has no puppet section");
    };
    let message = handler.message.as_deref().unwrap_or("it says nothing more");
    match handler.outcome {
        OutcomeKind::Skipped => return skipped(NAME, format!("puppet did not run: {message}")),
        OutcomeKind::Failed => return failed(NAME, format!("puppet: {message}")),
        OutcomeKind::Running => return failed(NAME, "puppet is still running"),
        OutcomeKind::Ok => {}
    }
    let Some(path) = summary_path(handler) else {
        return skipped(NAME, "puppet was set up and was not to run at boot");
    };
    let summary = match system.read_text(path).map_err(|e| e.to_string()).and_then(|text| Summary::parse(&text)) {
        Ok(summary) => summary,
        Err(error) => return failed(NAME, format!("puppet's summary cannot be read: {error}")),
    };
    // A later run, by puppet's own daemon, counts; one before the handler's is another boot's.
    let started = handler.started.parse::<Timestamp>();
    if started.is_ok_and(|started| !summary.is_of_run_since(started)) {
        return failed(NAME, format!("{path} is older than the run at this boot, so it proves nothing"));
    }
    match summary.failure() {
        Some(failure) => failed(NAME, format!("puppet: {failure}")),
        None => passed(NAME, summary.counts()),
    }
}

/// The report of the puppet handler, if it had a turn.
fn handler(status: Option<&Status>) -> Option<&HandlerReport> {
    status?.handlers.iter().find(|handler| handler.name == NAME)
}

/// Where the handler says that puppet keeps its summary.
fn summary_path(handler: &HandlerReport) -> Option<&str> {
    handler.detail.as_ref()?.get("summary")?.as_str()
}

/// Puppet's summary, for the evidence.
pub fn summary_file(status: Option<&Status>) -> Option<&str> {
    handler(status).and_then(summary_path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;
    use kiln_schema::gate::CheckOutcome;
    use kiln_schema::status::Stage;
    use serde_json::json;

    const PATH: &str = "/var/cache/puppet/public/last_run_summary.yaml";

    fn judged(outcome: OutcomeKind, detail: Option<serde_json::Value>, summary: &str) -> (CheckOutcome, String) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write(PATH, summary, FileOptions::default()).unwrap();
        let mut status = Status::new("0", "boot");
        status.handlers.push(HandlerReport {
            name: NAME.into(),
            stage: Stage::Final,
            outcome,
            best_effort: false,
            started: "2026-01-01T00:00:00.900Z".into(),
            duration_ms: 1,
            reason: None,
            message: Some("told".into()),
            detail,
        });
        let check = check(&system, Some(&status));
        (check.outcome, check.message)
    }

    /// A summary of a run that many seconds after the handler began.
    fn summary(after: i64, failed: u32) -> String {
        let began: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let last_run = began.as_second() + after;
        format!("---\nresources: {{changed: 3, failed: {failed}, total: 9}}\ntime: {{last_run: {last_run}}}\n")
    }

    #[test]
    fn a_good_run_passes_and_every_other_fails_with_its_cause() {
        let ran = || Some(json!({"summary": PATH}));
        let passed = (CheckOutcome::Passed, "3 of 9 resources changed, 0 failed".to_owned());
        assert_eq!(judged(OutcomeKind::Ok, ran(), &summary(0, 0)), passed);
        for (outcome, detail, text, expected) in [
            (OutcomeKind::Failed, None, summary(5, 0), "puppet: told"),
            (OutcomeKind::Running, None, summary(5, 0), "puppet is still running"),
            (OutcomeKind::Ok, ran(), summary(5, 2), "puppet: 2 of 9 resources failed"),
            (OutcomeKind::Ok, ran(), summary(-60, 0), "is older than the run at this boot"),
            (OutcomeKind::Ok, ran(), "{{{".to_owned(), "cannot be read"),
            (OutcomeKind::Ok, ran(), String::new(), "cannot be read"),
            (OutcomeKind::Ok, Some(json!({"summary": "/nowhere"})), summary(5, 0), "cannot be read"),
        ] {
            let (verdict, message) = judged(outcome, detail, &text);
            assert_eq!(verdict, CheckOutcome::Failed, "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn puppet_that_was_not_to_run_is_skipped_with_a_reason() {
        let (outcome, message) = judged(OutcomeKind::Skipped, None, "");
        assert_eq!((outcome, message.as_str()), (CheckOutcome::Skipped, "puppet did not run: told"));
        assert_eq!(judged(OutcomeKind::Ok, Some(json!({"ran": false})), "").0, CheckOutcome::Skipped);
        assert_eq!(check(&System::new("/"), None).outcome, CheckOutcome::Skipped);
    }
}
