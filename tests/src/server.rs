//! Small HTTP servers inside the lab's network, which answer as a test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// What a server was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and path, as `POST /hook`.
    pub line: String,
    /// All header lines.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a server answers.
pub enum Answer {
    /// A status and a body.
    Status(u16, String),
    /// A file.
    Bytes(Vec<u8>),
    /// Nothing, for as long as the client waits.
    Silence,
}

/// A server that keeps what it was asked.
pub struct Server {
    /// Where machines reach it.
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves on a free port of the lab's gateway address; `answer` gets the number of the request, from 0.
    pub fn start(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at(crate::lab().access.netns.clone(), "10.0.0.1:0", answer)
    }

    /// Serves on an address of a network namespace; port 0 is a free one.
    pub fn start_at(
        netns: PathBuf,
        address: &'static str,
        answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = listen(netns, address);
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let kept = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, kept) = (answer.clone(), kept.clone());
                std::thread::spawn(move || serve(stream, &*answer, &kept));
            }
        });
        Server { url, requests }
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits for a number of requests.
    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        let end = Instant::now() + Duration::from_secs(120);
        while self.requests().len() < count {
            assert!(Instant::now() < end, "{} of {count} requests came", self.requests().len());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.requests()
    }
}

/// A listener whose socket lives in a network namespace. A thread enters it, and ends.
fn listen(netns: PathBuf, address: &'static str) -> TcpListener {
    let bind = move || {
        setns(std::fs::File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(address).unwrap()
    };
    std::thread::spawn(bind).join().unwrap()
}

fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(usize, &Request) -> Answer + Send + Sync),
    kept: &Mutex<Vec<Request>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) <= 2 {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        headers.push(header.trim_end().to_owned());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let line = line.rsplit_once(' ').map_or(line.clone(), |(start, _)| start.to_owned());
    let request = Request { line, headers, body };
    let number = {
        let mut kept = kept.lock().unwrap();
        kept.push(request.clone());
        kept.len() - 1
    };
    let (status, body) = match answer(number, &request) {
        Answer::Status(status, body) => (status, body.into_bytes()),
        Answer::Bytes(body) => (200, body),
        Answer::Silence => {
            // Until the client gives up and closes.
            let _ = reader.read(&mut [0]);
            return;
        }
    };
    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
}
