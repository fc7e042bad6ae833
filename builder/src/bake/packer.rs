//! Runs packer for one bake, and judges what came of it.

use std::path::Path;

use jiff::Timestamp;
use kiln_schema::duration;

use super::plan::Plan;
use super::progress::{Phase, Progress};
use super::session::Session;
use super::site::Site;
use super::watch::Watch;
use super::{Error, report};
use crate::packer::events::{self, Event};
use crate::packer::scrub::Scrubber;
use crate::packer::template::{files as names, images_in_manifest};
use crate::packer::version::PLUGIN_PATH;
use crate::system::files::LineLog;
use crate::system::process::{DEADLINE, Ended, Program, Stop};

/// Variables that would lead packer somewhere else than the template says, where the target brings its own.
const FOREIGN: [&str; 5] =
    ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"];

/// What takes this environment's secrets out of text. The lab's own key is none: it is in kiln's source.
pub fn scrubber(site: &Site) -> Scrubber {
    let lab = |value: &String| site.environment.iter().any(|(_, known)| known == value);
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Scrubber::of_environment(variables.filter(|(_, value)| !lab(value)))
}

/// Runs packer for the bake itself.
///
/// # Errors
/// When it cannot be started or its log not be written.
pub async fn run(
    session: &Session<'_>,
    plan: &Plan,
    work: &Path,
    folder: &Path,
    stop: &mut Stop,
    progress: &Progress,
) -> Result<(Watch, Ended), Error> {
    let mut watch = Watch::new(&plan.recipe.name);
    let mut hear = |event: Option<&Event>| match event {
        Some(event) => watch.see(event, progress),
        None => watch.tick(progress),
    };
    let ended = follow(session, plan, work, &folder.join("packer.log"), stop, &mut hear).await?;
    Ok((watch, ended))
}

/// Runs packer in a folder that has a template, to its end; every line goes, without secrets, into the log
/// and to `hear`, which gets none when nothing has come for a moment.
///
/// # Errors
/// When it cannot be started or its log not be written.
pub async fn follow(
    session: &Session<'_>,
    plan: &Plan,
    work: &Path,
    log: &Path,
    stop: &mut Stop,
    hear: &mut dyn FnMut(Option<&Event>),
) -> Result<Ended, Error> {
    let site = &session.site;
    let mut log = LineLog::create(log).map_err(|error| Error::file(log.display(), error))?;
    for sentence in std::iter::once(format!("packer {}", session.packer)).chain(session.packer.left_out()) {
        let _ = log.line(&format!("{} {sentence}", Timestamp::now().strftime("%H:%M:%S")));
    }
    let scrubber = scrubber(site).and_user_data(plan.recipe.user_data.as_ref());
    let mut words = site.enter.clone();
    words.extend(["packer", "build", "-machine-readable", names::TEMPLATE].map(str::to_owned));
    let mut set = site.environment.clone();
    set.push(("CHECKPOINT_DISABLE".to_owned(), "1".to_owned()));
    set.push(("PACKER_CACHE_DIR".to_owned(), work.join("cache").display().to_string()));
    if let Some(path) = &session.packer.plugin_path {
        set.push((PLUGIN_PATH.to_owned(), path.display().to_string()));
    }
    let unset: &[&str] = if site.environment.is_empty() { &[] } else { &FOREIGN };

    let mut each = |line: Option<String>| {
        let Some(line) = line else { return hear(None) };
        // What packer has written otherwise, as a comma, is first written back: no secret hides behind it.
        for event in events::parse(&line).into_iter().map(|event| event.map(|text| scrubber.clean(&text))) {
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
            hear(Some(&event));
        }
    };
    let output = work.join(names::OUTPUT);
    let program = Program { words: &words, folder: work, set: &set, unset, output: &output };
    // A packer that cannot be written down runs on: at worst a later bake finds what it made and not the process.
    let started = |packer| drop(session.journal.started(&plan.run.id, packer));
    let ended = program.run(stop, started, &mut each).await;
    ended.map_err(|error| Error::file("cannot start packer", error))
}

/// Why there is no image: a sentence, and the lines that tell more.
pub type Cause = (String, Vec<String>);

/// The id of the image, or why there is none.
pub fn judge(plan: &Plan, watch: &Watch, ended: &Ended, work: &Path, folder: &Path) -> Result<String, Cause> {
    if let Some(signal) = ended.stopped_by {
        let limit = plan.recipe.bake_timeout.filter(|_| signal == DEADLINE);
        let limit = limit.map(|limit| format!(" of {}", duration::show(limit))).unwrap_or_default();
        return Err((format!("interrupted by {signal}{limit}"), vec![]));
    }
    let gate = report::read(folder);
    if let Some((gate, cause)) = gate.as_ref().and_then(|gate| Some((gate, report::cause(gate)?))) {
        return Err((cause, report::failed_tests(gate)));
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
            Some(Phase::Seal) => not_sealed(watch.seal.as_ref(), tail()),
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
        None => Err((format!("packer succeeded and named no image {}", plan.run.image_name), vec![])),
    }
}

/// The agent's findings, or what it said where it gave no report.
fn not_sealed(seal: Option<&serde_json::Value>, tail: Vec<String>) -> Cause {
    let findings = seal.and_then(|seal| seal["findings"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let line = |finding: &serde_json::Value| {
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        format!("found {:<20} {}", text("rule"), text("message"))
    };
    match findings.len() {
        0 => ("the image cannot be sealed".to_owned(), tail),
        count => {
            let sentence = format!("the image is not sealed: {count} found that must not be in it");
            (sentence, findings.iter().map(line).collect())
        }
    }
}
