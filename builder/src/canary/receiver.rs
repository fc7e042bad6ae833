//! What agents tell of their boot: a small server for `phone_home`.
//!
//! It takes a form with `instance_id`, as cloud-init sends it, and the agent's whole status as JSON. With a
//! key, only messages count that are signed with it: who can reach the address could else speak for any
//! instance.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use hmac::{Hmac, KeyInit, Mac};
use kiln_schema::Status;
use kiln_schema::status::State;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::bake::Error;

/// The header with the signature, as the agent sends it.
const SIGNATURE: &str = "x-kiln-signature";

/// A message: the instance, and the state of its boot if it says so.
pub type Message = (String, Option<State>);

struct Desk {
    key: Option<Vec<u8>>,
    messages: UnboundedSender<Message>,
}

/// Listens from now on. Answers the address, which matters where the port was left to the system.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn listen(
    address: SocketAddr,
    key: Option<Vec<u8>>,
) -> Result<(SocketAddr, UnboundedReceiver<Message>), Error> {
    let error = |error| Error::file(format!("cannot listen on {address}"), error);
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    let (messages, received) = unbounded_channel();
    let router = Router::new().fallback(take).with_state(Arc::new(Desk { key, messages }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((bound, received))
}

async fn take(Shared(desk): Shared<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    if let Some(key) = &desk.key {
        let given = headers.get(SIGNATURE).and_then(|value| value.to_str().ok());
        if !given.is_some_and(|given| is_signed(key, given, &body)) {
            return (StatusCode::FORBIDDEN, "the signature is missing or does not fit\n");
        }
    }
    match read(&body) {
        Some(message) => {
            let _ = desk.messages.send(message);
            (StatusCode::OK, "")
        }
        None => (StatusCode::BAD_REQUEST, "neither a form with instance_id nor the status of an agent\n"),
    }
}

fn is_signed(key: &[u8], given: &str, body: &[u8]) -> bool {
    let Some(digits) = given.strip_prefix("sha256=") else { return false };
    let pair = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let Some(bytes) = (0..digits.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>() else { return false };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return false };
    mac.update(body);
    mac.verify_slice(&bytes).is_ok()
}

/// What a body says.
fn read(body: &[u8]) -> Option<Message> {
    if let Ok(status) = serde_json::from_slice::<Status>(body) {
        return Some((status.instance_id?, Some(status.state)));
    }
    let text = std::str::from_utf8(body).ok()?;
    let id = text.split('&').find_map(|pair| pair.trim().strip_prefix("instance_id="))?;
    // The id of an instance has no character that a form would spell otherwise.
    let plain = id.strip_prefix("i-").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    plain.then(|| (id.to_owned(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_message_are_read() {
        let form = b"pub_key_rsa=ssh-rsa+AAAA&instance_id=i-0abc&hostname=web";
        assert_eq!(read(form), Some(("i-0abc".into(), None)));
        for bad in [&b""[..], b"hostname=web", b"{}", b"instance_id=../etc", b"\xff\xfe", b"[1"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_signature_of_another_key_or_body_is_none() {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"key").unwrap();
        mac.update(b"body");
        let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(is_signed(b"key", &format!("sha256={digits}"), b"body"));
        assert!(!is_signed(b"key", &format!("sha256={digits}"), b"body2"));
        assert!(!is_signed(b"other", &format!("sha256={digits}"), b"body"));
        for bad in ["", "sha256=", "sha256=abc", "sha256=zz", "md5=00", "sha256=\u{e4}\u{e4}"] {
            assert!(!is_signed(b"key", bad, b"body"), "{bad}");
        }
    }
}
