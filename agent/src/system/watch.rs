//! Waiting for a file: asleep until the kernel tells of a change, never by looking again and again.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::System;
use super::files::MAX_LINKS;

impl System {
    /// Sleeps until something in `folder` makes the condition true; false when the deadline passes first.
    ///
    /// The condition is looked at once at the start and then after every change in the folder. The
    /// folder need not be there yet, and may go and come again, links on the way to it as well.
    ///
    /// # Errors
    /// When the kernel gives no watch: the path is unreadable, or the machine's inotify limits are used up.
    pub fn wait_for(
        &self,
        folder: &str,
        deadline: Instant,
        mut condition: impl FnMut(&System) -> bool,
    ) -> io::Result<bool> {
        loop {
            // First the watch, then the look: a change between the two is not lost.
            let watch = Watch::new(self.root(), Path::new(folder))?;
            loop {
                if condition(self) {
                    return Ok(true);
                }
                match watch.sleep(deadline)? {
                    Change::Inside => {}
                    Change::OfThePath => break,
                    Change::None => return Ok(false),
                }
            }
        }
    }
}

/// What ended a sleep.
enum Change {
    /// Something in the folder.
    Inside,
    /// The folder, or one above it, came or went: the watches stand in the wrong places now.
    OfThePath,
    /// Nothing; the deadline passed.
    None,
}

/// Watches on a folder and on every folder above it.
struct Watch {
    inotify: Inotify,
    /// A folder above, and the name in it that leads on.
    above: Vec<(WatchDescriptor, OsString)>,
    /// The folder itself, where it is there.
    folder: Option<WatchDescriptor>,
}

impl Watch {
    /// Watches every folder on the way to `folder`, links resolved under the root, and the folder itself.
    fn new(root: &Path, folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut watch = Watch { inotify, above: Vec::new(), folder: None };
        let root = std::path::absolute(root)?;
        let mut at = PathBuf::from("/");
        for name in root.iter().skip(1) {
            watch.way(&at, name)?;
            at.push(name);
        }
        let names = |path: &Path| path.iter().rev().map(OsStr::to_owned).collect::<Vec<_>>();
        let mut rest = names(folder);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == "/" {
                at.clone_from(&root);
            } else if name == ".." {
                if at != root {
                    at.pop();
                }
            } else {
                // First the watch, then the look at the link: whatever comes to be later is told.
                watch.way(&at, &name)?;
                match fs::read_link(at.join(&name)) {
                    Ok(target) if links < MAX_LINKS => {
                        links += 1;
                        rest.extend(names(&target));
                    }
                    _ => at.push(name),
                }
            }
        }
        watch.folder = watch.add(&at, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE)?;
        Ok(watch)
    }

    /// Watches for a name to come or go in a folder. One that may be passed through but not read tells
    /// nothing; the others do.
    fn way(&mut self, folder: &Path, name: &OsStr) -> io::Result<()> {
        match self.add(folder, AddWatchFlags::empty()) {
            Ok(descriptor) => self.above.extend(descriptor.map(|descriptor| (descriptor, name.to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// None if there is no such folder.
    fn add(&self, folder: &Path, more: AddWatchFlags) -> io::Result<Option<WatchDescriptor>> {
        let coming_and_going = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        match self.inotify.add_watch(folder, coming_and_going | more) {
            Ok(descriptor) => Ok(Some(descriptor)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(refused(folder, error)),
        }
    }

    fn sleep(&self, deadline: Instant) -> io::Result<Change> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Change::None);
            }
            // Rounded up, so that the last part of a millisecond is slept and not spun through.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut change = Change::None;
            for event in events {
                match self.weigh(&event) {
                    Change::OfThePath => return Ok(Change::OfThePath),
                    Change::Inside => change = Change::Inside,
                    Change::None => {}
                }
            }
            if matches!(change, Change::Inside) {
                return Ok(change);
            }
        }
    }

    fn weigh(&self, event: &InotifyEvent) -> Change {
        let Some(name) = &event.name else {
            // Of the folder itself; or the queue ran over, and then nobody knows what changed.
            return Change::OfThePath;
        };
        // / and /run are busy: of what changes there, only the name on the way counts.
        if self.above.iter().any(|(descriptor, wanted)| *descriptor == event.wd && wanted == name) {
            Change::OfThePath
        } else if self.folder == Some(event.wd) {
            Change::Inside
        } else {
            Change::None
        }
    }
}

fn refused(path: &Path, error: Errno) -> io::Error {
    let hint = match error {
        Errno::EMFILE => "; raise fs.inotify.max_user_instances",
        Errno::ENOSPC => "; raise fs.inotify.max_user_watches",
        _ => "",
    };
    let message = format!("{}: cannot be watched for changes: {}{hint}", path.display(), error.desc());
    io::Error::new(io::Error::from(error).kind(), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    const LONG: Duration = Duration::from_secs(20);

    /// Waits for `/run/kiln/done` while `act` runs beside it; how often the condition was looked at.
    fn looks_until_done(prepare: impl FnOnce(&System), act: impl FnOnce(&System) + Send + 'static) -> usize {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        prepare(&system);
        let (sender, receiver) = std::sync::mpsc::channel();
        let actor = system.clone();
        let thread = std::thread::spawn(move || {
            receiver.recv().unwrap();
            act(&actor);
        });
        let mut looks = 0;
        let found = system.wait_for("/run/kiln", Instant::now() + LONG, |system| {
            looks += 1;
            if looks == 1 {
                sender.send(()).unwrap();
            }
            system.exists("/run/kiln/done")
        });
        thread.join().unwrap();
        assert!(found.unwrap(), "not seen within {LONG:?}");
        looks
    }

    fn touch(system: &System, path: &str) {
        system.write(path, "", FileOptions::default()).unwrap();
    }

    #[test]
    fn a_file_is_seen_however_its_folder_comes_to_be() {
        looks_until_done(|system| touch(system, "/run/kiln/other"), |system| touch(system, "/run/kiln/done"));
        looks_until_done(|_| {}, |system| touch(system, "/run/kiln/done"));
        let moved_in = |system: &System| {
            touch(system, "/new/kiln/done");
            fs::create_dir_all(system.path("/run")).unwrap();
            fs::rename(system.path("/new/kiln"), system.path("/run/kiln")).unwrap();
        };
        looks_until_done(|_| {}, moved_in);
    }

    #[test]
    fn a_folder_that_is_replaced_is_watched_again() {
        let replace = |system: &System| {
            fs::rename(system.path("/run"), system.path("/old")).unwrap();
            touch(system, "/run/kiln/done");
        };
        looks_until_done(|system| touch(system, "/run/kiln/other"), replace);
        let remove = |system: &System| {
            system.remove("/run/kiln").unwrap();
            touch(system, "/run/kiln/done");
        };
        looks_until_done(|system| touch(system, "/run/kiln/other"), remove);
        let relink = |system: &System| {
            touch(system, "/b/done");
            system.link("/run/kiln", "/b").unwrap();
        };
        let linked = |system: &System| {
            touch(system, "/a/other");
            system.link("/run/kiln", "/a").unwrap();
        };
        looks_until_done(linked, relink);
    }

    #[test]
    fn a_change_of_a_file_in_place_is_seen() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        touch(&system, "/run/kiln/status");
        let writer = system.clone();
        let thread = std::thread::spawn(move || {
            writer.append("/run/kiln/status", b"done", FileOptions::default()).unwrap();
        });
        let is_done = |system: &System| system.read_text("/run/kiln/status").is_ok_and(|text| text == "done");
        assert!(system.wait_for("/run/kiln", Instant::now() + LONG, is_done).unwrap());
        thread.join().unwrap();
    }

    #[test]
    fn a_busy_neighbour_wakes_nobody() {
        let busy = |system: &System| {
            (0..200).for_each(|n| touch(system, &format!("/run/neighbour-{n}")));
            touch(system, "/run/kiln/done");
        };
        let looks = looks_until_done(|system| touch(system, "/run/kiln/other"), busy);
        assert!(looks < 20, "{looks} looks");
    }

    #[test]
    fn a_deadline_ends_the_wait_after_one_look() {
        let tree = tempfile::tempdir().unwrap();
        let mut looks = 0;
        let begun = Instant::now();
        let wait = System::new(tree.path()).wait_for("/run/kiln", begun + Duration::from_millis(50), |_| {
            looks += 1;
            false
        });
        assert!(!wait.unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert_eq!(looks, 1);
    }
}
