//! Commands of the user-data, in order, in one shell.

use std::time::Duration;

use kiln_schema::paths;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Argv, Each, Maybe, Node};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::commands::{self, Ran};
use super::{Frequency, Handled, Handler, Outcome, items};
use crate::context::Context;
use crate::system::{Finished, shell_quote};

/// Runs `runcmd`.
pub struct Runcmd;

/// Commands.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Commands that run once, in order, in one shell: a line for `/bin/sh`, or a list of a program and its
    /// arguments. A command that fails does not stop the later ones.
    // The tree is read item by item, for the place of each; this checks it and documents it.
    runcmd: Each<Maybe<Argv>>,
}

impl Handler for Runcmd {
    const NAME: &'static str = "runcmd";
    const SUMMARY: &'static str = "Runs commands once, in one shell, tells how each ended";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    /// They may install and build; the stage's own deadline is the bound.
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Config = Config;

    fn run(_: &Config, context: &mut Context) -> Handled {
        run_list(context, "runcmd", items(&context.config, "runcmd"))
    }
}

/// A command that can run.
struct Command {
    /// From 1, in the user's list.
    number: usize,
    line: usize,
    program: Option<String>,
    text: String,
}

impl Command {
    fn label(&self) -> String {
        let place = if self.line > 0 { format!("line {}", self.line) } else { String::new() };
        let program = self.program.as_ref().map_or(String::new(), |program| format!("`{program}`"));
        let told: Vec<String> = [program, place].into_iter().filter(|part| !part.is_empty()).collect();
        format!("command {} ({})", self.number, told.join(", "))
    }
}

/// Runs the commands of a list in one shell.
pub(super) fn run_list(context: &Context, name: &str, items: &[Node]) -> Handled {
    run_in(context, &format!("{}/{name}", paths::RUN), name, items)
}

fn run_in(context: &Context, folder: &str, name: &str, items: &[Node]) -> Handled {
    let (commands, unusable) = read(name, items);
    if commands.is_empty() && unusable.is_empty() {
        return Ok(Outcome::Skipped(Reason::NothingToDo, "the list is empty".to_owned()));
    }
    let texts: Vec<_> = commands.iter().map(|c| (format!("command-{}", c.number), c.text.clone())).collect();
    let shell = context.shown(context.command("/bin/sh")).env("INSTANCE_ID", context.instance.id.clone());
    let (steps, shell) = context.system.run_steps(shell, folder, &texts)?;
    let mut endings: Vec<_> = steps.into_iter().map(|step| Ok(without_files(step, folder))).collect();
    if endings.len() < commands.len() {
        endings.push(shell.map(|shell| without_files(shell, folder)));
    }
    let not_run = commands.len() - endings.len();
    let ran = commands.iter().zip(endings).map(|(command, ending)| Ran {
        label: command.label(),
        detail: json!({"number": command.number, "program": command.program, "line": command.line}),
        ending,
    });
    commands::outcome("commands", ran.collect(), unusable, not_run)
}

/// Takes the shell's files out of its messages: `command-2: not found` says enough.
fn without_files(finished: Finished, folder: &str) -> Finished {
    let clean = |line: &str| match line.strip_prefix(&format!("{folder}/list: ")) {
        Some(rest) => rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':' || c == ' ').to_owned(),
        None => line.to_owned(),
    };
    let text = String::from_utf8_lossy(&finished.stderr);
    let lines: Vec<String> = text.lines().map(|line| clean(line).replace(&format!("{folder}/"), "")).collect();
    Finished { stderr: lines.join("\n").into_bytes(), ..finished }
}

/// The commands, and a sentence for each that cannot be read.
fn read(name: &str, items: &[Node]) -> (Vec<Command>, Vec<String>) {
    let (mut commands, mut unusable) = (Vec::new(), Vec::new());
    for (index, item) in items.iter().enumerate() {
        let checked = yaml::read::<Option<Argv>>(item, &format!("{name}[{index}]"));
        unusable.extend(
            checked
                .diagnostics
                .iter()
                .map(|d| format!("command {} (line {}): {}", index + 1, item.place.line, d.message)),
        );
        let Some(Some(argv)) = checked.value else { continue };
        let (program, text) = match argv {
            Argv::Shell(line) => (commands::program(&line).map(str::to_owned), line),
            Argv::Words(words) => {
                let quoted: Vec<String> = words.iter().map(|word| shell_quote(word)).collect();
                (words.first().and_then(|word| commands::program(word)).map(str::to_owned), quoted.join(" "))
            }
        };
        commands.push(Command { number: index + 1, line: item.place.line, program, text });
    }
    (commands, unusable)
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::super::Failure;
    use super::*;
    use crate::system::System;

    fn run(user_data: &str) -> Result<Json, Failure> {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        // The commands need a machine with a shell; they touch nothing of it.
        context.system = System::new("/");
        let folder = tree.path().join("commands");
        match run_in(&context, folder.to_str().unwrap(), "runcmd", items(&context.config, "runcmd"))? {
            Outcome::Ok(detail) => Ok(detail.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_list_is_words_and_a_line_is_for_the_shell() {
        let detail =
            run("runcmd:\n- [sh, -c, 'test \"$1\" = \"a  b\"', sh, 'a  b']\n- X=1; test $X = 1\n- ~\n- cd /\n");
        let codes: Vec<_> =
            detail.unwrap()["commands"].as_array().unwrap().iter().map(|c| c["exit_code"].clone()).collect();
        assert_eq!(codes, [0, 0, 0]);
    }

    #[test]
    fn a_failure_between_successes_is_told_with_its_place_and_cause() {
        let failure = run("runcmd:\n- true\n- ls /no/such/folder\n- true\n").unwrap_err();
        assert_eq!(failure.reason, Reason::CommandFailed);
        assert!(failure.message.starts_with("command 2 (`ls`, line 3) exited 2: ls: "), "{}", failure.message);
        let commands = &failure.detail.unwrap()["commands"];
        assert_eq!(commands[2]["exit_code"], 0);
        assert_eq!(commands[1]["last_lines"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_follows_the_end_of_the_shell_is_told_as_not_run() {
        let failure = run("runcmd: [set -e, 'false', 'true', 'true']").unwrap_err();
        let message = "command 2 (`false`, line 1) exited 1; it ended the list, so 2 more did not run";
        assert_eq!(failure.message, message);
        assert_eq!(run("runcmd: [exit 0, 'true']").unwrap()["not_run"], 1);
    }

    #[test]
    fn arguments_and_output_of_successes_stay_out_of_the_status() {
        let secret =
            "runcmd:\n- set -x\n- PASSWORD=hunter2 sh -c 'echo $PASSWORD'\n- [sh, -c, 'exit 3', hunter2]\n- set +x\n";
        let failure = run(secret).unwrap_err();
        assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
    }

    #[test]
    fn several_failures_are_counted_and_a_signal_is_named() {
        let failure = run("runcmd: [\"sh -c 'kill -9 $$'\", 'false']").unwrap_err();
        assert!(
            failure
                .message
                .starts_with("2 of 2 commands failed, the first: command 1 (`sh`, line 1) exited 137 (SIGKILL)"),
            "{}",
            failure.message
        );
    }
}
