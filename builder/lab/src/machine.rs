//! The life of one instance: what the API wants of it becomes a machine, and what the machine does
//! by itself becomes known to the API.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::body::{self, Body, Event};
use crate::driver::{Lab, blocking};
use crate::error::Result;
use crate::state::{Image, Instance, Life, OnShutdown, State};
use crate::status::{Machine, Power};
use crate::system::files;

/// A reboot that has not come to a new start by then is made by switching off and on, as EC2 does.
const REBOOT: Duration = Duration::from_secs(90);

/// One instance and its machine, if it runs.
struct Keeper {
    lab: Arc<Lab>,
    id: String,
    body: Option<Body>,
    /// Reboots that were carried out.
    reboots: u64,
    /// When a reboot that was asked for counts as failed.
    overdue: Option<Instant>,
    /// Images that were made, or failed, so that none is tried twice.
    made: BTreeSet<String>,
}

/// Keeps one instance until it is terminated or the lab closes.
pub async fn keep(lab: Arc<Lab>, id: String) {
    let mut states = lab.moto.state();
    let mut closing = lab.closing.subscribe();
    let (body, reboots, overdue, made) = Default::default();
    let mut keeper = Keeper { lab, id, body, reboots, overdue, made };
    loop {
        if *closing.borrow_and_update() {
            keeper.power_off().await;
            keeper.forget();
            return;
        }
        let state = states.borrow_and_update().clone();
        match keeper.follow(&state).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => keeper.fail(&error.to_string()).await,
        }
        let overdue = keeper.overdue;
        tokio::select! {
            changed = states.changed() => if changed.is_err() { let _ = closing.wait_for(|closing| *closing).await; },
            _ = closing.changed() => {}
            event = next_event(&mut keeper.body) => {
                // What was asked for meanwhile counts: a stop that came first was no shutdown of its own.
                let state = states.borrow_and_update().clone();
                keeper.hear(event, &state).await;
            }
            () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                tracing::warn!("{} did not reboot by itself and is switched off and on", keeper.id);
                keeper.overdue = None;
                keeper.power_off().await;
            }
        }
    }
}

async fn next_event(body: &mut Option<Body>) -> Event {
    match body {
        Some(body) => body.event().await,
        None => std::future::pending().await,
    }
}

impl Keeper {
    /// Brings the machine to what the API wants; false when there is nothing left to keep.
    async fn follow(&mut self, state: &State) -> Result<bool> {
        for image in &state.images {
            if wants_tree_of(image, &self.id) {
                self.make_image(image).await?;
            }
        }
        let Some(instance) = state.instance(&self.id) else {
            self.remove().await;
            return Ok(false);
        };
        match instance.state {
            Life::Pending | Life::Running => self.run(instance).await?,
            Life::Stopping => {
                self.power_off().await;
                self.lab.moto.instance(&self.id, Life::Stopped, None).await?;
            }
            Life::Stopped => {}
            Life::ShuttingDown => {
                self.remove().await;
                self.lab.moto.instance(&self.id, Life::Terminated, None).await?;
                return Ok(false);
            }
            Life::Terminated => return Ok(false),
        }
        Ok(true)
    }

    async fn run(&mut self, instance: &Instance) -> Result<()> {
        if self.body.is_none() {
            self.reboots = instance.reboots;
            return self.boot(instance).await;
        }
        if self.reboots < instance.reboots {
            self.reboots = instance.reboots;
            self.overdue = Some(Instant::now() + REBOOT);
            if let Some(body) = &self.body {
                body.reboot();
            }
        }
        Ok(())
    }

    async fn boot(&mut self, instance: &Instance) -> Result<()> {
        self.tell(|machine| {
            machine.address = Some(instance.address);
            machine.image.clone_from(&instance.image);
            machine.power = Power::Starting;
        });
        let (lab, instance) = (Arc::clone(&self.lab), instance.clone());
        let started = blocking(move || {
            let stack = lab.store()?.attach(&instance.id, &instance.image)?;
            body::mount(&lab.paths, &instance.id, &stack)?;
            Body::start(&lab.paths, &instance)
        });
        self.body = Some(started.await?);
        Ok(())
    }

    /// Takes in what the machine did.
    async fn hear(&mut self, event: Event, state: &State) {
        match event {
            Event::Started(leader) => {
                self.overdue = None;
                self.tell(|machine| {
                    machine.leader = Some(leader);
                    machine.boots += 1;
                    machine.power = Power::Starting;
                });
                tracing::info!("{} runs as process {}", self.id, leader.pid);
                self.report(Life::Running, None).await;
            }
            Event::Up => {
                tracing::info!("{} is up", self.id);
                self.tell(|machine| machine.power = Power::Up);
            }
            Event::Ended(status) => {
                tracing::info!("{} is off ({status})", self.id);
                let ran = self.body.take().is_some_and(|body| body.leader().is_some());
                if ran && body::reboots(status) {
                    // It is still to run, so it is booted again next.
                    return self.put_down(Power::Starting).await;
                }
                self.put_down(Power::Off).await;
                if !ran {
                    let words = body::last_words(&self.lab.paths, &self.id);
                    return self.fail(&format!("the machine did not start ({status}): {words}")).await;
                }
                let Some(instance) = state.instance(&self.id) else { return };
                if !matches!(instance.state, Life::Pending | Life::Running) {
                    return;
                }
                let life = match instance.on_shutdown {
                    OnShutdown::Stop => Life::Stopped,
                    OnShutdown::Terminate => Life::ShuttingDown,
                };
                let reason = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown");
                self.report(life, Some(reason)).await;
            }
        }
    }

    /// Powers the machine off, if it runs, and takes down all but its disk.
    async fn power_off(&mut self) {
        if let Some(body) = self.body.take() {
            body.stop().await;
        }
        self.put_down(Power::Off).await;
    }

    async fn put_down(&mut self, power: Power) {
        self.tell(|machine| {
            machine.power = power;
            machine.leader = None;
        });
        let (lab, id) = (Arc::clone(&self.lab), self.id.clone());
        if let Err(error) = blocking(move || body::take_down(&lab.paths, &id)).await {
            tracing::error!("{error}");
        }
    }

    /// Removes machine and disk.
    async fn remove(&mut self) {
        self.power_off().await;
        let (lab, id) = (Arc::clone(&self.lab), self.id.clone());
        let removed = blocking(move || {
            lab.store()?.release(&id);
            if let Err(error) = files::remove_tree(&lab.paths.machine(&id)) {
                tracing::error!("cannot remove the disk of {id}: {error}");
            }
            lab.sweep()
        });
        if let Err(error) = removed.await {
            tracing::error!("{error}");
        }
        self.forget();
    }

    fn forget(&self) {
        self.lab.machines.send_modify(|machines| drop(machines.remove(&self.id)));
    }

    /// Makes an image of the instance's disk. One that runs is switched off for it and then on
    /// again, as on EC2, unless that was not wanted.
    async fn make_image(&mut self, image: &Image) -> Result<()> {
        if !self.made.insert(image.id.clone()) {
            return Ok(());
        }
        let live = self.body.is_some() && image.source.as_ref().is_some_and(|source| source.no_reboot);
        if !live {
            self.power_off().await;
        }
        let (lab, id, new) = (Arc::clone(&self.lab), self.id.clone(), image.id.clone());
        let frozen = blocking(move || {
            let seal = |place: &std::path::Path| body::seal(&lab.paths, &id, !live, place);
            lab.store()?.freeze(&id, &new, !live, seal)
        });
        let frozen = frozen.await;
        if let Err(error) = &frozen {
            tracing::error!("image {}: {error}", image.id);
        }
        self.lab.moto.image(&image.id, frozen.is_ok()).await
    }

    /// Ends an instance whose machine cannot be, with the reason where the API shows it.
    async fn fail(&mut self, why: &str) {
        tracing::error!("{}: {why}", self.id);
        self.report(Life::ShuttingDown, Some(("Server.InternalError", why))).await;
    }

    async fn report(&self, life: Life, reason: Option<(&str, &str)>) {
        if let Err(error) = self.lab.moto.instance(&self.id, life, reason).await {
            tracing::error!("{}: {error}", self.id);
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Machine)) {
        self.lab.machines.send_modify(|machines| change(machines.entry(self.id.clone()).or_default()));
    }
}

fn wants_tree_of(image: &Image, instance: &str) -> bool {
    image.state == "pending" && image.source.as_ref().is_some_and(|source| source.instance.as_deref() == Some(instance))
}
