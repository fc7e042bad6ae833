//! Stages: candidate, canary, production, and the way back.
//!
//! What machines follow is a parameter, `/kiln/LINE/STAGE`, whose value in each region is the id of the image
//! there. Its history is the record of who promoted what. The tags on the images say the same to whoever
//! lists them. The parameter where images are baked is written first: with it a promotion has happened, and
//! all else follows from it. So a run that was cut short is completed by the same command.
//!
//! - `rules`: what may be promoted, and which image then has which stage; pure.
//! - `line`: the images of a line, each in all its regions.
//! - `enact`: the writing.

mod enact;
pub mod line;
pub mod rules;

use futures_util::future::join_all;

use crate::aws::{Copies, Ec2, Parameters, Ssm, Version};
use crate::bake::progress::Progress;
use crate::bake::site::Site;
use crate::bake::{Error, lease, plan};
use crate::images::Kilnfile;
use crate::regions::lease_name;
use line::Logical;
use rules::{PROMOTED, ROLLED_BACK, Stage};

pub use enact::{Moved, Placed};

/// Every region of a site, the one in which images are baked first.
pub struct Places<I = Ec2, P = Ssm> {
    home: String,
    images: Vec<(String, I)>,
    parameters: Vec<(String, P)>,
}

impl Places {
    /// Clients for all of them.
    pub async fn open(site: &Site) -> Places {
        let images = site.regions().map(async |region| (region.to_owned(), site.door.ec2(Some(region)).await));
        let parameters = site.regions().map(async |region| (region.to_owned(), site.door.parameters(region).await));
        Places { home: site.region.clone(), images: join_all(images).await, parameters: join_all(parameters).await }
    }
}

/// What is asked of a promotion.
pub struct Promotion {
    /// A name in kiln.yaml, or an id.
    pub image: String,
    /// The stage.
    pub to: Stage,
    /// Why, for the record.
    pub reason: Option<String>,
    /// Whether the order of stages may be skipped.
    pub force: bool,
}

/// Promotes an image.
///
/// # Errors
/// When it must not be promoted, and why; when a region does not answer before anything was written.
pub async fn promote(file: &Kilnfile, site: &Site, wish: &Promotion, progress: &Progress) -> Result<Moved, Error> {
    let (line, id) = match wish.image.starts_with("ami-") {
        true => line::find(file, site, &wish.image).await.map(|(line, image)| (line, Some(image.id)))?,
        false => (file.image(&wish.image)?.name.clone(), None),
    };
    line::has_stages(file, &line)?;
    alone(site, &line, progress, async {
        promote_in(&Places::open(site).await, &line, id.as_deref(), wish, &site.name).await
    })
    .await
}

async fn promote_in(
    places: &Places<impl Copies, impl Parameters>,
    line: &str,
    id: Option<&str>,
    wish: &Promotion,
    site: &str,
) -> Result<Moved, Error> {
    let images = line::images(&places.images, line).await?;
    let history = places.parameters[0].1.history(&rules::parameter(line, wish.to)).await?;
    let current = history.last().map(|version| version.image.as_str());
    let chosen = match id {
        Some(id) => by_id(&images, &places.home, id),
        None => newest(&images, &places.home, wish.to, current),
    };
    let chosen = chosen.ok_or_else(|| Error::Refused(nothing(&images, line, wish.to, site)))?;
    let Some(image) = chosen.places.get(&places.home) else {
        return Err(Error::Refused(format!("{} is not in {}", chosen.name, places.home)));
    };
    if let Some(why) = rules::refusal(image, wish.to, wish.force) {
        return Err(Error::Refused(why));
    }
    let act = enact::Act::new(PROMOTED, wish.reason.as_deref());
    enact::enact(places, line, &images, chosen, wish.to, &act).await
}

/// Puts the image back into production that was there before, or another that was made earlier.
///
/// # Errors
/// When there is none to go back to; when a region does not answer before anything was written.
pub async fn rollback(
    site: &Site,
    line: &str,
    to: Option<&str>,
    reason: Option<&str>,
    progress: &Progress,
) -> Result<Moved, Error> {
    alone(site, line, progress, async {
        rollback_in(&Places::open(site).await, line, to, reason, &site.name, progress).await
    })
    .await
}

async fn rollback_in(
    places: &Places<impl Copies, impl Parameters>,
    line: &str,
    to: Option<&str>,
    reason: Option<&str>,
    site: &str,
    progress: &Progress,
) -> Result<Moved, Error> {
    let mut images = line::images(&places.images, line).await?;
    let history = places.parameters[0].1.history(&rules::parameter(line, Stage::Production)).await?;
    let stack = rules::stack(&history);
    let Some((current, before)) = stack.split_last() else {
        return Err(Error::Refused(format!("no image of {line} was ever in production at {site}")));
    };
    let now = by_id(&images, &places.home, current);
    if let Some(now) = now
        && to.is_none_or(|id| now.places.values().any(|image| image.id == id))
        && !enact::is_enacted(places, line, &images, now, &history).await?
    {
        progress.say(&format!("the last move, to {}, was cut short; completing it", now.name));
        let act = enact::Act::again(history.last());
        let moved = enact::enact(places, line, &images, now, Stage::Production, &act).await?;
        // Where that was a rollback, going on from here would skip an image.
        if act.is_rollback() || to.is_some() {
            return Ok(moved);
        }
        images = line::images(&places.images, line).await?;
    }
    let image = |id: &str| by_id(&images, &places.home, id);
    let chosen = match (to, before.last()) {
        (Some(id), _) => image(id).ok_or_else(|| format!("{id} is no image of {line} that passed")),
        (None, Some(id)) => image(id).ok_or_else(|| format!("{id}, which was in production before, is gone")),
        (None, None) => Err(format!("nothing was in production before {current}")),
    };
    let chosen = chosen.map_err(|why| Error::Refused(format!("{why}; {}", choose(&images, &places.home, current))))?;
    let act = enact::Act::new(ROLLED_BACK, reason);
    enact::enact(places, line, &images, chosen, Stage::Production, &act).await
}

/// Under the lease of a line: two who promote at once, or one who copies, wait for each other.
async fn alone<T>(
    site: &Site,
    line: &str,
    progress: &Progress,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    lease::hold(&site.ec2, &lease_name(line), progress).await?.during(&site.ec2, work).await
}

fn by_id<'a>(images: &'a [Logical], home: &str, id: &str) -> Option<&'a Logical> {
    let there = |image: &&Logical| image.places.get(home).is_some_and(|at| at.id == id);
    images.iter().find(there).or_else(|| images.iter().find(|image| image.places.values().any(|at| at.id == id)))
}

/// The image that a name stands for: what came last and may be promoted, or what the parameter has. One that is
/// not where images are baked is no candidate: another target made it, or its original is gone.
fn newest<'a>(images: &'a [Logical], home: &str, to: Stage, current: Option<&str>) -> Option<&'a Logical> {
    let stage = |image: &&Logical| image.tag(home, rules::STAGE_TAG).to_owned();
    let mut here = images.iter().filter(|image| image.places.contains_key(home));
    match to {
        Stage::Production => {
            let canary = here.rfind(|image| stage(image) == Stage::Canary.name());
            canary.or_else(|| by_id(images, home, current?))
        }
        _ => here.rfind(|image| stage(image) != Stage::Retired.name()),
    }
}

/// Why there is nothing to promote.
fn nothing(images: &[Logical], line: &str, to: Stage, site: &str) -> String {
    if images.is_empty() || to != Stage::Production {
        return line::none_passed(line, site);
    }
    format!(
        "no image of {line} is in canary at {site}: promote one first (kiln promote {line} --to canary), or name its \
         id with --force and a --reason"
    )
}

/// What a person can go back to.
fn choose(images: &[Logical], home: &str, current: &str) -> String {
    let there = images.iter().rev().filter_map(|image| image.places.get(home)).filter(|image| image.id != current);
    match there.map(|image| format!("{} ({})", image.id, image.name)).take(5).collect::<Vec<_>>() {
        none if none.is_empty() => "there is no other image that passed".to_owned(),
        some => format!("choose one with --to: {}", some.join(", ")),
    }
}

/// The id of the image that a line has in a stage, in one region.
///
/// # Errors
/// When there is none, and when the region does not answer.
pub async fn current(site: &Site, line: &str, stage: Stage, region: Option<&str>) -> Result<String, Error> {
    let region = region.unwrap_or(&site.region);
    if !site.regions().any(|ours| ours == region) {
        let ours = site.regions().collect::<Vec<_>>().join(", ");
        return Err(Error::Refused(format!("target {} has no region {region}; it has {ours}", site.name)));
    }
    if let Stage::Canary | Stage::Production = stage {
        let name = rules::parameter(line, stage);
        let found = site.door.parameters(region).await.history(&name).await?.pop();
        return found.map(|Version { image, .. }| image).ok_or_else(|| {
            let (word, at) = (stage.name(), &site.name);
            Error::Refused(format!(
                "no image of {line} is in {word} in {region} at {at}; promote one: kiln promote {line} --to {word}"
            ))
        });
    }
    let places = [(region.to_owned(), site.door.ec2(Some(region)).await)];
    let images = line::images(&places, line).await?;
    let newest = images.iter().rfind(|image| image.tag(region, rules::STAGE_TAG) == stage.name());
    newest.and_then(|image| Some(image.places.get(region)?.id.clone())).ok_or_else(|| {
        Error::Refused(format!("no image of {line} has the stage {} in {region} at {}", stage.name(), site.name))
    })
}

/// Whoever promotes, as the record names them.
fn who() -> String {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{}@{host}", plan::user())
}

#[cfg(test)]
mod tests;
