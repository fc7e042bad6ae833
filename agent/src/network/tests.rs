//! Documents of every kind, to the files of every program.

use kiln_schema::diagnostic::Severity;

use super::machine::{Nic, Renderer};
use super::{Format, NetworkConfig, Plan, plan};

/// A machine with three interfaces.
fn nics() -> Vec<Nic> {
    let nic = |name: &str, last: u8| Nic {
        name: name.to_owned(),
        mac: format!("52:54:00:12:34:{last:02x}"),
        driver: "virtio_net".to_owned(),
        is_up: false,
        is_real: true,
    };
    vec![nic("eth0", 0), nic("eth1", 1), nic("eth2", 2)]
}

fn planned(format: Format, text: &str, renderer: Renderer) -> Plan {
    plan(&NetworkConfig::new("network-config", format, text), renderer, &nics())
}

/// All that came of a document, for a person to read.
fn shown(format: Format, text: &str) -> String {
    let mut shown = String::new();
    for renderer in [Renderer::Networkd, Renderer::Netplan, Renderer::Ifupdown] {
        let plan = planned(format, text, renderer);
        shown.push_str(&format!("===== {}\n", renderer.name()));
        for file in plan.files {
            let body = file.text.split_once('\n').map_or("", |(_, body)| body);
            shown.push_str(&format!("--- {} {:04o}\n{body}", file.path, file.mode));
        }
        shown.extend(plan.told.iter().map(|finding| format!("! {finding}\n")));
    }
    shown
}

const V2: &str = r#"
network:
  version: 2
  ethernets:
    id0:
      match: {macaddress: "52:54:00:12:34:00"}
      set-name: lan0
      dhcp4: true
      dhcp6: no
      accept-ra: false
      mtu: 1400
      wakeonlan: true
      addresses: [192.168.14.2/24, "2001:1::1/64"]
      gateway4: 192.168.14.1
      nameservers: {search: [foo.local, bar.local], addresses: [8.8.8.8]}
      routes:
        - {to: 192.0.2.0/24, via: 192.168.14.9, metric: 3, table: 101, on-link: true}
        - {to: default, via: "2001:1::2"}
      routing-policy: [{from: 192.168.14.0/24, table: 101, priority: 7}]
      dhcp4-overrides: {route-metric: 200, use-dns: false}
    any:
      match: {name: "eth*", driver: [virtio_net, ena]}
      dhcp4: true
      optional: true
    eth9: {dhcp4: true, dhcp6: true}
  bonds:
    bond0:
      interfaces: [eth9]
      parameters: {mode: 802.3ad, lacp-rate: fast, mii-monitor-interval: 100, primary: eth9, arp-ip-targets: [10.0.0.1, 10.0.0.2]}
      addresses: [10.1.1.2/24]
  bridges:
    br0: {interfaces: [id0], parameters: {stp: false, forward-delay: 4}, dhcp4: true, macaddress: "52:54:00:AA:BB:CC"}
  vlans:
    vlan15: {id: 15, link: id0, addresses: [10.3.99.5/24]}
"#;

const V1: &str = r"
version: 1
config:
  - type: physical
    name: eth0
    mac_address: '52:54:00:12:34:00'
    mtu: 1400
    subnets:
      - {type: static, address: 192.168.1.10, netmask: 255.255.255.0, gateway: 192.168.1.1, dns_nameservers: 8.8.4.4 8.8.8.8,
         dns_search: [x.org], routes: [{network: 10.0.0.0, netmask: 255.0.0.0, gateway: 192.168.1.254}]}
      - {type: dhcp6}
  - {type: physical, name: eth1, subnets: [{type: manual}]}
  - {type: physical, name: eth2}
  - {type: loopback, name: lo}
  - type: bond
    name: bond0
    mac_address: '52:54:00:12:34:99'
    bond_interfaces: [eth1, eth2]
    params: {bond-mode: active-backup, bond_miimon: 100, bond-primary: eth1}
    subnets: [{type: static, address: 10.1.1.2/24}]
  - {type: vlan, name: bond0.100, vlan_link: bond0, vlan_id: 100, subnets: [{type: dhcp4}]}
  - {type: bridge, name: br0, bridge_interfaces: [eth0], params: {bridge_stp: 'off', bridge_fd: 0},
     subnets: [{type: static6, address: '2001:db8::2/64', gateway: '2001:db8::1'}, {type: ipv6_slaac}]}
  - {type: nameserver, address: [1.1.1.1], search: [example.com]}
  - {type: nameserver, address: 9.9.9.9, interface: bond0}
  - {type: route, destination: 172.16.0.0/12, gateway: 10.1.1.1, metric: 3}
";

const OPENSTACK: &str = r#"{
  "links": [
    {"id": "if0", "type": "ovs", "ethernet_mac_address": "52:54:00:12:34:00", "mtu": 1450, "vif_id": "x"},
    {"id": "if1", "type": "phy", "ethernet_mac_address": "52:54:00:12:34:01", "mtu": null},
    {"id": "if2", "type": "phy", "ethernet_mac_address": "52:54:00:12:34:02"},
    {"id": "b", "type": "bond", "bond_links": ["if1", "if2"], "bond_mode": "802.3ad", "bond_miimon": 100,
     "ethernet_mac_address": "52:54:00:12:34:01"},
    {"id": "v", "type": "vlan", "vlan_link": "b", "vlan_id": 101, "vlan_mac_address": "fa:16:3e:ed:9a:59"},
    {"id": "gone", "type": "phy", "ethernet_mac_address": "52:54:00:12:34:77"}],
  "networks": [
    {"id": "n0", "link": "if0", "type": "ipv4", "ip_address": "172.19.1.34", "netmask": "255.255.252.0",
     "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "172.19.3.254"},
                {"network": "10.0.0.0", "netmask": "255.0.0.0", "gateway": "172.19.3.1"}],
     "services": [{"type": "dns", "address": "172.19.0.13"}]},
    {"id": "n1", "link": "b", "type": "ipv4_dhcp"},
    {"id": "n2", "link": "v", "type": "ipv6", "ip_address": "2001:db8::5", "netmask": "ffff:ffff:ffff:ffff::",
     "routes": [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}]},
    {"id": "n3", "link": "gone", "type": "ipv4_dhcp"}],
  "services": [{"type": "dns", "address": "8.8.8.8"}]}"#;

const EC2: &str = r#"{
  "52:54:00:12:34:01/": {"device-number": "1", "local-ipv4s": "10.0.4.7", "subnet-ipv4-cidr-block": "10.0.4.0/23"},
  "52:54:00:12:34:00/": {"device-number": "0", "local-ipv4s": "10.0.2.5\n10.0.2.6", "ipv6s": "2001:db8::5",
     "subnet-ipv4-cidr-block": "10.0.2.0/24", "security-groups": "x", "owner-id": "1"}}"#;

#[test]
fn every_document_has_its_files_with_every_program() {
    insta::assert_snapshot!("v2", shown(Format::CloudInit, V2));
    insta::assert_snapshot!("v1", shown(Format::CloudInit, V1));
    insta::assert_snapshot!("openstack", shown(Format::OpenStack, OPENSTACK));
    insta::assert_snapshot!("ec2", shown(Format::Ec2, EC2));
}

#[test]
fn what_is_wrong_has_its_place_and_the_rest_is_done() {
    let v2 = "version: 2\nethernets:\n  eth0:\n    dhcp4: maybe\n    adresses: [10.0.0.1/8]\n    addresses: [10.0.0.2/8, 10.0.0.300/8, \"10.0.0.3/8\\nDNS=6.6.6.6\"]\n\
        \u{20}   gateway4: 10.0.0.1\n  ../../shadow: {dhcp4: true}\n  eth1: {dhcp4: true, link: eth0}\nwifis:\n  wlan0: {access-points: {home: {password: hunter2}}}\n\
        ethernet: {}\nvlans:\n  v: {id: 5000, link: eth0}\n  w: {id: 5, link: eth7}\nbonds:\n  b: {interfaces: [eth1], parameters: {mod: 1, mode: [{}]}}\n";
    let v1 = "version: 1\nconfig:\n  - {type: physical, name: eth0, subnets: [{type: statik, address: 10.0.0.2/8}, {type: static, address: here},\n\
        \u{20}     {type: static, address: 10.0.0.3, dns_nameservers: [ns1]}]}\n  - {type: phisical, name: eth1}\n  - {type: physical}\n  - {type: infiniband, name: ib0}\n\
        \u{20} - {type: route, destination: 10.0.0.0/8}\n  - {type: vlan, name: v, vlan_id: 4}\n  - not an item\n  - {type: physical, name: eth1, mtu: big, subnets: [{type: dhcp}]}\n";
    insta::assert_snapshot!("wrong", shown(Format::CloudInit, v2) + &shown(Format::CloudInit, v1));
}

#[test]
fn a_document_that_says_nothing_makes_no_file_and_says_why() {
    for (format, text, sentence) in [
        (Format::CloudInit, "ethernets: {}", "needs `version: 1` or `version: 2`"),
        (Format::CloudInit, "version: 3", "needs `version: 1` or `version: 2`"),
        (Format::CloudInit, "version: 1", "expected a list of interfaces under `config`"),
        (Format::CloudInit, "version: 2\nethernets: [eth0]", "expected a mapping of interfaces, found a list"),
        (Format::CloudInit, "version: 2\nethernets: {eth0: dhcp}", "ethernets.eth0: expected a mapping, found text"),
        (Format::CloudInit, "version: 2\n  bad: [", "network-config:2:"),
        (Format::OpenStack, r#"{"links": [{"id": "a", "type": "phy"}]}"#, "`ethernet_mac_address` is missing"),
    ] {
        let plan = planned(format, text, Renderer::Networkd);
        let told: Vec<String> = plan.told.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|told| told.contains(sentence)), "{text}: {told:?}");
        assert!(plan.files.is_empty() && plan.told.iter().any(|told| told.severity == Severity::Error), "{text}");
    }
}

#[test]
fn what_ec2_gives_every_machine_is_left_to_the_image() {
    let one = r#"{"52:54:00:12:34:00": {"device-number": 0, "local-ipv4s": "10.0.2.5", "subnet-ipv4-cidr-block": "10.0.2.0/24"}}"#;
    let plan = planned(Format::Ec2, one, Renderer::Networkd);
    assert!(plan.files.is_empty() && plan.told.is_empty());
}

#[test]
fn only_more_than_one_address_is_worth_a_configuration_on_ec2() {
    let of = |macs: &str| {
        let metadata = format!(r#"{{"network": {{"interfaces": {{"macs": {macs}}}}}}}"#);
        NetworkConfig::of_ec2(&serde_json::from_str(&metadata).unwrap())
    };
    assert_eq!(of(r#"{"a": {"local-ipv4s": "10.0.0.1", "ipv6s": "2001:db8::1"}}"#), None);
    assert_eq!(NetworkConfig::of_ec2(&serde_json::json!({"mac": "a"})), None);
    assert!(of(r#"{"a": {"local-ipv4s": "10.0.0.1\n10.0.0.2"}}"#).is_some());
    let config = of(EC2).unwrap();
    assert_eq!(plan(&config, Renderer::Networkd, &nics()).files, planned(Format::Ec2, EC2, Renderer::Networkd).files);
}

#[test]
fn netplan_gets_what_only_netplan_knows() {
    let text = "version: 2\nrenderer: networkd\nwifis:\n  wlan0: {access-points: {home: {password: hunter2}}}\nethernets:\n  eth0: {dhcp4: yes, ipv6-privacy: true}\n";
    let plan = planned(Format::CloudInit, text, Renderer::Netplan);
    assert!(plan.told.is_empty(), "{:?}", plan.told);
    let expected = "network:\n  version: 2\n  renderer: networkd\n  wifis:\n    wlan0:\n      access-points:\n        home:\n          password: hunter2\n  ethernets:\n    eth0:\n      dhcp4: yes\n      ipv6-privacy: true\n";
    assert_eq!((plan.files[0].text.split_once('\n').unwrap().1, plan.files[0].mode), (expected, 0o600));
}

#[test]
fn members_that_stand_after_their_bond_are_in_it() {
    let links: Vec<serde_json::Value> = serde_json::from_str::<serde_json::Value>(OPENSTACK).unwrap()["links"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .cloned()
        .collect();
    let mut document: serde_json::Value = serde_json::from_str(OPENSTACK).unwrap();
    document["links"] = links.into();
    let (usual, turned) = (OPENSTACK.to_owned(), document.to_string());
    for renderer in [Renderer::Networkd, Renderer::Netplan, Renderer::Ifupdown] {
        let texts = |text: &str| {
            let files = planned(Format::OpenStack, text, renderer).files;
            let mut lines: Vec<String> = files.iter().flat_map(|file| file.text.lines()).map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        // Netplan's list of members is in the order of the bond; nothing of it is lost.
        assert_eq!(texts(&turned), texts(&usual), "{}", renderer.name());
    }
}

#[test]
fn name_servers_reach_an_interface_that_only_listens_to_routers() {
    let openstack = r#"{"links": [{"id": "a", "type": "phy", "ethernet_mac_address": "52:54:00:12:34:00"}],
        "networks": [{"link": "a", "type": "ipv6_slaac"}], "services": [{"type": "dns", "address": "2001:db8::53"}]}"#;
    let v1 = "version: 1\nconfig:\n- {type: physical, name: eth0, subnets: [{type: ipv6_slaac}]}\n- {type: nameserver, address: 2001:db8::53}\n";
    for (format, text) in [(Format::OpenStack, openstack), (Format::CloudInit, v1)] {
        let files = planned(format, text, Renderer::Networkd).files;
        assert!(files.iter().any(|file| file.text.contains("DNS=2001:db8::53\n")), "{text}: {files:?}");
    }
}

#[test]
fn an_interface_that_is_yet_to_be_renamed_is_matched_by_its_address() {
    for text in [
        "{version: 2, ethernets: {a: {match: {macaddress: '52:54:00:12:34:00'}, set-name: lan0, dhcp4: true}}}",
        "{version: 1, config: [{type: physical, name: lan0, mac_address: '52:54:00:12:34:00', subnets: [{type: dhcp}]}]}",
    ] {
        let files = planned(Format::CloudInit, text, Renderer::Networkd).files;
        let network = files.iter().find(|file| file.path.ends_with("lan0.network")).unwrap();
        assert!(network.text.contains("[Match]\nMACAddress=52:54:00:12:34:00\nType=ether\n\n"), "{}", network.text);
    }
}
