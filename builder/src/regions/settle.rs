//! One region: from whatever is there to an image that lacks nothing.

use std::collections::BTreeMap;

use super::wanted::{Lacks, Wanted};
use super::{Done, Outcome};
use crate::aws::{self, Copied, Copies, Order, State};
use crate::bake::progress::Progress;
use crate::images::base;
use crate::journal::{self, Journal};

/// The API's words for an error of its own, which does not say that nothing was done.
const ITS_OWN: [&str; 4] = ["InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"];

/// Where copies are written down before they are ordered.
pub struct Ledger<'a> {
    /// The journal of this machine.
    pub journal: &'a Journal,
    /// The API and the region of the original.
    pub place: &'a str,
    /// The region of the copy.
    pub region: &'a str,
}

/// What is asked of a ledger.
pub(super) trait Tokens {
    /// The token under which a copy of this name is ordered: that of an order that was cut short, or a new one.
    fn begun(&self, name: &str) -> Result<String, journal::Error>;
    /// Writes down that an order has come to its end.
    fn ended(&self, token: &str, outcome: &str) -> Result<(), journal::Error>;
}

impl Tokens for Ledger<'_> {
    fn begun(&self, name: &str) -> Result<String, journal::Error> {
        self.journal.copy_begun(self.place, self.region, name)
    }

    fn ended(&self, token: &str, outcome: &str) -> Result<(), journal::Error> {
        self.journal.copy_ended(token, outcome)
    }
}

/// Why a region is not complete.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] aws::Error),
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("{0}")]
    Told(String),
}

/// Completes one region.
pub(super) async fn settle(
    api: &impl Copies,
    wanted: &Wanted,
    region: &str,
    tokens: &impl Tokens,
    progress: &Progress,
) -> Outcome {
    let mut image = None;
    let done = complete(api, wanted, region, tokens, progress, &mut image).await;
    Outcome { region: region.to_owned(), image, done: done.map_err(|error| error.to_string()) }
}

async fn complete(
    api: &impl Copies,
    wanted: &Wanted,
    region: &str,
    tokens: &impl Tokens,
    progress: &Progress,
    id: &mut Option<String>,
) -> Result<Done, Error> {
    let name = &wanted.original.name;
    let (mut found, mut lacks) = wanted.look(api, region).await?;
    let mut done = if found.is_some() && lacks.is_nothing() { Done::Complete } else { Done::Completed };
    if let Some(image) = &found {
        *id = Some(image.id.clone());
        same_bake(image, wanted, region)?;
        if let Some(key) = &lacks.key {
            let id = &image.id;
            return Err(Error::Told(format!(
                "{id} is not encrypted and is to be with {key}: bake anew with --rebuild, or remove {id} and copy again"
            )));
        }
    } else if region == wanted.region {
        return Err(Error::Told(format!("{} is not there any more", wanted.original.id)));
    } else {
        *id = Some(copy(api, wanted, region, tokens, progress).await?);
        done = Done::Copied;
    }
    if let (Some(id), true) = (&id, done == Done::Copied || lacks.available) {
        api.available(id).await?;
        (found, lacks) = wanted.look(api, region).await?;
    }
    let image = found.ok_or_else(|| Error::Told(format!("{name} was there and cannot be found any more")))?;
    *id = Some(image.id.clone());
    fill(api, &image, lacks).await?;
    if done == Done::Complete {
        return Ok(done);
    }
    // The API has lied before: what was not seen did not happen.
    let (_, lacks) = wanted.look(api, region).await?;
    if lacks.is_nothing() {
        Ok(done)
    } else {
        Err(Error::Told(format!("{} lacks {lacks} after all was written", image.id)))
    }
}

/// Orders a copy. What failed before is taken away first: it has the name.
async fn copy(
    api: &impl Copies,
    wanted: &Wanted,
    region: &str,
    tokens: &impl Tokens,
    progress: &Progress,
) -> Result<String, Error> {
    let name = &wanted.original.name;
    let mut token = tokens.begun(name)?;
    for failed in api.named(name).await? {
        let State::Failed(why) = &failed.state else { continue };
        api.discard(&failed.id).await?;
        progress.say(&format!("{region}: copy {} {why}; kiln removed it", failed.id));
        // Asked again with the token of the one that failed, the API would give that one again.
        tokens.ended(&token, "failed")?;
        token = tokens.begun(name)?;
    }
    let mut tags = wanted.tags(region);
    tags.remove(base::GATE_TAG);
    let original = &wanted.original;
    let key = wanted.distribution.keys.get(region).map(String::as_str);
    let from = (original.id.as_str(), wanted.region.as_str());
    let order = Order { from, name, description: &original.description, key, tags: &tags, token: &token };
    match api.order(order).await {
        Ok(id) => {
            tokens.ended(&token, &format!("ordered {id}"))?;
            Ok(id)
        }
        Err(error) => {
            // What the API refused, with its word for it, is over. Whether an order was taken that it did not
            // answer, or of which it lost track itself, the token will tell.
            let word = error.reason.split_once(": ").map(|(word, _)| word).filter(|word| !word.contains(' '));
            if word.is_some_and(|word| !ITS_OWN.contains(&word)) {
                tokens.ended(&token, "refused")?;
            }
            Err(error.into())
        }
    }
}

/// Writes what an image lacks; that it passed last.
async fn fill(api: &impl Copies, image: &Copied, lacks: Lacks) -> Result<(), aws::Error> {
    if !lacks.tags.is_empty() {
        let mut ids = vec![image.id.as_str()];
        ids.extend(image.snapshots.iter().map(String::as_str));
        api.label(&ids, &lacks.tags).await?;
    }
    if !lacks.accounts.is_empty() {
        api.share(image, &lacks.accounts).await?;
    }
    if let Some(at) = lacks.deprecation {
        api.deprecate(&image.id, at).await?;
    }
    if let Some(gate) = lacks.gate {
        api.label(&[&image.id], &BTreeMap::from([(base::GATE_TAG.to_owned(), gate)])).await?;
    }
    Ok(())
}

/// Refuses an image that has the name and is another: nobody would find out by its tags any more.
fn same_bake(image: &Copied, wanted: &Wanted, region: &str) -> Result<(), Error> {
    let (has, wants) = (image.tag(base::KEY_TAG), wanted.original.tag(base::KEY_TAG));
    if has.is_empty() || has == wants {
        return Ok(());
    }
    Err(Error::Told(format!("{} in {region} has the name {} and is of another bake: remove it", image.id, image.name)))
}

impl std::fmt::Display for Lacks {
    /// What it lacks, in words.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words: Vec<String> = self.tags.keys().map(|key| format!("the tag {key}")).collect();
        words.extend(self.gate.iter().map(|_| format!("the tag {}", base::GATE_TAG)));
        words.extend(self.accounts.iter().map(|account| format!("the permission of {account}")));
        words.extend(self.deprecation.iter().map(|at| format!("its deprecation at {at}")));
        words.extend(self.key.iter().map(|key| format!("the key {key}")));
        if self.available {
            words.push("its availability".to_owned());
        }
        write!(f, "{}", words.join(", "))
    }
}

#[cfg(test)]
mod tests;
