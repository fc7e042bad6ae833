//! What the README shows must be true: its user-data is valid, its kiln.yaml is the demo's. The page of all
//! keys is what the program prints, and links lead somewhere.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "the test runs the real program and fails loudly")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// A file of the checkout.
fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// The YAML examples of the README, in order.
fn examples() -> Vec<String> {
    let readme = file("README.md");
    readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_user_data_of_the_readme_is_valid_without_a_warning() {
    let shown: Vec<_> = examples().into_iter().filter(|text| text.starts_with("#cloud-config\n")).collect();
    assert!(!shown.is_empty(), "the README shows no user-data");
    for text in shown {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("user-data");
        fs::write(&path, &text).unwrap();
        let ran = Command::new(env!("CARGO_BIN_EXE_kiln-agent")).args(["validate", "--strict"]).arg(&path).output();
        let ran = ran.unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains(": valid, no errors, no warnings"), "{said}\nin\n{text}");
    }
}

#[test]
fn the_kiln_yaml_of_the_readme_is_the_one_of_the_demo() {
    let demo = file("packaging/demo/kiln.yaml");
    let shown = examples().into_iter().find(|text| text.starts_with("defaults:\n")).unwrap();
    assert!(demo.ends_with(&shown), "packaging/demo/kiln.yaml does not end with\n{shown}");
}

#[test]
fn the_page_of_all_keys_is_what_the_program_prints() {
    let root = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_kiln-agent"));
    let ran = program.arg("--root").arg(root.path()).args(["handlers", "--format", "markdown"]).output().unwrap();
    assert!(ran.status.success());
    let page = String::from_utf8(ran.stdout).unwrap();
    if std::env::var_os("KILN_BLESS").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("REFERENCE.md"), &page).unwrap();
    }
    let old = file("agent/REFERENCE.md");
    let differs = old.lines().zip(page.lines()).find(|(old, new)| old != new);
    let hint = "agent/REFERENCE.md is out of date; KILN_BLESS=1 cargo test -p kiln-agent --test readme writes it anew";
    assert!(old == page, "{hint}\nThe first line that differs: {differs:?}");
}

/// Where the links of a page lead.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

#[test]
fn every_link_leads_to_a_file_or_a_heading() {
    for page in ["README.md", "CONTRIBUTING.md", "agent/REFERENCE.md"] {
        let text = file(page);
        let headings: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(|h| h.to_lowercase().replace(' ', "-"))
            .collect();
        let links = links(&text);
        assert!(!links.is_empty(), "{page}");
        for link in links.into_iter().filter(|link| !link.starts_with("https://")) {
            let leads = match link.strip_prefix('#') {
                Some(heading) => headings.iter().any(|found| found == heading),
                None => Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page).with_file_name(link).exists(),
            };
            assert!(leads, "{page}: {link}");
        }
    }
}
