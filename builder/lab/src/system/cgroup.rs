//! One control group per machine: its systemd owns it, and it ends all of a machine at once.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::files;

/// Ends every process in a group and below, and removes the groups. A group that is not there is
/// as good as removed. Answers whether a process was in it.
///
/// # Errors
/// What the kernel answers.
pub fn remove(group: &Path) -> io::Result<bool> {
    if !group.is_dir() {
        return Ok(false);
    }
    let occupied = populated(group)?;
    if occupied {
        files::tell_kernel(&group.join("cgroup.kill"), "1")?;
        wait_empty(group, Duration::from_secs(10))?;
    }
    remove_groups(group)?;
    Ok(occupied)
}

fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in files::entries(group)? {
        if entry.is_dir() {
            remove_groups(&entry)?;
        }
    }
    files::remove_dir(group)
}

fn populated(group: &Path) -> io::Result<bool> {
    Ok(is_populated(&fs::read_to_string(group.join("cgroup.events"))?))
}

fn is_populated(events: &str) -> bool {
    events.lines().any(|line| line == "populated 1")
}

/// Waits until no process is left in a group; the kernel tells when.
fn wait_empty(group: &Path, within: Duration) -> io::Result<()> {
    let mut events = File::open(group.join("cgroup.events"))?;
    let end = Instant::now() + within;
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if !is_populated(&text) {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its processes did not end"));
        }
        let mut changes = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        poll(&mut changes, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
    }
}
