//! A lock that the kernel lets go of when its holder dies, however it dies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::System;

/// A lock that is held for as long as this value lives.
pub struct Lock {
    _file: File,
}

fn whole_file(kind: i32) -> libc::flock {
    // The kernel wants pid 0 for a lock of an open file.
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

impl System {
    /// Takes the lock; none if another process holds it.
    ///
    /// Whoever waits with [`System::wait_for`] on the lock's folder is woken when the holder ends, as the
    /// kernel then closes the file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn lock(&self, path: &str) -> io::Result<Option<Lock>> {
        self.make_dir(Path::new(path).parent().unwrap_or(Path::new("/")), 0o755, None)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(self.path(path))?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => Ok(Some(Lock { _file: file })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a living process holds the lock. Asking never takes it.
    pub fn is_locked(&self, path: &str) -> bool {
        let Ok(file) = File::open(self.path(path)) else { return false };
        let mut held = whole_file(libc::F_RDLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut held)).is_ok() && held.l_type != libc::F_UNLCK as i16
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn one_holder_at_a_time_and_its_end_wakes_whoever_waits() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert!(!system.is_locked("/run/lock"));
        let lock = system.lock("/run/lock").unwrap().unwrap();
        assert!(system.is_locked("/run/lock"));
        assert!(system.lock("/run/lock").unwrap().is_none());
        let waiting = system.clone();
        let waiter = std::thread::spawn(move || {
            let deadline = Instant::now() + Duration::from_secs(30);
            waiting.wait_for("/run", deadline, |system| !system.is_locked("/run/lock")).unwrap()
        });
        drop(lock);
        assert!(waiter.join().unwrap());
    }
}
