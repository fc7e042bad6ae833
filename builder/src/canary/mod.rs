//! A canary: some machines get a new image, and what becomes of them decides.
//!
//! `start` adds a version with the image to a launch template and has new instances take it. Before that it
//! writes on the template what was there, so that `stop` finds the way back, whichever machine runs it and
//! whatever was killed in between. `watch` looks at the instances and hears what their agents tell.
//!
//! - `place`: the launch template, alone or that of an auto scaling group.
//! - `judge`: what is seen, to a verdict; pure.
//! - `watch`: looking until the time is over.
//! - `receiver`: what agents tell of their boot.

pub mod judge;
mod place;
pub mod receiver;
pub mod watch;

use serde::{Deserialize, Serialize};

use crate::aws::{Fleet, Scaling};
use crate::bake::progress::Progress;
use crate::bake::site::Site;
use crate::bake::{Error, lease};

pub use place::{Place, Which};

/// The tag on a launch template that has a canary under way.
const TAG: &str = "kiln_canary";

/// How a launch template names an image by a parameter.
const BY_PARAMETER: &str = "resolve:ssm:";

/// What is to be known for the way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The image that is tried.
    pub image: String,
    /// The version that instances were launched by before.
    pub before: i64,
    /// How that version is named where it is used: a number, `$Latest` or `$Default`.
    pub by: String,
    /// The group that tries it, if it is one: others may launch by the same template, in a way of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// When it began: instances from before are none of it.
    pub began: jiff::Timestamp,
}

impl Record {
    fn text(&self) -> String {
        // Plain fields: nothing in it can fail to be JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a start or a stop came to, in a sentence.
pub type Told = Result<String, Error>;

/// Has new instances take an image.
///
/// # Errors
/// When another image is being tried there, and when the API refuses.
pub async fn start(site: &Site, which: &Which, image: (&str, &str), progress: &Progress) -> Told {
    let groups = site.door.groups(&site.region).await;
    alone(site, which, progress, async |place| start_at(&site.ec2, &groups, &place, image).await).await
}

/// Under the lease of the launch template: of two who begin or end a canary there, the second sees what the first did.
async fn alone<T>(
    site: &Site,
    which: &Which,
    progress: &Progress,
    work: impl AsyncFnOnce(Place) -> Result<T, Error>,
) -> Result<T, Error> {
    let name = format!("kiln-lease-{}-canary", Place::find(site, which).await?.template.id);
    let lease = lease::hold(&site.ec2, &name, progress).await?;
    lease.during(&site.ec2, async { work(Place::find(site, which).await?).await }).await
}

async fn start_at(fleet: &impl Fleet, groups: &impl Scaling, place: &Place, (id, name): (&str, &str)) -> Told {
    let template = &place.template;
    let begun = place.record()?;
    let cut_short = begun.is_some();
    let record = match begun {
        Some(record) if record.image != id => {
            let other = record.image;
            return Err(Error::Refused(format!(
                "{place} tries {other} already: end that with `kiln canary watch` or `kiln canary stop`"
            )));
        }
        Some(record) => record,
        None => {
            let used = place.used(fleet, &place.by).await?;
            if used.image == id {
                return Err(Error::Refused(format!("{place} launches {id} already: there is nothing to try")));
            }
            let record = Record {
                image: id.to_owned(),
                before: used.number,
                by: place.by.clone(),
                group: place.group.clone(),
                began: jiff::Timestamp::now(),
            };
            // Before anything changes: the way back must be known.
            fleet.mark(&template.id, TAG, Some(&record.text())).await?;
            record
        }
    };
    let latest = place.used(fleet, "$Latest").await?;
    let number = match cut_short && latest.image == id && latest.number != record.before {
        // A start that was cut short made it.
        true => latest.number,
        false => fleet.add_version(&template.id, record.before, Some(id), &format!("kiln canary {name}")).await?,
    };
    place.launch_by(fleet, groups, &record.by, number).await?;
    Ok(format!(
        "new instances of {place} take {id} ({name}): version {number} of launch template {}, before it version {}; \
         instances that are there keep theirs until they are replaced (terminate one, or start an instance refresh)",
        template.name, record.before
    ))
}

/// Has new instances take what they took before.
///
/// # Errors
/// When nothing is being tried there, and when the API refuses.
pub async fn stop(site: &Site, which: &Which, progress: &Progress) -> Told {
    let groups = site.door.groups(&site.region).await;
    alone(site, which, progress, async |place| stop_at(&site.ec2, &groups, &place).await).await
}

async fn stop_at(fleet: &impl Fleet, groups: &impl Scaling, place: &Place) -> Told {
    let record = place.record()?.ok_or_else(|| place.nothing())?;
    let number = match record.by.as_str() {
        // Whoever takes the latest can only go forward.
        "$Latest" => {
            let latest = place.used(fleet, "$Latest").await?;
            match latest.image == record.image {
                true => {
                    let text = format!("kiln: as version {}", record.before);
                    fleet.add_version(&place.template.id, record.before, None, &text).await?
                }
                false => latest.number,
            }
        }
        _ => record.before,
    };
    place.launch_by(fleet, groups, &record.by, number).await?;
    fleet.mark(&place.template.id, TAG, None).await?;
    Ok(format!(
        "new instances of {place} take version {number} of launch template {} again; instances that have {} keep it \
         until they are replaced (terminate them, or start an instance refresh)",
        place.template.name, record.image
    ))
}

/// Ends a canary that went well: its image stays. Where instances took what a parameter has, they are to take that
/// again once the image is promoted, or no later promotion and no rollback would reach them: the way back stays known
/// then, and the parameter is answered.
async fn keep(fleet: &impl Fleet, place: &Place, record: &Record) -> Result<Option<String>, Error> {
    let before = place.used(fleet, &record.before.to_string()).await?;
    if let Some(parameter) = before.image.strip_prefix(BY_PARAMETER) {
        return Ok(Some(parameter.to_owned()));
    }
    fleet.mark(&place.template.id, TAG, None).await?;
    Ok(None)
}

#[cfg(test)]
mod tests;
