//! `cloud-init init`, `modules` and `single`: work of the boot by hand.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use kiln_schema::paths;
use kiln_schema::status::{HandlerReport, OutcomeKind, Stage};

use super::super::print::say;
use super::{Entry, USAGE, choice, complain, fail, flag, text, value};
use crate::boot::{boot, turns};
use crate::cloud_init::told;
use crate::config::Config;
use crate::context::Context;
use crate::datasources::Instance;
use crate::handlers::{Frequency, HANDLERS};
use crate::includes::Includes;
use crate::report::Report;
use crate::stage::{Runner, Step};
use crate::system::System;

/// How long a single handler may take, as in the final stage.
const TIME: Duration = Duration::from_secs(3600);

/// Modules of cloud-init whose work handlers of other names do.
const NAMES: &[(&str, &[&str])] = &[
    ("apt_configure", &["apt"]),
    ("package_update_upgrade_install", &["packages"]),
    ("power_state_change", &["power_state"]),
    ("scripts_user", &["runcmd", "scripts"]),
    ("seed_random", &["random_seed"]),
    ("set_hostname", &["hostname"]),
    ("ssh", &["ssh_authorized_keys", "ssh_host_keys"]),
    ("update_etc_hosts", &["hosts"]),
    ("update_hostname", &["hostname"]),
    ("users_groups", &["users"]),
    ("yum_add_repo", &["yum_repos"]),
    ("zypper_add_repo", &["zypper"]),
];

/// The command.
pub const INIT: Entry = Entry {
    name: "init",
    about: "Run the stage that finds the instance and sets up users, keys and files",
    after: "The exit code is the number of its errors.",
    options: &[
        flag("local", 'l', "The stage before the network"),
        value("file", 'f', "FILE...", "Taken as cloud-init takes it; `kiln-agent plan` tells what is read"),
    ],
    run: init,
};

/// The command.
pub const MODULES: Entry = Entry {
    name: "modules",
    about: "Run the stage that installs, converges and runs the user's scripts",
    after: "The exit code is the number of its errors.",
    options: &[choice("mode", 'm', &["init", "config", "final"], "final runs the work of all three")],
    run: modules,
};

/// The command.
pub const SINGLE: Entry = Entry {
    name: "single",
    about: "Run one handler, by its own name or by that of cloud-init's module",
    after: "The status of the boot stays as it is. Exit 1 where the handler fails.",
    options: &[
        value("name", 'n', "NAME", "The handler or module, such as runcmd or cc_users_groups"),
        choice("frequency", ' ', &["always", "instance", "once"], "How often it runs; its own without this"),
        flag("report", ' ', "Taken as cloud-init takes it"),
    ],
    run: single,
};

/// The exit code is the number of errors of the stage.
fn init(system: &System, args: &ArgMatches) -> ExitCode {
    stage(system, if args.get_flag("local") { Stage::Local } else { Stage::Init })
}

fn modules(system: &System, args: &ArgMatches) -> ExitCode {
    match text(args, "mode") {
        Some("final") => stage(system, Stage::Final),
        // They have run with the stage that has the network, or run with the final one.
        _ => ExitCode::SUCCESS,
    }
}

fn stage(system: &System, stage: Stage) -> ExitCode {
    let name = match stage {
        Stage::Local => "init-local",
        Stage::Init => "init",
        Stage::Final => "modules-final",
    };
    match boot(system, Some(stage)) {
        Ok(status) => {
            // The last stage answers for the boot, whichever stage a finding is counted to.
            let told = if stage == Stage::Final { told::details(&status) } else { told::stages(&status)[name].take() };
            let errors = told["errors"].as_array().map_or(0, Vec::len);
            ExitCode::from(u8::try_from(errors).unwrap_or(u8::MAX))
        }
        Err(error) => fail(name, &error.to_string()),
    }
}

/// Runs one handler on the documents of this instance.
fn single(system: &System, args: &ArgMatches) -> ExitCode {
    let frequency = text(args, "frequency").map(|often| match often {
        "always" => Frequency::Boot,
        "once" => Frequency::Once,
        _ => Frequency::Instance,
    });
    let Some(name) = text(args, "name") else {
        complain("single: --name tells which handler");
        return ExitCode::from(USAGE);
    };
    let reports = match run_one(system, name, frequency) {
        Ok(reports) => reports,
        Err(sentence) => return fail("single", &sentence),
    };
    let mut failed = false;
    for report in reports {
        failed |= report.outcome == OutcomeKind::Failed;
        let why = report.message.map_or_else(String::new, |message| format!(": {message}"));
        say(&format!("{} {}{why}\n", report.name, report.outcome.name()));
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The handlers that do the work of a module.
fn handlers_of(module: &str) -> Vec<String> {
    let name = module.replace('-', "_");
    let name = name.strip_prefix("cc_").unwrap_or(&name);
    match NAMES.iter().find(|(module, _)| *module == name) {
        Some((_, handlers)) => handlers.iter().map(|name| (*name).to_owned()).collect(),
        None => vec![name.to_owned()],
    }
}

fn run_one(system: &System, module: &str, frequency: Option<Frequency>) -> Result<Vec<HandlerReport>, String> {
    let named = handlers_of(module);
    let known = system
        .read(paths::INSTANCE)
        .map_err(|error| format!("no instance is known at this boot, `cloud-init init` finds it, as root ({error})"))?;
    let instance: Instance =
        serde_json::from_slice(&known).map_err(|error| format!("{} is damaged: {error}", paths::INSTANCE))?;
    let deadline = Instant::now() + TIME;
    let includes = Includes::new(system, &instance.id, deadline);
    let config = Config::load(system, &instance, Some(&includes));
    let (root, scripts) = (Arc::new(config.root), Arc::from(config.scripts));
    // Of its own: what the boot told stays true of the boot.
    let report = Report::apart(system);
    let context = Context::new(system.clone(), Arc::new(instance), root.clone(), Arc::clone(&scripts), report.clone());
    let (mut found, mut reports) = (false, Vec::new());
    for stage in Stage::ALL {
        let mut runner = Runner::new(context.clone(), report.clone(), stage, deadline);
        for turn in turns(system, stage, &root) {
            let step = turn.step();
            if !named.iter().any(|name| name == step.name) {
                continue;
            }
            found = true;
            if !turn.has_work(system, &root, &scripts) {
                continue;
            }
            let written = |error: std::io::Error| format!("{}: {error}", step.name);
            report.update(|status| status.handlers.retain(|earlier| earlier.name != step.name)).map_err(written)?;
            let step = Step { frequency: frequency.unwrap_or(step.frequency), ..step };
            runner.step(&step).map_err(|error| format!("{}: {error}", step.name))?;
            reports.extend(report.snapshot().handlers.into_iter().filter(|report| report.name == step.name));
        }
        runner.finish().map_err(|error| format!("{}: {error}", paths::STATE))?;
    }
    // What a boot would do at its very end, such as to take the machine down.
    if let Some(last) = report.take_last_act() {
        let ended = system.run(&last.command).map_err(|error| format!("{}: {error}", last.handler))?;
        if !ended.success() {
            let said = ended.last_lines(1).join("");
            return Err(format!("{}: {} {}: {said}", last.handler, last.command.program(), ended.ending()));
        }
    }
    if !found {
        let own = HANDLERS.iter().map(|handler| handler.name).collect::<Vec<_>>().join(", ");
        return Err(format!("no handler does the work of {module}; there are {own}"));
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    fn machine(user_data: &str) -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let instance = Instance { user_data: user_data.into(), ..Instance::new("nocloud", "i-1") };
        let known = serde_json::to_vec(&instance).unwrap();
        system.write(paths::INSTANCE, known, FileOptions::mode(0o600)).unwrap();
        (tree, system)
    }

    const FILE: &str = "#cloud-config\nwrite_files:\n- {path: /made, content: x}\n";

    #[test]
    fn every_module_is_done_by_handlers_that_exist() {
        for (module, handlers) in NAMES.iter().filter(|(module, _)| *module != "zypper_add_repo") {
            for handler in *handlers {
                assert!(HANDLERS.iter().any(|known| known.name == *handler), "{module}: {handler}");
            }
        }
        assert_eq!(handlers_of("cc_users-groups"), ["users"]);
        assert_eq!(handlers_of("write-files"), ["write_files"]);
    }

    #[test]
    fn a_handler_runs_once_for_an_instance_and_again_where_that_is_asked_for() {
        let (_tree, system) = machine(FILE);
        let outcome = |frequency| run_one(&system, "cc_write_files", frequency).unwrap()[0].outcome;
        assert_eq!(outcome(None), OutcomeKind::Ok);
        system.remove("/made").unwrap();
        assert_eq!(outcome(None), OutcomeKind::Skipped);
        assert!(!system.exists("/made"));
        assert_eq!(outcome(Some(Frequency::Boot)), OutcomeKind::Ok);
        assert_eq!(system.read_text("/made").unwrap(), "x");
        assert!(!system.exists(paths::STATUS), "the status of the boot is the boot's");
    }

    #[test]
    fn what_cannot_run_is_told() {
        let (_tree, system) = machine(FILE);
        assert!(run_one(&system, "cc_nope", None).unwrap_err().starts_with("no handler does the work of cc_nope"));
        assert!(run_one(&system, "timezone", None).unwrap().is_empty(), "it has nothing to do");
        let (_tree, system) = machine("#cloud-config\nwrite_files: 7\n");
        assert_eq!(run_one(&system, "write_files", None).unwrap()[0].outcome, OutcomeKind::Failed);
        system.write(paths::INSTANCE, "{", FileOptions::default()).unwrap();
        assert!(run_one(&system, "write_files", None).unwrap_err().contains("damaged"));
        system.remove(paths::INSTANCE).unwrap();
        assert!(run_one(&system, "write_files", None).unwrap_err().contains("no instance is known"));
    }
}
