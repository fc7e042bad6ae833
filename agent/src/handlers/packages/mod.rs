//! Packages of the distribution.

use std::time::Duration;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{PlannedShutdown, Reason, Stage};
use kiln_schema::yaml::{Node, Value};
use serde_json::{Map, Value as Json, json};

use self::config::{Config, Wanted};
use self::manager::Manager;
use super::{Failure, Frequency, Handled, Handler, Outcome, items, reason_of};
use crate::context::Context;
use crate::system::{Command, now};

mod config;
mod manager;
#[cfg(test)]
mod tests;

/// Tries of one command against faults of the network.
const TRIES: u32 = 5;
/// The pause after the first of them; it doubles.
const PAUSE: Duration = Duration::from_secs(3);
/// Files by which a distribution asks for a reboot.
const REBOOT: &[&str] = &["/run/reboot-required", "/var/run/reboot-required", "/run/reboot-needed"];
/// The command that takes the reboot back.
const CANCEL: &str = "shutdown -c";

/// Installs packages.
pub struct Install;

impl Handler for Install {
    const NAME: &'static str = "packages";
    const SUMMARY: &'static str = "Installs packages";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(1800);
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let alone = |node: &Node| matches!(&node.value, Value::List(words) if words.len() == 1);
        let message = "a list here is [name, version]; the only word is taken for a name: write it without brackets";
        let entries = items(config, "packages").iter().enumerate().filter(|(_, node)| alone(node));
        let told =
            entries.map(|(index, node)| node.diagnostic(Severity::Warning, &format!("packages[{index}]"), message));
        told.collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let wanted: Vec<Wanted> = config.packages.iter().flat_map(|entry| entry.0.iter().cloned()).collect();
        let upgrade = config.package_upgrade || config.apt_upgrade;
        let update = config.package_update || config.apt_update;
        if wanted.is_empty() && !upgrade && !update {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no packages are given".to_owned()));
        }
        let Some(manager) = Manager::of(&context.system) else {
            let message = "none of apt-get, dnf, yum and zypper is installed; put the packages into the image";
            return Err(Failure::new(Reason::MissingProgram, message));
        };
        let mut work = Work { context, manager, detail: Map::new(), packages: Map::new(), failures: Vec::new() };
        let missing = work.sort(wanted);
        let mut updated = Ok(());
        if update || upgrade || !missing.is_empty() {
            updated = work.step("update", &manager.update(context));
        }
        if upgrade && let Err(failure) = work.step("upgrade", &manager.upgrade(context)) {
            work.failures.push(failure);
        }
        let refused = work.failures.len();
        work.install(missing);
        // A list that cannot be fetched is no fault where everything is installed from the others; where it
        // is not, the list is why apt knows no such package.
        if let Err(failure) = updated
            && (update || upgrade || work.failures.len() > refused)
        {
            work.failures.push(failure);
        }
        if (config.package_reboot_if_required || config.apt_reboot_if_required)
            && let Err(failure) = work.reboot()
        {
            work.failures.push(failure);
        }
        work.finish()
    }
}

/// Installs those of these packages that lack, for a handler whose program comes in them.
///
/// # Errors
/// Which package could not be installed, and why.
pub fn ensure(context: &Context, names: &[&str]) -> Result<(), Failure> {
    let Some(manager) = Manager::of(&context.system) else {
        let names = names.join(", ");
        let message = format!("none of apt-get, dnf, yum and zypper is installed; put {names} into the image");
        return Err(Failure::new(Reason::MissingProgram, message));
    };
    let mut work = Work { context, manager, detail: Map::new(), packages: Map::new(), failures: Vec::new() };
    let wanted = |name: &&str| Wanted { manager: None, name: (*name).to_owned(), version: None };
    let missing = work.sort(names.iter().map(wanted).collect());
    if !missing.is_empty() {
        // Without lists the installation itself says what lacks.
        let _ = work.step("update", &manager.update(context));
        work.install(missing);
    }
    Failure::all(work.failures).map_or(Ok(()), Err)
}

struct Work<'a> {
    context: &'a Context,
    manager: Manager,
    detail: Map<String, Json>,
    packages: Map<String, Json>,
    failures: Vec<Failure>,
}

impl Work<'_> {
    /// The packages that lack; those that are there or cannot be are told.
    fn sort(&mut self, wanted: Vec<Wanted>) -> Vec<Wanted> {
        let mut missing: Vec<Wanted> = Vec::new();
        for package in wanted {
            let own = self.manager.name();
            let named = package.manager.as_deref().unwrap_or(own);
            // dnf and yum are two names of one thing.
            let is_own = named == own || (matches!(named, "dnf" | "yum") && matches!(own, "dnf" | "yum"));
            if !is_own {
                let why =
                    format!("{named} is not the manager of this machine, which is {own}; move it there or to runcmd");
                self.refuse(&package, Reason::Unsupported, &why);
            } else if let Err(why) = check(&package) {
                self.refuse(&package, Reason::Config, &why);
            } else {
                let there = self.manager.installed(self.context, &package.name);
                let fits = there.as_ref().is_some_and(|there| package.version.as_ref().is_none_or(|one| one == there));
                if fits {
                    self.packages.insert(package.name, json!({"outcome": "present", "version": there}));
                } else if !missing.contains(&package) {
                    missing.push(package);
                }
            }
        }
        missing
    }

    fn refuse(&mut self, package: &Wanted, reason: Reason, why: &str) {
        self.packages.insert(package.name.clone(), json!({"outcome": "failed", "reason": why}));
        self.failures.push(Failure::new(reason, format!("package {}: {why}", package.name)));
    }

    /// Runs a command, again after a fault of the network.
    fn try_hard(&self, command: &Command) -> Result<(), Failure> {
        let mut tries = 1;
        loop {
            // Each try has what the ones before it have left.
            let command = command.clone().within(self.context.time_left());
            let finished =
                self.context.run(&command).map_err(|error| Failure::new(reason_of(&error), error.to_string()))?;
            if finished.success() {
                return Ok(());
            }
            let pause = PAUSE.saturating_mul(1 << (tries - 1));
            let passing = manager::may_pass(&finished);
            if !passing || tries == TRIES || pause >= self.context.time_left() {
                let kind = match passing {
                    true => Reason::Network,
                    false if manager::is_locked_out(&finished) => Reason::Timeout,
                    false => Reason::CommandFailed,
                };
                let after = if tries > 1 { format!(" after {tries} tries") } else { String::new() };
                return Err(Failure::new(kind, format!("{}{after}", manager::reason(&finished))));
            }
            tracing::warn!("{}; trying again in {} s", manager::reason(&finished), pause.as_secs());
            std::thread::sleep(pause);
            tries += 1;
        }
    }

    fn step(&mut self, name: &str, command: &Command) -> Result<(), Failure> {
        let outcome = self.try_hard(command);
        let word = outcome.as_ref().map_or_else(|failure| failure.message.clone(), |()| "ok".to_owned());
        self.detail.insert(name.to_owned(), json!(word));
        outcome.map_err(|failure| failure.under(&format!("{} {name}", self.manager.name())))
    }

    /// Installs all at once, and where that fails one by one, so that a bad one hides no other.
    fn install(&mut self, missing: Vec<Wanted>) {
        if missing.is_empty() {
            return;
        }
        let together = self.try_hard(&self.manager.install(self.context, &missing));
        for package in missing {
            let alone = match &together {
                Ok(()) => Ok(()),
                // Another try of each would wait for the same network.
                Err(failure) if matches!(failure.reason, Reason::Network | Reason::Timeout) => Err(failure.clone()),
                Err(_) => self.try_hard(&self.manager.install(self.context, std::slice::from_ref(&package))),
            };
            let there = self.manager.installed(self.context, &package.name);
            let fits = package.version.as_ref().is_none_or(|one| there.as_ref() == Some(one));
            match alone {
                // A package that another one left unconfigured fails every run of apt, also a good one.
                Err(failure) if there.is_none() || !fits => self.refuse(&package, failure.reason, &failure.message),
                _ => {
                    self.packages.insert(package.name, json!({"outcome": "installed", "version": there}));
                }
            }
        }
    }

    /// Has the machine reboot in a minute, so that the handlers after this one are told and not cut off.
    fn reboot(&mut self) -> Result<(), Failure> {
        let system = &self.context.system;
        if !REBOOT.iter().any(|path| system.exists(path)) || !system.is_live() || self.context.is_baking() {
            return Ok(());
        }
        let at = now().checked_add(jiff::SignedDuration::from_secs(60)).unwrap_or_else(|_| now());
        self.context.plan_shutdown(PlannedShutdown {
            action: "reboot".to_owned(),
            at: at.to_string(),
            because: "packages: the distribution asks for a reboot".to_owned(),
            cancel: CANCEL.to_owned(),
        })?;
        let wall = format!("packages ask for a reboot; cancel it with `{CANCEL}`");
        let command = self.context.command("shutdown").args(["-r".to_owned(), "+1".to_owned(), wall]);
        let outcome = super::edit::must(self.context, &command, "install systemd's shutdown into the image");
        if outcome.is_err() {
            let _ = self.context.withdraw_shutdown();
        }
        self.detail.insert("reboot".to_owned(), json!(outcome.is_ok()));
        outcome.map(|_| ())
    }

    fn finish(mut self) -> Handled {
        self.detail.insert("manager".to_owned(), json!(self.manager.name()));
        self.detail.insert("packages".to_owned(), Json::Object(self.packages));
        let detail = Json::Object(self.detail);
        match Failure::all(self.failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// A name must be one: to apt a trailing `-` says to remove the package.
fn check(package: &Wanted) -> Result<(), String> {
    let plain = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if !plain(&package.name) || package.name.starts_with('-') || package.name.ends_with('-') {
        return Err(format!("`{}` is no name of a package; correct it", package.name.escape_debug()));
    }
    match &package.version {
        Some(version) if !plain(version) => Err("its version is not one word; correct it".to_owned()),
        _ => Ok(()),
    }
}
