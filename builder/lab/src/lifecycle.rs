//! A lab's beginning and end.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ChildStdout;
use std::time::Duration;

use nix::unistd::Uid;

use crate::client;
use crate::error::{Doing, Error, Result};
use crate::paths::Paths;
use crate::reap::{self, Reaped};
use crate::status::Order;
use crate::system::pids::Identity;
use crate::system::{files, process};
use crate::{Access, python};

/// What the lab calls, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("systemd-nspawn", "systemd-container"),
    ("python3", "python3"),
    ("cp", "coreutils"),
];
/// Machines have a minute to power off; the daemon answers shortly after.
const POWER_OFF: Duration = Duration::from_secs(90);

/// How a lab is started.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The lab's name.
    pub name: String,
    /// The region it stands for.
    pub region: String,
    /// The `kiln` program that becomes the daemon; the running program when none is given, which
    /// has to be `kiln` then.
    pub program: Option<PathBuf>,
    /// Gets a line when something takes long.
    pub tell: fn(&str),
}

impl UpOptions {
    /// A lab of this name in `us-east-1`, started in silence.
    pub fn new(name: &str) -> UpOptions {
        UpOptions { name: name.to_owned(), region: "us-east-1".to_owned(), program: None, tell: |_| {} }
    }
}

/// Starts a lab, after removing what a crashed one of its name left. Answers how to reach it, and
/// whether it was started: one that is up is left as it is.
///
/// # Errors
/// When something is missing (with what to install) or does not start; nothing is left behind then.
pub fn up(options: &UpOptions) -> Result<(Access, bool)> {
    let paths = Paths::new(&options.name)?;
    check_region(&options.region)?;
    check_needs()?;
    let _only_one = lock(&paths)?;
    if let Some(access) = Access::load(&options.name)? {
        return Ok((access, false));
    }
    reap::everything(&paths)?;
    let python = python::ensure(options.tell)?;
    match start(&paths, options, python) {
        Ok(access) => Ok((access, true)),
        Err(error) => {
            // The first failure is the one to tell.
            let _ = reap::everything(&paths);
            Err(error)
        }
    }
}

fn lock(paths: &Paths) -> Result<impl Drop> {
    let lock = paths.lock();
    let doing = || format!("cannot take the lock {}", lock.display());
    files::make_dir(lock.parent().unwrap_or(&lock), 0o755).doing(doing)?;
    files::lock(&lock).doing(doing)
}

fn start(paths: &Paths, options: &UpOptions, python: PathBuf) -> Result<Access> {
    let doing = || "cannot start the lab's daemon".to_owned();
    files::make_dir(&paths.pids(), 0o755).doing(doing)?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().doing(doing)?,
    };
    let words = ["lab", "driver", "--name", paths.name(), "--region", &options.region, "--python"];
    let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
    args.push(python.into());
    let log = files::open_log(&paths.daemon_log()).doing(doing)?;
    let (daemon, output) = process::daemon(&program, &args, log).doing(doing)?;
    daemon.record(&paths.daemon_pid()).doing(doing)?;
    greet(output)?;
    Access::load(paths.name())?.ok_or_else(|| Error::Refused("the lab's daemon ended right after its start".to_owned()))
}

/// Waits for the daemon's word. It bounds every step of its start itself, so it speaks or ends.
fn greet(output: ChildStdout) -> Result<()> {
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).doing(|| "cannot hear the lab's daemon".to_owned())?;
    match line.trim() {
        "ready" => Ok(()),
        "" => Err(Error::Refused("the lab's daemon ended without a word".to_owned())),
        why => Err(Error::Refused(why.to_owned())),
    }
}

/// What `down` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// It was up and is down.
    Ended,
    /// There was nothing.
    Nothing,
    /// A crashed lab's leftovers were removed.
    Cleaned(Reaped),
}

/// Powers all machines off and removes the lab with its images and disks. Imported trees stay where
/// they are.
///
/// # Errors
/// What could not be removed; it is safe to repeat.
pub fn down(name: &str) -> Result<Down> {
    let paths = Paths::new(name)?;
    root()?;
    let _only_one = lock(&paths)?;
    let was_up = Access::load(name)?.is_some();
    if was_up {
        // A daemon that does not answer is ended below.
        let _: Result<()> = client::ask(&paths, &Order::Down, POWER_OFF);
    }
    let reaped = reap::everything(&paths)?;
    Ok(match (was_up, reaped.is_nothing()) {
        (true, _) => Down::Ended,
        (false, true) => Down::Nothing,
        (false, false) => Down::Cleaned(reaped),
    })
}

/// Checks that this user and machine can run a lab, in one sentence for all that is missing.
fn check_needs() -> Result<()> {
    root()?;
    let mut missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, _)| !process::present(program))
        .map(|(program, package)| format!("{program} (package {package})"))
        .collect();
    // venv is there without being able to make an environment when pip's part is packaged apart.
    let probe = ["python3", "-c", "import venv, ensurepip"];
    if process::present("python3") && process::tool(&probe, "", Duration::from_secs(60)).is_err() {
        missing.push("python's venv (package python3-venv)".to_owned());
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Need(format!("the lab needs {}; install with apt-get install", missing.join(", "))))
}

fn root() -> Result<()> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    Err(Error::Need("the lab needs root, for namespaces, mounts and machines; run it with sudo".to_owned()))
}

fn check_region(region: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.contains('-') && region.chars().all(fits) {
        return Ok(());
    }
    Err(Error::Input(format!("{region:?} is not a region, such as us-east-1")))
}

impl Access {
    /// The lab of this name, if it is up: an address card whose daemon is gone counts as none.
    ///
    /// # Errors
    /// When the name is none, or the card cannot be read.
    pub fn load(name: &str) -> Result<Option<Access>> {
        let paths = Paths::new(name)?;
        let card = paths.access();
        let doing = || format!("cannot read {}", card.display());
        let text = match std::fs::read_to_string(&card) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.doing(doing)?,
        };
        if !Identity::recorded(&paths.daemon_pid()).is_some_and(|daemon| daemon.alive()) {
            return Ok(None);
        }
        serde_json::from_str(&text).map_err(std::io::Error::from).doing(doing).map(Some)
    }

    /// The environment that points AWS clients inside the namespace at the lab.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_for(&self.endpoint)
    }

    /// The environment that points AWS clients on the host at the lab.
    pub fn host_environment(&self) -> Vec<(String, String)> {
        self.environment_for(&self.host_endpoint)
    }

    fn environment_for(&self, endpoint: &str) -> Vec<(String, String)> {
        // Any key will do: the emulator checks no signature.
        let pairs = [
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ACCESS_KEY_ID", "kiln-lab"),
            ("AWS_SECRET_ACCESS_KEY", "kiln-lab"),
            ("AWS_DEFAULT_REGION", &self.region),
            ("AWS_REGION", &self.region),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// The words to put before a command so that it runs in the lab's network. Needs root.
    pub fn enter(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.netns.display()), "--".to_owned()]
    }
}
