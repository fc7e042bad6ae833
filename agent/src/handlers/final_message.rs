//! A last word of the user's own, on the console and in the log.

use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::system::now;
use crate::template;

/// The first line of a template in cloud-init's documents.
const HEADER: &str = "## template:";
/// What cloud-init fills in, in small letters and in capitals.
const NAMES: [&str; 4] = ["version", "timestamp", "datasource", "uptime"];

/// Shows the message.
pub struct FinalMessage;

/// Keys of the last word.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Shown at the end of every boot. `$uptime`, `$version`, `$timestamp` and `$datasource`, also in
    /// capitals, are filled in; with `{{ }}` in it, it is a template.
    final_message: Option<String>,
}

impl Handler for FinalMessage {
    const NAME: &'static str = "final_message";
    const SUMMARY: &'static str = "Shows a last word on the console and in the log";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Boot;
    const TELLS: bool = true;
    type Config = Config;

    fn best_effort(_: &Config) -> bool {
        true
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let Some(message) = config.final_message.as_deref().filter(|text| !text.trim().is_empty()) else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "final_message is empty".to_owned()));
        };
        let text = render(message, &values(context), context)?;
        let text = text.trim_end();
        tracing::info!("{text}");
        let console = context.system.has_console();
        if console {
            context.system.print_to_console(&format!("{text}\n"))?;
        }
        Ok(Outcome::Ok(Some(json!({"console": console}))))
    }
}

/// The values of [`NAMES`].
fn values(context: &Context) -> [String; 4] {
    let uptime = context.system.read_text("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split_whitespace().next().unwrap_or("na").to_owned();
    let timestamp = now().strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
    [env!("CARGO_PKG_VERSION").to_owned(), timestamp, context.instance.source.clone(), uptime]
}

fn render(message: &str, values: &[String; 4], context: &Context) -> Result<String, Failure> {
    let (header, body) = match message.trim_start().split_once('\n') {
        Some((first, rest)) if first.starts_with(HEADER) => (Some(first), rest),
        _ => (None, message),
    };
    // cloud-init's own default message is a template without its header in many documents.
    let braces = body.contains("{{") || body.contains("{%");
    if !header.map_or(braces, |header| header.contains("jinja")) {
        return Ok(fill(body, values));
    }
    let mut variables = template::variables(context);
    if let Json::Object(variables) = &mut variables {
        for (name, value) in NAMES.iter().zip(values) {
            variables.insert((*name).to_owned(), json!(value));
            variables.insert(name.to_uppercase(), json!(value));
        }
    }
    template::render("final_message", body, &variables).map_err(|why| Failure::new(Reason::Template, why))
}

/// `$NAME` and `${NAME}` of the known names; any other `$` stays.
fn fill(text: &str, values: &[String; 4]) -> String {
    let value =
        |word: &str| NAMES.iter().position(|name| *name == word || name.to_uppercase() == word).map(|at| &values[at]);
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        filled.push_str(before);
        let (word, after) = match behind.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => {
                behind.split_at(behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(behind.len()))
            }
        };
        match value(word) {
            Some(value) => {
                filled.push_str(value);
                rest = after;
            }
            None => {
                filled.push('$');
                rest = behind;
            }
        }
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    const VALUES: [&str; 4] = ["1.2", "Mon, 23 Nov 2026 10:23:23 +0000", "ec2", "12.34"];

    fn rendered(message: &str) -> Result<String, String> {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "role: web");
        render(message, &VALUES.map(str::to_owned), &context).map_err(|failure| failure.message)
    }

    #[test]
    fn names_are_filled_in_both_ways_of_writing() {
        for (message, text) in [
            ("up $UPTIME s, $version", "up 12.34 s, 1.2"),
            ("${datasource}${datasource}x $datasources", "ec2ec2x $datasources"),
            ("costs $5, ${HOME} ${uptime", "costs $5, ${HOME} ${uptime"),
            ("v {{version}} at {{ timestamp }}", "v 1.2 at Mon, 23 Nov 2026 10:23:23 +0000"),
            ("## template: jinja\nup {{ UPTIME }} as {{ role }} $uptime", "up 12.34 as web $uptime"),
            ("$", "$"),
        ] {
            assert_eq!(rendered(message).unwrap(), text, "{message}");
        }
    }

    #[test]
    fn a_template_that_cannot_be_rendered_is_told() {
        let why = rendered("{{ uptme }}").unwrap_err();
        assert!(why.starts_with("final_message line 1: `uptme` is not defined"), "{why}");
        assert!(rendered("{{ version").is_err());
    }

    #[test]
    fn it_goes_to_the_console_at_every_boot_and_an_empty_one_is_nothing() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "final_message: |\n  up $UPTIME on $DATASOURCE\n");
        context.system.write("/dev/console", "", FileOptions::default()).unwrap();
        context.system.write("/proc/uptime", "61.50 100.00\n", FileOptions::default()).unwrap();
        for _ in 0..2 {
            context.run_handler::<FinalMessage>().unwrap();
        }
        let line = "up 61.50 on test\n";
        assert_eq!(context.system.read_text("/dev/console").unwrap(), format!("{line}{line}"));
        let mut empty = Context::for_test(tree.path(), "final_message: ''");
        assert!(matches!(empty.run_handler::<FinalMessage>(), Ok(Outcome::Skipped(Reason::NothingToDo, _))));
    }
}
