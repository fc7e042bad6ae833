//! `cloud-init collect-logs`: what tells of this boot, in one archive.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use kiln_schema::paths;

use super::super::print::say;
use super::{Entry, fail, flag, text, value};
use crate::cloud_init::{self, VERSION, data};
use crate::system::{Command, FileOptions, System, now};

/// Where it is gathered: in memory, for root alone.
const GATHERED: &str = "/run/kiln/collect-logs";
/// How long a command may take.
const TIME: Duration = Duration::from_secs(120);
/// What is copied as it is. None of it holds a secret.
const FILES: [&str; 7] = [
    paths::STATUS,
    "/var/lib/kiln/instance/journal.jsonl",
    cloud_init::STATUS,
    cloud_init::RESULT,
    data::PUBLIC,
    "/var/log/cloud-init.log",
    "/var/log/cloud-init-output.log",
];

/// The command.
pub const COMMAND: Entry = Entry {
    name: "collect-logs",
    about: "Put what tells of this boot into an archive",
    after: "",
    options: &[
        value("tarfile", 't', "FILE", "The archive; cloud-init.tar.gz without this"),
        flag("include-userdata", 'u', "Also the user-data, which may hold secrets"),
    ],
    run,
};

fn run(system: &System, args: &ArgMatches) -> ExitCode {
    collect(system, Path::new(text(args, "tarfile").unwrap_or("cloud-init.tar.gz")), args.get_flag("include-userdata"))
}

/// Makes the archive, which root alone may read.
fn collect(system: &System, tarfile: &Path, userdata: bool) -> ExitCode {
    let made = std::path::absolute(tarfile).map_err(|error| error.to_string()).and_then(|tarfile| {
        let made = gather(system, userdata).map_err(|error| format!("{error}; it needs root"));
        let made = made.and_then(|folder| pack(system, &folder, &tarfile));
        let cleared = system.remove(GATHERED).map_err(|error| error.to_string());
        made.and(cleared).map(|()| tarfile)
    });
    match made {
        Ok(tarfile) => {
            say(&format!("Wrote {}\n", tarfile.display()));
            ExitCode::SUCCESS
        }
        Err(why) => fail("collect-logs", &why),
    }
}

/// Puts all of it into a folder and gives the folder's name.
fn gather(system: &System, userdata: bool) -> io::Result<String> {
    let name = format!("cloud-init-logs-{}", now().strftime("%Y-%m-%d"));
    let put = |path: &str, bytes: &[u8]| {
        let path = format!("{GATHERED}/{name}/{}", path.trim_start_matches('/'));
        system.write(path, bytes, FileOptions::mode(0o600))
    };
    system.remove(GATHERED)?;
    system.make_dir(GATHERED, 0o700, None)?;
    put("version", format!("{VERSION}\n").as_bytes())?;
    let secret = [paths::INSTANCE].into_iter().filter(|_| userdata);
    for path in FILES.into_iter().chain(secret) {
        match system.read(path) {
            Ok(bytes) => put(path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for (file, program, args) in [
        (
            "journal.txt",
            "journalctl",
            &["--boot", "--output=short-precise", "--no-pager", "--lines=5000", "-t", "kiln-agent"][..],
        ),
        ("dmesg.txt", "dmesg", &[]),
    ] {
        let command = Command::new(program, TIME).args(args.iter().copied()).capture();
        // Neither is on every machine: what it lacks is told in the file's place.
        let text = match system.run(&command) {
            Ok(finished) if finished.success() => finished.text(),
            Ok(finished) => format!("{program} {}\n", finished.ending()),
            Err(error) => format!("{error}\n"),
        };
        put(file, text.as_bytes())?;
    }
    Ok(name)
}

fn pack(system: &System, folder: &str, tarfile: &Path) -> Result<(), String> {
    // It is there with its mode before tar fills it.
    system.write(tarfile, "", FileOptions::mode(0o600)).map_err(|error| error.to_string())?;
    let tarfile = tarfile.to_string_lossy().into_owned();
    let command = Command::new("tar", TIME).args(["-czf", &tarfile, "-C", GATHERED, folder]);
    match system.run(&command) {
        Ok(finished) if finished.success() => Ok(()),
        Ok(finished) => Err(format!("tar {}: {}", finished.ending(), finished.last_lines(1).join(""))),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_is_in_it_only_where_that_is_asked_for() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for path in [paths::STATUS, paths::INSTANCE, data::SENSITIVE, data::PUBLIC] {
            system.write(path, path, FileOptions::default()).unwrap();
        }
        for (userdata, there) in [(true, true), (false, false)] {
            let name = gather(&system, userdata).unwrap();
            let there_is = |path: &str| system.exists(format!("{GATHERED}/{name}{path}"));
            assert!(there_is(paths::STATUS) && there_is(data::PUBLIC) && there_is("/dmesg.txt"));
            assert_eq!(there_is(paths::INSTANCE), there);
            assert!(!there_is(data::SENSITIVE));
        }
    }

    #[test]
    fn a_machine_without_tar_leaves_nothing_behind() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert_eq!(collect(&system, Path::new("/logs.tar.gz"), false), ExitCode::FAILURE);
        assert!(!system.exists(GATHERED));
    }
}
