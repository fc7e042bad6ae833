//! The metadata service of EC2, version 2: a token first, then everything with the token.
//!
//! Version 1, which needs no token, is never asked: an instance that may read it at all may read it
//! with a token too.

use std::env;
use std::time::Instant;

use kiln_schema::status::Reason;
use tokio::sync::RwLock;

use super::link::Link;
use super::{Error, Request};

/// Sets another address, as for the AWS SDK.
const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
/// `IPv4` or `IPv6` takes the service's address of that version alone, as for the AWS SDK.
const ENDPOINT_MODE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
/// A token is valid for this many seconds, the most that the service gives.
const TOKEN_TTL: &str = "21600";
/// The service by IPv4, and by IPv6 where the instance has it switched on.
const ADDRESSES: [&str; 2] = ["http://169.254.169.254", "http://[fd00:ec2::254]"];

/// The service of this instance.
pub struct Imds {
    link: Link,
    token: RwLock<Option<String>>,
}

impl Imds {
    /// The service where the environment or AWS has it. Every call ends by the deadline.
    pub fn new(deadline: Instant) -> Self {
        let named = |name| env::var(name).ok().filter(|value: &String| !value.is_empty());
        if let Some(endpoint) = named(ENDPOINT) {
            return Self::at(&endpoint, deadline);
        }
        let addresses = match named(ENDPOINT_MODE).map(|mode| mode.to_lowercase()).as_deref() {
            Some("ipv4") => &ADDRESSES[..1],
            Some("ipv6") => &ADDRESSES[1..],
            _ => &ADDRESSES,
        };
        Imds { link: Link::new(addresses, deadline), token: RwLock::new(None) }
    }

    /// The service at this address.
    pub fn at(base: &str, deadline: Instant) -> Self {
        Imds { link: Link::new(&[base], deadline), token: RwLock::new(None) }
    }

    /// Where it is asked.
    pub fn base(&self) -> &str {
        self.link.base()
    }

    /// With short tries and pauses, for tests.
    #[cfg(test)]
    fn hasty(self) -> Self {
        Imds { link: self.link.hasty(), ..self }
    }

    /// What is under a path below `/latest/`; none if the service has nothing there.
    ///
    /// # Errors
    /// When the service cannot be reached before the deadline, or refuses.
    pub async fn get(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut stale = None;
        loop {
            let token = self.token(stale.as_deref()).await?;
            // A name may hold anything: a tag's key is part of a path.
            let path: String = path.split('/').map(escaped).collect::<Vec<_>>().join("/");
            let request = |base: &str| {
                Request::get(&format!("{base}/latest/{path}"))?.header("x-aws-ec2-metadata-token", &token, true)
            };
            return match self.link.send(request).await {
                Ok(answer) => Ok(Some(answer.body)),
                Err(error) if error.status == Some(404) => Ok(None),
                Err(error) if error.status == Some(401) && stale.is_none() => {
                    stale = Some(token);
                    continue;
                }
                Err(error) => Err(explained(error)),
            };
        }
    }

    /// The token; a new one if the last is the one that was refused.
    async fn token(&self, refused: Option<&str>) -> Result<String, Error> {
        let fits = |token: &Option<String>| token.clone().filter(|token| Some(token.as_str()) != refused);
        if let Some(token) = fits(&*self.token.read().await) {
            return Ok(token);
        }
        let mut kept = self.token.write().await;
        if let Some(token) = fits(&kept) {
            // Another call got it while this one waited.
            return Ok(token);
        }
        let request = |base: &str| {
            let request = Request::put(&format!("{base}/latest/api/token"))?;
            request.header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL, false)
        };
        let answer = self.link.send(request).await.map_err(explained)?;
        let token = String::from_utf8_lossy(&answer.body).trim().to_owned();
        *kept = Some(token.clone());
        Ok(token)
    }
}

/// The sentence with what an operator can do about it.
fn explained(error: Error) -> Error {
    let hint = match (error.status, error.reason) {
        (Some(403), _) => "access to the metadata service is off for this instance (HttpEndpoint: disabled)",
        (Some(404 | 405), _) => "this is no metadata service of version 2",
        (Some(401), _) => "the metadata service refuses a token that it gave a moment ago",
        (None, Reason::Timeout) => {
            "the metadata service does not answer; behind a router or in a container its hop limit (HttpPutResponseHopLimit) may be too low"
        }
        (None, Reason::Network) => "the metadata service cannot be reached",
        _ => return error,
    };
    Error { message: format!("{hint}: {}", error.message), ..error }
}

/// A part of a path, with what has a meaning in a URL escaped.
fn escaped(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:=@,".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    part.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Engine;
    use crate::net::testing::{Received, Reply, Server, answer, closed_port};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn get(server: &Server, path: &str) -> Result<Option<Vec<u8>>, Error> {
        Engine::new()?.run(Imds::at(&server.url(""), soon()).hasty().get(path))
    }

    /// A service whose tokens are `token-0`, `token-1` and so on, of which only one is good.
    fn service(good: usize, then: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Server {
        let given = AtomicUsize::new(0);
        Server::start(move |request, before| {
            if request.method == "PUT" {
                assert_eq!(request.header("x-aws-ec2-metadata-token-ttl-seconds"), Some("21600"));
                return answer(200, format!("token-{}", given.fetch_add(1, Ordering::SeqCst)));
            }
            match request.header("x-aws-ec2-metadata-token") == Some(&format!("token-{good}")) {
                true => then(request, before),
                false => answer(401, ""),
            }
        })
    }

    #[test]
    fn a_token_comes_first_and_absence_is_no_error() {
        let server = service(0, |request, _| match request.target.as_str() {
            "/latest/meta-data/instance-id" => answer(200, "i-1"),
            _ => answer(404, ""),
        });
        let imds = Imds::at(&server.url(""), soon());
        let engine = Engine::new().unwrap();
        assert_eq!(engine.run(imds.get("meta-data/instance-id")).unwrap().unwrap(), b"i-1");
        assert_eq!(engine.run(imds.get("user-data")).unwrap(), None);
        assert_eq!(server.received().len(), 3, "one token serves both");
    }

    #[test]
    fn a_token_that_has_run_out_is_replaced_once() {
        let server = service(1, |_, _| answer(200, "x"));
        assert_eq!(get(&server, "a").unwrap().unwrap(), b"x");
        let methods: Vec<_> = server.received().into_iter().map(|r| r.method).collect();
        assert_eq!(methods, ["PUT", "GET", "PUT", "GET"]);
        let server = service(usize::MAX, |_, _| answer(200, "x"));
        let error = get(&server, "a").unwrap_err();
        assert!(error.message.starts_with("the metadata service refuses a token"), "{}", error.message);
        assert_eq!(server.received().len(), 4);
    }

    #[test]
    fn a_refusal_says_that_the_service_is_switched_off() {
        let server = Server::start(|_, _| answer(403, ""));
        let error = get(&server, "user-data").unwrap_err();
        assert!(error.message.contains("HttpEndpoint: disabled"), "{}", error.message);
        assert_eq!(server.received().len(), 1, "version 1 must not be tried");
    }

    #[test]
    fn a_service_without_tokens_is_told_as_one_and_asked_once() {
        for status in [404, 405] {
            let server = Server::start(move |_, _| answer(status, ""));
            let error = get(&server, "user-data").unwrap_err();
            assert!(error.message.starts_with("this is no metadata service of version 2"), "{}", error.message);
            assert_eq!(server.received().len(), 1, "version 1 must not be tried");
        }
    }

    #[test]
    fn everything_that_may_pass_is_tried_again() {
        let server = service(0, |_, before| match before {
            1 => Reply::Answer(503, vec!["retry-after: 0".to_owned()], Vec::new()),
            2 => answer(429, ""),
            3 => Reply::Reset,
            4 => Reply::Silence,
            5 => Reply::Stall("#cloud"),
            6 => answer(500, ""),
            _ => answer(200, "#cloud-config"),
        });
        assert_eq!(get(&server, "user-data").unwrap().unwrap(), b"#cloud-config");
    }

    #[test]
    fn silence_and_a_closed_port_end_at_the_deadline_with_a_sentence() {
        let server = Server::start(|_, _| Reply::Silence);
        let closed = format!("http://{}", closed_port());
        for (base, says) in [(server.url(""), "does not answer"), (closed, "cannot be reached")] {
            let began = Instant::now();
            let imds = Imds::at(&base, began + Duration::from_secs(2));
            let error = Engine::new().unwrap().run(imds.get("user-data")).unwrap_err();
            assert!(began.elapsed() < Duration::from_secs(10));
            assert!(error.message.contains(says), "{}", error.message);
            assert!(error.message.contains("PUT http://127.0.0.1"), "{}", error.message);
        }
    }

    #[test]
    fn a_name_with_any_character_is_one_part_of_the_path() {
        let server = service(0, |request, _| answer(200, request.target.clone()));
        let path = "meta-data/tags/instance/a b?c#d%";
        assert_eq!(get(&server, path).unwrap().unwrap(), b"/latest/meta-data/tags/instance/a%20b%3Fc%23d%25");
    }
}
