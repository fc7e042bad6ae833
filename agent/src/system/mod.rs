//! The only code that touches files, runs commands, or asks the kernel.
//!
//! Every path goes through a root, so the whole agent runs on a tree in a folder. With a root other
//! than `/`, links inside the tree are resolved inside the tree, and commands run under chroot(2).

#![allow(clippy::disallowed_methods, reason = "this module is the one place that the ban leaves open")]

mod accounts;
mod command;
mod console;
mod disk;
mod distro;
mod files;
mod lock;
mod signals;
mod space;
mod steps;
mod tree;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

pub use accounts::{Account, Group};
pub use command::{Command, Finished, PATH, RunError};
pub use console::random_bytes;
pub use distro::Distro;
pub use files::{Appended, FileOptions};
pub use lock::Lock;
pub use signals::on_termination;
pub use steps::shell_quote;
pub use tree::{Found, Kind};

/// The machine, or a tree that stands for one.
#[derive(Clone, Debug)]
pub struct System {
    root: Arc<Path>,
    facts: Arc<Facts>,
}

/// What does not change in the life of a process, from the first question on.
#[derive(Debug, Default)]
struct Facts {
    boot_id: OnceLock<String>,
    command_line: OnceLock<String>,
    distro: OnceLock<Distro>,
}

impl System {
    /// The machine whose root is `root`.
    pub fn new(root: impl AsRef<Path>) -> Self {
        System { root: root.as_ref().into(), facts: Arc::default() }
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the running machine and not a tree in a folder.
    pub fn is_live(&self) -> bool {
        &*self.root == Path::new("/")
    }

    /// Where an absolute path of the machine lies, without following a link in its last component.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if self.is_live() { path.to_owned() } else { files::inside(&self.root, path) }
    }

    /// The kernel's id of this boot; it changes at every boot and at nothing else.
    pub fn boot_id(&self) -> &str {
        self.facts.boot_id.get_or_init(|| {
            let text = self.read_text("/proc/sys/kernel/random/boot_id").ok();
            // A tree without /proc has no boots of its own: the builder's machine stands in.
            text.or_else(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok())
                .map_or_else(String::new, |id| id.trim().to_owned())
        })
    }

    /// The kernel's command line; empty where there is no /proc.
    pub fn kernel_command_line(&self) -> &str {
        self.facts.command_line.get_or_init(|| self.read_text("/proc/cmdline").unwrap_or_default())
    }

    /// Whether one of the words of the kernel's command line is meant.
    pub fn kernel_was_told(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        self.kernel_command_line().split_ascii_whitespace().any(is_meant)
    }
}

/// What this process itself has cost so far, its children apart.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Processor time of all its threads, in user space and in the kernel.
    pub cpu: Duration,
    /// The most memory it has held, in KiB.
    pub peak_kib: i64,
}

/// What this process itself has cost so far.
pub fn own_cost() -> Option<Cost> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    let cpu = Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()));
    Some(Cost { cpu, peak_kib: usage.max_rss() })
}

/// Now, in UTC with milliseconds, as the status writes it.
pub fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
