//! kiln.yaml: which images there are, what each is built on, what it is called.
//!
//! - `types`: the keys.
//! - `load`: the file to [`Kilnfile`], with every finding at its place.
//! - `check`: what must fit together: names, bases, cycles, files that are there.
//! - `graph`: which image is built on which.
//! - `base`: the newest image that another is built on.
//! - `names`: name, tags and description of a new image.
//! - `inputs`: the digests that make the bake key.

pub mod base;
mod check;
mod error;
pub mod graph;
pub mod inputs;
mod load;
pub mod names;
mod types;

use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use kiln_schema::yaml::Node;

pub use error::Error;
pub use load::load;
pub use types::{AmiFilter, Arch, From, Layer, Store};

/// How long a gate may take when kiln.yaml does not say.
pub const GATE_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// kiln.yaml, checked: every name in it leads somewhere and every file is there.
#[derive(Debug)]
pub struct Kilnfile {
    /// The file as it was named.
    pub path: PathBuf,
    /// Its folder; every path in the file is relative to it.
    pub folder: PathBuf,
    images: IndexMap<String, Recipe>,
    targets: IndexMap<String, Target>,
    default_target: Option<String>,
}

/// How to make one image.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its name in kiln.yaml; the tag `application`.
    pub name: String,
    /// How far from a stock system it is.
    pub layer: Layer,
    /// What it is built on.
    pub from: From,
    /// What instances of it are for.
    pub role: Option<String>,
    /// The version of what is in it; `0` when kiln.yaml has none.
    pub version: String,
    /// The number of this build of the version; `0` when kiln.yaml has none.
    pub build: String,
    /// The release line; without it, that of the base.
    pub release: Option<String>,
    /// The environment it is made for.
    pub environment: String,
    /// Who answers for it; without it, whoever bakes.
    pub owner: Option<String>,
    /// What its root lies on.
    pub store: Store,
    /// The processor.
    pub arch: Arch,
    /// Whom to log in as on the base.
    pub ssh_username: String,
    /// The instance to bake on; without it, a small one of the architecture.
    pub instance_type: Option<String>,
    /// How long the gate may take.
    pub gate_timeout: Duration,
    /// How long the whole bake may take; without it, as long as its steps may.
    pub bake_timeout: Option<Duration>,
    /// Scripts to run, in this order.
    pub provision: Vec<Input>,
    /// Files to put on the machine before the scripts.
    pub files: Vec<PlacedFile>,
    /// Test files, and folders of them.
    pub tests: Vec<Input>,
    /// Keys of cloud-config for the bake, as spelled: a mode `0644` must not become 420.
    pub user_data: Option<Node>,
}

/// A file or folder on the machine of whoever bakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// As kiln.yaml spells it.
    pub given: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// A file or folder that the image gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedFile {
    /// Where it comes from.
    pub source: Input,
    /// The path it gets in the image; a folder's content becomes the content of that path.
    pub destination: String,
}

/// Where images are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name in kiln.yaml.
    pub name: String,
    /// The API to talk to.
    pub endpoint: Endpoint,
    /// The region; without it, the lab's or that of the environment.
    pub region: Option<String>,
    /// The folder of packer's plugins; without it, that of the environment or the usual one.
    pub plugin_path: Option<PathBuf>,
}

/// An API of EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// That of AWS.
    Aws,
    /// The lab on this machine.
    Lab,
    /// Another one, by its address.
    Url(String),
}

impl Kilnfile {
    /// The images, in the order of the file.
    pub fn images(&self) -> impl Iterator<Item = &Recipe> {
        self.images.values()
    }

    /// Sets how long the bake of every image may take, whatever the file says.
    pub fn limit_bakes(&mut self, limit: Duration) {
        self.images.values_mut().for_each(|recipe| recipe.bake_timeout = Some(limit));
    }

    /// The image of this name.
    ///
    /// # Errors
    /// With the nearest name, when there is none.
    pub fn image(&self, name: &str) -> Result<&Recipe, Error> {
        self.images
            .get(name)
            .ok_or_else(|| Error::unknown("image", name, &self.path, self.images.keys().map(String::as_str)))
    }

    /// The target of this name; without one, the default target or the only one there is.
    ///
    /// # Errors
    /// With the nearest name, when there is none of this name, and with all names, when one must be chosen.
    pub fn target(&self, name: Option<&str>) -> Result<&Target, Error> {
        match name.or(self.default_target.as_deref()) {
            Some(name) => self
                .targets
                .get(name)
                .ok_or_else(|| Error::unknown("target", name, &self.path, self.targets.keys().map(String::as_str))),
            None => match self.targets.values().collect::<Vec<_>>()[..] {
                [only] => Ok(only),
                [] => Err(Error::NoTargets(self.path.clone())),
                _ => Err(Error::ChooseTarget {
                    file: self.path.clone(),
                    known: self.targets.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
                }),
            },
        }
    }
}
