//! EC2 on one machine: an AWS API emulator, booted systemd machines and IMDS in a network namespace.

pub mod cli;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
