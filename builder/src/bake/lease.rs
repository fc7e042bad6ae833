//! One bake of an image at a time, on whatever machine it runs.
//!
//! Whoever bakes holds a name at the API and renews a tag on it. Whoever finds the name held watches that
//! tag: as long as it changes the holder lives. The watcher counts its own time alone, so that no two
//! clocks need to agree. A holder on this very machine that is dead is not waited for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use kiln_lab::Identity;
use tokio::time::{sleep, timeout};

use super::progress::Progress;
use super::session::Session;
use super::{Error, leftovers, recover};
use crate::aws::{self, FindImages, Held, Leases, Reap, Run};
use crate::images::Recipe;
use crate::images::names::RunId;
use crate::journal;
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
    /// Does the work under the lease and lets it go then. It is renewed at the same time: whoever waits for it
    /// takes it from a holder that gives no sign of life.
    pub async fn during<T>(self, api: &impl Leases, work: impl Future<Output = T>) -> T {
        let outcome = tokio::select! {
            outcome = work => outcome,
            never = self.keep(api) => match never {},
        };
        self.release(api).await;
        outcome
    }

    /// Gives signs of life for ever. A sign that fails is no reason to stop: the next may come through.
    pub async fn keep(&self, api: &impl Leases) -> Infallible {
        for number in 1_u64.. {
            sleep(RENEW).await;
            // One that hangs must not stand in the way of the next either.
            let _ = timeout(RENEW, api.renew(&self.id, (SIGN, &number.to_string()))).await;
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
    let api = &session.site.ec2;
    let name = format!("kiln-lease-{}-{}-{}", recipe.name, recipe.arch.name(), recipe.store.name());
    let us = Holder::us(Some(run));
    loop {
        let told = |who: &str| progress.say(&format!("waiting for the bake of {} on {who}", recipe.label));
        let held = match acquire(api, &name, &us, told, sleep).await? {
            Acquired::Ours(id) => return Ok(Lease { id }),
            Acquired::Dead(held) => held,
        };
        // On this machine the journal knows more of it than the lease does.
        recover::all(session, progress).await?;
        let run = held.tag(RUN);
        if run.is_empty() {
            api.release(&held.id).await?;
            continue;
        }
        let settling = hold(api, &settling(run), progress).await?;
        let left = settling.during(api, settle(api, &name, &held)).await?;
        left.iter().for_each(|sentence| progress.say(&format!("a bake on {} died: {sentence}", held.tag(HOST))));
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
        match acquire(api, name, &us, told, sleep).await? {
            Acquired::Ours(id) => return Ok(Lease { id }),
            Acquired::Dead(held) => api.release(&held.id).await?,
        }
    }
}

/// The name of the lease under which a dead run is settled. Several find it dead at once, and one that
/// removes must not come in between one that has found its image good and is about to say so.
pub fn settling(run: &str) -> String {
    format!("{run}-settle")
}

/// Removes what a dead holder left, but for an image that passed, and then its lease. Answers a sentence for
/// each thing; nothing when somebody else has settled it.
async fn settle<A: Leases + Reap + FindImages>(api: &A, name: &str, dead: &Held) -> Result<Vec<String>, aws::Error> {
    if api.held(name).await?.is_none_or(|now| now.id != dead.id) {
        return Ok(Vec::new());
    }
    // Without an answer its lease stays, by which the next one finds it.
    let passed = recover::passed(api, dead.tag(NAME)).await?;
    let run = Run { id: dead.tag(RUN), image_name: dead.tag(NAME), security_groups: &[] };
    let left = leftovers::remove(api, run, passed.as_deref()).await;
    api.release(&dead.id).await?;
    Ok(left)
}

/// Whoever asks for a lease.
struct Holder {
    tags: BTreeMap<String, String>,
    boot: String,
}

impl Holder {
    fn us(run: Option<&RunId>) -> Holder {
        let boot = journal::boot();
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
        let numbers =
            held.tag(PROCESS).split_once(' ').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
        held.tag(BOOT) == self.boot && numbers.is_some_and(|(pid, start)| !Identity { pid, start }.alive())
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

/// Asks until the name is ours or its holder is dead, with a pause between two looks.
async fn acquire(
    api: &impl Leases,
    name: &str,
    us: &Holder,
    mut waits: impl FnMut(&str),
    pause: impl AsyncFn(Duration),
) -> Result<Acquired, aws::Error> {
    let mut seen: Option<Held> = None;
    // Since the last sign of life, in pauses alone: an API that answers slowly makes nobody dead.
    let mut silent = Duration::ZERO;
    loop {
        if let Some(id) = api.take(name, &us.tags).await? {
            return Ok(Acquired::Ours(id));
        }
        // Gone in the moment between: asked again at once.
        let Some(held) = api.held(name).await? else { continue };
        if us.knows_dead(&held) || (silent >= DEAD && seen.as_ref() == Some(&held)) {
            return Ok(Acquired::Dead(held));
        }
        if seen.as_ref().is_none_or(|before| before.id != held.id) {
            waits(held.tags.get(HOST).map_or("another machine", String::as_str));
        }
        if seen.as_ref() != Some(&held) {
            silent = Duration::ZERO;
            seen = Some(held);
        }
        pause(LOOK).await;
        silent += LOOK;
    }
}

#[cfg(test)]
mod tests;
