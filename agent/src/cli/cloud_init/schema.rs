//! `cloud-init schema`: whether a cloud-config is one that does what it says.

use std::path::Path;
use std::process::ExitCode;

use clap::ArgMatches;
use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::paths;

use super::super::print::{document, say};
use super::super::validate;
use super::{Entry, choice, fail, flag, text, value};
use crate::datasources::Instance;
use crate::handlers::external;
use crate::includes::Includes;
use crate::instance_data;
use crate::system::System;
use crate::userdata::Surroundings;

/// The command.
pub const COMMAND: Entry = Entry {
    name: "schema",
    about: "Check a cloud-config, or that of this instance",
    after: "Exit codes:
  0  valid; warnings do not count
  1  something in it is an error, an unknown key too, or it cannot be read
  2  the command line cannot be understood",
    options: &[
        value("config-file", 'c', "FILE", "User-data of any format that a boot takes"),
        flag("system", ' ', "The user-data and vendor-data of this instance, as root"),
        flag("annotate", ' ', "Print the document with the findings at their lines"),
        choice("schema-type", 't', &["cloud-config"], "What kind of document it is"),
    ],
    run,
};

/// Prints what is wrong. Exit 0 where all is valid.
fn run(system: &System, args: &ArgMatches) -> ExitCode {
    let external = external::names(system);
    let annotate = args.get_flag("annotate");
    let checked = match (text(args, "config-file"), args.get_flag("system")) {
        // Of a file nothing is known but what it says.
        (Some(file), false) => document(Path::new(file))
            .map(|(name, bytes)| vec![checked(&name, &bytes, annotate, &external, &Surroundings::default())]),
        (None, true) => of_instance(system).map(|instance| check_instance(system, &instance, annotate, &external)),
        _ => Err("say what to check: one of --config-file and --system".to_owned()),
    };
    match checked {
        Ok(checked) => {
            checked.iter().for_each(|(text, _)| say(text));
            if checked.iter().all(|(_, valid)| *valid) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(sentence) => fail("schema", &sentence),
    }
}

/// The documents as the boot has read them: with what they include, and filled in with the data of the instance.
fn check_instance(system: &System, instance: &Instance, annotate: bool, external: &[String]) -> Vec<(String, bool)> {
    let includes = Includes::kept(system, &instance.id);
    let variables = || instance_data::variables(system, instance);
    let surroundings =
        Surroundings { variables: Some(&variables), launch_index: instance.launch_index, fetcher: Some(&includes) };
    let documents = [("user-data", &instance.user_data), ("vendor-data", &instance.vendor_data)];
    let told = documents.into_iter().filter(|(name, bytes)| *name == "user-data" || !bytes.is_empty());
    told.map(|(name, bytes)| checked(name, bytes, annotate, external, &surroundings)).collect()
}

/// What the source told of this instance.
fn of_instance(system: &System) -> Result<Instance, String> {
    let known = system.read(paths::INSTANCE).map_err(|error| {
        format!("the user-data of this instance cannot be read, which needs root and a boot that has found it: {error}")
    })?;
    serde_json::from_slice(&known).map_err(|error| format!("{} is damaged: {error}", paths::INSTANCE))
}

/// What there is to say of a document, and whether it is valid.
fn checked(
    name: &str,
    bytes: &[u8],
    annotate: bool,
    external: &[String],
    surroundings: &Surroundings<'_>,
) -> (String, bool) {
    let findings = validate::findings(name, bytes, true, external, surroundings);
    let valid = findings.iter().all(|finding| finding.severity != Severity::Error);
    let verdict = if valid { format!("Valid schema {name}\n") } else { format!("Invalid schema {name}\n") };
    if annotate && !findings.is_empty() {
        return (annotated(name, &String::from_utf8_lossy(bytes), &findings) + &verdict, valid);
    }
    let mut text = String::new();
    if !valid {
        text.push_str("Error: Cloud config schema errors:\n");
    }
    for finding in findings {
        text.push_str(&format!("{}\n\n", finding.render()));
    }
    (text + &verdict, valid)
}

/// The document, each line with the numbers of what is found in it, and the findings below.
fn annotated(name: &str, document: &str, findings: &[Diagnostic]) -> String {
    let letter = |finding: &Diagnostic| if finding.severity == Severity::Error { 'E' } else { 'W' };
    let label = |index: usize| {
        let before = findings[..=index].iter().filter(|other| letter(other) == letter(&findings[index]));
        format!("{}{}", letter(&findings[index]), before.count())
    };
    let mut text = String::new();
    for (index, line) in document.lines().enumerate() {
        let here = |finding: &Diagnostic| finding.source == name && finding.line == Some(index + 1);
        let labels: Vec<String> = (0..findings.len()).filter(|index| here(&findings[*index])).map(label).collect();
        let mark = if labels.is_empty() { String::new() } else { format!("\t\t# {}", labels.join(",")) };
        text.push_str(&format!("{line}{mark}\n"));
    }
    for (kind, title) in [('E', "Errors"), ('W', "Warnings")] {
        let of_kind: Vec<usize> = (0..findings.len()).filter(|index| letter(&findings[*index]) == kind).collect();
        if !of_kind.is_empty() {
            text.push_str(&format!("\n# {title}: -------------\n"));
        }
        for index in of_kind {
            // A part of several, or a template as it was filled in, has lines of its own.
            text.push_str(&format!("# {}: {}\n", label(index), findings[index]));
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn an_unknown_key_and_a_wrong_type_are_invalid() {
        for (text, valid) in [
            ("#cloud-config\nhostname: web\n", true),
            ("#cloud-config\nhostnam: web\n", false),
            ("#cloud-config\nwrite_files: 7\n", false),
            ("#cloud-config\na: [\n", false),
            ("#cloud-config\nchef: {}\n", true),
        ] {
            let (told, sound) = checked("file", text.as_bytes(), false, &[], &Surroundings::default());
            assert_eq!(sound, valid, "{told}");
            assert!(
                told.ends_with(if valid { "\nValid schema file\n" } else { "\nInvalid schema file\n" })
                    || told == "Valid schema file\n"
            );
        }
    }

    #[test]
    fn findings_stand_at_their_lines() {
        let text = b"#cloud-config\nhostnam: web\ntimezon: UTC\n";
        let (told, valid) = checked("file", text, true, &[], &Surroundings::default());
        assert!(!valid);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[..3], ["#cloud-config", "hostnam: web\t\t# E1", "timezon: UTC\t\t# E2"]);
        assert_eq!(lines[4], "# Errors: -------------");
        assert!(lines[6].starts_with("# E2: file:3:1: error: timezon: unknown key"), "{told}");
    }

    #[test]
    fn the_documents_of_the_instance_are_checked_as_they_came() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert!(of_instance(&system).unwrap_err().contains("needs root"));
        let instance =
            Instance { user_data: b"#cloud-config\nhostname: web\n".to_vec(), ..Instance::new("nocloud", "i-1") };
        system.write(paths::INSTANCE, serde_json::to_vec(&instance).unwrap(), FileOptions::default()).unwrap();
        assert_eq!(
            check_instance(&system, &of_instance(&system).unwrap(), false, &[]),
            [("Valid schema user-data\n".to_owned(), true)]
        );
        system.write(paths::INSTANCE, "", FileOptions::default()).unwrap();
        assert!(of_instance(&system).unwrap_err().contains("damaged"));
    }

    #[test]
    fn what_the_instance_includes_and_fills_in_is_checked_as_it_was_at_the_boot() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let put = |path: &str, text: &str| system.write(path, text, FileOptions::default()).unwrap();
        put("/etc/included", "#cloud-config\nhostnam: web\n");
        let check = |user_data: &str| {
            let instance = Instance {
                user_data: user_data.into(),
                region: Some("eu-west-1".to_owned()),
                ..Instance::new("nocloud", "i-1")
            };
            check_instance(&system, &instance, false, &[]).remove(0)
        };
        let (told, valid) = check("#include\nfile:///etc/included\n");
        assert!(!valid && told.contains("hostnam: unknown key"), "{told}");
        let filled = "## template: jinja\n#cloud-config\n{% if v1.region == 'eu-west-1' %}timezon: UTC{% endif %}\n";
        let (told, valid) = check(filled);
        assert!(!valid && told.contains("timezon: unknown key"), "{told}");
        let (told, valid) = check("#include\nhttp://192.0.2.1/x\n");
        assert!(!valid && told.contains("was not got at this boot"), "{told}");
    }
}
