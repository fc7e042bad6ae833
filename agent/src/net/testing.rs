//! A server for tests: real sockets, and every way in which a server can be bad.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// `GET`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Received {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What the server does with a request.
pub enum Reply {
    /// Status, headers as lines, body.
    Answer(u16, Vec<String>, Vec<u8>),
    /// Closes the connection with a reset and says nothing.
    Reset,
    /// Keeps the connection open and says nothing, for ever.
    Silence,
    /// Promises a body, sends the first part of it and then nothing more.
    Stall(&'static str),
}

/// An answer without further headers.
pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply::Answer(status, Vec::new(), body.into())
}

/// A server that runs until the test ends.
pub struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    /// Answers every request by a function of the request and of the number of requests before it.
    pub fn start(reply: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { address: listener.local_addr().unwrap(), received: Arc::default() };
        let received = server.received.clone();
        let reply = Arc::new(reply);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (received, reply) = (received.clone(), reply.clone());
                std::thread::spawn(move || serve(&stream.unwrap(), &received, &*reply));
            }
        });
        server
    }

    /// `http://127.0.0.1:PORT` and a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

/// A port where nobody listens.
pub fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn serve(stream: &TcpStream, received: &Mutex<Vec<Received>>, reply: &dyn Fn(&Received, usize) -> Reply) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let before = {
            let mut received = received.lock().unwrap();
            received.push(request.clone());
            received.len() - 1
        };
        let mut stream = stream;
        match reply(&request, before) {
            Reply::Answer(status, headers, body) => {
                let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
                let _ = stream.write_all(&[head.into_bytes(), body].concat());
            }
            Reply::Reset => {
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
                return;
            }
            Reply::Silence => drop(stream.read(&mut [0])),
            Reply::Stall(part) => {
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{part}").as_bytes());
                drop(stream.read(&mut [0]));
            }
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Received> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut request = Received { method, target, headers, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}
