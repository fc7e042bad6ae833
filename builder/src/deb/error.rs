//! What can go wrong, in words that say what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder is not in Kiln's source.
    #[error("{} is not in the source of kiln: run this in a checkout or an unpacked source package", .0.display())]
    NoSource(PathBuf),
    /// Programs that are not installed.
    #[error("to build packages, {programs} must be installed: apt-get install {packages}")]
    Tools {
        /// The programs.
        programs: String,
        /// The Debian packages that bring them.
        packages: String,
    },
    /// No Rust.
    #[error("to build packages, cargo must be on the path: install Rust from https://rustup.rs")]
    Cargo,
    /// `--only` names no package of `debian/control`.
    #[error("there is no package {name}: debian/control has {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// git would not list the files.
    #[error("git cannot list the files of {}: {said}", checkout.display())]
    Git {
        /// The folder.
        checkout: PathBuf,
        /// What git said.
        said: String,
    },
    /// `debian/rules` failed.
    #[error("the package build failed; {} ends with:\n{tail}", log.display())]
    Build {
        /// The whole output.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// lintian has objections.
    #[error("lintian objects to the packages:\n{0}")]
    Lintian(String),
    /// A program that is there did not start.
    #[error("cannot run {program}: {error}")]
    Start {
        /// Its name.
        program: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Error {
    pub(super) fn start(program: &'static str, error: io::Error) -> Error {
        Error::Start { program, error }
    }

    pub(super) fn file(path: &Path, error: io::Error) -> Error {
        Error::File { path: path.to_owned(), error }
    }
}
