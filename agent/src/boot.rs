//! The whole boot on one page: source, user-data, config, handlers, status.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::paths;
use kiln_schema::status::{Stage, State, Status};
use kiln_schema::yaml::Node;

use crate::cloud_init;
use crate::config::{Config, OwnFiles};
use crate::context::Context;
use crate::datasources::{self, Instance, Search};
use crate::ending;
use crate::handlers::not_done::{self, NotDone};
use crate::handlers::{Entry, Frequency, HANDLERS, external, network};
use crate::includes::Includes;
use crate::report::{self, Report};
use crate::stage::{Runner, Step};
use crate::system::{FileOptions, System};
use crate::userdata::{Fetch, Script};

/// What handlers that tell how the boot went have at least, over the stage's allowance.
const TELLING: Duration = Duration::from_secs(120);

/// How long a stage may take: `local` holds up the network, `init` may wait for a metadata service,
/// `final` installs and converges.
fn allowance(stage: Stage) -> Duration {
    Duration::from_secs(match stage {
        Stage::Local => 60,
        Stage::Init => 300,
        Stage::Final => 3600,
    })
}

/// Runs one stage, or all of them in order, and gives the status they left.
///
/// # Errors
/// When another agent is at work, or the status cannot be written: then the truth cannot be told, and
/// the caller must fail.
pub fn boot(system: &System, only: Option<Stage>) -> io::Result<Status> {
    let Some(_lock) = system.lock(paths::LOCK)? else {
        let message = "another kiln-agent is booting this machine; `kiln-agent status --wait` waits for it";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    };
    let report = Report::begin(system);
    if is_disabled(system) {
        report.update(|status| status.state = State::Disabled)?;
        return Ok(report.snapshot());
    }
    let in_its_place = cloud_init::is_installed(system);
    let tell = |told: fn(&System, &Status)| {
        if in_its_place {
            told(system, &report.snapshot());
        }
    };
    for stage in Stage::ALL.into_iter().filter(|stage| only.is_none_or(|only| only == *stage)) {
        report.stage_began(stage)?;
        tell(cloud_init::stage_began);
        run_stage(system, &report, stage)?;
        report.stage_ended(stage)?;
        tell(cloud_init::stage_ended);
    }
    let is_over =
        |status: &Status| status.stages.iter().any(|stage| stage.name == Stage::Final && stage.finished.is_some());
    let at_the_end = report.look(|status| status.stage == Some(Stage::Final));
    if !at_the_end && report.look(is_over) {
        // An earlier stage, run once more by hand: the boot had ended, and so it has now.
        report.finish()?;
        tell(cloud_init::ended);
    }
    if at_the_end {
        report.look(|status| ending::show(system, status));
        if ending::go_down(system, &report)? {
            tell(cloud_init::ended);
            report.look(|status| ending::show(system, status));
        }
    }
    Ok(report.snapshot())
}

fn run_stage(system: &System, report: &Report, stage: Stage) -> io::Result<()> {
    let deadline = Instant::now() + allowance(stage);
    let own = OwnFiles::read(system);
    match find_instance(system, report, stage, &own, deadline) {
        Ok(Some(instance)) => run_handlers(system, report, stage, own, instance, deadline),
        // The source needs the network; the next stage asks it.
        Ok(None) => Ok(()),
        Err(finding) => {
            report.diagnostics(vec![*finding])?;
            // The machine still needs host keys and its default user, so that someone can log in and look.
            run_handlers(system, report, stage, own, Instance::new(datasources::NONE, datasources::NONE), deadline)
        }
    }
}

/// The instance: as an earlier stage of this boot found it, or asked of the sources now.
fn find_instance(
    system: &System,
    report: &Report,
    stage: Stage,
    own: &OwnFiles,
    deadline: Instant,
) -> Result<Option<Instance>, Box<Diagnostic>> {
    let known = system.read(paths::INSTANCE).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if known.is_some() && report.look(|status| status.instance_id.is_some()) {
        return Ok(known);
    }
    match datasources::search(system, own.datasources().as_deref(), stage, deadline) {
        Search::Found(instance) => Ok(Some(*instance)),
        Search::Later => {
            network::before_the_source(system, &own.root, report);
            Ok(None)
        }
        Search::None(why) => Err(Box::new(Diagnostic::error("datasource", why))),
    }
}

fn run_handlers(
    system: &System,
    report: &Report,
    stage: Stage,
    own: OwnFiles,
    instance: Instance,
    deadline: Instant,
) -> io::Result<()> {
    if report.look(|status| status.instance_id.as_deref() != Some(&instance.id)) {
        remember(system, report, &instance)?;
    }
    let includes = match stage {
        // The network is not up yet, and with it comes what is included.
        Stage::Local => None,
        Stage::Init | Stage::Final => Some(Includes::new(system, &instance.id, deadline)),
    };
    let config = Config::over(own, system, &instance, includes.as_ref().map(|includes| includes as &dyn Fetch));
    let mut findings = config.diagnostics.clone();
    findings.extend(config.check_handlers());
    config.apply_strictness(&mut findings);
    report.diagnostics(findings)?;
    if stage == Stage::Final && config.agent.kiln.baking && !wait_until_provisioned(system, deadline) {
        let message = "the bake never said that its files are in place, which `kiln-agent gate` does";
        return report.diagnostics(vec![Diagnostic::error(paths::PROVISIONED, message)]);
    }
    let root = Arc::new(config.root);
    let scripts: Arc<[Script]> = config.scripts.into();
    let context = Context::new(system.clone(), Arc::new(instance), root.clone(), scripts.clone(), report.clone());
    let mut runner = Runner::new(context, report.clone(), stage, deadline);
    for turn in turns(system, stage, &root) {
        // Asked only now: a handler before it may have made its work.
        if !turn.has_work(system, &root, &scripts) {
            continue;
        }
        if turn.tells() {
            runner.reserve(TELLING);
        }
        runner.step(&turn.step())?;
    }
    match runner.finish() {
        Ok(()) => Ok(()),
        Err(error) => report.diagnostics(vec![unwritable(&error)]),
    }
}

/// A full disk is a reason to say so, not to leave the machine without keys.
fn unwritable(error: &io::Error) -> Diagnostic {
    Diagnostic::error(paths::STATE, format!("cannot be written: {error}"))
}

/// In a bake, what puppet and the scripts need is uploaded after the machine has booted.
fn wait_until_provisioned(system: &System, deadline: Instant) -> bool {
    tracing::info!("this is a bake: the final stage waits for {}", paths::PROVISIONED);
    let there = |system: &System| system.exists(paths::PROVISIONED);
    system.wait_for(paths::RUN, deadline, there).unwrap_or_else(|error| {
        tracing::error!("cannot wait for {}: {error}", paths::PROVISIONED);
        false
    })
}

/// A handler that has something to do, built-in or external.
pub enum Turn {
    /// Of the slice.
    BuiltIn(&'static Entry),
    /// By its name.
    External(String),
    /// A key of cloud-init that nobody owns, to be told.
    NotDone(&'static NotDone),
}

impl Turn {
    /// Whether it has something to do.
    pub fn has_work(&self, system: &System, config: &Node, scripts: &[Script]) -> bool {
        match self {
            Turn::BuiltIn(handler) => {
                handler.always
                    || match handler.finds {
                        Some(finds) => finds(system, config, scripts),
                        None => handler.is_configured(config),
                    }
            }
            Turn::External(_) | Turn::NotDone(_) => true,
        }
    }

    fn tells(&self) -> bool {
        matches!(self, Turn::BuiltIn(handler) if handler.tells)
    }

    /// The turn as the runner takes it.
    pub fn step(&self) -> Step<'_> {
        match self {
            Turn::BuiltIn(handler) => Step {
                name: handler.name,
                frequency: handler.frequency,
                prepare: Box::new(|config| handler.prepare(config)),
            },
            Turn::External(name) => Step {
                name,
                frequency: Frequency::Instance,
                prepare: Box::new(|config| external::prepare(name, config)),
            },
            Turn::NotDone(key) => Step {
                name: key.key,
                // Told at every boot: a success of an earlier one there is not.
                frequency: Frequency::Boot,
                prepare: Box::new(|config| key.prepare(config)),
            },
        }
    }
}

/// The handlers that may have something to do in a stage, in the order in which they run.
pub fn turns(system: &System, stage: Stage, config: &Node) -> Vec<Turn> {
    let due = HANDLERS.iter().filter(|h| h.stage == stage);
    // Those that tell how the boot went come last, after the external ones.
    let (tell, work): (Vec<_>, Vec<_>) = due.partition(|handler| handler.tells);
    let mut turns: Vec<Turn> = work.into_iter().map(Turn::BuiltIn).collect();
    if stage == Stage::Final {
        let external = external::names(system);
        let lacking =
            not_done::lacking_in(config).into_iter().filter(|lacking| !external.iter().any(|n| n == lacking.key));
        turns.extend(lacking.map(Turn::NotDone));
        turns.extend(external.into_iter().filter(|name| config.get(name).is_some()).map(Turn::External));
    }
    turns.extend(tell.into_iter().map(Turn::BuiltIn));
    turns
}

/// Keeps what the source told, for later stages and for people.
fn remember(system: &System, report: &Report, instance: &Instance) -> io::Result<()> {
    // The user-data may hold secrets.
    system.write(paths::INSTANCE, serde_json::to_vec(instance)?, FileOptions::mode(0o600))?;
    if instance.network.is_some() {
        system.write(paths::NETWORK_TOLD, "", FileOptions::mode(0o600))?;
    }
    report.amend(|status| {
        status.instance_id = Some(instance.id.clone());
        status.source = Some(instance.source.clone());
    });
    if cloud_init::is_installed(system) {
        cloud_init::keep(system, instance);
    }
    let folder = report::instance_folder(&instance.id);
    if let Some(earlier) = system.link_target(paths::CURRENT_INSTANCE).filter(|earlier| *earlier != *folder) {
        let earlier = earlier.file_name().unwrap_or_default().display();
        tracing::info!(
            "{} is a new instance on this disk, which was {earlier}: what runs once an instance runs again",
            instance.id
        );
    }
    let kept = system
        .make_dir(&folder, 0o755, None)
        .and_then(|()| system.write(folder.clone() + "/user-data", &instance.user_data, FileOptions::mode(0o600)))
        .and_then(|()| system.link(paths::CURRENT_INSTANCE, &folder));
    match kept {
        Ok(()) => Ok(()),
        Err(error) => report.diagnostics(vec![unwritable(&error)]),
    }
}

/// Whether the agent was told to keep still: by a file, or by `kiln=disabled` on the kernel's command line; in
/// cloud-init's place also in its words.
pub fn is_disabled(system: &System) -> bool {
    system.exists(paths::DISABLED)
        || system.kernel_was_told(|word| word == "kiln=disabled")
        || cloud_init::is_disabled(system)
}
