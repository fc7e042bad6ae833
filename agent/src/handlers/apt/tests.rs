use std::os::unix::fs::MetadataExt;

use super::*;
use crate::testing;

/// Three bytes stand for a key: nothing here reads further.
const KEY: &str = "|\n        -----BEGIN PGP PUBLIC KEY BLOCK-----\n        Version: x\n\n        mQIN\n        =abcd\n        -----END PGP PUBLIC KEY BLOCK-----\n";

fn machine(user_data: &str) -> (tempfile::TempDir, Context) {
    let tree = tempfile::tempdir().unwrap();
    let context = Context::for_test(tree.path(), user_data);
    let release = "ID=debian\nVERSION_CODENAME=bookworm\n";
    context.system.write("/etc/os-release", release, FileOptions::default()).unwrap();
    context.system.write("/etc/apt/sources.list", "deb old\n", FileOptions::default()).unwrap();
    (tree, context)
}

fn text(context: &Context, path: &str) -> String {
    context.system.read_text(path).unwrap()
}

#[test]
fn settings_and_proxies_have_files_of_their_own_and_a_password_is_for_root() {
    let keys = "apt: {conf: 'APT { Get { Assume-Yes \"true\"; }; };', proxy: 'http://p:1', https_proxy: 'https://u:hunter2@p:2', \
        ftp_proxy: 'ftp://p:3'}";
    let (_tree, mut context) = machine(keys);
    context.run_handler::<Apt>().unwrap();
    assert_eq!(text(&context, CONF), "APT { Get { Assume-Yes \"true\"; }; };");
    assert_eq!(
        text(&context, PROXIES),
        "Acquire::http::Proxy \"http://p:1\";\nAcquire::https::Proxy \"https://u:hunter2@p:2\";\nAcquire::ftp::Proxy \"ftp://p:3\";\n"
    );
    assert_eq!(context.system.metadata(PROXIES).unwrap().mode() & 0o777, 0o600);
    assert_eq!(context.system.metadata(CONF).unwrap().mode() & 0o777, 0o644);
    assert_eq!(text(&context, "/etc/apt/sources.list"), "deb old\n");
    let again = context.run_handler::<Apt>().unwrap();
    assert_eq!(again, Outcome::Ok(Some(json!({"changed": []}))));
}

#[test]
fn the_list_is_filled_in_both_forms_unless_it_is_to_be_preserved() {
    let mirrors = "primary: [{arches: [s390x], uri: 'http://no'}, {arches: [default], uri: 'http://own/debian'}]";
    let line = "deb $MIRROR $RELEASE main\\ndeb $SECURITY $RELEASE-security main";
    let (_tree, mut context) = machine(&format!("apt: {{{mirrors}, sources_list: \"{line}\"}}"));
    let named = "/etc/apt/sources.list.d/debian.sources";
    context.system.write(named, "Types: deb\n", FileOptions::default()).unwrap();
    context.run_handler::<Apt>().unwrap();
    let expected =
        "deb http://own/debian bookworm main\ndeb http://deb.debian.org/debian-security bookworm-security main\n";
    assert_eq!(text(&context, "/etc/apt/sources.list"), expected);
    assert!(!context.system.exists(named));
    let paragraph = "apt: {sources_list: \"Types: deb\\nURIs: $PRIMARY\\nSuites: $RELEASE\\nComponents: main\"}";
    let (_tree, mut context) = machine(paragraph);
    context.run_handler::<Apt>().unwrap();
    let expected = "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\n";
    assert_eq!(text(&context, named), expected);
    assert_eq!(text(&context, "/etc/apt/sources.list"), format!("# See {named}\n"));
    let (_tree, mut context) = machine("apt: {preserve_sources_list: true, sources_list: deb x}");
    context.run_handler::<Apt>().unwrap();
    assert_eq!(text(&context, "/etc/apt/sources.list"), "deb old\n");
}

#[test]
fn a_source_gets_its_key_and_a_bad_one_hides_no_other() {
    let user_data = format!(
        "apt:\n  sources:\n    good:\n      source: deb [signed-by=$KEY_FILE] $MIRROR $RELEASE main\n      key: {KEY}    \
         key.list: {{key: \"-----BEGIN PGP PUBLIC KEY BLOCK-----\\n\\nmQIN\\n-----END PGP PUBLIC KEY BLOCK-----\"}}\n    \
         plain: {{source: deb http://x ./, filename: other.list}}\n    more: {{source: deb http://y ./, filename: other}}\n    \
         bad1: {{source: deb x, key: hunter2}}\n    bad2: {{source: 'deb [signed-by=$KEY_FILE] x'}}\n    bad3: {{}}\n    \
         bad4: {{source: deb x, keyid: --help}}\n    bad5: {{source: deb x, keyid: 0xDEADBEEF}}\n"
    );
    let (_tree, mut context) = machine(&user_data);
    for _ in 0..2 {
        let failure = context.run_handler::<Apt>().unwrap_err();
        for part in [
            "apt.sources.bad1: its key is no armored PGP key",
            "apt.sources.bad2: it names $KEY_FILE and has neither key nor keyid",
            "apt.sources.bad3: it has neither source nor key",
            "apt.sources.bad4: the keyid `--help` is no key's fingerprint",
            "apt.sources.bad5: gpg is not installed; install gpg and dirmngr",
        ] {
            assert!(failure.message.contains(part), "{part}: {}", failure.message);
        }
        assert!(!failure.message.contains("hunter2"));
    }
    let list = |name: &str| text(&context, &format!("/etc/apt/sources.list.d/{name}"));
    assert_eq!(
        list("good.list"),
        format!("deb [signed-by={OWN_KEYS}/good.gpg] http://deb.debian.org/debian bookworm main\n")
    );
    assert_eq!(list("other.list"), "deb http://x ./\ndeb http://y ./\n");
    assert_eq!(context.system.read(format!("{OWN_KEYS}/good.gpg")).unwrap(), [0x99, 0x02, 0x0d]);
    assert_eq!(context.system.read(format!("{ALL_KEYS}/key.gpg")).unwrap(), [0x99, 0x02, 0x0d]);
    assert!(!context.system.exists(RING) && !context.system.exists("/etc/apt/sources.list.d/bad1.list"));
}

#[test]
fn a_source_of_the_wrong_type_hides_neither_the_others_nor_the_settings() {
    let user_data = "apt: {sources: {a: {source: deb x}, b: {append: [1]}, c: deb y, d: {source: deb z}}, conf: k}";
    let (_tree, mut context) = machine(user_data);
    let told = crate::handlers::read_keys::<Config>(&context.config).diagnostics;
    let paths: Vec<_> = told.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["apt.sources.b.append", "apt.sources.c"]);
    context.run_handler::<Apt>().unwrap();
    assert_eq!(context.system.list("/etc/apt/sources.list.d").unwrap(), ["a.list", "d.list"]);
    assert_eq!(text(&context, CONF), "k");
}

#[test]
fn answers_reach_debconf_and_no_message() {
    let tree = tempfile::tempdir().unwrap();
    let user_data = "apt: {debconf_selections: {set1: 'a a/b password hunter2', set2: 'c c/d boolean true'}}";
    let Some(mut context) = testing::machine(tree.path(), &["/usr/bin/dash", "/usr/bin/cat"], user_data) else {
        return;
    };
    let script = "#!/usr/bin/dash\ncat > /said; echo hunter2 is wrong >&2; exit 7\n";
    testing::executable(&context.system, "/usr/bin/debconf-set-selections", script);
    let failure = context.run_handler::<Apt>().unwrap_err();
    assert!(
        failure.message.starts_with("apt.debconf_selections: debconf-set-selections exited 7"),
        "{}",
        failure.message
    );
    assert!(!format!("{failure:?}").contains("hunter2"));
    assert_eq!(text(&context, "/said"), "a a/b password hunter2\nc c/d boolean true\n");
}

#[test]
fn what_is_not_done_is_told_and_without_the_key_nothing_happens() {
    for (user_data, part) in [
        ("apt: {disable_suites: [updates]}", "disable_suites is not done"),
        ("apt: {primary: [{arches: [default], uri: 'http://x'}]}", "a mirror alone changes no list"),
        ("apt: {sources_list: x, primary: [{search: [a]}]}", "no mirror is searched"),
        ("apt: {proxy: \"a\\\"; x\"}", "apt.proxy: the address for http has a quote"),
    ] {
        let (_tree, mut context) = machine(user_data);
        let failure = context.run_handler::<Apt>().unwrap_err();
        assert!(failure.message.contains(part), "{}", failure.message);
        assert!(!context.system.exists(PROXIES));
    }
    for user_data in ["{}", "apt:"] {
        let (_tree, mut context) = machine(user_data);
        assert!(matches!(context.run_handler::<Apt>(), Ok(Outcome::Skipped(Reason::NothingToDo, _))));
        assert_eq!(text(&context, "/etc/apt/sources.list"), "deb old\n");
    }
}

#[test]
fn a_distribution_without_apt_gets_no_file_of_apt() {
    let (_tree, mut context) = machine("apt: {conf: x}");
    for release in ["ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n", "ID=arch\n", "ID=fedora\n"] {
        let mut other = Context::for_test(context.system.root(), "apt: {conf: x}");
        other.system.write("/etc/os-release", release, FileOptions::default()).unwrap();
        let outcome = other.run_handler::<Apt>().unwrap();
        assert!(matches!(outcome, Outcome::Skipped(Reason::Unsupported, _)), "{release}: {outcome:?}");
        assert!(!other.system.exists(CONF), "{release}");
    }
    // One that nobody has heard of has it where it has it.
    context.system.write("/etc/os-release", "ID=own\n", FileOptions::default()).unwrap();
    context.system.write("/usr/bin/apt-get", "", FileOptions::mode(0o755)).unwrap();
    context.run_handler::<Apt>().unwrap();
    assert!(context.system.exists(CONF));
}
