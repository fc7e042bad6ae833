//! Rules for doas, the smaller sudo. Its one file is the administrator's, so lines are only added to it.

use kiln_schema::status::Reason;

use crate::context::Context;
use crate::handlers::Failure;
use crate::system::FileOptions;

/// doas has no folder of drop-ins.
const RULES: &str = "/etc/doas.conf";

/// Adds those rules of a user that are not there yet.
///
/// # Errors
/// The rule that does not speak of the user: none is written then, as one without a name lets everybody in.
pub fn add(context: &Context, user: &str, rules: &[String]) -> Result<(), Failure> {
    let lines = rules.iter().flat_map(|rule| rule.lines()).map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    if let Some(wrong) = lines.iter().position(|line| !is_rule_of(line, user)) {
        let message =
            format!("doas[{wrong}] is no rule for this user, so none is written; write `permit nopass {user}` or such");
        return Err(Failure::new(Reason::Config, message));
    }
    let old = match context.system.read_text(RULES) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let missing: Vec<&str> = lines.into_iter().filter(|line| !old.lines().any(|there| there.trim() == *line)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut text = old.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("# Rules of {user}, by kiln-agent.\n{}\n", missing.join("\n")));
    let options = if old.is_empty() { FileOptions::mode(0o440) } else { FileOptions::default() };
    Ok(context.system.write(RULES, text, options.durable())?)
}

/// `permit OPTIONS USER …` or `deny USER …`.
fn is_rule_of(line: &str, user: &str) -> bool {
    let mut words = line.split_whitespace();
    matches!(words.next(), Some("permit" | "deny"))
        && words.take_while(|w| !matches!(*w, "as" | "cmd")).any(|w| w == user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn rules_are_added_once_and_the_administrators_stay() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "{}");
        let rules = ["permit nopass bob\ndeny bob cmd reboot".to_owned()];
        for _ in 0..2 {
            add(&context, "bob", &rules).unwrap();
        }
        let first = "# Rules of bob, by kiln-agent.\npermit nopass bob\ndeny bob cmd reboot\n";
        assert_eq!(context.system.read_text(RULES).unwrap(), first);
        assert_eq!(context.system.metadata(RULES).unwrap().permissions().mode() & 0o7777, 0o440);
        add(&context, "joe", &["permit joe".to_owned()]).unwrap();
        let text = context.system.read_text(RULES).unwrap();
        assert_eq!(text, format!("{first}# Rules of joe, by kiln-agent.\npermit joe\n"));
    }

    #[test]
    fn a_rule_that_does_not_name_the_user_writes_none() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "{}");
        for rule in ["permit nopass", "permit bobby", "permit joe as bob", "allow bob", "permit joe cmd bob"] {
            let failure = add(&context, "bob", &["permit bob".to_owned(), rule.to_owned()]).unwrap_err();
            assert!(failure.message.starts_with("doas[1] is no rule"), "{rule}: {}", failure.message);
            assert!(!context.system.exists(RULES), "{rule}");
        }
    }
}
