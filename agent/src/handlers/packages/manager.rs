//! The programs that install packages: their arguments, and what their words mean.

use crate::context::Context;
use crate::handlers::packages::config::Wanted;
use crate::system::{Command, FileOptions, Finished, System};

/// How long apt waits for another program that holds dpkg's lock, in its settings' own form, in seconds.
const LOCK_WAIT: &str = "DPkg::Lock::Timeout \"300\";\n";
/// Where apt reads that before its own settings, so that a time in those counts.
const LOCK_CONF: &str = "/run/kiln/apt.conf";
/// Who holds a lock, in apt's words.
const HELD: &str = "It is held by process ";
/// What apt, dnf and zypper say of a fault of the network, or of a list or package that another apt is fetching.
const PASSING: &[&str] = &[
    "temporary failure resolving",
    "could not resolve",
    "couldn't resolve host",
    "could not connect",
    "couldn't connect",
    "cannot initiate the connection",
    "unable to connect",
    "connection failed",
    "connection timed out",
    "connection reset",
    "network is unreachable",
    "operation timed out",
    "timeout was reached",
    "hash sum mismatch",
    "file has unexpected size",
    "error reading from server",
    " 429 ",
    " 500 ",
    " 502 ",
    " 503 ",
    " 504 ",
    "could not get lock /var/lib/apt/lists",
    "unable to lock directory /var/lib/apt/lists",
    "could not get lock /var/cache/apt/archives",
    "unable to lock directory /var/cache/apt/archives",
];

/// A program that installs packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Debian's.
    Apt,
    /// Red Hat's.
    Dnf,
    /// Red Hat's older one.
    Yum,
    /// SUSE's.
    Zypper,
}

impl Manager {
    /// The one of this machine.
    pub fn of(system: &System) -> Option<Self> {
        let known = [Manager::Apt, Manager::Dnf, Manager::Yum, Manager::Zypper];
        known.into_iter().find(|manager| system.has_program(manager.program()))
    }

    /// Its name in the user-data.
    pub fn name(self) -> &'static str {
        match self {
            Manager::Apt => "apt",
            other => other.program(),
        }
    }

    fn program(self) -> &'static str {
        match self {
            Manager::Apt => "apt-get",
            Manager::Dnf => "dnf",
            Manager::Yum => "yum",
            Manager::Zypper => "zypper",
        }
    }

    fn command(self, context: &Context) -> Command {
        let command = context.shown(context.command(self.program())).env("LC_ALL", "C").capture();
        match self {
            Manager::Apt => {
                // apt does without a file that is not there.
                let _ = context.system.write(LOCK_CONF, LOCK_WAIT, FileOptions::mode(0o644));
                command.env("DEBIAN_FRONTEND", "noninteractive").env("APT_CONFIG", LOCK_CONF).args([
                    "--option=Dpkg::Options::=--force-confold",
                    "--option=Dpkg::Options::=--force-unsafe-io",
                    "--assume-yes",
                    "--quiet",
                ])
            }
            Manager::Dnf | Manager::Yum => command.arg("-y"),
            Manager::Zypper => command.args(["--non-interactive", "--gpg-auto-import-keys"]),
        }
    }

    /// Fetches the lists of packages. Without the option a list that failed is no failure to apt.
    pub fn update(self, context: &Context) -> Command {
        let command = self.command(context);
        match self {
            Manager::Apt => command.args(["--option=APT::Update::Error-Mode=any", "update"]),
            Manager::Dnf | Manager::Yum => command.arg("makecache"),
            Manager::Zypper => command.arg("refresh"),
        }
    }

    /// Brings every package up to date.
    pub fn upgrade(self, context: &Context) -> Command {
        self.command(context).arg(match self {
            Manager::Apt => "dist-upgrade",
            Manager::Dnf | Manager::Yum => "upgrade",
            Manager::Zypper => "update",
        })
    }

    /// Installs packages.
    pub fn install(self, context: &Context, wanted: &[Wanted]) -> Command {
        self.command(context).args(["install", "--"]).args(wanted.iter().map(|package| self.word(package)))
    }

    /// The package and its version as this program takes them.
    pub fn word(self, package: &Wanted) -> String {
        let between = if matches!(self, Manager::Dnf | Manager::Yum) { '-' } else { '=' };
        package.version.as_ref().map_or(package.name.clone(), |version| format!("{}{between}{version}", package.name))
    }

    /// The version that is installed.
    pub fn installed(self, context: &Context, name: &str) -> Option<String> {
        let query = match self {
            Manager::Apt => {
                context.command("dpkg-query").args(["-W", "-f=${db:Status-Status} ${Version}\n", "--", name])
            }
            _ => context.command("rpm").args(["-q", "--qf", "installed %{VERSION}-%{RELEASE}\n", "--", name]),
        };
        let finished = context.run(&query.env("LC_ALL", "C")).ok().filter(Finished::success)?;
        let text = finished.text();
        text.lines().find_map(|line| line.strip_prefix("installed ")).map(|version| version.trim().to_owned())
    }
}

/// What a program said, both streams.
fn said(finished: &Finished) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&finished.stdout), String::from_utf8_lossy(&finished.stderr))
}

/// Whether another try may end otherwise.
pub fn may_pass(finished: &Finished) -> bool {
    let said = said(finished).to_lowercase();
    let complaints = said.lines().filter(|line| is_complaint(line));
    complaints.into_iter().any(|line| PASSING.iter().any(|sign| line.contains(sign)))
}

fn is_complaint(line: &str) -> bool {
    let line = line.trim_start().to_lowercase();
    ["e:", "w:", "err:", "error", "curl error", "  ", "could not", "failed"].iter().any(|mark| line.starts_with(mark))
        || line.contains("error")
        || line.contains("failed")
}

/// Whether apt has waited in vain for dpkg's lock: for another package it would wait as long once more.
pub fn is_locked_out(finished: &Finished) -> bool {
    said(finished).contains("(/var/lib/dpkg/lock")
}

/// The program's own reason: what dpkg says of a package, else the first line of an error.
pub fn reason(finished: &Finished) -> String {
    let said = said(finished);
    let mut lines = said.lines().map(str::trim);
    let of_package = lines.find(|line| line.starts_with("dpkg: error processing"));
    let line = match of_package {
        // The line after it has the cause.
        Some(line) => format!("{line} {}", lines.next().unwrap_or_default()),
        None => {
            let is_error = |line: &&str| line.starts_with("E: ") || line.starts_with("Error: ");
            let first = said.lines().map(str::trim).find(is_error).map(str::to_owned);
            let line = first.unwrap_or_else(|| finished.last_lines(1).concat());
            // Only the lines before tell who holds the lock, and what it is that does not fit.
            let holder = said.rsplit_once(HELD).and_then(|(_, rest)| rest.split_inclusive(')').next());
            let unmet = said.split_once("have unmet dependencies:\n").and_then(|(_, rest)| rest.lines().next());
            match (holder, unmet) {
                (Some(holder), _) if !line.contains(HELD) => format!("{line} {HELD}{holder}"),
                (_, Some(unmet)) => format!("{} ({})", line, unmet.trim()),
                _ => line,
            }
        }
    };
    without_passwords(&line.trim().chars().take(300).collect::<String>())
}

/// Addresses of sources may hold a name and a password.
fn without_passwords(line: &str) -> String {
    let hide = |word: &str| match word.split_once("://") {
        Some((scheme, rest)) => match rest.split('/').next().and_then(|host| host.rsplit_once('@')) {
            Some((secret, _)) => format!("{scheme}://{}", rest[secret.len() + 1..].trim_start_matches('@')),
            None => word.to_owned(),
        },
        None => word.to_owned(),
    };
    line.split(' ').map(hide).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ended(stdout: &str, stderr: &str) -> Finished {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Finished { code: Some(100), signal: None, took: Duration::ZERO, stdout: bytes(stdout), stderr: bytes(stderr) }
    }

    #[test]
    fn only_a_fault_of_the_network_is_worth_another_try() {
        for (line, expected) in [
            ("E: Failed to fetch http://deb/x  Temporary failure resolving 'deb'", true),
            ("E: Failed to fetch http://deb/x  503  Service Unavailable [IP: 1.2.3.4 80]", true),
            ("E: Failed to fetch http://deb/x  Hash Sum mismatch", true),
            ("E: Could not get lock /var/lib/apt/lists/lock. It is held by process 5 (apt-get)", true),
            ("E: Could not get lock /var/cache/apt/archives/lock. It is held by process 5 (apt-get)", true),
            ("Error: Failed to download metadata for repo 'x': Curl error (28): Timeout was reached", true),
            ("E: Unable to locate package nginxx", false),
            ("E: Failed to fetch http://deb/x  404  Not Found [IP: 1.2.3.4 80]", false),
            ("Get:1 http://deb x 1 [ 503 B]", false),
        ] {
            assert_eq!(may_pass(&ended("", line)), expected, "{line}");
        }
    }

    #[test]
    fn the_reason_is_the_programs_own_line_without_a_password() {
        let dpkg =
            "E: Can not write log\ndpkg: error processing package a (--configure):\n its script exited 3\nE: Sub";
        let expected = "dpkg: error processing package a (--configure): its script exited 3";
        assert_eq!(reason(&ended("x", dpkg)), expected);
        let secret = ended("", "E: Failed to fetch https://me:hunter2@deb.example/x  401  Unauthorized");
        assert_eq!(reason(&secret), "E: Failed to fetch https://deb.example/x  401  Unauthorized");
        assert_eq!(reason(&ended("nothing provides a", "")), "nothing provides a");
        let waited = "Waiting for cache lock: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (dpkg)...\n";
        let locked = ended(waited, "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is x?");
        assert!(is_locked_out(&locked) && !is_locked_out(&secret));
        assert!(reason(&locked).ends_with("is x? It is held by process 7 (dpkg)"), "{}", reason(&locked));
        let unmet = "The following packages have unmet dependencies:\n a : Depends: b but it is not installable\n";
        let expected = "E: Unable to correct (a : Depends: b but it is not installable)";
        assert_eq!(reason(&ended(unmet, "E: Unable to correct")), expected);
    }
}
