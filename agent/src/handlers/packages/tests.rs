//! Against the real apt, in a throwaway root with a repository of its own.

#![allow(clippy::disallowed_methods, reason = "this builds packages for tests")]

use std::fs;
use std::path::Path;
use std::process::Command as Process;

use super::config::Config;
use super::*;
use crate::handlers::read_keys;
use crate::system::FileOptions;
use crate::testing;

/// What apt and dpkg run.
const TOOLS: &[&str] = &[
    "/usr/bin/apt-get",
    "/usr/bin/dpkg",
    "/usr/bin/dpkg-deb",
    "/usr/bin/dpkg-query",
    "/usr/bin/dpkg-split",
    "/usr/bin/tar",
    "/usr/bin/rm",
    "/usr/bin/dash",
    "/usr/bin/true",
    "/usr/lib/apt/methods/file",
    "/usr/lib/apt/methods/store",
    "/usr/lib/apt/methods/copy",
    "/usr/lib/apt/methods/gpgv",
];

/// A package in the repository of a tree.
fn package(tree: &Path, name: &str, version: &str, postinst: &str) {
    let folder = tree.join("build").join(name);
    fs::create_dir_all(folder.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.org>\nDescription: a test\n"
    );
    fs::write(folder.join("DEBIAN/control"), control).unwrap();
    if !postinst.is_empty() {
        let path = folder.join("DEBIAN/postinst");
        fs::write(&path, format!("#!/usr/bin/dash\n{postinst}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::create_dir_all(tree.join("repo")).unwrap();
    let target = tree.join(format!("repo/{name}_{version}_all.deb"));
    let built = Process::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "-b"]).arg(folder).arg(target).output();
    assert!(built.unwrap().status.success());
}

/// A root with apt and a repository: `good` in two versions, `other`, and `broken`, whose script fails.
fn machine(tree: &Path, user_data: &str) -> Option<Context> {
    if !Path::new("/usr/bin/dpkg-scanpackages").exists() {
        testing::skip("dpkg-scanpackages is not on this machine");
        return None;
    }
    let context = testing::machine(tree, TOOLS, user_data)?;
    for (name, version, postinst) in [
        ("good", "1.10", ""),
        ("good", "1.9", ""),
        ("other", "2", ""),
        ("broken", "1", "echo no such disk >&2; exit 3"),
    ] {
        package(tree, name, version, postinst);
    }
    let scanned = Process::new("dpkg-scanpackages").args(["-m", "."]).current_dir(tree.join("repo")).output().unwrap();
    fs::write(tree.join("repo/Packages"), scanned.stdout).unwrap();
    for folder in [
        "tmp",
        "var/log/apt",
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "usr/sbin",
    ] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    for (path, text) in [
        ("/etc/apt/sources.list", "deb [trusted=yes] file:/repo ./\n"),
        ("/etc/apt/apt.conf.d/00test", "APT::Sandbox::User \"root\";\nAPT::Architecture \"amd64\";\n"),
        ("/var/lib/dpkg/status", ""),
        ("/var/lib/dpkg/available", ""),
    ] {
        context.system.write(path, text, FileOptions::default()).unwrap();
    }
    for table in ["cputable", "ostable", "tupletable"] {
        let path = format!("/usr/share/dpkg/{table}");
        context.system.write(&path, fs::read(&path).unwrap(), FileOptions::default()).unwrap();
    }
    for (link, target) in [("/bin/sh", "/usr/bin/dash"), ("/usr/bin/sh", "dash")] {
        context.system.link(link, target).unwrap();
    }
    // dpkg asks that they are there.
    for path in ["/usr/sbin/ldconfig", "/usr/sbin/start-stop-daemon", "/usr/bin/diff"] {
        testing::executable(&context.system, path, "#!/usr/bin/dash\nexit 0\n");
    }
    Some(context)
}

#[test]
fn every_package_has_its_outcome_and_a_bad_one_hides_no_other() {
    let tree = tempfile::tempdir().unwrap();
    let user_data =
        "packages: [nothing-of-it, {apt: [broken, other], snap: [hello]}, [good, 1.9], [other, 77], 'x-', -y]";
    let Some(mut context) = machine(tree.path(), user_data) else { return };
    let failure = context.run_handler::<Install>().unwrap_err();
    let detail = failure.detail.as_ref().unwrap();
    assert_eq!((&detail["manager"], &detail["update"]), (&json!("apt"), &json!("ok")), "{failure:?}");
    assert_eq!(detail["packages"]["good"], json!({"outcome": "installed", "version": "1.9"}), "{failure:?}");
    for part in [
        "package nothing-of-it: E: Unable to locate package nothing-of-it",
        "package broken: dpkg: error processing package broken (--configure): installed broken package post-installation",
        "package hello: snap is not the manager of this machine, which is apt",
        "package other: E: Version '77' for 'other' was not found",
        "package x-: `x-` is no name of a package",
        "package -y: `-y` is no name of a package",
    ] {
        assert!(failure.message.contains(part), "{part}: {}", failure.message);
    }
    assert_eq!(Manager::Apt.installed(&context, "other").as_deref(), Some("2"));
}

#[test]
fn what_is_there_is_not_fetched_again_and_an_upgrade_takes_the_newest() {
    let tree = tempfile::tempdir().unwrap();
    let Some(mut context) = machine(tree.path(), "packages: [[good, '1.9'], other]") else { return };
    context.run_handler::<Install>().unwrap();
    // Without its repository nothing can be installed any more, and nothing needs to be.
    let away = tree.path().join("away");
    fs::rename(tree.path().join("repo"), &away).unwrap();
    let outcome = context.run_handler::<Install>().unwrap();
    let present = |version| json!({"outcome": "present", "version": version});
    let packages = json!({"good": present("1.9"), "other": present("2")});
    assert_eq!(outcome, Outcome::Ok(Some(json!({"manager": "apt", "packages": packages}))));
    fs::rename(&away, tree.path().join("repo")).unwrap();
    let mut context = Context::for_test(tree.path(), "package_upgrade: true");
    let outcome = context.run_handler::<Install>().unwrap();
    let expected = json!({"manager": "apt", "update": "ok", "upgrade": "ok", "packages": {}});
    assert_eq!(outcome, Outcome::Ok(Some(expected)));
    assert_eq!(Manager::Apt.installed(&context, "good").as_deref(), Some("1.10"));
}

#[test]
fn a_source_that_is_not_there_fails_an_update_and_is_not_tried_again() {
    let tree = tempfile::tempdir().unwrap();
    let Some(mut context) = machine(tree.path(), "package_update: true") else { return };
    context.system.write("/etc/apt/sources.list", "deb [trusted=yes] file:/gone ./\n", FileOptions::default()).unwrap();
    let begun = std::time::Instant::now();
    let failure = context.run_handler::<Install>().unwrap_err();
    assert_eq!(failure.reason, Reason::CommandFailed);
    assert!(failure.message.starts_with("apt update: E: ") && failure.message.contains("/gone"), "{}", failure.message);
    assert!(begun.elapsed() < PAUSE, "it was tried again");
}

#[test]
fn entries_are_read_in_every_form_with_versions_as_spelled() {
    let read = |user_data: &str| {
        let tree = tempfile::tempdir().unwrap();
        let checked = read_keys::<Config>(&Context::for_test(tree.path(), user_data).config);
        let words: Vec<_> = checked.value.unwrap().packages.iter().flat_map(|entry| entry.0.clone()).collect();
        let words: Vec<_> = words.iter().map(|wanted| Manager::Apt.word(wanted)).collect();
        (words, checked.diagnostics)
    };
    assert_eq!(read("packages: [a, [b, 1.10], [c], {apt: [d, [e, '2']]}, 7]").0, ["a", "b=1.10", "c", "d", "e=2", "7"]);
    assert_eq!(read("packages: a").0, ["a"]);
    let (words, diagnostics) = read("packages: [a, [b, 1, 2], {apt: [[]]}, d]");
    assert_eq!(words, ["a", "d"]);
    let error = diagnostics.iter().find(|finding| finding.severity == Severity::Error).unwrap();
    assert!(error.message.contains("a list here is [name, version]"), "{diagnostics:?}");
    assert_eq!(error.path, "packages[1]");
    let node = kiln_schema::yaml::parse("doc", "packages: [a, [b], [c, '1']]").unwrap().0;
    let told: Vec<String> = Install::check(&node).iter().map(|finding| finding.path.clone()).collect();
    assert_eq!(told, ["packages[1]"]);
}

#[test]
fn a_machine_without_a_manager_is_told_and_nothing_given_is_nothing_to_do() {
    let tree = tempfile::tempdir().unwrap();
    let failure = Context::for_test(tree.path(), "packages: [a]").run_handler::<Install>().unwrap_err();
    assert_eq!(failure.reason, Reason::MissingProgram);
    let outcome = Context::for_test(tree.path(), "package_reboot_if_required: true").run_handler::<Install>();
    assert!(matches!(outcome, Ok(Outcome::Skipped(Reason::NothingToDo, _))));
}

#[test]
fn what_another_handler_needs_is_installed_and_a_package_that_is_not_to_be_had_is_named() {
    let tree = tempfile::tempdir().unwrap();
    let Some(context) = machine(tree.path(), "{}") else { return };
    let failure = ensure(&context, &["other", "nothing-of-it"]).unwrap_err();
    assert_eq!(failure.message, "package nothing-of-it: E: Unable to locate package nothing-of-it");
    assert_eq!(Manager::Apt.installed(&context, "other").as_deref(), Some("2"));
    fs::remove_file(tree.path().join("usr/bin/apt-get")).unwrap();
    let failure = ensure(&context, &["other"]).unwrap_err();
    assert!(failure.message.contains("put other into the image"), "{}", failure.message);
}
