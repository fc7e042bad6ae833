//! A program that works for minutes, is watched line by line, and must leave nothing behind.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use kiln_lab::Identity;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval_at, sleep_until};

use super::files;
use super::follow::Follow;

/// How long a program may clean up after it was asked to end. Packer waits for an instance to be terminated.
pub const CLEAN_UP: Duration = Duration::from_secs(300);
/// How often whoever listens gets a turn though no line has come.
const TICK: Duration = Duration::from_secs(1);

/// The name of a deadline among the signals that end something.
pub const DEADLINE: &str = "its deadline";

/// The wish of whoever started this program that it ends.
pub struct Stop {
    deadline: Option<Instant>,
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
            deadline: None,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// From now on a deadline, too, is a wish that it ends: once, as a signal that comes then.
    pub fn after(&mut self, limit: Option<Duration>) {
        self.deadline = limit.map(|limit| Instant::now() + limit);
    }

    /// Waits for a signal or the deadline and gives its name.
    pub async fn requested(&mut self) -> &'static str {
        tokio::select! {
            () = wait_until(self.deadline) => {
                self.deadline = None;
                DEADLINE
            }
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
    /// Where all goes that it prints. Not a pipe: it ends the program when whoever reads it is killed,
    /// before the program could clean up, and what was said last would be lost.
    pub output: &'a Path,
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
    /// Runs it in a process group of its own and hands every line it prints to `hear`, and once a second
    /// nothing, for what changes with time alone. `started` learns which process it is, before it has done much.
    ///
    /// Asked to stop, the program gets SIGTERM and time to clean up; asked again, or late, its whole
    /// group is killed. When this returns, all of the group have been killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(
        &self,
        stop: &mut Stop,
        started: impl FnOnce(Identity),
        hear: &mut dyn FnMut(Option<String>),
    ) -> io::Result<Ended> {
        let (program, arguments) = self.words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let output = files::private_log(self.output)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        self.unset.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.envs(self.set.iter().map(|(name, value)| (name, value)));
        let mut said = Follow::start(self.output)?;
        let mut child = command.spawn()?;
        // Its end of the file is the child's alone.
        drop(command);
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Group(pid.map(Pid::from_raw));
        pid.and_then(Identity::of).map(started);
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        let mut stopped_by = None;
        let mut patience = None;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = said.grown() => said.lines(&mut |line| hear(Some(line))),
                name = stop.requested() => match stopped_by {
                    None => {
                        stopped_by = Some(name);
                        patience = Some(Instant::now() + CLEAN_UP);
                        group.ask_leader();
                    }
                    Some(_) => group.kill(),
                },
                _ = ticks.tick() => hear(None),
                () = wait_until(patience) => {
                    patience = None;
                    group.kill();
                }
            }
        };
        // Children that outlive their parent would keep the cloud's keys in memory.
        group.kill();
        said.last_lines(&mut |line| hear(Some(line)));
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

/// Kills every process of this program that works in this folder: what is left of one whose leader is gone.
/// Somebody who looks into the folder with a shell is none of them.
pub fn end_all_within(folder: &Path, program: &str) {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    for process in entries.filter_map(|entry| Identity::of(entry.file_name().to_str()?.parse().ok()?)) {
        let about = |what: &str| format!("/proc/{}/{what}", process.pid);
        let is_one = std::fs::read_to_string(about("comm")).is_ok_and(|name| name.starts_with(program))
            && std::fs::read_link(about("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        // Looked at by its identity: the signal reaches this very process or none.
        if is_one {
            process.signal(Signal::SIGKILL);
        }
    }
}

async fn wait_until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, meanwhile: fn(u32)) -> (Ended, Vec<String>) {
        run_within(None, script, meanwhile)
    }

    fn run_within(limit: Option<Duration>, script: &str, meanwhile: fn(u32)) -> (Ended, Vec<String>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stop = Stop::listen().unwrap();
            stop.after(limit);
            let words = ["sh", "-c", script].map(str::to_owned);
            let set = [("COLOUR".to_owned(), "blue".to_owned())];
            let folder = tempfile::tempdir().unwrap();
            let output = folder.path().join("output");
            let program =
                Program { words: &words, folder: Path::new("/"), set: &set, unset: &["HOME"], output: &output };
            let mut said = Vec::new();
            let mut identity = None;
            let ended = program
                .run(&mut stop, |process| identity = Some(process), &mut |line| {
                    let Some(line) = line else { return };
                    if let Some(pid) = line.strip_prefix("ready ") {
                        meanwhile(pid.parse().unwrap());
                    }
                    said.push(line);
                })
                .await
                .unwrap();
            assert!(!identity.is_some_and(|process| process.alive()));
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
        let (ended, mut said) =
            run("echo one; echo two >&2; printf 'b\\377d\\n'; printf $COLOUR$HOME >&2; exit 3", nothing);
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

        let script = "trap 'echo cleaning; exit 1' TERM; sleep 300 & wait";
        let limit = Some(Duration::from_millis(300));
        let (ended, said) = run_within(limit, script, nothing);
        assert_eq!((ended.status.code(), ended.stopped_by), (Some(1), Some(DEADLINE)), "late, it is asked to end");
        assert_eq!(said, ["cleaning"]);

        let script = "trap 'echo ready $$' TERM; while :; do sleep 300 & wait; done";
        let (ended, _) = run_within(limit, script, interrupt_us);
        assert_eq!((ended.status.code(), ended.stopped_by), (None, Some(DEADLINE)), "late and asked, it is killed");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let words = ["/nowhere/packer".to_owned()];
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let program = Program { words: &words, folder: Path::new("/"), set: &[], unset: &[], output: &output };
        let ran = runtime.block_on(async { program.run(&mut Stop::listen().unwrap(), drop, &mut |_| {}).await });
        assert_eq!(ran.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
