//! Playbooks of Ansible.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_schema::diagnostic::{Diagnostic, Severity, nearest};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Node, scalar};
use serde_json::json;

use self::config::{Config, Keys, Values};
use super::tools::{Steps, command_as, run_to_end};
use super::{Failure, Frequency, Handled, Handler, Outcome, check, items, packages};
use crate::context::Context;
use crate::report::instance_folder;
use crate::system::{Command, FileOptions};

mod config;
mod source;
#[cfg(test)]
mod tests;

/// How Ansible is installed.
const METHODS: &[&str] = &["distro", "pip"];
/// The keys of a pull: the playbooks, and the options of ansible-pull.
const PULL: &[&str] = &[
    "url",
    "playbook_name",
    "playbook_names",
    "accept_host_key",
    "checkout",
    "clean",
    "connection",
    "diff",
    "full",
    "inventory",
    "module_name",
    "module_path",
    "private_key",
    "scp_extra_args",
    "sftp_extra_args",
    "skip_tags",
    "sleep",
    "ssh_common_args",
    "tags",
    "timeout",
    "vault_id",
    "vault_password_file",
    "verify_commit",
];

/// The options of Ansible that are given or not, and have no value.
const FLAGS: &[&str] =
    &["accept_host_key", "check", "clean", "diff", "full", "list_hosts", "syntax_check", "verify_commit"];

/// Options of a playbook alone whose value is text.
const PLAY: &[&str] = &["args", "become_password_file", "connection_password_file", "extra_vars", "playbook_dir"];

/// Those of a playbook whose value is a number.
const PLAY_NUMBERS: &[&str] = &["background", "forks", "poll", "timeout"];

/// Options of another kind than other readers take; they are handed on as they are spelled.
fn kinds(runs: &[Node], path: &str, numbers: &[&str]) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        for entry in run.entries().iter().filter(|entry| entry.key != "playbook_names") {
            let expected = match entry.key.as_str() {
                key if FLAGS.contains(&key) => "a boolean",
                key if numbers.contains(&key) => "a number",
                key if PULL.contains(&key) || PLAY.contains(&key) => "text",
                _ => continue,
            };
            let kind = entry.value.kind();
            if kind != expected {
                let path = format!("{path}[{index}].{}", entry.key);
                told.push(entry.place.diagnostic(
                    Severity::Warning,
                    &path,
                    format!("expected {expected}, found {kind}"),
                ));
            }
        }
    }
    told
}

/// What is told of a pull without these.
const LACKING: &str = "it has not both `url` and `playbook_names`; give them";

/// Runs playbooks of Ansible.
pub struct Ansible;

impl Handler for Ansible {
    const NAME: &'static str = "ansible";
    const SUMMARY: &'static str = "Installs Ansible and runs playbooks";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let Some(ansible) = config.get("ansible") else { return Vec::new() };
        let pulls = items(ansible, "pull");
        let entries = pulls.iter().flat_map(Node::entries).filter(|entry| !PULL.contains(&entry.key.as_str()));
        let told = entries.map(|entry| {
            let path = format!("ansible.pull.{}", entry.key);
            let suggestion = nearest(&entry.key, PULL.iter().copied());
            Diagnostic { suggestion, ..entry.place.diagnostic(Severity::Warning, &path, "unknown key") }
        });
        let lacking = pulls.iter().filter(|pull| {
            let has = |key: &str| pull.get(key).is_some();
            !has("url") || !has("playbook_name") && !has("playbook_names")
        });
        let lacking = lacking.map(|pull| pull.diagnostic(Severity::Warning, "ansible.pull", LACKING));
        let method = check::words(ansible, "install_method", METHODS);
        let method = method.into_iter().map(|it| Diagnostic { path: "ansible.install_method".to_owned(), ..it });
        let plays = ansible.get("setup_controller").map_or(&[][..], |controller| items(controller, "run_ansible"));
        let of_pulls = kinds(pulls, "ansible.pull", &[]);
        let of_plays = kinds(plays, "ansible.setup_controller.run_ansible", PLAY_NUMBERS);
        told.chain(lacking).chain(method).chain(of_pulls).chain(of_plays).collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let Some(keys) = &config.ansible else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "ansible is given nothing".to_owned()));
        };
        let work = Work { keys, context };
        let mut steps = Steps::of("ansible");
        let mut ran = Vec::new();
        if !steps.add("", work.install()) {
            return steps.finish(json!({"ran": ran}));
        }
        for (index, words) in keys.galaxy.actions.iter().enumerate() {
            steps.add(&format!("galaxy.actions[{index}]"), work.action(words));
        }
        for (index, options) in keys.pull.iter().enumerate() {
            let outcome = work.pull(options).map(|name| ran.push(name));
            steps.add(&format!("pull[{index}]"), outcome);
        }
        let controller = &keys.setup_controller;
        for (index, repository) in controller.repositories.iter().enumerate() {
            let outcome = work.clone_to(&repository.path, &repository.source);
            steps.add(&format!("setup_controller.repositories[{index}]"), outcome);
        }
        for (index, options) in controller.run_ansible.iter().enumerate() {
            let outcome = work.play(options).map(|name| ran.push(name));
            steps.add(&format!("setup_controller.run_ansible[{index}]"), outcome);
        }
        steps.finish(json!({"ran": ran}))
    }
}

/// The options of one run, by name.
type Options = BTreeMap<String, Values>;

struct Work<'a> {
    keys: &'a Keys,
    context: &'a Context,
}

impl Work<'_> {
    /// A program as the user runs it.
    fn command(&self, program: &str) -> Result<Command, Failure> {
        let command = command_as(self.context, self.keys.run_user.as_deref(), program)?;
        // Colours are noise in a message; a question would wait for ever.
        let command = command.env("ANSIBLE_NOCOLOR", "1").env("GIT_TERMINAL_PROMPT", "0").env("LANG", "C.UTF-8");
        Ok(match &self.keys.ansible_config {
            Some(path) => command.env("ANSIBLE_CONFIG", path),
            None => command,
        })
    }

    fn install(&self) -> Result<(), Failure> {
        let system = &self.context.system;
        let package = self.keys.package_name.as_deref().unwrap_or("ansible");
        let gets = !self.keys.pull.is_empty() || !self.keys.setup_controller.repositories.is_empty();
        let mut packages = if gets && !system.has_program("git") { vec!["git"] } else { Vec::new() };
        let method = self.keys.install_method.as_deref().unwrap_or(METHODS[0]);
        let home = self.keys.run_user.as_ref().and_then(|user| system.account(user)).map(|account| account.home);
        let own = home.is_some_and(|home| system.exists(format!("{home}/.local/bin/ansible-pull")));
        let lacks = !own && !system.has_program("ansible-pull");
        match method {
            "distro" if lacks => packages.push(package),
            "pip" if lacks => {
                let pip = self.command("python3")?.args(["-m", "pip", "--version"]);
                if !self.context.run(&pip).is_ok_and(|finished| finished.success()) {
                    packages.push("python3-pip");
                }
            }
            "distro" | "pip" => {}
            _ => {
                let message = format!("install_method: this is none of {}", METHODS.join(", "));
                return Err(Failure::new(Reason::Config, message));
            }
        }
        if !packages.is_empty() {
            packages::ensure(self.context, &packages)?;
        }
        if method == "distro" || !lacks {
            return Ok(());
        }
        // As variables, which an older pip does not mind; so a distribution's own Python takes the package.
        let pip = self.command("python3")?.env("PIP_BREAK_SYSTEM_PACKAGES", "1").env("PIP_ROOT_USER_ACTION", "ignore");
        let pip = pip.env("PIP_DISABLE_PIP_VERSION_CHECK", "1").args(["-m", "pip", "install"]);
        let pip = if self.keys.run_user.is_some() { pip.arg("--user") } else { pip };
        run_to_end(self.context, &format!("pip install {package}"), &pip.args(["--", package]))
    }

    fn action(&self, words: &[String]) -> Result<(), Failure> {
        let Some((program, rest)) = words.split_first() else {
            return Err(Failure::new(Reason::Config, "the command is empty; write [ansible-galaxy, ...]"));
        };
        run_to_end(self.context, program, &self.command(program)?.args(rest))
    }

    fn pull(&self, options: &Options) -> Result<String, Failure> {
        let playbooks: Vec<String> =
            ["playbook_name", "playbook_names"].iter().flat_map(|key| values(options, key)).cloned().collect();
        let Some(url) = values(options, "url").first().filter(|_| !playbooks.is_empty()) else {
            return Err(Failure::new(Reason::Config, LACKING));
        };
        let (url, secrets) = source::split(url);
        let command = self.command("ansible-pull")?.arg(format!("--url={url}"));
        let command = command.args(arguments(options, &["url", "playbook_name", "playbook_names"]));
        let command = secrets.into_iter().fold(command, |command, (name, value)| command.env(name, value));
        run_to_end(self.context, &format!("ansible-pull of {url}"), &command.args(playbooks.iter().cloned()))?;
        Ok(playbooks.join(" "))
    }

    fn clone_to(&self, path: &str, source: &str) -> Result<(), Failure> {
        let system = &self.context.system;
        // Names the clone that is being made: what is there of it after a crash is half of it.
        let mark = format!("{}/ansible-clone", instance_folder(&self.context.instance.id));
        if system.read_text(&mark).is_ok_and(|begun| begun == path) {
            // The folder itself may be one that only root could make anew.
            for name in system.list(path)? {
                system.remove(format!("{path}/{name}"))?;
            }
        } else if system.exists(format!("{path}/.git")) {
            return Ok(());
        }
        // Where something is, git makes no clone, and it is nobody's to remove.
        if system.list(path)?.is_empty() {
            system.write(&mark, path, FileOptions::mode(0o600).durable())?;
        }
        let (source, secrets) = source::split(source);
        let command = self.command("git")?.args(["clone", "--quiet", "--", &source, path]);
        let command = secrets.into_iter().fold(command, |command, (name, value)| command.env(name, value));
        run_to_end(self.context, &format!("git clone of {source}"), &command)?;
        Ok(system.remove(&mark)?)
    }

    fn play(&self, options: &Options) -> Result<String, Failure> {
        let [Some(name), Some(folder)] = ["playbook_name", "playbook_dir"].map(|key| values(options, key).first())
        else {
            let message = "it has not both `playbook_name` and `playbook_dir`; give them";
            return Err(Failure::new(Reason::Config, message));
        };
        if !self.context.system.exists(folder) {
            let message = format!("there is no folder {folder}; let `repositories` or `write_files` make it");
            return Err(Failure::new(Reason::Config, message));
        }
        let command = self.command("ansible-playbook")?.folder(folder).arg(name);
        let command = command.args(arguments(options, &["playbook_name", "playbook_dir"]));
        run_to_end(self.context, &format!("ansible-playbook {name}"), &command)?;
        Ok(name.clone())
    }
}

fn values<'a>(options: &'a Options, key: &str) -> &'a [String] {
    options.get(key).map_or(&[], |values| &values.0)
}

/// The options as arguments: `true` is the option alone, `false` is none.
fn arguments(options: &Options, but: &[&str]) -> Vec<String> {
    let mut words = Vec::new();
    for (name, values) in options.iter().filter(|(name, _)| !but.contains(&name.as_str())) {
        let option = format!("--{}", name.replace('_', "-"));
        words.extend(values.0.iter().filter_map(|value| match scalar::boolean(value) {
            Some(true) => Some(option.clone()),
            Some(false) => None,
            None => Some(format!("{option}={value}")),
        }));
    }
    words
}
