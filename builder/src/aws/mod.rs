//! The only AWS calls of the builder: a small trait per need, and [`Ec2`], which answers them all.

mod bases;
mod copies;
mod door;
mod ec2;
mod fleet;
mod launch;
mod lease;
mod parameters;

use std::collections::BTreeMap;
use std::fmt;

pub use bases::Bases;
pub use copies::{Copied, Copies, Order, State};
pub use door::Door;
pub use ec2::Ec2;
use ec2::filter;
pub use fleet::{Fleet, Group, Groups, Instance, Scaling, Template, TemplateVersion};
pub use launch::{Launch, NewInstance};
pub use lease::{Held, Leases};
pub use parameters::{Parameters, Ssm, Version};

/// An image as the API describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ami {
    /// `ami-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The account that it belongs to, by its number.
    pub owner: String,
    /// The processor.
    pub arch: String,
    /// What its root lies on: `ebs` or `instance-store`.
    pub root_device: String,
    /// When it was made, in RFC 3339 with UTC, so that text order is the order of time.
    pub created: String,
    /// Its tags, of which an account sees its own alone.
    pub tags: BTreeMap<String, String>,
    /// The snapshots below it.
    pub snapshots: Vec<String>,
}

impl Ami {
    /// The value of a tag; empty when it has none.
    pub fn tag(&self, key: &str) -> &str {
        self.tags.get(key).map_or("", String::as_str)
    }
}

/// Which images to ask for. All of it must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageQuery {
    /// Accounts, of which one must own the image.
    pub owners: Vec<String>,
    /// Filters of DescribeImages: a name and the values of which one must fit.
    pub filters: Vec<(String, Vec<String>)>,
}

impl fmt::Display for ImageQuery {
    /// As a person would ask again by hand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owners {}", self.owners.join(","))?;
        self.filters.iter().try_for_each(|(name, values)| write!(f, ", {name} {}", values.join(",")))
    }
}

/// Finding images.
pub trait FindImages {
    /// Every image that fits, in no order.
    fn find_images(&self, query: &ImageQuery) -> impl Future<Output = Result<Vec<Ami>, Error>>;
}

/// Something in the cloud that a bake made on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    /// An instance that is not terminated.
    Instance(String),
    /// A key pair, by its name.
    KeyPair(String),
    /// A security group.
    SecurityGroup(String),
    /// An image, with its snapshots.
    Image(String, Vec<String>),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Instance(id) => write!(f, "instance {id}"),
            Thing::KeyPair(name) => write!(f, "key pair {name}"),
            Thing::SecurityGroup(id) => write!(f, "security group {id}"),
            Thing::Image(id, _) => write!(f, "image {id}"),
        }
    }
}

/// By what a bake's things are known.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The value of the tag on its instances; its key pairs are named after it.
    pub id: &'a str,
    /// The name of its image.
    pub image_name: &'a str,
    /// The names of its security groups, which not every version of packer tags.
    pub security_groups: &'a [String],
}

/// Finding and removing what a bake left.
pub trait Reap {
    /// What is there of the run.
    fn of_run(&self, run: Run<'_>) -> impl Future<Output = Result<Vec<Thing>, Error>>;

    /// Removes one. An instance is gone when this returns.
    fn remove(&self, thing: &Thing) -> impl Future<Output = Result<(), Error>>;
}

/// A call that the API refused or that did not reach it.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed at {at}: {reason}")]
pub struct Error {
    /// The call.
    pub call: &'static str,
    /// The region or the address.
    pub at: String,
    /// What the API or the network said.
    pub reason: String,
}
