//! What a boot would write of the network, as `plan` tells it without writing anything.

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::Stage;
use kiln_schema::yaml::Node;
use serde::Serialize;

use super::{Wanted, is_left_alone, plan_for, wanted};
use crate::datasources::{Instance, SOURCES};
use crate::network::machine;
use crate::system::System;

/// The network's configuration, as a boot would make it.
#[derive(Default, Serialize)]
pub struct Foreseen {
    /// Where it comes from, or why there is none.
    pub source: String,
    /// The program that would read the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renderer: Option<&'static str>,
    /// The files, also those that are there already.
    pub files: Vec<String>,
    /// What is wrong with the configuration.
    #[serde(skip)]
    pub findings: Vec<Diagnostic>,
}

/// What is known of the network before a boot: for an instance that no source has told of, no more than what the
/// image says itself.
pub fn foresee(system: &System, instance: &Instance, image: Option<Node>) -> Foreseen {
    let source = SOURCES.iter().find(|source| source.name() == instance.source);
    let nics = machine::nics(system);
    let wanted = wanted(system, instance.network.as_ref(), image, &nics);
    let from = match &wanted {
        Wanted::Disabled(why) => return Foreseen { source: format!("left alone: {why}"), ..Foreseen::default() },
        Wanted::Image(node) => node.place.source.name.clone(),
        Wanted::Source(config) => format!("the datasource {} ({})", instance.source, config.name),
        Wanted::Fallback(_) | Wanted::Nothing if source.is_none() => {
            let source = "what the datasource tells at the boot".to_owned();
            return Foreseen { source, ..Foreseen::default() };
        }
        Wanted::Fallback(nic) => format!("built-in: DHCP on {nic}"),
        Wanted::Nothing => {
            let source = "as it is: the datasource tells nothing of it".to_owned();
            return Foreseen { source, ..Foreseen::default() };
        }
    };
    let Some(renderer) = machine::renderer(system) else {
        let source = format!("{from}, but the image has neither netplan, systemd-networkd nor ifupdown");
        return Foreseen { source, ..Foreseen::default() };
    };
    let stage = match source {
        Some(source) if source.needs_network(system) => Stage::Init,
        _ => Stage::Local,
    };
    let plan = plan_for(system, &wanted, renderer, &nics);
    let is_left = is_left_alone(&plan, &wanted, stage);
    let files = plan.files.into_iter().map(|file| file.path).filter(|_| !is_left).collect();
    let source = if is_left { format!("{from}, which asks for nothing that can be written") } else { from };
    Foreseen { source, renderer: Some(renderer.name()), files, findings: plan.told }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::network::{Format, NetworkConfig};
    use crate::system::FileOptions;

    const NETWORKD: (&str, &str) = ("/etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "");
    const STATIC: &str = "{version: 2, ethernets: {ens5: {addresses: [10.0.0.2/24]}}}";

    fn told(files: &[(&str, &str)], instance: &Instance) -> Foreseen {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in files {
            system.write(path, text, FileOptions::default()).unwrap();
        }
        let image = Config::of_image(&system).root.get("network").cloned();
        let foreseen = foresee(&system, instance, image);
        assert!(!system.exists("/etc/systemd/network"), "a plan writes nothing");
        foreseen
    }

    #[test]
    fn the_source_the_renderer_and_the_files_are_known_for_an_instance() {
        let network = Some(NetworkConfig::new("seed/network-config", Format::CloudInit, STATIC));
        let foreseen = told(&[NETWORKD], &Instance { network, ..Instance::new("nocloud", "i-1") });
        assert_eq!(foreseen.source, "the datasource nocloud (seed/network-config)");
        assert_eq!(foreseen.renderer, Some("networkd"));
        assert_eq!(foreseen.files, ["/etc/systemd/network/10-cloud-init-ens5.network"]);
    }

    #[test]
    fn of_a_file_alone_no_more_is_known_than_the_image_says() {
        let file = Instance::new("file", "planned");
        assert_eq!(told(&[NETWORKD], &file).source, "what the datasource tells at the boot");
        let own = format!("network: {STATIC}");
        let of_image = told(&[NETWORKD, ("/etc/kiln/agent.yaml", &own)], &file);
        assert_eq!((of_image.source.as_str(), of_image.files.len()), ("/etc/kiln/agent.yaml", 1));
        let off = told(&[NETWORKD, ("/etc/cloud/cloud.cfg.d/99.cfg", "network: {config: disabled}")], &file);
        assert_eq!(off.source, "left alone: `network: {config: disabled}` in /etc/cloud/cloud.cfg.d/99.cfg");
        assert!(told(&[("/etc/kiln/agent.yaml", &own)], &file).source.contains("neither netplan"));
    }

    #[test]
    fn what_would_not_be_written_is_no_file() {
        let network = Some(NetworkConfig::new("x", Format::CloudInit, "{version: 2, ethernets: {ens5: {dhcp4: 7}}}"));
        let foreseen = told(&[NETWORKD], &Instance { network, ..Instance::new("nocloud", "i-1") });
        assert!(foreseen.files.is_empty() && foreseen.findings.len() == 1, "{:?}", foreseen.files);
        assert!(told(&[NETWORKD], &Instance::new("nocloud", "i-1")).source.starts_with("as it is"));
    }
}
