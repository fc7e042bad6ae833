//! What is on the machine: its interfaces, and the program that configures them.

use kiln_schema::paths;

use super::HEADER;
use crate::system::System;

/// Where the kernel tells of interfaces.
const CLASS: &str = "/sys/class/net";
/// Folders in which a file switches networkd or NetworkManager on.
const WANTS: &[&str] = &["/etc/systemd/system", "/usr/lib/systemd/system"];

/// Our files: folder, how their names begin, and how they end; what lies beside them is somebody else's.
const OURS: &[(&str, &str, &[&str])] = &[
    ("/etc/systemd/network", "10-cloud-init-", &[".network", ".netdev", ".link"]),
    ("/etc/netplan", "50-cloud-init.yaml", &["50-cloud-init.yaml"]),
    ("/etc/network/interfaces.d", "50-cloud-init", &["50-cloud-init"]),
];

/// An interface of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name now.
    pub name: String,
    /// Its hardware address, in lower case.
    pub mac: String,
    /// The kernel's driver; empty where there is none.
    pub driver: String,
    /// Whether someone has switched it on.
    pub is_up: bool,
    /// Whether a device is behind it, also an emulated one.
    pub is_real: bool,
}

/// The program that files are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renderer {
    /// Netplan, which makes files for others.
    Netplan,
    /// Debian's older one.
    Ifupdown,
    /// systemd-networkd.
    Networkd,
}

impl Renderer {
    /// The word in the status.
    pub fn name(self) -> &'static str {
        match self {
            Renderer::Netplan => "netplan",
            Renderer::Ifupdown => "ifupdown",
            Renderer::Networkd => "networkd",
        }
    }
}

/// The machine's interfaces by name, without those that are made of others.
pub fn nics(system: &System) -> Vec<Nic> {
    let names = system.list(CLASS).unwrap_or_default();
    let read = |name: &str, file: &str| system.read_text(format!("{CLASS}/{name}/{file}")).unwrap_or_default();
    let nic = |name: String| {
        let event = read(&name, "uevent");
        let kind = event.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
        if name == "lo" || kind.is_some_and(|kind| !matches!(kind, "wlan" | "wwan" | "dsa")) {
            return None;
        }
        let device = read(&name, "device/uevent");
        let driver = device.lines().find_map(|line| line.strip_prefix("DRIVER="));
        let flags = read(&name, "flags");
        let flags = flags.trim().strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        Some(Nic {
            mac: read(&name, "address").trim().to_lowercase(),
            driver: driver.unwrap_or_default().to_owned(),
            is_up: flags.is_some_and(|flags| flags & 1 == 1),
            is_real: system.exists(format!("{CLASS}/{name}/device")),
            name,
        })
    };
    names.into_iter().filter_map(nic).collect()
}

/// The interface that is asked for an address where nobody says anything: the first with a device behind
/// it. None where any is in use, as something configures that one.
pub fn first(nics: &[Nic]) -> Option<&Nic> {
    let wired = |nic: &&Nic| nic.is_real && !nic.name.starts_with("wl") && !nic.name.starts_with("ww");
    if nics.iter().any(|nic| nic.is_real && nic.is_up) {
        return None;
    }
    // `eth10` comes after `eth9`.
    nics.iter().filter(wired).min_by_key(|nic| (nic.name.len(), nic.name.as_str()))
}

/// Whether the kernel has any beside the loop.
pub fn has_interfaces(system: &System) -> bool {
    system.list(CLASS).is_ok_and(|names| names.iter().any(|name| name != "lo"))
}

/// Whether udev is at work and has not found an interface yet.
pub fn may_come(system: &System, nics: &[Nic]) -> bool {
    !nics.iter().any(|nic| nic.is_real) && system.exists("/run/udev/control")
}

/// The program that is to configure the network; none where only NetworkManager or nothing can.
pub fn renderer(system: &System) -> Option<Renderer> {
    if system.exists("/usr/sbin/netplan") {
        Some(Renderer::Netplan)
    } else if networkd_is_on(system) {
        Some(Renderer::Networkd)
    } else if system.exists("/etc/network/interfaces") && has_ifupdown(system) {
        Some(Renderer::Ifupdown)
    } else if network_manager_is_on(system) {
        None
    } else {
        system.exists("/usr/lib/systemd/systemd-networkd").then_some(Renderer::Networkd)
    }
}

/// Whether there is a program for files of ifupdown, which outlive its package.
fn has_ifupdown(system: &System) -> bool {
    system.has_program("ifup")
}

/// Whether networkd starts at boot.
pub fn networkd_is_on(system: &System) -> bool {
    is_wanted(system, "multi-user.target.wants/systemd-networkd.service")
        || is_wanted(system, "sockets.target.wants/systemd-networkd.socket")
}

/// Whether NetworkManager starts at boot.
pub fn network_manager_is_on(system: &System) -> bool {
    is_wanted(system, "multi-user.target.wants/NetworkManager.service")
}

fn is_wanted(system: &System, unit: &str) -> bool {
    // The link leads out of a tree, so it is enough that it is there.
    WANTS.iter().any(|folder| system.is_there(format!("{folder}/{unit}")))
}

/// The files of ours that are there.
pub fn ours(system: &System) -> Vec<String> {
    let in_folder = |(folder, prefix, ends): &(&str, &str, &[&str])| {
        let is_ours = |name: &String| name.starts_with(prefix) && ends.iter().any(|end| name.ends_with(end));
        let names = system.list(folder).unwrap_or_default().into_iter().filter(is_ours);
        names.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    OURS.iter().flat_map(in_folder).collect()
}

/// Files that this agent wrote for the instance of which this image was made: the record of what it wrote is in
/// no image.
pub fn stale(system: &System) -> Vec<String> {
    if system.exists(paths::NETWORK_RECORD) {
        return Vec::new();
    }
    let is_written = |path: &String| system.read_text(path).is_ok_and(|text| text.starts_with(HEADER));
    ours(system).into_iter().filter(is_written).collect()
}

/// Whether files of ours are about an interface of this machine. Those in an image that was made of a
/// running machine are about the interfaces of that one, and are as good as none.
fn ours_fit(system: &System) -> bool {
    let is_of_this_disk = system.exists(paths::NETWORK_RECORD);
    let texts = ours(system).into_iter().filter_map(|path| system.read_text(path).ok());
    let texts = texts.filter(|text| is_of_this_disk || !text.starts_with(HEADER)).map(|text| text.to_lowercase());
    let nics = nics(system);
    // Nobody knows yet which there are; of what was written on this machine it is known that they fit.
    let is_unknown = !nics.iter().any(|nic| nic.is_real) && (is_of_this_disk || !may_come(system, &nics));
    let words = |text: &str, name: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-')).any(|word| word == name)
    };
    let fits = |text: &str, nic: &Nic| match text.contains("match") && text.contains("macaddress") {
        // Beside an address, a name makes it no other interface.
        true => !nic.mac.is_empty() && text.contains(&nic.mac),
        false => words(text, &nic.name.to_lowercase()),
    };
    // `*` stands for any interface.
    let counts = |text: String| text.contains('*') || is_unknown || nics.iter().any(|nic| fits(&text, nic));
    texts.into_iter().any(counts)
}

/// Whether anything on the machine configures its network, so that there is something to lose.
pub fn is_configured(system: &System) -> bool {
    let has =
        |folder: &str, fits: fn(&str) -> bool| system.list(folder).is_ok_and(|names| names.iter().any(|n| fits(n)));
    has("/etc/netplan", |name| name.ends_with(".yaml") && !name.starts_with("50-cloud-init"))
        || has("/etc/systemd/network", |name| name.ends_with(".network") && !name.starts_with("10-cloud-init-"))
        || (has("/etc/network/interfaces.d", |name| !name.starts_with('.') && !name.starts_with("50-cloud-init"))
            || system.read_text("/etc/network/interfaces").is_ok_and(|text| has_interface(&text)))
            && has_ifupdown(system)
        || network_manager_is_on(system)
        // Netplan's are made of files that are looked at themselves.
        || has("/run/systemd/network", |name| name.ends_with(".network") && !name.starts_with("10-netplan-"))
        || has("/run/netplan", |name| name.ends_with(".yaml"))
        || has("/usr/lib/netplan", |name| name.ends_with(".yaml"))
        // Those of systemd itself, all 80 and up, are of containers and virtual machines on this one.
        || has("/usr/lib/systemd/network", |name| name.ends_with(".network") && name < "80")
        || has("/etc/sysconfig/network-scripts", |name| name.starts_with("ifcfg-") && name != "ifcfg-lo")
        || system.kernel_was_told(|word| word.starts_with("ip="))
        || ours_fit(system)
}

/// Whether a file of ifupdown has an interface beside the loopback.
fn has_interface(text: &str) -> bool {
    text.lines().filter_map(|line| line.trim().strip_prefix("iface")).any(|rest| {
        let name = rest.split_whitespace().next();
        rest.starts_with(char::is_whitespace) && name.is_some_and(|name| name != "lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in files {
            system.write(path, text, FileOptions::mode(0o755)).unwrap();
        }
        (tree, system)
    }

    #[test]
    fn a_network_that_something_configures_is_seen() {
        for file in [
            ("/etc/netplan/90-default.yaml", ""),
            ("/etc/systemd/network/lan.network", ""),
            ("/etc/network/interfaces", "auto lo\niface lo inet loopback\n  iface\teth0 inet dhcp\n"),
            ("/etc/network/interfaces.d/setup", ""),
            ("/etc/systemd/system/multi-user.target.wants/NetworkManager.service", ""),
            ("/usr/lib/systemd/network/10-cloud.network", ""),
            ("/etc/sysconfig/network-scripts/ifcfg-eth0", ""),
            ("/proc/cmdline", "quiet ip=dhcp"),
        ] {
            let (_tree, system) = tree(&[file, ("/usr/sbin/ifup", "")]);
            assert!(is_configured(&system), "{file:?}");
            let is_of_ifupdown = file.0.starts_with("/etc/network/");
            assert_eq!(is_configured(&tree(&[file]).1), !is_of_ifupdown, "{file:?} without ifupdown");
        }
        let (_tree, system) = tree(&[
            ("/etc/netplan/README", ""),
            ("/etc/systemd/network/99-x.link", ""),
            ("/usr/lib/systemd/network/80-container-host0.network", ""),
            ("/etc/network/interfaces", "source /etc/network/interfaces.d/*\niface lo inet loopback\n# iface eth0\n"),
            ("/etc/sysconfig/network-scripts/ifcfg-lo", ""),
            ("/proc/cmdline", "quiet ipv6.disable=1"),
        ]);
        assert!(!is_configured(&system));
    }

    #[test]
    fn files_of_ours_count_where_they_are_about_an_interface_of_this_machine() {
        let own = "/etc/systemd/network/10-cloud-init-lan0.network";
        let netplan = "/etc/netplan/50-cloud-init.yaml";
        let nic = [
            ("/sys/class/net/ens5/device/uevent", "DRIVER=ena"),
            ("/sys/class/net/ens5/address", "52:54:00:ab:00:01\n"),
            // What the generator made of the file of another machine.
            ("/run/systemd/network/10-netplan-x.network", ""),
        ];
        for (path, text, counts) in [
            (own, "[Match]\nMACAddress=52:54:00:AB:00:01\n", true),
            (own, "[Match]\nName=ens5\n", true),
            (netplan, "{network: {ethernets: {any: {match: {name: 'e*'}}}}}", true),
            (netplan, "network:\n  ethernets:\n    ens5: {dhcp4: true}\n", true),
            (own, "[Match]\nMACAddress=52:54:00:ab:00:02\nName=eth0\n", false),
            (netplan, "{network: {ethernets: {ens5: {match: {macaddress: '52:54:00:ab:00:02'}}}}}", false),
            (netplan, "network:\n  ethernets:\n    ens50: {dhcp4: true}\n", false),
        ] {
            let files: Vec<_> = nic.iter().copied().chain([(path, text)]).collect();
            assert_eq!(is_configured(&tree(&files).1), counts, "{text}");
        }
        // Nobody knows which interfaces are still to come.
        assert!(is_configured(&tree(&[(own, "[Match]\nName=eth0\n")]).1));
    }

    #[test]
    fn the_program_is_the_one_that_runs_on_this_machine() {
        let wanted = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
        for (files, expected) in [
            (&["/usr/sbin/netplan", wanted, "/etc/network/interfaces"][..], Some(Renderer::Netplan)),
            (&[wanted, "/etc/network/interfaces"], Some(Renderer::Networkd)),
            (
                &["/usr/lib/systemd/systemd-networkd", "/etc/network/interfaces", "/usr/sbin/ifup"],
                Some(Renderer::Ifupdown),
            ),
            // Left behind by a package that was removed.
            (&["/usr/lib/systemd/systemd-networkd", "/etc/network/interfaces"], Some(Renderer::Networkd)),
            (&["/etc/network/interfaces"], None),
            (&["/usr/lib/systemd/systemd-networkd"], Some(Renderer::Networkd)),
            (
                &[
                    "/usr/lib/systemd/systemd-networkd",
                    "/etc/systemd/system/multi-user.target.wants/NetworkManager.service",
                ],
                None,
            ),
            (&[], None),
        ] {
            let files: Vec<_> = files.iter().map(|file| (*file, "")).collect();
            assert_eq!(renderer(&tree(&files).1), expected, "{files:?}");
        }
    }

    #[test]
    fn the_first_interface_is_a_device_and_nobody_uses_any() {
        let nic = |name: &str, file: &str, text: &'static str| (format!("{CLASS}/{name}/{file}"), text);
        let files = [
            nic("eth10", "device/uevent", "DRIVER=ena\n"),
            nic("eth9", "device/uevent", "DRIVER=virtio_net\nX=1\n"),
            nic("eth9", "address", "52:54:00:AB:00:01\n"),
            nic("eth9", "flags", "0x1002\n"),
            nic("docker0", "uevent", "DEVTYPE=bridge\n"),
            nic("lo", "flags", "0x9\n"),
            nic("a0", "address", "52:54:00:ab:00:02\n"),
        ];
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let (_tree, system) = tree(&files);
        let nics_now = nics(&system);
        let found = first(&nics_now).unwrap();
        assert_eq!(
            (found.name.as_str(), found.mac.as_str(), found.driver.as_str()),
            ("eth9", "52:54:00:ab:00:01", "virtio_net")
        );
        assert_eq!(nics(&system).iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>(), ["a0", "eth10", "eth9"]);
        system.write(format!("{CLASS}/eth10/flags"), "0x1003\n", FileOptions::default()).unwrap();
        assert_eq!(first(&nics(&system)), None);
    }
}
