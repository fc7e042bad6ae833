//! Steps that the handlers of other tools share: programs, units, secret files, other users.

use std::time::Duration;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::Reason;
use kiln_schema::yaml::{Node, Value};
use serde_json::Value as Json;

use super::edit::must;
use super::{Failure, Handled, Outcome};
use crate::context::Context;
use crate::system::{Command, FileOptions, Finished, PATH, System};

/// A unit that does not start in this time has failed.
const UNIT_TIME: Duration = Duration::from_secs(90);
/// Words in what is for root alone.
const SECRET: &[&str] = &["passw", "secret", "token", "private", "credential", "api_key"];

/// What went wrong under one key of the user-data; nothing of it stops the rest.
pub struct Steps {
    key: &'static str,
    failures: Vec<Failure>,
}

impl Steps {
    /// No failure yet, under this key.
    pub fn of(key: &'static str) -> Self {
        Steps { key, failures: Vec::new() }
    }

    /// Takes the outcome of a part; whether it was good.
    pub fn add(&mut self, part: &str, outcome: Result<(), Failure>) -> bool {
        let Err(failure) = outcome else { return true };
        let dot = if part.is_empty() || part.starts_with('[') { "" } else { "." };
        self.failures.push(failure.under(&format!("{}{dot}{part}", self.key)));
        false
    }

    /// Whether nothing went wrong so far.
    pub fn are_good(&self) -> bool {
        self.failures.is_empty()
    }

    /// How the handler ends.
    ///
    /// # Errors
    /// All failures in one.
    pub fn finish(self, detail: Json) -> Handled {
        match Failure::all(self.failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// Has systemd do something with a unit. A tree has units that can be enabled and none that runs.
///
/// # Errors
/// What systemd said.
pub fn systemctl(context: &Context, verb: &str, unit: &str) -> Result<(), Failure> {
    if !matches!(verb, "enable" | "disable") && !context.system.exists("/run/systemd/system") {
        return Ok(());
    }
    let command = Command::new("systemctl", context.time_left().min(UNIT_TIME)).args([verb, unit]);
    must(context, &command, "install systemd into the image").map(drop).map_err(|failure| {
        let message = format!("{verb} {unit}: {}; `journalctl -u {unit}` has the cause", failure.message);
        Failure { message, ..failure }
    })
}

/// Writes what only root may read, and makes that so where the file is there already.
///
/// # Errors
/// When it cannot be written.
pub fn put_secret(system: &System, path: &str, text: &str) -> Result<(), Failure> {
    Ok(system.write(path, text, FileOptions::mode(0o600))?)
}

/// The mode of a file of settings: for root alone if it may hold a secret.
pub fn mode_of(text: &str) -> u32 {
    let lower = text.to_lowercase();
    let in_address = lower.split("://").skip(1).any(|rest| {
        let host = rest.split(['/', '\n', ' ', '"']).next().unwrap_or_default();
        host.contains('@')
    });
    if in_address || SECRET.iter().any(|word| lower.contains(word)) { 0o600 } else { 0o644 }
}

/// A program as a user runs it, in the user's home and with the programs that the user has installed.
///
/// # Errors
/// When there is no such user.
pub fn command_as(context: &Context, user: Option<&str>, program: &str) -> Result<Command, Failure> {
    let Some(user) = user else {
        return Ok(context.command(program).env("HOME", "/root").capture());
    };
    let Some(account) = context.system.account(user).filter(|_| !user.starts_with('-')) else {
        let message = format!("there is no user `{}`; make it with `users`", user.escape_debug());
        return Err(Failure::new(Reason::Config, message));
    };
    let path = format!("{PATH}:{}/.local/bin", account.home);
    let command = context.command("runuser").args(["-u", &account.name, "--", program]);
    Ok(command.env("HOME", account.home).env("USER", account.name).env("PATH", path).capture())
}

/// The lines in which a tool tells its failure, or else its last ones; at most `count`, none of them long.
pub fn last_words(finished: &Finished, count: usize) -> Vec<String> {
    let text = format!("{}\n{}", finished.text(), String::from_utf8_lossy(&finished.stderr));
    let is_failure = |line: &&str| {
        let lower = line.trim_start().to_lowercase();
        ["fatal:", "error", "failed:"].iter().any(|word| lower.starts_with(word)) || lower.contains("failed!")
    };
    let mut lines: Vec<&str> = text.lines().filter(is_failure).collect();
    if lines.is_empty() {
        lines = text.lines().filter(|line| !line.trim().is_empty()).collect();
    }
    let from = lines.len().saturating_sub(count);
    lines[from..].iter().map(|line| line.trim().chars().take(300).collect()).collect()
}

/// Runs a command that is to exit 0; `what` names it.
///
/// # Errors
/// How it ended, and its last words.
pub fn run_to_end(context: &Context, what: &str, command: &Command) -> Result<(), Failure> {
    let finished = match context.run(&context.shown(command.clone())) {
        Ok(finished) if finished.success() => return Ok(()),
        Ok(finished) => finished,
        Err(error) => {
            return Err(Failure::from(error).under(what));
        }
    };
    let words = last_words(&finished, 3).join(" / ");
    let colon = if words.is_empty() { "" } else { ": " };
    Err(Failure::new(Reason::CommandFailed, format!("{what} {}{colon}{words}", finished.ending())))
}

/// That a number or a boolean stands where text is expected, among the `texts` of a mapping or their items: it is
/// taken as it is spelled, and every other reader takes it for something else.
pub fn not_text(node: &Node, path: &str, texts: impl Fn(&str) -> bool) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    for entry in node.entries().iter().filter(|entry| texts(&entry.key)) {
        let values = match &entry.value.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&entry.value),
        };
        for value in values.iter().filter(|value| matches!(value.kind(), "a number" | "a boolean")) {
            let message =
                format!("text is expected here, and {} is taken as it is spelled; put it in quotes", value.kind());
            told.push(value.diagnostic(Severity::Warning, &format!("{path}.{}", entry.key), message));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::testing;

    fn ended(stdout: &str, stderr: &str) -> Finished {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Finished { code: Some(2), signal: None, took: Duration::ZERO, stdout: bytes(stdout), stderr: bytes(stderr) }
    }

    #[test]
    fn the_last_words_are_those_about_the_failure() {
        let play =
            "TASK [x]\nfatal: [localhost]: FAILED! => {\"msg\": \"no such role\"}\nPLAY RECAP\nlocalhost: ok=1\n";
        let words = last_words(&ended(play, "[WARNING]: no inventory\n"), 3);
        assert_eq!(words, ["fatal: [localhost]: FAILED! => {\"msg\": \"no such role\"}"]);
        assert_eq!(last_words(&ended("a\n\nb\nc\n", "d\n"), 2), ["c", "d"]);
        assert!(last_words(&ended("", ""), 3).is_empty());
        assert_eq!(last_words(&ended(&"x".repeat(999), ""), 1)[0].len(), 300);
    }

    #[test]
    fn what_may_hold_a_secret_is_for_root() {
        for (text, mode) in [
            ("master: salt.example.org\n", 0o644),
            ("baseurl = http://x/me@y:z\n", 0o644),
            ("gitfs_Password: x", 0o600),
            ("url: https://me:x@host/y", 0o600),
            ("{\"db\":{\"api_key\":1}}", 0o600),
        ] {
            assert_eq!(mode_of(text), mode, "{text}");
        }
    }

    #[test]
    fn a_secret_file_that_everybody_could_read_is_closed() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/etc/key", "same", FileOptions::mode(0o644)).unwrap();
        put_secret(&system, "/etc/key", "same").unwrap();
        assert_eq!(system.metadata("/etc/key").unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_unit_of_a_tree_is_enabled_and_started_only_where_systemd_runs() {
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = testing::machine(tree.path(), &["/usr/bin/dash"], "{}") else { return };
        let missing = systemctl(&context, "enable", "x.service").unwrap_err();
        assert!(missing.message.contains("install systemd into the image"), "{}", missing.message);
        let script = "#!/usr/bin/dash\necho \"$@\" >> /said\ncase $1 in stop) echo no >&2; exit 5;; esac\n";
        testing::executable(&context.system, "/usr/bin/systemctl", script);
        systemctl(&context, "restart", "x.service").unwrap();
        systemctl(&context, "enable", "x.service").unwrap();
        context.system.make_dir("/run/systemd/system", 0o755, None).unwrap();
        systemctl(&context, "restart", "x.service").unwrap();
        let failure = systemctl(&context, "stop", "x.service").unwrap_err();
        assert_eq!(failure.message, "stop x.service: systemctl exited 5: no; `journalctl -u x.service` has the cause");
        assert_eq!(context.system.read_text("/said").unwrap(), "enable x.service\nrestart x.service\nstop x.service\n");
    }

    #[test]
    fn a_number_where_text_is_expected_is_told_and_no_other_value() {
        let node = kiln_schema::yaml::parse("doc", "{a: 1, b: [x, no], c: '1', d: x, e: 2, f: , g: {h: 3}}").unwrap().0;
        let told: Vec<_> = not_text(&node, "k", |key| key != "e").iter().map(ToString::to_string).collect();
        let rest = "is taken as it is spelled; put it in quotes";
        assert_eq!(
            told,
            [
                format!("doc:1:5: warning: k.a: text is expected here, and a number {rest}"),
                format!("doc:1:15: warning: k.b: text is expected here, and a boolean {rest}")
            ]
        );
    }

    #[test]
    fn a_user_who_is_not_there_is_told() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "{}");
        let failure = command_as(&context, Some("joe"), "true").err().unwrap();
        assert_eq!(failure.message, "there is no user `joe`; make it with `users`");
    }
}
