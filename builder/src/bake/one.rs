//! A whole bake on one page: lease, plan, stage, packer, report, image or cause.

use std::path::Path;

use super::plan::Plan;
use super::progress::{Phase, Progress};
use super::session::{Session, absolute};
use super::watch::Watch;
use super::{Baked, Error, Failure, lease, leftovers, packer, proof, record, recover, report, stage};
use crate::aws::{Ami, Run};
use crate::images::Recipe;
use crate::images::base::{self, Standing};
use crate::images::names::RunId;
use crate::journal::Entry;
use crate::system::files;
use crate::system::process::{Ended, Stop};

/// Bakes one image, or finds that there is one with the same inputs. `parent` is the image that it is built
/// on where this command has just made it: the API may not find it by its tags yet.
///
/// # Errors
/// When there is none, with the cause. Nothing of the run is left then, or the error says what.
pub async fn bake(
    session: &Session<'_>,
    recipe: &Recipe,
    parent: Option<Ami>,
    progress: &Progress,
) -> Result<Baked, Error> {
    let mut stop = Stop::listen().map_err(|error| Error::file("cannot listen for signals", error))?;
    stop.after(recipe.bake_timeout);
    let run = RunId::new(recipe).map_err(Error::Name)?;
    // What is unchanged needs no lease, and neither does what has no base.
    let (plan, standing) = prepare(session, recipe, &parent, &run, &mut stop).await?;
    if let Some(sentence) = &plan.unlocked {
        progress.say(sentence);
    }
    if let Standing::Same(image) = standing {
        return Ok(Baked { image, report: None });
    }
    let lease = tokio::select! {
        taken = lease::take(session, recipe, &run, progress) => taken?,
        name = stop.requested() => return Err(Error::Interrupted(name)),
    };
    lease.during(&session.site.ec2, with_lease(session, recipe, &parent, &run, &mut stop, progress)).await
}

/// What would be baked now, and how what is there stands to it.
async fn prepare(
    session: &Session<'_>,
    recipe: &Recipe,
    parent: &Option<Ami>,
    run: &RunId,
    stop: &mut Stop,
) -> Result<(Plan, Standing), Error> {
    let prepare = async {
        let plan = Plan::make(session.given(), recipe, parent.clone(), run.clone()).await?;
        let standing = base::standing(&session.site.ec2, recipe, &plan.inputs).await?;
        let standing = match standing {
            Standing::Same(image) if session.request.rebuild => Standing::Changed { newest: image, inputs: vec![] },
            other => other,
        };
        Ok((plan, standing))
    };
    tokio::select! {
        prepared = prepare => prepared,
        name = stop.requested() => Err(Error::Interrupted(name)),
    }
}

async fn with_lease(
    session: &Session<'_>,
    recipe: &Recipe,
    parent: &Option<Ami>,
    run: &RunId,
    stop: &mut Stop,
    progress: &Progress,
) -> Result<Baked, Error> {
    let site = &session.site;
    // Again: whoever had the lease may just have made it.
    let (plan, standing) = prepare(session, recipe, parent, run, stop).await?;
    let why = match standing {
        Standing::Same(image) => return Ok(Baked { image, report: None }),
        Standing::Changed { inputs, newest } if inputs.is_empty() => format!("; {} has the same inputs", newest.name),
        Standing::Changed { inputs, newest } => {
            // What the base was is known by the tag of the image that was built on it.
            let told = |input: &String| match input.as_str() {
                base::BASE_INPUT => format!("base (it was {})", newest.tag("ancestor_name")),
                other => other.to_owned(),
            };
            format!("; since {} changed: {}", newest.name, inputs.iter().map(told).collect::<Vec<_>>().join(", "))
        }
        Standing::None => String::new(),
    };
    progress.phase(Phase::Resolve, &format!("{} on {} ({}){why}", run.image_name, plan.base.name, plan.base.id));

    if !session.lacks_told.replace(true) {
        session.packer.left_out().iter().for_each(|sentence| progress.note(Phase::Resolve, sentence));
    }

    let folder = absolute(&report::folder(session.request, &plan.recipe.slug(), &plan.run.timestamp))?;
    // Beside the report and not among temporary files: a later bake needs it if this one is killed.
    let work = report::work(&folder)?;
    let entry = entry(&plan, site.place(), &folder);
    session.journal.begin(&entry)?;
    let outcome = run_plan(session, &plan, &work, &folder, stop, progress).await;
    let (outcome, word) = match outcome {
        Ok(image) => {
            let word = format!("done {}", image.id);
            (Ok(Baked { image, report: Some(folder) }), word)
        }
        // Not over yet: the next bake looks again, by this entry and what lies in the folder.
        Err(Error::Failed(failure)) if !leftovers::is_settled(&failure.left) => return Err(Error::Failed(failure)),
        Err(error) => (Err(error), "failed".to_owned()),
    };
    // That the folder cannot be removed is nobody's failure: the report is there.
    let _ = files::remove_dir(&work);
    session.journal.end(&plan.run.id, &word)?;
    outcome
}

fn entry(plan: &Plan, place: String, folder: &Path) -> Entry {
    let tags = plan.tags.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Entry {
        run: plan.run.id.clone(),
        image: plan.recipe.name.clone(),
        name: plan.run.image_name.clone(),
        place,
        report: folder.to_owned(),
        tags,
        packer: None,
    }
}

/// From the folder for packer to the image, or to nothing that is left.
async fn run_plan(
    session: &Session<'_>,
    plan: &Plan,
    work: &Path,
    folder: &Path,
    stop: &mut Stop,
    progress: &Progress,
) -> Result<Ami, Error> {
    report::clear(folder)?;
    // What packer said and fetched for an earlier run must not be heard again.
    files::remove_dir(work)
        .and_then(|()| files::private_dir(work))
        .map_err(|error| Error::file(work.display(), error))?;
    stage::stage(plan, work)?;
    let (watch, ended) = packer::run(session, plan, work, folder, stop, progress).await?;
    let unpacked = match report::unpack(&plan.recipe.name, work, &report::home(work)) {
        // Packer was in the middle of bringing it home.
        Err(_) if ended.stopped_by.is_some() => Ok(false),
        other => other,
    };
    let scrubber = packer::scrubber(&session.site).and_user_data(plan.recipe.user_data.as_ref());
    // Also what was unpacked of an archive that is broken. Whatever comes of it, what is left is removed.
    let home = report::deliver(work, folder, &scrubber).and(unpacked);
    let mut made = match home {
        Ok(_) => image(session, plan, &watch, &ended, work, folder, stop).await,
        Err(error) => Err((error.to_string(), vec![])),
    };
    if let Ok(id) = &made
        && plan.recipe.prove
        && let Err(cause) = proof::prove(session, plan, id, work, folder, stop, progress).await
    {
        made = Err(cause);
    }
    let record = |made: &_| record::write(plan, made, watch.seal.as_ref(), &progress.timings(), folder);
    if let Err(error) = record(&made) {
        // Nobody could tell later what is in it.
        made = made.and(Err((format!("the report cannot be written: {error}"), vec![])));
    }
    // The last of all: from here on others build on it, and it is not taken back.
    if let Ok(id) = &made
        && let Err(error) = recover::mark_passed(&session.site, id, &entry(plan, String::new(), folder).tags).await
    {
        made = Err((format!("{id} was made and cannot be marked as passed: {error}"), vec![]));
        // If it cannot be written a second time, the cause is told all the same.
        let _ = record(&made);
    }
    let security_groups = recover::security_groups(work, &plan.recipe.name);
    let run = Run { id: &plan.run.id, image_name: &plan.run.image_name, security_groups: &security_groups };
    match made {
        Ok(id) => {
            // Packer has cleaned up as it should; the API has the last word on two instances.
            let left = leftovers::remove(&session.site.ec2, run, Some(&id)).await;
            left.iter().for_each(|sentence| progress.say(sentence));
            Ok(plan.image(id))
        }
        Err((cause, tail)) => {
            let left = leftovers::remove(&session.site.ec2, run, None).await;
            let gone = if ended.stopped_by.is_some() && left.is_empty() { "; nothing of it is left" } else { "" };
            let cause = format!("{}: {cause}{gone}", plan.recipe.label);
            Err(Error::Failed(Box::new(Failure { cause, tail, report: folder.to_owned(), left })))
        }
    }
}

/// The id of the image, or why there is none.
async fn image(
    session: &Session<'_>,
    plan: &Plan,
    watch: &Watch,
    ended: &Ended,
    work: &Path,
    folder: &Path,
    stop: &mut Stop,
) -> Result<String, packer::Cause> {
    match packer::judge(plan, watch, ended, work, folder) {
        Ok(id) => Ok(id),
        // Packer gives up on an image that takes long; the gate has vouched for it all the same.
        Err(cause) if ended.stopped_by.is_none() && watch.phase() >= Some(Phase::CreateImage) => {
            let tags = entry(plan, String::new(), folder).tags;
            // It may take an hour.
            let adopted = tokio::select! {
                adopted = recover::image(&session.site, &plan.run.image_name, &tags, |_| true) => adopted,
                name = stop.requested() => return Err((format!("interrupted by {name}"), vec![])),
            };
            adopted.ok().flatten().ok_or(cause)
        }
        Err(cause) => Err(cause),
    }
}
