//! What a bake says while it runs: a line a phase, for a person or for a program.

use std::io::{self, Write};
use std::time::Instant;

use serde_json::{Value, json};

/// The parts of a bake, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Finding base, package and name.
    Resolve,
    /// Starting the instance.
    Launch,
    /// Waiting for its sshd.
    Connect,
    /// Uploading, and installing the agent.
    Install,
    /// The scripts of kiln.yaml.
    Provision,
    /// The agent's judgement.
    Gate,
    /// Taking away what must not be in an image.
    Seal,
    /// Making the image.
    CreateImage,
    /// Telling the API what it is.
    Tag,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 9] = [
        Phase::Resolve,
        Phase::Launch,
        Phase::Connect,
        Phase::Install,
        Phase::Provision,
        Phase::Gate,
        Phase::Seal,
        Phase::CreateImage,
        Phase::Tag,
    ];

    /// The word a person reads.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Resolve => "resolve",
            Phase::Launch => "launch",
            Phase::Connect => "connect",
            Phase::Install => "install",
            Phase::Provision => "provision",
            Phase::Gate => "gate",
            Phase::Seal => "seal",
            Phase::CreateImage => "create image",
            Phase::Tag => "tag",
        }
    }
}

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Says how far a bake is. A reader that went away is no reason to stop.
pub struct Progress {
    format: Format,
    began: Instant,
    out: Box<dyn Write>,
}

impl Progress {
    /// On standard output, with time counted from now.
    pub fn new(format: Format) -> Progress {
        Progress { format, began: Instant::now(), out: Box::new(io::stdout()) }
    }

    /// A phase begins.
    pub fn phase(&mut self, phase: Phase, detail: &str) {
        self.line(phase.name(), detail, json!({"event": "phase", "phase": phase.name(), "detail": detail}));
    }

    /// Something new within a phase.
    pub fn note(&mut self, phase: Phase, text: &str) {
        self.line("", text, json!({"event": "note", "phase": phase.name(), "detail": text}));
    }

    /// There is an image.
    pub fn done(&mut self, id: &str, name: &str, report: &str) {
        let text = format!("{id} {name}");
        self.line("done", &text, json!({"event": "done", "image": id, "name": name, "report": report}));
    }

    /// There is none. For a person the sentence goes where errors go, by whoever called.
    pub fn failed(&mut self, error: &super::Error) {
        if self.format == Format::Json {
            let mut event = match error {
                super::Error::Failed(failure) => json!({
                    "event": "failed", "cause": failure.cause, "tail": failure.tail, "left": failure.left,
                    "report": failure.report,
                }),
                other => json!({"event": "failed", "cause": other.to_string()}),
            };
            event["elapsed_ms"] = self.elapsed_ms();
            let _ = writeln!(self.out, "{event}");
        }
    }

    /// The form in which this speaks.
    pub fn format(&self) -> Format {
        self.format
    }

    fn elapsed_ms(&self) -> Value {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).into()
    }

    fn line(&mut self, word: &str, text: &str, mut event: Value) {
        let _ = match self.format {
            Format::Text => {
                let seconds = self.began.elapsed().as_secs_f64();
                let line = format!("{seconds:>7.1} s  {word:<13} {text}");
                writeln!(self.out, "{}", line.trim_end())
            }
            Format::Json => {
                event["elapsed_ms"] = self.elapsed_ms();
                writeln!(self.out, "{event}")
            }
        };
        let _ = self.out.flush();
    }
}
