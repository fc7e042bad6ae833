//! Bad input to `kiln`: one sentence and exit 1, never a backtrace.

use kiln_tests::kiln;

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
