//! Bakes: from an image's name to an image that passed, or the cause why there is none.
//!
//! - `session`: what all bakes of one command share.
//! - `many`: the images of the graph that are asked for, parents first, several at once.
//! - `one`: a whole bake on one page: lease, plan, stage, packer, report, image or cause.
//! - `plan`, `userdata`, `steps`, `stage`: what goes into the image, and the folder that packer gets.
//! - `packer`, `watch`, `report`: the run, what it says, what came home.
//! - `proof`: two instances of the new image, compared before it counts.
//! - `record`, `sbom`: what the report says of the whole bake and of the packages in the image.
//! - `progress`, `screen`: what a person or a program is told meanwhile.
//! - `lease`: one bake of an image at a time, on whatever machine.
//! - `recover`, `leftovers`: what a bake left that failed or was killed.

mod error;
pub(crate) mod lease;
mod leftovers;
pub mod many;
mod one;
pub(crate) mod packer;
pub mod plan;
pub mod progress;
mod proof;
mod record;
pub(crate) mod recover;
pub(crate) mod report;
mod sbom;
mod screen;
pub mod session;
pub mod site;
pub(crate) mod stage;
pub(crate) mod steps;
mod userdata;
pub(crate) mod watch;

use std::path::PathBuf;

use crate::aws::Ami;

pub use error::{Error, Failure};

/// How a bake is to be done.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The target; without it, the default.
    pub target: Option<String>,
    /// The package of the agent; without it, the newest that was built here.
    pub agent_deb: Option<PathBuf>,
    /// The folder for the report of the one image that is asked for.
    pub report: Option<PathBuf>,
    /// Bake even if an image with the same inputs is there.
    pub rebuild: bool,
}

/// An image that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baked {
    /// The image.
    pub image: Ami,
    /// Where the report is; none when the image was there already.
    pub report: Option<PathBuf>,
}
