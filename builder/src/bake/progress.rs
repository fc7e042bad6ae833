//! What a bake says while it runs: a line a phase, for a person or for a program.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Error;
use super::many::Summary;
use super::screen::Screen;
use crate::regions::Outcome;

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
    /// Starting the image twice and comparing the two.
    Prove,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 10] = [
        Phase::Resolve,
        Phase::Launch,
        Phase::Connect,
        Phase::Install,
        Phase::Provision,
        Phase::Gate,
        Phase::Seal,
        Phase::CreateImage,
        Phase::Tag,
        Phase::Prove,
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
            Phase::Prove => "prove",
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
#[derive(Clone, Debug)]
pub struct Progress {
    format: Format,
    began: Instant,
    /// The image that is spoken of, as every event has it and as a line has it beside others.
    image: String,
    /// How wide the names of images are where several are baked; 0 for one alone.
    width: usize,
    /// When each phase of this image began.
    phases: Rc<RefCell<Vec<(Phase, Instant)>>>,
    /// Where a person looks on: what is written anew all the time. Of all images together.
    screen: Option<Arc<Mutex<Screen>>>,
}

/// Lines of a program that are shown while it works, of one image alone and of one beside others.
const LINES: (usize, usize) = (6, 2);

impl Progress {
    /// On standard output, with time counted from now.
    pub fn new(format: Format) -> Progress {
        let screen = (format == Format::Text && io::stdout().is_terminal()).then(Arc::default);
        Progress { format, began: Instant::now(), image: String::new(), width: 0, phases: Rc::default(), screen }
    }

    /// Of one image, alone or among others with names at most `width` wide.
    pub fn of(&self, image: &str, width: usize) -> Progress {
        Progress { image: image.to_owned(), width, phases: Rc::default(), ..self.clone() }
    }

    /// A phase begins.
    pub fn phase(&self, phase: Phase, detail: &str) {
        self.phases.borrow_mut().push((phase, Instant::now()));
        self.look(None, [].iter());
        self.line(phase.name(), detail, json!({"event": "phase", "phase": phase.name(), "detail": detail}));
    }

    /// What each phase so far has taken, in milliseconds, in the order they began. One that began again, as
    /// each script does, is told once.
    pub fn timings(&self) -> Vec<(Phase, u64)> {
        let phases = self.phases.borrow();
        let mut timings: Vec<(Phase, u64)> = Vec::new();
        for (index, (phase, began)) in phases.iter().enumerate() {
            let end = phases.get(index + 1).map_or_else(Instant::now, |(_, next)| *next);
            let took = u64::try_from(end.duration_since(*began).as_millis()).unwrap_or(u64::MAX);
            match timings.last_mut() {
                Some((last, before)) if last == phase => *before += took,
                _ => timings.push((*phase, took)),
            }
        }
        timings
    }

    /// Something new within a phase.
    pub fn note(&self, phase: Phase, text: &str) {
        self.line("", text, json!({"event": "note", "phase": phase.name(), "detail": text}));
    }

    /// Something is waited for, which ends at its deadline.
    pub fn waiting(&self, phase: Phase, what: &str, left: Option<Duration>) {
        let event = json!({
            "event": "waiting", "phase": phase.name(), "for": what, "seconds_left": left.map(|left| left.as_secs()),
        });
        // On a terminal the time runs, and this line would soon be wrong.
        if self.screen.is_none() {
            self.line("", &with_time(what, left), event);
        }
    }

    /// Shows a person who looks on what is waited for and the last lines of whatever works.
    pub fn look<'a>(
        &self,
        waiting: Option<(&str, Option<Duration>)>,
        tail: impl DoubleEndedIterator<Item = &'a String>,
    ) {
        let Some(screen) = &self.screen else { return };
        let indent = " ".repeat(25 + if self.width == 0 { 0 } else { self.width + 2 });
        let most = if self.width == 0 { LINES.0 } else { LINES.1 };
        let mut lines: Vec<_> = tail.rev().take(most).map(|line| format!("{indent}| {line}")).collect();
        lines.extend(waiting.map(|(what, left)| {
            let image = if self.width == 0 { String::new() } else { format!("{}: ", self.image) };
            format!("{indent}{image}{}", with_time(what, left))
        }));
        lines.reverse();
        let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = io::stdout().lock();
        let _ = out.write_all(screen.set(&self.image, lines).as_bytes());
        let _ = out.flush();
    }

    /// What the command itself has to say, before or beside its bakes.
    pub fn say(&self, text: &str) {
        self.line("", text, json!({"event": "note", "detail": text}));
    }

    /// There is an image.
    pub fn done(&self, id: &str, name: &str, report: &str) {
        let text = format!("{id} {name}");
        self.look(None, [].iter());
        self.line("done", &text, json!({"event": "done", "image": id, "name": name, "report": report}));
    }

    /// The gate let a machine of this image pass.
    pub fn passed(&self, image: &str, message: &str, report: &str) {
        self.look(None, [].iter());
        let text = format!("{message}; report: {report}");
        self.line("passed", &text, json!({"event": "passed", "image": image, "detail": message, "report": report}));
    }

    /// There was an image with the same inputs already.
    pub fn reused(&self, id: &str, name: &str) {
        let text = format!("{id} {name}: it has the same inputs");
        self.line("unchanged", &text, json!({"event": "unchanged", "image": id, "name": name}));
    }

    /// Nothing was tried for this image, and why.
    pub fn left_out(&self, why: &str) {
        self.line("left out", why, json!({"event": "left out", "cause": why}));
    }

    /// What became of the image in one region.
    pub fn region(&self, outcome: &Outcome) {
        let id = outcome.image.as_deref().unwrap_or("-");
        let text = match &outcome.done {
            Ok(done) => format!("{} {id} {}", outcome.region, done.name()),
            Err(why) => format!("{} {id} failed: {why}", outcome.region),
        };
        let mut event = json!({"event": "region"});
        if let (Some(event), Value::Object(outcome)) = (event.as_object_mut(), outcome.json()) {
            event.extend(outcome);
        }
        self.line("region", &text, event);
    }

    /// How it went with several images.
    pub fn summary(&self, summary: &Summary) {
        let Summary { baked, unchanged, failed, left_out, incomplete, ends: _ } = summary;
        let mut text = format!("{baked} baked, {unchanged} unchanged, {failed} failed, {left_out} left out");
        if *incomplete > 0 {
            text += &format!(", {incomplete} not in every region");
        }
        let event = json!({
            "event": "summary", "baked": baked, "unchanged": unchanged, "failed": failed, "left_out": left_out,
            "incomplete": incomplete,
        });
        self.line("", &text, event);
    }

    /// There is none. For a person the sentence goes where errors go.
    pub fn failed(&self, error: &Error) {
        self.look(None, [].iter());
        if self.format == Format::Text {
            self.above(|| {
                let _ = writeln!(io::stderr(), "kiln: {error}");
                String::new()
            });
            return;
        }
        let event = match error {
            Error::Failed(failure) => json!({
                "event": "failed", "cause": failure.cause, "tail": failure.tail, "left": failure.left,
                "report": failure.report,
            }),
            other => json!({"event": "failed", "cause": other.to_string()}),
        };
        self.line("", "", event);
    }

    /// The form in which this speaks.
    pub fn format(&self) -> Format {
        self.format
    }

    fn elapsed_ms(&self) -> Value {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).into()
    }

    /// Prints above what is written anew all the time.
    fn above(&self, print: impl FnOnce() -> String) {
        let mut screen = self.screen.as_ref().map(|screen| screen.lock().unwrap_or_else(PoisonError::into_inner));
        let mut out = io::stdout();
        if let Some(screen) = &mut screen {
            let _ = out.write_all(screen.erase().as_bytes());
            let _ = out.flush();
        }
        let _ = out.write_all(print().as_bytes());
        if let Some(screen) = &mut screen {
            let _ = out.write_all(screen.draw().as_bytes());
        }
        let _ = out.flush();
    }

    fn line(&self, word: &str, text: &str, mut event: Value) {
        self.above(|| match self.format {
            Format::Text => {
                let seconds = self.began.elapsed().as_secs_f64();
                let image = match self.width {
                    0 => String::new(),
                    width => format!("{:<width$}  ", self.image),
                };
                format!("{}\n", format!("{seconds:>7.1} s  {image}{word:<13} {text}").trim_end())
            }
            Format::Json => {
                if !self.image.is_empty() {
                    event["application"] = json!(self.image);
                }
                event["elapsed_ms"] = self.elapsed_ms();
                format!("{event}\n")
            }
        });
    }
}

fn with_time(what: &str, left: Option<Duration>) -> String {
    let left = left.map(|left| format!(", {} s left", left.as_secs()));
    format!("waiting for {what}{}", left.unwrap_or_default())
}
