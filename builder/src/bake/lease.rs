//! One bake of an image at a time, on whatever machine it runs.
//!
//! Whoever bakes holds a name at the API and renews a tag on it. Whoever finds the name held watches that
//! tag: as long as it changes the holder lives. The watcher counts its own time alone, so that no two
//! clocks need to agree. A holder on this very machine that is dead is not waited for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use kiln_lab::Identity;
use tokio::time::{Instant, sleep};

use super::progress::Progress;
use super::session::Session;
use super::{Error, leftovers, recover};
use crate::aws::{self, Held, Leases, Run};
use crate::images::Recipe;
use crate::images::names::RunId;
use crate::packer::RUN_TAG;

/// How often the holder gives a sign of life.
const RENEW: Duration = Duration::from_secs(15);
/// After this long without one the holder is dead: four signs that did not come.
const DEAD: Duration = Duration::from_secs(60);
/// How often to look at a lease that somebody has; the API cannot wake anybody.
const LOOK: Duration = Duration::from_secs(2);

/// Tags by which a holder is known.
const RUN: &str = RUN_TAG;
const NAME: &str = "image_name";
const HOST: &str = "host";
const BOOT: &str = "boot";
const PROCESS: &str = "process";
const SIGN: &str = "sign";

/// A lease that this process holds.
#[derive(Debug)]
pub struct Lease {
    id: String,
}

impl Lease {
    /// Gives signs of life for ever. A sign that fails is no reason to stop: the next may come through.
    pub async fn keep(&self, api: &impl Leases) -> Infallible {
        for number in 1_u64.. {
            sleep(RENEW).await;
            let _ = api.renew(&self.id, (SIGN, &number.to_string())).await;
        }
        std::future::pending().await
    }

    /// Lets it go. If that fails it dies by itself.
    pub async fn release(&self, api: &impl Leases) {
        let _ = api.release(&self.id).await;
    }
}

/// Takes the lease of an image; waits as long as somebody who lives has it.
///
/// # Errors
/// When the API does not answer.
pub async fn take(session: &Session<'_>, recipe: &Recipe, run: &RunId, progress: &Progress) -> Result<Lease, Error> {
    let name = format!("kiln-lease-{}-{}-{}", recipe.name, recipe.arch.name(), recipe.store.name());
    let us = Holder::us(Some(run));
    loop {
        let told = |who: &str| progress.say(&format!("waiting for the bake of {} on {who}", recipe.label));
        let held = match acquire(&session.site.ec2, &name, &us, told).await? {
            Acquired::Ours(id) => return Ok(Lease { id }),
            Acquired::Dead(held) => held,
        };
        // On this machine the journal knows more of it than the lease does.
        recover::all(session, progress).await?;
        let tag = |key: &str| held.tags.get(key).cloned().unwrap_or_default();
        let (id, image_name) = (tag(RUN), tag(NAME));
        if !id.is_empty() && !image_name.is_empty() {
            // An image that passed is no leftover, whoever made it.
            let passed = recover::passed(&session.site, &image_name).await?;
            let run = Run { id: &id, image_name: &image_name, security_groups: &[] };
            let left = leftovers::remove(&session.site.ec2, run, passed.as_deref()).await;
            left.iter().for_each(|sentence| progress.say(&format!("a bake on {} died: {sentence}", tag(HOST))));
        }
        session.site.ec2.release(&held.id).await?;
    }
}

/// Takes a lease for work of which nothing has to be looked for when its holder dies: whoever comes next sees
/// what is there and goes on from it. Waits as long as somebody who lives has it.
///
/// # Errors
/// When the API does not answer.
pub async fn hold(api: &impl Leases, name: &str, progress: &Progress) -> Result<Lease, aws::Error> {
    let us = Holder::us(None);
    loop {
        let told = |who: &str| progress.say(&format!("waiting for another kiln on {who} ({name})"));
        match acquire(api, name, &us, told).await? {
            Acquired::Ours(id) => return Ok(Lease { id }),
            Acquired::Dead(held) => api.release(&held.id).await?,
        }
    }
}

/// Whoever asks for a lease.
struct Holder {
    tags: BTreeMap<String, String>,
    boot: String,
}

impl Holder {
    fn us(run: Option<&RunId>) -> Holder {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let process = i32::try_from(std::process::id()).ok().and_then(Identity::of);
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut tags = vec![
            (HOST, host),
            (BOOT, boot.clone()),
            (PROCESS, process.map(|process| process.to_string()).unwrap_or_default()),
            (SIGN, "0".to_owned()),
        ];
        tags.extend(run.into_iter().flat_map(|run| [(RUN, run.id.clone()), (NAME, run.image_name.clone())]));
        Holder { tags: tags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(), boot }
    }

    /// Whether that holder was on this machine and is no more.
    fn knows_dead(&self, held: &Held) -> bool {
        let tag = |key: &str| held.tags.get(key).map_or("", String::as_str);
        let numbers =
            tag(PROCESS).split_once(' ').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
        tag(BOOT) == self.boot && numbers.is_some_and(|(pid, start)| !Identity { pid, start }.alive())
    }
}

/// What came of asking.
#[derive(Debug, PartialEq, Eq)]
enum Acquired {
    /// It is ours, by this id.
    Ours(String),
    /// Its holder is dead; what it left must be settled before its lease goes.
    Dead(Held),
}

async fn acquire(
    api: &impl Leases,
    name: &str,
    us: &Holder,
    mut waits: impl FnMut(&str),
) -> Result<Acquired, aws::Error> {
    let mut seen: Option<(Held, Instant)> = None;
    loop {
        if let Some(id) = api.take(name, &us.tags).await? {
            return Ok(Acquired::Ours(id));
        }
        // Gone in the moment between: asked again at once.
        let Some(held) = api.held(name).await? else { continue };
        if us.knows_dead(&held) {
            return Ok(Acquired::Dead(held));
        }
        match &seen {
            Some((before, since)) if *before == held => {
                if since.elapsed() >= DEAD {
                    return Ok(Acquired::Dead(held));
                }
            }
            _ => {
                if seen.as_ref().is_none_or(|(before, _)| before.id != held.id) {
                    waits(held.tags.get(HOST).map_or("another machine", String::as_str));
                }
                seen = Some((held, Instant::now()));
            }
        }
        sleep(LOOK).await;
    }
}
