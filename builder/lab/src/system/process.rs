//! Programs the lab starts: tools that do one step, and the servers and machines it lives from.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::pids::Identity;

/// Runs a program to its end with this input, and gives what it printed and how it ended. What it
/// left running in the background is not waited for.
///
/// # Errors
/// When it cannot be started, and when it has not ended within this time; it is killed then with
/// all it started.
pub fn capture(command: &[OsString], input: &[u8], within: Duration) -> io::Result<Output> {
    let mut child = spawn(command, Stdio::piped())?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        thread::spawn(move || stdin.write_all(&input));
    }
    finish(command, child, within)
}

/// As [`capture`], with a file as the program's input, however large it is.
///
/// # Errors
/// As those of [`capture`].
pub fn feed(command: &[OsString], input: File, within: Duration) -> io::Result<Output> {
    finish(command, spawn(command, input.into())?, within)
}

fn spawn(command: &[OsString], stdin: Stdio) -> io::Result<Child> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut program = Command::new(program);
    program.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()
}

fn finish(command: &[OsString], mut child: Child, within: Duration) -> io::Result<Output> {
    let program = &command[0];
    let group = child.id() as i32;
    let (stdout, stderr) = (Reader::start(child.stdout.take()), Reader::start(child.stderr.take()));
    // The child is not waited for yet, so its pid is its own.
    let ended = Identity::of(group).is_none_or(|identity| identity.wait_gone(within));
    if !ended {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let status = child.wait()?;
    if !ended {
        let said = format!("{} had not ended after {} s", program.to_string_lossy(), within.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, said));
    }
    Ok(Output { status, stdout: stdout.finish(), stderr: stderr.finish() })
}

/// Takes in what comes from a pipe.
struct Reader {
    taken: Arc<Mutex<Vec<u8>>>,
    closed: mpsc::Receiver<()>,
}

impl Reader {
    fn start(from: Option<impl Read + Send + 'static>) -> Reader {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (close, closed) = mpsc::channel();
        if let Some(mut from) = from {
            let to = Arc::clone(&taken);
            thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(length @ 1..) = from.read(&mut part) {
                    to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&part[..length]);
                }
                drop(close);
            });
        }
        Reader { taken, closed }
    }

    /// What came, up to the end of the pipe. A process in the background may hold it open for ever;
    /// what it says after the program has ended is not the program's.
    fn finish(self) -> Vec<u8> {
        let _ = self.closed.recv_timeout(Duration::from_secs(1));
        std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs a tool that has to succeed, and gives its output.
///
/// # Errors
/// One sentence with the tool's last words when it fails.
pub fn tool<A: AsRef<OsStr>>(command: &[A], input: &str, within: Duration) -> io::Result<String> {
    let command: Vec<OsString> = command.iter().map(|part| part.as_ref().to_owned()).collect();
    let output = capture(&command, input.as_bytes(), within)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
    let name = command[0].to_string_lossy();
    Err(io::Error::other(format!("{name} failed ({}): {}", output.status, last.trim())))
}

/// Starts the lab's daemon: a session of its own that no terminal reaches, its words in a log, and
/// one pipe on which it says how the start went.
///
/// # Errors
/// When it cannot be started.
pub fn daemon(program: &Path, args: &[OsString], log: File) -> io::Result<(Identity, ChildStdout)> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/");
    // SAFETY: setsid is safe to call between fork and exec, and nothing else is called.
    #[expect(unsafe_code, reason = "std has no way to start a session")]
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
    }
    let mut child = command.spawn()?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let identity = Identity::of(child.id() as i32).ok_or_else(|| ended_at_once(&mut child))?;
    Ok((identity, output))
}

/// Starts a server that belongs to the lab, in a process group of its own and with its words in a
/// log. It is in the namespace of the calling thread.
///
/// # Errors
/// When it cannot be started.
pub fn server(command: &[OsString], log: File) -> io::Result<Child> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .current_dir("/")
        .spawn()
}

/// Starts a machine's supervisor inside its control group, in a session of its own, with the
/// console in a log. Its last handle ends it.
///
/// # Errors
/// When it cannot be started.
pub fn machine(
    command: &[OsString],
    environment: &[(&str, &OsStr)],
    console: File,
) -> io::Result<tokio::process::Child> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    tokio::process::Command::new(program)
        .args(args)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .process_group(0)
        .current_dir("/")
        .spawn()
}

/// Waits for a child that was asked to end, and answers how it did.
pub fn reap(child: &mut Child) -> Option<ExitStatus> {
    child.wait().ok()
}

fn ended_at_once(child: &mut Child) -> io::Error {
    let status = reap(child).map_or_else(|| "unknown status".to_owned(), |status| status.to_string());
    io::Error::other(format!("it ended at once ({status})"))
}

/// Becomes another program. The answer is the reason why it could not.
pub fn become_program(command: &[OsString], environment: &[(String, String)]) -> io::Error {
    let Some((program, args)) = command.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    Command::new(program).args(args).envs(environment.iter().map(|(name, value)| (name, value))).exec()
}

/// Whether the path has this program.
pub fn present(program: &str) -> bool {
    // `ip` and `nsenter` of some systems lie where an unprivileged path does not look.
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    #[test]
    fn what_a_tool_reads_and_says_comes_through() {
        let output = capture(&words(&["sh", "-c", "cat; echo no >&2; exit 3"]), b"in", Duration::from_secs(5));
        let output = output.unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"in"[..], &b"no\n"[..]));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_tool_that_hangs_is_killed_with_what_it_started() {
        let hang = words(&["sh", "-c", "sleep 60 & sleep 60"]);
        let error = capture(&hang, b"", Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_runs_on_in_the_background_is_not_waited_for() {
        let start = std::time::Instant::now();
        let leave = words(&["sh", "-c", "setsid sleep 30 & echo done"]);
        let output = capture(&leave, b"", Duration::from_secs(20)).unwrap();
        assert_eq!(output.stdout, b"done\n");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_failure_is_told_with_the_last_words() {
        let error = tool(&["sh", "-c", "echo first >&2; echo last >&2; exit 1"], "", Duration::from_secs(5));
        assert_eq!(error.unwrap_err().to_string(), "sh failed (exit status: 1): last");
    }
}
