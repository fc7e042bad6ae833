//! Named network namespaces.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::pids::Identity;
use super::{files, mounts};

/// Does something inside a network namespace: sockets made and processes started there belong to it.
///
/// # Errors
/// When the namespace cannot be entered, and what the work itself answers.
pub fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        // A namespace belongs to a thread; this one ends with the work and takes it along.
        let inside = scope.spawn(|| {
            enter(namespace)?;
            work()
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace ended early")))
    })
}

/// Moves the calling thread into a network namespace, for good.
///
/// # Errors
/// What the kernel answers.
pub fn enter(namespace: &Path) -> io::Result<()> {
    Ok(setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?)
}

/// The processes that live in a network namespace.
///
/// # Errors
/// When the namespace or the table of processes cannot be read.
pub fn members(namespace: &Path) -> io::Result<Vec<Identity>> {
    let wanted = fs::metadata(namespace)?;
    let is_it = |about: fs::Metadata| (about.dev(), about.ino()) == (wanted.dev(), wanted.ino());
    let pids = files::entries(Path::new("/proc"))?;
    let pids = pids.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    Ok(pids
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(is_it))
        .filter_map(Identity::of)
        .collect())
}

/// Removes the name of a namespace. It ends with the last process in it; its links go then.
///
/// # Errors
/// What the kernel answers.
pub fn remove(namespace: &Path) -> io::Result<()> {
    mounts::unmount(namespace)?;
    files::remove(namespace)
}
