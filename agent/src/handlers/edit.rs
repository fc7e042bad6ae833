//! Small steps that the handlers of single settings share.

use std::io;
use std::os::unix::fs::PermissionsExt;

use kiln_schema::status::Reason;
use kiln_schema::yaml::{Argv, Spelled};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{Failure, reason_of};
use crate::context::Context;
use crate::system::{Command, FileOptions, Finished, System};

/// The text of a file; empty where there is none.
///
/// # Errors
/// When there is a file that cannot be read.
pub fn text_or_empty(system: &System, path: &str) -> io::Result<String> {
    match system.read_text(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Writes a file where its content is another one, or where more may read it than should; whether it did.
///
/// # Errors
/// When it cannot be read or written.
pub fn put(system: &System, path: &str, text: &str, mode: u32) -> io::Result<bool> {
    let is_narrow = |found: &std::fs::Metadata| found.permissions().mode() & 0o777 & !mode == 0;
    let same = system.read(path).is_ok_and(|old| old == text.as_bytes())
        && system.metadata(path).is_ok_and(|found| is_narrow(&found));
    if !same {
        system.write(path, text, FileOptions::mode(mode))?;
    }
    Ok(!same)
}

/// Runs a command that is to exit 0. `advice` says what to do where it is not installed.
///
/// # Errors
/// When it has no result or exits with another code; the message has its last line.
pub fn must(context: &Context, command: &Command, advice: &str) -> Result<Finished, Failure> {
    let finished = context.run(command).map_err(|error| match error {
        crate::system::RunError::Missing(_) => Failure::new(Reason::MissingProgram, format!("{error}; {advice}")),
        other => Failure::new(reason_of(&other), other.to_string()),
    })?;
    if finished.success() {
        return Ok(finished);
    }
    let said = finished.last_lines(1).pop().map_or_else(String::new, |line| format!(": {}", line.trim()));
    Err(Failure::new(Reason::CommandFailed, format!("{} {}{said}", command.program(), finished.ending())))
}

/// A command of the user-data, as this agent runs it.
pub fn command_of(context: &Context, argv: &Argv) -> Command {
    match argv {
        Argv::Shell(line) => context.command("/bin/sh").args(["-c", line]),
        Argv::Words(words) => {
            let (program, args) = words.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
            context.command(program).args(args)
        }
    }
}

/// A mapping of names to texts in the order of the document. An entry without a value is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a mapping of names to texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Option<Spelled>>()? {
                    pairs.extend(value.map(|value| (name, value.0)));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl JsonSchema for Pairs {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pairs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["object", "null"],
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]}})
    }
}
