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
            let before = self.summary_text(paths);
            let command = self.command(deadline.saturating_duration_since(Instant::now())).args(self.arguments());
            let finished = match self.context.run(&self.context.shown(command)) {
                Ok(finished) => finished,
                Err(RunError::Timeout(_, after, finished)) => return Err(too_long(after, &finished)),
                Err(error) => return Err(error.into()),
            };
            if !is_in_progress(&finished) {
                return judge(&finished, self.summary(paths, started, before.as_deref()), paths);
            }
            if !self.wait_for_the_other(paths, deadline)? {
                let lock = paths.get("agent_catalog_run_lockfile").unwrap_or_default();
                let message = format!("another run of puppet was in progress all the time; its lock is {lock}");
                return Err(Failure::new(Reason::Timeout, message));
            }
        }
    }

    fn summary_text(&self, paths: &Paths) -> Option<String> {
        self.context.system.read_text(paths.get("lastrunfile")?).ok()
    }

    /// The summary, unless it is of an earlier run. Its clock has whole seconds, so it must also differ
    /// from what was there before.
    fn summary(&self, paths: &Paths, started: Timestamp, before: Option<&str>) -> Option<Summary> {
        let text = self.summary_text(paths).filter(|text| Some(text.as_str()) != before)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{FileOptions, System};
    use std::path::Path;

    fn finished(code: Option<i32>, stdout: &str, stderr: &str) -> Finished {
        let signal = if code.is_none() { Some(9) } else { None };
        Finished { code, signal, took: Duration::from_secs(1), stdout: stdout.into(), stderr: stderr.into() }
    }

    fn summary(failed: u32, restarts: u32) -> Option<Summary> {
        let text = format!("resources: {{changed: 1, failed: {failed}, failed_to_restart: {restarts}, total: 9}}\n");
        Some(Summary::parse(&text).unwrap())
    }

    #[test]
    fn exit_codes_mean_what_puppet_says_they_mean() {
        let facter = "Error: Facter: Permission denied\nError: it broke (file: /a.pp, line: 3)\nError: more\n";
        for (code, stderr, summary, expected) in [
            (Some(0), "", summary(0, 0), Ok(())),
            (Some(2), facter, summary(0, 0), Ok(())),
            (Some(0), "", summary(2, 0), Err("2 of 9 resources failed")),
            (Some(2), "", summary(0, 1), Err("1 of 9 resources failed to restart")),
            (Some(2), "", None, Err("puppet exited 2 and left no summary of this run in /s.yaml")),
            (Some(4), facter, summary(3, 0), Err("3 of 9 resources failed: it broke (file: /a.pp, line: 3)")),
            (Some(6), "", summary(3, 0), Err("3 of 9 resources failed")),
            (Some(6), facter, None, Err("resources failed: it broke (file: /a.pp, line: 3)")),
            (Some(1), facter, None, Err("the run did not begin: it broke (file: /a.pp, line: 3)")),
            (Some(1), "", None, Err("the run did not begin: Notice: Skipping run; administratively disabled")),
            (Some(127), "", None, Err("puppet exited 127")),
            (None, "", None, Err("puppet was killed by SIGKILL")),
        ] {
            let run = finished(code, "Notice: Skipping run; administratively disabled\n", stderr);
            let result = judge(&run, summary, &parse_paths("lastrunfile = /s.yaml\n"));
            match (result, expected) {
                (Ok(detail), Ok(())) => assert_eq!(detail["summary"], "/s.yaml"),
                (Err(failure), Err(message)) => {
                    assert!(failure.message.ends_with(message), "{code:?}: {}", failure.message);
                    assert_eq!(failure.detail.unwrap()["exit_code"], json!(code));
                }
                (result, expected) => panic!("{code:?}: {result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn only_an_agent_that_found_another_is_in_progress() {
        let notice = "Notice: Run of Puppet configuration client already in progress; skipping  (/l exists)\n";
        assert!(is_in_progress(&finished(Some(1), notice, "")));
        assert!(!is_in_progress(&finished(Some(0), notice, "")));
        assert!(!is_in_progress(&finished(Some(1), "Notice: other\n", "Error: other\n")));
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let said = first_error(&finished(Some(1), "", &format!("Error: {}\n", "é".repeat(1000)))).unwrap();
        assert_eq!(said.chars().count(), LINE + 1);
    }

    /// Settings from user-data, on this machine, and paths in a folder of the test's own.
    fn with_real_puppet(folder: &Path, manifest: &str, more: &str, test: impl FnOnce(&Puppet<'_>, &Paths)) {
        let folder = folder.display();
        let text = format!(
            "{{puppet: {{mode: apply, manifest: {folder}/site.pp, {more} exec_args: ['--confdir={folder}/conf', \
             '--vardir={folder}/var', '--publicdir={folder}/public', '--rundir={folder}/run', '--logdir={folder}/log']}}}}"
        );
        System::new("/").make_dir(format!("{folder}/tree"), 0o755, None).unwrap();
        let mut context = Context::for_test(Path::new(&format!("{folder}/tree")), &text);
        context.system = System::new("/");
        let config = kiln_schema::yaml::read::<super::super::config::Config>(&context.config, "").value.unwrap();
        context.system.write(format!("{folder}/site.pp"), manifest, FileOptions::default()).unwrap();
        match Puppet::find(&config.puppet, &context) {
            Ok(puppet) => {
                test(&puppet, &parse_paths(&format!("lastrunfile = {folder}/public/last_run_summary.yaml\n")));
            }
            Err(failure) => crate::testing::skip(&failure.message),
        }
    }

    #[test]
    fn real_puppet_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let good = format!("file {{ '{path}/out': ensure => file, content => 'x' }}\n");
        with_real_puppet(folder.path(), &good, "", |puppet, paths| {
            let changed = puppet.converge(paths).unwrap();
            assert_eq!((&changed["exit_code"], &changed["changed"]), (&json!(2), &json!(1)), "{changed}");
            let same = puppet.converge(paths).unwrap();
            assert_eq!((&same["exit_code"], &same["changed"]), (&json!(0), &json!(0)), "{same}");
        });
        let bad = format!("file {{ '{path}/no/such/folder': ensure => file }}\n");
        with_real_puppet(folder.path(), &bad, "tries: 2,", |puppet, paths| {
            let failure = puppet.converge(paths).unwrap_err();
            assert!(failure.message.contains("of 8 resources failed: Could not set 'file' on ensure"), "{failure:?}");
            assert!(failure.message.ends_with("(after 2 tries)"), "{failure:?}");
        });
        // The summary of the run before is there, and is not taken for this one's.
        with_real_puppet(folder.path(), "file { '/x':\n  ensure =>\n}}\n", "", |puppet, paths| {
            let failure = puppet.converge(paths).unwrap_err();
            assert!(failure.message.contains("Syntax error at '}' (file: "), "{failure:?}");
            assert_eq!(failure.detail.unwrap().get("failed"), None);
        });
    }

    #[test]
    fn a_run_that_takes_too_long_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        with_real_puppet(folder.path(), "exec { '/bin/sleep 600': }\n", "timeout: 1s,", |puppet, paths| {
            let failure = puppet.converge(paths).unwrap_err();
            assert_eq!(failure.reason, Reason::Timeout);
            assert!(failure.message.starts_with("puppet did not end within 1 s and was killed; it had said"));
        });
    }

    #[test]
    fn another_run_is_waited_for_until_its_lock_is_gone() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "puppet:");
        let settings = Settings::default();
        let puppet = Puppet { settings: &settings, context: &context };
        let paths = parse_paths("statedir = /state\nagent_catalog_run_lockfile = /state/lock\n");
        context.system.write("/state/lock", "1", FileOptions::default()).unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        assert!(!puppet.wait_for_the_other(&paths, soon).unwrap());
        let system = context.system.clone();
        let other = std::thread::spawn(move || system.remove("/state/lock").unwrap());
        assert!(puppet.wait_for_the_other(&paths, Instant::now() + Duration::from_secs(20)).unwrap());
        other.join().unwrap();
    }
}
