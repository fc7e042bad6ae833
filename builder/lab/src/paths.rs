//! Where a lab lies: one folder for what lives as long as it runs, one for disks, one shared cache.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// The folder that all labs share for what is costly to fetch.
pub const CACHE: &str = "/var/cache/kiln-lab";
/// The folder of named network namespaces, as `ip netns` keeps it.
const NAMESPACES: &str = "/run/netns";

/// The places of one lab, all found from its name: so whatever a crash left is found from it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    name: String,
}

impl Paths {
    /// The places of the lab of this name.
    ///
    /// # Errors
    /// When the name cannot be part of a file name and of a namespace's name.
    pub fn new(name: &str) -> Result<Paths> {
        let fits = (1..=20).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-');
        if fits { Ok(Paths { name: name.to_owned() }) } else { Err(Error::Name(name.to_owned())) }
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of sockets, pid files, logs and the address card.
    pub fn run(&self) -> PathBuf {
        PathBuf::from("/run/kiln-lab").join(&self.name)
    }

    /// The lock that lets one `up` or `down` work at a time.
    pub fn lock(&self) -> PathBuf {
        PathBuf::from("/run/kiln-lab").join(format!("{}.lock", self.name))
    }

    /// The address card, written last: when it is there, the lab was up.
    pub fn access(&self) -> PathBuf {
        self.run().join("access.json")
    }

    /// The folder of pid files.
    pub fn pids(&self) -> PathBuf {
        self.run().join("pids")
    }

    /// The pid file of the daemon.
    pub fn daemon_pid(&self) -> PathBuf {
        self.pids().join("daemon")
    }

    /// Where the daemon writes what happens.
    pub fn daemon_log(&self) -> PathBuf {
        self.run().join("daemon.log")
    }

    /// Where the AWS API emulator writes its requests.
    pub fn moto_log(&self) -> PathBuf {
        self.run().join("moto.log")
    }

    /// Where the daemon takes orders of `kiln lab`.
    pub fn daemon_socket(&self) -> PathBuf {
        self.run().join("daemon.sock")
    }

    /// Where the emulator and the daemon speak.
    pub fn moto_socket(&self) -> PathBuf {
        self.run().join("moto.sock")
    }

    /// Where a machine's supervisor tells how far it is.
    pub fn notify_socket(&self, instance: &str) -> PathBuf {
        self.run().join(format!("{instance}.notify"))
    }

    /// The folder of disks.
    pub fn disks(&self) -> PathBuf {
        PathBuf::from("/var/lib/kiln-lab").join(&self.name)
    }

    /// The folder of layers, each under a short number.
    pub fn layers(&self) -> PathBuf {
        self.disks().join("layers")
    }

    /// The folder of a machine's disk.
    pub fn machine(&self, instance: &str) -> PathBuf {
        self.disks().join("machines").join(instance)
    }

    /// Where a machine's tree is mounted.
    pub fn root(&self, instance: &str) -> PathBuf {
        self.machine(instance).join("root")
    }

    /// The folder of console logs; they outlive their machines.
    pub fn consoles(&self) -> PathBuf {
        self.disks().join("consoles")
    }

    /// The name of the lab's network namespace.
    pub fn namespace_name(&self) -> String {
        format!("kiln-lab-{}", self.name)
    }

    /// The name of a machine's network namespace.
    pub fn machine_namespace_name(&self, instance: &str) -> String {
        format!("{}.{instance}", self.namespace_name())
    }

    /// The lab's network namespace.
    pub fn namespace(&self) -> PathBuf {
        PathBuf::from(NAMESPACES).join(self.namespace_name())
    }

    /// A machine's network namespace.
    pub fn machine_namespace(&self, instance: &str) -> PathBuf {
        PathBuf::from(NAMESPACES).join(self.machine_namespace_name(instance))
    }

    /// Whether a file in the folder of namespaces is one of this lab's. A lab's name has no dot, so
    /// what follows one is a machine.
    pub fn owns_namespace(&self, file: &str) -> bool {
        let mine = self.namespace_name();
        file.strip_prefix(&mine).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The folder of named namespaces.
    pub fn namespaces() -> PathBuf {
        PathBuf::from(NAMESPACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leaves_its_folder_is_refused() {
        for name in ["", "..", "a/b", "a.b", "A", "-a", "a b", "ä", "a-name-of-21-characters-is-long"] {
            assert!(Paths::new(name).is_err(), "{name}");
        }
        for name in ["default", "a", "t-1", "0"] {
            assert!(Paths::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_lab_owns_its_namespaces_and_no_other_labs() {
        let paths = Paths::new("a").unwrap();
        for (file, owned) in [
            ("kiln-lab-a", true),
            ("kiln-lab-a.i-0123", true),
            ("kiln-lab-ab", false),
            ("kiln-lab-a-b", false),
            ("kiln-lab-a-b.i-0123", false),
            ("other", false),
        ] {
            assert_eq!(paths.owns_namespace(file), owned, "{file}");
        }
    }
}
