//! The network: what the source told of it, or DHCP on the first interface where nothing configures any.
//!
//! It runs before the network where the source needs none, and once the source has answered otherwise.
//! A network that works is left alone: without a configuration nothing is done on a machine on which
//! anything configures an interface, and a document that cannot be understood at all changes nothing.
//! So is a file of ours that was changed by hand, until the configuration is another one.

mod take_up;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::paths;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::put;
use super::{Failure, Finds, Frequency, Handled, Handler, Outcome};
use crate::config::Config as BootConfig;
use crate::context::Context;
use crate::datasources::Instance;
use crate::network::machine::{self, Nic, Renderer};
use crate::network::{File, Format, LEFT_OUT, NetworkConfig, Plan, plan, plan_of};
use crate::report::Report;
use crate::system::{FileOptions, System};
use take_up::{found, rename, take_up};

/// A program that some images have for the interfaces of EC2.
const EC2_NET_UTILS: &str = "/usr/bin/setup-policy-routes";
/// Folders of cloud-init's own settings, of which the network's count here.
const CLOUD_CONFIG: &str = "/etc/cloud/cloud.cfg.d";
/// Configures the network before it starts.
pub struct Network;

/// The same, for sources that the network leads to.
pub struct NetworkOfSource;

/// Keys of the network.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// In /etc/kiln/agent.yaml, never in user-data: `config: disabled` to leave the network alone, or a
    /// configuration of version 1 or 2, which wins over that of the datasource.
    #[serde(rename = "network")]
    _network: Option<serde_json::Value>,
}

impl Handler for Network {
    const NAME: &'static str = "network";
    const SUMMARY: &'static str = "Configures the network as its source says, else DHCP";
    const STAGE: Stage = Stage::Local;
    const FREQUENCY: Frequency = Frequency::Boot;
    const FINDS: Option<Finds> = Some(|system, config, _| {
        config.get("network").is_some() || system.exists(paths::NETWORK_TOLD) || lacks_network(system)
    });
    type Config = Config;

    fn best_effort(_: &Config) -> bool {
        true
    }

    fn check(config: &Node) -> Vec<Diagnostic> {
        let told = config.get("network").filter(|node| !is_of_image(node));
        let message = "a network's configuration in user-data is not read, as the user-data may come over that \
                       network; give it to the datasource, or write it into /etc/kiln/agent.yaml";
        told.map(|node| node.diagnostic(Severity::Warning, "network", message)).into_iter().collect()
    }

    fn run(_: &Config, context: &mut Context) -> Handled {
        let image = image_key(context);
        whole(context, image, Stage::Local)
    }
}

impl Handler for NetworkOfSource {
    const NAME: &'static str = "network_of_source";
    const SUMMARY: &'static str = "Configures the network as a source behind it says";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Boot;
    const FINDS: Option<Finds> = Some(|system, _, _| system.exists(paths::NETWORK_TOLD));
    type Config = Config;

    fn best_effort(_: &Config) -> bool {
        true
    }

    fn run(_: &Config, context: &mut Context) -> Handled {
        let image = image_key(context);
        whole(context, image, Stage::Init)
    }
}

/// Prepares the network by which a source is to be reached. `image` is the image's own configuration.
pub fn before_the_source(system: &System, image: &Node, report: &Report) {
    let image = image.get("network").cloned();
    if image.is_none() && !lacks_network(system) {
        return;
    }
    let context = Context::new(
        system.clone(),
        Arc::new(Instance::default()),
        Arc::new(Node::empty_map(yaml::Place::whole("user-data"))),
        Arc::new([]),
        report.clone(),
    );
    match whole(&context, image, Stage::Local) {
        // A failure has been told as a finding already.
        Err(failure) => tracing::error!("the network: {}", failure.message),
        Ok(outcome) => tracing::info!("the network: {outcome:?}"),
    }
}

/// Whether nothing configures the network, and there is something to configure and a program for it.
fn lacks_network(system: &System) -> bool {
    // In a container without a network there is nothing to look for.
    if !machine::has_interfaces(system) && !machine::may_come(system, &[]) {
        return false;
    }
    if machine::is_configured(system) || machine::renderer(system).is_none() {
        return false;
    }
    let nics = machine::nics(system);
    machine::first(&nics).is_some() || machine::may_come(system, &nics)
}

/// Whether a value stands in the agent's own files.
fn is_of_image(node: &Node) -> bool {
    node.place.source.name.starts_with("/etc/kiln/")
}

/// The image's own configuration of the network. User-data may have hidden it, so it is read again.
fn image_key(context: &Context) -> Option<Node> {
    context.config.get("network")?;
    BootConfig::of_image(&context.system).root.get("network").cloned()
}

/// The same, from cloud-init's settings; the file of a later name wins.
fn cloud_key(system: &System) -> Option<Node> {
    let names = system.list(CLOUD_CONFIG).unwrap_or_default();
    let paths = names.into_iter().filter(|name| name.ends_with(".cfg")).map(|name| format!("{CLOUD_CONFIG}/{name}"));
    let key = |path: String| {
        let text = system.read_text(&path).ok().filter(|text| text.contains("network"))?;
        yaml::parse(&path, &text).ok()?.0.get("network").cloned()
    };
    paths.rev().chain(std::iter::once("/etc/cloud/cloud.cfg".to_owned())).find_map(key)
}

/// What the files are to be made of.
enum Wanted {
    Disabled(String),
    Image(Node),
    Source(NetworkConfig),
    /// DHCP on this interface.
    Fallback(String),
    Nothing,
}

fn wanted(context: &Context, image: Option<Node>, nics: &[Nic]) -> Wanted {
    let system = &context.system;
    if system.kernel_was_told(|word| word == "network-config=disabled") {
        return Wanted::Disabled("network-config=disabled on the kernel's command line".to_owned());
    }
    if let Some(node) = image.or_else(|| cloud_key(system)) {
        if node.get("config").is_some_and(|config| config.to_json() == "disabled") {
            return Wanted::Disabled(format!("`network: {{config: disabled}}` in {}", node.place.source.name));
        }
        if node.get("version").is_some() {
            return Wanted::Image(node);
        }
    }
    match (&context.instance.network, machine::first(nics)) {
        (Some(config), _) if config.format == Format::Ec2 && system.exists(EC2_NET_UTILS) => Wanted::Nothing,
        (Some(config), _) => Wanted::Source(config.clone()),
        (None, Some(nic)) if lacks_network(system) => Wanted::Fallback(nic.name.clone()),
        (None, _) => Wanted::Nothing,
    }
}

/// Everything, with failures told as findings too: that the network is not there is no small matter.
fn whole(context: &Context, image: Option<Node>, stage: Stage) -> Handled {
    let handled = configure(context, image, stage);
    context.system.remove(paths::NETWORK_TOLD)?;
    if let Err(failure) = &handled
        && failure.reason != Reason::Config
        && failure.reason != Reason::Unsupported
    {
        context.tell(vec![Diagnostic::error("network", failure.message.clone())])?;
    }
    handled
}

fn configure(context: &Context, image: Option<Node>, stage: Stage) -> Handled {
    let system = &context.system;
    let skipped = |reason, message: &str| Ok(Outcome::Skipped(reason, message.to_owned()));
    let nics = found(context);
    let wanted = wanted(context, image, &nics);
    match &wanted {
        Wanted::Disabled(why) => return Ok(Outcome::Skipped(Reason::SwitchedOff, format!("{why} says so"))),
        Wanted::Nothing => return skipped(Reason::NothingToDo, "nobody told a configuration of the network"),
        Wanted::Image(_) | Wanted::Source(_) | Wanted::Fallback(_) => {}
    }
    let Some(renderer) = machine::renderer(system) else {
        let message = "there is neither netplan, systemd-networkd nor ifupdown to configure the network with; put \
                       one of them into the image, or NetworkManager's own files";
        return Err(Failure::new(Reason::Unsupported, message));
    };
    let record = record(&wanted, renderer, &context.instance.id);
    let are_ours_there = || !machine::ours(system).is_empty();
    if system.read_text(paths::NETWORK_RECORD).is_ok_and(|old| old == record) && are_ours_there() {
        return skipped(Reason::RanBefore, "the configuration is as it was when its files were written");
    }
    let Plan { files, network, mut told, otherwise } = match &wanted {
        Wanted::Source(config) => plan(config, renderer, &nics),
        Wanted::Image(node) => plan_of(node, Format::CloudInit, renderer, &nics),
        Wanted::Fallback(name) => plan(&fallback(name), renderer, &nics),
        Wanted::Disabled(_) | Wanted::Nothing => Plan::default(),
    };
    if !files.is_empty() {
        told.extend(not_sourced(system, renderer));
    }
    let mut left_out: Vec<String> =
        told.iter().filter(|finding| is_serious(finding)).map(ToString::to_string).collect();
    context.tell(told)?;
    // The source was reached by the network, so the image does this much by itself.
    let is_usual = stage != Stage::Local && !network.is_more_than_usual();
    let is_of_source = matches!(&wanted, Wanted::Source(config) if config.format != Format::CloudInit);
    // What could not be read may have been the only address: without any, the machine would be cut off.
    let would_cut = !left_out.is_empty() && !network.gives_an_address();
    if files.is_empty() || would_cut || is_usual && is_of_source {
        return match left_out.as_slice() {
            [] => skipped(Reason::NothingToDo, "the configuration has nothing that the machine does not do anyway"),
            told => Err(Failure::new(Reason::Config, format!("the network is left as it is: {}", told.join("; ")))),
        };
    }
    let before = kept(system, &files);
    let changed = write(system, &files)?;
    // Also where no file is another one: an earlier boot may have failed here.
    rename(context, &network.links, &nics, stage)?;
    match (take_up(context, renderer, stage), otherwise) {
        (Ok(()), _) => {}
        // A document that netplan refuses is no network at all; what is understood here is more than that.
        (Err(refusal), Some(file)) if refusal.reason == Reason::CommandFailed => {
            put(system, &file.path, &file.text, file.mode)?;
            if let Err(failure) = take_up(context, renderer, stage) {
                return Err(restored(system, &before, failure));
            }
            left_out.push(refusal.message);
        }
        // With one file that it refuses netplan does nothing at the next boot, for the image's own ones either.
        (Err(refusal), None) if renderer == Renderer::Netplan && refusal.reason == Reason::CommandFailed => {
            return Err(restored(system, &before, refusal));
        }
        (Err(failure), _) => return Err(failure),
    }
    let detail = json!({"renderer": renderer.name(), "changed": changed});
    if !left_out.is_empty() {
        // Without a record, so that a later boot says it again.
        let message = format!("the network is configured but for this: {}", left_out.join("; "));
        return Err(Failure::new(Reason::Config, message).with_detail(detail));
    }
    // It holds what the document holds.
    system.write(paths::NETWORK_RECORD, record, FileOptions::mode(0o600))?;
    Ok(Outcome::Ok(Some(detail)))
}

/// That ifupdown will not see the file of ours.
fn not_sourced(system: &System, renderer: Renderer) -> Option<Diagnostic> {
    let path = "/etc/network/interfaces";
    let lacks =
        renderer == Renderer::Ifupdown && !system.read_text(path).is_ok_and(|text| text.contains("interfaces.d"));
    let message = "it has no line `source /etc/network/interfaces.d/*`, so nothing of the configuration counts; add it";
    lacks.then(|| Diagnostic::error(path, message))
}

fn is_serious(finding: &Diagnostic) -> bool {
    finding.severity == Severity::Error || finding.message.ends_with(LEFT_OUT)
}

/// What another boot compares itself with: the image's configuration is of no instance.
fn record(wanted: &Wanted, renderer: Renderer, id: &str) -> String {
    let renderer = renderer.name();
    match wanted {
        Wanted::Image(node) => format!("image {renderer}\n{}", node.to_json()),
        Wanted::Source(config) => format!("{id} {renderer} {:?}\n{}", config.format, config.text),
        Wanted::Fallback(name) => format!("{id} {renderer} fallback {name}"),
        Wanted::Disabled(_) | Wanted::Nothing => String::new(),
    }
}

/// DHCP on an interface.
fn fallback(name: &str) -> NetworkConfig {
    let text = json!({"version": 2, "ethernets": {name: {"dhcp4": true, "dhcp6": true}}}).to_string();
    NetworkConfig::new("the built-in configuration", Format::CloudInit, text)
}

/// Files as they are before they are written; none where there is no file.
type Before = Vec<(String, u32, Option<Vec<u8>>)>;

fn kept(system: &System, files: &[File]) -> Before {
    files.iter().map(|file| (file.path.clone(), file.mode, system.read(&file.path).ok())).collect()
}

/// The failure, after the files have been put back.
fn restored(system: &System, before: &Before, failure: Failure) -> Failure {
    let put_back = before.iter().try_for_each(|(path, mode, old)| match old {
        Some(bytes) => system.write(path, bytes, FileOptions::mode(*mode)),
        None => system.remove(path),
    });
    let then = match put_back {
        Ok(()) => "the files are as they were".to_owned(),
        Err(error) => format!("the files could not be put back: {error}"),
    };
    Failure { message: format!("{}; {then}", failure.message), ..failure }
}

/// Writes the files and removes those of ours that are no more; which of them were other ones before.
fn write(system: &System, files: &[File]) -> Result<Vec<String>, Failure> {
    let mut changed = Vec::new();
    for file in files {
        if put(system, &file.path, &file.text, file.mode)? {
            changed.push(file.path.clone());
        }
    }
    for path in machine::ours(system) {
        if !files.iter().any(|file| file.path == path) {
            system.remove(&path)?;
            changed.push(path);
        }
    }
    Ok(changed)
}
