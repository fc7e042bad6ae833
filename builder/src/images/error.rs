//! What can be wrong with kiln.yaml or with a name that should stand in it.

use std::io;
use std::path::{Path, PathBuf};

use kiln_schema::diagnostic::{Diagnostic, nearest};

/// Why kiln.yaml cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error("there is no {}: go to the folder that has it, or name it with -f", .0.display())]
    NoFile(PathBuf),
    /// The file is there and cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file of ours that cannot be written.
    #[error("{} cannot be written: {error}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The lock file has a form that is not known yet.
    #[error("{} was written by a newer kiln: use that one", .0.display())]
    NewerLock(PathBuf),
    /// What is wrong in it, each with its place.
    #[error("{}", render(.0))]
    Findings(Vec<Diagnostic>),
    /// A name that stands for nothing.
    #[error("{} has no {what} `{name}`; {hint}", file.display())]
    Unknown {
        /// `image`, `variant` or `target`.
        what: &'static str,
        /// The name.
        name: String,
        /// The file.
        file: PathBuf,
        /// The nearest name, or all there are.
        hint: String,
    },
    /// No target at all.
    #[error("{} has no `targets`, so there is nowhere to bake; for this machine: `targets: {{lab: {{kind: amazon-ebs, endpoint: lab}}}}`", .0.display())]
    NoTargets(PathBuf),
    /// Several targets and none chosen.
    #[error("{} has several targets ({known}): choose one with --target, or set `target` under `defaults`", file.display())]
    ChooseTarget {
        /// The file.
        file: PathBuf,
        /// The targets.
        known: String,
    },
    /// The target makes other images.
    #[error(
        "{name} is not made on {store}, and that is what the target {target} makes: choose another with --target, or \
         add {store} to the `store` of the image"
    )]
    OtherStore {
        /// The image.
        name: String,
        /// The target.
        target: String,
        /// What it makes.
        store: &'static str,
    },
    /// Several variants and none chosen.
    #[error("{name} has several variants: choose one of {known}")]
    ChooseVariant {
        /// The image.
        name: String,
        /// The variants.
        known: String,
    },
}

impl Error {
    pub(super) fn unknown<'a>(
        what: &'static str,
        name: &str,
        file: &Path,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Error {
        let hint = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match known.collect::<Vec<_>>() {
                names if names.is_empty() => "it has none at all".to_owned(),
                names => format!("it has {}", names.join(", ")),
            },
        };
        Error::Unknown { what, name: name.to_owned(), file: file.to_owned(), hint }
    }

    /// Whether the command line is at fault rather than the file.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::Unknown { .. } | Error::ChooseTarget { .. } | Error::ChooseVariant { .. } | Error::OtherStore { .. }
        )
    }
}

fn render(findings: &[Diagnostic]) -> String {
    findings.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n")
}
