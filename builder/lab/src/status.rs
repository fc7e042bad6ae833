//! What `kiln lab status` tells, and what the daemon is asked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::state::Life;
use crate::system::pids::Identity;

/// How far a machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It does not run.
    #[default]
    Off,
    /// It boots.
    Starting,
    /// It has finished booting: its systemd has no start job left.
    Up,
}

/// A machine as the driver keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// How far it is.
    pub power: Power,
    /// Its first process, while it runs.
    pub leader: Option<Identity>,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// The image it was launched from.
    pub image: String,
    /// How often it has booted.
    pub boots: u64,
}

/// The whole lab at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The lab's name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// The AWS API as seen from inside; none when the lab is down.
    pub endpoint: Option<String>,
    /// The AWS API as seen from the host; none when the lab is down.
    pub host_endpoint: Option<String>,
    /// Images by id.
    pub images: BTreeMap<String, ImageStatus>,
    /// Instances that are not terminated, by id.
    pub machines: BTreeMap<String, MachineStatus>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Its name.
    pub name: Option<String>,
    /// The account that owns it.
    pub owner: String,
    /// EC2's word for its state.
    pub state: String,
    /// The region it is in.
    pub region: String,
}

/// One instance and its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// The instance's state in the API.
    pub state: Life,
    /// How far its machine is.
    pub power: Power,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its image.
    pub image: String,
    /// How often it has booted.
    pub boots: u64,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// The machine has finished booting.
    Up,
    /// The machine does not run; the instance may be there.
    Off,
    /// The instance is terminated and its disk removed.
    Gone,
}

/// A tree that is to be an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The folder, which stays where it is and has to stay as it is.
    pub tree: PathBuf,
    /// The image's name.
    pub name: String,
    /// The account that owns it, 12 digits.
    pub owner: String,
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its architecture as EC2 names it, such as `x86_64`.
    pub architecture: String,
}

/// What the daemon is asked; one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub enum Order {
    /// Answers a [`Status`].
    Status,
    /// Answers the image's id.
    Import(Import),
    /// Answers a [`Machine`].
    Machine {
        /// The instance's id.
        instance: String,
    },
    /// Answers a [`Machine`] (none when it is gone) as soon as it is so.
    Wait {
        /// The instance's id.
        instance: String,
        /// What for.
        until: Until,
        /// How long at most.
        seconds: u64,
    },
    /// Powers all machines off and ends the daemon; answers nothing when they are off.
    Down,
}

/// What the daemon answers; one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// Why not, in one sentence.
    Error(String),
}
