//! Rules for doas, the smaller sudo. Its one file is the administrator's, so lines are only added to it.

use kiln_schema::status::Reason;

use crate::context::Context;
use crate::handlers::Failure;
use crate::system::FileOptions;

/// doas has no folder of drop-ins.
const RULES: &str = "/etc/doas.conf";
/// The file as it would be, which doas is asked about: it reads none from its input.
const NEW_RULES: &str = "/run/kiln/doas.conf";

/// Adds those rules of a user that are not there yet.
///
/// # Errors
/// The rule that does not speak of the user: none is written then, as one without a name lets everybody in.
/// What doas says of rules that it refuses.
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
    check(context, &text)?;
    let options = if old.is_empty() { FileOptions::mode(0o440) } else { FileOptions::default() };
    Ok(context.system.write(RULES, text, options.durable())?)
}

/// One bad line would make doas refuse everybody. Without doas the file is written unchecked.
fn check(context: &Context, rules: &str) -> Result<(), Failure> {
    if !context.system.has_program("doas") {
        return Ok(());
    }
    context.system.write(NEW_RULES, rules, FileOptions::mode(0o400))?;
    let checked = context.run(&context.command("doas").args(["-C", NEW_RULES]));
    context.system.remove(NEW_RULES)?;
    let finished = checked?;
    if finished.success() {
        return Ok(());
    }
    let said = finished.last_lines(1).pop().unwrap_or_else(|| finished.ending());
    let message = format!("doas refuses its rules, so they are not installed: {}", said.trim());
    Err(Failure::new(Reason::Config, message))
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

    #[test]
    fn rules_that_doas_refuses_are_not_installed() {
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = crate::testing::machine(tree.path(), &["/usr/bin/dash"], "{}") else { return };
        // It reads the whole new file, and refuses it as doas does: with the line on standard error.
        let script = "#!/usr/bin/dash\n[ \"$1\" = -C ] || exit 9\nn=0\nwhile read -r line; do n=$((n+1))\n\
            case $line in *nopas\\ *) echo \"doas: syntax error at line $n\" >&2; exit 1;; esac; done < \"$2\"\n";
        crate::testing::executable(&context.system, "/usr/bin/doas", script);
        add(&context, "bob", &["permit nopass bob".to_owned()]).unwrap();
        let good = context.system.read_text(RULES).unwrap();
        let failure = add(&context, "eve", &["permit nopas eve".to_owned()]).unwrap_err();
        assert_eq!(failure.reason, Reason::Config);
        let sentence = "doas refuses its rules, so they are not installed: doas: ";
        assert!(
            failure.message.starts_with(sentence) && failure.message.ends_with("doas: syntax error at line 4"),
            "{failure:?}"
        );
        assert_eq!(context.system.read_text(RULES).unwrap(), good);
        assert_eq!(context.system.list("/run/kiln").unwrap(), [""; 0]);
    }
}
