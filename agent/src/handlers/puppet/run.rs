//! One run of puppet, its exit code and its last words.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kiln_schema::status::Reason;
use serde_json::{Value as Json, json};

use super::config::{Mode, Settings};
use super::summary::Summary;
use crate::context::Context;
use crate::handlers::Failure;
use crate::system::{Command, Finished, RunError, now};

/// Where Puppet's own packages put the program.
const ALL_IN_ONE: &str = "/opt/puppetlabs/bin/puppet";
/// Asking for paths starts ruby and no more.
const ASK_TIME: Duration = Duration::from_secs(60);
/// Kept from the handler's time, so that a failure can still be dealt with.
const RESERVE: Duration = Duration::from_secs(20);
/// Between tries where the server did not answer or could not compile.
const PAUSE: Duration = Duration::from_secs(5);
/// What an agent says that finds another at work. It exits 1, as it does on errors.
const IN_PROGRESS: &str = "already in progress";
/// Facter's troubles with a fact are not puppet's.
const NOISE: &str = "Error: Facter:";
/// Longest of puppet's lines in a message, in characters.
const LINE: usize = 400;

/// Puppet on this machine.
pub struct Puppet<'a> {
    settings: &'a Settings,
    context: &'a Context,
}

/// Where puppet keeps what the handler needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Paths(HashMap<String, String>);

impl Paths {
    /// The value of a setting, if puppet told it.
    pub fn get(&self, setting: &str) -> Option<&str> {
        self.0.get(setting).map(String::as_str)
    }
}

impl<'a> Puppet<'a> {
    /// Looks for the program.
    ///
    /// # Errors
    /// That it is not installed, and what to do.
    pub fn find(settings: &'a Settings, context: &'a Context) -> Result<Self, Failure> {
        let folders = crate::system::PATH.split(':');
        let mut programs = folders.map(|folder| format!("{folder}/puppet"));
        if programs.any(|program| context.system.exists(program)) {
            return Ok(Puppet { settings, context });
        }
        let message = "puppet is not installed; the agent does not install it: \
                       put the package puppet-agent into the image";
        Err(Failure::new(Reason::MissingProgram, message))
    }

    /// Whether it came in Puppet's own packages and not the distribution's.
    pub fn is_all_in_one(&self) -> bool {
        self.context.system.exists(ALL_IN_ONE)
    }

    fn command(&self, timeout: Duration) -> Command {
        let timeout = timeout.min(self.context.time_left().saturating_sub(RESERVE));
        // A manifest may be UTF-8, and modules look for a home.
        Command::new("puppet", timeout).env("LANG", "C.UTF-8").env("HOME", "/root").capture()
    }

    /// Settings that lead puppet to other folders; every command of it gets them.
    fn places(&self) -> Vec<String> {
        let option = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("--{name}={value}"));
        [
            option("config", &self.settings.conf_file),
            option("ssldir", &self.settings.ssl_dir),
            option("csr_attributes", &self.settings.csr_attributes_path),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Asks puppet where its files are.
    ///
    /// # Errors
    /// When it does not start or says nothing.
    pub fn paths(&self) -> Result<Paths, Failure> {
        const SETTINGS: [&str; 6] =
            ["agent_catalog_run_lockfile", "config", "csr_attributes", "lastrunfile", "localcacert", "statedir"];
        let command = self.command(ASK_TIME).args(["config", "print"]).args(SETTINGS).args(self.places());
        let finished = self.context.run(&command)?;
        let paths = parse_paths(&finished.text());
        if finished.success() && SETTINGS.iter().all(|setting| paths.get(setting).is_some()) {
            return Ok(paths);
        }
        let said = first_error(&finished).unwrap_or_else(|| finished.last_lines(1).join(""));
        let message = format!("puppet does not tell its settings: `puppet config print` {}: {said}", finished.ending());
        Err(Failure::new(Reason::CommandFailed, message))
    }

    /// Runs puppet until a run is good or the tries are used up, and tells of the last run.
    ///
    /// # Errors
    /// Why the last run was not good.
    pub fn converge(&self, paths: &Paths) -> Result<Json, Failure> {
        let tries = self.settings.tries();
        let mut attempt = 1;
        loop {
            let error = match self.once(paths) {
                Ok(mut detail) => {
                    detail["tries"] = json!(attempt);
                    return Ok(detail);
                }
                Err(error) => error,
            };
            if attempt >= tries || self.context.time_left() <= RESERVE {
                let message =
                    if attempt > 1 { format!("{} (after {attempt} tries)", error.message) } else { error.message };
                return Err(Failure { message, ..error });
            }
            tracing::warn!("puppet, try {attempt} of {tries}: {}", error.message);
            if error.detail.as_ref().is_none_or(|detail| detail["exit_code"] == 1) {
                // Resources that failed may need the ones after them; a server needs time.
                std::thread::sleep(PAUSE.min(self.context.time_left().saturating_sub(RESERVE)));
            }
            attempt += 1;
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> = vec![self.settings.mode.name().to_owned()];
        let extra = self.settings.exec_args.iter().cloned();
        match self.settings.mode {
            Mode::Agent if self.settings.exec_args.is_empty() => {
                // `--test` without its `--show_diff`, which would print secrets into the journal.
                let own = ["--onetime", "--no-daemonize", "--no-usecacheonfailure", "--no-splay", "--verbose"];
                words.extend(own.map(str::to_owned));
            }
            Mode::Agent | Mode::Apply => words.extend(extra),
        }
        words.extend(["--detailed-exitcodes".to_owned(), "--color=false".to_owned()]);
        words.extend(self.settings.environment.as_ref().map(|name| format!("--environment={name}")));
        if !self.settings.module_path.is_empty() {
            words.push(format!("--modulepath={}", self.settings.module_path.join(":")));
        }
        words.extend(self.places());
        if self.settings.mode == Mode::Apply {
            words.extend(self.settings.manifest.clone());
        }
        words
    }

    /// One run. An agent that finds another at work waits for it to end and runs then, within the time of one run.
    fn once(&self, paths: &Paths) -> Result<Json, Failure> {
        let deadline = Instant::now() + self.settings.timeout();
        loop {
            let started = now();
            let command = self.command(deadline.saturating_duration_since(Instant::now())).args(self.arguments());
            let finished = match self.context.run(&command) {
                Ok(finished) => finished,
                Err(RunError::Timeout(_, after, finished)) => return Err(too_long(after, &finished)),
                Err(error) => return Err(error.into()),
            };
            if !is_in_progress(&finished) {
                return judge(&finished, self.summary(paths, started), paths);
            }
            if !self.wait_for_the_other(paths, deadline)? {
                let lock = paths.get("agent_catalog_run_lockfile").unwrap_or_default();
                let message = format!("another run of puppet was in progress all the time; its lock is {lock}");
                return Err(Failure::new(Reason::Timeout, message));
            }
        }
    }

    /// The summary, unless it is of an earlier run.
    fn summary(&self, paths: &Paths, started: Timestamp) -> Option<Summary> {
        let text = self.context.system.read_text(paths.get("lastrunfile")?).ok()?;
        Summary::parse(&text).ok().filter(|summary| summary.is_of_run_since(started))
    }

    /// Asleep until the lock is gone; false when the time is over first.
    fn wait_for_the_other(&self, paths: &Paths, deadline: Instant) -> Result<bool, Failure> {
        let (Some(folder), Some(lock)) = (paths.get("statedir"), paths.get("agent_catalog_run_lockfile")) else {
            return Ok(false);
        };
        tracing::info!("waiting for another run of puppet to end: {lock}");
        let end = deadline.min(self.context.deadline.checked_sub(RESERVE).unwrap_or(deadline));
        Ok(self.context.system.wait_for(folder, end, |system| !system.exists(lock))? && Instant::now() < end)
    }
}

pub(super) fn parse_paths(text: &str) -> Paths {
    let pairs = text.lines().filter_map(|line| line.split_once(" = "));
    Paths(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
}

fn is_in_progress(finished: &Finished) -> bool {
    let says = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(IN_PROGRESS);
    finished.code == Some(1) && (says(&finished.stdout) || says(&finished.stderr))
}

/// What the exit code means, as `--detailed-exitcodes` has it.
fn judge(finished: &Finished, summary: Option<Summary>, paths: &Paths) -> Result<Json, Failure> {
    let mut detail = summary.as_ref().map_or_else(|| json!({}), Summary::detail);
    detail["exit_code"] = json!(finished.code);
    detail["duration_ms"] = json!(u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX));
    if summary.is_some() {
        detail["summary"] = json!(paths.get("lastrunfile"));
    }
    let said = first_error(finished);
    let because = said.as_ref().map_or_else(String::new, |line| format!(": {line}"));
    let message = match (finished.code, &summary) {
        (Some(0 | 2), Some(summary)) => match summary.failure() {
            None => return Ok(detail),
            // Arguments of the user's own may have taken the detailed exit codes away.
            Some(failure) => format!("{failure}{because}"),
        },
        (Some(0 | 2), None) => {
            let file = paths.get("lastrunfile").unwrap_or_default();
            format!("puppet {} and left no summary of this run in {file}", finished.ending())
        }
        (Some(4 | 6), summary) => {
            let failure = summary.as_ref().and_then(Summary::failure);
            format!("{}{because}", failure.unwrap_or_else(|| "resources failed".to_owned()))
        }
        (Some(1), _) => {
            let said = said.unwrap_or_else(|| shorten(&last_line(finished)));
            format!("the catalogue did not compile or the run did not begin: {said}")
        }
        _ => format!("puppet {}{because}", finished.ending()),
    };
    Err(Failure::new(Reason::CommandFailed, message).with_detail(detail))
}

fn too_long(after: Duration, finished: &Finished) -> Failure {
    let said = first_error(finished).unwrap_or_else(|| shorten(&last_line(finished)));
    let said = if said.is_empty() { "it had said nothing".to_owned() } else { format!("it had said: {said}") };
    let message = format!("puppet did not end within {:.0} s and was killed; {said}", after.as_secs_f64());
    Failure::new(Reason::Timeout, message)
}

/// The first line that puppet itself marks as an error, with its file and line.
fn first_error(finished: &Finished) -> Option<String> {
    let text = String::from_utf8_lossy(&finished.stderr);
    let line = text.lines().find(|line| line.starts_with("Error: ") && !line.starts_with(NOISE))?;
    Some(shorten(line.trim_start_matches("Error: ")))
}

fn last_line(finished: &Finished) -> String {
    let noise = |line: &&str| line.trim().is_empty() || line.starts_with(NOISE);
    let streams = [&finished.stderr, &finished.stdout].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let last = streams.iter().find_map(|text| text.lines().rev().find(|line| !noise(line)));
    last.unwrap_or_default().trim().to_owned()
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
