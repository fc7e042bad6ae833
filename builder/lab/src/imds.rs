//! The instance metadata service, version 2, for whoever asks from an instance's address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

use crate::metadata::Tree;
use crate::state::{Instance, State};
use crate::system::files;

const TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Six hours, as on EC2.
const LONGEST_TTL: u64 = 21_600;

/// What requests share.
struct Service {
    states: watch::Receiver<Arc<State>>,
    /// Who got a token and until when it holds.
    tokens: Mutex<HashMap<String, (IpAddr, Instant)>>,
}

/// An answer that is not 200: status and words.
type Refusal = (StatusCode, &'static str);

/// Serves metadata of the instances in `states` on this listener from now on.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(listener: std::net::TcpListener, states: watch::Receiver<Arc<State>>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = Arc::new(Service { states, tokens: Mutex::default() });
    let router = Router::new().fallback(answer).with_state(service);
    tokio::spawn(async move {
        let served = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await;
        if let Err(error) = served {
            tracing::error!("the metadata service has ended: {error}");
        }
    });
    Ok(())
}

async fn answer(
    Shared(service): Shared<Arc<Service>>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let answered = match service.caller(caller.ip()) {
        Err(refusal) => Err(refusal),
        Ok(instance) if method == Method::PUT => service.new_token(&instance, &uri, &headers),
        Ok(instance) if method == Method::GET || method == Method::HEAD => service.read(&instance, &uri, &headers),
        Ok(_) => Err((StatusCode::METHOD_NOT_ALLOWED, "use GET, or PUT for a token")),
    };
    answered.unwrap_or_else(|(status, words)| (status, format!("{words}\n")).into_response())
}

impl Service {
    fn caller(&self, address: IpAddr) -> Result<Instance, Refusal> {
        let state = self.states.borrow();
        let caller = state.instances.iter().find(|instance| IpAddr::V4(instance.address) == address.to_canonical());
        match caller {
            Some(instance) if instance.metadata => Ok(instance.clone()),
            Some(_) => Err((StatusCode::FORBIDDEN, "the metadata service of this instance is switched off")),
            None => Err((StatusCode::FORBIDDEN, "no instance has the address this request comes from")),
        }
    }

    fn new_token(&self, instance: &Instance, uri: &Uri, headers: &HeaderMap) -> Result<Response, Refusal> {
        if path(uri)? != "api/token" {
            return Err((StatusCode::NOT_FOUND, "only /latest/api/token takes PUT"));
        }
        if headers.contains_key(FORWARDED) {
            return Err((StatusCode::FORBIDDEN, "a token is not given through a proxy"));
        }
        let ttl = headers.get(TTL).and_then(|value| value.to_str().ok()).and_then(|value| value.parse::<u64>().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=LONGEST_TTL).contains(ttl)) else {
            return Err((StatusCode::BAD_REQUEST, "X-aws-ec2-metadata-token-ttl-seconds has to be 1 to 21600"));
        };
        let Ok(random) = files::random(32) else {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, "no token can be drawn"));
        };
        let token = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, random);
        let now = Instant::now();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, (_, end)| *end > now);
        tokens.insert(token.clone(), (instance.address.into(), now + Duration::from_secs(ttl)));
        let mut response = text(token.into_bytes());
        response.headers_mut().insert(TTL, HeaderValue::from(ttl));
        Ok(response)
    }

    fn read(&self, instance: &Instance, uri: &Uri, headers: &HeaderMap) -> Result<Response, Refusal> {
        match headers.get(TOKEN).map(|value| value.to_str().unwrap_or_default()) {
            Some(token) if self.holds(token, instance) => {}
            Some(_) => return Err((StatusCode::UNAUTHORIZED, "the token is not one of this instance, or has expired")),
            // An instance launched without MetadataOptions takes both versions of the service, and a
            // stock cloud-init that does not recognise EC2 by its firmware only asks in the first.
            None if !instance.token_required => {}
            None => return Err((StatusCode::UNAUTHORIZED, "a token from PUT /latest/api/token is needed")),
        }
        let absent = (StatusCode::NOT_FOUND, "there is no such metadata");
        Tree::of(instance).get(path(uri)?).map(text).ok_or(absent)
    }
}

impl Service {
    fn holds(&self, token: &str, instance: &Instance) -> bool {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let address = IpAddr::V4(instance.address);
        tokens.get(token).is_some_and(|(owner, end)| *owner == address && *end > Instant::now())
    }
}

fn text(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain")], body).into_response()
}

/// The path below the version. Every dated version is served alike.
fn path(uri: &Uri) -> Result<&str, Refusal> {
    let path = uri.path().trim_start_matches('/');
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    let dated = |version: &str| {
        version.len() == 10
            && version.bytes().enumerate().all(|(at, byte)| match at {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            })
    };
    if version == "latest" || version == "1.0" || dated(version) {
        Ok(rest)
    } else {
        Err((StatusCode::NOT_FOUND, "a path begins with a version, such as /latest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use crate::state::tests::instance;

    /// A service on a real socket whose one instance has the address that tests come from.
    fn start(change: impl FnOnce(&mut Instance)) -> (SocketAddr, watch::Sender<Arc<State>>) {
        let mut one = instance("i-1");
        one.address = Ipv4Addr::LOCALHOST;
        change(&mut one);
        let (states, seen) = watch::channel(Arc::new(State { instances: vec![one], images: Vec::new() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, seen).unwrap();
        (address, states)
    }

    /// Sends a request with these header lines and gives status and body.
    async fn ask(at: SocketAddr, first: &str, headers: &str) -> (u16, String) {
        let request = format!("{first} HTTP/1.1\r\nHost: imds\r\nConnection: close\r\n{headers}\r\n");
        let exchange = move || {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), body.to_owned())
        };
        tokio::task::spawn_blocking(exchange).await.unwrap()
    }

    async fn token(at: SocketAddr, ttl: &str) -> String {
        let headers = format!("X-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n");
        let (status, token) = ask(at, "PUT /latest/api/token", &headers).await;
        assert_eq!(status, 200);
        format!("X-aws-ec2-metadata-token: {token}\r\n")
    }

    #[tokio::test]
    async fn metadata_needs_a_token() {
        let (at, _states) = start(|_| {});
        assert_eq!(ask(at, "GET /latest/meta-data/instance-id", "").await.0, 401);
        assert_eq!(ask(at, "GET /latest/meta-data/instance-id", "X-aws-ec2-metadata-token: no\r\n").await.0, 401);
        let token = token(at, "60").await;
        assert_eq!(ask(at, "GET /latest/meta-data/instance-id", &token).await, (200, "i-1".to_owned()));
        assert_eq!(ask(at, "GET /2021-03-23/meta-data/instance-id", &token).await, (200, "i-1".to_owned()));
    }

    #[tokio::test]
    async fn an_instance_that_requires_no_token_still_refuses_a_wrong_one() {
        let (at, _states) = start(|one| one.token_required = false);
        assert_eq!(ask(at, "GET /latest/meta-data/instance-id", "").await, (200, "i-1".to_owned()));
        assert_eq!(ask(at, "GET /latest/meta-data/instance-id", "X-aws-ec2-metadata-token: no\r\n").await.0, 401);
    }

    #[tokio::test]
    async fn a_token_needs_a_lifetime_within_six_hours() {
        let (at, _states) = start(|_| {});
        assert_eq!(ask(at, "PUT /latest/api/token", "").await.0, 400);
        for ttl in ["0", "21601", "-1", "x", ""] {
            let headers = format!("X-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n");
            assert_eq!(ask(at, "PUT /latest/api/token", &headers).await.0, 400, "{ttl}");
        }
        token(at, "21600").await;
        let forwarded = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nX-Forwarded-For: 10.0.0.9\r\n";
        assert_eq!(ask(at, "PUT /latest/api/token", forwarded).await.0, 403);
        assert_eq!(ask(at, "PUT /latest/user-data", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n").await.0, 404);
    }

    #[tokio::test]
    async fn a_token_ends_with_its_lifetime() {
        let (at, _states) = start(|_| {});
        let token = token(at, "1").await;
        assert_eq!(ask(at, "GET /latest/meta-data/", &token).await.0, 200);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(ask(at, "GET /latest/meta-data/", &token).await.0, 401);
    }

    #[tokio::test]
    async fn a_stranger_and_an_instance_without_the_service_get_nothing() {
        let headers = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
        let (at, _states) = start(|one| one.address = Ipv4Addr::new(10, 1, 2, 3));
        assert_eq!(ask(at, "PUT /latest/api/token", headers).await.0, 403);
        let (at, _states) = start(|one| one.metadata = false);
        assert_eq!(ask(at, "PUT /latest/api/token", headers).await.0, 403);
    }

    #[tokio::test]
    async fn the_token_of_one_instance_is_none_of_the_next_one_at_its_address() {
        let (at, states) = start(|_| {});
        let token = token(at, "60").await;
        states.send_replace(Arc::default());
        assert_eq!(ask(at, "GET /latest/meta-data/instance-id", &token).await.0, 403);
    }

    #[tokio::test]
    async fn user_data_comes_as_its_bytes_or_not_at_all() {
        let (at, _states) = start(|_| {});
        let token_line = token(at, "60").await;
        assert_eq!(ask(at, "GET /latest/user-data", &token_line).await, (200, "#cloud-config\n".to_owned()));
        let (at, _states) = start(|one| one.user_data = None);
        let token_line = token(at, "60").await;
        assert_eq!(ask(at, "GET /latest/user-data", &token_line).await.0, 404);
    }

    #[tokio::test]
    async fn other_methods_and_versions_are_refused() {
        let (at, _states) = start(|_| {});
        let token = token(at, "60").await;
        assert_eq!(ask(at, "DELETE /latest/meta-data/", &token).await.0, 405);
        for path in ["/", "/oldest/meta-data/", "/2021-3-23/meta-data/", "/meta-data/", "/latest/nothing"] {
            assert_eq!(ask(at, &format!("GET {path}"), &token).await.0, 404, "{path}");
        }
    }
}
