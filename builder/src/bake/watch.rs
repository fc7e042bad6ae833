//! Follows packer's output: which phase it is in, what failed, what was made.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::progress::{Phase, Progress};
use crate::packer::events::{Event, without_prefix};

/// EC2's own words on an instance that did not start; packer's reason is then that it waited in vain.
const DETAILS: &str = "Instance state change details: ";

/// By what packer announces the security group it makes.
const SECURITY_GROUP: &str = "Creating temporary security group for this instance: ";

/// sudo's complaint on a machine whose own name leads nowhere yet. It says nothing about a failure.
const NOISE: &str = "sudo: unable to resolve host";

/// How many of the last lines are kept for a failure.
const TAIL: usize = 15;

/// By what packer announces the phases that are its own.
const ANNOUNCEMENTS: [(&str, Phase); 12] = [
    ("Prevalidating", Phase::Launch),
    ("Found Image ID", Phase::Launch),
    ("Launching a source AWS instance", Phase::Launch),
    ("Using ssh communicator to connect", Phase::Connect),
    ("Using SSH communicator to connect", Phase::Connect),
    ("Waiting for SSH to become available", Phase::Connect),
    ("Uploading payload.tar", Phase::Install),
    ("Stopping the source instance", Phase::CreateImage),
    ("Creating AMI", Phase::CreateImage),
    ("Uploading X509 Certificate", Phase::CreateImage),
    ("Registering the AMI", Phase::CreateImage),
    ("Adding tags to AMI", Phase::Tag),
];

/// What the scripts of a bake mark their own lines with.
const MARK: &str = "::kiln ";

/// Lines of the gate that say what it waits for, and how a person is told.
const GATE_NOTES: [(&str, &str); 2] = [("waiting for ", ""), ("testing: ", "the tests in ")];
/// By what the gate begins its last line.
const GATE_ENDED: &str = "the gate ";
/// What is over sooner than this is worth no line.
const WORTH_A_LINE: Duration = Duration::from_secs(1);
/// After this long a person or program who only gets lines is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(30);

/// What the gate waits for.
struct Waiting {
    what: String,
    /// An agent of an older version tells none.
    deadline: Option<Instant>,
    since: Instant,
    told: Option<Instant>,
}

impl Waiting {
    /// From a line of the gate, which ends in `(N s left)`; an older agent says no time.
    fn read(note: &str) -> Option<Waiting> {
        let (what, prefix) = GATE_NOTES.iter().find_map(|(start, prefix)| Some((note.strip_prefix(start)?, prefix)))?;
        let (what, left) = match what.strip_suffix(" s left)").and_then(|rest| rest.rsplit_once(" (")) {
            Some((what, seconds)) => (what, seconds.parse().ok().map(Duration::from_secs)),
            None => (what, None),
        };
        let since = Instant::now();
        let deadline = left.and_then(|left| since.checked_add(left));
        Some(Waiting { what: format!("{prefix}{what}"), deadline, since, told: None })
    }

    fn left(&self) -> Option<Duration> {
        // A person counts in whole seconds, and the first of them has not passed yet.
        let half = Duration::from_millis(500);
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) + half)
    }
}

/// The security group that packer announces in an event of a build of this name.
pub fn security_group(event: &Event, build: &str) -> Option<String> {
    let Event::Say(line) = event else { return None };
    Some(without_prefix(line, build).strip_prefix(SECURITY_GROUP)?.trim().to_owned())
}

/// What is known of a running packer.
pub struct Watch {
    build: String,
    phase: Option<Phase>,
    waiting: Option<Waiting>,
    /// The last lines since the phase, or a script in it, began.
    pub tail: VecDeque<String>,
    /// The sentence of a step that failed.
    pub failed: Option<String>,
    /// Packer's own reason for giving up.
    pub reason: Option<String>,
    /// The agent's report on the seal.
    pub seal: Option<serde_json::Value>,
    /// The last thing that packer called an error.
    pub last_error: Option<String>,
    /// Images that were made: `(region, id)`.
    pub images: Vec<(String, String)>,
}

impl Watch {
    /// Of a build of this name.
    pub fn new(build: &str) -> Watch {
        Watch {
            build: build.to_owned(),
            phase: None,
            waiting: None,
            tail: VecDeque::new(),
            failed: None,
            reason: None,
            last_error: None,
            seal: None,
            images: Vec::new(),
        }
    }

    /// The phase it is in.
    pub fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// Takes in one event and says what is new.
    pub fn see(&mut self, event: &Event, progress: &Progress) {
        match event {
            Event::Image(region, id) => {
                let image = (region.clone(), id.clone());
                // Every post-processor announces the image again.
                if !self.images.contains(&image) {
                    self.images.push(image);
                }
            }
            Event::Say(line) => self.line(line, progress),
            Event::Error(line) => {
                let own = format!("Build '{}' errored", self.build);
                let text = without_prefix(line, &self.build);
                if let Some(rest) = text.strip_prefix(&own) {
                    let reason = rest.split_once(": ").map_or(rest, |(_, reason)| reason);
                    self.reason.get_or_insert_with(|| reason.to_owned());
                } else if let Some(details) = text.strip_prefix(DETAILS) {
                    self.reason = Some(format!("the instance did not start: {details}"));
                } else if !line.trim().is_empty() {
                    self.last_error = Some(text.to_owned());
                }
                self.line(line, progress);
            }
            Event::Other(line) if line.contains(',') => {}
            Event::Other(line) => self.keep(line),
        }
    }

    /// A moment has passed: what is waited for is told, if it takes long, and shown with the time that is left.
    pub fn tick(&mut self, progress: &Progress) {
        if let Some(waiting) = &mut self.waiting {
            let worth = match waiting.told {
                None => waiting.since.elapsed() >= WORTH_A_LINE,
                Some(told) => told.elapsed() >= TOLD_AGAIN,
            };
            if worth {
                waiting.told = Some(Instant::now());
                progress.waiting(Phase::Gate, &waiting.what, waiting.left());
            }
        }
        self.show(progress);
    }

    fn show(&self, progress: &Progress) {
        let waiting = self.waiting.as_ref().map(|waiting| (waiting.what.as_str(), waiting.left()));
        if self.failed.is_none() {
            progress.look(waiting, self.tail.iter());
        }
    }

    fn line(&mut self, line: &str, progress: &Progress) {
        let text = without_prefix(line, &self.build);
        if let Some(marked) = text.strip_prefix(MARK) {
            self.marked(marked, progress);
        } else if let Some((_, phase)) = ANNOUNCEMENTS.iter().find(|(start, _)| text.starts_with(start)) {
            // Packer says some of these more than once.
            if self.phase < Some(*phase) {
                let detail = match phase {
                    Phase::Connect => text.split_once("connect: ").map_or("", |(_, address)| address),
                    _ => "",
                };
                self.enter(*phase, detail, progress);
            }
        } else {
            let note = text.strip_prefix("kiln-agent: ").unwrap_or(text);
            match Waiting::read(note).filter(|_| self.phase == Some(Phase::Gate)) {
                Some(waiting) => self.waiting = Some(waiting),
                None => {
                    self.waiting = self.waiting.take().filter(|_| !note.starts_with(GATE_ENDED));
                    self.keep(text);
                }
            }
            self.show(progress);
        }
    }

    fn marked(&mut self, text: &str, progress: &Progress) {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("phase", rest) => {
                let (name, detail) = rest.split_once(' ').unwrap_or((rest, ""));
                if let Some(phase) = Phase::ALL.into_iter().find(|phase| phase.name() == name) {
                    self.enter(phase, detail, progress);
                }
            }
            ("failed", sentence) => self.failed = Some(sentence.to_owned()),
            ("seal", report) => {
                self.seal = serde_json::from_str(report).ok();
                if let Some(freed) = self.seal.as_ref().and_then(|seal| seal["freed"].as_str()) {
                    progress.note(Phase::Seal, &format!("blocks of deleted files: {freed}"));
                }
            }
            _ => self.keep(text),
        }
    }

    fn enter(&mut self, phase: Phase, detail: &str, progress: &Progress) {
        self.phase = Some(phase);
        self.waiting = None;
        if self.failed.is_none() {
            self.tail.clear();
        }
        progress.phase(phase, detail);
    }

    /// After a failure only the report is packed: that is not what failed.
    fn keep(&mut self, text: &str) {
        if self.failed.is_none() && !text.trim().is_empty() && !text.starts_with(NOISE) {
            self.tail.push_back(text.to_owned());
            if self.tail.len() > TAIL {
                self.tail.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bake::progress::Format;
    use crate::packer::events::parse;

    fn watch(lines: &[&str]) -> Watch {
        let mut watch = Watch::new("golden");
        let progress = Progress::new(Format::Json);
        lines.iter().flat_map(|line| parse(line)).for_each(|event| watch.see(&event, &progress));
        watch
    }

    #[test]
    fn a_failed_script_is_named_with_its_last_lines() {
        let watch = watch(&[
            "1,,ui,message,    golden: ::kiln phase install kiln-agent 0.1.0",
            "1,,ui,message,    golden: Setting up kiln-agent",
            "1,,ui,message,    golden: ::kiln phase provision scripts/golden.sh",
            "1,,ui,message,    golden: E: Unable to locate package pupet\\n",
            "1,,ui,message,    golden: ::kiln failed the script scripts/golden.sh failed with exit code 100",
            "1,,ui,say,==> golden: Provisioning with shell script: gate.sh",
            "1,,ui,error,==> golden: Script exited with non-zero exit status: 1.",
            "1,,ui,error,Build 'golden' errored: Script exited with non-zero exit status: 1.",
        ]);
        assert_eq!(watch.failed.as_deref(), Some("the script scripts/golden.sh failed with exit code 100"));
        assert_eq!(watch.tail, ["E: Unable to locate package pupet"]);
        assert_eq!(watch.phase(), Some(Phase::Provision));
    }

    #[test]
    fn of_a_recorded_run_everything_is_known_that_a_failure_needs() {
        let recorded: Vec<_> = include_str!("../packer/recorded-1.6.6.txt").lines().collect();
        let end = recorded.iter().position(|line| line.contains("no artifacts were created")).unwrap();
        let failed = watch(&recorded[..=end]);
        let reason = "Script exited with non-zero exit status: 3.Allowed exit codes are: [0]";
        assert_eq!(failed.reason.as_deref(), Some(reason));
        let group =
            recorded[..=end].iter().flat_map(|line| parse(line)).find_map(|event| security_group(&event, "golden"));
        assert_eq!(group.as_deref(), Some("packer_6b05a218-c813-b71d-5d43-0ea65c28cf85"));
        let succeeded = watch(&recorded[end + 1..]);
        assert_eq!(succeeded.phase(), Some(Phase::Tag));
        assert_eq!(succeeded.images, [("us-east-1".to_owned(), "ami-75b5dfd48877b5c08".to_owned())]);
        assert_eq!(succeeded.reason, None);
    }

    #[test]
    fn packers_own_reason_is_kept_in_old_and_new_words() {
        for line in [
            "1,,ui,error,Build 'golden' errored: Timeout waiting for SSH.",
            "1,,ui,error,Build 'golden' errored after 3 seconds 20 milliseconds: Timeout waiting for SSH.",
        ] {
            assert_eq!(watch(&[line]).reason.as_deref(), Some("Timeout waiting for SSH."));
        }
    }

    #[test]
    fn an_instance_that_did_not_start_is_told_in_the_words_of_ec2() {
        let watch = watch(&[
            "1,,ui,error,==> golden: Error waiting for instance (i-1) to become ready: ResourceNotReady",
            "1,,ui,error,==> golden: Instance state change details: Server.InsufficientInstanceCapacity: none left",
            "1,,ui,error,Build 'golden' errored after 1 second: Error waiting for instance (i-1) to become ready",
        ]);
        let reason = "the instance did not start: Server.InsufficientInstanceCapacity: none left";
        assert_eq!(watch.reason.as_deref(), Some(reason));
    }

    #[test]
    fn the_report_on_the_seal_is_read_although_packer_writes_commas_its_own_way() {
        let watch = watch(&["1,,ui,message,    golden: ::kiln seal {\"schema\": 1%!(PACKER_COMMA) \"findings\": []}"]);
        assert_eq!(watch.seal.unwrap()["schema"], 1);
    }

    #[test]
    fn what_the_gate_waits_for_is_known_with_its_deadline() {
        let gate = "1,,ui,message,    golden: ::kiln phase gate";
        for (line, what, left) in [
            (
                "kiln-agent: waiting for the agent: final stage, handler puppet (583 s left)",
                "the agent: final stage, handler puppet",
                Some(583),
            ),
            (
                "kiln-agent: testing: /tmp/kiln/tests/a (1).bats (60 s left)",
                "the tests in /tmp/kiln/tests/a (1).bats",
                Some(60),
            ),
            ("kiln-agent: waiting for the agent: final stage", "the agent: final stage", None),
        ] {
            let line = format!("1,,ui,message,    golden: {}", line.replace(',', "%!(PACKER_COMMA)"));
            let waiting = watch(&[gate, &line]).waiting.unwrap();
            assert_eq!((waiting.what.as_str(), waiting.left().map(|left| left.as_secs())), (what, left));
            assert!(watch(&[&line]).waiting.is_none(), "before the gate it is the line of a script");
        }
        let watch = watch(&[gate, "1,,ui,message,    golden: Notice: applied catalog"]);
        assert_eq!(watch.tail, ["Notice: applied catalog"]);
        let waits = "1,,ui,message,    golden: testing: /a (9 s left)";
        assert!(self::watch(&[gate, waits, "1,,ui,message,    golden: the gate passed"]).waiting.is_none());
    }

    #[test]
    fn an_image_told_twice_is_one() {
        let line = "1,golden,artifact,0,id,eu-west-1:ami-1";
        assert_eq!(watch(&[line, line]).images.len(), 1);
    }
}
