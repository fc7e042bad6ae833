//! Byobu at login.

use std::time::Duration;

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::Node;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::must;
use super::tools::{Steps, command_as, run_to_end};
use super::{Failure, Frequency, Handled, Handler, Outcome, check, packages, users};
use crate::context::Context;

/// What the key may say.
const WORDS: &[&str] =
    &["enable-system", "enable-user", "disable-system", "disable-user", "enable", "disable", "user", "system"];

/// Has logins begin with byobu, or not.
pub struct Byobu;

/// Keys of byobu.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Whether logins begin with byobu: `enable-system` (or `system`), `enable-user` (`user`: the default user),
    /// `enable` for both; `disable-system`, `disable-user`, `disable`.
    byobu_by_default: Option<String>,
}

impl Handler for Byobu {
    const NAME: &'static str = "byobu";
    const SUMMARY: &'static str = "Has logins begin with byobu, or not";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(900);
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        check::words(config, "byobu_by_default", WORDS)
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let skipped = |reason, why: &str| Ok(Outcome::Skipped(reason, why.to_owned()));
        let word = config.byobu_by_default.as_deref().unwrap_or_default().trim();
        if word.is_empty() {
            return skipped(Reason::NothingToDo, "byobu_by_default says nothing");
        }
        if !WORDS.contains(&word) {
            let message = format!("byobu_by_default: the word is none of {}", WORDS.join(", "));
            return Err(Failure::new(Reason::Config, message));
        }
        if context.system.distro().is_red_hat() {
            return skipped(Reason::Unsupported, "only Debian's byobu has a default for all logins");
        }
        let enable = !word.starts_with("disable");
        let mut steps = Steps::of("byobu_by_default");
        if !context.system.has_program("byobu-launcher-install") {
            if !enable {
                return skipped(Reason::NothingToDo, "byobu is not installed");
            }
            if !steps.add("", packages::ensure(context, &["byobu"])) {
                return steps.finish(json!({}));
            }
        }
        let (user, all) = (!word.ends_with("system"), !word.ends_with("user"));
        if user {
            steps.add("", of_user(enable, context));
        }
        if all {
            steps.add("", of_all(enable, context));
        }
        steps.finish(json!({"enabled": enable, "user": user, "system": all}))
    }
}

fn of_user(enable: bool, context: &Context) -> Result<(), Failure> {
    let Some(name) = users::default_name(context) else {
        return Err(Failure::new(Reason::Config, "there is no default user; say `system`, or let `users` have one"));
    };
    let program = if enable { "byobu-launcher-install" } else { "byobu-launcher-uninstall" };
    run_to_end(context, program, &command_as(context, Some(&name), program)?)
}

fn of_all(enable: bool, context: &Context) -> Result<(), Failure> {
    let advice = "install debconf into the image";
    let answer = format!("byobu byobu/launch-by-default boolean {enable}\n");
    must(context, &context.command("debconf-set-selections").input(answer), advice)?;
    let command = context.command("dpkg-reconfigure").args(["--frontend=noninteractive", "byobu"]);
    must(context, &command, advice).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;
    use crate::testing;

    fn machine(tree: &std::path::Path, user_data: &str) -> Option<Context> {
        let context = testing::machine(tree, &["/usr/bin/dash", "/usr/bin/cat"], user_data)?;
        let passwd = "root:x:0:0:root:/root:/bin/sh\nadmin:x:1000:1000::/home/admin:/bin/sh\n";
        context.system.write("/etc/passwd", passwd, FileOptions::default()).unwrap();
        for (name, script) in [
            ("byobu-launcher-install", ""),
            ("runuser", "echo \"$HOME $*\" >> /said"),
            ("debconf-set-selections", "cat >> /said"),
            ("dpkg-reconfigure", "echo \"$@\" >> /said"),
        ] {
            let script = format!("#!/usr/bin/dash\n{script}\n");
            testing::executable(&context.system, format!("/usr/bin/{name}"), script);
        }
        Some(context)
    }

    #[test]
    fn every_word_does_what_it_says_and_no_more() {
        let user = |verb: &str| format!("/home/admin -u admin -- byobu-launcher-{verb}\n");
        let all =
            |truth: bool| format!("byobu byobu/launch-by-default boolean {truth}\n--frontend=noninteractive byobu\n");
        for (word, said) in [
            ("enable-user", user("install")),
            ("user", user("install")),
            ("system", all(true)),
            ("enable-system", all(true)),
            ("enable", user("install") + &all(true)),
            ("disable-user", user("uninstall")),
            ("disable-system", all(false)),
            ("disable", user("uninstall") + &all(false)),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let Some(mut context) = machine(tree.path(), &format!("byobu_by_default: {word}")) else { return };
            let outcome = context.run_handler::<Byobu>();
            assert!(matches!(outcome, Ok(Outcome::Ok(_))), "{word}: {outcome:?}");
            assert_eq!(context.system.read_text("/said").unwrap(), said, "{word}");
        }
    }

    #[test]
    fn a_failure_of_the_user_does_not_stop_the_system() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = machine(tree.path(), "byobu_by_default: enable") else { return };
        let script = "#!/usr/bin/dash\necho no home >&2; exit 3\n";
        testing::executable(&context.system, "/usr/bin/runuser", script);
        let failure = context.run_handler::<Byobu>().unwrap_err();
        assert_eq!(failure.message, "byobu_by_default: byobu-launcher-install exited 3: no home");
        assert!(context.system.read_text("/said").unwrap().contains("boolean true"));
    }

    #[test]
    fn another_word_is_told_and_what_is_not_there_needs_no_switching_off() {
        let run = |user_data: &str, distro: &str| {
            let tree = tempfile::tempdir().unwrap();
            let mut context = Context::for_test(tree.path(), user_data);
            context.system.write("/etc/os-release", distro, FileOptions::default()).unwrap();
            context.run_handler::<Byobu>()
        };
        let failure = run("byobu_by_default: enabled", "ID=debian").unwrap_err();
        assert!(failure.message.starts_with("byobu_by_default: the word is none of enable-system"));
        let failure = run("byobu_by_default: enable", "ID=debian").unwrap_err();
        assert!(failure.message.contains("put byobu into the image"), "{}", failure.message);
        for (user_data, distro, reason) in [
            ("byobu_by_default: disable", "ID=debian", Reason::NothingToDo),
            ("byobu_by_default: enable", "ID=fedora", Reason::Unsupported),
            ("byobu_by_default:", "ID=debian", Reason::NothingToDo),
        ] {
            assert!(matches!(run(user_data, distro), Ok(Outcome::Skipped(why, _)) if why == reason), "{user_data}");
        }
    }
}
