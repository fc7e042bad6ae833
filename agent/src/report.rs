//! The status of this boot in memory, written out at every change that somebody may wait for.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::paths;
use kiln_schema::status::{HandlerReport, OutcomeKind, Reason, Stage, StageReport, State, Status};

use crate::system::{Command, FileOptions, System, now};

/// The one writer of the status file. Clones share the status.
#[derive(Clone)]
pub struct Report {
    system: System,
    status: Arc<Mutex<Status>>,
    last_act: Arc<Mutex<Option<LastAct>>>,
    /// Changes go to the file.
    written: bool,
}

/// What the agent does when everything is told: it takes the machine down.
pub struct LastAct {
    /// The handler that asked for it.
    pub handler: &'static str,
    /// How it is done.
    pub command: Command,
}

impl Report {
    /// Takes up the status of this boot where an earlier stage left it, or begins a new one.
    pub fn begin(system: &System) -> Self {
        let boot_id = system.boot_id();
        let fresh = || Status::new(env!("CARGO_PKG_VERSION"), boot_id);
        let status = read(system).filter(|status| status.boot_id == boot_id).unwrap_or_else(fresh);
        Report { system: system.clone(), status: Arc::new(Mutex::new(status)), last_act: Arc::default(), written: true }
    }

    /// The status of this boot for work outside of it, whose reports never reach the file.
    pub fn apart(system: &System) -> Self {
        Report { written: false, ..Self::begin(system) }
    }

    /// Keeps what is to be done when everything is told.
    pub fn do_last(&self, act: LastAct) {
        *self.last_act.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(act);
    }

    /// What was kept, once.
    pub fn take_last_act(&self) -> Option<LastAct> {
        self.last_act.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// The status as it stands.
    pub fn snapshot(&self) -> Status {
        self.locked().clone()
    }

    /// Something of the status as it stands, where a copy of all of it is not needed.
    pub fn look<T>(&self, at: impl FnOnce(&Status) -> T) -> T {
        at(&self.locked())
    }

    /// Changes the status and writes it out.
    ///
    /// # Errors
    /// When /run cannot be written.
    pub fn update(&self, change: impl FnOnce(&mut Status)) -> io::Result<()> {
        self.change(change).map(drop)
    }

    /// The same, and gives what was written.
    fn change(&self, change: impl FnOnce(&mut Status)) -> io::Result<Vec<u8>> {
        let mut status = self.locked();
        change(&mut status);
        if !self.written {
            return Ok(Vec::new());
        }
        let mut text = serde_json::to_vec(&*status)?;
        text.push(b'\n');
        self.system.write(paths::STATUS, &text, FileOptions::mode(0o644))?;
        Ok(text)
    }

    /// Changes the status; the next write takes it to the file.
    pub fn amend(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.locked());
    }

    /// Writes out what was noted.
    ///
    /// # Errors
    /// When /run cannot be written.
    pub fn write(&self) -> io::Result<()> {
        self.update(|_| ())
    }

    /// Puts a handler's report in the place of its earlier one, or at the end. The next change or
    /// [`write`](Self::write) takes it to the file.
    pub fn note(&self, report: HandlerReport) {
        let handlers = &mut self.locked().handlers;
        match handlers.iter_mut().find(|h| h.name == report.name) {
            Some(earlier) => *earlier = report,
            None => handlers.push(report),
        }
    }

    /// Adds findings that the status does not have yet: every stage reads the same documents again.
    ///
    /// # Errors
    /// When /run cannot be written.
    pub fn diagnostics(&self, findings: Vec<Diagnostic>) -> io::Result<()> {
        let findings: Vec<Diagnostic> = findings.into_iter().map(|f| Diagnostic { excerpt: None, ..f }).collect();
        if findings.iter().all(|finding| self.locked().diagnostics.contains(finding)) {
            return Ok(());
        }
        self.update(|status| {
            for finding in findings {
                if !status.diagnostics.contains(&finding) {
                    status.diagnostics.push(finding);
                }
            }
        })
    }

    /// Says that a stage begins, and of a handler that still counts as running what is true of it: the
    /// agent was killed while it ran.
    ///
    /// # Errors
    /// When /run cannot be written.
    pub fn stage_began(&self, stage: Stage) -> io::Result<()> {
        self.update(|status| {
            let at = now().to_string();
            status.state = State::Running;
            status.stage = Some(stage);
            status.finished = None;
            status.started.get_or_insert_with(|| at.clone());
            interrupted(status);
            status.stages.retain(|earlier| earlier.name != stage);
            status.stages.push(StageReport { name: stage, started: at, finished: None });
        })
    }

    /// Says that a stage has run to its end; with the last one, the boot is closed.
    ///
    /// # Errors
    /// When /run cannot be written.
    pub fn stage_ended(&self, stage: Stage) -> io::Result<()> {
        for ended in self.locked().stages.iter_mut().filter(|s| s.name == stage) {
            ended.finished = Some(now().to_string());
        }
        if stage == Stage::Final { self.finish() } else { self.write() }
    }

    /// Closes the boot: sets the verdict and copies the status to the instance's folder.
    ///
    /// A stage that did not run to its end is an error of the boot: nobody knows what it left out.
    ///
    /// # Errors
    /// When /run cannot be written.
    pub fn finish(&self) -> io::Result<()> {
        let text = self.close()?;
        let Some(id) = self.locked().instance_id.clone() else { return Ok(()) };
        let kept = self.system.write(instance_folder(&id) + "/status.json", text, FileOptions::mode(0o644));
        if let Err(error) = kept {
            self.diagnostics(vec![Diagnostic::error(paths::STATE, format!("cannot be written: {error}"))])?;
            self.close()?;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<Vec<u8>> {
        self.change(|status| {
            let new = cut_short(status).into_iter().filter(|finding| !status.diagnostics.contains(finding));
            let new: Vec<Diagnostic> = new.collect();
            status.diagnostics.extend(new);
            status.state = status.verdict();
            status.finished = Some(now().to_string());
        })
    }

    fn locked(&self) -> MutexGuard<'_, Status> {
        // A handler that panicked while it held the lock left a whole status behind: fields are set one by one.
        self.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The errors of stages that did not run to their end.
fn cut_short(status: &Status) -> Vec<Diagnostic> {
    let whole = |stage| status.stages.iter().any(|s| s.name == stage && s.finished.is_some());
    let cut_short = Stage::ALL.into_iter().filter(|stage| !whole(*stage));
    let finding = |stage: Stage| {
        let message = format!("the {} stage did not run to its end; `journalctl -u kiln-{0}` tells why", stage.name());
        Diagnostic::error("boot", message)
    };
    cut_short.map(finding).collect()
}

/// The status as it will stand if the handler `last` ends well now and is the last of the boot.
pub fn foretold(mut status: Status, last: &str) -> Status {
    let end = now();
    if let Some(own) = status.handlers.iter_mut().find(|handler| handler.name == last) {
        own.outcome = OutcomeKind::Ok;
        let began = own.started.parse().unwrap_or(end);
        own.duration_ms = end.duration_since(began).as_millis().try_into().unwrap_or(0);
    }
    for stage in status.stages.iter_mut().filter(|stage| stage.name == Stage::Final) {
        stage.finished = Some(end.to_string());
    }
    status.diagnostics.extend(cut_short(&status));
    status.state = status.verdict();
    status.finished = Some(end.to_string());
    status
}

/// The status file as it stands, if there is one that can be read.
fn read(system: &System) -> Option<Status> {
    serde_json::from_slice(&system.read(paths::STATUS).ok()?).ok()
}

/// The status of this boot as it is true now: what a dead boot or a dead agent left behind is not taken
/// at its word.
///
/// # Errors
/// One sentence, when there is a status file that cannot be read.
pub fn current(system: &System) -> Result<Status, String> {
    let boot_id = system.boot_id();
    let damaged = |why: String| {
        let path = paths::STATUS;
        format!("{path}: {why}; `journalctl -t kiln-agent` tells what the agent did, the next boot writes it anew")
    };
    let found = match system.read(paths::STATUS) {
        Ok(bytes) if bytes.is_empty() => return Err(damaged("the status file is empty".to_owned())),
        Ok(bytes) => Some(
            serde_json::from_slice::<Status>(&bytes).map_err(|error| damaged(format!("not a status file: {error}")))?,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("the status cannot be read: {error}")),
    };
    let Some(mut status) = found.filter(|status| status.boot_id == boot_id) else {
        let mut fresh = Status::new(env!("CARGO_PKG_VERSION"), boot_id);
        if crate::boot::is_disabled(system) {
            fresh.state = State::Disabled;
        }
        return Ok(fresh);
    };
    let at_work = status.stages.last().is_some_and(|stage| stage.finished.is_none());
    // The lock is looked at last: an agent that ends in between has written its end before it let go.
    if status.state == State::Running && at_work && !system.is_locked(paths::LOCK) {
        let again: Option<Status> = read(system);
        if again.is_none_or(|again| again == status) {
            let stage = status.stage.map_or("first", Stage::name);
            let message = format!("the agent was stopped in the {stage} stage; `journalctl -u kiln-{stage}` tells why");
            status.diagnostics.push(Diagnostic::error("boot", message));
            interrupted(&mut status);
            status.state = State::Failed;
        } else {
            return current(system);
        }
    }
    Ok(status)
}

/// Says of a handler that still counts as running what is true of it when the agent is dead.
fn interrupted(status: &mut Status) {
    for handler in status.handlers.iter_mut().filter(|h| h.outcome == OutcomeKind::Running) {
        handler.outcome = OutcomeKind::Failed;
        handler.reason = Some(Reason::Interrupted.code().to_owned());
        handler.message = Some("the agent was stopped while this ran; it runs again at the next boot".to_owned());
    }
}

/// The folder of an instance; its id is made safe as a file name.
pub fn instance_folder(id: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }
    };
    let name: String = id.chars().map(safe).collect();
    let name = name.trim_start_matches('.');
    format!("{}/{}", paths::INSTANCES, if name.is_empty() { "_" } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_status_of_a_dead_agent_is_a_failure_and_of_a_living_one_is_not() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert_eq!(current(&system).unwrap().state, State::NotStarted);
        let lock = system.lock(paths::LOCK).unwrap();
        Report::begin(&system).stage_began(Stage::Init).unwrap();
        assert_eq!(current(&system).unwrap().state, State::Running);
        drop(lock);
        let status = current(&system).unwrap();
        assert_eq!(status.state, State::Failed);
        assert!(status.first_failure().unwrap().contains("stopped in the init stage"));
        Report::begin(&system).stage_ended(Stage::Init).unwrap();
        assert_eq!(current(&system).unwrap().state, State::Running, "between two stages nobody is at work");
    }

    #[test]
    fn a_status_of_an_earlier_boot_says_nothing_of_this_one() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        Report::begin(&system).update(|status| status.boot_id = "another".to_owned()).unwrap();
        assert_eq!(current(&system).unwrap().state, State::NotStarted);
    }

    #[test]
    fn a_damaged_status_is_an_error_that_names_the_file() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write(paths::STATUS, "{", FileOptions::default()).unwrap();
        assert!(current(&system).unwrap_err().starts_with("/run/kiln/status.json: not a status file: "));
    }
}
