//! `kiln-agent handlers`: what the agent can do, from the slice of handlers.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use kiln_schema::paths;
use kiln_schema::status::Stage;
use serde::Serialize;

use super::print::{Format, columns, say, say_json, wrap};
use crate::handlers::{Frequency, HANDLERS, external};
use crate::system::System;

/// Arguments of `handlers`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Print `text` for a person, or `json`, a list of objects, for a program
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    format: Format,
}

/// One handler, as a program reads it.
#[derive(Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// When it runs.
    pub stage: Stage,
    /// How often it runs.
    pub frequency: &'static str,
    /// It runs also when none of its keys is in the user-data.
    pub always: bool,
    /// The top-level keys that it reads.
    pub keys: Vec<String>,
    /// One line of documentation.
    pub summary: String,
}

/// Prints the handlers in the order in which they run.
pub fn run(system: &System, args: &Args) -> ExitCode {
    let all = listed(system);
    match args.format {
        Format::Json => say_json(&all),
        Format::Text => say(&text(&all)),
    }
    ExitCode::SUCCESS
}

/// The order of the boot: by stage, the external ones in the final stage before those that tell of it.
pub fn listed(system: &System) -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    for stage in Stage::ALL {
        let of_stage = |tells: bool| {
            let handlers = HANDLERS.iter().filter(move |handler| handler.stage == stage && handler.tells == tells);
            handlers.map(|handler| Listed {
                name: handler.name.to_owned(),
                stage,
                frequency: handler.frequency.name(),
                always: handler.always,
                keys: handler.keys().iter().map(|key| (*key).to_owned()).collect(),
                summary: handler.summary.to_owned(),
            })
        };
        all.extend(of_stage(false));
        if stage == Stage::Final {
            all.extend(external::names(system).into_iter().map(|name| Listed {
                stage,
                frequency: Frequency::Instance.name(),
                always: false,
                keys: vec![name.clone()],
                summary: format!("External: {}/{name}", paths::EXTERNAL_HANDLERS),
                name,
            }));
        }
        all.extend(of_stage(true));
    }
    all
}

fn text(all: &[Listed]) -> String {
    let cells = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
    let mut rows = vec![cells(["NAME", "STAGE", "RUNS", "SUMMARY"])];
    rows.extend(all.iter().map(|h| cells([&h.name, h.stage.name(), h.frequency, &h.summary])));
    let table = columns(&rows, "");
    let mut text = String::new();
    for (index, line) in table.lines().enumerate() {
        text.push_str(line);
        text.push('\n');
        // The keys of a handler stand below its line, broken to the width of a terminal.
        if let Some(handler) = index.checked_sub(1).and_then(|index| all.get(index)) {
            text.push_str(&wrap(&handler.keys.join(" "), "    ", "    "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handler_of_the_slice_is_listed_once() {
        let tree = tempfile::tempdir().unwrap();
        let mut listed: Vec<_> = listed(&System::new(tree.path())).into_iter().map(|h| h.name).collect();
        let mut named: Vec<_> = HANDLERS.iter().map(|h| h.name.to_owned()).collect();
        listed.sort_unstable();
        named.sort_unstable();
        assert_eq!(listed, named);
    }
}
