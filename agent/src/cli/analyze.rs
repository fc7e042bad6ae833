//! `kiln-agent analyze`: where the time of this boot went.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use kiln_schema::duration::show;
use kiln_schema::status::{HandlerReport, OutcomeKind, Stage, State, Status};
use serde::Serialize;

use super::print::{Format, columns, complain, say, say_json};
use crate::report::current;
use crate::system::System;

/// Characters of a bar that stands for the whole boot.
const BAR: u64 = 40;

/// A year: a longer time is a damaged status, and sums of it must not run over.
const LONGEST_MS: u64 = 31_536_000_000;

/// Arguments of `analyze`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Exit codes:
  0  told
  1  the status cannot be read, or nothing has run at this boot
 64  the command line cannot be understood")]
pub struct Args {
    /// Print `text` for a person, or `json`, the numbers, for a program
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    format: Format,
}

/// A part of the boot; times in milliseconds.
#[derive(Serialize)]
struct Part {
    name: String,
    stage: Stage,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeKind>,
    /// From the start of the boot; none if the status does not tell.
    begins_ms: Option<u64>,
    took_ms: u64,
    /// Of the whole boot.
    percent: u64,
}

/// Where the time went.
#[derive(Serialize)]
struct Analysis {
    state: State,
    instance_id: Option<String>,
    started: Option<String>,
    /// From the start of the first stage to the end of the last, or till now.
    total_ms: u64,
    /// Each from its first handler to the end of its last.
    stages: Vec<Part>,
    /// The longest first.
    handlers: Vec<Part>,
    /// In no handler: between the stages, reading the documents, asking the datasource.
    outside_ms: u64,
}

/// Prints the analysis.
pub fn run(system: &System, args: &Args) -> ExitCode {
    let status = match current(system) {
        Ok(status) if status.started.is_some() => status,
        Ok(status) => {
            complain(&format!("nothing has run at this boot: the state is {}", status.state.name()));
            return ExitCode::FAILURE;
        }
        Err(sentence) => {
            complain(&sentence);
            return ExitCode::FAILURE;
        }
    };
    let analysis = analyze(&status, Timestamp::now());
    match args.format {
        Format::Json => say_json(&analysis),
        Format::Text => say(&text(&analysis)),
    }
    ExitCode::SUCCESS
}

fn analyze(status: &Status, now: Timestamp) -> Analysis {
    let time = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
    let start = time(&status.started);
    let since = |from: Option<Timestamp>, to: Timestamp| {
        let span = from.map_or(0, |from| to.duration_since(from).as_millis());
        u64::try_from(span).unwrap_or(0).min(LONGEST_MS)
    };
    let begins = |report: &HandlerReport| {
        let began = report.started.parse::<Timestamp>().ok().filter(|began| start.is_some_and(|start| *began >= start));
        began.map(|began| since(start, began))
    };
    let handlers = status.handlers.iter().map(|report| {
        let begins_ms = begins(report);
        // A report of an earlier boot that is told again took no time of this one.
        let took_ms = match report.outcome {
            _ if begins_ms.is_none() => 0,
            OutcomeKind::Running => since(report.started.parse().ok(), now),
            _ => report.duration_ms.min(LONGEST_MS),
        };
        Part {
            name: report.name.clone(),
            stage: report.stage,
            outcome: Some(report.outcome),
            begins_ms,
            took_ms,
            percent: 0,
        }
    });
    let mut handlers: Vec<Part> = handlers.collect();
    let last = handlers.iter().filter_map(|part| Some(part.begins_ms? + part.took_ms)).max().unwrap_or(0);
    // Clocks are set during a boot: the whole is never shorter than its parts.
    let total_ms = since(start, time(&status.finished).unwrap_or(now)).max(last);
    let stages = Stage::ALL.into_iter().filter_map(|stage| {
        let of_stage = || handlers.iter().filter(move |part| part.stage == stage);
        let begins_ms = of_stage().filter_map(|part| part.begins_ms).min()?;
        let ends = of_stage().filter_map(|part| Some(part.begins_ms? + part.took_ms)).max()?;
        let name = stage.name().to_owned();
        Some(Part { name, stage, outcome: None, begins_ms: Some(begins_ms), took_ms: ends - begins_ms, percent: 0 })
    });
    let mut stages: Vec<Part> = stages.collect();
    for part in stages.iter_mut().chain(&mut handlers) {
        part.percent = (part.took_ms * 100).checked_div(total_ms).unwrap_or(0);
    }
    handlers.sort_by_key(|part| std::cmp::Reverse(part.took_ms));
    let inside: u64 = handlers.iter().map(|part| part.took_ms).sum();
    Analysis {
        state: status.state,
        instance_id: status.instance_id.clone(),
        started: status.started.clone(),
        total_ms,
        stages,
        handlers,
        outside_ms: total_ms.saturating_sub(inside),
    }
}

fn text(analysis: &Analysis) -> String {
    let milliseconds = |ms: u64| show(Duration::from_millis(ms));
    let row = |part: &Part| {
        let begins = part.begins_ms.map_or("earlier".to_owned(), |ms| format!("+{}", milliseconds(ms)));
        let outcome = part.outcome.map_or("", OutcomeKind::name);
        let stage = if part.outcome.is_some() { part.stage.name() } else { "" };
        let cells = [&part.name, stage, outcome, &begins, &milliseconds(part.took_ms), &format!("{}%", part.percent)];
        let mut row: Vec<String> = cells.map(str::to_owned).to_vec();
        row.push(bar(part, analysis.total_ms));
        row
    };
    let id = analysis.instance_id.as_deref().unwrap_or("an unknown instance");
    let total = milliseconds(analysis.total_ms);
    let mut text = format!(
        "{id}: {} after {total}, begun {}\n",
        analysis.state.name(),
        analysis.started.as_deref().unwrap_or("at an unknown time")
    );
    let head = |name: &str| [name, "", "", "BEGINS", "TOOK", "SHARE", ""].map(str::to_owned).to_vec();
    let mut rows = vec![head("STAGE")];
    rows.extend(analysis.stages.iter().map(row));
    rows.push(head("HANDLER"));
    rows.extend(analysis.handlers.iter().map(row));
    text.push_str(&columns(&rows, ""));
    let share = (analysis.outside_ms * 100).checked_div(analysis.total_ms).unwrap_or(0);
    text.push_str(&format!("{} ({share}%) passed outside of handlers\n", milliseconds(analysis.outside_ms)));
    text
}

/// A bar at the part's place in the boot. Whatever took time has at least one mark.
fn bar(part: &Part, total_ms: u64) -> String {
    let (Some(begins), true) = (part.begins_ms, part.took_ms > 0 && total_ms > 0) else {
        return String::new();
    };
    let cells = |ms: u64| ms * BAR / total_ms;
    let lead = cells(begins).min(BAR - 1);
    let marks = cells(part.took_ms).clamp(1, BAR - lead);
    let repeat = |mark: &str, times: u64| mark.repeat(usize::try_from(times).unwrap_or(0));
    repeat(" ", lead) + &repeat("#", marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Status {
        serde_json::from_str(include_str!("../../schema/fixtures/status-1.json")).unwrap()
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        let analysis = analyze(&golden(), Timestamp::UNIX_EPOCH);
        assert_eq!(analysis.total_ms, 4750);
        let names: Vec<_> = analysis.handlers.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["puppet", "phone_home", "hostname"]);
        assert_eq!(analysis.handlers[0].percent, 80);
        assert_eq!(analysis.handlers.iter().map(|p| p.took_ms).sum::<u64>() + analysis.outside_ms, 4750);
        assert_eq!(analysis.stages.iter().map(|p| p.took_ms).collect::<Vec<_>>(), [2, 3855]);
    }

    #[test]
    fn strange_times_are_no_reason_to_fall_over() {
        let mut status = golden();
        status.started = Some("2030-01-01T00:00:00Z".into());
        status.handlers[0].started = "yesterday".into();
        status.handlers[1].duration_ms = u64::MAX;
        let analysis = analyze(&status, Timestamp::UNIX_EPOCH);
        assert_eq!((analysis.total_ms, analysis.handlers[0].begins_ms), (0, None));
        assert!(text(&analysis).contains("earlier"));
    }

    #[test]
    fn a_running_handler_counts_till_now() {
        let mut status = golden();
        status.finished = None;
        status.handlers.pop();
        status.handlers[1].outcome = OutcomeKind::Running;
        status.handlers[1].duration_ms = 0;
        let analysis = analyze(&status, "2026-11-24T05:00:11.010Z".parse().unwrap());
        assert_eq!((analysis.total_ms, analysis.handlers[0].took_ms), (10_890, 10_000));
    }
}
