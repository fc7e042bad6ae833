//! The source: where it is, which files belong to it, a clean copy.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::system::files;
use crate::system::tools::Tool;

/// The checkout, or unpacked source package, that this folder is in.
///
/// # Errors
/// When neither the folder nor one above it holds the source of kiln.
pub fn checkout(folder: &Path) -> Result<PathBuf, Error> {
    let is_kiln = |folder: &&Path| {
        fs::read_to_string(folder.join("debian/control")).is_ok_and(|text| text.starts_with("Source: kiln\n"))
    };
    folder.ancestors().find(is_kiln).map(Path::to_owned).ok_or_else(|| Error::NoSource(folder.to_owned()))
}

/// Fails unless `debian/control` has a package of this name.
pub(super) fn require_package(checkout: &Path, name: &str) -> Result<(), Error> {
    let control = checkout.join("debian/control");
    let text = fs::read_to_string(&control).map_err(|error| Error::file(&control, error))?;
    let known: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("Package: ")).collect();
    if known.contains(&name) {
        return Ok(());
    }
    Err(Error::Unknown { name: name.to_owned(), known: known.join(" and ") })
}

/// Empties `work` and copies the files of the source to `copy` in it. Answers how many.
pub(super) fn copy_tracked(checkout: &Path, work: &Path, copy: &Path) -> Result<usize, Error> {
    let tracked = if checkout.join(".git").exists() { listed_by_git(checkout)? } else { walked(checkout)? };
    files::empty_dir(work).map_err(|error| Error::file(work, error))?;
    for file in &tracked {
        let from = checkout.join(file);
        files::copy_source(&from, &copy.join(file)).map_err(|error| Error::file(&from, error))?;
    }
    Ok(tracked.len())
}

/// The tracked files that are there: one deleted and not yet committed is no part of the source.
fn listed_by_git(checkout: &Path) -> Result<Vec<PathBuf>, Error> {
    let answer = Tool::new("git")
        .args(["ls-files", "-z", "--cached"])
        .within(checkout)
        .capture()
        .map_err(|error| Error::start("git", error))?;
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
        return Err(Error::Git { checkout: checkout.to_owned(), said });
    }
    let names = answer.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let paths = names.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name)));
    Ok(paths.filter(|path| checkout.join(path).symlink_metadata().is_ok()).collect())
}

/// Every file but the build's own: an unpacked source package holds nothing else.
fn walked(checkout: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let here = checkout.join(&folder);
        for entry in fs::read_dir(&here).map_err(|error| Error::file(&here, error))? {
            let entry = entry.map_err(|error| Error::file(&here, error))?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(|error| Error::file(&entry.path(), error))?;
            if !kind.is_dir() {
                found.push(path);
            } else if path != Path::new("target") {
                folders.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare source trees")]
mod tests {
    use super::*;

    fn source_package() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("debian")).unwrap();
        fs::create_dir_all(tree.path().join("target/debug")).unwrap();
        fs::write(tree.path().join("target/debug/kiln"), "old").unwrap();
        fs::write(tree.path().join("debian/control"), "Source: kiln\n\nPackage: kiln-agent\n\nPackage: kiln\n")
            .unwrap();
        tree
    }

    #[test]
    fn the_source_is_found_from_a_folder_inside_it() {
        let tree = source_package();
        assert_eq!(checkout(&tree.path().join("debian")).unwrap(), tree.path());
    }

    #[test]
    fn a_folder_outside_any_source_is_named_in_the_error() {
        let elsewhere = tempfile::tempdir().unwrap();
        let error = checkout(elsewhere.path()).unwrap_err().to_string();
        assert!(error.starts_with(&elsewhere.path().display().to_string()), "{error}");
    }

    #[test]
    fn an_unknown_package_is_answered_with_the_known_ones() {
        let tree = source_package();
        assert!(require_package(tree.path(), "kiln-agent").is_ok());
        let error = require_package(tree.path(), "kiln-agnet").unwrap_err();
        assert_eq!(error.to_string(), "there is no package kiln-agnet: debian/control has kiln-agent and kiln");
    }

    #[test]
    fn a_source_package_is_copied_without_what_was_built_in_it_and_with_its_times() {
        let tree = source_package();
        let work = tree.path().join("target/package");
        fs::create_dir_all(&work).unwrap();
        fs::write(work.join("kiln_0.0.9_amd64.deb"), "left over").unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::options()
            .write(true)
            .open(tree.path().join("debian/control"))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();

        let copy = work.join("kiln");
        assert_eq!(copy_tracked(tree.path(), &work, &copy).unwrap(), 1);
        assert_eq!(copy.join("debian/control").metadata().unwrap().modified().unwrap(), long_ago);
        assert!(!work.join("kiln_0.0.9_amd64.deb").exists() && !copy.join("target").exists());
    }

    #[test]
    fn a_checkout_gives_tracked_files_alone_and_none_that_is_gone() {
        let tree = source_package();
        let git = |args: &[&str]| Tool::new("git").args(args).within(tree.path()).capture().unwrap();
        git(&["init", "-q"]);
        fs::write(tree.path().join("gone"), "").unwrap();
        git(&["add", "debian", "gone"]);
        fs::remove_file(tree.path().join("gone")).unwrap();
        fs::write(tree.path().join("notes.txt"), "private").unwrap();
        assert_eq!(listed_by_git(tree.path()).unwrap(), [PathBuf::from("debian/control")]);
    }
}
