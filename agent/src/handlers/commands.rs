//! What the status tells of commands of the user-data. Their text may hold passwords, so a command is
//! named by its place and its program alone.

use kiln_schema::status::Reason;
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

use super::{Failure, Handled, Outcome};
use crate::system::{Finished, RunError};

/// Lines that are kept of what a command said.
const LINES: usize = 5;
/// Characters that are kept of a line.
const LINE_CHARS: usize = 300;

/// A command, and how it ended.
pub struct Ran {
    /// What it is for a person: `command 3 (`mkdir`, line 7)`.
    pub label: String,
    /// What tells it apart in the detail: number, name, program, line.
    pub detail: Json,
    /// How it ended.
    pub ending: Result<Finished, RunError>,
}

/// The outcome of a list of `what` (`commands`), of which the last `not_run` never began. `unusable`
/// has a sentence for each that could not be read.
pub fn outcome(what: &str, ran: Vec<Ran>, unusable: Vec<String>, not_run: usize) -> Handled {
    let mut failures = Vec::new();
    let mut reason = Reason::Config;
    let mut records = Vec::new();
    let count = ran.len() + unusable.len() + not_run;
    for command in ran {
        let finished = match &command.ending {
            Ok(finished) => Some(finished),
            Err(RunError::Timeout(_, _, finished)) => Some(&**finished),
            Err(_) => None,
        };
        let mut record = record(command.detail, finished, command.ending.is_ok());
        if let (Err(error), None) = (&command.ending, finished) {
            record["error"] = json!(error.to_string());
        }
        records.push(record);
        if let Some(sentence) = failure(&command.label, &command.ending) {
            if failures.is_empty() {
                reason = match &command.ending {
                    Err(error) => super::reason_of(error),
                    Ok(_) => Reason::CommandFailed,
                };
            }
            failures.push(sentence);
        }
    }
    let ended_the_list = not_run > 0 && !failures.is_empty();
    failures.extend(unusable);
    let mut detail = json!({});
    detail[what] = json!(records);
    if not_run > 0 {
        detail["not_run"] = json!(not_run);
    }
    let Some(first) = failures.first() else { return Ok(Outcome::Ok(Some(detail))) };
    let mut message = match failures.len() {
        1 => first.clone(),
        many => format!("{many} of {count} {what} failed, the first: {first}"),
    };
    if ended_the_list {
        let last = if failures.len() == 1 { "it" } else { "the last that ran" };
        message.push_str(&format!("; {last} ended the list, so {not_run} more did not run"));
    }
    Err(Failure::new(reason, message).with_detail(detail))
}

/// What is told of one command: code, signal, time, last lines. A success has only its errors told: what
/// it printed may be a token that the next command takes.
fn record(mut detail: Json, finished: Option<&Finished>, in_time: bool) -> Json {
    let Some(finished) = finished else { return detail };
    detail["exit_code"] = json!(finished.code);
    if let Some(name) = finished.signal.and_then(signal_name) {
        detail["signal"] = json!(name);
    }
    detail["duration_ms"] = json!(u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX));
    if !in_time {
        detail["timed_out"] = json!(true);
    }
    detail["last_lines"] = json!(last_lines(finished, finished.success() && in_time));
    detail
}

/// The sentence for a command that failed.
fn failure(label: &str, ending: &Result<Finished, RunError>) -> Option<String> {
    let (how, finished) = match ending {
        Ok(finished) if finished.success() => return None,
        Ok(finished) => {
            let signal = finished.signal.filter(|_| finished.code.is_some()).and_then(signal_name);
            (finished.ending() + &signal.map_or(String::new(), |name| format!(" ({name})")), Some(finished))
        }
        Err(RunError::Timeout(_, after, finished)) => {
            (format!("did not end within {:.0} s and was killed", after.as_secs_f64()), Some(&**finished))
        }
        Err(RunError::Start(_, why)) => (format!("did not run: {why}"), None),
        Err(error) => (format!("did not run: {error}"), None),
    };
    let said = finished.and_then(|finished| last_lines(finished, false).pop());
    Some(format!("{label} {how}{}", said.map_or(String::new(), |line| format!(": {line}"))))
}

/// The last lines for a person. A shell's trace (`set -x`) shows arguments, so its lines are left out.
fn last_lines(finished: &Finished, errors_only: bool) -> Vec<String> {
    let traced = |line: &&str| line.trim_start_matches('+').starts_with(' ') && line.starts_with('+');
    let lines = |stream: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(stream);
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).filter(|l| !traced(l)).collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        last.iter().map(|line| line.trim_end().chars().take(LINE_CHARS).collect()).collect()
    };
    let errors = lines(&finished.stderr);
    if errors.is_empty() && !errors_only { lines(&finished.stdout) } else { errors }
}

fn signal_name(number: i32) -> Option<&'static str> {
    Signal::try_from(number).ok().map(Signal::as_str)
}

/// The program that a shell line starts, if it can be told without showing anything else of the line.
pub fn program(line: &str) -> Option<&str> {
    let first_line = line.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./+-".contains(c);
    for word in first_line.split_whitespace() {
        match word.split_once('=') {
            // A variable for one command; a quoted value may go on behind the blank.
            Some((_, value)) if !value.contains(['"', '\'', '`', '$', '\\']) => {}
            _ => return Some(word.trim_end_matches(';')).filter(|word| !word.is_empty() && word.chars().all(plain)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_and_never_an_argument() {
        for (line, name) in [
            ("systemctl start jetty", Some("systemctl")),
            ("# a comment\n\n  /opt/x/bin/run -p hunter2", Some("/opt/x/bin/run")),
            ("PASSWORD=hunter2 ./install", Some("./install")),
            ("PASSWORD='hunter2 x' ./install", None),
            ("PASSWORD=hunter2", None),
            ("\"$SECRET\" x", None),
            ("echo;ls", None),
            ("true;", Some("true")),
            ("", None),
        ] {
            assert_eq!(program(line), name, "{line}");
        }
    }

    #[test]
    fn a_shell_trace_is_not_told() {
        let finished = Finished {
            code: Some(1),
            signal: None,
            took: std::time::Duration::ZERO,
            stdout: b"out\n".to_vec(),
            stderr: b"+ echo hunter2\n++ hunter2\n+1 is told\nlast\n+ command echo 1\n".to_vec(),
        };
        assert_eq!(last_lines(&finished, false), ["+1 is told", "last"]);
    }
}
