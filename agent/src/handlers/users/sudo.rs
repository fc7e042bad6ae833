//! Sudo rules, in a file of the agent's own.

use kiln_schema::status::Reason;

use crate::context::Context;
use crate::handlers::Failure;
use crate::system::{FileOptions, RunError};

/// Rules of the users that the agent made. It has the name of cloud-init's file, which people remove
/// and replace by that name.
const RULES: &str = "/etc/sudoers.d/90-cloud-init-users";
/// The rule of every default user. Alone in the file it needs no check, which would cost each first boot
/// a process.
const EVERYTHING: &str = "ALL=(ALL) NOPASSWD:ALL";
/// The file that includes it.
const SUDOERS: &str = "/etc/sudoers";

/// Gives a user exactly these rules, none if there are none; rules of other users stay.
///
/// # Errors
/// What visudo says of the rules; the file is as before then. Without visudo it is written unchecked.
pub fn set(context: &Context, user: &str, rules: &[&str]) -> Result<(), Failure> {
    let old = match context.system.read_text(RULES) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let text = with_rules(&old, user, rules);
    if text == old {
        return Ok(());
    }
    if !(old.is_empty() && rules == [EVERYTHING] && is_plain(user)) {
        check(context, &text)?;
    }
    include(context)?;
    context.system.make_dir("/etc/sudoers.d", 0o750, None)?;
    context.system.write(RULES, text, FileOptions::mode(0o440).durable())?;
    Ok(())
}

fn check(context: &Context, rules: &str) -> Result<(), Failure> {
    let visudo = context.command("visudo").args(["-c", "-f", "-"]).input(rules);
    match context.run(&visudo) {
        Ok(done) if done.success() => Ok(()),
        Ok(done) => {
            let said = done.last_lines(10).into_iter().next().unwrap_or_else(|| done.ending());
            let said = said.trim_start_matches(">>> ").trim_end_matches(" <<<").to_owned();
            let message = format!("visudo refuses its sudo rules, so they are not installed: {said}");
            Err(Failure::new(Reason::Config, message))
        }
        Err(RunError::Missing(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a name means itself in a file of sudo: no `%group`, no `#id`, no alias in capitals.
fn is_plain(user: &str) -> bool {
    user.starts_with(|c: char| c.is_ascii_lowercase())
        && user.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

/// The file with the rules of one user replaced: a comment, and after a blank line a block for each user.
fn with_rules(old: &str, user: &str, rules: &[&str]) -> String {
    let heading = format!("# User rules for {user}");
    let rules: Vec<String> = rules.iter().map(|rule| format!("{user} {rule}")).collect();
    let is_own = |line: &&str| line.split_whitespace().next() == Some(user);
    if old.lines().filter(is_own).eq(rules.iter()) {
        return old.to_owned();
    }
    let first = if old.is_empty() { "# Written by kiln-agent from the user-data." } else { "" };
    let others = old.lines().filter(|line| !is_own(line) && *line != heading && !line.is_empty());
    let own = [heading.as_str()].into_iter().chain(rules.iter().map(String::as_str));
    let own = own.take(if rules.is_empty() { 0 } else { usize::MAX });
    let mut text = String::new();
    for line in [first].into_iter().filter(|line| !line.is_empty()).chain(others).chain(own) {
        let gap = if line.starts_with("# User rules for ") { "\n" } else { "" };
        text.extend([gap, line, "\n"]);
    }
    text
}

/// Some images have a sudoers file that includes nothing.
fn include(context: &Context) -> Result<(), Failure> {
    let Ok(text) = context.system.read_text(SUDOERS) else {
        return Ok(());
    };
    let includes = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], ["@includedir" | "#includedir", "/etc/sudoers.d" | "/etc/sudoers.d/"])
    };
    if text.lines().any(includes) {
        return Ok(());
    }
    let text = format!("{}\n#includedir /etc/sudoers.d\n", text.trim_end_matches('\n'));
    let options = FileOptions::default().durable();
    Ok(context.system.write(SUDOERS, text, options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_one_user_are_replaced_and_those_of_others_stay() {
        let first = with_rules("", "bob", &["ALL=(ALL) ALL"]);
        assert_eq!(first, "# Written by kiln-agent from the user-data.\n\n# User rules for bob\nbob ALL=(ALL) ALL\n");
        let second = with_rules(&first, "bobby", &["ALL=NOPASSWD: /bin/ls", "ALL=/bin/id"]);
        let end = "bob ALL=(ALL) ALL\n\n# User rules for bobby\nbobby ALL=NOPASSWD: /bin/ls\nbobby ALL=/bin/id\n";
        assert!(second.ends_with(end), "{second}");
        assert_eq!(with_rules(&second, "bob", &["ALL=(ALL) ALL"]), second);
        assert_eq!(with_rules(&second, "bobby", &[]), first);
        assert_eq!(with_rules("", "bob", &[]), "");
        assert_eq!(with_rules(&first, "bob", &["ALL=(ALL) ALL"]), first);
    }

    #[test]
    fn without_visudo_the_rules_are_written_and_included_for_root_alone() {
        use std::os::unix::fs::PermissionsExt;
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = crate::testing::machine(tree.path(), &[], "{}") else { return };
        context.system.write(SUDOERS, "root ALL=(ALL) ALL", FileOptions::mode(0o440)).unwrap();
        for _ in 0..2 {
            set(&context, "bob", &["ALL=(ALL) NOPASSWD:ALL"]).unwrap();
        }
        let sudoers = context.system.read_text(SUDOERS).unwrap();
        assert_eq!(sudoers, "root ALL=(ALL) ALL\n#includedir /etc/sudoers.d\n");
        assert_eq!(context.system.metadata(RULES).unwrap().permissions().mode() & 0o7777, 0o440);
    }

    #[test]
    fn rules_that_visudo_refuses_are_not_installed_and_the_good_ones_stay() {
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = crate::testing::machine(tree.path(), &["/usr/sbin/visudo"], "{}") else { return };
        set(&context, "bob", &["ALL=(ALL) NOPASSWD:ALL"]).unwrap();
        let good = context.system.read_text(RULES).unwrap();
        let failure = set(&context, "eve", &["ALL=(ALL NOPASSWD"]).unwrap_err();
        assert_eq!(failure.reason, Reason::Config);
        assert!(failure.message.starts_with("visudo refuses its sudo rules, so they are not installed: stdin:7:"));
        assert_eq!(context.system.read_text(RULES).unwrap(), good);
    }

    #[test]
    fn a_name_that_means_more_than_itself_is_never_taken_unchecked() {
        for name in ["%wheel", "#1000", "ALL", "Admin", "a b", "a=b", "", "-x", "a,b"] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(["admin", "ec2-user", "user_1"].into_iter().all(is_plain));
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = crate::testing::machine(tree.path(), &["/usr/sbin/visudo"], "{}") else { return };
        // What is not checked would pass.
        check(&context, &with_rules("", "ec2-user", &[EVERYTHING])).unwrap();
    }
}
