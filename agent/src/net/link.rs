//! A service on the link, which may have an address for each version of IP.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Answer, Backoff, Client, Error, Policy, Request};

/// The service is on the link and answers in milliseconds. A longer silence is a lost answer.
const PER_TRY: Duration = Duration::from_secs(5);
/// The network may come up at any moment: it is asked often.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(2) };
/// So long the first address has the service for itself.
const HEAD_START: Duration = Duration::from_millis(150);

/// Where the service is, and how long it is asked.
pub struct Link {
    client: Client,
    bases: Vec<String>,
    policy: Policy,
    /// The index of the address that has answered.
    answering: OnceLock<usize>,
}

impl Link {
    /// The service at these addresses, the usual one first. Every call ends by the deadline.
    pub fn new(bases: &[&str], deadline: Instant) -> Self {
        Link {
            client: Client::on_link(),
            bases: bases.iter().map(|base| base.trim_end_matches('/').to_owned()).collect(),
            policy: Policy::until(deadline).per_try(PER_TRY).backoff(BACKOFF),
            answering: OnceLock::new(),
        }
    }

    /// With short tries and pauses, for tests.
    #[cfg(test)]
    pub fn hasty(self) -> Self {
        let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(4) };
        Link { policy: self.policy.per_try(Duration::from_secs(1)).backoff(backoff), ..self }
    }

    /// The address that has answered, else the usual one.
    pub fn base(&self) -> &str {
        let index = self.answering.get().copied().unwrap_or(0);
        self.bases.get(index).map_or("", String::as_str)
    }

    /// Sends the request that is made for an address. The first address to answer is asked from then on.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send(&self, request: impl Fn(&str) -> Result<Request, Error>) -> Result<Answer, Error> {
        let (None, [usual, other]) = (self.answering.get(), self.bases.as_slice()) else {
            return self.client.send(&request(self.base())?, &self.policy).await;
        };
        let (usual, other) = (request(usual)?, request(other)?);
        let later = async {
            tokio::time::sleep(HEAD_START).await;
            self.client.send(&other, &self.policy).await
        };
        let (index, answer) = first_to_answer(self.client.send(&usual, &self.policy), later).await;
        if answer.as_ref().map_or_else(|error| error.status.is_some(), |_| true) {
            // Another call may have been first, and is as right.
            let _ = self.answering.set(index);
        }
        answer
    }
}

/// The index and the result of the future that first has an answer, a refusal included; where none
/// has one, the error of the first.
async fn first_to_answer<T>(
    first: impl Future<Output = Result<T, Error>>,
    second: impl Future<Output = Result<T, Error>>,
) -> (usize, Result<T, Error>) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let mut unheard: [Option<Error>; 2] = [None, None];
    std::future::poll_fn(|context| {
        for (index, unheard) in unheard.iter_mut().enumerate() {
            if unheard.is_some() {
                continue;
            }
            let polled = if index == 0 { first.as_mut().poll(context) } else { second.as_mut().poll(context) };
            match polled {
                Poll::Ready(Err(error)) if error.status.is_none() => *unheard = Some(error),
                Poll::Ready(result) => return Poll::Ready((index, result)),
                Poll::Pending => {}
            }
        }
        match unheard[1].is_some().then(|| unheard[0].take()).flatten() {
            Some(error) => Poll::Ready((0, Err(error))),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Engine;
    use crate::net::testing::{Reply, Server, answer, closed_port};

    fn ask(link: &Link) -> Result<Answer, Error> {
        Engine::new()?.run(link.send(|base| Request::get(&format!("{base}/x"))))
    }

    #[test]
    fn a_silent_or_closed_address_costs_the_other_one_nothing() {
        let silent = Server::start(|_, _| Reply::Silence);
        let good = Server::start(|_, _| answer(200, "x"));
        for useless in [silent.url(""), format!("http://{}", closed_port())] {
            let began = Instant::now();
            let link = Link::new(&[&useless, &good.url("/")], began + Duration::from_secs(30));
            assert_eq!(ask(&link).unwrap().body, b"x");
            assert_eq!(link.base(), good.url(""));
            assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
            // The useless one is not asked again.
            let asked = silent.received().len();
            ask(&link).unwrap();
            assert_eq!(silent.received().len(), asked);
        }
    }

    #[test]
    fn a_refusal_is_an_answer_and_the_other_address_is_left_alone() {
        let refuses = Server::start(|_, _| answer(403, ""));
        let other = Server::start(|_, _| answer(200, "x"));
        let link = Link::new(&[&refuses.url(""), &other.url("")], Instant::now() + Duration::from_secs(30));
        assert_eq!(ask(&link).unwrap_err().status, Some(403));
        assert_eq!((refuses.received().len(), other.received().len()), (1, 0));
    }

    #[test]
    fn two_addresses_without_an_answer_end_at_the_deadline_with_the_usual_one() {
        let silent = Server::start(|_, _| Reply::Silence);
        let closed = format!("http://{}", closed_port());
        let began = Instant::now();
        let error = ask(&Link::new(&[&silent.url(""), &closed], began + Duration::from_secs(1))).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(8));
        assert!(error.message.starts_with(&format!("GET {}: no answer within", silent.url("/x"))), "{}", error.message);
    }
}
