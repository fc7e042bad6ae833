//! A whole bake on one page: plan, stage, packer, report, image or cause.

mod error;
mod leftovers;
pub mod plan;
pub mod progress;
mod report;
pub mod site;
mod stage;
mod steps;
mod userdata;
mod watch;

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::aws::Run;
use crate::images::{Endpoint, Kilnfile, base};
use crate::packer::events::{self, Event};
use crate::packer::scrub::Scrubber;
use crate::packer::template::{files as names, images_in_manifest};
use crate::system::files::{self, LineLog};
use crate::system::process::{Ended, Program, Stop};

pub use error::{Error, Failure};
use plan::Plan;
use progress::{Phase, Progress};
use site::Site;
use watch::Watch;

/// Variables that would lead packer somewhere else than the template says, where the target brings its own.
const FOREIGN: [&str; 5] =
    ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"];

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The image, by its name in kiln.yaml.
    pub image: String,
    /// The target; without it, the default.
    pub target: Option<String>,
    /// The package of the agent; without it, the newest that was built here.
    pub agent_deb: Option<PathBuf>,
    /// The folder for the report.
    pub report: Option<PathBuf>,
}

/// An image that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baked {
    /// `ami-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where the report is.
    pub report: PathBuf,
}

/// Bakes one image.
///
/// # Errors
/// When there is none, with the cause. Nothing of the run is left then, or the error says what.
pub async fn bake(file: &Kilnfile, request: &Request, progress: &mut Progress) -> Result<Baked, Error> {
    let mut stop = Stop::listen().map_err(|error| Error::file("cannot listen for signals", error))?;
    let recipe = file.image(&request.image)?;
    let prepare = async {
        let target = file.target(request.target.as_deref())?;
        if target.endpoint == Endpoint::Lab && !nix::unistd::geteuid().is_root() {
            return Err(Error::NeedsRoot);
        }
        let site = Site::open(target).await?;
        let plan = Plan::make(file, request, recipe, &site).await?;
        Ok((site, plan))
    };
    let (site, plan) = tokio::select! {
        prepared = prepare => prepared?,
        name = stop.requested() => return Err(Error::Interrupted(name)),
    };
    progress.phase(Phase::Resolve, &format!("{} on {} ({})", plan.name, plan.base.name, plan.base.id));

    let work = tempfile::Builder::new().prefix("kiln-bake-").tempdir();
    let work = work.map_err(|error| Error::file("cannot make a folder for temporary files", error))?;
    stage::stage(&plan, work.path())?;
    let folder = report::folder(request, &plan.recipe.name, &plan.timestamp);
    files::make_dir(&folder).map_err(|error| Error::file(folder.display(), error))?;
    let (watch, ended) = run_packer(&plan, &site, work.path(), &folder, &mut stop, progress).await?;
    report::unpack(work.path(), &folder)?;

    let outcome = match judge(&plan, &watch, &ended, work.path(), &folder) {
        Ok(id) => mark_passed(&site, &id).await.map(|()| id),
        Err(cause) => Err(cause),
    };
    match outcome {
        Ok(id) => Ok(Baked { id, name: plan.name, report: folder }),
        Err((cause, tail)) => {
            let security_group = watch.security_group.as_deref();
            let left = leftovers::remove(&site, Run { id: &plan.run, image_name: &plan.name, security_group }).await;
            let gone = if ended.stopped_by.is_some() && left.is_empty() { "; nothing of it is left" } else { "" };
            let cause = format!("{}: {cause}{gone}", plan.recipe.name);
            Err(Error::Failed(Box::new(Failure { cause, tail, report: folder, left })))
        }
    }
}

/// Runs packer to its end; every line goes, without secrets, into the log of the report.
async fn run_packer(
    plan: &Plan,
    site: &Site,
    work: &Path,
    folder: &Path,
    stop: &mut Stop,
    progress: &mut Progress,
) -> Result<(Watch, Ended), Error> {
    let log = folder.join("packer.log");
    let mut log = LineLog::create(&log).map_err(|error| Error::file(log.display(), error))?;
    let secrets =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    // The lab's own key is no secret: it is in kiln's source.
    let scrubber = Scrubber::of_environment(secrets).and_user_data(plan.recipe.user_data.as_ref());
    let mut words = site.enter.clone();
    words.extend(["packer", "build", "-machine-readable", names::TEMPLATE].map(str::to_owned));
    let mut set = site.environment.clone();
    set.push(("CHECKPOINT_DISABLE".to_owned(), "1".to_owned()));
    set.push(("PACKER_CACHE_DIR".to_owned(), work.join("cache").display().to_string()));
    let unset: &[&str] = if site.environment.is_empty() { &[] } else { &FOREIGN };

    let mut watch = Watch::new(&plan.recipe.name);
    let mut hear = |line: Option<String>| {
        let Some(line) = line else { return watch.silence(progress) };
        for event in events::parse(&scrubber.clean(&line)) {
            let text = match &event {
                Event::Say(text) | Event::Error(text) => text,
                // Panics and the like; what is for programs has been said in words as well.
                Event::Other(text) if !text.contains(',') => text,
                Event::Other(_) | Event::Image(..) => "",
            };
            // A full disk must not end a bake that may be nearly done.
            if !text.trim().is_empty() {
                let _ = log.line(&format!("{} {text}", Timestamp::now().strftime("%H:%M:%S")));
            }
            watch.see(&event, progress);
        }
    };
    let program = Program { words: &words, folder: work, set: &set, unset };
    let ended = program.run(stop, &mut hear).await.map_err(|error| Error::file("cannot start packer", error))?;
    Ok((watch, ended))
}

/// The id of the image, or why there is none: a sentence and the lines that tell more.
fn judge(
    plan: &Plan,
    watch: &Watch,
    ended: &Ended,
    work: &Path,
    folder: &Path,
) -> Result<String, (String, Vec<String>)> {
    if let Some(signal) = ended.stopped_by {
        return Err((format!("interrupted by {signal}"), vec![]));
    }
    let gate = report::read(folder);
    if let Some(cause) = gate.as_ref().and_then(report::cause) {
        return Err((cause, vec![]));
    }
    let tail = || watch.tail.iter().cloned().collect::<Vec<_>>();
    if let Some(sentence) = &watch.failed {
        return Err((sentence.clone(), tail()));
    }
    if !ended.status.success() {
        // What scripts write to standard error is an error to packer, so its last one counts only before them.
        let before_scripts = watch.phase() < Some(Phase::Install);
        let reason = watch.reason.as_ref().or(watch.last_error.as_ref().filter(|_| before_scripts));
        let reason = reason.map_or_else(|| format!("packer ended with {}", ended.status), Clone::clone);
        return Err(match watch.phase() {
            Some(Phase::Seal) => not_sealed(&tail()),
            Some(Phase::Gate) => ("the gate did not come to its end".to_owned(), tail()),
            Some(Phase::Install | Phase::Provision) => (reason, tail()),
            _ => (reason, vec![]),
        });
    }
    if gate.is_none() {
        return Err(("no report of the gate came home, so nobody vouches for the image".to_owned(), vec![]));
    }
    let manifest = std::fs::read_to_string(work.join(names::MANIFEST)).unwrap_or_default();
    let recorded = images_in_manifest(&manifest);
    match watch.images.iter().chain(&recorded).next() {
        Some((_, id)) => Ok(id.clone()),
        None => Err((format!("packer succeeded and named no image {}", plan.name), vec![])),
    }
}

/// The agent's findings, one a line: `found RULE SENTENCE`.
fn not_sealed(lines: &[String]) -> (String, Vec<String>) {
    let findings: Vec<_> = lines.iter().filter(|line| line.starts_with("found ")).cloned().collect();
    match findings.len() {
        0 => ("the image cannot be sealed".to_owned(), lines.to_vec()),
        count => (format!("the image is not sealed: {count} found that must not be in it"), findings),
    }
}

/// The last word on an image: only with this tag is it a base for others, or the latest of its line.
async fn mark_passed(site: &Site, id: &str) -> Result<(), (String, Vec<String>)> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let tag = site.ec2.tag(id, &[(base::GATE_TAG, &format!("passed {now}"))]).await;
    tag.map_err(|error| (format!("{id} was made and cannot be marked as passed: {error}"), vec![]))
}
