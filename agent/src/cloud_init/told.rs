//! The agent's status in cloud-init's words.

use jiff::Timestamp;
use kiln_schema::diagnostic::Severity;
use kiln_schema::status::{HandlerReport, OutcomeKind, Reason, Stage, State, Status};
use serde_json::{Map, Value as Json, json};

/// How cloud-init writes a time, in UTC.
pub const DATE: &str = "%a, %d %b %Y %H:%M:%S +0000";

/// The stages as cloud-init has them, and the agent's stage that does their work.
const STAGES: [(&str, Stage); 4] = [
    ("init-local", Stage::Local),
    ("init", Stage::Init),
    ("modules-config", Stage::Final),
    ("modules-final", Stage::Final),
];

/// Sources whose name in cloud-init does not follow from their name here.
const CLASSES: &[(&str, &str)] = &[
    ("azure", "Azure"),
    ("configdrive", "ConfigDrive"),
    ("digitalocean", "DigitalOcean"),
    ("ec2", "Ec2Local"),
    ("gce", "GCELocal"),
    ("nocloud", "NoCloud"),
    ("openstack", "OpenStackLocal"),
    ("vmware", "VMware"),
];

/// A source by the name of its class.
pub fn datasource(source: &str) -> String {
    let known = CLASSES.iter().find(|(name, _)| *name == source).map(|(_, class)| (*class).to_owned());
    let capital = || source.chars().take(1).flat_map(char::to_uppercase).chain(source.chars().skip(1)).collect();
    format!("DataSource{}", known.unwrap_or_else(capital))
}

/// What failed in a stage: errors, and failures that only degrade the boot.
fn failures(status: &Status, stage: &str) -> (Vec<String>, Vec<String>) {
    let (mut errors, mut degrading) = (Vec::new(), Vec::new());
    let of = |report: &&HandlerReport| name(report.stage) == stage && report.outcome == OutcomeKind::Failed;
    for report in status.handlers.iter().filter(of) {
        let told = format!("{}: {}", report.name, report.message.as_deref().unwrap_or("failed"));
        let lacks = report.reason.as_deref() == Some(Reason::Unsupported.code());
        if report.best_effort || lacks { &mut degrading } else { &mut errors }.push(told);
    }
    // Documents are read in the stage that has the network; before it began, where the boot is.
    let reader = if status.stage == Some(Stage::Local) { "init-local" } else { "init" };
    if stage == reader {
        let found = status.diagnostics.iter().filter(|finding| finding.severity == Severity::Error);
        errors.extend(found.map(ToString::to_string));
    }
    (errors, degrading)
}

/// The name of the stage in cloud-init.
fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Local => "init-local",
        Stage::Init => "init",
        Stage::Final => "modules-final",
    }
}

/// The part `v1` of status.json. Times are seconds of the epoch.
pub fn stages(status: &Status) -> Json {
    let running = status.state == State::Running;
    let at_work = status.stages.last().filter(|stage| running && stage.finished.is_none());
    let mut v1 = Map::new();
    v1.insert("datasource".to_owned(), json!(status.source.as_deref().map(datasource)));
    v1.insert("stage".to_owned(), json!(at_work.map(|stage| name(stage.name))));
    for (stage, own) in STAGES {
        let (errors, degrading) = failures(status, stage);
        let report = status.stages.iter().find(|report| report.name == own);
        let start = report.and_then(|report| seconds(&report.started));
        let finished = match stage {
            // One stage does the work of both; what comes first has ended when it begins.
            "modules-config" => start,
            _ => report.and_then(|report| seconds(report.finished.as_ref()?)),
        };
        let recoverable = levels(degrading);
        let bucket = json!({"errors": errors, "recoverable_errors": recoverable, "start": start, "finished": finished});
        v1.insert(stage.to_owned(), bucket);
    }
    Json::Object(v1)
}

/// All that `status` tells, with the names of cloud-init.
pub fn details(status: &Status) -> Json {
    let mut all = stages(status);
    let (mut errors, mut degrading) = (Vec::new(), Vec::new());
    for (stage, _) in STAGES {
        let (serious, lighter) = failures(status, stage);
        errors.extend(serious);
        degrading.extend(lighter);
    }
    let look = "`kiln-agent status` tells more".to_owned();
    match status.state {
        State::Failed if errors.is_empty() => errors.push(format!("the boot failed; {look}")),
        State::Degraded if degrading.is_empty() => degrading.push(format!("the boot is degraded; {look}")),
        _ => {}
    }
    let (state, extended) = match status.state {
        State::NotStarted => ("not started", "not started"),
        State::Disabled => ("disabled", "disabled"),
        State::Running if !errors.is_empty() => ("error", "error - running"),
        State::Running if !degrading.is_empty() => ("running", "degraded running"),
        State::Running => ("running", "running"),
        State::Done => ("done", "done"),
        State::Degraded => ("done", "degraded done"),
        State::Failed => ("error", "error - done"),
    };
    let source = status.source.as_deref().map(datasource).unwrap_or_default();
    let detail = match (status.state, all["stage"].as_str()) {
        (State::Running, Some(stage)) => format!("Running in stage: {stage}"),
        (State::Running, None) => "Running between two stages".to_owned(),
        (State::NotStarted, _) => "No stage has begun at this boot".to_owned(),
        (State::Disabled, _) => "Cloud-init disabled: kiln-agent was told to do nothing".to_owned(),
        _ => source.clone(),
    };
    let code = match status.state {
        State::NotStarted => "unknown",
        State::Disabled => "disabled-by-marker-file",
        _ => "enabled-by-generator",
    };
    let times = status.stages.iter().flat_map(|stage| [Some(&stage.started), stage.finished.as_ref()]).flatten();
    let last = times.filter_map(|at| at.parse::<Timestamp>().ok()).max();
    let text = |text: &str| Json::from(text);
    for (name, value) in [
        ("status", text(state)),
        ("extended_status", text(extended)),
        ("boot_status_code", text(code)),
        ("datasource", text(&source.trim_start_matches("DataSource").to_lowercase())),
        ("detail", text(&detail)),
        ("last_update", text(&last.map_or_else(String::new, |at| at.strftime(DATE).to_string()))),
        ("errors", errors.into()),
        ("recoverable_errors", levels(degrading)),
    ] {
        all[name] = value;
    }
    all
}

/// cloud-init sorts what degrades by the level of its log.
fn levels(degrading: Vec<String>) -> Json {
    let mut levels = Map::new();
    if !degrading.is_empty() {
        levels.insert("WARNING".to_owned(), degrading.into());
    }
    Json::Object(levels)
}

fn seconds(at: &str) -> Option<f64> {
    Some(at.parse::<Timestamp>().ok()?.as_duration().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_schema::diagnostic::Diagnostic;
    use kiln_schema::status::StageReport;

    fn report(name: &str, stage: Stage, outcome: OutcomeKind, best_effort: bool) -> HandlerReport {
        HandlerReport {
            name: name.to_owned(),
            stage,
            outcome,
            best_effort,
            started: String::new(),
            duration_ms: 0,
            reason: None,
            message: Some("why".to_owned()),
            detail: None,
        }
    }

    fn status(state: State, handlers: Vec<HandlerReport>) -> Status {
        let mut status = Status::new("0", "b");
        status.state = state;
        status.source = Some("ec2".to_owned());
        status.stage = Some(Stage::Final);
        let at = |at: &str| format!("2026-11-23T10:00:0{at}Z");
        let report = |name, from, to: Option<&str>| StageReport { name, started: at(from), finished: to.map(at) };
        let last = (state != State::Running).then_some("9");
        status.stages = vec![
            report(Stage::Local, "1", Some("2")),
            report(Stage::Init, "3", Some("4")),
            report(Stage::Final, "5", last),
        ];
        status.handlers = handlers;
        status
    }

    #[test]
    fn every_state_has_its_words() {
        let serious = || report("users", Stage::Init, OutcomeKind::Failed, false);
        let lighter = || report("phone_home", Stage::Final, OutcomeKind::Failed, true);
        for (state, handlers, short, extended) in [
            (State::NotStarted, vec![], "not started", "not started"),
            (State::Disabled, vec![], "disabled", "disabled"),
            (State::Running, vec![], "running", "running"),
            (State::Running, vec![report("x", Stage::Final, OutcomeKind::Running, false)], "running", "running"),
            (State::Running, vec![serious()], "error", "error - running"),
            (State::Running, vec![lighter()], "running", "degraded running"),
            (State::Done, vec![], "done", "done"),
            (State::Degraded, vec![lighter()], "done", "degraded done"),
            (State::Failed, vec![lighter(), serious()], "error", "error - done"),
        ] {
            let told = details(&status(state, handlers));
            assert_eq!((told["status"].as_str(), told["extended_status"].as_str()), (Some(short), Some(extended)));
        }
    }

    #[test]
    fn a_failure_stands_in_its_stage_and_at_the_top() {
        let mut unsupported = report("chef", Stage::Final, OutcomeKind::Failed, false);
        unsupported.reason = Some(Reason::Unsupported.code().to_owned());
        let mut status =
            status(State::Failed, vec![report("users", Stage::Init, OutcomeKind::Failed, false), unsupported]);
        status.diagnostics.push(Diagnostic::error("user-data", "broken"));
        status.diagnostics.push(Diagnostic::warning("user-data", "unknown key"));
        let told = details(&status);
        assert_eq!(told["errors"], json!(["users: why", "user-data: error: broken"]));
        assert_eq!(told["init"]["errors"], told["errors"]);
        assert_eq!(told["modules-final"]["errors"], json!([]));
        assert_eq!(told["modules-final"]["recoverable_errors"], json!({"WARNING": ["chef: why"]}));
        assert_eq!(told["recoverable_errors"], json!({"WARNING": ["chef: why"]}));
    }

    #[test]
    fn times_are_of_the_clock_and_a_stage_that_runs_has_no_end() {
        let told = details(&status(State::Running, vec![]));
        assert_eq!(told["detail"], "Running in stage: modules-final");
        assert_eq!(told["last_update"], "Mon, 23 Nov 2026 10:00:05 +0000");
        assert_eq!(told["modules-final"]["finished"], Json::Null);
        assert_eq!(told["init"]["start"], 1_795_428_003.0);
        let told = details(&status(State::Done, vec![]));
        assert_eq!(
            (&told["stage"], &told["detail"], &told["datasource"]),
            (&Json::Null, &json!("DataSourceEc2Local"), &json!("ec2local"))
        );
    }

    #[test]
    fn a_failed_boot_is_never_without_an_error() {
        assert!(!details(&status(State::Failed, vec![]))["errors"].as_array().unwrap().is_empty());
        assert_ne!(details(&status(State::Degraded, vec![]))["recoverable_errors"], json!({}));
    }

    #[test]
    fn a_source_that_cloud_init_does_not_know_has_a_name_too() {
        assert_eq!(datasource("none"), "DataSourceNone");
        assert_eq!(datasource("nocloud"), "DataSourceNoCloud");
        assert_eq!(datasource(""), "DataSource");
    }
}
