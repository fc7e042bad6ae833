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
        crate::testing::executable(&context.system, path, text);
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
    let finds = |machine: &Machine| Network::FINDS.unwrap()(&machine.context.system, &machine.context.config, &[]);
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
fn an_interface_that_may_still_come_is_looked_for_and_is_no_failure_when_it_does_not() {
    let mut machine = machine(&[(NETWORKD, ""), ("/run/udev/control", "")], None, "{}");
    assert!(Network::FINDS.unwrap()(&machine.context.system, &machine.context.config, &[]));
    assert_eq!(reason(machine.run()), Reason::NothingToDo);
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
        assert_eq!(machine.file().as_deref(), Some("works"), "no address is left in it");
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

#[test]
fn files_that_were_taken_away_are_written_again_though_the_configuration_is_the_same() {
    let mut machine = machine(&[(NETWORKD, ""), ENS5], Some(STATIC), "{}");
    assert!(matches!(machine.run(), Ok(Outcome::Ok(_))));
    machine.context.system.remove(FILE).unwrap();
    assert!(matches!(machine.run(), Ok(Outcome::Ok(_))) && machine.file().is_some());
}

#[test]
fn a_network_that_led_to_the_source_is_left_alone_where_the_source_tells_nothing_new() {
    let mac = ("/sys/class/net/ens5/address", "52:54:00:12:34:00");
    let told = |network_type: &str| {
        let link = r#""links": [{"id": "a", "type": "phy", "ethernet_mac_address": "52:54:00:12:34:00"}]"#;
        format!(r#"{{{link}, "networks": [{{"link": "a", "type": "{network_type}", "ip_address": "10.0.0.9"}}]}}"#)
    };
    let with = |network_type: &str| {
        let mut machine = machine(&[(NETWORKD, ""), ENS5, mac], None, "{}");
        let network = Some(NetworkConfig::new("network_data.json", Format::OpenStack, told(network_type)));
        machine.context.instance = Arc::new(Instance { network, ..Instance::new("test", "i-test") });
        machine
    };
    let mut late = with("ipv4_dhcp");
    assert_eq!(reason(late.context.run_handler::<NetworkOfSource>()), Reason::NothingToDo);
    assert_eq!(late.file(), None);
    // Before the network there is nothing that has led anywhere.
    let mut early = with("ipv4_dhcp");
    assert!(matches!(early.run(), Ok(Outcome::Ok(_))) && early.file().unwrap().contains("DHCP=ipv4"));
    // networkctl lacks in this tree, so the files count from the next start on.
    let mut fixed = with("ipv4");
    let failure = fixed.context.run_handler::<NetworkOfSource>().unwrap_err();
    assert!(failure.message.ends_with("its files are written and count from the next start on"), "{failure:?}");
    assert!(fixed.file().unwrap().contains("Address=10.0.0.9/24"));
    assert_eq!(fixed.context.status_so_far().diagnostics.len(), 1);
}

#[test]
fn the_files_of_the_machine_that_an_image_was_made_of_do_not_keep_a_new_one_without_network() {
    let old = "/etc/systemd/network/10-cloud-init-eth7.network";
    let mut machine = machine(&[(NETWORKD, ""), ENS5, (old, "[Match]\nName=eth7\n")], None, "{}");
    assert!(matches!(machine.run(), Ok(Outcome::Ok(_))));
    assert!(machine.file().is_some() && !machine.context.system.exists(old));
}

#[test]
fn ifupdown_that_does_not_read_the_file_of_ours_is_told() {
    let interfaces = "/etc/network/interfaces";
    let lo = "auto lo\niface lo inet loopback\n";
    let mut machine = machine(&[("/usr/sbin/ifup", ""), (interfaces, lo)], Some(STATIC), "{}");
    assert!(machine.run().unwrap_err().message.contains("it has no line `source /etc/network/interfaces.d/*`"));
    let text = machine.context.system.read_text("/etc/network/interfaces.d/50-cloud-init").unwrap();
    assert!(text.contains("address 10.0.0.2/24"));
    machine.context.system.write(interfaces, "source-directory interfaces.d\n", FileOptions::default()).unwrap();
    assert!(matches!(machine.run(), Ok(Outcome::Ok(_))));
}

#[test]
fn what_was_changed_by_hand_stays_also_while_something_is_left_out_of_the_document() {
    let partly = "{version: 2, ethernets: {ens5: {addresses: [10.0.0.2/24, nonsense]}}}";
    let mut machine = machine(&[(NETWORKD, ""), ENS5], Some(partly), "{}");
    let first = machine.run().unwrap_err();
    assert!(first.message.starts_with("the network is configured but for this: "), "{}", first.message);
    // Nobody touched it: it is as it should be, and is told again.
    assert_eq!(machine.run().unwrap_err().message, first.message);
    machine.context.system.write(FILE, "mine", FileOptions::default()).unwrap();
    for _ in 0..2 {
        let failure = machine.run().unwrap_err();
        assert!(failure.message.contains("ethernets.ens5.addresses[1]: "), "{}", failure.message);
        assert_eq!(machine.file().as_deref(), Some("mine"));
    }
    machine.tell("i-test", &partly.replace("nonsense", "rubbish"));
    machine.run().unwrap_err();
    assert!(machine.file().unwrap().contains("Address=10.0.0.2/24"));
}

#[test]
fn what_an_image_brings_from_its_bake_is_no_configuration_of_a_machine_whose_driver_is_to_come() {
    let finds = |machine: &Machine| Network::FINDS.unwrap()(&machine.context.system, &machine.context.config, &[]);
    let udev = ("/run/udev/control", "");
    let mut own = machine(&[(NETWORKD, ""), ENS5], Some(STATIC), "{}");
    assert!(matches!(own.run(), Ok(Outcome::Ok(_))));
    let text = own.file().unwrap();
    let record = own.context.system.read_text(paths::NETWORK_RECORD).unwrap();
    // The machine that wrote it, at its next start: there is nothing to wait for.
    assert!(!finds(&machine(&[(NETWORKD, ""), udev, (FILE, &text), (paths::NETWORK_RECORD, &record)], None, "{}")));
    // The same in a sealed image: it is looked who is there, and what is ours is replaced.
    assert!(finds(&machine(&[(NETWORKD, ""), udev, (FILE, &text)], None, "{}")));
    let mut other = machine(&[(NETWORKD, ""), udev, ENS5, (FILE, &text)], None, "{}");
    assert!(finds(&other));
    assert!(matches!(other.run(), Ok(Outcome::Ok(_))));
    assert!(other.file().unwrap().contains("DHCP=yes"));
}

#[test]
fn an_interface_that_is_up_gets_its_new_configuration_and_one_that_has_it_stays_up() {
    let tree = tempfile::tempdir().unwrap();
    let Some(context) = crate::testing::machine(tree.path(), &["/usr/bin/dash"], "{}") else { return };
    let interfaces = "/etc/network/interfaces.d/50-cloud-init";
    // Each tells which file it saw.
    let script = |name: &str| {
        let reads = "new=old; while read -r line; do case $line in *10.0.0.9*) new=new;; esac; done";
        format!(
            "#!/usr/bin/dash\n{reads} < {interfaces}\necho \"{name} $* $new\" >> /said\n[ ! -e /refuses-$new ] || [ {name} = ifdown ]\n"
        )
    };
    let put = |path: &str, text: &str| crate::testing::executable(&context.system, path, text);
    for name in ["ifup", "ifdown"] {
        put(&format!("/usr/sbin/{name}"), &script(name));
    }
    put("/etc/network/interfaces", "source interfaces.d/*\n");
    put("/run/network/ifstate", "lo=lo\nens5=ens5\nens6=ens6\n");
    let mut machine = Machine { _tree: tree, context };
    for nic in [5, 6] {
        let folder = format!("/sys/class/net/ens{nic}");
        let write = |file: &str, text: &str| {
            machine.context.system.write(format!("{folder}/{file}"), text, FileOptions::default()).unwrap();
        };
        write("device/uevent", "DRIVER=ena");
        write("address", &format!("52:54:00:12:34:0{nic}"));
        write("flags", "0x1003");
    }
    let document = |address: &str| {
        format!("{{version: 2, ethernets: {{ens5: {{addresses: [{address}/24]}}, ens6: {{dhcp4: true}}}}}}")
    };
    let mut run = |address: &str| {
        machine.tell("i-test", &document(address));
        machine.context.system.remove("/said").unwrap();
        let handled = machine.context.run_handler::<NetworkOfSource>();
        let text = |path: &str| machine.context.system.read_text(path).unwrap_or_default();
        (handled, text("/said"), text(interfaces))
    };
    // What is up asks DHCP already: only the other one is taken down, by the file that it came up with.
    comes_to(&run("10.0.0.8"), "ifdown ens5 old\nifup ens5 old\nifup -a old\n", "10.0.0.8");
    comes_to(&run("10.0.0.9"), "ifdown ens5 old\nifup ens5 new\nifup -a new\n", "10.0.0.9");
    let (handled, said, _) = run("10.0.0.9");
    assert_eq!((reason(handled), said.as_str()), (Reason::RanBefore, ""));
}

fn comes_to((handled, said, text): &(Handled, String, String), expected: &str, address: &str) {
    assert!(matches!(handled, Ok(Outcome::Ok(_))), "{handled:?}");
    assert_eq!(said, expected);
    assert!(text.contains(address), "{text}");
}

#[test]
fn a_configuration_that_an_interface_does_not_come_up_with_gives_way_to_the_one_before() {
    let tree = tempfile::tempdir().unwrap();
    let Some(context) = crate::testing::machine(tree.path(), &["/usr/bin/dash"], "{}") else { return };
    let interfaces = "/etc/network/interfaces.d/50-cloud-init";
    let put = |path: &str, text: &str| crate::testing::executable(&context.system, path, text);
    put("/usr/sbin/ifdown", "#!/usr/bin/dash\necho \"ifdown $*\" >> /said\n");
    let script = "#!/usr/bin/dash\necho \"ifup $*\" >> /said\nwhile read -r line; do case $line in *10.0.0.9*) \
        echo no such route >&2; exit 1;; esac; done < /etc/network/interfaces.d/50-cloud-init\n";
    put("/usr/sbin/ifup", script);
    put("/etc/network/interfaces", "source interfaces.d/*\n");
    put("/run/network/ifstate", "ens5=ens5\n");
    put("/sys/class/net/ens5/device/uevent", "DRIVER=ena");
    let old = "auto ens5\niface ens5 inet dhcp\n";
    put(interfaces, old);
    let mut machine = Machine { _tree: tree, context };
    machine.tell("i-test", "{version: 2, ethernets: {ens5: {addresses: [10.0.0.9/24]}}}");
    let failure = machine.context.run_handler::<NetworkOfSource>().unwrap_err();
    assert!(failure.message.contains("no such route; "), "{}", failure.message);
    assert!(failure.message.ends_with("; the files are as they were"), "{}", failure.message);
    assert_eq!(machine.context.system.read_text(interfaces).unwrap(), old);
    let said = machine.context.system.read_text("/said").unwrap();
    assert_eq!(said, "ifdown ens5\nifup ens5\nifup ens5\n");
}

#[test]
fn what_an_image_brings_from_its_bake_goes_also_where_something_else_configures_the_network() {
    let other = ("/etc/systemd/network/own.network", "");
    let mut own = machine(&[(NETWORKD, ""), ENS5], Some(STATIC), "{}");
    assert!(matches!(own.run(), Ok(Outcome::Ok(_))));
    let text = own.file().unwrap();
    let mut baked = machine(&[(NETWORKD, ""), ENS5, other, (FILE, &text)], None, "{}");
    assert!(Network::FINDS.unwrap()(&baked.context.system, &baked.context.config, &[]));
    assert!(matches!(baked.run(), Ok(Outcome::Ok(_))));
    assert!(baked.file().is_none() && baked.context.system.exists(other.0));
    // What somebody else wrote under that name is not this agent's to remove.
    let mut theirs = machine(&[(NETWORKD, ""), ENS5, other, (FILE, "[Match]\nName=ens5\n")], None, "{}");
    assert_eq!(reason(theirs.run()), Reason::NothingToDo);
    assert!(theirs.file().is_some());
}
