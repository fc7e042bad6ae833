//! The only caller of handlers: frequency, journal, timing, deadline, outcome.

use std::io;
use std::time::{Duration, Instant};

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::paths;
use kiln_schema::status::{HandlerReport, OutcomeKind, Reason, Stage};
use kiln_schema::yaml::Node;

use crate::context::Context;
use crate::handlers::{Failure, Frequency, Handled, Outcome, Prepared, Runnable};
use crate::journal::{Journal, Last};
use crate::report::Report;
use crate::system::{FileOptions, System, now};
use crate::worker::Worker;

/// After its deadline a handler has this long to come back; its commands and requests are ended by then.
const GRACE: Duration = Duration::from_secs(5);
/// What ends sooner was never seen running: a write of the status costs more than most handlers do.
const UNSEEN: Duration = Duration::from_millis(20);

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
    /// Idle between two handlers; none before the first, and after one that hung.
    worker: Option<Worker<Handled>>,
}

impl Runner {
    /// A runner on the journals of the context's instance.
    pub fn new(context: Context, report: Report, stage: Stage, deadline: Instant) -> Self {
        let system = context.system.clone();
        let folder = crate::report::instance_folder(&context.instance.id);
        let journal = Journal::open(&system, folder + "/journal.jsonl", stage);
        let once = Journal::open(&system, paths::ONCE_JOURNAL.to_owned(), stage);
        Runner { system, report, context, journal, once, stage, deadline, worker: None }
    }

    /// Runs one handler, if it is its turn, and writes what became of it.
    ///
    /// A handler whose start cannot be put on record does not run, and has failed: nobody would know of a crash.
    ///
    /// # Errors
    /// When the status cannot be written: then nothing that runs could be told.
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
            if !told {
                self.report.note(retold(earlier, report));
            }
            return Ok(());
        }
        self.report.note(report.clone());
        let recorded = self.journal_of(step.frequency).started(step.name);
        let handled = match (recorded, prepared.run) {
            (Err(error), _) => Err(unrecorded("start", error)),
            (Ok(()), Some(run)) => self.supervise(run)?,
            (Ok(()), None) => Err(unusable(prepared.diagnostics)),
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
        let note = match last {
            Last::Interrupted(at) => Some(format!("it was interrupted in an earlier run, begun {at}, and ran again")),
            Last::Unknown(at) => {
                Some(format!("an earlier run of this stage, begun {at}, was cut short, and this may have run in it"))
            }
            Last::Never | Last::Ended(_) => None,
        };
        if let Some(note) = note {
            let message = report.message.take();
            report.message = Some(message.map_or(note.clone(), |message| format!("{message}; {note}")));
        }
        let recorded = self.journal_of(step.frequency).ended(&report).and_then(|()| {
            let word = format!("{}\n", report.outcome.name());
            self.system.write(format!("{}/{}", paths::DATA, step.name), word, FileOptions::mode(0o644))
        });
        if let (Err(error), false) = (recorded, report.outcome == OutcomeKind::Failed) {
            let Failure { reason, message, .. } = unrecorded("end", error);
            report.outcome = OutcomeKind::Failed;
            report.reason = Some(reason.code().to_owned());
            report.message = Some(message);
        }
        log(&report);
        // The next handler that takes its time writes it, or the end of the stage.
        self.report.note(report);
        Ok(())
    }

    /// Leaves the handlers that are still to come at least so much time.
    pub fn reserve(&mut self, time: Duration) {
        self.deadline = self.deadline.max(Instant::now() + time);
    }

    /// Says in the journals that the stage has ended.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(&mut self) -> io::Result<()> {
        self.journal.close().and(self.once.close())
    }

    fn journal_of(&mut self, frequency: Frequency) -> &mut Journal {
        if frequency == Frequency::Once { &mut self.once } else { &mut self.journal }
    }

    /// Runs the work on another thread, so that a panic or a hang never stops the next handler.
    fn supervise(&mut self, run: Runnable) -> io::Result<Handled> {
        let deadline = self.deadline.min(Instant::now() + run.timeout);
        let mut context = self.context.clone();
        context.deadline = deadline;
        let allowed = deadline.saturating_duration_since(Instant::now());
        if allowed.is_zero() {
            let message = format!("the {} stage had used up its time before this handler's turn", self.stage.name());
            return Ok(Err(Failure::new(Reason::Timeout, message)));
        }
        let worker = match self.worker.take().map_or_else(Worker::start, Ok) {
            Ok(worker) => worker,
            Err(error) => return Ok(Err(error.into())),
        };
        worker.give(move || (run.work)(&mut context));
        let (handled, told) = match worker.wait(UNSEEN) {
            Some(handled) => (Some(handled), Ok(())),
            None => {
                let told = self.report.write();
                (worker.wait(allowed + GRACE - UNSEEN), told)
            }
        };
        told?;
        let Some(handled) = handled else {
            // The worker is left to what hangs, so that a late result is not taken for that of the next handler.
            let message = format!("it did not end within {:.0} s", allowed.as_secs_f64());
            return Ok(Err(Failure::new(Reason::Timeout, message)));
        };
        self.worker = Some(worker);
        Ok(handled.unwrap_or_else(|panic| Err(Failure::new(Reason::Panicked, panic_message(panic.as_ref())))))
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

fn unusable(findings: Vec<Diagnostic>) -> Failure {
    let error = findings.iter().find(|d| d.severity == Severity::Error);
    let message = error.map_or_else(|| "its configuration cannot be used".to_owned(), ToString::to_string);
    Failure::new(Reason::Config, message)
}

fn unrecorded(what: &str, error: io::Error) -> Failure {
    let failure = Failure::from(error);
    Failure { message: format!("its {what} could not be recorded: {}", failure.message), ..failure }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::datasources::Instance;
    use crate::handlers::Frequency::{Boot, Instance as PerInstance};

    /// A tree that boots, with as many handlers as a test gives it.
    struct Tree<'a> {
        root: &'a std::path::Path,
        instance: &'a str,
    }

    /// A handler's name, frequency and work.
    type Scripted<'a> = (&'a str, Frequency, fn() -> Handled);

    impl Tree<'_> {
        fn run(&self, steps: &[Scripted<'_>]) -> Vec<HandlerReport> {
            let system = System::new(self.root);
            // Every run is a boot of its own.
            system.remove(paths::STATUS).unwrap();
            let report = Report::begin(&system);
            let instance = Arc::new(Instance::new("test", self.instance));
            let config = Arc::new(Node::empty_map(kiln_schema::yaml::Place::whole("user-data")));
            let context = Context::new(system, instance, config, Arc::new([]), report.clone());
            let mut runner =
                Runner::new(context, report.clone(), Stage::Init, Instant::now() + Duration::from_secs(60));
            for (name, frequency, work) in steps {
                let work = *work;
                let prepare = Box::new(move |_: &Node| Prepared {
                    diagnostics: Vec::new(),
                    run: Some(Runnable {
                        best_effort: false,
                        timeout: Duration::from_secs(30),
                        work: Box::new(move |_| work()),
                    }),
                });
                runner.step(&Step { name, frequency: *frequency, prepare }).unwrap();
            }
            report.snapshot().handlers
        }
    }

    fn good() -> Handled {
        Ok(Outcome::Ok(None))
    }

    fn bad() -> Handled {
        Err(Failure::new(Reason::Io, "the cause"))
    }

    #[test]
    fn a_panic_is_a_failure_and_the_next_handler_runs() {
        let tree = tempfile::tempdir().unwrap();
        let boot = Tree { root: tree.path(), instance: "i-1" };
        let handlers = boot.run(&[("panics", PerInstance, || panic!("oh no")), ("next", PerInstance, good)]);
        assert_eq!(handlers[0].reason.as_deref(), Some("panicked"));
        assert!(handlers[0].message.as_deref().unwrap().contains("oh no"));
        assert_eq!(handlers[1].outcome, OutcomeKind::Ok);
        let word = System::new(tree.path()).read_text(paths::DATA.to_owned() + "/panics").unwrap();
        assert_eq!(word, "failed\n");
    }

    #[test]
    fn a_stage_that_used_up_its_time_leaves_some_to_those_that_tell() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "{}");
        let report = Report::begin(&context.system);
        let mut runner = Runner::new(context, report.clone(), Stage::Final, Instant::now());
        let step = |name| {
            let run = || Runnable { best_effort: true, timeout: Duration::from_secs(30), work: Box::new(|_| good()) };
            Step {
                name,
                frequency: Boot,
                prepare: Box::new(move |_: &Node| Prepared { diagnostics: Vec::new(), run: Some(run()) }),
            }
        };
        runner.step(&step("late")).unwrap();
        runner.reserve(Duration::from_secs(30));
        runner.step(&step("tells")).unwrap();
        let handlers = report.snapshot().handlers;
        assert_eq!(handlers[0].reason.as_deref(), Some("timeout"));
        assert_eq!(handlers[1].outcome, OutcomeKind::Ok);
    }

    #[test]
    fn a_later_boot_tells_a_failure_again_and_runs_it_for_a_new_instance_only() {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        fn counted() -> Handled {
            RUNS.fetch_add(1, Ordering::SeqCst);
            bad()
        }
        let tree = tempfile::tempdir().unwrap();
        let first = Tree { root: tree.path(), instance: "i-1" };
        first.run(&[("fails", PerInstance, counted)]);
        let again = first.run(&[("fails", PerInstance, counted)]);
        assert_eq!((again[0].outcome, again[0].reason.as_deref()), (OutcomeKind::Failed, Some("io")));
        assert!(again[0].message.as_deref().unwrap().starts_with("the cause (at an earlier boot, "));
        assert_eq!(RUNS.load(Ordering::SeqCst), 1);
        Tree { root: tree.path(), instance: "i-2" }.run(&[("fails", PerInstance, counted)]);
        assert_eq!(RUNS.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_handler_of_every_boot_runs_again_and_one_of_the_instance_says_that_it_ran() {
        let tree = tempfile::tempdir().unwrap();
        let boot = Tree { root: tree.path(), instance: "i-1" };
        let steps: [Scripted<'_>; 2] = [("every", Boot, good), ("once", PerInstance, good)];
        boot.run(&steps);
        let handlers = boot.run(&steps);
        assert_eq!(handlers[0].outcome, OutcomeKind::Ok);
        assert_eq!((handlers[1].outcome, handlers[1].reason.as_deref()), (OutcomeKind::Skipped, Some("ran-before")));
    }

    #[test]
    fn a_handler_that_was_killed_runs_again_and_says_so() {
        let tree = tempfile::tempdir().unwrap();
        let journal = crate::report::instance_folder("i-1") + "/journal.jsonl";
        Journal::open(&System::new(tree.path()), journal, Stage::Init).started("killed").unwrap();
        let handlers = Tree { root: tree.path(), instance: "i-1" }.run(&[("killed", PerInstance, good)]);
        assert_eq!(handlers[0].outcome, OutcomeKind::Ok);
        assert!(handlers[0].message.as_deref().unwrap().contains("interrupted"));
    }

    #[test]
    fn a_handler_whose_start_cannot_be_recorded_does_not_run() {
        let tree = tempfile::tempdir().unwrap();
        let journal = crate::report::instance_folder("i-1") + "/journal.jsonl";
        System::new(tree.path()).make_dir(&journal, 0o755, None).unwrap();
        let handlers =
            Tree { root: tree.path(), instance: "i-1" }.run(&[("blind", PerInstance, || panic!("it must not run"))]);
        assert_eq!((handlers[0].outcome, handlers[0].reason.as_deref()), (OutcomeKind::Failed, Some("io")));
        assert!(handlers[0].message.as_deref().unwrap().contains("could not be recorded"));
    }
}
