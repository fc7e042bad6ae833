//! The status file, schema 1: what the agent did at this boot, rewritten at every change.
//!
//! A gate may read a file that an older agent wrote. So changes are additive, a reader ignores
//! fields it does not know, and an outcome or state it does not know counts as failed.

use serde::{Deserialize, Deserializer, Serialize};

use crate::diagnostic::{Diagnostic, Severity};

/// The number of the format described here.
pub const SCHEMA: u32 = 1;

/// The three parts of a boot, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Before the network.
    Local,
    /// With the network, beside sshd.
    Init,
    /// When services may start.
    Final,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 3] = [Stage::Local, Stage::Init, Stage::Final];

    /// The word in the status and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Local => "local",
            Stage::Init => "init",
            Stage::Final => "final",
        }
    }
}

/// How the boot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No stage has begun.
    NotStarted,
    /// A stage is running or still to come.
    Running,
    /// Everything ran and nothing failed.
    Done,
    /// Only best-effort handlers failed.
    Degraded,
    /// Something failed.
    Failed,
    /// The agent was told to do nothing.
    Disabled,
}

impl State {
    /// Exit code of `kiln-agent status` in this state.
    pub fn exit_code(self) -> u8 {
        match self {
            State::Done => 0,
            State::Failed => 1,
            State::Degraded => 2,
            State::Running => 3,
            State::NotStarted => 4,
            State::Disabled => 5,
        }
    }

    /// The word in the status file.
    pub fn name(self) -> &'static str {
        match self {
            State::NotStarted => "not-started",
            State::Running => "running",
            State::Done => "done",
            State::Degraded => "degraded",
            State::Failed => "failed",
            State::Disabled => "disabled",
        }
    }

    /// Whether waiting longer can change nothing.
    pub fn is_final(self) -> bool {
        !matches!(self, State::NotStarted | State::Running)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(match word.as_str() {
            "not-started" => State::NotStarted,
            "running" => State::Running,
            "done" => State::Done,
            "degraded" => State::Degraded,
            "disabled" => State::Disabled,
            _ => State::Failed,
        })
    }
}

/// How one handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeKind {
    /// It is running now.
    Running,
    /// It did its work.
    Ok,
    /// It had nothing to do; the reason says why.
    Skipped,
    /// It did not do its work.
    Failed,
}

impl OutcomeKind {
    /// The word in the status and in `/var/lib/kiln/data/<handler>`.
    pub fn name(self) -> &'static str {
        match self {
            OutcomeKind::Running => "running",
            OutcomeKind::Ok => "ok",
            OutcomeKind::Skipped => "skipped",
            OutcomeKind::Failed => "failed",
        }
    }
}

impl<'de> Deserialize<'de> for OutcomeKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(match word.as_str() {
            "running" => OutcomeKind::Running,
            "ok" => OutcomeKind::Ok,
            "skipped" => OutcomeKind::Skipped,
            _ => OutcomeKind::Failed,
        })
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal),+ $(,)?) => {
        /// Why a handler failed or was skipped: a stable code beside the human sentence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name),+ }

        impl Reason {
            /// Every reason, for documentation and tests.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),+];

            /// The code in the status; it never changes its meaning.
            pub fn code(self) -> &'static str {
                match self { $(Reason::$name => $code),+ }
            }
        }
    };
}

reasons! {
    /// The user-data of this handler cannot be used.
    Config = "config",
    /// A command ended with a failure.
    CommandFailed = "command-failed",
    /// A program that the handler needs is not installed.
    MissingProgram = "missing-program",
    /// The deadline passed.
    Timeout = "timeout",
    /// The handler has a bug: it panicked.
    Panicked = "panicked",
    /// A file could not be read or written.
    Io = "io",
    /// No space is left on the device.
    DiskFull = "disk-full",
    /// A server could not be reached, or answered with an error to the last try.
    Network = "network",
    /// A server refused for good: access denied, not found.
    Refused = "refused",
    /// An HTTPS request needs the image's CA certificates, which are missing.
    NoCertificates = "no-certificates",
    /// A template could not be rendered.
    Template = "template",
    /// cloud-init knows this, the agent does not run it.
    Unsupported = "unsupported",
    /// The instance stopped while the handler ran, at an earlier boot.
    Interrupted = "interrupted",
    /// Skipped: it ran at an earlier boot of this instance.
    RanBefore = "ran-before",
    /// Skipped: the configuration switches it off.
    SwitchedOff = "switched-off",
    /// Skipped: there was nothing to do.
    NothingToDo = "nothing-to-do",
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// One handler in the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandlerReport {
    /// The handler's name.
    pub name: String,
    /// The stage that it belongs to.
    pub stage: Stage,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// A failure of this handler does not fail the boot, it degrades it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub best_effort: bool,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// A code of [`Reason`]; an older reader may meet one that it does not know.
    pub reason: Option<String>,
    /// One sentence: what failed, on which input, what to do next.
    pub message: Option<String>,
    /// What the handler tells of its work; the keys are the handler's own.
    pub detail: Option<serde_json::Value>,
}

/// One stage in the status. A stage without an end was cut short: what it had still to run never ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// The stage.
    pub name: Stage,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// When it ended; none while it runs.
    pub finished: Option<String>,
}

/// A power-off, reboot or termination that the agent has set up and that has not happened yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShutdown {
    /// `poweroff`, `reboot`, `halt` or `terminate`.
    pub action: String,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// The handler that planned it, and why.
    pub because: String,
    /// The command that cancels it.
    pub cancel: String,
}

/// The whole status file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the agent that wrote it.
    pub agent: String,
    /// How the boot stands.
    pub state: State,
    /// The stage that runs, or ran last.
    pub stage: Option<Stage>,
    /// The instance, once a datasource has told.
    pub instance_id: Option<String>,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The datasource that answered.
    pub source: Option<String>,
    /// When the first stage began, RFC 3339 in UTC.
    pub started: Option<String>,
    /// When the last stage ended.
    pub finished: Option<String>,
    /// The stages that have begun, in order. Agents before this field was added leave it out.
    #[serde(default)]
    pub stages: Vec<StageReport>,
    /// A shutdown that was set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_shutdown: Option<PlannedShutdown>,
    /// The handlers that had something to do, in the order they ran.
    pub handlers: Vec<HandlerReport>,
    /// What is wrong with the documents that were read.
    pub diagnostics: Vec<Diagnostic>,
}

impl Status {
    /// A status in which nothing has happened.
    pub fn new(agent: &str, boot_id: &str) -> Self {
        Status {
            schema: SCHEMA,
            agent: agent.to_owned(),
            state: State::NotStarted,
            stage: None,
            instance_id: None,
            boot_id: boot_id.to_owned(),
            source: None,
            started: None,
            finished: None,
            stages: Vec::new(),
            planned_shutdown: None,
            handlers: Vec::new(),
            diagnostics: Vec::new(),
        }
    }

    /// The state that the handlers and diagnostics amount to when all stages have run.
    pub fn verdict(&self) -> State {
        let mut verdict = State::Done;
        if self.diagnostics.iter().any(|d| d.severity == Severity::Error) {
            return State::Failed;
        }
        for handler in self.handlers.iter().filter(|h| !matches!(h.outcome, OutcomeKind::Ok | OutcomeKind::Skipped)) {
            // A key that is known and not run, and a best-effort handler, degrade the boot.
            if handler.best_effort || handler.reason.as_deref() == Some(Reason::Unsupported.code()) {
                verdict = State::Degraded;
            } else {
                return State::Failed;
            }
        }
        verdict
    }

    /// The first thing that failed, as one sentence for a person.
    pub fn first_failure(&self) -> Option<String> {
        let failed = |h: &&HandlerReport| h.outcome == OutcomeKind::Failed;
        let serious = self.handlers.iter().filter(failed).find(|h| !h.best_effort);
        let document = || self.diagnostics.iter().find(|d| d.severity == Severity::Error).map(Diagnostic::to_string);
        let told = |h: &HandlerReport| format!("{}: {}", h.name, h.message.as_deref().unwrap_or("failed"));
        serious.map(told).or_else(document).or_else(|| self.handlers.iter().find(failed).map(told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../fixtures/status-1.json");

    #[test]
    fn the_golden_file_of_schema_1_reads_and_writes_back_the_same() {
        let status: Status = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(serde_json::to_string_pretty(&status).unwrap().trim(), GOLDEN.trim());
        assert_eq!(status.verdict(), State::Failed);
    }

    #[test]
    fn what_a_reader_does_not_know_counts_as_failed() {
        let text = GOLDEN.replace("\"ok\"", "\"sideways\"").replace("\"state\": \"failed\"", "\"state\": \"splendid\"");
        let status: Status = serde_json::from_str(&text).unwrap();
        assert_eq!(status.state, State::Failed);
        assert!(status.handlers.iter().all(|h| h.outcome == OutcomeKind::Failed));
    }

    #[test]
    fn only_best_effort_failures_degrade() {
        let mut status: Status = serde_json::from_str(GOLDEN).unwrap();
        status.diagnostics.clear();
        status.handlers.retain(|h| h.outcome == OutcomeKind::Ok);
        assert_eq!(status.verdict(), State::Done);
        let mut failed = status.handlers[0].clone();
        failed.outcome = OutcomeKind::Failed;
        failed.best_effort = true;
        status.handlers.push(failed.clone());
        assert_eq!(status.verdict(), State::Degraded);
        failed.best_effort = false;
        status.handlers.push(failed);
        assert_eq!(status.verdict(), State::Failed);
    }

    #[test]
    fn warnings_never_change_the_state() {
        let mut status = Status::new("0", "0");
        status.diagnostics.push(Diagnostic::warning("user-data", "unknown key"));
        assert_eq!(status.verdict(), State::Done);
    }

    #[test]
    fn reason_codes_are_unique() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
