//! `cloud-init clean`: what an image must not keep of the instance it was made on.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;

use super::super::clean::forget;
use super::{Entry, Opt, fail, flag};
use crate::cloud_init::RUN;
use crate::system::{Command, FileOptions, System};

const STATE: &str = "/var/lib/cloud";
const SEED: &str = "/var/lib/cloud/seed";
/// Programs of other packages that clean up after themselves.
const HOOKS: &str = "/etc/cloud/clean.d";
/// How long each of them may take.
const HOOK: Duration = Duration::from_secs(300);
/// What systemd takes for a machine that boots for the first time.
const NO_MACHINE_ID: &str = "uninitialized\n";

/// The command.
pub const COMMAND: Entry = Entry {
    name: "clean",
    about: "Forget what ran, so that the next boot runs everything again",
    after: "",
    options: &[
        flag("logs", 'l', "Also cloud-init's logs; `kiln-agent clean --logs` removes the journal"),
        flag("reboot", 'r', "Start the machine again afterwards"),
        flag("seed", 's', "Also the user-data that was put on the disk as a seed"),
        flag("machine-id", ' ', "Also the machine's id, so that the next boot makes a new one"),
        Opt {
            name: "configs",
            short: 'c',
            value: "CONFIG...",
            values: &["all", NETWORK, SSH],
            help: "Also configuration that was written for the system",
        },
    ],
    run,
};

const NETWORK: &str = "network";
const SSH: &str = "ssh_config";

/// What else is to go.
struct Args {
    logs: bool,
    seed: bool,
    machine_id: bool,
    configs: Vec<String>,
}

/// Folders with files that are removed by the beginning and the end of their name.
const WRITTEN: &[(&str, &str, &str, &str)] = &[
    (SSH, "/etc/ssh/sshd_config.d", "50-cloud-init", ".conf"),
    (NETWORK, "/etc/netplan", "50-cloud-init", ".yaml"),
    (NETWORK, "/etc/network/interfaces.d", "50-cloud-init", ""),
    (NETWORK, "/etc/systemd/network", "10-cloud-init-", ".network"),
    (NETWORK, "/etc/systemd/network", "10-cloud-init-", ".link"),
    (NETWORK, "/etc/NetworkManager/system-connections", "cloud-init-", ".nmconnection"),
    (NETWORK, "/etc/NetworkManager/conf.d", "99-cloud-init", ".conf"),
    (NETWORK, "/etc/NetworkManager/conf.d", "30-cloud-init-ip6-addr-gen", ".conf"),
];

/// Removes it; exit 1 where something stays.
fn run(system: &System, matches: &ArgMatches) -> ExitCode {
    let args = Args {
        logs: matches.get_flag("logs"),
        seed: matches.get_flag("seed"),
        machine_id: matches.get_flag("machine-id"),
        configs: matches.get_many("configs").into_iter().flatten().cloned().collect(),
    };
    let cleaned = clean(system, &args).map_err(|error| format!("not all could be removed: {error}"));
    let reboot = || match matches.get_flag("reboot") {
        true => called(system, &Command::new("shutdown", Duration::from_secs(60)).args(["-r", "now"])),
        false => Ok(()),
    };
    match cleaned.and_then(|()| hooks(system)).and_then(|()| reboot()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail("clean", &why),
    }
}

/// Runs a command that must succeed.
fn called(system: &System, command: &Command) -> Result<(), String> {
    match system.run(command) {
        Ok(finished) if finished.success() => Ok(()),
        Ok(finished) => {
            Err(format!("{} {}: {}", command.program(), finished.ending(), finished.last_lines(1).join("")))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn clean(system: &System, args: &Args) -> io::Result<()> {
    let mut doomed = vec![RUN.to_owned()];
    doomed.extend(system.list(STATE)?.into_iter().map(|name| format!("{STATE}/{name}")).filter(|path| path != SEED));
    if args.seed {
        doomed.push(SEED.to_owned());
    }
    if args.logs {
        let logs = system.list("/var/log")?.into_iter();
        let logs = logs.filter(|name| name.starts_with("cloud-init") && name.ends_with(".log"));
        doomed.extend(logs.map(|name| format!("/var/log/{name}")));
    }
    let chosen = |kind: &str| args.configs.iter().any(|chosen| chosen == kind || chosen == "all");
    for (_, folder, start, end) in WRITTEN.iter().filter(|(kind, ..)| chosen(kind)) {
        let names = system.list(folder)?.into_iter().filter(|name| name.starts_with(start) && name.ends_with(end));
        doomed.extend(names.map(|name| format!("{folder}/{name}")));
    }
    for path in doomed {
        system.remove(&path)?;
    }
    if args.machine_id {
        system.write("/etc/machine-id", NO_MACHINE_ID, FileOptions::default())?;
    }
    forget(system, args.seed)
}

/// Runs what other packages put there, in the order of the names.
fn hooks(system: &System) -> Result<(), String> {
    for name in system.list(HOOKS).map_err(|error| error.to_string())? {
        let path = format!("{HOOKS}/{name}");
        // As run-parts has it: neither a README nor what an editor left behind.
        let sound = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !sound || !system.metadata(&path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0) {
            continue;
        }
        called(system, &Command::new(path, HOOK))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 9] = [
        "/run/cloud-init/status.json",
        "/var/lib/cloud/data/instance-id",
        "/var/lib/cloud/seed/nocloud/user-data",
        "/var/lib/kiln/once.jsonl",
        "/var/lib/kiln/seed/nocloud/user-data",
        "/var/log/cloud-init-output.log",
        "/etc/netplan/50-cloud-init.yaml",
        "/etc/ssh/sshd_config.d/50-cloud-init.conf",
        "/etc/netplan/01-mine.yaml",
    ];

    fn left(args: &Args) -> Vec<&'static str> {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for path in FILES {
            system.write(path, "", FileOptions::default()).unwrap();
        }
        system.write("/etc/machine-id", "0123\n", FileOptions::default()).unwrap();
        clean(&system, args).unwrap();
        clean(&system, args).unwrap();
        let id = system.read_text("/etc/machine-id").unwrap();
        assert_eq!(id, if args.machine_id { NO_MACHINE_ID } else { "0123\n" });
        FILES.into_iter().filter(|path| system.exists(path)).collect()
    }

    #[test]
    fn each_option_takes_its_own_and_no_more() {
        let args = |logs, seed, configs: &[&str]| {
            let configs = configs.iter().map(|kind| (*kind).to_owned()).collect();
            Args { logs, seed, machine_id: seed, configs }
        };
        assert_eq!(left(&args(false, false, &[])), [2, 4, 5, 6, 7, 8].map(|index| FILES[index]));
        assert_eq!(left(&args(true, true, &[])), [6, 7, 8].map(|index| FILES[index]));
        assert_eq!(left(&args(false, false, &[NETWORK])), [2, 4, 5, 7, 8].map(|index| FILES[index]));
        assert_eq!(left(&args(true, true, &["all"])), [FILES[8]]);
    }
}
