//! The instance's console, which the cloud shows to its owner, and the kernel's randomness.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

use super::System;

/// What the kernel's messages go to as well.
const CONSOLE: &str = "/dev/console";

impl System {
    /// Whether there is a console that somebody could read.
    pub fn has_console(&self) -> bool {
        self.exists(CONSOLE)
    }

    /// Writes to the console, past every log.
    ///
    /// # Errors
    /// The system's error, with the path in its text; also that there is no console.
    pub fn print_to_console(&self, text: &str) -> io::Result<()> {
        let open = || {
            // The agent must not become the owner of a terminal, and makes no file where there is no console.
            let mut console =
                OpenOptions::new().append(true).custom_flags(libc::O_NOCTTY).open(self.followed(Path::new(CONSOLE)))?;
            console.write_all(text.as_bytes())
        };
        open().map_err(|error: io::Error| io::Error::new(error.kind(), format!("{CONSOLE}: {error}")))
    }
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
    fn random_bytes_differ() {
        assert_ne!(random_bytes::<16>().unwrap(), random_bytes::<16>().unwrap());
    }
}
