//! The network's configuration: from the document of a source to the files of the program that does it.
//!
//! Data flows one way: a [`NetworkConfig`] is what a source told; `v1`, `v2`, `openstack` and `ec2` read
//! it into a [`Network`]; `networkd`, `netplan` and `ifupdown` make files of that; `machine` knows what
//! is on the machine, and `handlers::network` writes.

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::{self, Node};
use serde::{Deserialize, Serialize};

mod ec2;
mod emit;
pub mod ifupdown;
pub mod machine;
mod model;
mod netplan;
mod networkd;
mod openstack;
mod params;
#[cfg(test)]
mod tests;
mod types;
mod v1;
mod v2;

use machine::{Nic, Renderer};
pub use model::{Link, Network};
pub use v2::LEFT_OUT;

/// The network's configuration as a source told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// What a person would call the document, for findings: `/srv/seed/network-config`.
    pub name: String,
    /// How to read it.
    pub format: Format,
    /// The document as it came. It may hold secrets.
    pub text: String,
}

/// How a document of the network is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Version 1 or 2 of cloud-init's own format, which its `version` tells; YAML or JSON.
    CloudInit,
    /// OpenStack's network_data.json, also from a config drive.
    OpenStack,
    /// A mapping of MAC addresses to what EC2 tells under `network/interfaces/macs/MAC/`.
    Ec2,
}

impl NetworkConfig {
    /// A document in a format.
    pub fn new(name: impl Into<String>, format: Format, text: impl Into<String>) -> Self {
        NetworkConfig { name: name.into(), format, text: text.into() }
    }

    /// A document as it came; none of one that is empty.
    pub fn of_bytes(name: impl Into<String>, format: Format, bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        (!text.trim().is_empty()).then(|| NetworkConfig::new(name, format, text))
    }

    /// What EC2's metadata tells, where that is more than one interface with one address: those the image
    /// configures by itself.
    pub fn of_ec2(metadata: &serde_json::Value) -> Option<Self> {
        let macs = metadata.pointer("/network/interfaces/macs")?.as_object()?;
        let lines = |interface: &serde_json::Value, key: &str| {
            interface.get(key).and_then(serde_json::Value::as_str).map_or(0, |text| text.split_whitespace().count())
        };
        let more = macs.values().any(|of| lines(of, "local-ipv4s") > 1 || lines(of, "ipv6s") > 1);
        let text = (macs.len() > 1 || more).then(|| serde_json::to_string(macs).ok())??;
        Some(NetworkConfig::new("meta-data/network/interfaces/macs", Format::Ec2, text))
    }

    /// The document's tree, without the key `network` that may be around it.
    ///
    /// # Errors
    /// Why it is no tree.
    fn parse(&self, told: &mut Vec<Diagnostic>) -> Result<Node, Box<Diagnostic>> {
        let (node, warnings) = yaml::parse(&self.name, &self.text)?;
        told.extend(warnings);
        Ok(match node.get("network") {
            Some(inner) if self.format == Format::CloudInit => inner.clone(),
            _ => node,
        })
    }
}

/// A file for the program that configures the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where.
    pub path: String,
    /// What.
    pub text: String,
    /// Permission bits.
    pub mode: u32,
}

/// The first line of every file.
const HEADER: &str = "# Written by kiln-agent for this instance, and anew when its configuration changes.\n";

/// What a configuration comes to.
#[derive(Debug, Default)]
pub struct Plan {
    /// The files.
    pub files: Vec<File>,
    /// The interfaces; none that could be understood, where netplan reads the document itself.
    pub network: Network,
    /// What is wrong with the document, and what cannot be done.
    pub told: Vec<Diagnostic>,
    /// What is left to do where the program refuses the files, which it does as a whole.
    pub otherwise: Option<File>,
}

/// Reads a source's document and makes the files of it.
pub fn plan(config: &NetworkConfig, renderer: Renderer, nics: &[Nic]) -> Plan {
    let mut told = Vec::new();
    match config.parse(&mut told) {
        Ok(node) => {
            let plan = plan_of(&node, config.format, renderer, nics);
            told.extend(plan.told);
            Plan { told, ..plan }
        }
        Err(finding) => Plan { told: vec![*finding], ..Plan::default() },
    }
}

/// The same, of a document that was read with others.
pub fn plan_of(node: &Node, format: Format, renderer: Renderer, nics: &[Nic]) -> Plan {
    let mut told = Vec::new();
    let network = read(node, format, nics, &mut told);
    if format == Format::Ec2 && !network.is_more_than_usual() {
        return Plan { told, ..Plan::default() };
    }
    if renderer == Renderer::Netplan && format == Format::CloudInit && version(node) == Some(2) {
        // Netplan knows more than is known here, and has the last word.
        told.retain(|finding| finding.message != "unknown key" && !finding.message.ends_with(LEFT_OUT));
        told.iter_mut().for_each(|finding| finding.severity = Severity::Warning);
        let otherwise = (!network.links.is_empty()).then(|| netplan::file(&network));
        return Plan { files: vec![netplan::pass_through(node)], network, told, otherwise };
    }
    undefined(&network, node, &mut told);
    let files = match renderer {
        _ if network.links.is_empty() => Vec::new(),
        Renderer::Netplan => vec![netplan::file(&network)],
        Renderer::Networkd => networkd::files(&network),
        Renderer::Ifupdown => ifupdown::files(&network, nics, &mut told),
    };
    Plan { files, network, told, otherwise: None }
}

/// Tells the interfaces that others build on and that the document does not have.
fn undefined(network: &Network, node: &Node, told: &mut Vec<Diagnostic>) {
    for link in &network.links {
        let below = if let model::Kind::Vlan { link, .. } = &link.kind { Some(link) } else { None };
        for name in link.members().iter().chain(below) {
            if !network.links.iter().any(|link| link.name == *name) {
                let message = format!("the interface `{name}`, which it is built on, is not in this document; add it");
                told.push(node.diagnostic(Severity::Error, &link.name, message));
            }
        }
    }
}

/// Reads a tree. What cannot be read is told and left out.
fn read(node: &Node, format: Format, nics: &[Nic], told: &mut Vec<Diagnostic>) -> Network {
    match format {
        Format::OpenStack => openstack::read(node, nics, told),
        Format::Ec2 => ec2::read(node, nics, told),
        Format::CloudInit => match version(node) {
            Some(1) => v1::read(node, told),
            Some(2) => v2::read(node, told),
            _ => {
                let place = node.get("version").unwrap_or(node);
                let message = "the network's configuration needs `version: 1` or `version: 2`";
                told.push(place.diagnostic(Severity::Error, "version", message));
                Network::default()
            }
        },
    }
}

/// The version that a document of cloud-init's own format says it has.
fn version(node: &Node) -> Option<i128> {
    match &node.get("version")?.value {
        yaml::Value::Scalar(scalar) => yaml::scalar::integer(&scalar.text),
        _ => None,
    }
}
