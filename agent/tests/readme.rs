//! What the README shows must be true: its user-data is valid, its kiln.yaml is the demo's. Links lead
//! somewhere.

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
