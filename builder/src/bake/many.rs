//! The images that are asked for: parents first, several at once, each on what was just made.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::progress::Progress;
use super::session::Session;
use super::{Baked, Error, one, recover, report};
use crate::aws::Ami;
use crate::images::graph::Graph;
use crate::images::{Recipe, base};
use crate::regions;
use crate::system::process::Stop;

/// Which images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// These, each on the newest base there is.
    Named(Vec<String>),
    /// Every image of kiln.yaml.
    All,
    /// Every image of kiln.yaml that has been baked before.
    Stale,
}

/// How many images came to which end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// They were made.
    pub baked: usize,
    /// They were there with the same inputs.
    pub unchanged: usize,
    /// Something went wrong.
    pub failed: usize,
    /// They were not tried.
    pub left_out: usize,
    /// They are there, but not complete in every region of the target.
    pub incomplete: usize,
    /// What became of each, by its name in kiln.yaml, in the order in which they ended.
    pub ends: Vec<(String, End)>,
}

impl Summary {
    /// How many images were asked for.
    pub fn all(&self) -> usize {
        self.baked + self.unchanged + self.failed + self.left_out
    }

    /// Whether every image that was asked for is there, in every region.
    pub fn is_good(&self) -> bool {
        self.failed + self.left_out + self.incomplete == 0
    }
}

/// What became of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was made.
    Baked(Ami),
    /// It was there with the same inputs.
    Unchanged(Ami),
    /// There is none, and why.
    Failed(String),
    /// It was not tried, and why.
    LeftOut(String),
}

/// Bakes what is out of date, at most `parallel` images at once. A failure stops what is built on it and
/// nothing else. Each image's own outcome has been told when this returns.
///
/// # Errors
/// When nothing could be tried: a name that is not in kiln.yaml, an API or journal that does not answer.
pub async fn bake(
    session: &Session<'_>,
    wanted: &Wanted,
    parallel: usize,
    progress: &Progress,
) -> Result<Summary, Error> {
    let graph = Graph::at(session.file, session.target);
    let mut waiting = chosen(session, &graph, wanted).await?;
    let alone = matches!(wanted, Wanted::Named(_)) && waiting.len() == 1;
    let width = waiting.iter().map(|recipe| recipe.label.chars().count()).max().unwrap_or(0);
    if let Wanted::Named(names) = wanted {
        let stores = names.iter().map(|name| session.file.variants(name)).collect::<Result<Vec<_>, _>>()?;
        for recipe in stores.into_iter().flatten().filter(|recipe| recipe.store != session.target.store()) {
            let store = recipe.store.name();
            progress.say(&format!("{} is left to a target that makes images on {store}", recipe.label));
        }
    }
    recover::all(session, progress).await?;

    let mut stop = Stop::listen().map_err(|error| Error::file("cannot listen for signals", error))?;
    let mut stopped = None;
    // Of every image that is asked for: what came of it. Not in it means not yet.
    let mut ended: HashMap<&str, Option<Baked>> = HashMap::new();
    let asked: HashSet<&str> = waiting.iter().map(|recipe| recipe.label.as_str()).collect();
    let mut running = FuturesUnordered::new();
    // Copies take long and need no machine of ours: whatever is built on an image does not wait for them.
    let mut copying = FuturesUnordered::new();
    let mut summary = Summary::default();
    loop {
        let mut later = Vec::new();
        for recipe in waiting {
            let progress = progress.of(&recipe.label, if alone { 0 } else { width });
            let parent = graph.parent(recipe).map(|parent| parent.label.as_str()).filter(|name| asked.contains(name));
            let base = parent.map(|name| (name, ended.get(name)));
            match base {
                _ if stopped.is_some() => {
                    let why = format!("interrupted by {}", stopped.unwrap_or_default());
                    leave_out(recipe, why, &progress, &mut summary);
                    ended.insert(&recipe.label, None);
                }
                Some((name, Some(None))) => {
                    let why = format!("there is no new {name} to build it on");
                    leave_out(recipe, why, &progress, &mut summary);
                    ended.insert(&recipe.label, None);
                }
                Some((_, None)) => later.push(recipe),
                _ if running.len() >= parallel => later.push(recipe),
                base => {
                    let parent = base.and_then(|(_, baked)| Some(baked?.as_ref()?.image.clone()));
                    running
                        .push(async move { (recipe, one::bake(session, recipe, parent, &progress).await, progress) });
                }
            }
        }
        waiting = later;
        if running.is_empty() && copying.is_empty() {
            if waiting.is_empty() {
                return Ok(summary);
            }
            // Only while everything that waits was just left out.
            continue;
        }
        tokio::select! {
            Some((recipe, outcome, progress)) = running.next() => {
                let baked = told(recipe, outcome, &progress, &mut summary);
                if let Some(baked) = &baked {
                    copying.push(spread(session, recipe, baked.clone(), progress));
                }
                ended.insert(&recipe.label, baked);
            }
            Some(complete) = copying.next() => summary.incomplete += usize::from(!complete),
            name = stop.requested(), if stopped.is_none() => stopped = Some(name),
        }
    }
}

/// Brings an image into every region of the target; answers whether it is complete there.
async fn spread(session: &Session<'_>, recipe: &Recipe, baked: Baked, progress: Progress) -> bool {
    let image = (baked.image.id.as_str(), baked.image.name.as_str());
    let outcomes = regions::spread(&session.site, &session.journal, &recipe.name, image, &progress).await;
    let written = outcomes.and_then(|outcomes| {
        baked.report.as_ref().map_or(Ok(()), |folder| report::regions(folder, &outcomes))?;
        Ok(outcomes.iter().all(|outcome| outcome.done.is_ok()))
    });
    written.unwrap_or_else(|error| {
        progress.failed(&error);
        false
    })
}

/// Says that an image is not tried, and why, and counts it.
fn leave_out(recipe: &Recipe, why: String, progress: &Progress, summary: &mut Summary) {
    progress.left_out(&why);
    summary.left_out += 1;
    summary.ends.push((recipe.label.clone(), End::LeftOut(why)));
}

/// Says what came of an image and counts it.
fn told(recipe: &Recipe, outcome: Result<Baked, Error>, progress: &Progress, summary: &mut Summary) -> Option<Baked> {
    let (end, baked) = match outcome {
        Ok(baked) => {
            let end = match &baked.report {
                Some(report) => {
                    progress.done(&baked.image.id, &baked.image.name, &report.display().to_string());
                    summary.baked += 1;
                    End::Baked(baked.image.clone())
                }
                None => {
                    progress.reused(&baked.image.id, &baked.image.name);
                    summary.unchanged += 1;
                    End::Unchanged(baked.image.clone())
                }
            };
            (end, Some(baked))
        }
        Err(error) => {
            progress.failed(&error);
            summary.failed += 1;
            (End::Failed(error.cause()), None)
        }
    };
    summary.ends.push((recipe.label.clone(), end));
    baked
}

/// The images that are asked for, parents first.
async fn chosen<'a>(session: &Session<'_>, graph: &Graph<'a>, wanted: &Wanted) -> Result<Vec<&'a Recipe>, Error> {
    let chosen: HashSet<&str> = match wanted {
        Wanted::All => return Ok(graph.parents_first()),
        Wanted::Named(names) => {
            session.file.variants_at(names, session.target)?.into_iter().map(|recipe| recipe.label.as_str()).collect()
        }
        Wanted::Stale => {
            let images = base::all(&session.site.ec2).await?;
            let baked = |recipe: &&Recipe| images.iter().any(|image| base::is_of(image, recipe));
            session.file.images().filter(baked).map(|recipe| recipe.label.as_str()).collect()
        }
    };
    Ok(graph.parents_first().into_iter().filter(|recipe| chosen.contains(recipe.label.as_str())).collect())
}
