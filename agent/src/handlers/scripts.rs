//! Scripts of the user-data.

use std::collections::HashSet;
use std::time::Duration;

use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::commands::{self, Ran};
use super::{Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::report::instance_folder;
use crate::system::{FileOptions, RunError, System};
use crate::userdata::Script;

/// Runs the scripts.
pub struct Scripts;

/// Scripts have no keys: they are parts of the user-data.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {}

impl Handler for Scripts {
    const NAME: &'static str = "scripts";
    const SUMMARY: &'static str = "Runs the user-data's scripts once, in the order of names";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const ALWAYS: bool = true;
    /// They may install and build; the stage's own deadline is the bound.
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Config = Config;

    fn run(_: &Config, context: &mut Context) -> Handled {
        if context.scripts.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "the user-data has no scripts".to_owned()));
        }
        let scripts = install(context)?;
        let mut ran = Vec::new();
        for (name, path, script) in &scripts {
            if context.time_left().is_zero() {
                break;
            }
            let ending = match unrunnable(&context.system, &script.body) {
                Some(why) => Err(RunError::Start(name.clone(), std::io::Error::other(why))),
                None => context.run(&context.command(path).env("INSTANCE_ID", context.instance.id.clone())),
            };
            ran.push(Ran { label: format!("script `{name}`"), detail: json!({"name": name}), ending });
        }
        let not_run = scripts.len() - ran.len();
        commands::outcome("scripts", ran, Vec::new(), not_run)
    }
}

/// Writes the scripts where only root can read them: name, path and script of each.
fn install(context: &Context) -> std::io::Result<Vec<(String, String, Script)>> {
    let folder = instance_folder(&context.instance.id) + "/scripts";
    context.system.remove(&folder)?;
    context.system.make_dir(&folder, 0o700, None)?;
    let mut taken = HashSet::new();
    let mut installed = Vec::new();
    for script in context.scripts.iter() {
        // Vendor-data and user-data may both have a `part-001`.
        let mut name = script.name.clone();
        while !taken.insert(name.clone()) {
            name.push_str("-user");
        }
        let path = format!("{folder}/{name}");
        context.system.write(&path, &script.body, FileOptions::mode(0o700))?;
        installed.push((name, path, script.clone()));
    }
    Ok(installed)
}

/// Why the kernel would refuse to run it: its own words are `Exec format error` and `No such file`.
fn unrunnable(system: &System, body: &[u8]) -> Option<String> {
    if body.starts_with(b"\x7fELF") {
        return None;
    }
    let Some(rest) = body.strip_prefix(b"#!") else {
        return Some("it has no `#!` line and is no program (Exec format error); begin it with `#!/bin/sh`".to_owned());
    };
    let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    match line.split_whitespace().next() {
        None => Some("its `#!` line names no interpreter (Exec format error)".to_owned()),
        Some(program) if !system.exists(program) => {
            Some(format!("its `#!` line names {program}, which is not installed"))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_refuse_is_told_before() {
        let system = System::new("/");
        for (body, why) in [
            (&b"#!/bin/sh\n"[..], None),
            (b"#! /bin/sh -e\n", None),
            (b"#!/usr/bin/env bash", None),
            (b"\x7fELF\x02", None),
            (b"#!\necho", Some("names no interpreter")),
            (b"echo hello\n", Some("Exec format error")),
            (b"", Some("Exec format error")),
            (b"#!/no/such/python3 -u\n", Some("names /no/such/python3, which is not installed")),
        ] {
            let told = unrunnable(&system, body);
            assert_eq!(told.is_some(), why.is_some(), "{body:?}: {told:?}");
            assert!(told.unwrap_or_default().contains(why.unwrap_or_default()));
        }
    }

    #[test]
    fn scripts_are_private_and_never_share_a_name() {
        use std::os::unix::fs::MetadataExt;
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "{}");
        let script = |body: &str| Script { name: "part-001".to_owned(), body: body.as_bytes().to_vec() };
        context.scripts = [script("#!a"), script("#!b")].into();
        let installed = install(&context).unwrap();
        let names: Vec<&str> = installed.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["part-001", "part-001-user"]);
        for (_, path, script) in &installed {
            assert_eq!(context.system.read(path).unwrap(), script.body);
            assert_eq!(context.system.metadata(path).unwrap().mode() & 0o7777, 0o700);
        }
    }
}
