//! The network: what the source told of it, or DHCP on the first interface where nothing configures any.
//!
//! It runs before the network where the source needs none, and once the source has answered otherwise.
//! A network that works is left alone: without a configuration nothing is done on a machine on which
//! anything configures an interface, and a document that cannot be understood at all changes nothing.
//! So is a file of ours that was changed by hand, until the configuration is another one.

use std::sync::Arc;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::paths;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::{must, put};
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::config::Config as BootConfig;
use crate::context::Context;
use crate::datasources::Instance;
use crate::network::machine::{self, Nic, Renderer};
use crate::network::{File, Format, LEFT_OUT, NetworkConfig, Plan, plan, plan_of};
use crate::report::Report;
use crate::system::{FileOptions, System};
use crate::userdata::Script;

/// What the files were made of last, closed to others.
const RECORD: &str = "/var/lib/kiln/network";
/// Folders of cloud-init's own settings, of which the network's count here.
const CLOUD_CONFIG: &str = "/etc/cloud/cloud.cfg.d";
/// Our files: folder, and how their names begin.
const OURS: &[(&str, &str)] = &[
    ("/etc/systemd/network", "10-cloud-init-"),
    ("/etc/netplan", "50-cloud-init.yaml"),
    ("/etc/network/interfaces.d", "50-cloud-init"),
];

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
    const SUMMARY: &'static str = "Configures the network as the datasource says, else with DHCP where nothing does";
    const STAGE: Stage = Stage::Local;
    const FREQUENCY: Frequency = Frequency::Boot;
    const FINDS: Option<fn(&System, &[Script]) -> bool> =
        Some(|system, _| system.exists(paths::NETWORK_TOLD) || lacks_network(system));
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
    const SUMMARY: &'static str = "Configures the network as a datasource says that the network leads to";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Boot;
    const FINDS: Option<fn(&System, &[Script]) -> bool> = Some(|system, _| system.exists(paths::NETWORK_TOLD));
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
    !machine::is_configured(system) && machine::first(system).is_some() && machine::renderer(system).is_some()
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

fn wanted(context: &Context, image: Option<Node>) -> Wanted {
    let system = &context.system;
    if system.kernel_command_line().split_whitespace().any(|word| word == "network-config=disabled") {
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
    match (&context.instance.network, machine::first(system)) {
        (Some(config), _) => Wanted::Source(config.clone()),
        (None, Some(nic)) if lacks_network(system) => Wanted::Fallback(nic.name),
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
    let wanted = wanted(context, image);
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
    if system.read_text(RECORD).is_ok_and(|old| old == record) {
        return skipped(Reason::RanBefore, "the configuration is as it was when its files were written");
    }
    let nics = machine::nics(system);
    let Plan { files, network, told, otherwise } = match &wanted {
        Wanted::Source(config) => plan(config, renderer, &nics),
        Wanted::Image(node) => plan_of(node, Format::CloudInit, renderer, &nics),
        Wanted::Fallback(name) => plan(&fallback(name), renderer, &nics),
        Wanted::Disabled(_) | Wanted::Nothing => Plan::default(),
    };
    let mut left_out: Vec<String> =
        told.iter().filter(|finding| is_serious(finding)).map(ToString::to_string).collect();
    context.tell(told)?;
    if files.is_empty() {
        return match left_out.as_slice() {
            [] => skipped(Reason::NothingToDo, "the configuration has nothing that the machine does not do anyway"),
            told => Err(Failure::new(Reason::Config, format!("the network is left as it is: {}", told.join("; ")))),
        };
    }
    let changed = write(system, &files)?;
    if !changed.is_empty() {
        rename(context, &network.links, &nics, stage)?;
        match (take_up(context, renderer, stage), otherwise) {
            (Ok(()), _) => {}
            // A document that netplan refuses is no network at all; what is understood here is more than that.
            (Err(refusal), Some(file)) if refusal.reason == Reason::CommandFailed => {
                put(system, &file.path, &file.text, file.mode)?;
                take_up(context, renderer, stage)?;
                left_out.push(refusal.message);
            }
            (Err(failure), _) => return Err(failure),
        }
    }
    let detail = json!({"renderer": renderer.name(), "changed": changed});
    if !left_out.is_empty() {
        // Without a record, so that a later boot says it again.
        let message = format!("the network is configured but for this: {}", left_out.join("; "));
        return Err(Failure::new(Reason::Config, message).with_detail(detail));
    }
    // It holds what the document holds.
    system.write(RECORD, record, FileOptions::mode(0o600))?;
    Ok(Outcome::Ok(Some(detail)))
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

/// Writes the files and removes those of ours that are no more; which of them were other ones before.
fn write(system: &System, files: &[File]) -> Result<Vec<String>, Failure> {
    let mut changed = Vec::new();
    for file in files {
        if put(system, &file.path, &file.text, file.mode)? {
            changed.push(file.path.clone());
        }
    }
    for (folder, prefix) in OURS {
        for name in system.list(folder)?.into_iter().filter(|name| name.starts_with(prefix)) {
            let path = format!("{folder}/{name}");
            if !files.iter().any(|file| file.path == path) {
                system.remove(&path)?;
                changed.push(path);
            }
        }
    }
    Ok(changed)
}

/// Gives interfaces their names now: udev, which has the files for it, saw them before these were there.
fn rename(context: &Context, links: &[crate::network::Link], nics: &[Nic], stage: Stage) -> Result<(), Failure> {
    // An interface in use cannot be renamed. It has its name after the next start.
    if stage != Stage::Local || !context.system.is_live() {
        return Ok(());
    }
    let mut moves: Vec<(String, String)> = Vec::new();
    for link in links.iter().filter(|link| link.renamed) {
        let nic = nics.iter().find(|nic| link.matches.fits(nic) && !nic.is_up);
        moves.extend(nic.filter(|nic| nic.name != link.name).map(|nic| (nic.name.clone(), link.name.clone())));
    }
    let ip = |old: &str, new: &str| {
        let command = context.command("ip").args(["link", "set", "dev", old, "name", new]);
        must(context, &command, "install iproute2 in the image").map(|_| ())
    };
    // Two that change places go by way of a third name.
    for (index, (old, new)) in moves.iter_mut().enumerate() {
        if nics.iter().any(|nic| nic.name == *new) {
            let between = format!("kiln{index}");
            ip(old, &between)?;
            *old = between;
        }
    }
    moves.iter().try_for_each(|(old, new)| ip(old, new))
}

/// Has the program see its files.
fn take_up(context: &Context, renderer: Renderer, stage: Stage) -> Result<(), Failure> {
    let run = |program: &str, args: &[&str]| {
        let command = context.command(program).args(args.iter().copied());
        must(context, &command, "its files are written and count from the next start on").map(|_| ())
    };
    let netplan = |verb: &str| {
        let finished = context.run(&context.command("netplan").args([verb]))?;
        if finished.success() {
            return Ok(());
        }
        // Around the line that says it, netplan shows the document, in which passwords may stand.
        let said = finished.last_lines(20).into_iter().find(|line| line.contains("/etc/netplan/"));
        let said = said.map_or_else(String::new, |line| format!(": {}", line.trim()));
        Err(Failure::new(Reason::CommandFailed, format!("netplan {verb} {}{said}", finished.ending())))
    };
    match (renderer, stage) {
        // Netplan's generator ran when the machine started, and before the files were there.
        (Renderer::Netplan, Stage::Local) => netplan("generate"),
        (Renderer::Netplan, _) => netplan("apply"),
        (Renderer::Networkd, _) if !machine::networkd_is_on(&context.system) => {
            run("systemctl", &["enable", "systemd-networkd.service"])?;
            // This stage is one that it waits for.
            run("systemctl", &["start", "--no-block", "systemd-networkd.service"])
        }
        // They start after this stage and read the files then.
        (Renderer::Networkd | Renderer::Ifupdown, Stage::Local) => Ok(()),
        (Renderer::Networkd, _) => run("networkctl", &["reload"]),
        (Renderer::Ifupdown, _) => run("ifup", &["-a"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORKD: &str = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
    const ENS5: (&str, &str) = ("/sys/class/net/ens5/device/uevent", "DRIVER=ena");
    const FILE: &str = "/etc/systemd/network/10-cloud-init-ens5.network";
    const STATIC: &str = "{version: 2, ethernets: {ens5: {addresses: [10.0.0.2/24]}}}";

    struct Machine {
        _tree: tempfile::TempDir,
        context: Context,
    }

    fn machine(files: &[(&str, &str)], told: Option<&str>, user_data: &str) -> Machine {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        for (path, text) in files {
            context.system.write(path, text, FileOptions::default()).unwrap();
        }
        let network = told.map(|text| NetworkConfig::new("network-config", Format::CloudInit, text));
        context.instance = Arc::new(Instance { network, ..Instance::new("test", "i-test") });
        Machine { _tree: tree, context }
    }

    impl Machine {
        fn run(&mut self) -> Handled {
            self.context.run_handler::<Network>()
        }

        fn tell(&mut self, id: &str, text: &str) {
            let network = Some(NetworkConfig::new("network-config", Format::CloudInit, text));
            self.context.instance = Arc::new(Instance { network, ..Instance::new("test", id) });
        }

        fn file(&self) -> Option<String> {
            self.context.system.read_text(FILE).ok()
        }
    }

    fn reason(handled: Handled) -> Reason {
        match handled {
            Ok(Outcome::Skipped(reason, _)) => reason,
            Err(failure) | Ok(Outcome::Failed(failure)) => failure.reason,
            Ok(Outcome::Ok(detail)) => panic!("it did something: {detail:?}"),
        }
    }

    #[test]
    fn a_machine_whose_network_nobody_configures_asks_dhcp_and_only_that_one() {
        let finds = |machine: &Machine| Network::FINDS.unwrap()(&machine.context.system, &[]);
        let mut bare = machine(&[(NETWORKD, ""), ENS5], None, "{}");
        assert!(finds(&bare));
        assert!(matches!(bare.run(), Ok(Outcome::Ok(_))));
        assert!(bare.file().unwrap().contains("[Match]\nName=ens5\n\n[Network]\nDHCP=yes\n"));
        assert!(!finds(&bare));
        assert_eq!(reason(bare.run()), Reason::NothingToDo);
        for files in [
            &[(NETWORKD, ""), ENS5, ("/etc/systemd/network/own.network", "")][..],
            &[(NETWORKD, ""), ENS5, ("/sys/class/net/ens5/flags", "0x1003")],
            &[(NETWORKD, "")],
            &[ENS5],
        ] {
            let mut other = machine(files, None, "{}");
            assert!(!finds(&other), "{files:?}");
            assert_eq!(reason(other.run()), Reason::NothingToDo);
            assert_eq!(other.file(), None);
        }
    }

    #[test]
    fn what_was_changed_by_hand_stays_until_the_configuration_or_the_instance_is_another() {
        let mut machine = machine(&[(NETWORKD, ""), ENS5], Some(STATIC), "{}");
        assert!(matches!(machine.run(), Ok(Outcome::Ok(_))));
        assert!(machine.file().unwrap().contains("Address=10.0.0.2/24"));
        machine.context.system.write(FILE, "mine", FileOptions::default()).unwrap();
        assert_eq!(reason(machine.run()), Reason::RanBefore);
        assert_eq!(machine.file().as_deref(), Some("mine"));
        machine.tell("i-other", STATIC);
        assert!(matches!(machine.run(), Ok(Outcome::Ok(_))));
        assert!(machine.file().unwrap().contains("Address=10.0.0.2/24"));
        machine.tell("i-other", "{version: 2, ethernets: {ens6: {dhcp4: true}}}");
        assert!(matches!(machine.run(), Ok(Outcome::Ok(_))));
        assert_eq!(machine.file(), None);
        assert_eq!(machine.context.system.list("/etc/systemd/network").unwrap(), ["10-cloud-init-ens6.network"]);
    }

    #[test]
    fn a_document_that_cannot_be_used_changes_nothing_and_is_told_at_every_boot() {
        let mut machine = machine(&[(NETWORKD, ""), (FILE, "works")], Some("version: 7"), "{}");
        for _ in 0..2 {
            let failure = machine.run().unwrap_err();
            let sentence = "the network is left as it is: network-config:1:10: error: version: the network's";
            assert!(failure.message.starts_with(sentence), "{}", failure.message);
            assert_eq!(machine.file().as_deref(), Some("works"));
        }
        machine.tell("i-test", "{version: 2, ethernets: {ens5: {dhcp4: 7, mtu: 1400}}}");
        for _ in 0..2 {
            let failure = machine.run().unwrap_err();
            assert!(failure.message.contains("ethernets.ens5.dhcp4: expected true or false"), "{}", failure.message);
            assert!(machine.file().unwrap().contains("MTUBytes=1400"));
        }
        assert_eq!(machine.context.status_so_far().diagnostics.len(), 2);
    }

    #[test]
    fn the_image_and_the_command_line_can_switch_it_off_and_user_data_cannot() {
        let disabled = "network: {config: disabled}";
        for off in [
            ("/etc/kiln/agent.yaml", disabled),
            ("/etc/cloud/cloud.cfg.d/99-off.cfg", disabled),
            ("/proc/cmdline", "ro network-config=disabled"),
        ] {
            let mut machine = machine(&[(NETWORKD, ""), ENS5, off], Some(STATIC), disabled);
            assert_eq!((reason(machine.run()), machine.file()), (Reason::SwitchedOff, None), "{off:?}");
        }
        let mut machine = machine(&[(NETWORKD, ""), ENS5], Some(STATIC), disabled);
        assert!(matches!(machine.run(), Ok(Outcome::Ok(_))));
        let told = Network::check(&machine.context.config);
        assert!(told[0].to_string().starts_with("user-data:1:10: warning: network: a network's configuration in user"));
    }

    #[test]
    fn the_image_s_own_configuration_wins_over_the_source() {
        let own = "network: {version: 1, config: [{type: physical, name: ens5, subnets: [{type: dhcp4}]}]}";
        let mut of_cloud = machine(&[(NETWORKD, ""), ("/etc/cloud/cloud.cfg.d/a.cfg", own)], Some(STATIC), "{}");
        assert!(matches!(of_cloud.run(), Ok(Outcome::Ok(_))));
        assert!(of_cloud.file().unwrap().contains("DHCP=ipv4"));
        let before = machine(&[(NETWORKD, ""), ("/etc/kiln/agent.yaml", own)], None, "{}");
        let root = BootConfig::of_image(&before.context.system).root;
        before_the_source(&before.context.system, &root, &Report::begin(&before.context.system));
        assert!(before.file().unwrap().contains("DHCP=ipv4"));
    }

    #[test]
    fn a_machine_without_a_program_for_it_is_told_what_to_put_in() {
        let manager = ("/etc/systemd/system/multi-user.target.wants/NetworkManager.service", "");
        let mut machine = machine(&[manager, ENS5], Some(STATIC), "{}");
        let failure = machine.run().unwrap_err();
        assert!(failure.reason == Reason::Unsupported && failure.message.contains("NetworkManager's own files"));
    }
}
