//! The AWS API emulator as a process, and the conversation with it.

use std::ffi::OsString;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Doing, Error, Result};
use crate::net::GATEWAY;
use crate::paths::Paths;
use crate::state::{Life, State};
use crate::system::{files, netns, process};

/// The port of the API in the lab's namespace.
pub const PORT: u16 = 5000;
/// The account that every access key belongs to.
pub const ACCOUNT: &str = "123456789012";
/// The wrapper around moto; its head says what it does.
const WRAPPER: &str = include_str!("emulator.py");
/// Python reads a lot of files before it serves; on a cold disk under load this takes its time.
const START: Duration = Duration::from_secs(120);

/// A line from the wrapper.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    State { state: State },
    Reply { reply: u64, error: Option<String> },
    Ready { ready: bool },
}

/// An order and where its reply goes.
type Order = (Value, oneshot::Sender<std::result::Result<(), String>>);

/// The emulator. Clones speak to the same one.
#[derive(Clone)]
pub struct Moto {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<Arc<State>>,
}

impl Moto {
    /// Starts the emulator in the lab's namespace and waits until it serves. The receiver tells when
    /// it has ended.
    ///
    /// # Errors
    /// When it cannot be started or ends before it serves, with where its words are.
    pub async fn start(paths: &Paths, python: &Path, region: &str) -> Result<(Moto, oneshot::Receiver<()>)> {
        let socket = paths.moto_socket();
        files::remove(&socket).doing(|| format!("cannot make {}", socket.display()))?;
        let listener = UnixListener::bind(&socket).doing(|| format!("cannot listen on {}", socket.display()))?;
        let child = spawn(paths, python, region)?;
        let (exited, mut exit) = oneshot::channel();
        // The only waiter, so that the emulator never stays as a zombie.
        std::thread::spawn(move || {
            let mut child = child;
            let _ = exited.send(process::reap(&mut child));
        });
        let greeting = async {
            let (stream, _) = listener.accept().await?;
            greet(stream).await
        };
        let failed = |how: String| {
            let words = files::last_line(&paths.moto_log());
            Error::Need(format!("the AWS API emulator (moto) did not start ({how}): {words}"))
        };
        let (state, lines, writer) = tokio::select! {
            greeted = tokio::time::timeout(START, greeting) => match greeted {
                Ok(greeted) => greeted.map_err(|error| failed(error.to_string()))?,
                Err(_) => return Err(failed(format!("it was silent for {} s", START.as_secs()))),
            },
            status = &mut exit => {
                let status = status.ok().flatten().map_or_else(|| "unknown".to_owned(), |status| status.to_string());
                return Err(failed(status));
            }
        };
        let (states, state) = watch::channel(Arc::new(state));
        let (orders, taken) = mpsc::channel(64);
        let (ended, end) = oneshot::channel();
        tokio::spawn(async move {
            converse(lines, writer, taken, states).await;
            let _ = ended.send(());
        });
        Ok((Moto { orders, state }, end))
    }

    /// The state of instances and images, told anew at every change.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    async fn order(&self, order: Value) -> Result<()> {
        let gone = || Error::Refused("the AWS API emulator has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        self.orders.send((order, reply)).await.map_err(|_| gone())?;
        let answer = answer.await.map_err(|_| gone())?;
        answer.map_err(|error| Error::Refused(format!("the AWS API emulator refused: {error}")))
    }

    /// Tells what became of an instance, with code and words of EC2 when it was not asked for.
    ///
    /// # Errors
    /// When the emulator has ended or does not know the instance.
    pub async fn instance(&self, id: &str, life: Life, reason: Option<(&str, &str)>) -> Result<()> {
        let reason = reason.map(|(code, words)| json!({"code": code, "message": format!("{code}: {words}")}));
        self.order(json!({"instance": id, "state": life, "reason": reason})).await
    }

    /// Tells that an image's tree is there or will never be.
    ///
    /// # Errors
    /// When the emulator has ended or does not know the image.
    pub async fn image(&self, id: &str, available: bool) -> Result<()> {
        self.order(json!({"image": id, "state": if available { "available" } else { "failed" }})).await
    }

    /// Registers an imported image.
    ///
    /// # Errors
    /// When the emulator has ended or refuses.
    pub async fn register(&self, image: Value) -> Result<()> {
        self.order(image).await
    }
}

fn spawn(paths: &Paths, python: &Path, region: &str) -> Result<Child> {
    // Not under the name of a module it imports: python looks beside the script first.
    let script = paths.run().join("emulator.py");
    files::write(&script, WRAPPER.as_bytes(), 0o644).doing(|| format!("cannot write {}", script.display()))?;
    let (address, port) = (GATEWAY.to_string(), PORT.to_string());
    let mut command: Vec<OsString> = vec![python.into(), "-u".into(), script.into()];
    for (option, value) in
        [("--address", address.as_str()), ("--port", &port), ("--account", ACCOUNT), ("--region", region)]
    {
        command.extend([option.into(), value.into()]);
    }
    command.extend(["--driver".into(), paths.moto_socket().into(), "--consoles".into(), paths.consoles().into()]);
    let start = || {
        let log = files::open_log(&paths.moto_log())?;
        let child = process::server(&command, log)?;
        Ok(child)
    };
    let child = netns::within(&paths.namespace(), start).doing(|| "cannot start the AWS API emulator".to_owned())?;
    if let Some(identity) = crate::system::pids::Identity::of(child.id() as i32) {
        identity.record(&paths.pids().join("moto")).doing(|| "cannot note the emulator's pid".to_owned())?;
    }
    Ok(child)
}

type Greeted = (State, Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf);

/// Reads the first state and the word that it serves.
async fn greet(stream: UnixStream) -> std::io::Result<Greeted> {
    let (reader, writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut first = State::default();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Said::State { state } => first = state,
            Said::Ready { ready: true } => return Ok((first, lines, writer)),
            Said::Ready { .. } | Said::Reply { .. } => {}
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

/// Carries orders out and states in until one side ends.
async fn converse(
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    mut writer: OwnedWriteHalf,
    mut orders: mpsc::Receiver<Order>,
    states: watch::Sender<Arc<State>>,
) {
    let mut waiting = std::collections::HashMap::new();
    let mut number = 0_u64;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { return };
                match serde_json::from_str(&line) {
                    Ok(Said::State { state }) => drop(states.send_replace(Arc::new(state))),
                    Ok(Said::Reply { reply, error }) => {
                        if let Some(to) = waiting.remove(&reply) {
                            let to: oneshot::Sender<_> = to;
                            let _ = to.send(error.map_or(Ok(()), Err));
                        }
                    }
                    Ok(Said::Ready { .. }) => {}
                    Err(error) => tracing::error!("the emulator sent what cannot be read: {error}"),
                }
            }
            order = orders.recv() => {
                let Some((mut order, reply)) = order else { return };
                number += 1;
                order["order"] = json!(number);
                waiting.insert(number, reply);
                if writer.write_all(format!("{order}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}
