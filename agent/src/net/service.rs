//! A metadata service that tells all it knows to whoever sends the right header.

use std::env;
use std::time::{Duration, Instant};

use kiln_schema::status::Reason;
use serde_json::Value as Json;

use super::link::Link;
use super::{Answer, Engine, Error, Request};

/// Sets another address, for tests and emulators. For EC2 there is the variable of the AWS SDK.
const ENDPOINT: &str = "KILN_METADATA_ENDPOINT";
/// The whole conversation ends by then. `init` has 300 s, and its handlers need a part of them.
const BUDGET: Duration = Duration::from_secs(120);

/// What is particular to a service.
pub struct Api {
    /// Its addresses, the usual one first; two at most.
    pub bases: &'static [&'static str],
    /// Headers that every request to it has.
    pub headers: &'static [(&'static str, &'static str)],
    /// Refusals of other services that here only say `not yet`.
    pub passing: &'static [u16],
}

/// A service, asked within one budget.
pub struct Service {
    engine: Engine,
    link: Link,
    api: &'static Api,
}

impl Service {
    /// The service at its usual addresses. All calls together end by the deadline.
    ///
    /// # Errors
    /// When the network cannot be used at all.
    pub fn new(api: &'static Api, deadline: Instant) -> Result<Self, Error> {
        let endpoint = env::var(ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.as_deref().map(|endpoint| [endpoint]);
        let bases = endpoint.as_ref().map_or(api.bases, |endpoint| endpoint);
        let link = Link::new(bases, deadline.min(Instant::now() + BUDGET));
        Ok(Service { engine: Engine::new()?, link, api })
    }

    /// The service at another address, with short tries.
    #[cfg(test)]
    pub fn for_test(api: &'static Api, base: &str, deadline: Instant) -> Self {
        Service { engine: Engine::new().unwrap(), link: Link::new(&[base], deadline).hasty(), api }
    }

    /// Where it is asked.
    pub fn base(&self) -> &str {
        self.link.base()
    }

    /// What is under a path; none if the service has nothing there.
    ///
    /// # Errors
    /// When the service cannot be reached before the deadline, or refuses.
    pub fn get(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.send(|base| Request::get(&format!("{base}/{path}"))) {
            Ok(answer) => Ok(Some(answer.body)),
            Err(error) if error.status == Some(404) && !self.api.passing.contains(&404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The JSON under a path; none if the service has nothing there.
    ///
    /// # Errors
    /// As [`Service::get`], and when it is no JSON. The text itself is not told: it may hold secrets.
    pub fn json(&self, path: &str) -> Result<Option<Json>, Error> {
        let Some(body) = self.get(path)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&body);
        let place = |e: &serde_json::Error| format!("line {}, column {}", e.line(), e.column());
        parsed.map(Some).map_err(|e| {
            let message = format!("GET {}/{path}: the answer is not JSON at {}", self.base(), place(&e));
            Error::new(Reason::Network, message)
        })
    }

    /// Tells the service something.
    ///
    /// # Errors
    /// When it is not taken before the deadline.
    pub fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Result<(), Error> {
        self.send(|base| Request::post(&format!("{base}/{path}"), content_type, body.to_vec())).map(|_| ())
    }

    fn send(&self, request: impl Fn(&str) -> Result<Request, Error>) -> Result<Answer, Error> {
        let with_headers = |base: &str| {
            let plain = request(base)?.passing(self.api.passing);
            self.api.headers.iter().try_fold(plain, |plain, (name, value)| plain.header(name, value, false))
        };
        self.engine.run(self.link.send(with_headers)).map_err(|error| match error.reason {
            Reason::Timeout if error.status.is_none() => error.because("the metadata service does not answer"),
            Reason::Network if error.status.is_none() => error.because("the metadata service cannot be reached"),
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Reply, Server, answer, closed_port};

    const PLAIN: Api = Api { bases: &["http://127.0.0.1"], headers: &[("metadata-flavor", "x")], passing: &[] };
    const LATE: Api = Api { bases: &["http://127.0.0.1"], headers: &[], passing: &[404, 410] };

    fn service(api: &'static Api, server: &Server) -> Service {
        Service::for_test(api, &server.url(""), Instant::now() + Duration::from_secs(30))
    }

    #[test]
    fn everything_that_may_pass_is_tried_again() {
        let server = Server::start(|request, before| {
            assert_eq!(request.header("metadata-flavor"), Some("x"));
            match before {
                0 => Reply::Answer(503, vec!["retry-after: 0".to_owned()], Vec::new()),
                1 => answer(429, ""),
                2 => Reply::Reset,
                3 => Reply::Silence,
                4 => Reply::Stall("{\"a\""),
                5 => answer(500, ""),
                _ => answer(200, r#"{"a": 1}"#),
            }
        });
        assert_eq!(service(&PLAIN, &server).json("m").unwrap().unwrap()["a"], 1);
        assert_eq!(server.received().len(), 7);
    }

    #[test]
    fn absence_is_no_error_and_a_refusal_is_told_at_once() {
        let server =
            Server::start(|request, _| if request.target == "/gone" { answer(404, "") } else { answer(401, "") });
        assert_eq!(service(&PLAIN, &server).get("gone").unwrap(), None);
        let error = service(&PLAIN, &server).get("m").unwrap_err();
        assert_eq!((error.status, error.reason), (Some(401), Reason::Refused));
        assert_eq!(server.received().len(), 2);
    }

    #[test]
    fn a_service_that_is_not_ready_is_asked_again() {
        let server = Server::start(|_, before| match before {
            0 => answer(404, ""),
            1 => answer(410, ""),
            _ => answer(200, "x"),
        });
        assert_eq!(service(&LATE, &server).get("m").unwrap().unwrap(), b"x");
    }

    #[test]
    fn an_answer_that_is_no_json_is_not_shown() {
        let server = Server::start(|_, _| answer(200, "{\"password\": \"hunter2\""));
        let error = service(&PLAIN, &server).json("m").unwrap_err();
        assert!(error.message.ends_with("/m: the answer is not JSON at line 1, column 22"), "{}", error.message);
    }

    #[test]
    fn all_calls_have_one_deadline() {
        let silent = Server::start(|_, _| Reply::Silence);
        let closed = format!("http://{}", closed_port());
        for (base, says) in [(silent.url(""), "does not answer: GET"), (closed, "cannot be reached: GET")] {
            let began = Instant::now();
            let service = Service::for_test(&PLAIN, &base, began + Duration::from_secs(1));
            let error = service.get("a").unwrap_err();
            assert!(error.message.contains(says), "{}", error.message);
            assert!(service.get("b").is_err());
            assert!(began.elapsed() < Duration::from_secs(5));
        }
    }
}
