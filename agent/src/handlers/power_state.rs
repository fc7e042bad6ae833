//! Taking the machine down when the boot has ended. The status tells before it happens, and the agent
//! does it as its very last act, so that nothing is cut short.

use std::borrow::Cow;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{PlannedShutdown, Reason, Stage};
use kiln_schema::yaml::{self, Argv, Node, scalar};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use serde_json::json;

use super::edit::command_of;
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::report::LastAct;
use crate::system::{Command, now};

/// The command that cancels a shutdown that has a delay.
const CANCEL: &str = "shutdown -c";
/// Setting up a shutdown is one message to systemd.
const SHUTDOWN_TIME: Duration = Duration::from_secs(10);

/// Takes the machine down.
pub struct PowerState;

/// Keys of the end of the boot.
#[derive(Default, serde::Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// What becomes of the machine when the boot has ended.
    power_state: Option<Keys>,
}

/// What becomes of the machine.
#[derive(serde::Deserialize, JsonSchema)]
pub struct Keys {
    /// How it goes down.
    mode: Mode,
    /// `now`, or minutes to wait: `+5` or 5.
    #[serde(default)]
    delay: Delay,
    /// What everybody who is logged in is told.
    message: Option<String>,
    /// Seconds that cloud-init gives its own end. This agent needs none: it goes down when all is told.
    #[serde(default)]
    #[expect(dead_code, reason = "it is checked and known, and there is nothing to wait for")]
    timeout: Option<u64>,
    /// Only if this is true: true, false, or a command that must exit 0.
    #[serde(default)]
    condition: Condition,
}

/// How the machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Off.
    Poweroff,
    /// And up again.
    Reboot,
    /// Stopped, with its power on.
    Halt,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Poweroff => "poweroff",
            Mode::Reboot => "reboot",
            Mode::Halt => "halt",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Mode::Poweroff => "-P",
            Mode::Reboot => "-r",
            Mode::Halt => "-H",
        }
    }
}

/// Minutes from the end of the boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Delay(u32);

impl<'de> Deserialize<'de> for Delay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word: String = yaml::tolerant(deserializer)?;
        let digits = word.strip_prefix('+').unwrap_or(&word);
        let minutes = if word == "now" { Some(0) } else { digits.parse().ok() };
        // A `+` twice is none.
        let minutes = minutes.filter(|_| !digits.starts_with('+'));
        minutes.map(Delay).ok_or_else(|| de::Error::custom("expected `now` or a number of minutes such as `+5`"))
    }
}

impl JsonSchema for Delay {
    fn schema_name() -> Cow<'static, str> {
        "Delay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "`now` or minutes", "type": ["string", "integer"], "pattern": "^(now|\\+?[0-9]+)$"})
    }
}

/// Whether the machine is to go down.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// It is, or not.
    Is(bool),
    /// It is if this command exits 0.
    Command(Argv),
}

impl Default for Condition {
    fn default() -> Self {
        Condition::Is(true)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let command: Argv = yaml::tolerant(deserializer)?;
        let truth = match &command {
            Argv::Shell(line) => scalar::boolean(line),
            Argv::Words(_) => None,
        };
        Ok(truth.map_or(Condition::Command(command), Condition::Is))
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "true, false, or a command", "type": ["boolean", "string", "array"], "items": {"type": "string"}})
    }
}

impl Handler for PowerState {
    const NAME: &'static str = "power_state";
    const SUMMARY: &'static str = "Takes the machine down when the boot has ended";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TELLS: bool = true;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let condition = config.get("power_state").and_then(|keys| keys.get("condition"));
        let number = condition.filter(|node| node.to_json().is_number());
        let message = "a number, which is run as a command; write true, false or a command";
        let finding = number.map(|node| node.diagnostic(Severity::Warning, "power_state.condition", message));
        finding.into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let skip = |reason, message: String| Ok(Outcome::Skipped(reason, message));
        let Some(keys) = &config.power_state else {
            return skip(Reason::NothingToDo, "power_state has no keys".to_owned());
        };
        if context.is_baking() {
            return skip(Reason::SwitchedOff, "an image is being baked".to_owned());
        }
        if let Some(why) = unmet(&keys.condition, context)? {
            return skip(Reason::SwitchedOff, why);
        }
        if let Some(other) = context.status_so_far().planned_shutdown {
            return skip(Reason::SwitchedOff, format!("there is a planned shutdown already: {}", other.because));
        }
        if !context.system.is_live() {
            return skip(Reason::SwitchedOff, "a tree in a folder cannot be taken down".to_owned());
        }
        let plan = plan(keys, now());
        let detail = json!({"mode": plan.action, "at": plan.at});
        context.plan_shutdown(plan)?;
        context.do_last(LastAct { handler: Self::NAME, command: command(keys) });
        Ok(Outcome::Ok(Some(detail)))
    }
}

/// Why the condition is not met.
fn unmet(condition: &Condition, context: &Context) -> Result<Option<String>, Failure> {
    let command = match condition {
        Condition::Is(true) => return Ok(None),
        Condition::Is(false) => return Ok(Some("power_state.condition is false".to_owned())),
        Condition::Command(argv) => command_of(context, argv),
    };
    let finished = context.run(&command).map_err(|error| Failure::from(error).under("power_state.condition"))?;
    Ok((!finished.success()).then(|| format!("power_state.condition {}", finished.ending())))
}

fn plan(keys: &Keys, now: Timestamp) -> PlannedShutdown {
    let delay = SignedDuration::from_secs(i64::from(keys.delay.0) * 60);
    let cancel = if keys.delay.0 == 0 { "none: it happens when the boot has ended" } else { CANCEL };
    PlannedShutdown {
        action: keys.mode.name().to_owned(),
        at: now.checked_add(delay).unwrap_or(now).to_string(),
        because: "power_state: the user-data asks for it".to_owned(),
        cancel: cancel.to_owned(),
    }
}

fn command(keys: &Keys) -> Command {
    let when = if keys.delay.0 == 0 { "now".to_owned() } else { format!("+{}", keys.delay.0) };
    let command = Command::new("shutdown", SHUTDOWN_TIME).args([keys.mode.option().to_owned(), when]);
    command.args(keys.message.iter().filter(|message| !message.is_empty()).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::read_keys;

    fn read(user_data: &str) -> (Option<Keys>, Vec<String>) {
        let (node, _) = yaml::parse("user-data", user_data).unwrap();
        let checked = read_keys::<Config>(&node);
        let messages = checked.diagnostics.iter().map(|d| format!("{}: {}", d.path, d.message)).collect();
        (checked.value.and_then(|config| config.power_state), messages)
    }

    #[test]
    fn keys_are_read_as_cloud_init_has_them() {
        for (keys, mode, delay, condition) in [
            ("mode: reboot", Mode::Reboot, 0, Condition::Is(true)),
            ("mode: poweroff, delay: now", Mode::Poweroff, 0, Condition::Is(true)),
            ("mode: halt, delay: '+30', condition: no, timeout: 30", Mode::Halt, 30, Condition::Is(false)),
            ("mode: halt, delay: +5", Mode::Halt, 5, Condition::Is(true)),
            ("mode: reboot, delay: 7, condition: test -f /x", Mode::Reboot, 7, {
                Condition::Command(Argv::Shell("test -f /x".to_owned()))
            }),
            ("mode: reboot, condition: [test, -f, /x]", Mode::Reboot, 0, {
                Condition::Command(Argv::Words(["test", "-f", "/x"].map(str::to_owned).to_vec()))
            }),
        ] {
            let (read, messages) = read(&format!("power_state: {{{keys}}}"));
            let read = read.unwrap_or_else(|| panic!("{keys}: {messages:?}"));
            assert_eq!((read.mode, read.delay, read.condition), (mode, Delay(delay), condition), "{keys}");
            assert!(messages.is_empty(), "{messages:?}");
        }
    }

    #[test]
    fn bad_values_are_told_at_their_place() {
        for (keys, told) in [
            ("mode: sleep", "power_state.mode: "),
            ("delay: now", "power_state: the key `mode` is missing"),
            ("mode: reboot, delay: soon", "power_state.delay: expected `now` or a number of minutes such as `+5`"),
            ("mode: reboot, delay: -5", "power_state.delay: expected"),
            ("mode: reboot, delay: ++5", "power_state.delay: expected"),
            ("mode: reboot, condition: {a: b}", "power_state.condition: expected"),
            ("mode: reboot, when: now", "power_state.when: unknown key"),
        ] {
            let (_, messages) = read(&format!("power_state: {{{keys}}}"));
            assert!(messages.iter().any(|message| message.starts_with(told)), "{keys}: {messages:?}");
        }
    }

    #[test]
    fn the_plan_tells_what_when_and_how_to_cancel() {
        let keys = read("power_state: {mode: reboot, delay: 2, message: Bye}").0.unwrap();
        let plan = plan(&keys, "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(
            (plan.action.as_str(), plan.at.as_str(), plan.cancel.as_str()),
            ("reboot", "2026-01-01T00:02:00Z", CANCEL)
        );
        assert_eq!(command(&keys).program(), "shutdown");
    }

    #[test]
    fn a_tree_a_bake_and_an_unmet_condition_take_nothing_down() {
        for (user_data, why) in [
            ("power_state: {mode: reboot}", "a tree in a folder"),
            ("{power_state: {mode: reboot}, kiln: {baking: true}}", "baked"),
            ("power_state: {mode: reboot, condition: false}", "condition is false"),
            ("power_state:", "has no keys"),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let mut context = Context::for_test(tree.path(), user_data);
            let Ok(Outcome::Skipped(_, message)) = context.run_handler::<PowerState>() else { panic!("{user_data}") };
            assert!(message.contains(why), "{message}");
            assert_eq!(context.status_so_far().planned_shutdown, None);
        }
    }

    #[test]
    fn a_condition_is_a_command_that_must_exit_0() {
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = crate::testing::machine(tree.path(), &["/bin/sh", "/usr/bin/test"], "{}") else { return };
        let words = |words: &[&str]| Condition::Command(Argv::Words(words.iter().map(|w| (*w).to_owned()).collect()));
        let line = |line: &str| Condition::Command(Argv::Shell(line.to_owned()));
        assert_eq!(unmet(&line("exit 0"), &context).unwrap(), None);
        assert_eq!(unmet(&line("exit 3"), &context).unwrap().unwrap(), "power_state.condition exited 3");
        assert_eq!(unmet(&words(&["test", "-d", "/etc"]), &context).unwrap(), None);
        assert!(unmet(&words(&["test", "-d", "/not-there"]), &context).unwrap().is_some());
        let failure = unmet(&words(&["no-such-program"]), &context).unwrap_err();
        assert_eq!(failure.message, "power_state.condition: no-such-program is not installed");
    }

    #[test]
    fn a_shutdown_that_is_planned_already_stays_alone() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "power_state: {mode: reboot}");
        let first = plan(&read("power_state: {mode: poweroff}").0.unwrap(), now());
        context.plan_shutdown(first.clone()).unwrap();
        let Ok(Outcome::Skipped(_, message)) = context.run_handler::<PowerState>() else { panic!() };
        assert!(message.starts_with("there is a planned shutdown already"), "{message}");
        assert_eq!(context.status_so_far().planned_shutdown, Some(first));
    }
}
