//! The gate: whether an image may be made of this instance.
//!
//! It runs on the instance at the end of a bake. It opens the final stage ([`paths::PROVISIONED`]),
//! waits for the agent to finish, looks at everything that could be wrong, and leaves a folder that
//! tells the builder all of it. The report itself is written last, so a folder without one is one of
//! a gate that never came to its end.
//!
//! # Adding a check
//! One file with a function that gives a [`Check`], and one call in `look`.

mod evidence;
mod puppet;
mod status;
mod tap;
mod tests;
mod wait;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_schema::gate::{Check, CheckOutcome, Report, TestFile, Tests, files};
use kiln_schema::paths;

use crate::config::Config;
use crate::system::{FileOptions, System, on_termination};

/// What the gate is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long to wait for the agent, and then for each test file.
    pub timeout: Duration,
    /// Test files, and folders of them, beside those that the user-data names (`kiln.tests`).
    pub tests: Vec<String>,
    /// The folder that gets the report.
    pub report: String,
}

/// Opens the final stage, waits, looks, and writes the report. `tell` gets a line whenever there is
/// something new for a person who watches.
///
/// # Errors
/// When the report cannot be written: then nothing that was found can be told.
pub fn run(system: &System, options: &Options, tell: &(dyn Fn(&str) + Sync)) -> io::Result<Report> {
    system.make_dir(&options.report, 0o755, None)?;
    // A report of an earlier run must not stand for this one, however this one ends.
    system.remove(format!("{}/{}", options.report, files::REPORT))?;
    let draft = Draft::new(system, options);
    let on_signal = draft.clone();
    on_termination(move |signal| on_signal.interrupted(signal))?;
    look(system, options, &draft, tell)?;
    draft.finish()
}

fn look(system: &System, options: &Options, draft: &Draft, tell: &(dyn Fn(&str) + Sync)) -> io::Result<()> {
    system.write(paths::PROVISIONED, "", FileOptions::mode(0o644))?;
    let left = |left: Duration| format!("({} s left)", left.as_secs());
    let waited = wait::for_the_agent(system, options.timeout, &mut |doing, time| {
        tell(&format!("waiting for the agent: {doing} {}", left(time)));
        draft.doing(format!("it waited for the agent ({doing})"));
    })?;
    draft.add(status::check(&waited, options.timeout));
    draft.doing("it looked at puppet's last run".to_owned());
    draft.add(puppet::check(system, waited.status.as_ref().ok()));
    let done = waited.is_done();
    let mut tests = options.tests.clone();
    tests.extend(Config::of_instance(system).agent.kiln.tests);
    if tests.is_empty() {
        draft.add(skipped(tests::NAME, "no tests were asked for"));
    } else if done {
        let tested = tests::run_all(system, &tests, options.timeout, &mut |file| {
            tell(&format!("testing: {file} {}", left(options.timeout)));
            draft.doing(format!("it ran the tests in {file}"));
        });
        evidence::keep(system, &options.report, files::TESTS, &tested.printed)?;
        draft.tested(tested);
    } else {
        draft.add(skipped(tests::NAME, "the agent is not done, so there is nothing finished to test"));
    }
    draft.doing("it collected its evidence".to_owned());
    evidence::collect(system, &options.report, waited.status.as_ref().ok())
}

fn passed(name: &str, message: impl Into<String>) -> Check {
    Check { name: name.to_owned(), outcome: CheckOutcome::Passed, message: message.into() }
}

fn failed(name: &str, message: impl Into<String>) -> Check {
    Check { name: name.to_owned(), outcome: CheckOutcome::Failed, message: message.into() }
}

fn skipped(name: &str, message: impl Into<String>) -> Check {
    Check { name: name.to_owned(), outcome: CheckOutcome::Skipped, message: message.into() }
}

/// What is known so far, so that a gate that is interrupted can still tell it. Clones share it.
#[derive(Clone)]
struct Draft {
    system: System,
    folder: String,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    checks: Vec<Check>,
    tests: Tests,
    files: Vec<TestFile>,
    doing: String,
    written: bool,
}

impl Draft {
    fn new(system: &System, options: &Options) -> Self {
        Draft { system: system.clone(), folder: options.report.clone(), known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doing(&self, what: String) {
        self.known().doing = what;
    }

    fn add(&self, check: Check) {
        self.known().checks.push(check);
    }

    fn tested(&self, tested: tests::Tested) {
        let mut known = self.known();
        known.checks.push(tested.check);
        (known.tests, known.files) = (tested.counts, tested.files);
    }

    fn finish(&self) -> io::Result<Report> {
        self.write(&mut self.known())
    }

    fn interrupted(&self, signal: &str) {
        // Held until the process ends, so that the other thread cannot write a verdict after this one.
        let mut known = self.known();
        if !known.written {
            let message = format!("the gate was interrupted by {signal} while {}", known.doing);
            known.checks.push(failed("gate", message));
            // Who sent the signal does not wait for an answer.
            let _ = evidence::collect(&self.system, &self.folder, crate::report::current(&self.system).ok().as_ref());
            let _ = self.write(&mut known);
        }
    }

    fn write(&self, known: &mut Known) -> io::Result<Report> {
        let report = Report::new(known.checks.clone(), known.tests, known.files.clone());
        let mut text = serde_json::to_vec_pretty(&report)?;
        text.push(b'\n');
        let path = format!("{}/{}", self.folder, files::REPORT);
        self.system.write(path, text, FileOptions::mode(0o644).durable())?;
        known.written = true;
        Ok(report)
    }
}
