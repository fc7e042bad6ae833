//! What tests of every crate share, each including this file by its path: no crate depends on another for it.

#![allow(dead_code, reason = "not every crate needs all of it")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests prepare trees, and fail loudly"
)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Says that a test, or a part of it, cannot run here. With `KILN_TESTS=all` in the environment that is a failure: what
/// nobody sees being left out is not tested.
pub fn skip(why: &str) {
    let all = std::env::var("KILN_TESTS").is_ok_and(|tests| tests == "all");
    assert!(!all, "this cannot be tested here, and KILN_TESTS=all asks for all tests: {why}");
    eprintln!("skipped: {why}");
}

/// Puts an executable down. Another process writes it: this one has threads that fork, and a child that holds the
/// file open for a moment would have the kernel refuse to run it ("Text file busy").
pub fn executable(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let script = "rm -f \"$1\" && cat >\"$1\" && chmod 755 \"$1\"";
    let mut writer =
        Command::new("/bin/sh").args(["-c", script, "sh"]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success(), "{}", path.display());
}

/// Copies an executable; for the reason of [`executable`] by another process.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--dereference").arg(from).arg(to).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
}

/// Copies executables, with the folders above them, into a tree; for the reason of [`executable`] by another process.
pub fn copy_executables<'a>(files: impl IntoIterator<Item = &'a str>, tree: &Path) {
    let files: Vec<&str> = files.into_iter().collect();
    if files.is_empty() {
        return;
    }
    let mut copy = Command::new("cp");
    copy.args(["--dereference", "--parents", "--preserve=mode", "--target-directory"]).arg(tree).args(files);
    // It looks the folders above them up without the leading slash.
    let copied = copy.current_dir("/").output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
}
