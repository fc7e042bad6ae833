//! EC2 on one machine: an AWS API emulator, booted systemd machines and IMDS in a network namespace.
//!
//! ```no_run
//! use std::time::Duration;
//! use kiln_lab::{Import, Until, UpOptions, down, import, up};
//!
//! let (lab, _) = up(&UpOptions::new("test"))?;
//! let image = import("test", Import::new("/srv/trees/bookworm".into(), "debian-12"))?;
//! // launch it through `lab.host_endpoint`, then:
//! let machine = lab.machine("i-0123456789abcdef0");
//! machine.wait(Until::Up, Duration::from_secs(60))?;
//! let output = machine.run(["systemctl", "is-system-running"], Duration::from_secs(10))?;
//! down("test")?;
//! # Ok::<(), kiln_lab::Error>(())
//! ```
//!
//! Inside, data flows one way: `moto` answers the API and tells its whole state at every change,
//! `driver` gives every instance a `machine` that follows it, and `machine` tells `moto` what became
//! of it. `reap` removes a lab from its name alone.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod body;
pub mod cli;
mod client;
mod control;
mod driver;
mod error;
mod images;
mod imds;
mod lifecycle;
mod machine;
mod metadata;
mod moto;
mod net;
mod paths;
mod proxy;
mod python;
mod reap;
mod relay;
mod state;
mod status;
mod system;

pub use client::{MachineHandle, import, status};
pub use error::{Error, Result};
pub use lifecycle::{Down, UpOptions, down, up};
pub use reap::Reaped;
pub use state::Life;
pub use status::{ImageStatus, Import, Machine, MachineStatus, Power, Status, Until};
pub use system::pids::Identity;

/// How to reach a lab that is up. It lies as JSON in the lab's folder below `/run/kiln-lab`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The lab's name; `default` unless `KILN_LAB` says otherwise.
    pub name: String,
    /// The network namespace that holds the API, the machines and whoever logs in to them.
    pub netns: PathBuf,
    /// The AWS API as seen from inside the namespace.
    pub endpoint: String,
    /// The AWS API as seen from the host.
    pub host_endpoint: String,
    /// An HTTP proxy, inside the namespace, through which machines reach what the host reaches.
    pub proxy: String,
    /// The region that the lab stands for.
    pub region: String,
    /// The python that has moto and boto3.
    pub python: PathBuf,
}
