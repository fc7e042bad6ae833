//! Named network namespaces.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

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

/// Removes the name of a namespace. It ends with the last process in it; its links go then.
///
/// # Errors
/// What the kernel answers.
pub fn remove(namespace: &Path) -> io::Result<()> {
    mounts::unmount(namespace)?;
    files::remove(namespace)
}
