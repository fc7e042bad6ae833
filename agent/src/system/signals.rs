//! Being told to end: a last action before the process dies of the signal.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

/// The signals by which a person, a session or a service manager ends a program.
const TERMINATION: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The writing end of the pipe that wakes the thread; -1 while there is none.
static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn wake(signal: libc::c_int) {
    let byte = u8::try_from(signal).unwrap_or(0);
    // SAFETY: write(2) may be called in a signal handler; the byte lives on this stack frame.
    #[expect(unsafe_code, reason = "nix's write is not promised to be safe in a signal handler")]
    unsafe {
        libc::write(WAKE.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
    }
}

/// Calls `act` with the signal's name when the process is told to end, and then lets it end as if the
/// signal had not been caught. To be called once in a process; children do not inherit it.
///
/// # Errors
/// When the kernel gives no pipe, thread or handler.
pub fn on_termination(act: impl FnOnce(&str) + Send + 'static) -> io::Result<()> {
    let (reader, writer): (OwnedFd, OwnedFd) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    WAKE.store(writer.into_raw_fd(), Ordering::Relaxed);
    let mut reader = File::from(reader);
    let thread = move || {
        let mut byte = [0];
        if reader.read_exact(&mut byte).is_err() {
            return;
        }
        let signal = Signal::try_from(i32::from(byte[0])).unwrap_or(Signal::SIGTERM);
        act(signal.as_str());
        let _ = set(signal, SigHandler::SigDfl);
        let _ = raise(signal);
    };
    std::thread::Builder::new().name("termination".to_owned()).spawn(thread)?;
    for signal in TERMINATION {
        set(signal, SigHandler::Handler(wake))?;
    }
    Ok(())
}

fn set(signal: Signal, handler: SigHandler) -> io::Result<()> {
    // SAFETY: `wake` only calls write(2), which may be called in a signal handler.
    #[expect(unsafe_code, reason = "sigaction(2) has no safe form: the handler must keep to what a handler may do")]
    unsafe {
        sigaction(signal, &SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty()))?;
    }
    Ok(())
}
