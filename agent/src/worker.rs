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

    /// Gives it a piece of work. Its results come in the order of the work: one whose result was not
    /// waited for must not be given more.
    pub fn give(&self, work: impl FnOnce() -> T + Send + 'static) {
        // The thread lives as long as this value: a panic in the work does not end it.
        let _ = self.work.send(Box::new(work));
    }

    /// The result of the work, if it ends within `limit`: `Err` holds what a panic said.
    pub fn wait(&self, limit: Duration) -> Option<thread::Result<T>> {
        self.results.recv_timeout(limit).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn one_thread_does_piece_after_piece_also_after_a_panic() {
        let worker = Worker::start().unwrap();
        worker.give(|| thread::current().id());
        let first = worker.wait(LONG).unwrap();
        worker.give(|| panic!("oh no"));
        assert!(worker.wait(LONG).unwrap().is_err());
        worker.give(|| thread::current().id());
        assert_eq!(first.unwrap(), worker.wait(LONG).unwrap().unwrap());
    }

    #[test]
    fn work_that_takes_longer_can_be_waited_for_again() {
        let (release, held) = mpsc::channel();
        let worker = Worker::start().unwrap();
        worker.give(move || held.recv().unwrap());
        assert!(worker.wait(Duration::from_millis(10)).is_none());
        release.send("late").unwrap();
        assert_eq!(worker.wait(LONG).unwrap().unwrap(), "late");
    }
}
