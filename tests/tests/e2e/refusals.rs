//! Bad input to `kiln`: one sentence and exit 1, never a backtrace.

use std::process::Command;

use kiln_tests::{kiln, program, run};

/// Runs `kiln` on a kiln.yaml that is wrong.
fn refused(kiln_yaml: &str, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kiln.yaml");
    std::fs::write(&file, kiln_yaml).unwrap();
    let ran = kiln(&[&["-f", file.to_str().unwrap()], args].concat());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("stack backtrace"), "{}", ran.stderr);
    ran.stderr
}

const TARGET: &str = "defaults: {target: lab, owner: sre, ssh_username: admin}\n\
    targets:\n  lab: {kind: amazon-ebs, endpoint: lab}\n";

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn no_base_names_the_query() {
    let images = "images:\n  app: {layer: app, from: {ami: {owners: [\"136693071363\"], name: \"plan9-*\"}}}\n";
    let said = refused(&format!("{TARGET}{images}"), &["bake", "app"]);
    assert!(said.contains("plan9-*") && said.contains("136693071363"), "{said}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_cycle_is_drawn() {
    let images = "images:\n  a: {layer: base, from: b}\n  b: {layer: base, from: a}\n";
    let said = refused(&format!("{TARGET}{images}"), &["bake", "a"]);
    assert!(said.contains("a -> b -> a"), "{said}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn an_unknown_key_has_its_place_and_a_suggestion() {
    let images = "images:\n  a: {layer: app, form: b}\n";
    let said = refused(&format!("{TARGET}{images}"), &["bake", "a"]);
    assert!(said.contains(":5:") && said.contains("did you mean `from`?"), "{said}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_missing_packer_is_named_with_its_package() {
    let ran = run(Command::new(program())
        .args(["-f", "packaging/demo/kiln.yaml", "bake", "golden"])
        .env("PATH", "/usr/sbin"));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("packer") && ran.stderr.contains("install"), "{}", ran.stderr);
    assert_eq!(ran.stderr.trim().lines().count(), 1, "{}", ran.stderr);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn the_lab_says_that_it_needs_root() {
    let folder = tempfile::tempdir().unwrap();
    // Where someone else than root may start it.
    let copy = folder.path().join("kiln");
    std::fs::copy(program(), &copy).unwrap();
    run(Command::new("chmod").arg("755").arg(folder.path()).arg(&copy));
    for command in [["lab", "up"], ["lab", "down"]] {
        let ran = run(Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&copy)
            .args(command)
            .args(["--name", "nobody"]));
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains("root"), "{}", ran.stderr);
        assert_eq!(ran.stderr.trim().lines().count(), 1, "{}", ran.stderr);
    }
}
