//! The network: what the source told of it, or DHCP on the first interface where nothing configures any.
//!
//! It runs before the network where the source needs none, and once the source has answered otherwise.
//! A network that works is left alone: without a configuration nothing is done on a machine on which
//! anything configures an interface, and a document that cannot be understood at all changes nothing.
//! So is a file of ours that was changed by hand, until the configuration is another one.

mod files;
pub mod foreseen;
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

use super::edit::{put, text_or_empty};
use super::{Failure, Finds, Frequency, Handled, Handler, Outcome};
use crate::cloud_init::settings;
use crate::config::Config as BootConfig;
use crate::context::Context;
use crate::datasources::Instance;
use crate::network::machine::{self, Nic, Renderer};
use crate::network::{Format, LEFT_OUT, NetworkConfig, Plan, plan, plan_of};
use crate::report::Report;
use crate::system::{FileOptions, System};
use files::{kept, print_of, restored, write};
use take_up::{bring_up, found, rename, take_down, take_up};

/// A program that some images have for the interfaces of EC2.
const EC2_NET_UTILS: &str = "/usr/bin/setup-policy-routes";
/// Follows the record of a configuration of which something is left to do: the files as they were written, and
/// what that is.
const UNDONE: &str = "\nwritten as ";

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
        config.get("network").is_some() || system.exists(paths::NETWORK_TOLD) || has_work(system)
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
    if image.is_none() && !has_work(system) {
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

/// Whether something is to be done though nobody tells a configuration.
fn has_work(system: &System) -> bool {
    lacks_network(system) || !machine::stale(system).is_empty()
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
    let key = |path: String| {
        let text = system.read_text(&path).ok().filter(|text| text.contains("network"))?;
        yaml::parse(&path, &text).ok()?.0.get("network").cloned()
    };
    settings::files(system).into_iter().rev().find_map(key)
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

fn wanted(system: &System, told: Option<&NetworkConfig>, image: Option<Node>, nics: &[Nic]) -> Wanted {
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
    match (told, machine::first(nics)) {
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
    let wanted = wanted(system, context.instance.network.as_ref(), image, &nics);
    match &wanted {
        Wanted::Disabled(why) => return Ok(Outcome::Skipped(Reason::SwitchedOff, format!("{why} says so"))),
        Wanted::Nothing if !machine::stale(system).is_empty() => return forget(context, stage),
        Wanted::Nothing => return skipped(Reason::NothingToDo, "nobody told a configuration of the network"),
        Wanted::Image(_) | Wanted::Source(_) | Wanted::Fallback(_) => {}
    }
    let Some(renderer) = machine::renderer(system) else {
        let message = "there is neither netplan, systemd-networkd nor ifupdown to configure the network with; put \
                       one of them into the image, or NetworkManager's own files";
        return Err(Failure::new(Reason::Unsupported, message));
    };
    let record = record(&wanted, renderer, &context.instance.id);
    let known = text_or_empty(system, paths::NETWORK_RECORD)?;
    let known = known.strip_prefix(&record).filter(|_| !machine::ours(system).is_empty());
    if known == Some("") {
        return skipped(Reason::RanBefore, "the configuration is as it was when its files were written");
    }
    let plan = plan_for(system, &wanted, renderer, &nics);
    let is_left = is_left_alone(&plan, &wanted, stage);
    let Plan { files, network, told, otherwise } = plan;
    let mut left_out: Vec<String> =
        told.iter().filter(|finding| is_serious(finding)).map(ToString::to_string).collect();
    context.tell(told)?;
    if let Some((print, left_out)) = known.and_then(|rest| rest.strip_prefix(UNDONE)?.split_once('\n'))
        && print != print_of(system)
    {
        // What the program did not take up at once it has taken up at its start.
        if left_out.is_empty() {
            return skipped(Reason::RanBefore, "the files were changed by hand since they were written");
        }
        let message = format!("its files were changed by hand since, so this is still left out: {left_out}");
        return Err(Failure::new(Reason::Config, message));
    }
    if is_left {
        return match left_out.as_slice() {
            [] => skipped(Reason::NothingToDo, "the configuration has nothing that the machine does not do anyway"),
            told => Err(Failure::new(Reason::Config, format!("the network is left as it is: {}", told.join("; ")))),
        };
    }
    let before = kept(system, &files);
    // From here on they are this instance's, and a later boot goes on with what is not done.
    let undone = |left_out: &[String]| {
        let text = format!("{record}{UNDONE}{}\n{}", print_of(system), left_out.join("; "));
        system.write(paths::NETWORK_RECORD, text, FileOptions::mode(0o600))
    };
    let down = take_down(context, renderer, stage, &files, &network.links, &nics)?;
    let written = write(system, &files).and_then(|changed| {
        undone(&left_out)?;
        bring_up(context, &down).map(|()| changed)
    });
    let changed = written.map_err(|failure| {
        let failure = restored(system, &before, failure);
        // By the files of before; what it says is no news after the failure.
        let _ = bring_up(context, &down);
        failure
    })?;
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
        // A later boot says it again, and does not write what somebody has mended by hand.
        undone(&left_out)?;
        let message = format!("the network is configured but for this: {}", left_out.join("; "));
        return Err(Failure::new(Reason::Config, message).with_detail(detail));
    }
    // It holds what the document holds.
    system.write(paths::NETWORK_RECORD, record, FileOptions::mode(0o600))?;
    Ok(Outcome::Ok(Some(detail)))
}

/// The files of what is wanted.
fn plan_for(system: &System, wanted: &Wanted, renderer: Renderer, nics: &[Nic]) -> Plan {
    let mut plan = match wanted {
        Wanted::Source(config) => plan(config, renderer, nics),
        Wanted::Image(node) => plan_of(node, Format::CloudInit, renderer, nics),
        Wanted::Fallback(name) => plan(&fallback(name), renderer, nics),
        Wanted::Disabled(_) | Wanted::Nothing => Plan::default(),
    };
    if !plan.files.is_empty() {
        plan.told.extend(not_sourced(system, renderer));
    }
    plan
}

/// Whether nothing of the plan is to be written.
fn is_left_alone(plan: &Plan, wanted: &Wanted, stage: Stage) -> bool {
    // The source was reached by the network, so the image does this much by itself.
    let is_usual = stage != Stage::Local && !plan.network.is_more_than_usual();
    let is_of_source = matches!(wanted, Wanted::Source(config) if config.format != Format::CloudInit);
    // What could not be read may have been the only address: without any, the machine would be cut off.
    let would_cut = plan.told.iter().any(is_serious) && !plan.network.gives_an_address();
    plan.files.is_empty() || would_cut || is_usual && is_of_source
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

/// Removes what an image has of the instance that it was made of: it would configure this one.
fn forget(context: &Context, stage: Stage) -> Handled {
    let removed = machine::stale(&context.system);
    removed.iter().try_for_each(|path| context.system.remove(path))?;
    if let Some(renderer) = machine::renderer(&context.system) {
        take_up(context, renderer, stage)?;
    }
    Ok(Outcome::Ok(Some(json!({"removed": removed}))))
}

/// DHCP on an interface.
fn fallback(name: &str) -> NetworkConfig {
    let text = json!({"version": 2, "ethernets": {name: {"dhcp4": true, "dhcp6": true}}}).to_string();
    NetworkConfig::new("the built-in configuration", Format::CloudInit, text)
}
