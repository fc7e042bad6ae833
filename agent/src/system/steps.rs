//! A list of shell commands in one shell, with the ending of each.
//!
//! The commands share what they set (`cd`, variables, functions, `set -e`), as one script does. Each
//! is a file that the shell reads with `.`; after each the shell tells its exit code over a named pipe
//! and waits for an answer, so that output and time are told apart exactly. `command` before the `.`
//! keeps a syntax error from ending the shell. The pipes have names and no numbers, so a command that
//! closes or reuses a descriptor does no harm, and a daemon that it starts inherits none.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::command::{Command, Finished, RunError};
use super::{FileOptions, System};

/// A shell adds this to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

impl System {
    /// Runs shell commands in one shell: how each ended that did, and how the shell ended.
    ///
    /// Each command has a name, which the shell uses in its messages. There are fewer endings than commands when one ended the shell (`exit`, `exec`, `set -e`, a
    /// signal); then the shell's ending is that command's. `shell` is a POSIX shell without arguments.
    /// `folder` is made, and removed afterwards: the commands may hold secrets, so nobody else can look into it.
    ///
    /// # Errors
    /// When the folder cannot be made, beside the errors of [`System::run`].
    pub fn run_steps(
        &self,
        shell: Command,
        folder: &str,
        commands: &[(String, String)],
    ) -> io::Result<(Vec<Finished>, Result<Finished, RunError>)> {
        self.remove(folder)?;
        // Those above it stay open to all.
        self.make_dir(Path::new(folder).parent().unwrap_or(Path::new("/")), 0o755, None)?;
        self.make_dir(folder, 0o700, None)?;
        let ran = self.in_folder(shell, folder, commands);
        self.remove(folder)?;
        ran
    }

    fn in_folder(
        &self,
        shell: Command,
        folder: &str,
        commands: &[(String, String)],
    ) -> io::Result<(Vec<Finished>, Result<Finished, RunError>)> {
        let mut script = String::new();
        for (name, text) in commands {
            let file = format!("{folder}/{name}");
            self.write(&file, format!("{text}\n"), FileOptions::mode(0o600))?;
            let _ = writeln!(script, "command . {file}");
            // Under `set -x` these lines are traced too; into a file, for they are not the user's.
            let tell = format!("command echo $? >{folder}/told; read -r _kiln <{folder}/go");
            let _ = writeln!(script, "{{ {tell}; }} 2>>{folder}/trace");
        }
        let file = format!("{folder}/list");
        self.write(&file, script, FileOptions::mode(0o600))?;
        let mut steps = Steps::new(self, folder)?;
        let shell = self.run_watched(&shell.arg(file), Some(&mut steps));
        Ok((steps.ended, shell))
    }
}

/// A word that a shell reads as it is.
pub fn shell_quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The steps of a running script.
pub(super) struct Steps {
    told: File,
    go: File,
    /// The start of a line that has not ended.
    line: Vec<u8>,
    began: Instant,
    ended: Vec<Finished>,
}

impl Steps {
    fn new(system: &System, folder: &str) -> io::Result<Self> {
        let pipe = |name: &str| {
            let path = system.path(format!("{folder}/{name}"));
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            // Open for both, so that neither side ever meets a pipe without its other end.
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
        };
        Ok(Steps { told: pipe("told")?, go: pipe("go")?, line: Vec::new(), began: Instant::now(), ended: Vec::new() })
    }

    /// Readable when a step has ended.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }

    /// The exit codes that were told since the last call; the shell waits after each.
    pub(super) fn told(&mut self) -> Vec<i32> {
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = self.told.read(&mut buffer) {
            self.line.extend(&buffer[..count]);
        }
        let Some(end) = self.line.iter().rposition(|b| *b == b'\n') else { return Vec::new() };
        let lines: Vec<u8> = self.line.drain(..=end).collect();
        String::from_utf8_lossy(&lines).lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// Keeps a step with what it printed, and lets the shell go on.
    pub(super) fn ended(&mut self, code: i32, stdout: Vec<u8>, stderr: Vec<u8>) {
        let signal = Some(code - SIGNALLED).filter(|number| Signal::try_from(*number).is_ok());
        self.ended.push(Finished { code: Some(code), signal, took: self.began.elapsed(), stdout, stderr });
        self.began = Instant::now();
        let _ = self.go.write_all(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn run(commands: &[&str]) -> (Vec<Finished>, Result<Finished, RunError>) {
        let tree = tempfile::tempdir().unwrap();
        let folder = tree.path().join("steps");
        let commands: Vec<_> =
            (1..).zip(commands).map(|(n, text)| (format!("command-{n}"), (*text).to_owned())).collect();
        let shell = Command::new("/bin/sh", Duration::from_secs(20)).env("GIVEN", "1");
        let ran = System::new("/").run_steps(shell, folder.to_str().unwrap(), &commands);
        assert!(!folder.exists(), "the commands stayed behind");
        ran.unwrap()
    }

    fn codes(commands: &[&str]) -> (Vec<Option<i32>>, Option<i32>) {
        let (steps, shell) = run(commands);
        (steps.iter().map(|s| s.code).collect(), shell.unwrap().code)
    }

    #[test]
    fn commands_share_one_shell_and_each_has_its_own_output() {
        let (steps, shell) = run(&[
            "cd /usr; A=$GIVEN; f() { echo fun; }; exec 3>&1 9>&1; set -u -C",
            "pwd; echo $A >&2",
            "f",
            "cat <<X\nhere $A\nX",
        ]);
        let printed: Vec<String> = steps.iter().map(Finished::text).collect();
        assert_eq!(printed, ["", "/usr", "fun", "here 1"]);
        assert_eq!(steps[1].stderr, b"1\n");
        assert!(shell.unwrap().success());
    }

    #[test]
    fn a_bad_command_is_told_and_the_later_ones_run() {
        let all = |codes: &[i32]| (codes.iter().copied().map(Some).collect(), Some(0));
        assert_eq!(codes(&["false", "true"]), all(&[1, 0]));
        assert_eq!(codes(&["if", "(exit 3)", "true"]), all(&[2, 3, 0]));
        assert_eq!(codes(&["echo \"open", "no-such-program", "read x"]), all(&[2, 127, 1]));
        assert_eq!(codes(&["readonly Q=1", "Q=2", "return 5", "true"]), all(&[0, 2, 5, 0]));
        assert_eq!(codes(&["# nothing", ""]), all(&[0, 0]));
    }

    #[test]
    fn a_command_that_ends_the_shell_is_the_last_one() {
        for (commands, ending) in [
            (vec!["true", "exit 4", "true"], (vec![Some(0)], Some(4))),
            (vec!["set -e", "false", "true"], (vec![Some(0)], Some(1))),
            (vec!["exec sh -c 'exit 6'", "true"], (vec![], Some(6))),
            (vec!["kill -9 $$", "true"], (vec![], None)),
        ] {
            assert_eq!(codes(&commands), ending, "{commands:?}");
        }
    }

    #[test]
    fn a_killed_command_has_its_signal_and_a_daemon_is_not_waited_for() {
        let (steps, shell) = run(&["sleep 30 & echo $!", "sh -c 'kill -9 $$'", "true"]);
        let pid: i32 = steps[0].text().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert_eq!((steps[1].code, steps[1].signal), (Some(137), Some(9)));
        assert!(shell.unwrap().success());
        assert!(steps[0].took < Duration::from_secs(10));
    }

    #[test]
    fn a_trace_of_the_shell_shows_the_commands_alone() {
        let (steps, shell) = run(&["set -x", "true", "set -euC; false"]);
        assert_eq!(steps.len(), 2);
        let trace = [steps[1].stderr.clone(), shell.unwrap().stderr].concat();
        let trace = String::from_utf8(trace).unwrap();
        assert!(!trace.contains("_kiln") && trace.contains("+ true\n") && trace.contains("+ false\n"), "{trace}");
    }

    #[test]
    fn the_deadline_ends_the_command_that_runs() {
        let tree = tempfile::tempdir().unwrap();
        let folder = tree.path().join("steps");
        let commands = ["true", "echo slow; sleep 1000", "true"].map(|text| (text[..4].to_owned(), text.to_owned()));
        let shell = Command::new("/bin/sh", Duration::from_millis(500));
        let (steps, shell) = System::new("/").run_steps(shell, folder.to_str().unwrap(), &commands).unwrap();
        assert_eq!(steps.len(), 1);
        let Err(RunError::Timeout(_, _, slow)) = shell else { panic!("{shell:?}") };
        assert_eq!(slow.text(), "slow");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        let (steps, _) = run(&[&format!("echo {}", shell_quote("it's $HOME `x` \"y\""))]);
        assert_eq!(steps[0].text(), "it's $HOME `x` \"y\"");
    }
}
