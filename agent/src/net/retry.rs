//! What the outcome of a try means, and how long to go on trying.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use kiln_schema::status::Reason;
use tokio::time::{sleep, timeout};

use super::Error;

/// What came of one try.
pub enum Verdict<T> {
    /// An answer of use.
    Done(T),
    /// Trying again would change nothing.
    GiveUp(Error),
    /// Something that may pass.
    Retry {
        /// What it was.
        cause: Error,
        /// How long the server asks to be left alone.
        after: Option<Duration>,
    },
}

/// What a fault below HTTP means: it may pass, but for a certificate that nobody here trusts.
pub fn connection_fault<T>(error: &dyn std::error::Error) -> Verdict<T> {
    let message = root(error);
    // A certificate of the future is one of today as soon as the clock is set.
    if message.contains("invalid peer certificate") && !message.contains("NotValidYet") {
        let message = format!("the server's certificate is not trusted: {message}");
        return Verdict::GiveUp(Error::new(Reason::Refused, message));
    }
    Verdict::Retry { cause: Error::new(Reason::Network, message), after: None }
}

/// The cause at the bottom: the layers above it only repeat that something failed.
pub fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Pauses between tries: any time up to a bound that doubles, so that a fleet that failed together
/// does not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The bound after the first try.
    pub base: Duration,
    /// The largest bound.
    pub cap: Duration,
}

impl Backoff {
    /// The pause after so many tries.
    fn pause(self, tries: u32) -> Duration {
        let doubled = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(doubled).min(self.cap).mul_f64(random())
    }
}

/// From 0 to 1. Every `RandomState` has keys of its own, taken from the kernel.
fn random() -> f64 {
    let bits = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0);
    f64::from(bits) / f64::from(u32::MAX)
}

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// When all must have ended, whatever the server does.
    pub deadline: Instant,
    /// One try is given up after this.
    pub per_try: Duration,
    /// Most tries; none is as many as the deadline allows.
    pub tries: Option<u32>,
    /// Pauses between tries.
    pub backoff: Backoff,
}

impl Policy {
    /// Tries of 10 s with pauses of up to 10 s, until the deadline.
    pub fn until(deadline: Instant) -> Self {
        let backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(10) };
        Policy { deadline, per_try: Duration::from_secs(10), tries: None, backoff }
    }

    /// With another bound for one try.
    #[must_use]
    pub fn per_try(self, per_try: Duration) -> Self {
        Policy { per_try, ..self }
    }

    /// With a bound on the number of tries.
    #[must_use]
    pub fn tries(self, tries: u32) -> Self {
        Policy { tries: Some(tries), ..self }
    }

    /// With other pauses.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Policy { backoff, ..self }
    }

    /// Tries until one is done or hopeless, or until tries or time are used up. `what` is the request
    /// as a person would name it.
    pub(super) async fn run<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Verdict<T>>,
    {
        let began = Instant::now();
        let mut tries = 0;
        let mut told = None;
        let fail = |cause: Error, tries: u32, more: &str| {
            let count = match tries {
                0 | 1 => String::new(),
                _ => format!(" ({tries} tries in {})", seconds(began.elapsed())),
            };
            Error { message: format!("{what}: {}{more}{count}", cause.message), ..cause }
        };
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let cause = told.unwrap_or_else(|| Error::new(Reason::Timeout, "not tried"));
                return Err(fail(cause, tries, "; the time is up"));
            }
            tries += 1;
            let allowed = left.min(self.per_try);
            let (cause, after) = match timeout(allowed, attempt()).await {
                Ok(Verdict::Done(value)) => return Ok(value),
                Ok(Verdict::GiveUp(cause)) => return Err(fail(cause, tries, "")),
                Ok(Verdict::Retry { cause, after }) => (cause, after),
                Err(_) => {
                    let silence = || Error::new(Reason::Timeout, format!("no answer within {}", seconds(allowed)));
                    // A try that the deadline cut short tells less than the one before it.
                    let earlier = told.take().filter(|_| allowed < self.per_try);
                    (earlier.unwrap_or_else(silence), None)
                }
            };
            if self.tries.is_some_and(|most| tries >= most) {
                return Err(fail(cause, tries, ""));
            }
            let pause = self.backoff.pause(tries).max(after.unwrap_or_default());
            let left = self.deadline.saturating_duration_since(Instant::now());
            if pause >= left {
                let more = match after {
                    Some(after) if after >= left => {
                        format!("; the server asks to wait {}, and {} are left", seconds(after), seconds(left))
                    }
                    _ => "; the time is up".to_owned(),
                };
                return Err(fail(cause, tries, &more));
            }
            told = Some(cause);
            sleep(pause).await;
        }
    }
}

/// `3 s`, `0.4 s`.
pub fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 && (seconds - seconds.round()).abs() > 0.05 {
        format!("{seconds:.1} s")
    } else {
        format!("{seconds:.0} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Engine;
    use std::cell::Cell;

    const QUICK: Backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(4) };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn busy(after: Option<Duration>) -> Verdict<()> {
        Verdict::Retry { cause: Error::new(Reason::Network, "busy"), after }
    }

    #[test]
    fn a_pause_is_anything_up_to_a_bound_that_doubles_and_stops_doubling() {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_millis(500) };
        for (tries, bound) in [(1, 100), (2, 200), (3, 400), (4, 500), (40, 500), (4_000_000_000, 500)] {
            let pauses: Vec<_> = (0..200).map(|_| backoff.pause(tries)).collect();
            assert!(pauses.iter().all(|p| *p <= Duration::from_millis(bound)), "{tries}");
            // Full jitter: short pauses are as likely as long ones.
            assert!(pauses.iter().any(|p| *p < Duration::from_millis(bound / 4)), "{tries}");
            assert!(pauses.iter().any(|p| *p > Duration::from_millis(bound * 3 / 4)), "{tries}");
        }
    }

    #[test]
    fn the_last_of_the_tries_tells_how_many_there_were() {
        let tried = Cell::new(0);
        let policy = Policy::until(soon()).tries(3).backoff(QUICK);
        let attempt = || {
            tried.set(tried.get() + 1);
            async { busy(None) }
        };
        let error = Engine::new().unwrap().run(policy.run("GET x", attempt)).unwrap_err();
        assert_eq!(tried.get(), 3);
        assert!(error.message.starts_with("GET x: busy (3 tries in "), "{}", error.message);
    }

    #[test]
    fn what_is_hopeless_is_tried_once() {
        let policy = Policy::until(soon());
        let attempt = || async { Verdict::<()>::GiveUp(Error::new(Reason::Refused, "no")) };
        let error = Engine::new().unwrap().run(policy.run("GET x", attempt)).unwrap_err();
        assert_eq!(error.message, "GET x: no");
    }

    #[test]
    fn a_server_that_asks_for_more_time_than_there_is_ends_it_at_once() {
        let policy = Policy::until(soon());
        let began = Instant::now();
        let attempt = || async { busy(Some(Duration::from_secs(3600))) };
        let error = Engine::new().unwrap().run(policy.run("GET x", attempt)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(error.message.contains("asks to wait 3600 s, and 30 s are left"), "{}", error.message);
    }

    #[test]
    fn a_server_that_asks_for_a_pause_gets_it() {
        let policy = Policy::until(soon()).tries(2).backoff(QUICK);
        let began = Instant::now();
        let attempt = || async { busy(Some(Duration::from_millis(300))) };
        Engine::new().unwrap().run(policy.run("GET x", attempt)).unwrap_err();
        assert!(began.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn silence_ends_at_the_deadline_however_long_a_try_may_take() {
        let policy = Policy::until(Instant::now() + Duration::from_millis(200)).per_try(Duration::from_secs(60));
        let began = Instant::now();
        let error = Engine::new().unwrap().run(policy.run("GET x", std::future::pending::<Verdict<()>>)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(error.reason, Reason::Timeout);
        assert!(error.message.contains("no answer within 0.2 s"), "{}", error.message);
    }

    #[test]
    fn a_try_that_the_deadline_cuts_short_does_not_hide_the_cause() {
        let tried = Cell::new(0);
        let policy = Policy::until(Instant::now() + Duration::from_secs(1)).backoff(QUICK);
        let attempt = || {
            tried.set(tried.get() + 1);
            let silent = tried.get() > 1;
            async move { if silent { std::future::pending().await } else { busy(None) } }
        };
        let error = Engine::new().unwrap().run(policy.run("GET x", attempt)).unwrap_err();
        assert!(error.message.starts_with("GET x: busy; the time is up (2 tries in"), "{}", error.message);
    }

    #[test]
    fn nothing_is_sent_when_the_time_is_up_already() {
        let attempt = || async { panic!("sent") };
        let policy = Policy::until(Instant::now());
        let error = Engine::new().unwrap().run(policy.run::<(), _>("GET x", attempt)).unwrap_err();
        assert_eq!(error.reason, Reason::Timeout);
    }
}
