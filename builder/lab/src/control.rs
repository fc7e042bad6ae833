//! The daemon's side of the conversation with `kiln lab` and the library: one order per connection.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::driver::{Lab, blocking};
use crate::error::{Doing, Error, Result};
use crate::moto;
use crate::state::State;
use crate::status::{Answer, ImageStatus, Import, Machine, MachineStatus, Order, Power, Status, Until};
use crate::system::files;

/// An order is a line; no honest one comes near this length.
const LONGEST: u64 = 1 << 20;

/// Takes orders from now on.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(lab: Arc<Lab>) -> Result<()> {
    let path = lab.paths.daemon_socket();
    let doing = || format!("cannot listen on {}", path.display());
    files::remove(&path).doing(doing)?;
    // Orders come from root alone.
    let listener = UnixListener::bind(&path).doing(doing)?;
    files::restrict(&path, 0o600).doing(doing)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(Arc::clone(&lab), stream));
        }
    });
    Ok(())
}

/// Lets an answer to `Down` leave before the process ends.
pub async fn finished(lab: &Lab) {
    let _ = timeout(Duration::from_secs(1), lab.closed.closed()).await;
}

async fn converse(lab: Arc<Lab>, mut stream: UnixStream) {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    if BufReader::new(reader.take(LONGEST)).read_line(&mut line).await.is_err() {
        return;
    }
    let answered = match serde_json::from_str(&line) {
        Ok(order) => obey(&lab, order).await,
        Err(error) => Err(Error::Input(format!("the order cannot be read: {error}"))),
    };
    let answer = answered.map_or_else(|error| Answer::Error(error.to_string()), Answer::Ok);
    let text = serde_json::to_string(&answer).unwrap_or_default();
    let _ = writer.write_all(format!("{text}\n").as_bytes()).await;
}

async fn obey(lab: &Arc<Lab>, order: Order) -> Result<Value> {
    match order {
        Order::Status => Ok(json!(status(lab))),
        Order::Import(import) => Ok(json!(register(lab, import).await?)),
        Order::Machine { instance } => machine(lab, &instance).map(|machine| json!(machine)),
        Order::Wait { instance, until, seconds } => wait(lab, &instance, until, seconds).await,
        Order::Down => {
            let mut closed = lab.closed.subscribe();
            lab.closing.send_replace(true);
            let _ = closed.wait_for(|closed| *closed).await;
            Ok(Value::Null)
        }
    }
}

fn status(lab: &Lab) -> Status {
    let state = lab.moto.state().borrow().clone();
    let machines = lab.machines.borrow().clone();
    Status {
        name: lab.access.name.clone(),
        up: true,
        endpoint: Some(lab.access.endpoint.clone()),
        host_endpoint: Some(lab.access.host_endpoint.clone()),
        images: images(&state),
        machines: instances(&state, &machines),
    }
}

fn images(state: &State) -> BTreeMap<String, ImageStatus> {
    let images = state.images.iter().map(|image| {
        let (name, owner) = (image.name.clone(), image.owner.clone());
        let (state, region) = (image.state.clone(), image.region.clone());
        (image.id.clone(), ImageStatus { name, owner, state, region })
    });
    images.collect()
}

fn instances(state: &State, machines: &BTreeMap<String, Machine>) -> BTreeMap<String, MachineStatus> {
    let instances = state.instances.iter().map(|instance| {
        let machine = machines.get(&instance.id).cloned().unwrap_or_default();
        let status = MachineStatus {
            state: instance.state,
            power: machine.power,
            address: instance.address,
            image: instance.image.clone(),
            boots: machine.boots,
        };
        (instance.id.clone(), status)
    });
    instances.collect()
}

fn machine(lab: &Lab, instance: &str) -> Result<Machine> {
    if let Some(machine) = lab.machines.borrow().get(instance) {
        return Ok(machine.clone());
    }
    if lab.moto.state().borrow().instance(instance).is_some() {
        return Ok(Machine::default());
    }
    Err(Error::Input(format!("lab {} has no instance {instance}", lab.access.name)))
}

/// Makes an image of a folder. What is asked was checked by whoever asks, but for what only shows here.
async fn register(lab: &Arc<Lab>, import: Import) -> Result<String> {
    check_tree(&import.tree)?;
    let taken = |state: &State| {
        let mut images = state.images.iter();
        images.any(|image| image.owner == import.owner && image.name.as_deref() == Some(&import.name))
    };
    if taken(&lab.moto.state().borrow()) {
        return Err(Error::Input(format!("account {} has an image named {:?} already", import.owner, import.name)));
    }
    let id = new_image_id()?;
    let (shared, tree, image) = (Arc::clone(lab), import.tree.clone(), id.clone());
    blocking(move || shared.store()?.import(&image, &tree)).await?;
    let order = json!({
        "register": id, "account": moto::ACCOUNT, "region": lab.region, "name": import.name, "owner": import.owner,
        "description": import.description, "architecture": import.architecture, "tags": import.tags,
    });
    lab.moto.register(order).await?;
    Ok(id)
}

fn check_tree(tree: &Path) -> Result<()> {
    let init = ["sbin/init", "usr/sbin/init", "lib/systemd/systemd", "usr/lib/systemd/systemd"];
    // A link in the tree may point to a path that only exists inside it.
    if init.iter().any(|init| tree.join(init).symlink_metadata().is_ok()) {
        return Ok(());
    }
    Err(Error::Input(format!(
        "{} is not the root tree of a system that can boot: it has no /sbin/init",
        tree.display()
    )))
}

fn new_image_id() -> Result<String> {
    let number = files::random(9).doing(|| "cannot draw an image id".to_owned())?;
    let digits: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("ami-{}", &digits[..17]))
}

async fn wait(lab: &Lab, instance: &str, until: Until, seconds: u64) -> Result<Value> {
    let (mut states, mut machines) = (lab.moto.state(), lab.machines.subscribe());
    let reached = async {
        loop {
            let known = states.borrow_and_update().instance(instance).is_some();
            let machine = machines.borrow_and_update().get(instance).cloned();
            match (until, &machine) {
                (Until::Up, Some(now)) if now.power == Power::Up => return Ok(json!(machine)),
                (Until::Off, Some(now)) if now.power == Power::Off => return Ok(json!(machine)),
                (Until::Gone | Until::Off, None) if !known => return Ok(Value::Null),
                (Until::Up, None) if !known => {
                    return Err(Error::Input(format!("instance {instance} is not there to come up")));
                }
                _ => {}
            }
            let gone = tokio::select! {
                changed = states.changed() => changed.is_err(),
                changed = machines.changed() => changed.is_err(),
            };
            if gone {
                return Err(Error::Refused("the lab is ending".to_owned()));
            }
        }
    };
    match timeout(Duration::from_secs(seconds), reached).await {
        Ok(answer) => answer,
        Err(_) => {
            let now = machine(lab, instance).map(|machine| machine.power).ok();
            let now = now.map_or_else(|| "gone".to_owned(), |power| format!("{power:?}").to_lowercase());
            let until = format!("{until:?}").to_lowercase();
            Err(Error::Refused(format!("{instance} was not {until} within {seconds} s; it is {now}")))
        }
    }
}
