//! The only caller of handlers: frequency, journal, timing, deadline, outcome.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use kiln_schema::diagnostic::Severity;
use kiln_schema::paths;
use kiln_schema::status::{HandlerReport, OutcomeKind, Reason, Stage};
use kiln_schema::yaml::Node;

use crate::context::Context;
use crate::handlers::{Failure, Frequency, Handled, Outcome, Prepared, Runnable};
use crate::journal::{Journal, Last};
use crate::report::Report;
use crate::system::{FileOptions, System, now};

/// After its deadline a handler has this long to come back; its commands and requests are ended by then.
const GRACE: Duration = Duration::from_secs(5);

/// A handler in the order of the boot, built-in or external.
pub struct Step<'a> {
    /// Name in the status.
    pub name: &'a str,
    /// How often it runs.
    pub frequency: Frequency,
    /// Reads the configuration.
    pub prepare: Box<dyn Fn(&Node) -> Prepared + 'a>,
}

/// Runs the handlers of a stage and reports each.
pub struct Runner {
    system: System,
    report: Report,
    context: Context,
    /// Of this instance.
    journal: Journal,
    /// Of handlers that run once in the life of a disk.
    once: Journal,
    stage: Stage,
    /// When the stage must have ended.
    deadline: Instant,
}

impl Runner {
    /// A runner with its journals open.
    ///
    /// # Errors
    /// When a journal cannot be read.
    pub fn new(context: Context, report: Report, stage: Stage, deadline: Instant) -> io::Result<Self> {
        let system = context.system.clone();
        let folder = crate::report::instance_folder(&context.instance.id);
        system.make_dir(&folder, 0o755, None)?;
        let journal = Journal::open(&system, folder + "/journal.jsonl")?;
        let once = Journal::open(&system, paths::ONCE_JOURNAL.to_owned())?;
        Ok(Runner { system, report, context, journal, once, stage, deadline })
    }

    /// Runs one handler, if it is its turn, and writes what became of it.
    ///
    /// # Errors
    /// When the status or the journal cannot be written: then nothing that runs could be told.
    pub fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let started = now();
        let clock = Instant::now();
        let prepared = (step.prepare)(&self.context.config.clone());
        let best_effort = prepared.run.as_ref().is_some_and(|run| run.best_effort);
        let last = self.journal_of(step.frequency).last(step.name);
        let mut report = HandlerReport {
            name: step.name.to_owned(),
            stage: self.stage,
            outcome: OutcomeKind::Running,
            best_effort,
            started: started.to_string(),
            duration_ms: 0,
            reason: None,
            message: None,
            detail: None,
        };
        if let (Last::Ended(earlier), true) = (&last, step.frequency != Frequency::Boot) {
            let told = self.context.status_so_far().handlers.iter().any(|h| h.name == step.name);
            // A stage that runs twice in one boot has nothing to add.
            return if told { Ok(()) } else { self.report.handler(retold(earlier, report)) };
        }
        self.report.handler(report.clone())?;
        self.journal_of(step.frequency).started(step.name)?;
        let handled = match prepared.run {
            Some(run) => self.supervise(run),
            None => Err(unusable(&prepared)),
        };
        report.duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        match handled {
            Ok(Outcome::Ok(detail)) => {
                report.outcome = OutcomeKind::Ok;
                report.detail = detail;
            }
            Ok(Outcome::Skipped(reason, message)) => {
                report.outcome = OutcomeKind::Skipped;
                report.reason = Some(reason.code().to_owned());
                report.message = Some(message);
            }
            Ok(Outcome::Failed(failure)) | Err(failure) => {
                report.outcome = OutcomeKind::Failed;
                report.reason = Some(failure.reason.code().to_owned());
                report.message = Some(failure.message);
                report.detail = failure.detail;
            }
        }
        if let Last::Interrupted(at) = last {
            let note = format!("it was interrupted in an earlier run, begun {at}, and ran again");
            let message = report.message.take();
            report.message = Some(message.map_or(note.clone(), |message| format!("{message}; {note}")));
        }
        log(&report);
        self.journal_of(step.frequency).ended(&report)?;
        self.report.handler(report.clone())?;
        let word = format!("{}\n", report.outcome.name());
        self.system.write(format!("{}/{}", paths::DATA, step.name), word, FileOptions::mode(0o644))
    }

    fn journal_of(&mut self, frequency: Frequency) -> &mut Journal {
        if frequency == Frequency::Once { &mut self.once } else { &mut self.journal }
    }

    /// Runs the work on a thread of its own, so that a panic or a hang never stops the next handler.
    fn supervise(&self, run: Runnable) -> Handled {
        let deadline = self.deadline.min(Instant::now() + run.timeout);
        let mut context = self.context.clone();
        context.deadline = deadline;
        let allowed = deadline.saturating_duration_since(Instant::now());
        if allowed.is_zero() {
            let message = format!("the {} stage had used up its time before this handler's turn", self.stage.name());
            return Err(Failure::new(Reason::Timeout, message));
        }
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            let handled = catch_unwind(AssertUnwindSafe(|| (run.work)(&mut context)));
            let _ = sender.send(handled);
        };
        std::thread::Builder::new().name("handler".to_owned()).spawn(work)?;
        match receiver.recv_timeout(allowed + GRACE) {
            Ok(Ok(handled)) => handled,
            Ok(Err(panic)) => Err(Failure::new(Reason::Panicked, panic_message(panic.as_ref()))),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let message = format!("it did not end within {:.0} s", allowed.as_secs_f64());
                Err(Failure::new(Reason::Timeout, message))
            }
        }
    }
}

/// What is said at a later boot of a handler whose turn has passed: a success is skipped, a failure
/// is told again until the handler succeeds or its state is cleaned.
fn retold(earlier: &HandlerReport, now: HandlerReport) -> HandlerReport {
    if earlier.outcome == OutcomeKind::Failed {
        let message = earlier.message.as_deref().unwrap_or("failed");
        let message = format!("{message} (at an earlier boot, {})", earlier.started);
        return HandlerReport { message: Some(message), stage: now.stage, ..earlier.clone() };
    }
    HandlerReport {
        outcome: OutcomeKind::Skipped,
        reason: Some(Reason::RanBefore.code().to_owned()),
        message: Some(format!("{} at an earlier boot, {}", earlier.outcome.name(), earlier.started)),
        ..now
    }
}

fn unusable(prepared: &Prepared) -> Failure {
    let error = prepared.diagnostics.iter().find(|d| d.severity == Severity::Error);
    let message = error.map_or_else(|| "its configuration cannot be used".to_owned(), ToString::to_string);
    Failure::new(Reason::Config, message)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a bug in this handler: {}; please report it", text.as_deref().unwrap_or("panicked"))
}

fn log(report: &HandlerReport) {
    let message = report.message.as_deref().unwrap_or("");
    let reason = report.reason.as_deref().unwrap_or("");
    match report.outcome {
        OutcomeKind::Failed => {
            tracing::error!(
                handler = report.name,
                reason,
                ms = report.duration_ms,
                "{} failed: {message}",
                report.name
            );
        }
        outcome => {
            tracing::info!(
                handler = report.name,
                ms = report.duration_ms,
                "{} {} {message}",
                report.name,
                outcome.name()
            );
        }
    }
}
