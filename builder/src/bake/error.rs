//! Why there is no image.

use std::io;
use std::path::PathBuf;

use crate::aws;
use crate::images::{self, base};
use crate::journal;
use crate::packer::version;

/// Why a bake did not start, or gave no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// kiln.yaml or a name.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// The base.
    #[error(transparent)]
    Base(#[from] base::Error),
    /// The journal of bakes.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The API.
    #[error(transparent)]
    Api(#[from] aws::Error),
    /// Packer itself.
    #[error(transparent)]
    Packer(#[from] version::Error),
    /// The lab is not up or does not answer.
    #[error("{0}")]
    Lab(String),
    /// Only root may enter the lab.
    #[error("baking in the lab needs root, because packer must enter the lab's network: run kiln with sudo")]
    NeedsRoot,
    /// No region for a target.
    #[error("target {0} has no region: set `region` there or under `defaults`, or AWS_REGION")]
    NoRegion(String),
    /// No package of the agent.
    #[error(
        "the base of {image} lacks the agent, and no {pattern} lies in target/deb here or beside kiln.yaml: run \
         `kiln deb --out target/deb`, or name the file with --agent-deb"
    )]
    NoAgent {
        /// The image.
        image: String,
        /// The name of the file.
        pattern: String,
    },
    /// `--agent-deb` names no package for this image.
    #[error("{}: {why}", path.display())]
    AgentDeb {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What cannot be called as it should.
    #[error("{0}")]
    Name(String),
    /// One folder for several reports.
    #[error("--report is for one image: leave it out, and each gets its own")]
    OneReport,
    /// Two test files of one name.
    #[error("two tests of {image} are called {name}: rename one, because they come to lie in one folder")]
    TwoTests {
        /// The image.
        image: String,
        /// The name.
        name: String,
    },
    /// A file of this machine.
    #[error("{what}: {error}")]
    File {
        /// What was being done, or the file.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
    /// Asked to end before packer had started.
    #[error("interrupted by {0} before anything was made")]
    Interrupted(&'static str),
    /// What must not be done as things stand.
    #[error("{0}")]
    Refused(String),
    /// Asked to end before an image was in all regions.
    #[error(
        "interrupted by {name} before {id} was complete in every region; what was begun goes on there, and the next `kiln bake` or `kiln copy {id}` completes it"
    )]
    Cut {
        /// The signal.
        name: &'static str,
        /// The image.
        id: String,
    },
    /// Packer ran and there is no image.
    #[error("{0}")]
    Failed(Box<Failure>),
}

/// A bake that got as far as packer.
#[derive(Debug)]
pub struct Failure {
    /// The one sentence that names the cause.
    pub cause: String,
    /// The last lines of what failed, where the sentence alone does not tell enough.
    pub tail: Vec<String>,
    /// Where the report is.
    pub report: PathBuf,
    /// What packer left behind, and what became of it.
    pub left: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.cause)?;
        self.tail.iter().try_for_each(|line| write!(f, "\n  | {line}"))?;
        self.left.iter().try_for_each(|line| write!(f, "\n{line}"))?;
        write!(f, "\nreport: {}", self.report.display())
    }
}

impl Error {
    pub(crate) fn file(what: impl ToString, error: io::Error) -> Error {
        Error::File { what: what.to_string(), error }
    }

    /// The one sentence that names the cause, without what else is told of a failure.
    pub fn cause(&self) -> String {
        match self {
            Error::Failed(failure) => failure.cause.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the command line is at fault.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Images(error) => error.is_usage(),
            other => matches!(other, Error::OneReport),
        }
    }
}
