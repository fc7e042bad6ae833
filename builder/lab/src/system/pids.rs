//! Processes that outlive the command that started them, and how they are found again.
//!
//! A pid alone is not enough: the kernel gives it to another process later. So a pid file holds the
//! pid and the time of the process's start, and a signal goes through a pidfd that was compared with
//! both: it reaches the process that was meant or none.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::files;

/// A process, told from every other that ever has its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: i32,
    /// Clock ticks from the machine's boot to the process's start.
    pub start: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.pid, self.start)
    }
}

impl Identity {
    /// The process that has this pid now; none when there is none, or only its exit status is left.
    pub fn of(pid: i32) -> Option<Identity> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        started(&stat).map(|start| Identity { pid, start })
    }

    /// This process and those that it was started by.
    pub fn ours() -> Vec<Identity> {
        let start = i32::try_from(std::process::id()).ok();
        let parent = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|parent| *parent > 0)
        };
        std::iter::successors(start, parent).filter_map(Identity::of).collect()
    }

    /// Reads what [`Identity::record`] wrote; none when the file is not there or is not one.
    pub fn recorded(path: &Path) -> Option<Identity> {
        parse(&fs::read_to_string(path).ok()?)
    }

    /// Writes the identity to a file of its own.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn record(&self, path: &Path) -> io::Result<()> {
        files::write(path, format!("{self}\n").as_bytes(), 0o644)
    }

    /// Whether the process still runs.
    pub fn alive(&self) -> bool {
        Identity::of(self.pid) == Some(*self)
    }

    /// A handle of this very process; none when it has ended.
    fn handle(&self) -> Option<OwnedFd> {
        // SAFETY: the call takes two numbers and answers a new descriptor, or -1.
        #[expect(unsafe_code, reason = "neither std nor nix has pidfd_open")]
        let handle = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, self.pid, 0);
            (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
        }?;
        // Looked at after the handle is open: from here on the pid cannot come to mean another.
        self.alive().then_some(handle)
    }

    /// Sends a signal; answers whether the process was there to get it.
    pub fn signal(&self, signal: Signal) -> bool {
        self.signal_number(signal as i32)
    }

    /// Sends a signal by number, which real-time signals need.
    pub fn signal_number(&self, signal: i32) -> bool {
        let Some(handle) = self.handle() else { return false };
        // SAFETY: the descriptor is open, and the null pointer asks for the plain form of a signal.
        #[expect(unsafe_code, reason = "neither std nor nix has pidfd_send_signal")]
        let sent = unsafe {
            let none = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal, none, 0)
        };
        sent == 0
    }

    /// Waits until the process has ended; answers false when it has not within this time.
    pub fn wait_gone(&self, within: Duration) -> bool {
        let Some(handle) = self.handle() else { return true };
        let mut ends = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        matches!(poll(&mut ends, timeout), Ok(1..)) || !self.alive()
    }

    /// Ends the process: politely, and by force when it is still there after `patience`.
    /// Answers whether there was anything to end.
    pub fn end(&self, patience: Duration) -> bool {
        if !self.signal(Signal::SIGTERM) {
            return false;
        }
        if !self.wait_gone(patience) {
            self.signal(Signal::SIGKILL);
            self.wait_gone(Duration::from_secs(5));
        }
        true
    }
}

fn parse(text: &str) -> Option<Identity> {
    let (pid, start) = text.trim().split_once(' ')?;
    // Zero and less mean groups of processes to the kernel, and 1 is never a process of a lab.
    let pid = pid.parse().ok().filter(|pid| *pid > 1)?;
    Some(Identity { pid, start: start.parse().ok()? })
}

/// The start time in a line of `/proc/PID/stat`; none for a process of which only the status is left.
fn started(stat: &str) -> Option<u64> {
    // The second field is the program's name in brackets and may itself hold spaces and brackets.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(start)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "starts real processes to look at and to end")]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_survives_a_name_made_of_brackets() {
        let tail = "S 1 9 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1000 2 3";
        for name in ["sleep", "a b", ") S 1 (", "((("] {
            assert_eq!(started(&format!("12 ({name}) {tail}")), Some(4711), "{name}");
        }
    }

    #[test]
    fn a_zombie_and_a_torn_line_are_no_process() {
        assert_eq!(started("12 (sleep) Z 1 9 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1000"), None);
        for line in ["", "12", "12 (sleep", "12 (sleep) S 1 9"] {
            assert_eq!(started(line), None, "{line}");
        }
    }

    #[test]
    fn a_pid_file_that_could_reach_others_is_not_one() {
        for text in ["", "12", "x 12", "12 x", "-1 4", "0 4", "1 4", "99999999999 4"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("12 34\n"), Some(Identity { pid: 12, start: 34 }));
    }

    #[test]
    fn a_reused_pid_gets_no_signal() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let real = Identity::of(child.id() as i32).unwrap();
        let older = Identity { start: real.start - 1, ..real };
        assert!(!older.end(Duration::from_millis(10)));
        assert!(older.wait_gone(Duration::ZERO));
        assert!(real.alive());
        assert!(!real.wait_gone(Duration::from_millis(10)));
        assert!(real.end(Duration::from_secs(5)));
        child.wait().unwrap();
        assert!(!real.alive());
    }

    #[test]
    fn one_that_ignores_the_polite_signal_is_ended_by_force() {
        let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 5];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let identity = Identity::of(child.id() as i32).unwrap();
        assert!(identity.end(Duration::from_millis(50)));
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
}
