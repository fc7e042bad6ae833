//! The library's side of the conversation with a lab's daemon.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::Access;
use crate::error::{Doing, Error, Result};
use crate::paths::Paths;
use crate::status::{Answer, Import, Machine, Order, Status, Until};
use crate::system::process;

/// What the daemon answers from memory comes at once; it may have to wait for a processor.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks a lab's daemon and waits for its answer.
///
/// # Errors
/// When the lab is not up, does not answer in time, or refuses.
pub fn ask<T: DeserializeOwned>(paths: &Paths, order: &Order, within: Duration) -> Result<T> {
    let name = paths.name();
    let mut stream = UnixStream::connect(paths.daemon_socket()).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Error::Down(name.to_owned()),
        _ => Error::Step { doing: format!("cannot speak to lab {name}"), source },
    })?;
    let exchange = || -> std::io::Result<Answer> {
        stream.set_read_timeout(Some(within))?;
        stream.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes())?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        if line.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    };
    let mut exchange = exchange;
    match exchange().doing(|| format!("lab {name} does not answer"))? {
        Answer::Ok(value) => {
            serde_json::from_value(value).map_err(Into::into).doing(|| format!("lab {name} answers strangely"))
        }
        Answer::Error(why) => Err(Error::Refused(why)),
    }
}

/// The state of a lab, also of one that is down.
///
/// # Errors
/// When the name is none or the daemon does not answer.
pub fn status(name: &str) -> Result<Status> {
    let paths = Paths::new(name)?;
    if Access::load(name)?.is_some() {
        return ask(&paths, &Order::Status, PATIENCE);
    }
    let (endpoint, host_endpoint, images, machines) = Default::default();
    Ok(Status { name: name.to_owned(), up: false, endpoint, host_endpoint, images, machines })
}

/// Registers a folder with a system's root tree as an image and gives its id. The tree is used
/// where it lies and has to stay unchanged.
///
/// # Errors
/// When the lab is not up, the folder is no such tree, or owner or name do not fit.
pub fn import(name: &str, import: Import) -> Result<String> {
    let paths = Paths::new(name)?;
    let tree = std::fs::canonicalize(&import.tree).doing(|| format!("cannot import {}", import.tree.display()))?;
    if import.owner.len() != 12 || !import.owner.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::Input(format!("{:?} is not an account: it has 12 digits", import.owner)));
    }
    if !(3..=128).contains(&import.name.chars().count()) {
        return Err(Error::Input(format!("{:?} cannot name an image: it needs 3 to 128 characters", import.name)));
    }
    ask(&paths, &Order::Import(Import { tree, ..import }), PATIENCE)
}

impl Import {
    /// A tree as an image of this name, owned by Debian's account and for this machine's processor.
    pub fn new(tree: PathBuf, name: &str) -> Import {
        let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { std::env::consts::ARCH };
        Import {
            tree,
            name: name.to_owned(),
            owner: "136693071363".to_owned(),
            description: String::new(),
            tags: Default::default(),
            architecture: architecture.to_owned(),
        }
    }
}

impl Access {
    /// The machine of an instance, whether it is there yet or not.
    pub fn machine(&self, instance: &str) -> MachineHandle {
        MachineHandle { lab: self.name.clone(), instance: instance.to_owned() }
    }
}

/// The machine of one instance of one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineHandle {
    lab: String,
    instance: String,
}

impl MachineHandle {
    /// The instance's id.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// How the machine is now.
    ///
    /// # Errors
    /// When the lab is not up or has no such instance.
    pub fn now(&self) -> Result<Machine> {
        ask(&Paths::new(&self.lab)?, &Order::Machine { instance: self.instance.clone() }, PATIENCE)
    }

    /// Waits for a state; the daemon tells when it is reached. The answer is none when the instance
    /// is gone.
    ///
    /// # Errors
    /// When it is not reached in time, or cannot be any more.
    pub fn wait(&self, until: Until, within: Duration) -> Result<Option<Machine>> {
        let order = Order::Wait { instance: self.instance.clone(), until, seconds: within.as_secs() };
        ask(&Paths::new(&self.lab)?, &order, within + PATIENCE)
    }

    /// Runs a command in the machine as root and gives what it printed and how it ended.
    ///
    /// # Errors
    /// When the machine does not run, or the command has not ended in time; it is killed then.
    pub fn run<A: Into<OsString>>(&self, command: impl IntoIterator<Item = A>, within: Duration) -> Result<Output> {
        let command = self.command(command)?;
        process::capture(&command, b"", within).doing(|| format!("cannot run a command in {}", self.instance))
    }

    /// Puts a file into the machine, owned by root and for root alone.
    ///
    /// # Errors
    /// When the file cannot be read, or not be written there in time.
    pub fn put(&self, file: &Path, to: &str, within: Duration) -> Result<()> {
        let doing = || format!("cannot put {} into {}", file.display(), self.instance);
        let content = std::fs::File::open(file).doing(doing)?;
        let command = self.command(["sh", "-c", "umask 077 && exec cat >\"$1\"", "sh", to])?;
        ended_well(process::feed(&command, content, within)).map(drop).doing(doing)
    }

    /// The content of a file of the machine.
    ///
    /// # Errors
    /// When it cannot be read there in time.
    pub fn get(&self, path: &str, within: Duration) -> Result<Vec<u8>> {
        let command = self.command(["cat", "--", path])?;
        ended_well(process::capture(&command, b"", within))
            .doing(|| format!("cannot get {path} from {}", self.instance))
    }

    /// The words that run a command in the machine as root, with a clean environment.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn command<A: Into<OsString>>(&self, command: impl IntoIterator<Item = A>) -> Result<Vec<OsString>> {
        let Some(leader) = self.now()?.leader else {
            return Err(Error::Input(format!("the machine of {} does not run", self.instance)));
        };
        let target = format!("--target={}", leader.pid);
        let spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"];
        // A machine that goes down stops all its processes before it kills them. When its child stops,
        // nsenter stops itself as well, for ever, and a machine whose process nobody collects never ends.
        // A shell only waits: without --fork it stays outside and what it starts is in the machine.
        let wait = ["--no-fork", "--", "/bin/sh", "-c", "\"$@\"; exit $?", "sh"];
        let enter = ["nsenter", &target].into_iter().chain(spaces).chain(wait);
        let term = format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned()));
        let clean = ["env", "-i", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LANG=C.UTF-8"];
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let settings = [path, &term];
        let words = enter.chain(clean).chain(settings);
        Ok(words.map(OsString::from).chain(command.into_iter().map(Into::into)).collect())
    }

    /// Where everything the machine wrote to its console lies, also after it is gone.
    ///
    /// # Errors
    /// When the lab's name is none.
    pub fn console_path(&self) -> Result<PathBuf> {
        let plain = self.instance.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain || self.instance.is_empty() {
            return Err(Error::Input(format!("{:?} is not the id of an instance", self.instance)));
        }
        Ok(Paths::new(&self.lab)?.consoles().join(&self.instance))
    }

    /// Everything the machine wrote to its console; bytes that are no text are replaced.
    ///
    /// # Errors
    /// When there is none.
    pub fn console(&self) -> Result<String> {
        let path = self.console_path()?;
        let bytes = read(&path, &self.instance)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What a command printed that had to succeed.
fn ended_well(ran: std::io::Result<Output>) -> std::io::Result<Vec<u8>> {
    let output = ran?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn read(path: &Path, instance: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Input(format!("no machine of {instance} has run in this lab")),
        _ => Error::Step { doing: format!("cannot read the console of {instance}"), source },
    })
}
