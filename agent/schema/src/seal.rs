//! What the builder knows of the seal: the names of its checklist, and what an instance of the new image
//! tells of itself so that two of them can be compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Status;

/// The entries of the checklist, in its order. The agent says of each what and why.
pub const IDS: &[&str] = &[
    "ssh-host-keys",
    "authorized-keys",
    "passwords",
    "shell-history",
    "tool-secrets",
    "machine-id",
    "machine-identity",
    "random-seed",
    "dhcp-leases",
    "persistent-net",
    "network-cards",
    "hosts",
    "hostname",
    "puppet-identity",
    "puppet-state",
    "agent-state",
    "user-data-scripts",
    "cloud-init-state",
    "azure-order",
    "cloud-init-network",
    "ssm-registration",
    "account-backups",
    "editor-backups",
    "crash-dumps",
    "mail",
    "pending-jobs",
    "installer",
    "package-caches",
    "user-caches",
    "temporary-files",
    "journal",
    "logs",
    "free-space",
];

/// Something that must not be in an image and is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule that found it, or the entry of the checklist that could not be worked off.
    pub rule: String,
    /// The file.
    pub path: String,
    /// One sentence that names the file and not its content.
    pub message: String,
}

/// What an instance of an image tells of itself, schema 1: `kiln-agent seal --booted --format json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The number of this format.
    pub schema: u32,
    /// How its boot went; none when the agent left no status that can be read.
    pub status: Option<Status>,
    /// What every instance must have made for itself, by file: a digest and never the content.
    pub identity: BTreeMap<String, String>,
    /// What an instance must not hold and this one does.
    pub findings: Vec<Finding>,
}
