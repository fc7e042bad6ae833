//! The gate of an image in a machine of the lab: the same steps as in a bake, without packer and in seconds.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_lab::{MachineHandle, Until};
use kiln_schema::gate::{CheckOutcome, Report};
use tokio::time::{sleep, timeout};

use crate::aws::{Ami, Launch, NewInstance};
use crate::bake::packer::scrubber;
use crate::bake::plan::{Given, Plan};
use crate::bake::progress::{Phase, Progress};
use crate::bake::session::{Session, absolute};
use crate::bake::site::{self, Site};
use crate::bake::watch::Watch;
use crate::bake::{self, Error, Failure, recover, report, stage, steps};
use crate::images::names::RunId;
use crate::images::{Distribution, Endpoint, Kilnfile, Recipe, Target, base};
use crate::journal::{Entry, Journal};
use crate::packer::RUN_TAG;
use crate::packer::events::Event;
use crate::packer::scrub::Scrubber;
use crate::packer::template::files as names;
use crate::packer::version::{Packer, Version};
use crate::system::files;
use crate::system::process::{Ended, Program, Stop};

/// How long a machine of the lab may take until it can be worked with.
const BOOT: Duration = Duration::from_secs(120);
/// How long a file may take into the machine or out of it.
const COPY: Duration = Duration::from_secs(300);
/// How long a machine may take to be gone.
const REMOVAL: Duration = Duration::from_secs(60);
/// How long to wait before a machine that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Which image the machine is launched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The newest of the image itself.
    Newest,
    /// What the image is built on.
    Base,
    /// This one.
    Ami(String),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where to start.
    pub start: Start,
    /// The package of the agent; without it, the newest that was built here.
    pub agent_deb: Option<PathBuf>,
    /// The folder for the report.
    pub report: Option<PathBuf>,
}

/// Launches a machine, lets the gate judge it, brings the report home and removes the machine, whatever
/// happens in between.
///
/// # Errors
/// When the gate did not pass, with its cause, or could not be asked.
pub async fn run(file: &Kilnfile, recipe: &Recipe, request: Request, progress: &Progress) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Lab("to enter a machine of the lab needs root: run kiln with sudo".to_owned()));
    }
    let target = Target {
        name: "lab".to_owned(),
        endpoint: Endpoint::Lab,
        region: None,
        distribution: Distribution::default(),
        bundle: None,
        plugin_path: None,
    };
    let Request { start, agent_deb, report } = request;
    let wanted = bake::Request { agent_deb, report, ..bake::Request::default() };
    let session = Session {
        file,
        request: &wanted,
        target: &target,
        site: Site::open(&target).await?,
        // None takes part in it.
        packer: Packer::new(Version(0, 0, 0), None),
        lacks_told: Cell::new(true),
        journal: Journal::open()?,
    };
    // What a gate that was killed has left is removed by the next one, as with bakes.
    recover::all(&session, progress).await?;
    let run = RunId::new(recipe).map_err(Error::Name)?;
    let image = image(&session.site, recipe, &start).await?;
    let given = Given { file, request: &wanted, site: &session.site, packer: &session.packer };
    let plan = Plan::make(given, recipe, image, run).await?;

    let folder = absolute(&report::folder(&wanted, &recipe.name, &plan.run.timestamp))?;
    let work = report::work(&folder)?;
    // The name is that of no image: whoever settles this run finds none to keep.
    let entry = Entry {
        run: plan.run.id.clone(),
        image: recipe.name.clone(),
        name: plan.run.id.clone(),
        place: session.site.place(),
        report: folder.clone(),
        tags: vec![],
        packer: None,
    };
    // Before this there is nothing to remove, and whatever is waited for ends with kiln.
    let mut stop = Stop::listen().map_err(|error| Error::file("cannot listen for signals", error))?;
    session.journal.begin(&entry)?;
    // Never cut short: of a machine whose id nobody has heard, nobody would know that it must be removed.
    let id = launch(&session, &plan, progress).await?;
    let outcome = tokio::select! {
        outcome = judge(&session.site, &plan, &folder, &id, progress) => outcome,
        name = stop.requested() => Err(failure(&plan, &folder, format!("interrupted by {name}"), vec![])),
    };
    let _ = files::remove_dir(&work);
    let removed = remove(&session.site, &id).await;
    if removed.is_ok() {
        session.journal.end(&plan.run.id, if outcome.is_ok() { "passed" } else { "failed" })?;
    }
    match (outcome, removed) {
        // What the gate said is not to be lost over it.
        (Err(Error::Failed(mut failure)), Err(why)) => {
            failure.left.push(format!("instance {id} may still be there: {why}"));
            Err(Error::Failed(failure))
        }
        (outcome, removed) => {
            let message = outcome?;
            removed?;
            progress.passed(&plan.base.id, &message, &folder.display().to_string());
            Ok(())
        }
    }
}

/// Removes the machine and waits until it is gone.
async fn remove(site: &Site, id: &str) -> Result<(), Error> {
    site.ec2.terminate(id).await?;
    within(&site::lab_access()?.machine(id), |machine| machine.wait(Until::Gone, REMOVAL)).await.map(drop)
}

/// The image to launch; none for the base, which the plan finds as that of a bake does.
async fn image(site: &Site, recipe: &Recipe, start: &Start) -> Result<Option<Ami>, Error> {
    let name = &recipe.label;
    let found = match start {
        Start::Base => return Ok(None),
        Start::Ami(id) => base::by_id(&site.ec2, id)
            .await?
            .ok_or_else(|| Error::Name(format!("the lab has no image {id}; `kiln lab status` lists those it has"))),
        Start::Newest => base::latest(&site.ec2, recipe).await?.ok_or_else(|| {
            Error::Name(format!(
                "the lab has no image of {name} that passed its gate: start from its base with --base, or bake one"
            ))
        }),
    };
    found.map(Some)
}

/// Launches the machine and gives its id.
async fn launch(session: &Session<'_>, plan: &Plan, progress: &Progress) -> Result<String, Error> {
    progress.phase(Phase::Launch, &format!("{} ({})", plan.base.name, plan.base.id));
    let new = NewInstance {
        image: plan.base.id.clone(),
        instance_type: plan.instance_type(),
        user_data: plan.documents.user_data.clone(),
        tags: vec![
            ("Name".to_owned(), format!("kiln gates {}", plan.recipe.name)),
            (RUN_TAG.to_owned(), plan.run.id.clone()),
        ],
    };
    Ok(session.site.ec2.launch(&new).await?)
}

/// From the machine's boot to what the gate says, in one sentence.
async fn judge(site: &Site, plan: &Plan, folder: &Path, id: &str, progress: &Progress) -> Result<String, Error> {
    let work = report::work(folder)?;
    let scrubber = scrubber(site).and_user_data(plan.recipe.user_data.as_ref());
    files::remove_dir(&work).map_err(|error| Error::file(work.display(), error))?;
    report::clear(folder)?;
    files::private_dir(&work).map_err(|error| Error::file(work.display(), error))?;
    stage::stage(plan, &work)?;
    let machine = site::lab_access()?.machine(id);
    progress.phase(Phase::Connect, id);
    let payload = work.join(names::PAYLOAD);
    usable(&machine).await?;
    within(&machine, move |machine| machine.put(&payload, steps::PAYLOAD, COPY)).await?;

    // An image of this very line has been through its scripts.
    let provision = plan.base.tag("application") != plan.recipe.name;
    let mut watch = Watch::new(&plan.recipe.name);
    let mut ended = None;
    for (script, limit) in steps::until_the_gate(&plan.recipe, provision) {
        let step = step(&machine, &script, &work, &scrubber, &mut watch, progress);
        ended = match timeout(limit, step).await {
            Ok(ended) => Some(ended?),
            Err(_) => {
                let at = watch.phase().map_or("a step", Phase::name);
                let cause = format!("{at} did not end within {} s", limit.as_secs());
                return Err(failure(plan, folder, cause, watch.tail.into_iter().collect()));
            }
        };
        if ended.as_ref().is_some_and(|ended| !ended.status.success()) {
            break;
        }
    }
    let home = work.join(names::REPORT);
    let fetched = within(&machine, |machine| machine.get(steps::REPORT, COPY)).await;
    if let Ok(report) = fetched {
        files::write(&home, &report, 0o600).map_err(|error| Error::file(home.display(), error))?;
    }
    let unpacked = report::unpack(&plan.recipe.name, &work, &report::home(&work));
    report::deliver(&work, folder, &scrubber).and(unpacked)?;
    verdict(&watch, ended.as_ref(), report::read(folder)).map_err(|(cause, tail)| failure(plan, folder, cause, tail))
}

/// What the report says, or why there is none.
fn verdict(watch: &Watch, ended: Option<&Ended>, gate: Option<Report>) -> Result<String, (String, Vec<String>)> {
    if let Some((gate, cause)) = gate.as_ref().and_then(|gate| Some((gate, report::cause(gate)?))) {
        return Err((cause, report::failed_tests(gate)));
    }
    let tail = || watch.tail.iter().cloned().collect();
    if let Some(sentence) = &watch.failed {
        return Err((sentence.clone(), tail()));
    }
    match gate {
        Some(gate) if ended.is_some_and(|ended| ended.status.success()) => {
            let passed = gate.checks.iter().filter(|check| check.outcome == CheckOutcome::Passed);
            Ok(passed.map(|check| check.message.as_str()).collect::<Vec<_>>().join("; "))
        }
        _ => {
            let at = watch.phase().map_or("the first step", Phase::name);
            Err((format!("{at} did not come to its end"), tail()))
        }
    }
}

fn failure(plan: &Plan, folder: &Path, cause: String, tail: Vec<String>) -> Error {
    let cause = format!("{}: {cause}", plan.recipe.name);
    Error::Failed(Box::new(Failure { cause, tail, report: folder.to_owned(), left: vec![] }))
}

/// Runs one step in the machine and hears what it says.
async fn step(
    machine: &MachineHandle,
    script: &str,
    work: &Path,
    scrubber: &Scrubber,
    watch: &mut Watch,
    progress: &Progress,
) -> Result<Ended, Error> {
    let words = machine.command(["sh", "-c", script]).map_err(|error| Error::Lab(error.to_string()))?;
    let words: Vec<_> = words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    // Whoever wants this to end is heard outside of here, where the machine is removed as well.
    let mut stop = Stop::listen().map_err(|error| Error::file("cannot listen for signals", error))?;
    let output = work.join("step.out");
    let _ = files::write(&output, b"", 0o600);
    let program = Program { words: &words, folder: work, set: &[], unset: &[], output: &output };
    let mut hear = |line: Option<String>| match line {
        Some(line) => watch.see(&Event::Say(scrubber.clean(&line)), progress),
        None => watch.tick(progress),
    };
    program.run(&mut stop, drop, &mut hear).await.map_err(|error| Error::file("cannot enter the machine", error))
}

/// Work with the machine that blocks, where it holds nobody up.
async fn within<T: Send + 'static>(
    machine: &MachineHandle,
    work: impl FnOnce(&MachineHandle) -> kiln_lab::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let machine = machine.clone();
    match tokio::task::spawn_blocking(move || work(&machine)).await {
        Ok(done) => done.map_err(|error| Error::Lab(error.to_string())),
        Err(error) => Err(Error::Lab(format!("a step ended early: {error}"))),
    }
}

/// Waits until the machine's own system runs as far as every service needs it. Its first process cannot wake
/// anybody before it listens; from then on systemd itself tells when it is so.
async fn usable(machine: &MachineHandle) -> Result<(), Error> {
    let end = Instant::now() + BOOT;
    loop {
        let why = match within(machine, |machine| machine.run(["systemctl", "start", "basic.target"], BOOT)).await {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= end {
            return Err(Error::Lab(format!("the machine of {} does not come up: {why}", machine.instance())));
        }
        sleep(PAUSE).await;
    }
}
