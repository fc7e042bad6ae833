//! A program that works for minutes, is watched line by line, and must leave nothing behind.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Split};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a program may clean up after it was asked to end. Packer waits for an instance to be terminated.
const CLEAN_UP: Duration = Duration::from_secs(300);
/// After this long without a line, whatever was said last holds on.
const SILENCE: Duration = Duration::from_secs(1);
/// How long output may still come after the program's group was killed.
const DRAIN: Duration = Duration::from_secs(5);

/// The wish of whoever started this program that it ends.
pub struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    /// From now on SIGINT, SIGTERM and SIGHUP end nothing by themselves.
    ///
    /// # Errors
    /// When the signals cannot be received.
    pub fn listen() -> io::Result<Stop> {
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal and gives its name.
    pub async fn requested(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// What to start.
pub struct Program<'a> {
    /// The program and its arguments.
    pub words: &'a [String],
    /// The folder to run it in.
    pub folder: &'a Path,
    /// Variables to set, after those to take away.
    pub set: &'a [(String, String)],
    /// Variables to take away.
    pub unset: &'a [&'a str],
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The signal by which we were asked to end, if we were.
    pub stopped_by: Option<&'static str>,
}

impl Program<'_> {
    /// Runs it in a process group of its own and hands every line it prints to `hear`, and nothing
    /// when it has been silent for a moment.
    ///
    /// Asked to stop, the program gets SIGTERM and time to clean up; asked again, or late, its whole
    /// group is killed. When this returns, all of the
    /// group have been killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&self, stop: &mut Stop, hear: &mut dyn FnMut(Option<String>)) -> io::Result<Ended> {
        let (program, arguments) = self.words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.unset.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.envs(self.set.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn()?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let mut output = lines(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut errors = lines(child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let (mut output_open, mut errors_open) = (true, true);
        let mut stopped_by = None;
        let mut patience = None;
        let status = loop {
            tokio::select! {
                line = output.next_segment(), if output_open => output_open = heard(line, hear),
                line = errors.next_segment(), if errors_open => errors_open = heard(line, hear),
                status = child.wait() => break status?,
                name = stop.requested() => match stopped_by {
                    None => {
                        stopped_by = Some(name);
                        patience = Some(Instant::now() + CLEAN_UP);
                        group.ask_leader();
                    }
                    Some(_) => group.kill(),
                },
                () = sleep(SILENCE) => hear(None),
                () = wait_until(patience) => {
                    patience = None;
                    group.kill();
                }
            }
        };
        // Children that outlive their parent would hold the pipes open, and the cloud's keys in memory.
        group.kill();
        let drained = Instant::now() + DRAIN;
        while output_open || errors_open {
            tokio::select! {
                line = output.next_segment(), if output_open => output_open = heard(line, hear),
                line = errors.next_segment(), if errors_open => errors_open = heard(line, hear),
                () = sleep_until(drained) => break,
            }
        }
        Ok(Ended { status, stopped_by })
    }
}

/// A process group; killed when it goes out of scope, so that an early return leaves nobody.
struct Group(Option<Pid>);

impl Group {
    /// Asks the leader alone: packer's children end by its own orders.
    fn ask_leader(&self) {
        if let Some(leader) = self.0 {
            // It may be gone already.
            let _ = kill(leader, Signal::SIGTERM);
        }
    }

    fn kill(&self) {
        if let Some(leader) = self.0 {
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn wait_until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn lines<R: AsyncRead + Unpin>(pipe: R) -> Split<BufReader<R>> {
    BufReader::new(pipe).split(b'\n')
}

/// Hands a line on; whether more may come.
fn heard(line: io::Result<Option<Vec<u8>>>, hear: &mut dyn FnMut(Option<String>)) -> bool {
    match line {
        Ok(Some(bytes)) => {
            hear(Some(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned()));
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, meanwhile: fn(u32)) -> (Ended, Vec<String>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stop = Stop::listen().unwrap();
            let words = ["sh", "-c", script].map(str::to_owned);
            let set = [("COLOUR".to_owned(), "blue".to_owned())];
            let program = Program { words: &words, folder: Path::new("/"), set: &set, unset: &["HOME"] };
            let mut said = Vec::new();
            let ended = program
                .run(&mut stop, &mut |line| {
                    let Some(line) = line else { return };
                    if let Some(pid) = line.strip_prefix("ready ") {
                        meanwhile(pid.parse().unwrap());
                    }
                    said.push(line);
                })
                .await
                .unwrap();
            (ended, said)
        })
    }

    fn nothing(_: u32) {}

    fn interrupt_us(_: u32) {
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
    }

    fn is_alive(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    }

    // One test for all that raises signals: they reach every listener of the process.
    #[test]
    fn a_program_is_heard_stopped_and_leaves_nobody() {
        let (ended, mut said) = run("echo one; echo two >&2; printf 'b\\377d'; echo $COLOUR$HOME >&2; exit 3", nothing);
        said.sort();
        assert_eq!((ended.status.code(), ended.stopped_by), (Some(3), None));
        assert_eq!(said, ["blue", "b\u{fffd}d", "one", "two"]);

        let (ended, said) = run("sleep 300 & echo child $!; echo end", nothing);
        assert!(ended.status.success());
        let child = said[0].strip_prefix("child ").unwrap();
        // It was killed before we came back; the kernel may still be taking it down.
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while is_alive(child) {
            assert!(std::time::Instant::now() < end, "a child outlived its parent");
            std::thread::sleep(Duration::from_millis(5));
        }

        let script = "trap 'echo cleaning; kill $child; exit 1' TERM; sleep 300 & child=$!; echo ready $$; wait";
        let (ended, said) = run(script, interrupt_us);
        assert_eq!((ended.status.code(), ended.stopped_by), (Some(1), Some("SIGTERM")));
        assert_eq!(said.last().map(String::as_str), Some("cleaning"));

        let script = "trap 'echo ready $$' TERM; echo ready $$; while :; do sleep 300 & wait; done";
        let (ended, _) = run(script, interrupt_us);
        assert_eq!((ended.status.code(), ended.stopped_by), (None, Some("SIGTERM")), "asked twice, it is killed");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let words = ["/nowhere/packer".to_owned()];
        let program = Program { words: &words, folder: Path::new("/"), set: &[], unset: &[] };
        let ran = runtime.block_on(async { program.run(&mut Stop::listen().unwrap(), &mut |_| {}).await });
        assert_eq!(ran.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
