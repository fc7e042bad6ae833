//! Commands: every one has a deadline, its own process group, and a bounded record of what it said.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::files::Appended;
use super::steps::Steps;
use super::{FileOptions, System};

/// How much of each stream is kept: the last bytes, which hold the cause of a failure.
const TAIL_BYTES: usize = 8 * 1024;
/// Whole output that may be kept when a caller reads it.
const CAPTURE_BYTES: usize = 1024 * 1024;
/// Between SIGTERM and SIGKILL when the deadline has passed.
const GRACE: Duration = Duration::from_secs(2);
/// The PATH of every command, as systemd's own services have it, with Puppet's packages before it.
pub const PATH: &str = "/opt/puppetlabs/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command to run.
#[derive(Clone)]
pub struct Command {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    input: Vec<u8>,
    timeout: Duration,
    folder: Option<String>,
    capture: bool,
    log: Option<(&'static str, FileOptions)>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; none after a signal.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// From start to end.
    pub took: Duration,
    /// What it printed: the last part, or all of it where it was captured.
    pub stdout: Vec<u8>,
    /// The last part of what it printed as errors.
    pub stderr: Vec<u8>,
}

/// Why a command has no result.
#[derive(Debug)]
pub enum RunError {
    /// There is no such program.
    Missing(String),
    /// It could not be started.
    Start(String, io::Error),
    /// It did not end in time and was killed with its process group; what it had said till then.
    Timeout(String, Duration, Box<Finished>),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Missing(program) => write!(f, "{program} is not installed"),
            RunError::Start(program, error) => write!(f, "{program} could not be started: {error}"),
            RunError::Timeout(program, after, _) => {
                write!(f, "{program} did not end within {:.0} s and was killed", after.as_secs_f64())
            }
        }
    }
}

impl std::error::Error for RunError {}

impl Finished {
    /// Whether it exited 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// `exited 3` or `was killed by signal 9`.
    pub fn ending(&self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("exited {code}"),
            (None, Some(signal)) => match Signal::try_from(signal) {
                Ok(name) => format!("was killed by {name}"),
                Err(_) => format!("was killed by signal {signal}"),
            },
            (None, None) => "ended".to_owned(),
        }
    }

    /// The last lines that it said, errors if there are any, for a person.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let stream = if self.stderr.iter().all(u8::is_ascii_whitespace) { &self.stdout } else { &self.stderr };
        let text = String::from_utf8_lossy(stream);
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].iter().map(|l| (*l).to_owned()).collect()
    }

    /// What it printed, as text without the last newline.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }
}

impl Command {
    /// A program of the PATH, or by its path, to be ended after `timeout`.
    pub fn new(program: impl Into<String>, timeout: Duration) -> Self {
        Command {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            input: Vec::new(),
            timeout,
            folder: None,
            capture: false,
            log: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Gives it bytes on standard input; a secret goes here and never on the command line.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Runs it in a folder of the root.
    pub fn folder(mut self, folder: impl Into<String>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Keeps up to a mebibyte of its output instead of the last part.
    pub fn capture(mut self) -> Self {
        self.capture = true;
        self
    }

    /// Ends it after another time.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Copies what it says to the end of a file while it runs.
    pub fn copied_to(mut self, log: &'static str, options: FileOptions) -> Self {
        self.log = Some((log, options));
        self
    }

    /// The program's name, for messages.
    pub fn program(&self) -> &str {
        &self.program
    }
}

impl System {
    /// Runs a command to its end or its deadline.
    ///
    /// A daemon that the command leaves behind keeps running: only the command itself is waited for.
    ///
    /// # Errors
    /// When it has no result; an exit code other than 0 is a result.
    pub fn run(&self, command: &Command) -> Result<Finished, RunError> {
        self.run_watched(command, None)
    }

    /// Runs a command that may tell its steps on the way.
    pub(super) fn run_watched(&self, command: &Command, steps: Option<&mut Steps>) -> Result<Finished, RunError> {
        let started = Instant::now();
        let child = self.spawn(command)?;
        let mut watch = Watch::new(child, command, steps).map_err(|e| RunError::Start(command.program.clone(), e))?;
        // Without its log a command runs all the same.
        watch.log = command.log.and_then(|(log, options)| self.open_to_append(log, options).ok());
        let deadline = started + command.timeout;
        let in_time = watch.until(deadline);
        if !in_time {
            let group = Pid::from_raw(watch.child.id().cast_signed());
            let _ = killpg(group, Signal::SIGTERM);
            let ended = watch.until(Instant::now() + GRACE);
            // Also when the command itself has ended: what it started may have stayed.
            let _ = killpg(group, Signal::SIGKILL);
            if !ended {
                watch.until(Instant::now() + GRACE);
            }
        }
        let status = watch.child.wait().map_err(|e| RunError::Start(command.program.clone(), e))?;
        let finished = watch.finish(status, started.elapsed());
        if in_time {
            Ok(finished)
        } else {
            Err(RunError::Timeout(command.program.clone(), command.timeout, Box::new(finished)))
        }
    }

    fn spawn(&self, command: &Command) -> Result<Child, RunError> {
        // With the path looked up here, std starts a live machine's programs by posix_spawn(3), which
        // copies nothing of this process; with a PATH of its own to search, or a folder, it forks.
        let program = self.find_program(&command.program)?;
        let mut process = std::process::Command::new(program);
        process
            .args(&command.args)
            .env("PATH", PATH)
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            .stdin(if command.input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if self.is_live() {
            if let Some(folder) = &command.folder {
                process.current_dir(folder);
            }
        } else {
            let folder = command.folder.clone().unwrap_or_else(|| "/".to_owned());
            let root = self.root().to_owned();
            // SAFETY: between fork and exec only chroot(2) and chdir(2) are called, both of which may be called there.
            #[expect(unsafe_code, reason = "chroot(2) has no safe form in std::process::Command")]
            unsafe {
                process.pre_exec(move || {
                    nix::unistd::chroot(&root)?;
                    nix::unistd::chdir(folder.as_str())?;
                    Ok(())
                });
            }
        }
        process.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RunError::Missing(command.program.clone()),
            _ => RunError::Start(command.program.clone(), error),
        })
    }
}

impl System {
    /// Whether a program can be run: one of the [`PATH`], or by its path.
    pub fn has_program(&self, program: &str) -> bool {
        self.find_program(program).is_ok_and(|path| self.exists(path))
    }

    /// The path of a program: the first of its name in [`PATH`] that may be executed.
    fn find_program(&self, program: &str) -> Result<String, RunError> {
        if program.contains('/') {
            return Ok(program.to_owned());
        }
        let executable = |path: &String| {
            self.metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        let mut candidates = PATH.split(':').map(|folder| format!("{folder}/{program}"));
        candidates.find(executable).ok_or_else(|| RunError::Missing(program.to_owned()))
    }
}

/// A running child with its streams, watched by notification.
struct Watch<'a> {
    child: Child,
    /// Readable when the child has ended.
    ended: OwnedFd,
    input: Option<(std::process::ChildStdin, Vec<u8>)>,
    streams: [Option<Stream>; 2],
    steps: Option<&'a mut Steps>,
    log: Option<Appended>,
}

struct Stream {
    pipe: std::fs::File,
    kept: VecDeque<u8>,
    limit: usize,
    /// Not at its end yet; a pipe at its end would wake the poll for ever.
    open: bool,
}

impl<'a> Watch<'a> {
    fn new(mut child: Child, command: &Command, steps: Option<&'a mut Steps>) -> io::Result<Self> {
        let ended = pidfd(child.id())?;
        let limit = if command.capture { CAPTURE_BYTES } else { TAIL_BYTES };
        let stream = |fd: Option<OwnedFd>, limit| -> io::Result<Option<Stream>> {
            let Some(fd) = fd else { return Ok(None) };
            nonblocking(&fd)?;
            Ok(Some(Stream { pipe: fd.into(), kept: VecDeque::new(), limit, open: true }))
        };
        let stdout = stream(child.stdout.take().map(OwnedFd::from), limit)?;
        let stderr = stream(child.stderr.take().map(OwnedFd::from), TAIL_BYTES)?;
        let input = match child.stdin.take() {
            Some(pipe) => {
                nonblocking(&pipe)?;
                Some((pipe, command.input.clone()))
            }
            None => None,
        };
        Ok(Watch { child, ended, input, streams: [stdout, stderr], steps, log: None })
    }

    /// Moves bytes until the child has ended (true) or the deadline passes (false).
    fn until(&mut self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left.as_millis().min(60_000)).unwrap_or(PollTimeout::MAX);
            let ended = {
                let mut fds = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
                fds.extend(
                    self.streams
                        .iter()
                        .flatten()
                        .filter(|s| s.open)
                        .map(|s| PollFd::new(s.pipe.as_fd(), PollFlags::POLLIN)),
                );
                fds.extend(self.input.iter().map(|(pipe, _)| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
                fds.extend(self.steps.iter().map(|steps| PollFd::new(steps.as_fd(), PollFlags::POLLIN)));
                let _ = poll(&mut fds, timeout);
                fds[0].any().unwrap_or(false)
            };
            // Told steps before output: what a step printed is in the pipes when it is told.
            let told = self.steps.as_mut().map_or_else(Vec::new, |steps| steps.told());
            self.feed();
            self.streams.iter_mut().flatten().for_each(|stream| stream.drain(&mut self.log));
            for code in told {
                let [stdout, stderr] =
                    self.streams.each_mut().map(|s| s.as_mut().map_or_else(Vec::new, |s| s.kept.drain(..).collect()));
                if let Some(steps) = &mut self.steps {
                    steps.ended(code, stdout, stderr);
                }
            }
            if ended {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    fn feed(&mut self) {
        let Some((pipe, bytes)) = &mut self.input else {
            return;
        };
        while !bytes.is_empty() {
            match pipe.write(bytes) {
                Ok(count) => drop(bytes.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A child that does not read its input is its own affair; its exit code tells.
                Err(_) => break,
            }
        }
        self.input = None;
    }

    fn finish(self, status: ExitStatus, took: Duration) -> Finished {
        let [stdout, stderr] = self.streams.map(|s| s.map_or_else(Vec::new, |s| s.kept.into()));
        Finished { code: status.code(), signal: status.signal(), took, stdout, stderr }
    }
}

impl Stream {
    /// Reads what is there, and copies it to the log.
    fn drain(&mut self, log: &mut Option<Appended>) {
        let mut buffer = [0; 8192];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    self.open = false;
                    return;
                }
                Ok(count) => {
                    self.kept.extend(&buffer[..count]);
                    if let Some(log) = log {
                        let _ = log.add(&buffer[..count], false);
                    }
                    let over = self.kept.len().saturating_sub(self.limit);
                    self.kept.drain(..over);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.open &= error.kind() == io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }
}

fn nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and returns a new descriptor that nobody else owns.
    #[expect(unsafe_code, reason = "neither std nor nix has pidfd_open(2) in a stable form")]
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Result<Finished, RunError> {
        System::new("/").run(&Command::new("/bin/sh", timeout).args(["-c", script]))
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn every_ending_is_told() {
        assert!(sh("exit 0", LONG).unwrap().success());
        assert_eq!(sh("exit 3", LONG).unwrap().ending(), "exited 3");
        assert_eq!(sh("kill -9 $$", LONG).unwrap().ending(), "was killed by SIGKILL");
    }

    #[test]
    fn the_last_lines_of_errors_are_kept() {
        let finished = sh("echo out; i=0; while [ $i -lt 5000 ]; do echo line $i >&2; i=$((i+1)); done", LONG).unwrap();
        assert_eq!(finished.last_lines(2), ["line 4998", "line 4999"]);
        assert!(finished.stderr.len() <= TAIL_BYTES);
    }

    #[test]
    fn input_larger_than_a_pipe_arrives() {
        let bytes = vec![b'x'; 300_000];
        let command = Command::new("wc", LONG).arg("-c").input(bytes);
        assert_eq!(System::new("/").run(&command).unwrap().text().trim(), "300000");
    }

    #[test]
    fn the_deadline_ends_the_whole_process_group() {
        let error = sh("sleep 1000 & echo $!; wait", Duration::from_millis(300)).unwrap_err();
        let RunError::Timeout(_, _, finished) = error else { panic!("{error}") };
        let pid: i32 = finished.text().trim().parse().unwrap();
        // The signal is sent; the process may need a moment to die of it.
        let gone = pidfd(pid.cast_unsigned()).map_or(true, |fd| {
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(5000u16)).unwrap() == 1
        });
        assert!(gone);
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_open_is_not_waited_for() {
        let finished = sh("sleep 20 & echo $!", LONG).unwrap();
        assert!(finished.success());
        let pid: i32 = finished.text().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn what_it_says_is_also_in_the_log_and_a_log_that_cannot_be_is_no_failure() {
        let tree = tempfile::tempdir().unwrap();
        let log: &'static str = Box::leak(tree.path().join("log/output").to_str().unwrap().into());
        let run = |script: &str, log| {
            let command = Command::new("/bin/sh", LONG).args(["-c", script]).copied_to(log, FileOptions::mode(0o640));
            System::new("/").run(&command).unwrap()
        };
        assert_eq!(run("echo out; echo err >&2", log).text(), "out", "its own copy is whole");
        run("echo more", log);
        let mut lines: Vec<String> = std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.pop().as_deref(), Some("more"));
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
        assert!(run("true", "/proc/none/log").success());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = System::new("/").run(&Command::new("no-such-program", LONG)).unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed");
    }
}
