//! Packages with the real apt and dpkg, from a repository that may be down, and with locks that others hold.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_schema::{OutcomeKind, State};
use kiln_tests::{Answer, Request, run};
use serde_json::json;

use crate::root::{Root, handler, message};

/// What every case begins with: no user, one kind of host key, and this repository alone.
const ONLY_OURS: &str = "users: []\nssh_genkeytypes: [ed25519]\n";
/// The repository, unsigned.
const TRUSTED: &str = "deb [trusted=yes] http://127.0.0.1/ ./";

/// User-data: the repository alone, and further keys.
fn user_data(more: &str) -> String {
    format!("{ONLY_OURS}apt: {{sources_list: '{TRUSTED}'}}\n{more}")
}

fn sh(folder: &Path, script: &str) -> String {
    let ran = run(Command::new("/bin/sh").args(["-ec", &format!("cd '{}'\n{script}", folder.display())]));
    assert!(ran.ok(), "{script}: {ran:?}");
    ran.stdout
}

/// Builds a package; its script runs when it is configured.
fn package(repository: &Path, name: &str, depends: &str, postinst: &str) {
    let tree = repository.with_file_name(format!("{name}.tree"));
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
    let control = format!(
        "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: Test <test@example.org>\n{depends}Description: a test\n"
    );
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    std::fs::write(tree.join("DEBIAN/postinst"), format!("#!/bin/sh\n{postinst}\n")).unwrap();
    sh(&tree, &format!("chmod 755 DEBIAN/postinst; dpkg-deb --root-owner-group -Zgzip -b . {}", repository.display()));
}

/// A repository of these packages, in a folder of the test's.
fn repository(root: &Root, packages: &[(&str, &str, &str)]) -> PathBuf {
    let folder = root.folder.path().join("repository");
    std::fs::create_dir(&folder).unwrap();
    for (name, depends, postinst) in packages {
        package(&folder, name, depends, postinst);
    }
    sh(&folder, "dpkg-scanpackages --multiversion . >Packages 2>/dev/null");
    folder
}

/// A file of the repository, as a server answers.
fn file(folder: &Path, request: &Request) -> Answer {
    let path = request.line.trim_start_matches("GET /").trim_start_matches("./");
    std::fs::read(folder.join(path)).map_or_else(|_| Answer::Status(404, String::new()), Answer::Bytes)
}

/// An apt of somebody else's that keeps the lock of dpkg until it is let go.
struct Other {
    apt: Child,
}

impl Other {
    /// Starts it and waits until it has the lock.
    fn start(root: &Root) -> Self {
        package(root.folder.path(), "slow", "", "echo begun; read go </tmp/go");
        root.put("/tmp/slow.deb", &std::fs::read(root.folder.path().join("slow_1.0_all.deb")).unwrap());
        root.ask("mkfifo /tmp/go");
        let mut apt = root
            .command("apt-get")
            .args(["-y", "install", "/tmp/slow.deb"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(apt.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "begun"), "apt ended before it held the lock");
        Other { apt }
    }

    fn let_go(mut self, root: &Root) {
        root.ask("echo go >/tmp/go");
        assert!(self.apt.wait().unwrap().success());
    }
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_package_comes_from_a_source_whose_key_is_given_and_not_from_one_of_another_key() {
    let root = Root::new();
    let folder = repository(&root, &[("good", "", "echo \"$DEBIAN_FRONTEND\" >/root/frontend")]);
    let keys = sh(
        &folder,
        "export GNUPGHOME=$PWD/../gnupg; mkdir -m 700 $GNUPGHOME
         gpg() { command gpg --batch --quiet --passphrase '' \"$@\"; }
         for name in ours theirs; do gpg --quick-generate-key $name@example.org ed25519 sign never; done
         printf 'Codename: test\\nDate: %s\\nSHA256:\\n %s %s Packages\\n' \"$(date -Ru)\" \
             \"$(sha256sum <Packages | cut -d ' ' -f 1)\" \"$(stat -c %s Packages)\" >Release
         gpg --local-user ours@example.org --clearsign --output InRelease Release
         gpg --armor --export ours@example.org; gpg --armor --export theirs@example.org
         gpgconf --kill gpg-agent",
    );
    let (ours, theirs) = keys.split_at(keys.rfind("-----BEGIN").unwrap());
    let _server = root.serve(move |_, request| file(&folder, request));
    let signed_by = |key: &str| {
        let source = "deb [signed-by=$KEY_FILE] http://127.0.0.1/ ./";
        let key = key.trim_end().replace('\n', "\n        ");
        format!(
            "{ONLY_OURS}apt:\n  sources_list: '# none'\n  sources:\n    test:\n      source: '{source}'\n      \
             key: |\n        {key}\npackages: [good]\n"
        )
    };
    let status = root.boot("i-theirs", &signed_by(theirs));
    assert_eq!((status.state, handler(&status, "apt").outcome), (State::Failed, OutcomeKind::Ok), "{status:?}");
    let told = message(&status, "packages");
    assert!(told.contains("package good: E: Unable to locate package good"), "{told}");
    assert!(told.contains("NO_PUBKEY") || told.contains("is not signed"), "why the lists lack is told: {told}");

    let status = root.boot("i-ours", &signed_by(ours));
    assert_eq!(status.state, State::Done, "{status:?}");
    let installed = json!({"good": {"outcome": "installed", "version": "1.0"}});
    assert_eq!(handler(&status, "packages").detail.as_ref().unwrap()["packages"], installed);
    assert_eq!(root.ask("dpkg-query -W -f '${db:Status-Status}' good; cat /root/frontend"), "installednoninteractive");

    let status = root.boot("i-again", &signed_by(ours));
    let present = json!({"good": {"outcome": "present", "version": "1.0"}});
    assert_eq!(handler(&status, "packages").detail.as_ref().unwrap()["packages"], present);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_package_that_cannot_be_is_told_in_the_words_of_apt_and_the_others_are_there() {
    let root = Root::new();
    let broken = "echo no such disk >&2; exit 3";
    let packages = [("broken", "", broken), ("good", "", ""), ("needy", "nowhere (>= 7)", ""), ("other", "", "")];
    let folder = repository(&root, &packages);
    let _server = root.serve(move |_, request| file(&folder, request));
    let status =
        root.boot("i-1", &user_data("packages: [unknown, broken, good, needy, [other, '2.0'], [other, '1.0']]\n"));
    assert_eq!(status.state, State::Failed, "{status:?}");
    let told = message(&status, "packages");
    for part in [
        "package unknown: E: Unable to locate package unknown",
        "package broken: dpkg: error processing package broken (--configure): installed broken package \
         post-installation script subprocess returned error exit status 3",
        "(needy : Depends: nowhere (>= 7) but it is not installable)",
        "package other: E: Version '2.0' for 'other' was not found",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(told.matches("package ").count() - told.matches("error processing package ").count(), 6, "{told}");
    assert_eq!(
        root.ask("dpkg-query -W -f '${Package} ${db:Status-Status}\n' good other broken"),
        "broken half-configured\ngood installed\nother installed"
    );
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_11_apt_tries_again_and_waits_for_its_lock() {
    let root = Root::new();
    let folder = repository(&root, &[("good", "", "")]);
    let other = Other::start(&root);
    root.seed("i-1", &user_data("packages: [good]\n"));
    let mut boot = root.command("kiln-agent").arg("boot").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(boot.stderr.take().unwrap()).lines().map_while(Result::ok);
    // Nobody listens yet.
    let again = said.find(|line| line.contains("trying again")).expect("a repository that is down ends the boot");
    assert!(again.contains("127.0.0.1"), "{again}");
    let rest = std::thread::spawn(move || said.collect::<Vec<_>>());
    let server = root.serve(move |number, request| match number {
        0 => Answer::Status(503, String::new()),
        _ => file(&folder, request),
    });
    let end = Instant::now() + Duration::from_secs(60);
    while !server.requests().iter().any(|request| request.line.contains("/Packages")) {
        assert!(Instant::now() < end, "{:?}", server.requests());
        std::thread::sleep(Duration::from_millis(50));
    }
    // The installation is next, and it gets some seconds in which it could fail.
    std::thread::sleep(Duration::from_secs(3));
    assert!(boot.try_wait().unwrap().is_none(), "it did not wait for the lock: {:?}", rest.join());
    assert!(!root.shell("dpkg-query -W good").ok());
    other.let_go(&root);
    assert!(boot.wait().unwrap().success(), "{:?}", rest.join());
    let status = root.status();
    assert_eq!(status.state, State::Done, "{status:?}");
    assert_eq!(root.ask("dpkg-query -W -f '${db:Status-Status} ' good slow"), "installed installed");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_lock_that_is_never_let_go_is_told_once_with_who_holds_it() {
    let root = Root::new();
    let folder = repository(&root, &[("good", "", ""), ("other", "", "")]);
    let _server = root.serve(move |_, request| file(&folder, request));
    let holder = Other::start(&root);
    let begun = Instant::now();
    let keys =
        user_data("packages: [good, other]\n").replace("{sources", "{conf: 'DPkg::Lock::Timeout \"4\";', sources");
    let status = root.boot("i-1", &keys);
    let took = begun.elapsed();
    assert_eq!(status.state, State::Failed, "{status:?}");
    let told = message(&status, "packages");
    assert!(told.contains("package good: E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock"), "{told}");
    assert!(told.contains("It is held by process ") && told.contains("(apt-get)"), "{told}");
    assert_eq!(handler(&status, "packages").reason.as_deref(), Some("timeout"), "{told}");
    // Four seconds in all, not for each package.
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8 + 3), "{took:?}");
    holder.let_go(&root);
    let status = root.boot("i-2", &keys);
    assert_eq!(status.state, State::Done, "{status:?}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_download_of_somebody_elses_is_waited_for() {
    let root = Root::new();
    let folder = repository(&root, &[("good", "", "")]);
    let _server = root.serve(move |_, request| file(&folder, request));
    // What `apt-get --download-only` of Debian's daily timer holds, and apt itself never waits for.
    let hold = "import fcntl, sys; f = open('/var/cache/apt/archives/lock', 'w'); fcntl.lockf(f, fcntl.LOCK_EX)\n\
                print('held', flush=True); sys.stdin.read()";
    let mut holder =
        root.command("python3").args(["-c", hold]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let keys = user_data("packages: [good]\n").replace("{sources", "{conf: 'DPkg::Lock::Timeout \"2\";', sources");
    root.seed("i-1", &keys);
    let mut boot = root.command("kiln-agent").arg("boot").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(boot.stderr.take().unwrap()).lines().map_while(Result::ok);
    let again = said.find(|line| line.contains("trying again"));
    let again = again.unwrap_or_else(|| panic!("not tried again: {:?}", root.status()));
    assert!(again.contains("/var/cache/apt/archives/lock") && again.contains("(python3)"), "{again}");
    let mut input = holder.stdin.take().unwrap();
    input.flush().unwrap();
    drop(input);
    holder.wait().unwrap();
    for _ in said {}
    assert!(boot.wait().unwrap().success());
    assert_eq!(root.ask("dpkg-query -W -f '${db:Status-Status}' good"), "installed");
}
