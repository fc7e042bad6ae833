//! The one HTTP client.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kiln_schema::status::Reason;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect;
use reqwest::{Method, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};

use super::retry::{Policy, Verdict, connection_fault, root};
use super::{Error, certificates};
use crate::system::System;

/// Most bytes of an answer, where a request sets no other limit.
const LIMIT: usize = 16 * 1024 * 1024;
/// So much of the body of a refusal is kept.
const KEPT: usize = 2048;
/// Most redirects that a GET follows.
const REDIRECTS: usize = 5;

/// A request.
#[derive(Clone)]
pub struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Vec<u8>,
    limit: usize,
    passing: &'static [u16],
}

/// An answer of success.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as it came.
    pub body: Vec<u8>,
    pub(super) headers: HeaderMap,
}

impl Request {
    fn new(method: Method, url: &str, body: Vec<u8>) -> Result<Self, Error> {
        let bad = |why: String| Error::new(Reason::Config, format!("`{}` is not a URL: {why}", hidden(url)));
        let url = Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(bad("it must begin with http:// or https:// and a host".to_owned()));
        }
        Ok(Request { method, url, headers: HeaderMap::new(), body, limit: LIMIT, passing: &[] })
    }

    /// A request that another library has made.
    ///
    /// # Errors
    /// When there is no such method, or the URL cannot be used.
    pub(super) fn made(method: &str, url: &str, body: Vec<u8>) -> Result<Self, Error> {
        let known = Method::from_bytes(method.as_bytes());
        Self::new(known.map_err(|_| Error::new(Reason::Config, format!("`{method}` is no method")))?, url, body)
    }

    /// A GET.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn get(url: &str) -> Result<Self, Error> {
        Self::new(Method::GET, url, Vec::new())
    }

    /// A PUT without a body.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn put(url: &str) -> Result<Self, Error> {
        Self::new(Method::PUT, url, Vec::new())
    }

    /// A POST.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn post(url: &str, content_type: &str, body: Vec<u8>) -> Result<Self, Error> {
        Self::new(Method::POST, url, body)?.header(CONTENT_TYPE.as_str(), content_type, false)
    }

    /// Adds a header. A secret one is kept out of every log.
    ///
    /// # Errors
    /// When name or value has a character that no header may have.
    pub fn header(mut self, name: &str, value: &str, secret: bool) -> Result<Self, Error> {
        let bad = || Error::new(Reason::Config, format!("`{name}` cannot be sent as a header"));
        let header = HeaderName::try_from(name).map_err(|_| bad())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| bad())?;
        value.set_sensitive(secret);
        self.headers.insert(header, value);
        Ok(self)
    }

    /// With another limit on the bytes of the answer.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Request { limit, ..self }
    }

    /// With statuses that are tried again too, where others refuse with them.
    #[must_use]
    pub fn passing(self, passing: &'static [u16]) -> Self {
        Request { passing, ..self }
    }

    /// Method and URL, for messages. User name, password and query may be secrets and are left out.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, hidden(self.url.as_str()))
    }
}

/// A URL without user name, password, query and fragment.
pub fn hidden(url: &str) -> String {
    let (url, _) = url.split_once('#').unwrap_or((url, ""));
    let (url, query) = url.split_once('?').map_or((url, ""), |(url, _)| (url, "?…"));
    let Some((scheme, rest)) = url.split_once("://") else { return format!("{url}{query}") };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}{query}")
}

/// The client: connections are kept while it lives.
pub struct Client {
    /// Whose certificates HTTPS trusts; none is no HTTPS.
    system: Option<System>,
    plain: OnceLock<reqwest::Client>,
    secure: OnceLock<reqwest::Client>,
}

impl Client {
    /// A client for any server: HTTPS with the certificates of the image, and the environment's proxy.
    pub fn new(system: &System) -> Self {
        Client { system: Some(system.clone()), plain: OnceLock::new(), secure: OnceLock::new() }
    }

    /// A client for a service on the link: plain HTTP, no proxy, no certificates.
    pub fn on_link() -> Self {
        Client { system: None, plain: OnceLock::new(), secure: OnceLock::new() }
    }

    /// Sends a request until it is answered, hopeless, or out of time.
    ///
    /// Success is an answer of 200 to 299; 408, 425, 429 and 500 to 599 are tried again, as are faults
    /// of the connection; all else is a refusal. A GET follows redirects.
    ///
    /// # Errors
    /// With the request, the cause and the number of tries.
    pub async fn send(&self, request: &Request, policy: &Policy) -> Result<Answer, Error> {
        let mut request = request.clone();
        for _ in 0..=REDIRECTS {
            let name = request.name();
            let client = self.client(&request.url).map_err(|e| e.because(&name))?;
            let answer = policy.run(&name, || once(client, &request)).await?;
            if answer.status < 300 {
                return Ok(answer);
            }
            request = redirected(&request, &answer).map_err(|e| e.because(&name))?;
        }
        Err(Error::new(Reason::Refused, format!("{}: more than {REDIRECTS} redirects", request.name())))
    }

    /// Sends a request once and takes any answer, for a caller that judges it.
    pub(super) async fn exchange(&self, request: &Request) -> Result<Answer, Fault> {
        let client = self.client(&request.url).map_err(Fault::Unusable)?;
        exchange(client, request).await
    }

    /// Makes ready what requests need; else the first of them does.
    ///
    /// # Errors
    /// When HTTPS has nobody to trust.
    pub(super) fn prepare(&self, secure: bool) -> Result<&reqwest::Client, Error> {
        let kept = if secure { &self.secure } else { &self.plain };
        if let Some(client) = kept.get() {
            return Ok(client);
        }
        let trusted = match (&self.system, secure) {
            (Some(system), true) => certificates::trusted(system)?,
            (None, true) => return Err(Error::new(Reason::Config, "a service on the link is spoken to by http://")),
            (_, false) => RootCertStore::empty(),
        };
        let unusable = |e: &dyn std::error::Error| Error::new(Reason::Network, format!("no HTTP client: {}", root(e)));
        // Given whole, for plain HTTP too: the library's own choice asserts that the platform has certificates.
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(trusted).map_err(|e| unusable(&e))?)
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("kiln-agent/", env!("CARGO_PKG_VERSION")));
        let builder = if self.system.is_none() { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|e| unusable(&e))?;
        Ok(kept.get_or_init(|| client))
    }

    fn client(&self, url: &Url) -> Result<&reqwest::Client, Error> {
        self.prepare(url.scheme() == "https")
    }
}

/// TLS by ring, which is a fraction of the size of the library's usual choice. Named here and not left
/// to a default of the process, which depends on what else is compiled in.
fn tls(trusted: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(trusted).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The request that a redirect asks for. Its headers stay behind: what proves who asks is for the
/// server that was named, and for no other.
fn redirected(request: &Request, answer: &Answer) -> Result<Request, Error> {
    let target = answer.headers.get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
    let target = request.url.join(target).map_err(|_| Error::new(Reason::Refused, "a redirect to nowhere"))?;
    if request.url.scheme() == "https" && target.scheme() != "https" {
        let message = format!("a redirect to {}, which anybody could have answered", hidden(target.as_str()));
        return Err(Error::new(Reason::Refused, message));
    }
    Ok(Request::get(target.as_str())?.limit(request.limit))
}

async fn once(client: &reqwest::Client, request: &Request) -> Verdict<Answer> {
    match exchange(client, request).await {
        Ok(answer) => judge(request, answer),
        Err(Fault::TooLarge) => {
            let message = format!("the answer is larger than {} bytes", request.limit);
            Verdict::GiveUp(Error::new(Reason::Refused, message))
        }
        Err(Fault::Connection(error)) => connection_fault(&error),
        Err(Fault::Unusable(error)) => Verdict::GiveUp(error),
    }
}

/// Why a request has no answer at all.
pub(super) enum Fault {
    /// Below HTTP.
    Connection(reqwest::Error),
    /// The answer is larger than the request allows.
    TooLarge,
    /// There is no client for it.
    Unusable(Error),
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Self {
        Fault::Connection(error)
    }
}

async fn exchange(client: &reqwest::Client, request: &Request) -> Result<Answer, Fault> {
    let mut wire = reqwest::Request::new(request.method.clone(), request.url.clone());
    *wire.headers_mut() = request.headers.clone();
    if request.method != Method::GET {
        *wire.body_mut() = Some(request.body.clone().into());
    }
    let mut response = client.execute(wire).await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > request.limit {
            return Err(Fault::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: response.status().as_u16(), body, headers: std::mem::take(response.headers_mut()) })
}

fn judge(request: &Request, answer: Answer) -> Verdict<Answer> {
    let method = &request.method;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let redirected = status.is_redirection() && answer.headers.contains_key(LOCATION);
    if status.is_success() || (redirected && method == Method::GET) {
        return Verdict::Done(answer);
    }
    let moved = answer.headers.get(LOCATION).and_then(|l| l.to_str().ok()).filter(|_| redirected);
    let moved = moved.map_or(String::new(), |to| format!(" to {}, which a {method} does not follow", hidden(to)));
    let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(KEPT)]).into_owned();
    let mut cause = Error::new(Reason::Refused, format!("HTTP {status}{moved}"));
    cause.status = Some(answer.status);
    cause.body = body;
    if status.is_server_error() || matches!(answer.status, 408 | 425 | 429) || request.passing.contains(&answer.status)
    {
        cause.reason = Reason::Network;
        let after = answer.headers.get(RETRY_AFTER).filter(|_| matches!(answer.status, 429 | 503));
        return Verdict::Retry { cause, after: after.and_then(wait) };
    }
    Verdict::GiveUp(cause)
}

/// Seconds, or a date.
fn wait(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Duration::try_from(at.duration_since(jiff::Timestamp::now())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Reply, Server, answer, closed_port};
    use crate::net::{Backoff, Engine};
    use std::time::Instant;

    const QUICK: Backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(4) };

    fn policy() -> Policy {
        Policy::until(Instant::now() + Duration::from_secs(30)).backoff(QUICK)
    }

    fn ask(request: Result<Request, Error>, policy: &Policy) -> Result<Answer, Error> {
        Engine::new()?.run(Client::on_link().send(&request?, policy))
    }

    #[test]
    fn a_message_never_shows_who_asks_or_the_query() {
        for (url, shown) in [
            ("https://user:pass@host:8443/a/b?token=secret#x", "GET https://host:8443/a/b?…"),
            ("http://host", "GET http://host/"),
            ("http://user:p%40ss@host/a@b", "GET http://host/a@b"),
        ] {
            assert_eq!(Request::get(url).unwrap().name(), shown);
        }
        for (url, shown) in [
            ("user:pass@host", "`user:pass@host` is not a URL"),
            ("ftp://user:pass@host/x", "`ftp://host/x` is not a URL: it must begin with http://"),
            ("http://user:pass@ho st/?token=secret", "`http://ho st/?…` is not a URL"),
            ("", "`` is not a URL"),
        ] {
            let error = Request::get(url).map(|r| r.name()).unwrap_err();
            assert!(error.message.starts_with(shown), "{}", error.message);
            assert_eq!(error.reason, Reason::Config);
        }
    }

    #[test]
    fn a_status_is_done_or_hopeless_or_tried_again() {
        for (status, tries, reason) in [
            (200, 1, None),
            (204, 1, None),
            (400, 1, Some(Reason::Refused)),
            (403, 1, Some(Reason::Refused)),
            (404, 1, Some(Reason::Refused)),
            (408, 3, Some(Reason::Network)),
            (429, 3, Some(Reason::Network)),
            (500, 3, Some(Reason::Network)),
            (503, 3, Some(Reason::Network)),
        ] {
            let server = Server::start(move |_, _| answer(status, "text"));
            let outcome = ask(Request::get(&server.url("/")), &policy().tries(3));
            assert_eq!(outcome.as_ref().err().map(|e| e.reason), reason, "{status}");
            assert_eq!(outcome.err().map_or(Some(status), |e| e.status), Some(status));
            assert_eq!(server.received().len(), tries, "{status}");
        }
    }

    #[test]
    fn faults_of_the_connection_are_tried_again() {
        let server = Server::start(|_, before| match before {
            0 => Reply::Reset,
            1 => Reply::Silence,
            2 => Reply::Stall("half"),
            _ => answer(200, "whole"),
        });
        let policy = policy().per_try(Duration::from_secs(2));
        assert_eq!(ask(Request::get(&server.url("/")), &policy).unwrap().body, b"whole");
        assert_eq!(server.received().len(), 4);
    }

    #[test]
    fn the_cause_of_a_fault_is_told_without_the_layers_above_it() {
        let url = format!("http://{}/x", closed_port());
        let error = ask(Request::get(&url), &policy().tries(2)).unwrap_err();
        assert!(error.message.starts_with(&format!("GET {url}: Connection refused (os error 111) (2 tries in")));
        let server = Server::start(|_, _| Reply::Reset);
        let error = ask(Request::get(&server.url("/x")), &policy().tries(1)).unwrap_err();
        assert!(error.message.contains("reset by peer") || error.message.contains("closed"), "{}", error.message);
    }

    #[test]
    fn a_pause_that_the_server_asks_for_is_kept_in_both_spellings() {
        let later = jiff::Timestamp::now() + Duration::from_secs(600);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&later).unwrap();
        for (value, at_least) in [("600".to_owned(), 600), (date, 590)] {
            let waited = wait(&HeaderValue::from_str(&value).unwrap()).unwrap();
            assert!((at_least..=600).contains(&waited.as_secs()), "{value}");
        }
        assert_eq!(wait(&HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT")), None, "it is over");
        assert_eq!(wait(&HeaderValue::from_static("soon")), None);
        let server = Server::start(|_, before| match before {
            0 => Reply::Answer(503, vec!["Retry-After: 1".to_owned()], Vec::new()),
            _ => answer(200, "up"),
        });
        let began = Instant::now();
        assert_eq!(ask(Request::get(&server.url("/")), &policy()).unwrap().body, b"up");
        assert!(began.elapsed() >= Duration::from_secs(1));
    }

    #[test]
    fn a_get_follows_redirects_without_its_secrets_and_not_for_ever() {
        let server = Server::start(|request, _| match request.target.as_str() {
            "/a" => Reply::Answer(302, vec!["Location: /b".to_owned()], Vec::new()),
            "/b" => answer(200, "there"),
            _ => Reply::Answer(301, vec!["Location: /round".to_owned()], Vec::new()),
        });
        let request = Request::get(&server.url("/a")).unwrap().header("x-token", "secret", true);
        assert_eq!(ask(request, &policy()).unwrap().body, b"there");
        assert_eq!(server.received()[0].header("x-token"), Some("secret"));
        assert_eq!(server.received()[1].header("x-token"), None);
        let error = ask(Request::get(&server.url("/round")), &policy()).unwrap_err();
        assert!(error.message.contains("more than 5 redirects"), "{}", error.message);
        let post = Request::post(&server.url("/a"), "text/plain", b"x".to_vec());
        let error = ask(post, &policy()).unwrap_err();
        assert!(error.message.contains("HTTP 302 Found to /b, which a POST does not follow"), "{}", error.message);
    }

    #[test]
    fn a_redirect_never_leads_out_of_https() {
        for (from, to, then) in [
            ("https://a/x", "/y", Ok("GET https://a/y")),
            ("http://a/x", "https://b/y", Ok("GET https://b/y")),
            (
                "https://a/x",
                "http://a/y?k=secret",
                Err("a redirect to http://a/y?…, which anybody could have answered"),
            ),
            (
                "https://a/x",
                "file:///etc/shadow",
                Err("a redirect to file:///etc/shadow, which anybody could have answered"),
            ),
            (
                "http://a/x",
                "file:///etc/shadow",
                Err("`file:///etc/shadow` is not a URL: it must begin with http:// or https:// and a host"),
            ),
        ] {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(to))]);
            let answer = Answer { status: 302, body: Vec::new(), headers };
            let next = redirected(&Request::get(from).unwrap(), &answer).map(|r| r.name()).map_err(|e| e.message);
            assert_eq!(next.as_deref().map_err(String::as_str), then);
        }
    }

    #[test]
    fn an_answer_without_end_is_given_up_at_the_limit() {
        let server = Server::start(|_, _| answer(200, vec![b'x'; 2000]));
        let error = ask(Request::get(&server.url("/")).map(|r| r.limit(1000)), &policy()).unwrap_err();
        assert!(error.message.contains("larger than 1000 bytes"), "{}", error.message);
    }

    #[test]
    fn https_begins_with_a_handshake_and_trusts_what_the_image_trusts() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        system.write(bundle, certificates::ONE, crate::system::FileOptions::default()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut first = [0; 1];
            std::io::Read::read_exact(&mut stream, &mut first).unwrap();
            std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 X\r\n\r\n").unwrap();
            first[0]
        });
        let request = Request::get(&url).unwrap();
        let error = Engine::new().unwrap().run(Client::new(&system).send(&request, &policy().tries(1))).unwrap_err();
        assert!(error.message.contains("corrupt message"), "{}", error.message);
        assert_eq!(server.join().unwrap(), 22, "a record of TLS's handshake");
    }

    #[test]
    fn https_without_certificates_says_so_and_http_does_not_need_them() {
        let tree = tempfile::tempdir().unwrap();
        let client = Client::new(&System::new(tree.path()));
        let send = |url: &str| {
            let request = Request::get(url).unwrap();
            Engine::new().unwrap().run(client.send(&request, &policy()))
        };
        let error = send("https://127.0.0.1:1/x?key=secret").unwrap_err();
        assert_eq!(error.reason, Reason::NoCertificates);
        assert!(error.message.starts_with("GET https://127.0.0.1:1/x?…: HTTPS needs"), "{}", error.message);
        let server = Server::start(|_, _| answer(200, "plain"));
        assert_eq!(send(&server.url("/")).unwrap().body, b"plain");
    }
}
