//! kiln.yaml: which images there are, what each is built on, what it is called.
//!
//! - `types`, `from`: the keys.
//! - `load`: the file to [`Kilnfile`], with every finding at its place.
//! - `variants`: one image for several processors or stores.
//! - `check`: what must fit together: names, bases, cycles, files that are there.
//! - `checks`: what must hold on the machine, as calls of the test library.
//! - `distribution`: what a target says of regions and accounts.
//! - `graph`: which image is built on which.
//! - `base`: the newest image that another is built on.
//! - `outside`: the base where somebody else made it: the locked one, or the newest.
//! - `lock`, `relock`: kiln.lock, and writing it anew.
//! - `outdated`: what a newer base makes old.
//! - `names`: name, tags and description of a new image.
//! - `inputs`: the digests that make the bake key.

pub mod base;
mod check;
mod checks;
mod distribution;
mod error;
mod from;
pub mod graph;
pub mod inputs;
mod load;
pub mod lock;
pub mod names;
pub mod outdated;
pub mod outside;
pub mod relock;
mod types;
mod variants;

use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use kiln_schema::yaml::Node;

pub use checks::Assertion;
pub use error::Error;
pub use from::{AmiFilter, From, Parameter};
pub use load::load;
pub use types::{Arch, Layer, Seal, Store};

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
    /// The bases that are not to move; none when there is no lock file.
    pub lock: Option<lock::Lock>,
}

/// How to make one image; of an image with variants, one of them.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its name in kiln.yaml; the tag `application`.
    pub name: String,
    /// The name of this variant: `golden:arm64` where golden is made for several processors, else `golden`.
    pub label: String,
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
    /// What must hold on the machine.
    pub checks: Vec<Assertion>,
    /// Keys of cloud-config for the bake, as spelled: a mode `0644` must not become 420.
    pub user_data: Option<Node>,
    /// What the seal lets pass.
    pub seal: Seal,
    /// Whether two instances of the new image are compared before it counts.
    pub prove: bool,
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
    /// What becomes of an image there once it has passed.
    pub distribution: Distribution,
    /// Where the files of images on instance stores go; none where images are made on network volumes.
    pub bundle: Option<Bundle>,
    /// The folder of packer's plugins; without it, that of the environment or the usual one.
    pub plugin_path: Option<PathBuf>,
}

/// Where else an image is to be, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The regions that get a copy.
    pub copies: Vec<String>,
    /// The accounts that may launch it, in every region.
    pub share_with: Vec<String>,
    /// By region, the key that the image is encrypted with.
    pub keys: IndexMap<String, String>,
    /// How long after it was made it is offered to those who look for images.
    pub deprecate_after: Option<Duration>,
}

impl Distribution {
    /// Whether a bake is over with its image.
    pub fn is_nothing(&self) -> bool {
        self.copies.is_empty() && self.share_with.is_empty() && self.deprecate_after.is_none()
    }
}

impl Target {
    /// What the root of its images lies on.
    pub fn store(&self) -> Store {
        if self.bundle.is_some() { Store::InstanceStore } else { Store::Ebs }
    }
}

/// How an image on an instance store is bundled: signed, encrypted and put into S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The account that owns it.
    pub account_id: String,
    /// The bucket, and a folder in it.
    pub s3_bucket: String,
    /// The certificate that belongs to the key.
    pub x509_cert: PathBuf,
    /// The private key that signs it.
    pub x509_key: PathBuf,
    /// What lets the instance write into the bucket, so that no key of the account gets onto it.
    pub instance_profile: String,
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
    /// The images, each variant on its own, in the order of the file.
    pub fn images(&self) -> impl Iterator<Item = &Recipe> {
        self.images.values()
    }

    /// The images that can be made at a target, in the order of the file.
    pub fn images_at(&self, target: &Target) -> impl Iterator<Item = &Recipe> {
        let store = target.store();
        self.images().filter(move |recipe| recipe.store == store)
    }

    /// Sets how long the bake of every image may take, whatever the file says.
    pub fn limit_bakes(&mut self, limit: Duration) {
        self.images.values_mut().for_each(|recipe| recipe.bake_timeout = Some(limit));
    }

    /// The one image of this name.
    ///
    /// # Errors
    /// With the nearest name, when there is none, and with all variants, when one must be chosen.
    pub fn image(&self, name: &str) -> Result<&Recipe, Error> {
        match self.variants(name)?[..] {
            [only] => Ok(only),
            ref several => Err(Error::ChooseVariant {
                name: name.to_owned(),
                known: several.iter().map(|recipe| recipe.label.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
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
