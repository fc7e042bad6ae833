//! What ran, so that a crash at any point is known at the next start.
//!
//! One line of JSON an event, appended. A killed agent loses none of them. Against a power cut, a wait
//! for the disk at every event would cost a boot more than all its work, so there are two waits a
//! stage: that it runs is on the disk before its first handler is, and all of it when it has ended.
//! What a stage without an end has no record of may have run in it: it runs again, and says so. A line
//! that a crash cut short is the last one and is passed over.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

use jiff::Timestamp;
use kiln_schema::status::{HandlerReport, Stage};
use serde::{Deserialize, Serialize};

use crate::system::{Appended, FileOptions, System, now};

/// A line of the file: of a handler, or of the stage.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    handler: Option<Cow<'a, str>>,
    /// That has begun, or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    boot_id: Cow<'a, str>,
    at: Timestamp,
    /// The stage has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<bool>,
    /// Of a handler that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Cow<'a, HandlerReport>>,
}

impl<'a> Line<'a> {
    fn of_handler(handler: &'a str, boot_id: &'a str, at: Timestamp, report: Option<&'a HandlerReport>) -> Self {
        let (handler, report) = (Some(Cow::Borrowed(handler)), report.map(Cow::Borrowed));
        Line { handler, stage: None, boot_id: Cow::Borrowed(boot_id), at, ended: None, report }
    }

    fn of_stage(stage: Stage, boot_id: &'a str, at: Timestamp, ended: bool) -> Self {
        let (stage, ended) = (Some(stage), Some(ended));
        Line { handler: None, stage, boot_id: Cow::Borrowed(boot_id), at, ended, report: None }
    }
}

/// How the last run of a handler stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Last {
    /// It never ran.
    Never,
    /// It started and nothing more is known.
    Interrupted(Timestamp),
    /// Its stage, which began then, was cut short, and it may have run in it.
    Unknown(Timestamp),
    /// It ended so.
    Ended(Box<HandlerReport>),
}

/// The journal of an instance, or of the handlers that run once, for one run of one stage.
pub struct Journal {
    system: System,
    path: String,
    /// The file, open from the first event on.
    file: Option<Appended>,
    stage: Stage,
    last: HashMap<String, Last>,
    /// When an earlier run of the stage began that never ended.
    cut_short: Option<Timestamp>,
    /// This run of the stage is on record.
    begun: bool,
    /// Why it cannot be read.
    unreadable: Option<String>,
    /// Its last line was cut short by a crash; the next event must not be glued to it.
    torn: bool,
}

impl Journal {
    /// Reads a journal. One that is not there is empty; one that cannot be read takes no events, so that
    /// no handler runs on a guess.
    pub fn open(system: &System, path: String, stage: Stage) -> Self {
        let (file, last, cut_short, begun, unreadable, torn) = Default::default();
        let mut journal =
            Journal { system: system.clone(), path, file, stage, last, cut_short, begun, unreadable, torn };
        match system.read(&journal.path) {
            Ok(bytes) => journal.take_in(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => journal.unreadable = Some(error.to_string()),
        }
        journal
    }

    fn take_in(&mut self, text: &str) {
        for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            let Line { handler, stage, at, ended, report, .. } = line;
            match (handler, stage) {
                (Some(handler), _) => {
                    let ended = report.map(|report| Last::Ended(Box::new(report.into_owned())));
                    self.last.insert(handler.into_owned(), ended.unwrap_or(Last::Interrupted(at)));
                }
                (None, Some(stage)) if stage == self.stage && ended.is_some() => {
                    self.cut_short = (ended == Some(false)).then_some(at);
                }
                _ => {}
            }
        }
        self.torn = !text.is_empty() && !text.ends_with('\n');
    }

    /// How the last run of a handler of the stage stands.
    pub fn last(&self, handler: &str) -> Last {
        let unknown = || self.cut_short.map_or(Last::Never, Last::Unknown);
        self.last.get(handler).cloned().unwrap_or_else(unknown)
    }

    /// Says, before the work, that a handler starts.
    ///
    /// # Errors
    /// When it cannot be written; the handler must not run then, as nobody would know.
    pub fn started(&mut self, handler: &str) -> io::Result<()> {
        let at = now();
        let system = self.system.clone();
        let boot_id = system.boot_id();
        let first = !self.begun;
        let mark = first.then(|| Line::of_stage(self.stage, boot_id, at, false));
        self.add(mark.into_iter().chain([Line::of_handler(handler, boot_id, at, None)]), first)?;
        self.begun = true;
        self.last.insert(handler.to_owned(), Last::Interrupted(at));
        Ok(())
    }

    /// Says how a handler ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn ended(&mut self, report: &HandlerReport) -> io::Result<()> {
        let system = self.system.clone();
        self.add([Line::of_handler(&report.name, system.boot_id(), now(), Some(report))], false)?;
        self.last.insert(report.name.clone(), Last::Ended(Box::new(report.clone())));
        Ok(())
    }

    /// Says that the stage has ended, and waits until all of it is on the disk. Nothing ran, nothing is said.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn close(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.begun) {
            return Ok(());
        }
        let system = self.system.clone();
        self.add([Line::of_stage(self.stage, system.boot_id(), now(), true)], true)
    }

    fn add<'l>(&mut self, lines: impl IntoIterator<Item = Line<'l>>, durable: bool) -> io::Result<()> {
        if let Some(error) = &self.unreadable {
            return Err(io::Error::other(error.clone()));
        }
        let mut text = if self.torn { vec![b'\n'] } else { Vec::new() };
        for line in lines {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(self.system.open_to_append(&self.path, FileOptions::mode(0o600))?),
        };
        let added = file.add(&text, durable);
        // A full disk may have taken a part of the line.
        self.torn = added.is_err();
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_schema::status::OutcomeKind;

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
        let mut journal = Journal::open(&system, "/j".into(), Stage::Init);
        journal.started("a").unwrap();
        journal.ended(&report("a")).unwrap();
        journal.started("b").unwrap();
        let journal = Journal::open(&system, "/j".into(), Stage::Init);
        assert!(matches!(journal.last("a"), Last::Ended(_)));
        assert!(matches!(journal.last("b"), Last::Interrupted(_)));
        assert!(matches!(journal.last("c"), Last::Unknown(_)));
    }

    #[test]
    fn a_line_that_a_crash_cut_short_harms_nothing() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        Journal::open(&system, "/j".into(), Stage::Init).started("a").unwrap();
        system.append("/j", b"{\"handler\":\"a\",\"rep", FileOptions::default()).unwrap();
        let mut journal = Journal::open(&system, "/j".into(), Stage::Init);
        assert!(matches!(journal.last("a"), Last::Interrupted(_)));
        journal.ended(&report("a")).unwrap();
        let journal = Journal::open(&system, "/j".into(), Stage::Init);
        assert!(matches!(journal.last("a"), Last::Ended(_)));
    }

    #[test]
    fn what_a_cut_stage_has_no_record_of_may_have_run() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let open = |stage| Journal::open(&system, "/j".into(), stage);
        let mut whole = open(Stage::Final);
        whole.started("a").unwrap();
        whole.ended(&report("a")).unwrap();
        whole.close().unwrap();
        assert_eq!(open(Stage::Final).last("b"), Last::Never);

        // As after a power cut that took what came after the first start.
        open(Stage::Init).started("c").unwrap();
        assert!(matches!(open(Stage::Init).last("c"), Last::Interrupted(_)));
        assert!(matches!(open(Stage::Init).last("d"), Last::Unknown(_)));
        assert_eq!(open(Stage::Final).last("d"), Last::Never);
    }

    #[test]
    fn a_stage_in_which_nothing_ran_leaves_no_trace() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        Journal::open(&system, "/j".into(), Stage::Init).close().unwrap();
        assert!(!system.exists("/j"));
    }
}
