//! `cloud-init analyze`: where the time of this boot went, in cloud-init's layout.

use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use jiff::Timestamp;
use kiln_schema::status::{HandlerReport, OutcomeKind, Stage, Status};
use serde_json::{Value as Json, json};

use super::super::print::{say, say_json};
use super::{Entry, Opt, fail, text};
use crate::report::current;
use crate::system::{Command, System};

/// The command.
pub const COMMAND: Entry = Entry {
    name: "analyze",
    about: "Show where the time of this boot went",
    after: "",
    options: &[Opt {
        name: "what",
        short: '.',
        value: "WHAT",
        values: &["show", "blame", "dump", "boot"],
        help: "Each handler in its order, the longest first, all events as JSON, or when the machine began",
    }],
    run,
};

/// Shows it; exit 1 where nothing has run at this boot.
fn run(system: &System, args: &ArgMatches) -> ExitCode {
    let status = match current(system) {
        Ok(status) if status.started.is_some() => status,
        Ok(status) => {
            let why = format!("nothing has run at this boot: the state is {}", status.state.name());
            return fail("analyze", &why);
        }
        Err(sentence) => return fail("analyze", &sentence),
    };
    match text(args, "what") {
        Some("show") => say(&show(&status)),
        Some("blame") => say(&blame(&status)),
        Some("dump") => say_json(&events(&status)),
        Some("boot") => match boot(system, &status) {
            Ok(text) => say(&text),
            Err(sentence) => return fail("analyze", &sentence),
        },
        _ => return fail("analyze", "say what: show, blame, dump or boot"),
    }
    ExitCode::SUCCESS
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Local => "init-local",
        Stage::Init => "init-network",
        Stage::Final => "modules-final",
    }
}

fn at(time: &str) -> Option<Timestamp> {
    time.parse().ok()
}

fn between(from: Option<Timestamp>, to: Option<Timestamp>) -> f64 {
    from.zip(to).map_or(0.0, |(from, to)| to.duration_since(from).as_secs_f64().max(0.0))
}

/// What ran at this boot: a report of an earlier one is told again and took no time.
fn ran(status: &Status) -> impl Iterator<Item = &HandlerReport> {
    let start = status.started.as_deref().and_then(at);
    let of_this = move |report: &&HandlerReport| at(&report.started) >= start && report.outcome != OutcomeKind::Running;
    status.handlers.iter().filter(of_this)
}

fn took(report: &HandlerReport) -> f64 {
    Duration::from_millis(report.duration_ms).as_secs_f64()
}

fn show(status: &Status) -> String {
    let mut text = "-- Boot Record 01 --\n\
        The total time elapsed since completing an event is printed after the \"@\" character.\n\
        The time the event takes is printed after the \"+\" character.\n\n"
        .to_owned();
    let start = status.started.as_deref().and_then(at);
    let mut total = 0.0;
    for stage in &status.stages {
        let name = stage_name(stage.name);
        text.push_str(&format!("Starting stage: {name}\n"));
        for report in ran(status).filter(|report| report.stage == stage.name) {
            let since = between(start, at(&report.started)) + took(report);
            let what = format!("{} {}", report.name, report.outcome.name());
            text.push_str(&format!("|`->{what} @{since:08.5}s +{:08.5}s\n", took(report)));
        }
        let spent = between(at(&stage.started), stage.finished.as_deref().and_then(at));
        total += spent;
        text.push_str(&format!("Finished stage: ({name}) {spent:08.5} seconds\n\n"));
    }
    text + &format!("Total Time: {total:.5} seconds\n\n1 boot records analyzed\n")
}

fn blame(status: &Status) -> String {
    let mut reports: Vec<&HandlerReport> = ran(status).collect();
    reports.sort_by_key(|report| std::cmp::Reverse(report.duration_ms));
    let line = |report: &&HandlerReport| {
        format!("     {:08.5}s ({}/{})\n", took(report), stage_name(report.stage), report.name)
    };
    let lines: String = reports.iter().map(line).collect();
    format!("-- Boot Record 01 --\n{lines}\n1 boot records analyzed\n")
}

fn events(status: &Status) -> Json {
    let event = |name: &str, kind: &str, at: Timestamp, result: Option<&str>| {
        let mut event = json!({
            "name": name,
            "description": name.rsplit('/').next(),
            "event_type": kind,
            "origin": "cloudinit",
            "timestamp": at.as_duration().as_secs_f64(),
        });
        if let Some(result) = result {
            event["result"] = result.into();
        }
        event
    };
    let mut events = Vec::new();
    for stage in &status.stages {
        let name = stage_name(stage.name);
        events.extend(at(&stage.started).map(|at| event(name, "start", at, None)));
        for report in ran(status).filter(|report| report.stage == stage.name) {
            let Some(began) = at(&report.started) else { continue };
            let name = format!("{name}/{}", report.name);
            let result = if report.outcome == OutcomeKind::Failed { "FAIL" } else { "SUCCESS" };
            events.push(event(&name, "start", began, None));
            let ended = began.checked_add(Duration::from_millis(report.duration_ms)).unwrap_or(began);
            events.push(event(&name, "finish", ended, Some(result)));
        }
        let ended = stage.finished.as_deref().and_then(at);
        events.extend(ended.map(|at| event(name, "finish", at, Some("SUCCESS"))));
    }
    Json::Array(events)
}

/// From the kernel's start to the agent's, by the clock of the kernel.
fn boot(system: &System, status: &Status) -> Result<String, String> {
    let stat = system.read_text("/proc/stat").map_err(|error| error.to_string())?;
    let kernel = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok());
    let kernel = kernel.and_then(|seconds| Timestamp::from_second(seconds).ok()).ok_or("/proc/stat has no btime")?;
    let asked = |args: &[&str]| {
        let command = Command::new("systemctl", Duration::from_secs(10)).args(args.iter().copied()).capture();
        let finished = system.run(&command).map_err(|error| error.to_string())?;
        let micros = finished.text().trim().parse::<u64>().ok().filter(|_| finished.success());
        micros.map(Duration::from_micros).ok_or_else(|| format!("systemctl does not tell: {}", args.join(" ")))
    };
    let ended = asked(&["show", "--value", "--property=UserspaceTimestampMonotonic"])?;
    let unit = ["show", "kiln-local.service", "--value", "--property=InactiveExitTimestampMonotonic"];
    let activated = asked(&unit)?;
    let show = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string();
    let after = |span: Duration| kernel.checked_add(span).map(show).unwrap_or_default();
    let start = status.started.as_deref().and_then(at).map(show).unwrap_or_default();
    Ok(format!(
        "-- Most Recent Boot Record --\n    Kernel Started at: {}\n    Kernel ended boot at: {}\n    \
         Kernel time to boot (seconds): {}\n    Cloud-init activated by systemd at: {}\n    \
         Time between Kernel end boot and Cloud-init activation (seconds): {}\n    Cloud-init start: {start}\n",
        show(kernel),
        after(ended),
        ended.as_secs_f64(),
        after(activated),
        activated.saturating_sub(ended).as_secs_f64(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    fn status() -> Status {
        let mut status: Status = serde_json::from_str(include_str!("../../../schema/fixtures/status-1.json")).unwrap();
        let start = status.started.clone().unwrap();
        for (index, report) in status.handlers.iter_mut().enumerate() {
            report.started = start.clone();
            report.duration_ms = 1500 * (index as u64 + 1);
        }
        status
    }

    #[test]
    fn the_longest_comes_first_and_every_stage_begins_and_ends() {
        let status = status();
        let blamed = blame(&status);
        let times: Vec<&str> =
            blamed.lines().filter(|line| line.starts_with("     ")).map(|line| &line[5..13]).collect();
        assert_eq!(times.len(), status.handlers.len());
        assert!(times.is_sorted_by(|a, b| a >= b) && times.contains(&"01.50000"), "{blamed}");
        let shown = show(&status);
        assert_eq!(shown.matches("Starting stage: ").count(), status.stages.len());
        assert_eq!(shown.matches("Finished stage: ").count(), status.stages.len());
        let events = events(&status);
        assert_eq!(events.as_array().unwrap().len() % 2, 0);
    }

    #[test]
    fn a_damaged_time_is_no_panic() {
        let mut status = status();
        for report in &mut status.handlers {
            report.started = "yesterday".to_owned();
            report.duration_ms = u64::MAX;
        }
        status.stages.iter_mut().for_each(|stage| stage.finished = Some("?".to_owned()));
        show(&status);
        blame(&status);
        events(&status);
    }

    #[test]
    fn a_machine_that_does_not_tell_when_it_started_is_named() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert!(boot(&system, &status()).unwrap_err().contains("/proc/stat"));
        system.write("/proc/stat", "cpu 1 2\n", FileOptions::default()).unwrap();
        assert_eq!(boot(&system, &status()).unwrap_err(), "/proc/stat has no btime");
    }
}
