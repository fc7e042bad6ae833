//! The fingerprints of the keys that may log in, on the console: who looks there sees whose they are.

use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Failure, Finds, Frequency, Handled, Handler, Outcome, users};
use crate::authorized_keys;
use crate::context::Context;
use crate::ssh::{Digest, PublicKey};

/// What every line begins with.
const PREFIX: &str = "ci-info: ";

/// Shows the fingerprints.
pub struct SshAuthkeyFingerprints;

/// Keys of the fingerprints on the console.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Show no fingerprints.
    no_ssh_fingerprints: bool,
    /// How they are made: `sha256`, `sha384` or `sha512`.
    authkey_hash: Digest,
}

impl Handler for SshAuthkeyFingerprints {
    const NAME: &'static str = "ssh_authkey_fingerprints";
    const SUMMARY: &'static str = "Shows on the console which keys may log in";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const FINDS: Option<Finds> = Some(|system, _, _| system.has_console());
    type Config = Config;

    fn best_effort(_: &Config) -> bool {
        true
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let skip = |reason, message: &str| Ok(Outcome::Skipped(reason, message.to_owned()));
        if config.no_ssh_fingerprints {
            return skip(Reason::SwitchedOff, "no_ssh_fingerprints is true");
        }
        let mut text = String::new();
        let mut shown = Vec::new();
        for user in users::names(context) {
            let Some(account) = context.system.account(&user).filter(|account| account.name == user) else { continue };
            let file = authorized_keys::file_of(&context.system, &account);
            let lines = match context.system.read_text(&file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                other => other.map_err(Failure::from)?,
            };
            let keys: Vec<PublicKey> = lines.lines().filter_map(|line| PublicKey::parse(line).ok()).collect();
            text.push_str(&table(&user, &file, &keys, config.authkey_hash));
            shown.push(json!({"user": user, "keys": keys.len()}));
        }
        if shown.is_empty() {
            return skip(Reason::NothingToDo, "no users are asked for");
        }
        context.system.print_to_console(&text)?;
        Ok(Outcome::Ok(Some(json!({"users": shown}))))
    }
}

/// The table of a user, in cloud-init's layout.
fn table(user: &str, file: &str, keys: &[PublicKey], digest: Digest) -> String {
    if keys.is_empty() {
        return format!("{PREFIX}no authorized SSH keys fingerprints found for user {user}.\n");
    }
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let head =
        ["Keytype".to_owned(), format!("Fingerprint ({})", digest.name()), "Options".to_owned(), "Comment".to_owned()];
    let rows: Vec<[String; 4]> = keys
        .iter()
        .map(|key| [key.kind.clone(), digest.of(key), or_dash(&key.options), or_dash(&key.comment)])
        .collect();
    let length = |text: &String| text.chars().count();
    let widths: [usize; 4] = std::array::from_fn(|column| {
        let cells = std::iter::once(&head).chain(&rows).map(|row| length(&row[column]));
        cells.max().unwrap_or(0) + 2
    });
    let rule = format!("+{}+", widths.map(|width| "-".repeat(width)).join("+"));
    let line = |row: &[String; 4]| {
        let cells: [String; 4] = std::array::from_fn(|column| centred(&row[column], widths[column]));
        format!("|{}|", cells.join("|"))
    };
    let title = format!("Authorized keys from {file} for user {user}");
    let free = rule.len().saturating_sub(length(&title));
    let title = format!("{}{title}{}", "+".repeat(free / 2), "+".repeat(free - free / 2));
    let mut lines = vec![title, rule.clone(), line(&head), rule.clone()];
    lines.extend(rows.iter().map(line));
    lines.push(rule);
    lines.iter().map(|line| format!("{PREFIX}{line}\n")).collect()
}

/// A cell with its text in the middle; of an odd rest the greater part stands where cloud-init has it.
fn centred(text: &str, width: usize) -> String {
    let free = width.saturating_sub(text.chars().count());
    let left = free / 2 + (free & width & 1);
    format!("{}{text}{}", " ".repeat(left), " ".repeat(free - left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::tests::ED25519;
    use crate::system::FileOptions;

    fn context(tree: &std::path::Path, user_data: &str) -> Context {
        let context = Context::for_test(tree, user_data);
        for (file, text) in [
            ("/dev/console", String::new()),
            ("/etc/os-release", "ID=debian\n".to_owned()),
            ("/etc/passwd", "admin:x:1:1::/home/admin:/bin/sh\nbob:x:2:2::/home/bob:/bin/sh\n".to_owned()),
            ("/home/admin/.ssh/authorized_keys", format!("# mine\n{ED25519} me@home\n")),
        ] {
            context.system.write(file, text, FileOptions::default()).unwrap();
        }
        context
    }

    #[test]
    fn the_table_is_cloud_inits_and_a_user_without_keys_is_named() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = context(tree.path(), "users: [default, bob, not-there]");
        context.run_handler::<SshAuthkeyFingerprints>().unwrap();
        // The digest in hexadecimal of `ssh-keygen -lf` of the same key, as cloud-init writes it.
        let print = "a2:a1:24:cb:10:ec:c9:ec:36:dd:23:31:22:fc:f0:af:26:31:6d:fe:35:3b:12:da:92:a4:dc:bd:f8:39:4a:83";
        let dashes = "-".repeat(97);
        let expected = format!(
            "ci-info: no authorized SSH keys fingerprints found for user bob.\n\
             ci-info: {plus}Authorized keys from /home/admin/.ssh/authorized_keys for user admin{plus}+\n\
             ci-info: +-------------+{dashes}+---------+---------+\n\
             ci-info: |   Keytype   |{gap} Fingerprint (sha256) {gap}| Options | Comment |\n\
             ci-info: +-------------+{dashes}+---------+---------+\n\
             ci-info: | ssh-ed25519 | {print} |    -    | me@home |\n\
             ci-info: +-------------+{dashes}+---------+---------+\n",
            plus = "+".repeat(34),
            gap = " ".repeat(38),
        );
        let shown = context.system.read_text("/dev/console").unwrap();
        let shown: String = shown.lines().map(|line| line.to_owned() + "\n").collect();
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&shown).replace('+', ""), squeeze(&expected).replace('+', ""));
        let widths: Vec<usize> = shown.lines().skip(1).map(str::len).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{shown}");
    }

    #[test]
    fn cells_are_centred_as_cloud_init_centres_them() {
        for (text, width, cell) in
            [("a", 3, " a "), ("a", 4, " a  "), ("ab", 5, "  ab "), ("ab", 4, " ab "), ("a", 1, "a")]
        {
            assert_eq!(centred(text, width), cell);
        }
    }

    #[test]
    fn switches_are_honoured_and_another_hash_is_an_error() {
        let tree = tempfile::tempdir().unwrap();
        let mut off = context(tree.path(), "no_ssh_fingerprints: true");
        assert!(matches!(off.run_handler::<SshAuthkeyFingerprints>(), Ok(Outcome::Skipped(Reason::SwitchedOff, _))));
        let mut other = context(tree.path(), "authkey_hash: sha512");
        other.run_handler::<SshAuthkeyFingerprints>().unwrap();
        let shown = other.system.read_text("/dev/console").unwrap();
        assert!(shown.contains("Fingerprint (sha512)"), "{shown}");
        let (node, _) = kiln_schema::yaml::parse("user-data", "authkey_hash: md5").unwrap();
        let checked = super::super::read_keys::<Config>(&node);
        assert!(
            checked.value.is_none() && checked.diagnostics[0].path == "authkey_hash",
            "{checked:?}",
            checked = checked.diagnostics
        );
    }
}
