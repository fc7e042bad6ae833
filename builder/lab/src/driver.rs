//! The lab's daemon: follows the API and keeps machines, metadata, proxy and relay going.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::Access;
use crate::control;
use crate::error::{Doing, Error, Result};
use crate::images::Store;
use crate::machine;
use crate::moto::{self, Moto};
use crate::net::{self, GATEWAY, IMDS};
use crate::paths::Paths;
use crate::state::State;
use crate::status::Machine;
use crate::system::pids::Identity;
use crate::system::{files, netns};
use crate::{imds, proxy, relay};

/// The port of the proxy in the lab's namespace.
const PROXY_PORT: u16 = 3128;

/// What the parts of the daemon share.
pub struct Lab {
    /// Where the lab lies.
    pub paths: Paths,
    /// The region it stands for.
    pub region: String,
    /// How to reach it.
    pub access: Access,
    /// The API.
    pub moto: Moto,
    /// Machines by instance id, told anew at every change.
    pub machines: watch::Sender<BTreeMap<String, Machine>>,
    /// Turns true once, when everything is to end.
    pub closing: watch::Sender<bool>,
    /// Turns true once, when all machines are off.
    pub closed: watch::Sender<bool>,
    store: Mutex<Store>,
}

impl Lab {
    /// The layers, for one at a time.
    ///
    /// # Errors
    /// When another holder died within, so that they cannot be trusted.
    pub fn store(&self) -> Result<MutexGuard<'_, Store>> {
        self.store.lock().map_err(|_| Error::Refused("the lab lost count of its layers; start it anew".to_owned()))
    }

    /// Removes layers that nobody needs any more.
    ///
    /// # Errors
    /// When the layers cannot be trusted.
    pub fn sweep(&self) -> Result<()> {
        let state = self.moto.state().borrow().clone();
        let images = state.images.iter().map(|image| image.id.as_str()).collect();
        let unused = self.store()?.sweep(&images);
        for layer in unused {
            tracing::info!("layer {} is not needed any more", layer.display());
            if let Err(error) = files::remove_tree(&layer) {
                tracing::error!("cannot remove {}: {error}", layer.display());
            }
        }
        Ok(())
    }
}

/// Does what may block, such as mounting and copying, where it holds nobody up.
///
/// # Errors
/// What the work answers.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Err(Error::Refused(format!("a step of the lab ended early: {error}"))),
    }
}

/// What the daemon is started with.
pub struct Options {
    /// Where the lab lies.
    pub paths: Paths,
    /// The region it stands for.
    pub region: String,
    /// The python that has moto.
    pub python: PathBuf,
}

/// Runs the daemon until it is told to end or the API emulator does. The first line on standard
/// output says how the start went.
///
/// # Errors
/// Why it could not start; that has been said on standard output too.
pub fn run(options: Options) -> Result<()> {
    let doing = || "cannot start the lab's daemon".to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().doing(doing)?;
    let answer = runtime.block_on(async {
        let started = start(options).await;
        let line = match &started {
            Ok(_) => "ready\n".to_owned(),
            Err(error) => format!("{error}\n"),
        };
        // Nobody listening is nobody to tell: `up` was ended, and the lab stands all the same.
        let _ = std::io::stdout().write_all(line.as_bytes());
        let (lab, emulator) = started?;
        serve(lab, emulator).await;
        Ok(())
    });
    runtime.shutdown_background();
    answer
}

async fn start(options: Options) -> Result<(Arc<Lab>, oneshot::Receiver<()>)> {
    let Options { paths, region, python } = options;
    let note = || "cannot lay out the lab's folders".to_owned();
    for folder in [paths.layers(), paths.consoles()] {
        files::make_dir(&folder, 0o755).doing(note)?;
    }
    if let Some(me) = Identity::of(std::process::id() as i32) {
        me.record(&paths.daemon_pid()).doing(note)?;
    }
    net::make_lab(&paths)?;
    let (metadata, forward) =
        netns::within(&paths.namespace(), || Ok((listen((IMDS, 80).into())?, listen((GATEWAY, PROXY_PORT).into())?)))
            .doing(|| "cannot listen in the lab's namespace".to_owned())?;
    let (moto, emulator) = Moto::start(&paths, &python, &region).await?;
    let api = SocketAddr::from((GATEWAY, moto::PORT));
    let relayed = relay::start(paths.namespace(), api).doing(|| "cannot bring the API to the host".to_owned())?;
    let access = Access {
        name: paths.name().to_owned(),
        netns: paths.namespace(),
        endpoint: format!("http://{api}"),
        host_endpoint: format!("http://{relayed}"),
        proxy: format!("http://{GATEWAY}:{PROXY_PORT}"),
        region: region.clone(),
        python,
    };
    let store = Mutex::new(Store::new(paths.layers()));
    let (machines, closing, closed) =
        (watch::Sender::new(BTreeMap::new()), watch::Sender::new(false), watch::Sender::new(false));
    let lab = Arc::new(Lab { paths, region, access, moto, machines, closing, closed, store });
    let states = lab.moto.state();
    imds::serve(metadata, states).doing(|| "cannot serve metadata".to_owned())?;
    proxy::serve(forward).doing(|| "cannot serve the proxy".to_owned())?;
    control::serve(Arc::clone(&lab))?;
    let card = serde_json::to_vec_pretty(&lab.access).unwrap_or_default();
    files::write(&lab.paths.access(), &card, 0o644).doing(|| "cannot write the lab's address card".to_owned())?;
    Ok((lab, emulator))
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Gives every new instance its keeper, until the lab closes and all have ended.
async fn serve(lab: Arc<Lab>, mut emulator: oneshot::Receiver<()>) {
    let mut states = lab.moto.state();
    let mut closing = lab.closing.subscribe();
    let (mut known, mut keepers) = (HashSet::new(), JoinSet::new());
    let mut terminated = signal(SignalKind::terminate()).ok();
    loop {
        let state = states.borrow_and_update().clone();
        for instance in &state.instances {
            if known.insert(instance.id.clone()) {
                keepers.spawn(machine::keep(Arc::clone(&lab), instance.id.clone()));
            }
        }
        if let Err(error) = images(&lab, &state).await {
            tracing::error!("{error}");
        }
        let terminate = async {
            match &mut terminated {
                Some(signals) => signals.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = states.changed() => {}
            Some(_) = keepers.join_next(), if !keepers.is_empty() => {}
            _ = closing.wait_for(|closing| *closing) => break,
            _ = terminate => break,
            _ = &mut emulator => {
                tracing::error!("the AWS API emulator has ended; the lab ends with it");
                break;
            }
        }
    }
    lab.closing.send_replace(true);
    while keepers.join_next().await.is_some() {}
    tracing::info!("all machines are off");
    lab.closed.send_replace(true);
    control::finished(&lab).await;
}

/// Lets copies stand on the trees of their sources, and removes what nobody needs.
async fn images(lab: &Arc<Lab>, state: &State) -> Result<()> {
    {
        let mut store = lab.store()?;
        for image in &state.images {
            let source = image.source.as_ref().and_then(|source| source.image.as_deref());
            if let Some(source) = source.filter(|_| !store.has(&image.id)) {
                store.alias(&image.id, source);
            }
        }
    }
    let lab = Arc::clone(lab);
    blocking(move || lab.sweep()).await
}
