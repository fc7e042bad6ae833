//! What can go wrong, in one sentence each.

use std::io;

/// Why something in the lab did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine or the user lacks something.
    #[error("{0}")]
    Need(String),
    /// A name that cannot be a lab's.
    #[error("{0:?} cannot name a lab: use up to 20 lower-case letters, digits and dashes")]
    Name(String),
    /// There is no lab of this name.
    #[error("lab {0} is not up; start it with `kiln lab up --name {0}`")]
    Down(String),
    /// An argument that does not fit.
    #[error("{0}")]
    Input(String),
    /// A step failed.
    #[error("{doing}: {source}")]
    Step {
        /// What was tried, with its object.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The lab's daemon refused.
    #[error("{0}")]
    Refused(String),
}

/// What the lab's functions answer.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was tried when it fails.
pub trait Doing<T> {
    /// Adds what was tried; it is only put into words when it failed.
    ///
    /// # Errors
    /// The failure with that sentence before it.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Step { doing: what(), source })
    }
}
