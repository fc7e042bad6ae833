//! Looking at an instance of the image that was made: what it must have made for itself, and what it
//! must not hold. Two of them are compared by whoever started them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use kiln_schema::paths;
use kiln_schema::seal::Evidence;
use sha2::{Digest as _, Sha256};

use super::checklist::CHECKLIST;
use super::pattern::Tree;
use super::{Options, verify};
use crate::datasources::Instance;
use crate::system::{Kind, System};
use crate::{authorized_keys, report};

/// Entries of the checklist about what an instance makes at its first boot, each another one.
const OWN: &[&str] = &["ssh-host-keys", "machine-id", "machine-identity", "random-seed"];
/// Entries about what an instance has as well, and of which another may have the same.
const HAS: &[&str] = &["agent-state", "puppet-identity"];
/// A larger file is no key and no seed.
const LIMIT: u64 = 1024 * 1024;

/// What this instance tells of itself. Nothing is changed.
pub fn evidence(system: &System, options: &Options) -> Evidence {
    let tree = Tree::new(system);
    let own = CHECKLIST.iter().filter(|item| OWN.contains(&item.id)).flat_map(|item| item.paths);
    let files = own.flat_map(|path| tree.find(path)).filter(|found| found.kind == Kind::File && found.size > 0);
    let mut identity = BTreeMap::new();
    for file in files {
        // What cannot be read even by root is no identity.
        if let Ok(bytes) = system.head(&file.path, LIMIT) {
            identity.insert(file.path, format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(bytes))));
        }
    }
    let is_expected = |id: &str| OWN.contains(&id) || HAS.contains(&id) || options.skip.iter().any(|skip| skip == id);
    let instance = system.read(paths::INSTANCE).ok().and_then(|text| serde_json::from_slice::<Instance>(&text).ok());
    let told = instance.map(|instance| instance.public_keys).unwrap_or_default();
    let (keys, _) = authorized_keys::parse(&told, |index| index.to_string());
    let findings = verify::look(system, &is_expected, &options.permit, &keys);
    Evidence { schema: 1, status: report::current(system).ok(), identity, findings }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    const LAUNCH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKcw2X4kTp8jHDdGSUb2O2V0GtYqn1ZAxKyUgXTKgLLt";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILuG2X4kTp8jHDdGSUb2O2V0GtYqn1ZAxKyUgXTKgLLt baker";

    fn booted(files: &[(&str, &str)]) -> Evidence {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let instance = Instance { public_keys: vec![format!("{LAUNCH} launch")], ..Instance::default() };
        let instance = serde_json::to_string(&instance).unwrap();
        let own = [
            (paths::INSTANCE, instance.as_str()),
            ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            (
                "/etc/ssh/ssh_host_ed25519_key",
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ\n",
            ),
            ("/var/lib/systemd/random-seed", "noise"),
            ("/var/lib/dbus/machine-id", ""),
            ("/var/lib/kiln/once.jsonl", "{}\n"),
            ("/home/admin/.ssh/authorized_keys", LAUNCH),
            ("/root/.ssh/authorized_keys", &format!("command=\"exit\" {LAUNCH} x\n")),
        ];
        for (path, text) in own.iter().chain(files) {
            system.write(path, text, FileOptions::default()).unwrap();
        }
        evidence(&system, &Options::default())
    }

    #[test]
    fn what_an_instance_makes_for_itself_is_told_by_digests_and_no_finding() {
        let evidence = booted(&[]);
        assert_eq!(evidence.findings, []);
        let paths: Vec<_> = evidence.identity.keys().map(String::as_str).collect();
        assert_eq!(paths, ["/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key", "/var/lib/systemd/random-seed"]);
        let text = serde_json::to_string(&evidence).unwrap();
        assert!(!text.contains("0123456789abcdef") && !text.contains("b3BlbnNz"), "{text}");
        let another = booted(&[("/etc/machine-id", "fedcba9876543210fedcba9876543210\n")]);
        assert_ne!(another.identity["/etc/machine-id"], evidence.identity["/etc/machine-id"]);
        assert_eq!(another.identity["/var/lib/systemd/random-seed"], evidence.identity["/var/lib/systemd/random-seed"]);
    }

    #[test]
    fn what_the_image_brought_is_a_finding() {
        for (path, text) in [
            ("/root/.ssh/authorized_keys", OTHER),
            ("/home/admin/.ssh/authorized_keys2", "something else"),
            ("/root/.bash_history", "mysql -psecret\n"),
            ("/root/.aws/config", "[default]\n"),
            ("/etc/app.conf", "key=AKIAABCDEFGHIJKLMNOP\n"),
            ("/etc/shadow", "root:$6$salt$hash:1::::::\n"),
        ] {
            let found = booted(&[(path, text)]).findings;
            assert_eq!(found.len(), 1, "{path}: {found:?}");
            assert!(path.starts_with(&found[0].path), "{path}: {found:?}");
        }
    }
}
