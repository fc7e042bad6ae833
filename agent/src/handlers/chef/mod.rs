//! A client of Chef.

use std::time::Duration;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node};
use serde_json::json;

use self::config::{Config, Keys};
use self::files::KeyFile;
use super::tools::{Steps, not_text, run_to_end};
use super::{Failure, Frequency, Handled, Handler, Outcome, check, packages};
use crate::context::Context;
use crate::net::{Client, Engine, Policy, Request};
use crate::report::instance_folder;
use crate::system::FileOptions;

mod config;
mod files;
#[cfg(test)]
mod tests;

/// How Chef is installed.
const TYPES: &[&str] = &["packages", "gems", "omnibus"];
/// The script that installs Chef's own packages.
const OMNIBUS: &str = "https://www.chef.io/chef/install.sh";
/// Most bytes of this script.
const SCRIPT_LIMIT: usize = 4 * 1024 * 1024;
/// Leaves a daemon behind, which converges every half hour.
const ARGUMENTS: &[&str] = &["-d", "-i", "1800", "-s", "20"];
/// Words of the licence.
const LICENCES: &[&str] = &["accept", "accept-silent", "accept-no-persist"];

/// Sets a client of Chef up.
pub struct Chef;

impl Handler for Chef {
    const NAME: &'static str = "chef";
    const SUMMARY: &'static str = "Sets a client of Chef up, and runs it";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Boot;
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let Some(chef) = config.get("chef") else { return Vec::new() };
        let others = [
            "force_install",
            "exec",
            "delete_validation_post_exec",
            "show_time",
            "run_list",
            "initial_attributes",
            "omnibus_url_retries",
            "install_type",
            "chef_license",
        ];
        let known = yaml::fields_of::<Keys>();
        let is_text = |key: &str| known.contains(&key) && !others.contains(&key);
        let attributes = chef.get("initial_attributes").filter(|node| !node.is_null());
        let attributes = attributes
            .filter(|node| !matches!(node.value, yaml::Value::Map(_)))
            .map(|node| node.diagnostic(Severity::Warning, "chef.initial_attributes", "a mapping is expected here"));
        let tell = |key: &str, words: &[&str]| {
            let path = format!("chef.{key}");
            let findings = check::words(chef, key, words);
            findings.into_iter().map(move |finding| Diagnostic { path: path.clone(), ..finding }).collect::<Vec<_>>()
        };
        let mut told = [tell("install_type", TYPES), tell("chef_license", LICENCES)].concat();
        told.extend(not_text(chef, "chef", is_text));
        told.extend(attributes);
        told
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let Some(keys) = &config.chef else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "chef is given nothing".to_owned()));
        };
        let mut steps = Steps::of("chef");
        let changed = files::write(keys, context, &mut steps);
        let mut exec = keys.exec.unwrap_or(false);
        let mut installed = false;
        let lacks = keys.force_install || !context.system.has_program("chef-client");
        if lacks {
            let kind = keys.install_type.as_deref().unwrap_or(TYPES[0]);
            exec = keys.exec.unwrap_or(kind == "gems");
            installed = steps.add("install_type", install(kind, keys, context));
        }
        // With half of its settings Chef would converge to something else.
        let runs = exec && steps.are_good();
        if runs {
            steps.add("exec", converge(keys, context));
        }
        steps.finish(json!({"changed": changed, "installed": installed, "ran": runs}))
    }
}

fn install(kind: &str, keys: &Keys, context: &Context) -> Result<(), Failure> {
    match kind {
        "packages" => packages::ensure(context, &["chef"]),
        "gems" => from_gems(keys, context),
        "omnibus" => from_omnibus(keys, context),
        _ => Err(Failure::new(Reason::Config, format!("this is none of {}", TYPES.join(", ")))),
    }
}

fn from_gems(keys: &Keys, context: &Context) -> Result<(), Failure> {
    let system = &context.system;
    let version = keys.ruby_version.as_deref().unwrap_or_default();
    let headers = if system.distro().is_red_hat() { "devel" } else { "dev" };
    packages::ensure(context, &[&format!("ruby{version}"), &format!("ruby{version}-{headers}")])?;
    for program in ["gem", "ruby"] {
        let plain = format!("/usr/bin/{program}");
        if !version.is_empty() && !system.exists(&plain) {
            system.link(&plain, format!("{plain}{version}"))?;
        }
    }
    let command = context.command("gem").env("HOME", "/root").args(["install", "chef"]);
    let command = keys.version.iter().fold(command, |command, version| command.args(["-v", version]));
    run_to_end(context, "gem install chef", &command.args(["--no-document", "--bindir", "/usr/bin", "-q"]).capture())
}

fn from_omnibus(keys: &Keys, context: &Context) -> Result<(), Failure> {
    let url = keys.omnibus_url.as_deref().unwrap_or(OMNIBUS);
    let request = Request::get(url)?.limit(SCRIPT_LIMIT);
    let tries = keys.omnibus_url_retries.unwrap_or(5).saturating_add(1);
    let policy = Policy::until(context.deadline).per_try(Duration::from_secs(30)).tries(tries);
    let client = Client::new(&context.system);
    let script = Engine::new()?.run(client.send(&request, &policy))?.body;
    // A file of its own, as the script's first line says who runs it; not in /run, where some let nothing run.
    let path = format!("{}/chef-omnibus-install", instance_folder(&context.instance.id));
    context.system.write(&path, script, FileOptions::mode(0o700))?;
    let command = context.command(&path).env("HOME", "/root").capture();
    let command = keys.omnibus_version.iter().fold(command, |command, version| command.args(["-v", version]));
    let outcome = run_to_end(context, "the script of omnibus_url", &command);
    context.system.remove(&path)?;
    outcome
}

fn converge(keys: &Keys, context: &Context) -> Result<(), Failure> {
    let command = context.command("chef-client").env("HOME", "/root").env("LANG", "C.UTF-8").capture();
    let command = match &keys.exec_arguments {
        Some(given) => command.args(given.iter().cloned()),
        None => command.args(ARGUMENTS.iter().copied()),
    };
    run_to_end(context, "chef-client", &command)?;
    if keys.delete_validation_post_exec {
        context.system.remove(KeyFile::of_validation(keys).path)?;
    }
    Ok(())
}
