//! `kiln-agent clean`: forgets what ran.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use kiln_schema::paths;
use kiln_schema::status::State;

use super::print::{complain, say};
use crate::report::current;
use crate::report::instance_folder;
use crate::system::{Command, System};

/// Where journald keeps the log of the agent, with that of everything else.
const JOURNAL: &str = "/var/log/journal";

/// Arguments of `clean`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "It asks nothing and says what it removed. What handlers did to the system stays.

Exit codes:
  0  forgotten, or there was nothing to forget
  1  the agent is running, or something could not be removed
 64  the command line cannot be understood")]
pub struct Args {
    /// Forget this instance alone, and not what runs once in the life of the disk
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Also the system's journal, where the agent's log is
    #[arg(long)]
    logs: bool,
    /// Also the user-data that was put on the disk as a seed
    #[arg(long)]
    seed: bool,
    /// Also while the status says that the agent is running, as after a crash
    #[arg(long)]
    force: bool,
}

/// Removes the agent's memory.
pub fn run(system: &System, args: &Args) -> ExitCode {
    let running = current(system).is_ok_and(|status| status.state == State::Running);
    if running && !args.force {
        complain("the agent is running: `kiln-agent status --wait` waits for its end, --force cleans nevertheless");
        return ExitCode::FAILURE;
    }
    match clean(system, args) {
        Ok(removed) if removed.is_empty() => say("nothing to forget\n"),
        Ok(removed) => removed.iter().for_each(|path| say(&format!("removed {path}\n"))),
        Err(error) => {
            complain(&format!("not all could be removed: {error}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Removes the agent's memory of every instance, also while it is at work.
///
/// # Errors
/// When something cannot be removed.
pub fn forget(system: &System, seed: bool) -> io::Result<()> {
    clean(system, &Args { instance: None, logs: false, seed, force: true }).map(|_| ())
}

/// What was there and is not any more.
fn clean(system: &System, args: &Args) -> io::Result<Vec<String>> {
    let mut doomed: Vec<String> = Vec::new();
    // The status of this boot, or a boot by hand would take the instance for known and run nothing.
    let of_this_boot =
        [paths::STATUS, paths::INSTANCE, paths::INCLUDES, paths::CURRENT_INSTANCE, paths::DATA, paths::NETWORK_RECORD];
    match &args.instance {
        Some(id) => {
            let folder = instance_folder(id);
            if system.is_link_to(paths::CURRENT_INSTANCE, &folder) {
                doomed.extend(of_this_boot.map(str::to_owned));
            }
            doomed.push(folder);
        }
        None => {
            doomed.extend(of_this_boot.map(str::to_owned));
            doomed.extend([paths::INSTANCES, paths::ONCE_JOURNAL].map(str::to_owned));
        }
    }
    if args.seed {
        doomed.extend(paths::SEEDS.iter().map(|seed| (*seed).to_owned()));
    }
    if args.logs {
        if system.is_live() {
            // journald has its files open: it must let go of them before they are removed.
            let command = Command::new("journalctl", Duration::from_secs(60)).args(["--rotate", "--vacuum-time=1s"]);
            match system.run(&command) {
                Ok(finished) if finished.success() => {}
                Ok(finished) => return Err(io::Error::other(format!("journalctl {}", finished.ending()))),
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        } else {
            let folders = system.list(JOURNAL)?;
            doomed.extend(folders.into_iter().map(|name| format!("{JOURNAL}/{name}")));
        }
    }
    let mut removed = Vec::new();
    for path in doomed {
        if system.is_there(&path) {
            system.remove(&path)?;
            removed.push(path);
        }
    }
    if args.logs && system.is_live() {
        removed.push("the archived journal".to_owned());
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    fn args(instance: Option<&str>, logs: bool, seed: bool) -> Args {
        Args { instance: instance.map(str::to_owned), logs, seed, force: false }
    }

    fn machine() -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for path in [
            "/run/kiln/status.json",
            "/run/kiln/instance.json",
            "/run/kiln/includes.json",
            "/var/lib/kiln/instances/i-1/journal.jsonl",
            "/var/lib/kiln/instances/i-2/journal.jsonl",
            "/var/lib/kiln/data/hostname",
            "/var/lib/kiln/once.jsonl",
            "/var/lib/kiln/seed/nocloud/user-data",
            "/var/lib/kiln/keep",
            "/var/log/journal/0123/system.journal",
            "/etc/kiln/agent.yaml",
        ] {
            system.write(path, "", FileOptions::default()).unwrap();
        }
        system.link("/var/lib/kiln/instance", "/var/lib/kiln/instances/i-2").unwrap();
        (tree, system)
    }

    #[test]
    fn all_is_forgotten_and_nothing_else() {
        let (_tree, system) = machine();
        let removed = clean(&system, &args(None, false, false)).unwrap();
        assert_eq!(
            removed,
            [
                "/run/kiln/status.json",
                "/run/kiln/instance.json",
                "/run/kiln/includes.json",
                "/var/lib/kiln/instance",
                "/var/lib/kiln/data",
                "/var/lib/kiln/instances",
                "/var/lib/kiln/once.jsonl"
            ]
        );
        assert_eq!(system.list("/var/lib/kiln").unwrap(), ["keep", "seed"]);
        assert!(system.exists("/etc/kiln/agent.yaml") && system.exists("/var/log/journal/0123/system.journal"));
        assert!(clean(&system, &args(None, false, false)).unwrap().is_empty());
    }

    #[test]
    fn another_instance_is_forgotten_alone() {
        let (_tree, system) = machine();
        let removed = clean(&system, &args(Some("i-1"), false, false)).unwrap();
        assert_eq!(removed, ["/var/lib/kiln/instances/i-1"]);
        let removed = clean(&system, &args(Some("i-2"), false, false)).unwrap();
        assert!(removed.contains(&"/run/kiln/status.json".to_owned()));
        assert!(system.exists("/var/lib/kiln/once.jsonl"));
    }

    #[test]
    fn an_id_cannot_lead_out_of_the_folder() {
        let (_tree, system) = machine();
        for id in ["../../keep", "..", "/etc", "."] {
            assert!(clean(&system, &args(Some(id), false, false)).unwrap().is_empty(), "{id}");
        }
        assert!(system.exists("/etc/kiln/agent.yaml") && system.exists("/var/lib/kiln/keep"));
    }

    #[test]
    fn seeds_and_logs_go_only_when_asked_for() {
        let (_tree, system) = machine();
        let removed = clean(&system, &args(None, true, true)).unwrap();
        assert!(removed.contains(&"/var/lib/kiln/seed/nocloud".to_owned()));
        assert!(removed.contains(&"/var/log/journal/0123".to_owned()));
    }
}
