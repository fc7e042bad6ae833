//! An HTTP proxy for machines: it listens in the lab's namespace and connects from the host's
//! network, so a machine reaches a package mirror without a route of its own.
//!
//! It takes `CONNECT host:port` and requests in absolute form. A connection carries one request;
//! both sides are told so.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;

/// Longest head of a request.
const LONGEST_HEAD: usize = 64 * 1024;
/// How long a client may take to say what it wants, and a server to take the connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    /// `host:port` to connect to.
    target: String,
    /// What to send there first; for a tunnel nothing.
    head: Vec<u8>,
    /// How many bytes of body follow the head; a tunnel has no end.
    body: Body,
}

/// How much the client sends after the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Tunnel,
    Length(u64),
}

/// A refusal: status line and why.
type Refusal = (&'static str, String);

/// Serves the proxy on this listener from now on.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = attend(client).await;
            });
        }
    });
    Ok(())
}

async fn attend(mut client: TcpStream) -> io::Result<()> {
    let (head, rest) = match timeout(PATIENCE, read_head(&mut client)).await {
        Ok(read) => read?,
        Err(_) => return refuse(&mut client, ("408 Request Timeout", "no request came".to_owned())).await,
    };
    let wish = match wish(&head) {
        Ok(wish) => wish,
        Err(refusal) => return refuse(&mut client, refusal).await,
    };
    let mut server = match timeout(PATIENCE, connect(&wish.target)).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            return refuse(&mut client, ("502 Bad Gateway", format!("cannot reach {}: {error}", wish.target))).await;
        }
        Err(_) => return refuse(&mut client, ("504 Gateway Timeout", format!("{} is silent", wish.target))).await,
    };
    match wish.body {
        Body::Tunnel => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            server.write_all(&rest).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        }
        Body::Length(length) => {
            server.write_all(&wish.head).await?;
            // A client may send its next request early; that one belongs to another connection.
            let early = rest.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            server.write_all(&rest[..early]).await?;
            let (from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let mut body = from_client.take(length - early as u64);
            // The server may answer before it has read the whole body, and its answer is the end.
            let upload = async {
                let _ = tokio::io::copy(&mut body, &mut to_server).await;
                std::future::pending().await
            };
            tokio::select! {
                done = tokio::io::copy(&mut from_server, &mut to_client) => done.map(drop),
                never = upload => never,
            }?;
            client.shutdown().await?;
        }
    }
    Ok(())
}

async fn refuse(client: &mut TcpStream, (status, why): Refusal) -> io::Result<()> {
    let length = why.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{why}\n"
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Reads up to the empty line; what came after it is given back.
async fn read_head(client: &mut TcpStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    loop {
        let length = client.read(&mut part).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The end may lie across two reads.
        let seen = head.len().saturating_sub(3);
        head.extend_from_slice(&part[..length]);
        if let Some(end) = head[seen..].windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = head.split_off(seen + end + 4);
            return Ok((head, rest));
        }
        if head.len() > LONGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Reads a request's head and says what to do.
fn wish(head: &[u8]) -> Result<Wish, Refusal> {
    let bad = |why: &str| ("400 Bad Request", why.to_owned());
    let text = std::str::from_utf8(head).map_err(|_| bad("the request's head is not text"))?;
    let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("the first line is not METHOD TARGET VERSION"));
    };
    if method == "CONNECT" {
        let target = with_port(target, None).ok_or_else(|| bad("CONNECT needs HOST:PORT"))?;
        return Ok(Wish { target, head: Vec::new(), body: Body::Tunnel });
    }
    let Some(rest) = target.strip_prefix("http://") else {
        return Err(bad("this is a proxy: ask for http://HOST/PATH, or CONNECT HOST:PORT"));
    };
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    let target = with_port(host, Some(80)).ok_or_else(|| bad("the address has no host"))?;
    let mut new = format!("{method} {slash}{path} {version}\r\n");
    let mut length = 0;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header has no colon"))?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(|_| bad("the length is no number"))?,
            "transfer-encoding" => return Err(("411 Length Required", "send the body with its length".to_owned())),
            // These speak about the connection to the proxy.
            "connection" | "proxy-connection" | "keep-alive" | "proxy-authorization" => continue,
            _ => {}
        }
        new += &format!("{line}\r\n");
    }
    new += "Connection: close\r\n\r\n";
    Ok(Wish { target, head: new.into_bytes(), body: Body::Length(length) })
}

/// The address with its port; none when it has no host, or no port where none is usual.
fn with_port(host: &str, usual: Option<u16>) -> Option<String> {
    // `user@host` has no business here, and a colon within brackets is part of an address.
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let after = host.rfind(']').map_or(0, |end| end + 1);
    let (name, port) = match host[after..].find(':') {
        Some(colon) => (&host[..after + colon], Some(host[after + colon + 1..].parse::<u16>().ok()?)),
        None => (host, usual),
    };
    (!name.is_empty()).then_some(())?;
    Some(format!("{name}:{}", port?))
}

/// Connects from the host's network, but not to the host itself: what listens on its loopback
/// trusts whoever is there, and a machine of the lab is not.
async fn connect(target: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(target).await? {
        if is_host_itself(&address) {
            last = io::Error::new(io::ErrorKind::PermissionDenied, "it is the loopback or a link-local address");
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn is_host_itself(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        // Tests serve on the loopback, as they have nothing else.
        IpAddr::V4(ip) => (ip.is_loopback() && !cfg!(test)) || ip.is_unspecified() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<(String, String, Body), &'static str> {
        wish(head.as_bytes())
            .map(|wish| (wish.target, String::from_utf8(wish.head).unwrap(), wish.body))
            .map_err(|(status, _)| status)
    }

    #[test]
    fn an_absolute_request_goes_on_in_origin_form() {
        let (target, head, body) = read(
            "GET http://deb.debian.org/a?b HTTP/1.1\r\nHost: deb.debian.org\r\nProxy-Connection: keep-alive\r\n\r\n",
        )
        .unwrap();
        assert_eq!(target, "deb.debian.org:80");
        assert_eq!(head, "GET /a?b HTTP/1.1\r\nHost: deb.debian.org\r\nConnection: close\r\n\r\n");
        assert_eq!(body, Body::Length(0));
    }

    #[test]
    fn hosts_are_read_with_and_without_port() {
        for (url, target) in [
            ("http://a:8080/x", "a:8080"),
            ("http://a", "a:80"),
            ("http://a?q", "a:80"),
            ("http://[::1]/x", "[::1]:80"),
            ("http://[::1]:81/x", "[::1]:81"),
            ("http://user:secret@a/x", "a:80"),
        ] {
            assert_eq!(read(&format!("GET {url} HTTP/1.1\r\n\r\n")).unwrap().0, target, "{url}");
        }
        assert!(read("GET http://a?q HTTP/1.1\r\n\r\n").unwrap().1.starts_with("GET /?q HTTP/1.1\r\n"));
        assert_eq!(read("CONNECT a:443 HTTP/1.1\r\n\r\n").unwrap(), ("a:443".into(), String::new(), Body::Tunnel));
    }

    #[test]
    fn what_is_no_request_for_a_proxy_is_refused() {
        for head in [
            "GET /x HTTP/1.1\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n",
            "CONNECT a HTTP/1.1\r\n\r\n",
            "CONNECT a:99999 HTTP/1.1\r\n\r\n",
            "CONNECT :443 HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET http://a/\r\n\r\n",
            "GET http://a/ x HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nno colon\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert_eq!(read(head), Err("400 Bad Request"), "{head}");
        }
        let chunked = "POST http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(chunked), Err("411 Length Required"));
    }

    #[test]
    fn the_hosts_own_services_are_out_of_reach() {
        for address in ["169.254.169.254:80", "0.0.0.0:80", "[::1]:80", "[fe80::1]:80", "[::ffff:169.254.1.1]:80"] {
            assert!(is_host_itself(&address.parse().unwrap()), "{address}");
        }
        assert!(!is_host_itself(&"151.101.2.132:80".parse().unwrap()));
    }

    async fn proxy() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener).unwrap();
        address
    }

    async fn talk(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn request_and_body_reach_the_server_and_its_answer_the_client() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let seen = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let (head, mut body) = read_head(&mut stream).await.unwrap();
            while body.len() < 4 {
                stream.read_buf(&mut body).await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello").await.unwrap();
            (String::from_utf8(head).unwrap(), body)
        });
        // The second request comes early, as apt sends it, and must not pass for a body.
        let request =
            format!("POST http://{at}/p HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET http://{at}/2 HTTP/1.1\r\n\r\n");
        let answer = talk(proxy().await, &request).await;
        let (head, body) = seen.await.unwrap();
        assert!(head.starts_with("POST /p HTTP/1.1\r\n"), "{head}");
        assert_eq!(body, b"body");
        assert!(answer.ends_with("hello"), "{answer}");
    }

    #[tokio::test]
    async fn a_tunnel_carries_bytes_both_ways() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut four = [0; 4];
            stream.read_exact(&mut four).await.unwrap();
            stream.write_all(&four).await.unwrap();
        });
        let answer = talk(proxy().await, &format!("CONNECT {at} HTTP/1.1\r\n\r\nping")).await;
        assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\nping");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let answer = talk(proxy().await, &format!("GET http://{closed}/ HTTP/1.1\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
        assert!(answer.contains(&format!("cannot reach {closed}: ")), "{answer}");
    }
}
