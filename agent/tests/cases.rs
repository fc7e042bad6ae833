//! The fixture trees: `cases/NN-name` is a machine before a boot, and what it must be after.
//!
//! A case is a folder; a new test needs no code.
//! - `root/`: the tree before the boot (links too). Modes are what git keeps: 0644 and 0755.
//! - `user-data`, `meta-data`: put into the seed of `nocloud`. Without `meta-data` the instance is `i-case`.
//! - `encode`: words that are applied to `user-data` in order: `gzip`, `base64`, `crlf`.
//! - `args`: one run of `kiln-agent --root TREE` a line; `reboot` between runs begins another boot.
//!   Without the file there is one run, `boot`.
//! - `needs`: words. `busybox` puts a shell into the tree (commands run under chroot(2)); `root` says that the
//!   case changes owners. Both need the user root.
//! - `volatile`: paths, one a line, `*` for any run of characters, whose content differs at every run.
//! - `expected/tree`: every path that the runs made, changed or removed, with mode, owner and kind.
//! - `expected/root/`: the content of every file in `expected/tree`.
//! - `expected/status.json`: the status, with times, durations and the version masked.
//! - `expected/exit`: the exit code of every run. `expected/stdout`: what they printed, if anything.
//!
//! The whole tree is compared: a path that is not listed must be as it was before. `KILN_BLESS=1` writes
//! `expected` anew (read the difference before you commit it); `KILN_CASE=03` runs the cases whose name holds `03`.

#![allow(clippy::disallowed_methods, reason = "the test prepares a tree and runs the real program on it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects by failing")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use serde_json::Value as Json;

#[path = "../../tests/src/apart.rs"]
mod apart;

const SEED: &str = "var/lib/kiln/seed/nocloud";
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
/// The agent's own books: they must be there with their mode, and their content is not a contract.
const BOOKS: &[&str] = &[
    "/run/kiln/includes.json",
    "/run/kiln/instance.json",
    "/run/kiln/status.json",
    "/var/lib/kiln/data/*",
    "/var/lib/kiln/once.jsonl",
    "/var/lib/kiln/instances/*/includes.json",
    "/var/lib/kiln/instances/*/journal.jsonl",
    "/var/lib/kiln/instances/*/status.json",
    "/var/lib/kiln/instances/*/user-data",
];
/// Keys of the status whose value differs at every run.
const TIMES: &[&str] = &["started", "finished", "at"];
const DURATIONS: &[&str] = &["duration_ms", "ms"];

#[test]
fn cases_without_commands() {
    run_all(|needs| needs.is_empty());
}

#[test]
fn cases_that_need_root() {
    let root = nix::unistd::geteuid().is_root();
    assert!(root, "these cases run commands under chroot(2) and change owners: run this test as root, or say --skip");
    run_all(|needs| !needs.is_empty());
}

fn run_all(wanted: impl Fn(&[String]) -> bool) {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let filter = std::env::var("KILN_CASE").unwrap_or_default();
    let bless = std::env::var_os("KILN_BLESS").is_some();
    let mut folders: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut failures = String::new();
    let mut ran = 0;
    for folder in folders.iter().filter(|f| f.to_string_lossy().contains(&filter)) {
        if !wanted(&words(&folder.join("needs"))) {
            continue;
        }
        ran += 1;
        let outcome = run(folder);
        if bless {
            outcome.bless(&folder.join("expected"));
        } else if let Some(difference) = outcome.difference(&folder.join("expected")) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let _ = writeln!(failures, "=== {name}\n{difference}--- standard error\n{}", outcome.stderr);
        }
    }
    assert!(ran > 0 || !filter.is_empty(), "no case was found");
    assert!(failures.is_empty(), "{failures}\nIf the change is meant: KILN_BLESS=1 and read the difference");
}

/// What came of a case: the files of its `expected` folder.
struct Outcome {
    files: BTreeMap<String, Vec<u8>>,
    stderr: String,
}

fn run(case: &Path) -> Outcome {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    if case.join("root").is_dir() {
        copy_tree(&case.join("root"), root);
    }
    for need in words(&case.join("needs")) {
        match need.as_str() {
            "busybox" => install_busybox(root),
            "root" => {}
            other => panic!("{}: unknown need `{other}`", case.display()),
        }
    }
    seed(case, root);
    let before = snapshot(root);
    let args = fs::read_to_string(case.join("args")).unwrap_or_else(|_| "boot".to_owned());
    let (mut exits, mut stdout, mut stderr, mut boots) = (String::new(), String::new(), String::new(), 1);
    for line in args.lines().filter(|line| !line.trim().is_empty()) {
        if line.trim() == "reboot" {
            boots += 1;
            fs::write(root.join(BOOT_ID), format!("boot-{boots}\n")).unwrap();
            let _ = fs::remove_dir_all(root.join("run/kiln"));
            continue;
        }
        let program = env!("CARGO_BIN_EXE_kiln-agent");
        let mut command = Command::new(program);
        command.arg("--root").arg(root).args(line.split_whitespace()).env_clear().env("PATH", "/usr/bin:/bin");
        let output = command.output().unwrap();
        let code = output.status.code().map_or_else(|| output.status.to_string(), |code| code.to_string());
        let _ = writeln!(exits, "{code}");
        stdout.push_str(&String::from_utf8_lossy(&output.stdout));
        stderr.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    let mut files = BTreeMap::from([("exit".to_owned(), exits.into_bytes())]);
    if !stdout.is_empty() {
        files.insert("stdout".to_owned(), mask_text(&stdout, root).into_bytes());
    }
    if let Ok(status) = fs::read(root.join("run/kiln/status.json")) {
        files.insert("status.json".to_owned(), status_text(&status, root));
        check_copies(root, &status);
    }
    let volatile: Vec<String> =
        fs::read_to_string(case.join("volatile")).unwrap_or_default().lines().map(str::to_owned).collect();
    let masked = |path: &str| {
        BOOKS.iter().any(|book| matches(book, path)) || volatile.iter().any(|pattern| matches(pattern, path))
    };
    let mut listing = String::new();
    let after = snapshot(root);
    for (path, then) in &before {
        // The harness itself rewrites the boot's id.
        if !after.contains_key(path) {
            let _ = writeln!(listing, "removed {path} ({})", then.kind);
        }
    }
    for (path, now) in &after {
        if before.get(path) == Some(now) || path[1..] == *BOOT_ID {
            continue;
        }
        let _ = writeln!(listing, "{:04o} {} {} {path}{}", now.mode, now.owner, now.kind, now.link);
        if now.kind == "file" && !masked(path) {
            files.insert(format!("root{path}"), now.content.clone());
        }
    }
    files.insert("tree".to_owned(), listing.into_bytes());
    Outcome { files, stderr }
}

/// Every copy of the status that the agent keeps tells the same.
fn check_copies(root: &Path, status: &[u8]) {
    let parsed: Json = serde_json::from_slice(status).unwrap();
    if parsed["finished"].is_null() {
        return;
    }
    if let Some(id) = parsed["instance_id"].as_str() {
        let copy = fs::read(root.join("var/lib/kiln/instances").join(id).join("status.json")).unwrap();
        assert_eq!(copy, status, "the copy of the status differs");
    }
    for handler in parsed["handlers"].as_array().unwrap() {
        if let (Some(name), Some(outcome)) = (handler["name"].as_str(), handler["outcome"].as_str())
            && handler["reason"] != "ran-before"
        {
            let word = fs::read_to_string(root.join("var/lib/kiln/data").join(name)).unwrap();
            assert_eq!(word, format!("{outcome}\n"), "/var/lib/kiln/data/{name}");
        }
    }
}

fn seed(case: &Path, root: &Path) {
    let boot_id = root.join(BOOT_ID);
    fs::create_dir_all(boot_id.parent().unwrap()).unwrap();
    fs::write(&boot_id, "boot-1\n").unwrap();
    let Ok(mut bytes) = fs::read(case.join("user-data")) else { return };
    for word in words(&case.join("encode")) {
        bytes = match word.as_str() {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&bytes).unwrap();
                encoder.finish().unwrap()
            }
            "base64" => base64::engine::general_purpose::STANDARD.encode(&bytes).into_bytes(),
            "crlf" => String::from_utf8(bytes).unwrap().replace('\n', "\r\n").into_bytes(),
            other => panic!("{}: unknown encoding `{other}`", case.display()),
        };
    }
    let meta_data = fs::read(case.join("meta-data")).unwrap_or_else(|_| b"instance-id: i-case\n".to_vec());
    fs::create_dir_all(root.join(SEED)).unwrap();
    fs::write(root.join(SEED).join("user-data"), bytes).unwrap();
    fs::write(root.join(SEED).join("meta-data"), meta_data).unwrap();
}

/// A shell and the usual tools, as links to one static program, and /dev/null for them.
fn install_busybox(root: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    let busybox = busybox.expect("install busybox-static: this case runs commands in a tree");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("dev")).unwrap();
    fs::create_dir_all(root.join("tmp")).unwrap();
    apart::copy(busybox, &root.join("bin/busybox"));
    let applets = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        let _ = symlink("busybox", root.join("bin").join(applet));
    }
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::from_bits_truncate(0o666));
    nix::sys::stat::mknod(&root.join("dev/null"), kind, mode, nix::sys::stat::makedev(1, 3)).unwrap();
    fs::set_permissions(root.join("dev/null"), fs::Permissions::from_mode(0o666)).unwrap();
}

/// A path of the tree.
#[derive(PartialEq, Eq)]
struct Found {
    kind: &'static str,
    mode: u32,
    owner: String,
    link: String,
    content: Vec<u8>,
}

fn snapshot(root: &Path) -> BTreeMap<String, Found> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            let (mut link, mut content) = (String::new(), Vec::new());
            let kind = if kind.is_symlink() {
                link = format!(" -> {}", fs::read_link(&path).unwrap().display());
                "link"
            } else if kind.is_dir() {
                folders.push(path.clone());
                "folder"
            } else if kind.is_file() {
                content = fs::read(&path).unwrap();
                "file"
            } else {
                "device"
            };
            // Whoever runs the test stands for root.
            let own = |id: u32, mine: u32| if id == mine { 0 } else { id };
            let uid = own(metadata.uid(), nix::unistd::geteuid().as_raw());
            let gid = own(metadata.gid(), nix::unistd::getegid().as_raw());
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            let owner = format!("{uid}:{gid}");
            found.insert(name, Found { kind, mode: metadata.mode() & 0o7777, owner, link, content });
        }
    }
    found
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path()).unwrap(), &target).unwrap();
        } else if kind.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            let mode = if entry.metadata().unwrap().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            match mode {
                0o755 => apart::copy(&entry.path(), &target),
                _ => assert!(fs::copy(entry.path(), &target).is_ok(), "{}", target.display()),
            }
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

fn status_text(status: &[u8], root: &Path) -> Vec<u8> {
    let mut status: Json = serde_json::from_slice(status).unwrap();
    mask(&mut status, root);
    status["agent"] = "<version>".into();
    let mut text = serde_json::to_string_pretty(&status).unwrap();
    text.push('\n');
    text.into_bytes()
}

fn mask(value: &mut Json, root: &Path) {
    match value {
        Json::Object(fields) => {
            for (key, value) in fields {
                if TIMES.contains(&key.as_str()) && value.is_string() {
                    *value = "<time>".into();
                } else if DURATIONS.contains(&key.as_str()) && value.is_number() {
                    *value = "<duration>".into();
                } else {
                    mask(value, root);
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| mask(item, root)),
        Json::String(text) => *text = mask_text(text, root),
        _ => {}
    }
}

/// Masks times in a sentence, and the place of the tree.
fn mask_text(text: &str, root: &Path) -> String {
    let text = text.replace(&*root.to_string_lossy(), "<root>");
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let fits = |bytes: &[u8]| {
        bytes.len() >= shape.len()
            && bytes.iter().zip(shape).all(|(b, s)| if *s == b'd' { b.is_ascii_digit() } else { b == s })
    };
    let mut masked = String::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        if fits(rest.as_bytes()) {
            masked.push_str("<time>");
            rest = rest[shape.len()..].trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            rest = rest.strip_prefix('Z').unwrap_or(rest);
        } else {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    masked
}

impl Outcome {
    fn bless(&self, folder: &Path) {
        let _ = fs::remove_dir_all(folder);
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn difference(&self, folder: &Path) -> Option<String> {
        let mut expected = BTreeMap::new();
        if folder.is_dir() {
            for (path, found) in snapshot(folder) {
                if found.kind == "file" {
                    expected.insert(path[1..].to_owned(), found.content);
                }
            }
        }
        let mut text = String::new();
        for name in expected.keys().chain(self.files.keys()).collect::<std::collections::BTreeSet<_>>() {
            let (wanted, got) = (expected.get(name), self.files.get(name));
            if wanted != got {
                let lines = |bytes: Option<&Vec<u8>>| {
                    bytes.map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
                };
                let (wanted, got) = (lines(wanted), lines(got));
                let _ = writeln!(text, "--- {name}");
                for line in wanted.lines().filter(|line| !got.lines().any(|other| other == *line)) {
                    let _ = writeln!(text, "-{line}");
                }
                for line in got.lines().filter(|line| !wanted.lines().any(|other| other == *line)) {
                    let _ = writeln!(text, "+{line}");
                }
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

fn words(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Whether a path fits a pattern in which `*` stands for any run of characters.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, rest)) => path
            .strip_prefix(start)
            .is_some_and(|tail| (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))),
    }
}
