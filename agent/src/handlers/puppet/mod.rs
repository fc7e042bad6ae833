//! Puppet: converges the machine at every boot, and takes it out of service when that fails.
//!
//! - `config`: the keys.
//! - `files`: puppet.conf, the certificate request's attributes, the server's certificate, the role.
//! - `run`: one run, its exit code and its last words.
//! - `summary`: what puppet itself tells of the run.
//! - `retire`: the planned shutdown after a failure.

mod config;
mod files;
mod retire;
mod run;
pub mod summary;

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::Node;
use serde_json::json;
use std::time::Duration;

use super::{Failure, Frequency, Handled, Handler, Outcome, check};
use crate::context::Context;
use config::{Config, Settings};
use run::Puppet;

/// Runs puppet.
pub struct Handle;

/// Beside its runs: asking for paths, writing files, waiting between tries, setting up the shutdown.
const OVERHEAD: Duration = Duration::from_secs(120);

impl Handler for Handle {
    const NAME: &'static str = "puppet";
    const SUMMARY: &'static str = "Runs puppet and shuts the machine down when it fails";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Boot;
    type Config = Config;

    fn timeout(config: &Config) -> Duration {
        let settings = &config.puppet;
        settings.timeout().saturating_mul(settings.tries()).saturating_add(OVERHEAD)
    }

    fn check(config: &Node) -> Vec<Diagnostic> {
        let kind = config.get("puppet").and_then(|keys| keys.get("install_type"));
        kind.and_then(|kind| check::word(kind, "puppet.install_type", &["packages", "aio"])).into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let settings = &config.puppet;
        match converge(settings, context) {
            // What puppet cannot be blamed for does not take the machine out of service.
            Err(failure) if failure.reason != Reason::Unsupported => Err(retire::after(settings, context, failure)),
            other => other,
        }
    }
}

fn converge(settings: &Settings, context: &Context) -> Handled {
    settings.check()?;
    let puppet = Puppet::find(settings, context)?;
    files::role(context, puppet.is_all_in_one())?;
    let paths = puppet.paths()?;
    // A changed puppet.conf may move everything else.
    let paths = if files::write(settings, context, &paths)? { puppet.paths()? } else { paths };
    let mut detail = json!({"mode": settings.mode.name(), "ran": settings.runs()});
    if settings.runs() {
        settings.check_manifest(context)?;
        merge(&mut detail, puppet.converge(&paths)?);
    }
    if settings.start_service == Some(true) {
        start_service(context)?;
    }
    // Last, so that everything else is done: the boot is degraded then, and says why.
    settings.check_supported().map_err(|failure| failure.with_detail(detail.clone()))?;
    if !settings.runs() && settings.start_service != Some(true) && !settings.writes_files() {
        return Ok(Outcome::Skipped(Reason::SwitchedOff, "puppet.run_on_boot is false".to_owned()));
    }
    Ok(Outcome::Ok(Some(detail)))
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    if let (Some(into), serde_json::Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

/// Puppet's own daemon. The job is queued and not waited for: it may be ordered after other units.
fn start_service(context: &Context) -> Result<(), Failure> {
    for words in [["enable", "--quiet", "puppet.service"], ["--no-block", "start", "puppet.service"]] {
        if words[1] == "start" && !context.system.is_live() {
            continue;
        }
        let finished = context.run(&context.command("systemctl").args(words))?;
        if !finished.success() {
            let said = finished.last_lines(1).join("");
            let message = format!("puppet's service: systemctl {} {}: {said}", words.join(" "), finished.ending());
            return Err(Failure::new(Reason::CommandFailed, message));
        }
    }
    Ok(())
}
