//! The machine's host keys on its console, where whoever connects for the first time can compare them.

use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Failure, Finds, Frequency, Handled, Handler, Outcome, ssh_host_keys::has_sshd};
use crate::context::Context;
use crate::ssh::PublicKey;
use crate::system::System;

/// Where the keys lie.
const FOLDER: &str = "/etc/ssh";

/// Shows the host keys.
pub struct KeysToConsole;

/// Keys of what the console shows of host keys.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// What the console shows.
    ssh: Shown,
    /// Kinds of keys that are not shown, such as `ssh-rsa`.
    ssh_key_console_blacklist: Vec<String>,
    /// Kinds of keys whose fingerprint is not shown.
    ssh_fp_console_blacklist: Vec<String>,
}

/// What the console shows.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
struct Shown {
    /// Show the host keys and their fingerprints.
    emit_keys_to_console: bool,
}

impl Default for Shown {
    fn default() -> Self {
        Shown { emit_keys_to_console: true }
    }
}

impl Handler for KeysToConsole {
    const NAME: &'static str = "keys_to_console";
    const SUMMARY: &'static str = "Shows the SSH host keys on the console";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const FINDS: Option<Finds> = Some(|system, _, _| system.has_console() && has_sshd(system));
    type Config = Config;

    fn best_effort(_: &Config) -> bool {
        true
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let skip = |reason, message: &str| Ok(Outcome::Skipped(reason, message.to_owned()));
        if !config.ssh.emit_keys_to_console {
            return skip(Reason::SwitchedOff, "ssh.emit_keys_to_console is false");
        }
        let keys = keys(&context.system)?;
        if keys.is_empty() {
            return skip(Reason::NothingToDo, "there are no host keys");
        }
        context.system.print_to_console(&text(config, &keys))?;
        Ok(Outcome::Ok(Some(json!({"keys": keys.len()}))))
    }
}

/// The public host keys, in the order of their files.
fn keys(system: &System) -> Result<Vec<PublicKey>, Failure> {
    let names = system.list(FOLDER)?;
    let public = names.iter().filter(|name| name.starts_with("ssh_host_") && name.ends_with("key.pub"));
    let read = |name: &String| system.read_text(format!("{FOLDER}/{name}")).ok();
    Ok(public.filter_map(read).filter_map(|line| PublicKey::parse(&line).ok()).collect())
}

/// Both blocks. Programs look for these lines, so they are cloud-init's to the letter.
fn text(config: &Config, keys: &[PublicKey]) -> String {
    let block = |what: &str, hidden: &[String], line: fn(&PublicKey) -> String| {
        let shown = keys.iter().filter(|key| !hidden.contains(&key.kind));
        let lines: String = shown.map(|key| line(key) + "\n").collect();
        format!("-----BEGIN SSH HOST KEY {what}-----\n{lines}-----END SSH HOST KEY {what}-----\n")
    };
    let fingerprints = block("FINGERPRINTS", &config.ssh_fp_console_blacklist, PublicKey::fingerprint_line);
    let keys = block("KEYS", &config.ssh_key_console_blacklist, PublicKey::line);
    format!("\n{fingerprints}{keys}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::tests::{ED25519, OTHER};
    use crate::system::FileOptions;

    fn context(tree: &std::path::Path, user_data: &str) -> Context {
        let context = Context::for_test(tree, user_data);
        for (file, text) in [
            ("/dev/console", String::new()),
            ("/etc/ssh/sshd_config", String::new()),
            ("/etc/ssh/ssh_host_ed25519_key.pub", format!("{ED25519} root@web\n")),
            ("/etc/ssh/ssh_host_ed25519_key", "PRIVATE".to_owned()),
            ("/etc/ssh/ssh_host_other_key.pub", format!("{OTHER}\n")),
            ("/etc/ssh/ssh_host_bad_key.pub", "nonsense\n".to_owned()),
        ] {
            context.system.write(file, text, FileOptions::default()).unwrap();
        }
        context
    }

    #[test]
    fn both_blocks_stand_between_the_lines_that_programs_look_for() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = context(tree.path(), "{}");
        assert_eq!(context.run_handler::<KeysToConsole>().unwrap(), Outcome::Ok(Some(json!({"keys": 2}))));
        let other = PublicKey::parse(OTHER).unwrap().fingerprint();
        let expected = format!(
            "\n-----BEGIN SSH HOST KEY FINGERPRINTS-----\n\
             256 SHA256:oqEkyxDsyew23SMxIvzwryYxbf41OxLakqTcvfg5SoM root@web (ED25519)\n\
             256 {other} no comment (ED25519)\n\
             -----END SSH HOST KEY FINGERPRINTS-----\n\
             -----BEGIN SSH HOST KEY KEYS-----\n{ED25519} root@web\n{OTHER}\n-----END SSH HOST KEY KEYS-----\n"
        );
        assert_eq!(context.system.read_text("/dev/console").unwrap(), expected);
    }

    #[test]
    fn kinds_are_left_out_of_one_block_or_the_other() {
        for (user_data, fingerprints, keys) in [
            ("ssh_fp_console_blacklist: [ssh-ed25519]", 0, 2),
            ("ssh_key_console_blacklist: ssh-ed25519", 2, 0),
            ("ssh_key_console_blacklist: [ssh-dss]", 2, 2),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let mut context = context(tree.path(), user_data);
            context.run_handler::<KeysToConsole>().unwrap();
            let text = context.system.read_text("/dev/console").unwrap();
            let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
            assert_eq!((count("256 "), count("ssh-ed25519 ")), (fingerprints, keys), "{user_data}");
        }
    }

    #[test]
    fn nothing_is_shown_where_nobody_wants_it_or_nobody_could_see_it() {
        let tree = tempfile::tempdir().unwrap();
        let mut off = context(tree.path(), "ssh: {emit_keys_to_console: false}");
        assert!(matches!(off.run_handler::<KeysToConsole>(), Ok(Outcome::Skipped(Reason::SwitchedOff, _))));
        assert_eq!(off.system.read_text("/dev/console").unwrap(), "");
        let finds = |context: &Context| KeysToConsole::FINDS.unwrap()(&context.system, &context.config, &[]);
        for lacking in ["/dev/console", "/etc/ssh/sshd_config"] {
            let tree = tempfile::tempdir().unwrap();
            let context = context(tree.path(), "{}");
            assert!(finds(&context));
            context.system.remove(lacking).unwrap();
            assert!(!finds(&context), "{lacking}");
        }
    }
}
