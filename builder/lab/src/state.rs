//! Instances and images as the AWS API emulator knows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything that the driver follows, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct State {
    /// All instances that are not terminated.
    pub instances: Vec<Instance>,
    /// All images.
    pub images: Vec<Image>,
}

impl State {
    /// The instance of this id.
    pub fn instance(&self, id: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.id == id)
    }
}

/// Where an instance is, as EC2 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// It is to run.
    Pending,
    /// It runs.
    Running,
    /// It is to be off.
    Stopping,
    /// It is off, its disk is kept.
    Stopped,
    /// It is to be gone with its disk.
    ShuttingDown,
    /// It is gone.
    Terminated,
}

/// What an instance's own shutdown means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnShutdown {
    /// It is stopped.
    Stop,
    /// It is terminated.
    Terminate,
}

/// One instance, with all that its metadata service tells.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Instance {
    pub id: String,
    pub state: Life,
    pub image: String,
    pub account: String,
    pub region: String,
    pub zone: String,
    pub instance_type: String,
    pub architecture: Option<String>,
    pub address: std::net::Ipv4Addr,
    pub mac: String,
    pub hostname: String,
    pub public_address: Option<String>,
    pub public_hostname: Option<String>,
    pub reservation: String,
    pub launch_index: u32,
    pub launched: String,
    pub security_groups: Vec<String>,
    pub vpc: Option<String>,
    pub subnet: Option<String>,
    pub key_name: Option<String>,
    pub public_key: Option<String>,
    /// In base64, as the API takes it.
    pub user_data: Option<String>,
    pub profile: Option<Profile>,
    pub on_shutdown: OnShutdown,
    /// Whether the metadata service is switched on.
    pub metadata: bool,
    /// Whether metadata without a token is refused, as version 2 of the service does.
    pub token_required: bool,
    /// The tags, when the instance may see them.
    pub tags: Option<BTreeMap<String, String>>,
    /// How often a reboot was asked for.
    pub reboots: u64,
}

/// The role that an instance was given.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Profile {
    pub arn: String,
    pub id: String,
    pub role: Option<String>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Image {
    pub id: String,
    pub name: Option<String>,
    pub owner: String,
    pub region: String,
    pub state: String,
    /// What it was made of in this lab; none for an import.
    pub source: Option<Source>,
}

/// What an image was made of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub struct Source {
    /// The instance, for CreateImage.
    pub instance: Option<String>,
    /// The image, for CopyImage.
    pub image: Option<String>,
    /// Whether the instance was to run on while the image was made.
    #[serde(default)]
    pub no_reboot: bool,
}

#[cfg(test)]
pub mod tests {
    //! One instance to build others from.
    use super::*;

    /// A running instance with every field set.
    pub fn instance(id: &str) -> Instance {
        serde_json::from_value(serde_json::json!({
            "id": id, "state": "running", "image": "ami-1", "account": "123456789012",
            "region": "us-east-1", "zone": "us-east-1a", "instance_type": "t3.micro",
            "architecture": "x86_64", "address": "10.1.2.3", "mac": "02:00:00:11:22:33",
            "hostname": "ip-10-1-2-3.ec2.internal", "public_address": null, "public_hostname": null,
            "reservation": "r-1", "launch_index": 0, "launched": "2026-11-24T12:00:00Z",
            "security_groups": ["default"], "vpc": "vpc-1", "subnet": "subnet-1",
            "key_name": "deploy", "public_key": "ssh-ed25519 AAAA", "user_data": "I2Nsb3VkLWNvbmZpZwo=",
            "profile": null, "on_shutdown": "stop", "metadata": true, "token_required": true, "tags": null, "reboots": 0
        }))
        .unwrap()
    }
}
