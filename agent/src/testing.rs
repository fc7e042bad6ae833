//! Trees with real tools in them, for tests of handlers that run programs under chroot(2).

#![allow(clippy::disallowed_methods, reason = "this prepares trees for tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::context::Context;
use crate::system::System;

#[path = "../../tests/src/apart.rs"]
mod apart;
pub use apart::{copy_executables, skip};

/// Puts an executable into a tree.
pub fn executable(system: &System, path: impl AsRef<Path>, text: impl AsRef<str>) {
    apart::executable(&system.path(path), text.as_ref());
}

/// A tree with programs of this machine and their libraries, and surroundings on it.
///
/// None, with a word as [`skip`] has it, where this machine has no such program or the test does not run as root:
/// chroot(2) is root's.
pub fn machine(tree: &Path, tools: &[&str], user_data: &str) -> Option<Context> {
    if !nix::unistd::geteuid().is_root() {
        skip("it needs root for chroot(2)");
        return None;
    }
    if let Some(missing) = tools.iter().find(|tool| !Path::new(tool).exists()) {
        skip(&format!("{missing} is not on this machine"));
        return None;
    }
    let mut files: BTreeSet<String> = tools.iter().map(|tool| (*tool).to_owned()).collect();
    for tool in tools {
        let listed = Command::new("ldd").arg(tool).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        files.extend(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    copy_executables(files.iter().map(String::as_str), tree);
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::create_dir_all(tree.join("dev")).unwrap();
    fs::write(tree.join("dev/null"), "").unwrap();
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(tree.join("etc/group"), "root:x:0:\nadm:x:4:\nsudo:x:27:\n").unwrap();
    fs::write(tree.join("etc/shadow"), "root:*:19000:0:99999:7:::\n").unwrap();
    fs::write(tree.join("etc/gshadow"), "root:*::\nadm:*::\nsudo:*::\n").unwrap();
    fs::write(tree.join("etc/os-release"), "ID=debian\n").unwrap();
    fs::create_dir_all(tree.join("root")).unwrap();
    Some(Context::for_test(tree, user_data))
}
