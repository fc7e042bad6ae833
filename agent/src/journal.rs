//! What ran, so that a crash at any point is known at the next start.
//!
//! One line of JSON an event, appended. A start is on the disk before the work begins; an end is there
//! with the next start, or when the stage ends: a power cut in between makes the next boot run that
//! handler again and say so. A line that a crash cut short is the last one and is passed over.

use std::collections::HashMap;
use std::io;

use jiff::Timestamp;
use kiln_schema::status::HandlerReport;
use serde::{Deserialize, Serialize};

use crate::system::{FileOptions, System, now};

#[derive(Serialize, Deserialize)]
struct Event {
    handler: String,
    boot_id: String,
    at: Timestamp,
    /// None when the handler starts, its report when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<HandlerReport>,
}

/// How the last run of a handler stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Last {
    /// It never ran.
    Never,
    /// It started and nothing more is known.
    Interrupted(Timestamp),
    /// It ended so.
    Ended(Box<HandlerReport>),
}

/// The journal of an instance, or of the handlers that run once.
pub struct Journal {
    system: System,
    path: String,
    last: HashMap<String, Last>,
    /// Why it cannot be read.
    unreadable: Option<String>,
    /// Its last line is not on the disk yet.
    unsettled: bool,
    /// Its last line was cut short by a crash; the next event must not be glued to it.
    torn: bool,
}

impl Journal {
    /// Reads a journal. One that is not there is empty; one that cannot be read takes no events, so that
    /// no handler runs on a guess.
    pub fn open(system: &System, path: String) -> Self {
        let text = match system.read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                let unreadable = (error.kind() != io::ErrorKind::NotFound).then(|| error.to_string());
                return Journal {
                    system: system.clone(),
                    path,
                    last: HashMap::new(),
                    unreadable,
                    unsettled: false,
                    torn: false,
                };
            }
        };
        let mut last = HashMap::new();
        for event in text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok()) {
            let state = match event.report {
                Some(report) => Last::Ended(Box::new(report)),
                None => Last::Interrupted(event.at),
            };
            last.insert(event.handler, state);
        }
        let torn = !text.is_empty() && !text.ends_with('\n');
        Journal { system: system.clone(), path, last, unreadable: None, unsettled: false, torn }
    }

    /// How the last run of a handler stands.
    pub fn last(&self, handler: &str) -> Last {
        self.last.get(handler).cloned().unwrap_or(Last::Never)
    }

    /// Says, before the work, that a handler starts.
    ///
    /// # Errors
    /// When it cannot be written; the handler must not run then, as nobody would know.
    pub fn started(&mut self, handler: &str) -> io::Result<()> {
        let at = now();
        self.add(Event { handler: handler.to_owned(), boot_id: self.system.boot_id(), at, report: None }, true)?;
        self.last.insert(handler.to_owned(), Last::Interrupted(at));
        Ok(())
    }

    /// Says how a handler ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn ended(&mut self, report: &HandlerReport) -> io::Result<()> {
        let handler = report.name.clone();
        let event = Event { handler, boot_id: self.system.boot_id(), at: now(), report: Some(report.clone()) };
        self.add(event, false)?;
        self.last.insert(report.name.clone(), Last::Ended(Box::new(report.clone())));
        Ok(())
    }

    /// Puts the last end on the disk.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn settle(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsettled) { self.system.sync(&self.path) } else { Ok(()) }
    }

    fn add(&mut self, event: Event, durable: bool) -> io::Result<()> {
        if let Some(error) = &self.unreadable {
            return Err(io::Error::other(error.clone()));
        }
        let mut line = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, &event)?;
        line.push(b'\n');
        let added = self.system.append(&self.path, &line, FileOptions { durable, ..FileOptions::mode(0o600) });
        self.unsettled = !durable;
        // A full disk may have taken a part of the line.
        self.torn = added.is_err();
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_schema::status::{OutcomeKind, Stage};

    fn report(name: &str) -> HandlerReport {
        HandlerReport {
            name: name.into(),
            stage: Stage::Init,
            outcome: OutcomeKind::Ok,
            best_effort: false,
            started: now().to_string(),
            duration_ms: 1,
            reason: None,
            message: None,
            detail: None,
        }
    }

    #[test]
    fn a_start_without_an_end_is_an_interruption() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let mut journal = Journal::open(&system, "/j".into());
        journal.started("a").unwrap();
        journal.ended(&report("a")).unwrap();
        journal.started("b").unwrap();
        let journal = Journal::open(&system, "/j".into());
        assert!(matches!(journal.last("a"), Last::Ended(_)));
        assert!(matches!(journal.last("b"), Last::Interrupted(_)));
        assert_eq!(journal.last("c"), Last::Never);
    }

    #[test]
    fn a_line_that_a_crash_cut_short_harms_nothing() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        Journal::open(&system, "/j".into()).started("a").unwrap();
        system.append("/j", b"{\"handler\":\"a\",\"rep", FileOptions::default()).unwrap();
        let mut journal = Journal::open(&system, "/j".into());
        assert!(matches!(journal.last("a"), Last::Interrupted(_)));
        journal.ended(&report("a")).unwrap();
        let journal = Journal::open(&system, "/j".into());
        assert!(matches!(journal.last("a"), Last::Ended(_)));
    }
}
