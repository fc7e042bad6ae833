//! Programs of the system that do one step and end, such as git and dpkg.
//!
//! They share the terminal's process group: whoever presses Ctrl-C at `kiln` ends them too.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A program with its arguments, in a folder.
pub struct Tool(Command);

impl Tool {
    /// A program found on the path. It reads nothing and speaks English, so that its words can be
    /// read and quoted.
    pub fn new(program: &str) -> Tool {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        Tool(command)
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.0.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Tool {
        self.0.args(args);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Tool {
        self.0.env(name, value);
        self
    }

    /// Runs it in this folder.
    #[must_use]
    pub fn within(mut self, folder: &Path) -> Tool {
        self.0.current_dir(folder);
        self
    }

    /// Runs it and keeps what it prints.
    ///
    /// # Errors
    /// When it cannot be started. How it ended is in the answer.
    pub fn capture(mut self) -> io::Result<Output> {
        self.0.output()
    }

    /// Runs it, lets it write all it prints into one file, and answers whether it succeeded.
    ///
    /// # Errors
    /// When the file cannot be made or the program not started.
    pub fn log_to(mut self, log: &Path) -> io::Result<bool> {
        let log = File::create(log)?;
        self.0.stdout(log.try_clone()?).stderr(log);
        Ok(self.0.status()?.success())
    }
}

/// Whether the path has this program.
pub fn present(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
