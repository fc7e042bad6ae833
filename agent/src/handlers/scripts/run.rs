//! How a script is put down, run and told of.

use std::collections::HashSet;

use kiln_schema::status::Reason;
use serde_json::json;

use crate::context::Context;
use crate::handlers::commands::{self, Ran};
use crate::handlers::{Handled, Outcome};
use crate::report::instance_folder;
use crate::system::{FileOptions, RunError, System};
use crate::userdata::Script;

/// A script on the machine.
pub struct Program {
    /// What it is called for a person.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// Its first bytes, which say what runs it.
    pub head: Vec<u8>,
}

/// A handler's word that there is nothing to run.
///
/// # Errors
/// None.
pub fn nothing(why: &str) -> Handled {
    Ok(Outcome::Skipped(Reason::NothingToDo, why.to_owned()))
}

/// Writes scripts into a folder of the instance, where only root can read them, in place of what was there.
///
/// # Errors
/// Those of the file system.
pub fn install(context: &Context, folder: &str, scripts: &[Script]) -> std::io::Result<Vec<Program>> {
    let folder = format!("{}/{folder}", instance_folder(&context.instance.id));
    context.system.remove(&folder)?;
    context.system.make_dir(&folder, 0o700, None)?;
    let mut taken = HashSet::new();
    let mut installed = Vec::new();
    for script in scripts {
        // Vendor-data and user-data may both have a `part-001`.
        let mut name = script.name.clone();
        while !taken.insert(name.clone()) {
            name.push_str("-user");
        }
        let path = format!("{folder}/{name}");
        context.system.write(&path, &script.body, FileOptions::mode(0o700))?;
        installed.push(Program { name, path, head: script.body.clone() });
    }
    Ok(installed)
}

/// Runs programs one after the other, each behind the words of `prefix`. `unusable` has a sentence for each that
/// is none.
///
/// # Errors
/// What the status tells of those that failed.
pub fn all(context: &Context, programs: &[Program], prefix: &[String], mut unusable: Vec<String>) -> Handled {
    let mut ran = Vec::new();
    for Program { name, path, head } in programs {
        if context.time_left().is_zero() {
            unusable.push(format!("the time was up before the turn of `{name}`"));
            break;
        }
        let command = match prefix {
            [] => context.command(path),
            [program, arguments @ ..] => context.command(program).args(arguments.iter().cloned()).arg(path),
        };
        let why = if prefix.is_empty() { unrunnable(&context.system, head) } else { None };
        let ending = match why {
            Some(why) => Err(RunError::Start(name.clone(), std::io::Error::other(why))),
            None => context.run(&context.shown(command).env("INSTANCE_ID", context.instance.id.clone())),
        };
        ran.push(Ran { label: format!("script `{name}`"), detail: json!({"name": name}), ending });
    }
    let not_run = programs.len() - ran.len();
    commands::outcome("scripts", ran, unusable, not_run)
}

/// Why the kernel would refuse to run it: its own words are `Exec format error` and `No such file`.
pub fn unrunnable(system: &System, body: &[u8]) -> Option<String> {
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
    use crate::userdata::When;

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
        let context = Context::for_test(tree.path(), "{}");
        let script = |body: &str| Script {
            name: "part-001".to_owned(),
            body: body.as_bytes().to_vec(),
            when: When::Last,
            of_vendor: false,
        };
        let scripts = [script("#!a"), script("#!b")];
        let installed = install(&context, "scripts", &scripts).unwrap();
        let names: Vec<&str> = installed.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names, ["part-001", "part-001-user"]);
        for (program, script) in installed.iter().zip(&scripts) {
            assert_eq!(context.system.read(&program.path).unwrap(), script.body);
            assert_eq!(context.system.metadata(&program.path).unwrap().mode() & 0o7777, 0o700);
        }
    }
}
