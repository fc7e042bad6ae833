//! The clock: which servers it is kept by.

use kiln_schema::Severity;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Each, Node};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::{must, put};
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::system::{FileOptions, System};

/// Sets the servers of the clock.
pub struct Ntp;

/// Keys of the clock.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Which servers the clock is kept by.
    ntp: Option<Keys>,
}

/// Which servers the clock is kept by.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// False leaves the image as it is; true without the key.
    enabled: Option<bool>,
    /// The program: `chrony`, `systemd-timesyncd`, `ntp`, or `auto`, as without the key: the one of the image.
    ntp_client: Option<String>,
    /// Single servers.
    servers: Each<String>,
    /// Names behind which there are many servers; the distribution's own where no server is given either.
    pools: Each<String>,
    /// Peers; chrony and ntp only.
    peers: Each<String>,
    /// Networks that may ask this machine; chrony and ntp only.
    allow: Each<String>,
    /// Not supported: a client of one's own, with its template. Write its file with `write_files`.
    config: Option<serde_json::Value>,
}

/// What is told of a client of the user's own.
const NOT_DONE: &str = "this is not done; write the client's file with `write_files` and leave `ntp` out";

/// A program that keeps the clock.
struct Client {
    name: &'static str,
    /// One of its programs, by which it is known to be installed.
    program: &'static str,
    /// Its file on Debian and on Red Hat.
    files: [&'static str; 2],
    /// Its service on Debian and on Red Hat.
    services: [&'static str; 2],
}

/// In the order in which one is looked for.
const CLIENTS: &[Client] = &[
    Client {
        name: "chrony",
        program: "chronyd",
        files: ["/etc/chrony/chrony.conf", "/etc/chrony.conf"],
        services: ["chrony", "chronyd"],
    },
    Client {
        name: "systemd-timesyncd",
        program: "/usr/lib/systemd/systemd-timesyncd",
        files: ["/etc/systemd/timesyncd.conf.d/cloud-init.conf"; 2],
        services: ["systemd-timesyncd"; 2],
    },
    Client { name: "ntp", program: "ntpd", files: ["/etc/ntp.conf"; 2], services: ["ntp", "ntpd"] },
];

impl Handler for Ntp {
    const NAME: &'static str = "ntp";
    const SUMMARY: &'static str = "Sets the servers of the clock";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let own = config.get("ntp").and_then(|keys| keys.get("config"));
        let told = own.map(|own| own.diagnostic(Severity::Warning, "ntp.config", NOT_DONE));
        told.into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let system = &context.system;
        let nothing = Keys::default();
        // A key with nothing behind it asks for the defaults.
        let keys = config.ntp.as_ref().unwrap_or(&nothing);
        if keys.enabled == Some(false) {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "ntp.enabled is false".to_owned()));
        }
        if keys.config.is_some() {
            return Err(Failure::new(Reason::Unsupported, format!("ntp.config: {NOT_DONE}")));
        }
        let client = client(keys, system)?;
        let family = usize::from(system.distro().is_red_hat());
        let (path, service) = (client.files[family], client.services[family]);
        let (text, failures) = content(client, keys, system);
        let mut changed = false;
        if !text.is_empty() {
            let kept = format!("{path}.dist");
            if let (Ok(old), false) = (system.read(path), system.exists(&kept))
                && old != text.as_bytes()
            {
                system.write(&kept, old, FileOptions::default())?;
            }
            changed = put(system, path, &text, 0o644)?;
        }
        if changed && system.is_live() {
            let args = ["--no-block", "reload-or-restart", service];
            must(context, &context.command("systemctl").args(args), "install systemd into the image")?;
        }
        let detail = json!({"client": client.name, "file": path, "changed": changed});
        match Failure::all(failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

fn client(keys: &Keys, system: &System) -> Result<&'static Client, Failure> {
    let word = keys.ntp_client.as_deref().unwrap_or("auto");
    let found = match word {
        "auto" => CLIENTS.iter().find(|client| system.has_program(client.program)),
        _ => CLIENTS.iter().find(|client| client.name == word),
    };
    let names = CLIENTS.iter().map(|client| client.name).collect::<Vec<_>>().join(", ");
    match found {
        Some(client) if system.has_program(client.program) => Ok(client),
        Some(client) => {
            let message = format!("ntp.ntp_client: {0} is not installed; put {0} into the image", client.name);
            Err(Failure::new(Reason::MissingProgram, message))
        }
        None if word == "auto" => Err(Failure::new(
            Reason::MissingProgram,
            format!("ntp: none of {names} is installed; put one into the image"),
        )),
        None => {
            let message = format!("ntp.ntp_client: `{word}` is none of auto, {names}");
            Err(Failure::new(Reason::Config, message))
        }
    }
}

/// The client's file; a word that would be another line is left out and told.
fn content(client: &Client, keys: &Keys, system: &System) -> (String, Vec<Failure>) {
    let mut failures = Vec::new();
    let mut good = |key: &str, words: &[String]| -> Vec<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '/' | '%');
        let fits = |word: &String| !word.is_empty() && word.chars().all(plain);
        for word in words.iter().filter(|word| !fits(word)) {
            let message = format!("ntp.{key}: `{}` is no name or address; correct it", word.escape_debug());
            failures.push(Failure::new(Reason::Config, message));
        }
        words.iter().filter(|word| fits(word)).cloned().collect()
    };
    let (servers, mut pools) = (good("servers", &keys.servers), good("pools", &keys.pools));
    let (peers, allow) = (good("peers", &keys.peers), good("allow", &keys.allow));
    if servers.is_empty() && pools.is_empty() {
        let distro = system.distro();
        let vendor = match distro.id.as_str() {
            "" => "",
            _ if distro.is_red_hat() => "centos.",
            id => &format!("{id}."),
        };
        pools = (0..4).map(|number| format!("{number}.{vendor}pool.ntp.org")).collect();
    }
    let lines = |word: &str, names: &[String], rest: &str| -> String {
        names.iter().map(|name| format!("{word} {name}{rest}\n")).collect()
    };
    let text = match client.name {
        "systemd-timesyncd" => {
            if !peers.is_empty() || !allow.is_empty() {
                let message =
                    "ntp: systemd-timesyncd has no peers and answers nobody; set ntp_client: chrony for these";
                failures.push(Failure::new(Reason::Unsupported, message));
            }
            format!("# Written by kiln-agent\n[Time]\nNTP={}\n", [servers, pools].concat().join(" "))
        }
        "chrony" => format!(
            "# Written by kiln-agent\n{}{}{}{}driftfile /var/lib/chrony/{}\nmakestep 1 3\nrtcsync\n",
            lines("pool", &pools, " iburst"),
            lines("server", &servers, " iburst"),
            lines("peer", &peers, ""),
            lines("allow", &allow, ""),
            if system.distro().is_red_hat() { "drift" } else { "chrony.drift" },
        ),
        _ => format!(
            "# Written by kiln-agent\ndriftfile /var/lib/ntp/{}\nrestrict -4 default kod notrap nomodify nopeer noquery limited\n\
             restrict -6 default kod notrap nomodify nopeer noquery limited\nrestrict 127.0.0.1\nrestrict ::1\n{}{}{}{}",
            if system.distro().is_red_hat() { "drift" } else { "ntp.drift" },
            lines("pool", &pools, " iburst"),
            lines("server", &servers, " iburst"),
            lines("peer", &peers, ""),
            lines("restrict", &allow, " nomodify notrap"),
        ),
    };
    (text, failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(user_data: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Context, Handled) {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        for (path, text) in files {
            context.system.write(path, text, FileOptions::mode(0o755)).unwrap();
        }
        let handled = context.run_handler::<Ntp>();
        (tree, context, handled)
    }

    #[test]
    fn the_client_of_the_image_gets_the_servers_and_its_old_file_is_kept_once() {
        let files = [("/usr/sbin/chronyd", ""), ("/etc/chrony/chrony.conf", "old\n"), ("/etc/os-release", "ID=debian")];
        let user_data = "ntp: {servers: [ntp.example.org, \"x\\nallow all\"], pools: [pool.example.org], peers: [km001], \
            allow: [10.0.0.0/24]}";
        let (_tree, mut context, handled) = run(user_data, &files);
        assert!(handled.unwrap_err().message.contains("ntp.servers: `x\\nallow all` is no name or address"));
        let text = context.system.read_text("/etc/chrony/chrony.conf").unwrap();
        let expected = "pool pool.example.org iburst\nserver ntp.example.org iburst\npeer km001\nallow 10.0.0.0/24\n";
        assert!(text.contains(expected) && !text.contains("allow all"), "{text}");
        let again = context.run_handler::<Ntp>().unwrap_err();
        assert_eq!(again.detail.unwrap()["changed"], false);
        assert_eq!(context.system.read_text("/etc/chrony/chrony.conf.dist").unwrap(), "old\n");
    }

    #[test]
    fn a_key_with_nothing_behind_it_asks_for_the_pools_of_the_distribution() {
        let timesyncd = ("/usr/lib/systemd/systemd-timesyncd", "");
        let (_tree, context, handled) = run("ntp:", &[timesyncd, ("/etc/os-release", "ID=debian")]);
        handled.unwrap();
        let text = context.system.read_text("/etc/systemd/timesyncd.conf.d/cloud-init.conf").unwrap();
        let pools = "0.debian.pool.ntp.org 1.debian.pool.ntp.org 2.debian.pool.ntp.org 3.debian.pool.ntp.org";
        assert!(text.ends_with(&format!("[Time]\nNTP={pools}\n")), "{text}");
        let user_data = "ntp: {ntp_client: ntp, servers: [a], allow: [b]}";
        let (_tree, context, handled) = run(user_data, &[("/usr/sbin/ntpd", ""), ("/etc/os-release", "ID=fedora")]);
        handled.unwrap();
        let text = context.system.read_text("/etc/ntp.conf").unwrap();
        assert!(
            text.contains("/var/lib/ntp/drift\n") && text.contains("server a iburst\nrestrict b nomodify"),
            "{text}"
        );
    }

    #[test]
    fn a_client_that_is_not_there_or_not_known_is_told_and_false_does_nothing() {
        for (user_data, sentence) in [
            ("ntp: {ntp_client: chrony}", "ntp.ntp_client: chrony is not installed; put chrony into the image"),
            ("ntp: {config: {confpath: /a, packages: [x]}}", "ntp.config: this is not done; write the client's file"),
            ("ntp: {ntp_client: ntpdate}", "`ntpdate` is none of auto, chrony, systemd-timesyncd, ntp"),
            ("ntp:", "none of chrony, systemd-timesyncd, ntp is installed"),
        ] {
            let message = run(user_data, &[]).2.unwrap_err().message;
            assert!(message.contains(sentence), "{message}");
        }
        let timesyncd = [("/usr/lib/systemd/systemd-timesyncd", "")];
        assert!(run("ntp: {peers: [a]}", &timesyncd).2.unwrap_err().message.contains("has no peers"));
        let (_tree, context, handled) = run("ntp: {enabled: false}", &timesyncd);
        assert!(matches!(handled, Ok(Outcome::Skipped(Reason::SwitchedOff, _))));
        assert!(!context.system.exists("/etc/systemd/timesyncd.conf.d"));
    }
}
