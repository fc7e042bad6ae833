//! The logs of cloud-init, which people and tools tail.
//!
//! `cloud-init-output.log` has what commands of the user and package managers say, as they say it. It may hold
//! what they print of secrets, so it is closed to others, and the status never quotes it. `cloud-init.log` has a
//! line for each handler and each finding, as the status has them.

use kiln_schema::diagnostic::Severity;
use kiln_schema::status::{OutcomeKind, Stage, Status};

use super::{VERSION, told, try_to};
use crate::system::{FileOptions, System, now};

/// The output of commands.
pub const OUTPUT: &str = "/var/log/cloud-init-output.log";
/// How handlers ended.
pub const LOG: &str = "/var/log/cloud-init.log";
/// Of logs that lack; one that is there keeps its own.
pub const MODE: FileOptions = FileOptions::mode(0o640);

/// Where the output of the stage begins.
pub fn stage_began(system: &System, status: &Status) {
    let name = match status.stage {
        Some(Stage::Local) => "init-local",
        Some(Stage::Init) => "init",
        Some(Stage::Final) => "modules:final",
        None => return,
    };
    put(system, OUTPUT, &format!("Cloud-init v. {VERSION} running '{name}' at {}. {}\n", at(), up(system)));
}

/// How the handlers of the stage ended; with the last one the findings of the boot, and that it has ended.
pub fn stage_ended(system: &System, status: &Status) {
    let now = now().strftime("%Y-%m-%d %H:%M:%S,%3f").to_string();
    let mut text = String::new();
    for report in status.handlers.iter().filter(|report| Some(report.stage) == status.stage) {
        let level = match report.outcome {
            OutcomeKind::Failed if report.best_effort => "WARNING",
            OutcomeKind::Failed => "ERROR",
            _ => "INFO",
        };
        let why = report.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        let (name, outcome, took) = (&report.name, report.outcome.name(), report.duration_ms);
        text.push_str(&format!("{now} - {name}[{level}]: {outcome} in {took} ms{why}\n"));
    }
    if status.stage == Some(Stage::Final) {
        for finding in &status.diagnostics {
            let level = if finding.severity == Severity::Error { "ERROR" } else { "WARNING" };
            text.push_str(&format!("{now} - documents[{level}]: {finding}\n"));
        }
        let source = told::datasource(status.source.as_deref().unwrap_or("none"));
        let line = format!("Cloud-init v. {VERSION} finished at {}. Datasource {source}.  {}\n", at(), up(system));
        put(system, OUTPUT, &line);
    }
    put(system, LOG, &text);
}

fn at() -> String {
    now().strftime(told::DATE).to_string()
}

fn up(system: &System) -> String {
    format!("Up {} seconds", super::uptime(system))
}

fn put(system: &System, path: &str, text: &str) {
    try_to(system.append(path, text.as_bytes(), MODE));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use kiln_schema::diagnostic::Diagnostic;
    use kiln_schema::status::HandlerReport;

    use super::*;

    #[test]
    fn a_failure_and_a_finding_stand_in_the_log_and_the_end_in_the_output() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let mut status = Status::new("0", "b");
        let report = |name: &str, stage, outcome| HandlerReport {
            name: name.to_owned(),
            stage,
            outcome,
            best_effort: false,
            started: String::new(),
            duration_ms: 7,
            reason: None,
            message: (outcome == OutcomeKind::Failed).then(|| "why".to_owned()),
            detail: None,
        };
        status.handlers =
            vec![report("users", Stage::Init, OutcomeKind::Ok), report("runcmd", Stage::Final, OutcomeKind::Failed)];
        status.diagnostics.push(Diagnostic::warning("user-data", "unknown key"));
        for stage in [Stage::Init, Stage::Final] {
            status.stage = Some(stage);
            stage_began(&system, &status);
            stage_ended(&system, &status);
        }
        let log = system.read_text(LOG).unwrap();
        let lines: Vec<&str> = log.lines().map(|line| line.split_once(" - ").unwrap().1).collect();
        assert_eq!(
            lines,
            [
                "users[INFO]: ok in 7 ms",
                "runcmd[ERROR]: failed in 7 ms: why",
                "documents[WARNING]: user-data: warning: unknown key"
            ]
        );
        let output = system.read_text(OUTPUT).unwrap();
        assert_eq!(output.matches(" running '").count(), 2, "{output}");
        assert!(output.lines().last().unwrap().contains(" finished at "), "{output}");
        for path in [LOG, OUTPUT] {
            assert_eq!(system.metadata(path).unwrap().permissions().mode() & 0o777, 0o640, "{path}");
        }
    }
}
