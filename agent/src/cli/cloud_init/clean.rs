//! `cloud-init clean`: what an image must not keep of the instance it was made on.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

use super::super::clean::forget;
use super::complain;
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

/// Arguments of `clean`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Also cloud-init's logs; that of kiln-agent is in the journal, which `kiln-agent clean --logs` removes
    #[arg(short, long)]
    logs: bool,
    /// Start the machine again afterwards
    #[arg(short, long)]
    reboot: bool,
    /// Also the user-data that was put on the disk as a seed
    #[arg(short, long)]
    seed: bool,
    /// Also the machine's id, so that the next boot makes a new one
    #[arg(long)]
    machine_id: bool,
    /// Also configuration that was written for the system
    #[arg(short, long, value_enum, num_args = 1..)]
    configs: Vec<Configs>,
}

/// Configuration that was written for the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Configs {
    /// Both
    All,
    /// Of the network
    Network,
    /// Of sshd
    SshConfig,
}

/// Folders with files that are removed by the beginning and the end of their name.
const WRITTEN: &[(Configs, &str, &str, &str)] = &[
    (Configs::SshConfig, "/etc/ssh/sshd_config.d", "50-cloud-init", ".conf"),
    (Configs::Network, "/etc/netplan", "50-cloud-init", ".yaml"),
    (Configs::Network, "/etc/network/interfaces.d", "50-cloud-init", ""),
    (Configs::Network, "/etc/systemd/network", "10-cloud-init-", ".network"),
    (Configs::Network, "/etc/systemd/network", "10-cloud-init-", ".link"),
    (Configs::Network, "/etc/NetworkManager/system-connections", "cloud-init-", ".nmconnection"),
    (Configs::Network, "/etc/NetworkManager/conf.d", "99-cloud-init", ".conf"),
    (Configs::Network, "/etc/NetworkManager/conf.d", "30-cloud-init-ip6-addr-gen", ".conf"),
];

/// Removes it; exit 1 where something stays.
pub fn run(system: &System, args: &Args) -> ExitCode {
    if let Err(error) = clean(system, args) {
        complain(&format!("clean: not all could be removed: {error}"));
        return ExitCode::FAILURE;
    }
    if let Err(why) = hooks(system) {
        complain(&format!("clean: {why}"));
        return ExitCode::FAILURE;
    }
    if args.reboot {
        let command = Command::new("shutdown", Duration::from_secs(60)).args(["-r", "now"]);
        match system.run(&command) {
            Ok(finished) if finished.success() => {}
            Ok(finished) => {
                complain(&format!("clean: the machine does not start again: shutdown {}", finished.ending()));
                return ExitCode::FAILURE;
            }
            Err(error) => {
                complain(&format!("clean: the machine does not start again: {error}"));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
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
    let all = args.configs.contains(&Configs::All);
    for (_, folder, start, end) in WRITTEN.iter().filter(|(kind, ..)| all || args.configs.contains(kind)) {
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
        match system.run(&Command::new(path.clone(), HOOK)) {
            Ok(finished) if finished.success() => {}
            Ok(finished) => return Err(format!("{path} {}: {}", finished.ending(), finished.last_lines(1).join(""))),
            Err(error) => return Err(error.to_string()),
        }
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
        let args = |logs, seed, configs| Args { logs, reboot: false, seed, machine_id: seed, configs };
        assert_eq!(left(&args(false, false, vec![])), [2, 4, 5, 6, 7, 8].map(|index| FILES[index]));
        assert_eq!(left(&args(true, true, vec![])), [6, 7, 8].map(|index| FILES[index]));
        assert_eq!(left(&args(false, false, vec![Configs::Network])), [2, 4, 5, 7, 8].map(|index| FILES[index]));
        assert_eq!(left(&args(true, true, vec![Configs::All])), [FILES[8]]);
    }
}
