//! The instance's console, which the cloud shows to its owner, and the kernel's randomness.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::System;

/// What the kernel's messages go to as well.
const CONSOLE: &str = "/dev/console";
/// A console that takes no characters must not hold up a boot.
const PATIENCE: Duration = Duration::from_secs(5);

impl System {
    /// Whether there is a console that somebody could read.
    pub fn has_console(&self) -> bool {
        self.exists(CONSOLE)
    }

    /// Writes to the console, past every log.
    ///
    /// # Errors
    /// The system's error, with the path in its text; also that there is no console, or that it takes nothing.
    pub fn print_to_console(&self, text: &str) -> io::Result<()> {
        let print = || {
            // The agent must not become the owner of a terminal, and makes no file where there is no console.
            let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
            let path = self.followed(Path::new(CONSOLE));
            write_within(&OpenOptions::new().append(true).custom_flags(flags).open(path)?, text.as_bytes(), PATIENCE)
        };
        print().map_err(|error: io::Error| io::Error::new(error.kind(), format!("{CONSOLE}: {error}")))
    }
}

/// Writes all of `text` to a file that does not block, as long as it takes something within `limit`.
fn write_within(mut file: &File, mut text: &[u8], limit: Duration) -> io::Result<()> {
    let mut deadline = Instant::now() + limit;
    while !text.is_empty() {
        match file.write(text) {
            Ok(written) => {
                text = &text[written..];
                deadline = Instant::now() + limit;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now()).as_millis();
                let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                let waited = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], left);
                if !matches!(waited, Err(Errno::EINTR)) && waited? == 0 {
                    let message = format!("it took nothing for {} s", limit.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system's error.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // Of the machine that the agent runs on: a tree in a folder has no devices.
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn the_console_is_written_after_what_it_shows_and_never_made() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let error = system.print_to_console("x\n").unwrap_err();
        assert!(error.to_string().starts_with("/dev/console: ") && !system.has_console(), "{error}");
        system.write(CONSOLE, "boot\n", FileOptions::default()).unwrap();
        system.print_to_console("one\n").unwrap();
        system.print_to_console("two\n").unwrap();
        assert_eq!(system.read_text(CONSOLE).unwrap(), "boot\none\ntwo\n");
    }

    #[test]
    fn a_console_that_takes_nothing_is_given_up() {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let text = vec![b'x'; 1 << 20];
        let error = write_within(&File::from(writer), &text, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(reader);
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random_bytes::<16>().unwrap(), random_bytes::<16>().unwrap());
    }
}
