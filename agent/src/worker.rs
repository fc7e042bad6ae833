//! The thread on which handlers run, one after the other.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

/// One thread for many pieces of work: to start a thread costs more than most handlers do.
pub struct Worker<T> {
    work: Sender<Box<dyn FnOnce() -> T + Send>>,
    results: Receiver<thread::Result<T>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start() -> io::Result<Self> {
        let (work, pieces) = mpsc::channel::<Box<dyn FnOnce() -> T + Send>>();
        let (sender, results) = mpsc::channel();
        let serve = move || {
            for piece in pieces {
                if sender.send(catch_unwind(AssertUnwindSafe(piece))).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("handler".to_owned()).spawn(serve)?;
        Ok(Worker { work, results })
    }

    /// Runs one piece of work and gives the worker back with its result: `Err` holds what a panic said.
    ///
    /// None when it took longer than `limit`. The thread is left to it then and ends with it, so that
    /// its late result is never taken for that of the next piece.
    pub fn run(self, work: impl FnOnce() -> T + Send + 'static, limit: Duration) -> Option<(Self, thread::Result<T>)> {
        self.work.send(Box::new(work)).ok()?;
        let result = self.results.recv_timeout(limit).ok()?;
        Some((self, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn one_thread_does_piece_after_piece_also_after_a_panic() {
        let worker = Worker::start().unwrap();
        let (worker, first) = worker.run(|| thread::current().id(), LONG).unwrap();
        let (worker, panicked) = worker.run(|| panic!("oh no"), LONG).unwrap();
        assert!(panicked.is_err());
        let (_, last) = worker.run(|| thread::current().id(), LONG).unwrap();
        assert_eq!(first.unwrap(), last.unwrap());
    }

    #[test]
    fn work_that_hangs_is_left_behind() {
        let (release, held) = mpsc::channel::<()>();
        let hung = move || held.recv().is_ok();
        assert!(Worker::start().unwrap().run(hung, Duration::from_millis(10)).is_none());
        drop(release);
    }
}
