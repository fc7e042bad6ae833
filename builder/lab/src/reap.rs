//! Removes everything that a lab of this name has on the machine, whatever state it is in.
//!
//! All of it is found from the name alone: processes by pid files and control groups, mounts by the
//! mount table, namespaces and folders by their names. So it does not matter what ended how before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::{Doing, Error, Result};
use crate::paths::Paths;
use crate::system::pids::Identity;
use crate::system::{cgroup, files, mounts, netns};

/// How long a process may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Daemon, API emulator, and what ran in the lab's network.
    pub processes: usize,
    /// Machines that still ran.
    pub machines: usize,
    /// Mounts.
    pub mounts: usize,
    /// Network namespaces.
    pub namespaces: usize,
}

impl Reaped {
    /// Whether nothing was left.
    pub fn is_nothing(&self) -> bool {
        *self == Reaped::default()
    }
}

/// The control group above those of a lab's machines.
///
/// # Errors
/// When this machine has no unified tree of control groups.
pub fn groups(paths: &Paths) -> Result<PathBuf> {
    let tree = mounts::cgroup2().doing(|| "cannot read the table of mounts".to_owned())?;
    let tree = tree.ok_or_else(|| Error::Need("the lab needs control groups version 2 to be mounted".to_owned()))?;
    Ok(tree.join(paths.namespace_name()))
}

/// Removes everything. Safe to repeat, and safe when there is nothing.
///
/// # Errors
/// What could not be removed. Folders are not touched while something is mounted below them.
pub fn everything(paths: &Paths) -> Result<Reaped> {
    let mut reaped = Reaped { processes: processes(paths)?, ..Reaped::default() };
    let above = groups(paths)?;
    let doing = || format!("cannot end the machines of lab {}", paths.name());
    for group in files::entries(&above).doing(doing)?.iter().filter(|group| group.is_dir()) {
        reaped.machines += usize::from(cgroup::remove(group).doing(doing)?);
        // The supervisor's own folder for the machine, which it had no time to remove.
        if let Some(instance) = group.file_name() {
            let propagated = Path::new("/run/systemd/nspawn/propagate").join(instance);
            files::remove_tree(&propagated).doing(doing)?;
        }
    }
    cgroup::remove(&above).doing(doing)?;
    reaped.mounts = unmount(&paths.disks())?;
    reaped.processes += inhabitants(paths)?;
    reaped.namespaces = namespaces(paths)?;
    for folder in [paths.disks(), paths.run()] {
        files::remove_tree(&folder).doing(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(reaped)
}

fn processes(paths: &Paths) -> Result<usize> {
    let mut ended = 0;
    let doing = || format!("cannot end the processes of lab {}", paths.name());
    // Sorted by name, the daemon comes before the emulator, and so does not see it die.
    for file in files::entries(&paths.pids()).doing(doing)? {
        if let Some(process) = Identity::recorded(&file) {
            ended += usize::from(process.end(PATIENCE));
            if process.alive() {
                return Err(Error::Refused(format!("process {} of lab {} does not end", process.pid, paths.name())));
            }
        }
        files::remove(&file).doing(doing)?;
    }
    Ok(ended)
}

fn unmount(folder: &Path) -> Result<usize> {
    let doing = || format!("cannot unmount what is below {}", folder.display());
    let points = mounts::below(folder).doing(doing)?;
    for point in &points {
        mounts::unmount(point).doing(doing)?;
    }
    match mounts::below(folder).doing(doing)?.first() {
        None => Ok(points.len()),
        Some(left) => Err(Error::Refused(format!("{} is still mounted", left.display()))),
    }
}

/// Ends whatever still talks to the lab from inside its network, such as packer: once the network has gone its
/// calls would neither be answered nor refused, and it would wait for ever. Not whoever asks for this.
fn inhabitants(paths: &Paths) -> Result<usize> {
    let doing = || format!("cannot end what runs in the network of lab {}", paths.name());
    let ours = Identity::ours();
    let mut ended = 0;
    for namespace in own_namespaces(paths)? {
        for process in netns::members(&namespace).doing(doing)?.iter().filter(|process| !ours.contains(process)) {
            ended += usize::from(process.signal(Signal::SIGKILL));
            process.wait_gone(PATIENCE);
        }
    }
    Ok(ended)
}

fn namespaces(paths: &Paths) -> Result<usize> {
    let doing = || format!("cannot remove the network namespaces of lab {}", paths.name());
    let mine = own_namespaces(paths)?;
    for namespace in &mine {
        netns::remove(namespace).doing(doing)?;
    }
    Ok(mine.len())
}

fn own_namespaces(paths: &Paths) -> Result<Vec<PathBuf>> {
    let doing = || format!("cannot look for the network namespaces of lab {}", paths.name());
    let mut all = files::entries(&Paths::namespaces()).doing(doing)?;
    all.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| paths.owns_namespace(name)));
    Ok(all)
}
