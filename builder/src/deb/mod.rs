//! Builds the .deb files: `debian/rules` in a clean copy of the source, lintian on what comes out.
//!
//! The copy holds the tracked files alone, so that nothing that merely lies in the checkout gets into
//! a package. It shares the checkout's target folder and keeps every file's time, so cargo itself
//! decides what must be compiled: an unchanged source costs only the packing.

mod error;
mod source;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::system::files;
use crate::system::tools::{Tool, present};

pub use error::Error;
pub use source::checkout;

/// What to build, and where to.
pub struct Options {
    /// The folder of the source: see [`checkout`].
    pub checkout: PathBuf,
    /// The folder that gets the .deb files.
    pub out: PathBuf,
    /// The one package to build; all of `debian/control` without it.
    pub only: Option<String>,
}

/// One package file that was built.
#[derive(Debug)]
pub struct Package {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// Programs the build starts, and the Debian package that brings each.
const TOOLS: [(&str, &str); 4] =
    [("git", "git"), ("dpkg-buildpackage", "dpkg-dev"), ("dh", "debhelper"), ("cc", "build-essential")];

/// How many lines of a failed build's log go into the error.
const TAIL: usize = 15;

/// Builds the packages and puts them into `options.out`. `progress` hears a line before each step.
///
/// # Errors
/// A missing tool, an unknown package name, a build that fails, a package that lintian objects to.
pub fn build(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Vec<Package>, Error> {
    require_tools()?;
    let checkout = &options.checkout;
    if let Some(name) = &options.only {
        source::require_package(checkout, name)?;
    }

    let target = checkout.join("target");
    let work = target.join("package");
    let copy = work.join("kiln");
    let count = source::copy_tracked(checkout, &work, &copy)?;
    progress(&format!("copied {count} source files"));

    let log = work.join("build.log");
    progress(&format!("compiling and packing; the first time takes minutes (log: {})", log.display()));
    let mut packing = Tool::new("dpkg-buildpackage")
        .args(["--build=binary", "--unsigned-changes", "--unsigned-buildinfo", "--no-pre-clean"])
        .within(&copy)
        .env("CARGO_TARGET_DIR", &target);
    if let Some(name) = &options.only {
        packing = packing.env("DH_OPTIONS", format!("--package={name}"));
    }
    let done = packing.log_to(&log).map_err(|error| Error::start("dpkg-buildpackage", error))?;
    if !done {
        return Err(Error::Build { tail: tail(&log), log });
    }

    let built = packages_in(&work)?;
    if present("lintian") {
        progress("asking lintian");
        lint(&built)?;
    } else {
        progress("lintian is not installed, so the packages go unchecked (apt-get install lintian)");
    }
    built.iter().map(|package| deliver(package, &options.out)).collect()
}

fn require_tools() -> Result<(), Error> {
    let missing: Vec<_> = TOOLS.iter().filter(|(program, _)| !present(program)).collect();
    if !missing.is_empty() {
        return Err(Error::Tools {
            programs: missing.iter().map(|tool| tool.0).collect::<Vec<_>>().join(", "),
            packages: missing.iter().map(|tool| tool.1).collect::<Vec<_>>().join(" "),
        });
    }
    if present("cargo") { Ok(()) } else { Err(Error::Cargo) }
}

/// The last lines of a log; what is not text or cannot be read is no reason to hide the failure.
fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(|error| Error::file(folder, error))?;
    let mut built: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension() == Some(OsStr::new("deb")))
        .collect();
    built.sort();
    Ok(built)
}

fn lint(packages: &[PathBuf]) -> Result<(), Error> {
    let answer = Tool::new("lintian")
        .args(["--allow-root", "--no-cfg", "--fail-on", "error,warning"])
        .args(packages)
        .capture()
        .map_err(|error| Error::start("lintian", error))?;
    if answer.status.success() {
        return Ok(());
    }
    let said = [answer.stdout, answer.stderr].concat();
    Err(Error::Lintian(String::from_utf8_lossy(&said).trim_end().to_owned()))
}

fn deliver(package: &Path, out: &Path) -> Result<Package, Error> {
    files::place(package, out).map_err(|error| Error::file(out, error))?;
    let path = out.join(package.file_name().unwrap_or_default());
    let content = fs::read(&path).map_err(|error| Error::file(&path, error))?;
    let sha256 = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Package { path, bytes: content.len() as u64, sha256 })
}
