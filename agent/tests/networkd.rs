//! systemd-networkd itself takes the files: in a network namespace, with an interface of a pair.

#![allow(clippy::disallowed_methods, reason = "the test prepares a tree and runs real programs on it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects by failing")]

use std::fs;
use std::path::Path;
use std::process::Command;

#[path = "../../tests/src/apart.rs"]
mod apart;

/// The interface keeps its name, as one in use does at a first boot: udev, which would rename it, does not run.
const CONFIG: &str = r#"
version: 2
ethernets:
  uplink:
    match: {macaddress: "52:54:00:12:34:00"}
    set-name: lan0
    mtu: 1400
    accept-ra: false
    addresses: [192.0.2.10/24, "2001:db8::10/64"]
    nameservers: {addresses: [192.0.2.53], search: [example.com]}
    routes:
      - {to: 198.51.100.0/24, via: 192.0.2.7, metric: 50, table: 101, from: 192.0.2.10, mtu: 1300, type: unicast}
      - {to: default, via: 192.0.2.1, on-link: true}
    routing-policy: [{from: 192.0.2.10/32, to: 198.51.100.0/24, table: 101, priority: 70, mark: 5}]
  # None of these is there, so of their files it is seen only that networkd understands them.
  wol9: {wakeonlan: true, dhcp4: true, dhcp-identifier: mac, optional: true, dhcp4-overrides: {use-dns: false,
    use-domains: true, use-hostname: false, use-mtu: true, use-ntp: false, use-routes: true, send-hostname: true,
    hostname: me, route-metric: 7}, dhcp6: true, dhcp6-overrides: {use-dns: false, route-metric: 8}}
  any: {match: {name: "en*", driver: [ena, "virtio*"]}, dhcp4: true}
  port8: {}
  port9: {}
bonds:
  bond9:
    interfaces: [port9]
    parameters: {mode: active-backup, mii-monitor-interval: 100, up-delay: 200, down-delay: 200, primary: port9,
      fail-over-mac-policy: active, gratuitous-arp: 2, primary-reselect-policy: always, resend-igmp: 3, min-links: 1}
bridges:
  br9: {interfaces: [port8], macaddress: "52:54:00:aa:bb:cc", dhcp4: true, parameters: {stp: true, forward-delay: 4,
    ageing-time: 300, hello-time: 2, max-age: 20, priority: 1000}}
vlans:
  vlan9: {id: 9, link: port8, addresses: [203.0.113.9/24]}
"#;

/// Runs networkd on the files of `$1` until all that they ask for is there, and shows what it made.
const SCRIPT: &str = r#"
mount -t sysfs -o ro sysfs /sys && mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/systemd || exit 99
mkdir -p /etc/systemd/network && mount --bind "$1" /etc/systemd/network || exit 99
ip link add eth0 address 52:54:00:12:34:00 type veth peer name peer || exit 99
ip link set peer up
exec 3< <(exec ip monitor address route rule)
complete() {
    local routes rules addresses
    routes=$(ip route show table all) rules=$(ip rule) addresses=$(ip -o address show dev eth0)
    [[ $routes == *"default via 192.0.2.1 dev eth0"* && $routes == *"198.51.100.0/24 via 192.0.2.7"* &&
        $rules == *"lookup 101"* && $addresses == *"192.0.2.10/24"* && $addresses == *"2001:db8::10/64"* ]]
}
SYSTEMD_LOG_LEVEL=info SYSTEMD_LOG_TARGET=console /usr/lib/systemd/systemd-networkd &
while ! complete; do
    read -r -t 30 -u 3 || break
done
kill $!
ip -o address show dev eth0; ip link show dev eth0; ip route show table all; ip rule
"#;

#[test]
fn networkd_understands_every_file_and_gives_the_interface_its_addresses() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/lib/systemd/systemd-networkd").exists() {
        apart::skip("it needs root, and systemd-networkd");
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    let wanted = root.join("etc/systemd/system/multi-user.target.wants");
    let seed = root.join("var/lib/kiln/seed/nocloud");
    fs::create_dir_all(&wanted).unwrap();
    fs::create_dir_all(&seed).unwrap();
    fs::write(wanted.join("systemd-networkd.service"), "").unwrap();
    fs::write(seed.join("user-data"), "").unwrap();
    fs::write(seed.join("network-config"), CONFIG).unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_kiln-agent"));
    let agent = agent.arg("--root").arg(root).args(["boot", "--stage", "local"]).output().unwrap();
    assert!(agent.status.success(), "{agent:?}");

    let mut machine = Command::new("unshare");
    machine.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
    machine.args(["timeout", "60", "bash", "-c", SCRIPT, "bash"]).arg(root.join("etc/systemd/network"));
    let output = machine.output().unwrap();
    let (said, seen) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    if output.status.code() == Some(99) {
        apart::skip(&format!("no namespace of its own here: {said}"));
        return;
    }
    for expected in [
        "inet 192.0.2.10/24",
        "inet6 2001:db8::10/64",
        "mtu 1400",
        "default via 192.0.2.1 dev eth0 proto static onlink",
        "198.51.100.0/24 via 192.0.2.7 dev eth0 table 101 proto static src 192.0.2.10 metric 50 mtu 1300",
        "70:\tfrom 192.0.2.10 to 198.51.100.0/24 fwmark 0x5 lookup 101",
    ] {
        assert!(seen.contains(expected), "{expected} is not in\n{seen}\n{said}");
    }
    // It names a file when it does not understand a line of it.
    let complaints: Vec<&str> =
        said.lines().filter(|l| l.contains("10-cloud-init") && !l.contains("Configuring with")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
