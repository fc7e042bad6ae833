//! One image in all regions of a target: copied, tagged, shared and with a date, or the region is named
//! that lacks something.
//!
//! Packer could copy too, but a copy that it loses sight of keeps neither name in its records nor tags.
//! Here a copy is known by its name, which EC2 gives once in a region: whatever was begun is found again by
//! it and completed, and nothing is copied twice. The tag that says that the gate passed is written last, so
//! an image that lacks something is no base and no latest of its line in that region.
//!
//! - `wanted`: what an image lacks in a region; pure.
//! - `settle`: one region, to its end.

mod settle;
mod wanted;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::aws::{self, Copied, Copies, Ec2};
use crate::bake::progress::Progress;
use crate::bake::site::Site;
use crate::bake::{Error, lease};
use crate::journal::Journal;
use crate::system::process::Stop;

use settle::Ledger;
use wanted::Wanted;

/// What became of an image in one region.
#[derive(Debug)]
pub struct Outcome {
    /// The region.
    pub region: String,
    /// The image there, if there is one.
    pub image: Option<String>,
    /// What was done, or why it is not complete.
    pub done: Result<Done, String>,
}

/// What was done in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing: all was there.
    Complete,
    /// The image was there and lacked something.
    Completed,
    /// It was copied.
    Copied,
}

impl Done {
    /// The word in what is printed.
    pub fn name(self) -> &'static str {
        match self {
            Done::Complete => "complete",
            Done::Completed => "completed",
            Done::Copied => "copied",
        }
    }
}

impl Outcome {
    /// For programs.
    pub fn json(&self) -> Value {
        match &self.done {
            Ok(done) => json!({"region": self.region, "image": self.image, "outcome": done.name()}),
            Err(why) => json!({"region": self.region, "image": self.image, "outcome": "failed", "cause": why}),
        }
    }
}

/// The lease under which an image's line changes in more than one region.
pub fn lease_name(line: &str) -> String {
    format!("kiln-lease-{line}-regions")
}

/// Brings an image of a line into every region of the site. The outcome of each has been told when this
/// returns; nothing is done twice, and a region that fails stops no other.
///
/// # Errors
/// When nothing could be tried, and when it was interrupted.
pub async fn spread(
    site: &Site,
    journal: &Journal,
    line: &str,
    image: (&str, &str),
    progress: &Progress,
) -> Result<Vec<Outcome>, Error> {
    if site.distribution.is_nothing() {
        return Ok(Vec::new());
    }
    let mut stop = Stop::listen().map_err(|error| Error::file("cannot listen for signals", error))?;
    let mut held = None;
    let outcomes = tokio::select! {
        outcomes = spread_all(site, journal, line, image, progress, &mut held) => outcomes,
        name = stop.requested() => Err(Error::Cut { name, id: image.0.to_owned() }),
    };
    if let Some(lease) = held {
        lease.release(&site.ec2).await;
    }
    outcomes
}

async fn spread_all(
    site: &Site,
    journal: &Journal,
    line: &str,
    (id, name): (&str, &str),
    progress: &Progress,
    held: &mut Option<lease::Lease>,
) -> Result<Vec<Outcome>, Error> {
    let original = async || -> Result<Wanted, Error> {
        let found = site.ec2.named(name).await?.into_iter().find(|image| image.id == id);
        let found = found.ok_or_else(|| Error::Refused(format!("{id} ({name}) is not in {} any more", site.region)))?;
        Ok(Wanted::of(found, &site.region, &site.distribution))
    };
    let places: Vec<(&str, Ec2)> =
        join_all(site.regions().map(async |region| (region, site.door.ec2(Some(region)).await))).await;
    // What is complete needs no lease: most bakes find that.
    let wanted = original().await?;
    let looked = join_all(places.iter().map(async |(region, api)| wanted.look(api, region).await)).await;
    let complete = |looked: &Result<(Option<Copied>, wanted::Lacks), aws::Error>| {
        looked.as_ref().is_ok_and(|(image, lacks)| image.is_some() && lacks.is_nothing())
    };
    if looked.iter().all(complete) {
        let outcomes = places.iter().zip(looked).map(|((region, _), looked)| Outcome {
            region: (*region).to_owned(),
            image: looked.ok().and_then(|(image, _)| Some(image?.id)),
            done: Ok(Done::Complete),
        });
        return Ok(outcomes.inspect(|outcome| progress.region(outcome)).collect());
    }
    let lease = lease::hold(&site.ec2, &lease_name(line), progress).await?;
    let lease = held.insert(lease);
    // Again: whoever had the lease may have changed it.
    let wanted = original().await?;
    let place = site.place();
    let all = join_all(places.iter().map(async |(region, api)| {
        let ledger = Ledger { journal, place: &place, region };
        let outcome = settle::settle(api, &wanted, region, &ledger, progress).await;
        progress.region(&outcome);
        outcome
    }));
    tokio::select! {
        outcomes = all => Ok(outcomes),
        never = lease.keep(&site.ec2) => match never {},
    }
}
