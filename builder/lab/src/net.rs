//! The lab's networks: one namespace with a bridge for everybody, one namespace per machine.
//!
//! A machine finds its interface up and addressed when it boots, as if the network had always been
//! there, so nothing in its image has to be changed for the lab.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::paths::Paths;
use crate::state::Instance;
use crate::system::{files, netns, process};

/// The address of the lab itself: gateway, API and proxy.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The address of the metadata service, as on EC2.
pub const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The bridge in the lab's namespace.
const BRIDGE: &str = "br0";
/// The kernel answers at once; a machine under load takes its time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the lab's namespace with its bridge and addresses.
///
/// # Errors
/// When `ip` fails.
pub fn make_lab(paths: &Paths) -> Result<()> {
    let name = paths.namespace_name();
    let doing = || format!("cannot make the network namespace {name}");
    process::tool(&["ip", "netns", "add", &name], "", PATIENCE).doing(doing)?;
    process::tool(&["ip", "-n", &name, "-batch", "-"], &lab_batch(), PATIENCE).doing(doing)?;
    // Machines in a subnet outside 10/8 reach the others through the gateway.
    let forward = || files::tell_kernel("/proc/sys/net/ipv4/ip_forward".as_ref(), "1");
    netns::within(&paths.namespace(), forward).doing(doing)
}

fn lab_batch() -> String {
    // The bridge's own hardware address: without one it takes the lowest of its ports, and a machine
    // that comes or goes would change it under the others.
    format!(
        "link set lo up\n\
         link add {BRIDGE} address 02:00:0a:00:00:01 type bridge\n\
         address add {GATEWAY}/8 dev {BRIDGE}\n\
         address add {IMDS}/32 dev {BRIDGE}\n\
         link set {BRIDGE} up\n"
    )
}

/// Makes a machine's namespace anew, with `eth0` that has the instance's addresses and is up.
///
/// # Errors
/// When `ip` fails.
pub fn make_machine(paths: &Paths, instance: &Instance) -> Result<()> {
    remove_machine(paths, &instance.id)?;
    let (lab, own) = (paths.namespace_name(), paths.machine_namespace_name(&instance.id));
    let doing = || format!("cannot make the network of {}", instance.id);
    // The kernel takes a removed namespace apart later, and the port of the machine's last boot with it.
    // Its name is needed now. That there is no such port is the usual answer.
    let _ = process::tool(&["ip", "-n", &lab, "link", "delete", &port(&instance.id)], "", PATIENCE);
    process::tool(&["ip", "netns", "add", &own], "", PATIENCE).doing(doing)?;
    let (outside, inside) = machine_batches(instance, &own);
    process::tool(&["ip", "-n", &lab, "-batch", "-"], &outside, PATIENCE).doing(doing)?;
    process::tool(&["ip", "-n", &own, "-batch", "-"], &inside, PATIENCE).doing(doing).map(drop)
}

/// The machine's port on the bridge. An interface's name has at most 15 characters; the tail of an id
/// tells machines apart.
fn port(instance: &str) -> String {
    let tail = instance.get(instance.len().saturating_sub(14)..).unwrap_or_default();
    format!("v{}", tail.trim_start_matches("i-"))
}

/// What `ip` does in the lab's namespace and in the machine's.
fn machine_batches(instance: &Instance, own: &str) -> (String, String) {
    let (address, mac) = (instance.address, &instance.mac);
    let port = port(&instance.id);
    let mut outside = format!(
        "link add {port} type veth peer name eth0 netns {own}\n\
         link set {port} master {BRIDGE} up\n"
    );
    let mut inside = format!("link set lo up\nlink set eth0 address {mac}\n");
    if address.octets()[0] == GATEWAY.octets()[0] {
        inside += &format!("address add {address}/8 dev eth0\nlink set eth0 up\n");
    } else {
        outside += &format!("route replace {address}/32 dev {BRIDGE}\n");
        inside += &format!("address add {address}/32 dev eth0\nlink set eth0 up\nroute add {GATEWAY} dev eth0\n");
    }
    inside += &format!("route add default via {GATEWAY}\n");
    (outside, inside)
}

/// Removes a machine's namespace and with it its interface. None there is as good.
///
/// # Errors
/// What the kernel answers.
pub fn remove_machine(paths: &Paths, instance: &str) -> Result<()> {
    netns::remove(&paths.machine_namespace(instance)).doing(|| format!("cannot remove the network of {instance}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::instance;

    #[test]
    fn a_machine_in_ten_is_a_neighbour_of_the_gateway() {
        let mut one = instance("i-0123456789abcdef0");
        one.address = Ipv4Addr::new(10, 4, 5, 6);
        let (outside, inside) = machine_batches(&one, "kiln-lab-x.i-0123456789abcdef0");
        assert!(outside.starts_with("link add v3456789abcdef0 type veth peer name eth0 netns kiln-lab-x.i-"));
        assert!(!outside.contains("route"));
        assert!(inside.contains("address add 10.4.5.6/8 dev eth0\n"));
        assert!(inside.ends_with("route add default via 10.0.0.1\n"));
    }

    #[test]
    fn a_machine_in_another_subnet_is_routed() {
        let mut one = instance("i-1");
        one.address = Ipv4Addr::new(172, 31, 5, 6);
        let (outside, inside) = machine_batches(&one, "n");
        assert!(outside.ends_with("route replace 172.31.5.6/32 dev br0\n"));
        assert!(inside.contains("address add 172.31.5.6/32 dev eth0\n"));
        assert!(inside.contains("route add 10.0.0.1 dev eth0\nroute add default via 10.0.0.1\n"));
    }

    #[test]
    fn an_interface_name_fits_the_kernel() {
        for id in ["i-0123456789abcdef0", "i-12345678", "i-1", ""] {
            let (outside, _) = machine_batches(&instance(id), "n");
            let port = outside.split(' ').nth(2).unwrap();
            assert!((1..=15).contains(&port.len()), "{port}");
        }
    }
}
