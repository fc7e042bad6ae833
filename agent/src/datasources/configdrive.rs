//! `configdrive`: a disk with the label `config-2` and the documents of OpenStack, or of EC2, on it.

use std::time::Instant;

use super::place::Place;
use super::{Datasource, Detected, Instance, SourceError, ec2, openstack};
use crate::system::System;

const LABEL: &str = "config-2";
/// Folders that stand for the disk.
const FOLDERS: &[&str] = &["/config-drive", "/var/lib/cloud/seed/config_drive"];
/// The documents in the form of EC2.
const EC2: [&str; 2] = ["ec2/latest/meta-data.json", "ec2/latest/user-data"];

/// An instance whose documents are on a disk.
pub struct ConfigDrive;

impl Datasource for ConfigDrive {
    fn name(&self) -> &'static str {
        "configdrive"
    }

    fn summary(&self) -> &'static str {
        "A disk with the label `config-2`"
    }

    fn needs_network(&self, _: &System) -> bool {
        false
    }

    fn detect(&self, system: &System) -> Detected {
        if place(system).is_some() { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, system: &System, _: Instant) -> Result<Instance, SourceError> {
        let none = || format!("no disk with the label {LABEL}, and no documents in {}", FOLDERS.join(" or "));
        Ok(read(system, &place(system).ok_or_else(none)?)?)
    }
}

fn place(system: &System) -> Option<Place> {
    let documents = [openstack::DOCUMENTS[0], EC2[0]];
    Place::folder(system, FOLDERS, &documents).or_else(|| Place::disk(system, LABEL))
}

fn read(system: &System, place: &Place) -> Result<Instance, String> {
    let [meta, user, vendor, vendor2, network] = openstack::DOCUMENTS;
    // All at once: a disk is mounted for each reading.
    let [meta, user, vendor, vendor2, network, ec2_meta, ec2_user] =
        place.read(system, [meta, user, vendor, vendor2, network, EC2[0], EC2[1]])?;
    let of_ec2 = ec2_meta.map(|bytes| {
        let broken = |e: serde_json::Error| format!("not JSON at line {}, column {}", e.line(), e.column());
        let tree = serde_json::from_slice(&bytes).map_err(broken)?;
        ec2::instance(&serde_json::Value::Null, tree).ok_or_else(|| "it has no instance-id".to_owned())
    });
    let Some(meta) = meta else {
        let told = of_ec2
            .ok_or_else(|| format!("{}: it has neither {} nor {}", place.name(), openstack::DOCUMENTS[0], EC2[0]))?;
        let told = told.map_err(|why| format!("{}/{}: {why}", place.name(), EC2[0]))?;
        return Ok(Instance { source: "configdrive".to_owned(), user_data: ec2_user.unwrap_or_default(), ..told });
    };
    let mut instance = openstack::instance("configdrive", place.name(), &meta, [user, vendor, vendor2, network])?;
    if let Some(Ok(told)) = of_ec2 {
        // OpenStack tells these only there.
        instance.local_ipv4 = instance.local_ipv4.or(told.local_ipv4);
        instance.public_ipv4 = told.public_ipv4;
        instance.instance_type = told.instance_type;
        instance.image_id = told.image_id;
    }
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in files {
            system.write(format!("/config-drive/{path}"), text, FileOptions::default()).unwrap();
        }
        (tree, system)
    }

    fn fetch(system: &System) -> Result<Instance, String> {
        ConfigDrive.fetch(system, Instant::now()).map_err(|error| error.message)
    }

    const OPENSTACK: (&str, &str) =
        ("openstack/latest/meta_data.json", r#"{"uuid": "u-1", "hostname": "web", "admin_pass": "hunter2"}"#);
    const AS_EC2: (&str, &str) = (
        "ec2/latest/meta-data.json",
        r#"{"instance-id": "i-1", "local-hostname": "ec2-web", "local-ipv4": "10.0.0.7", "instance-type": "m1.small",
            "public-keys": {"0": {"openssh-key": "ssh-rsa AAAA me"}}, "placement": {"availability-zone": "nova"}}"#,
    );

    #[test]
    fn the_documents_of_openstack_count_and_those_of_ec2_fill_in() {
        let (_tree, system) =
            tree(&[OPENSTACK, AS_EC2, ("openstack/latest/user_data", "#!a"), ("ec2/latest/user-data", "#!b")]);
        assert_eq!(ConfigDrive.detect(&system), Detected::Yes);
        let instance = fetch(&system).unwrap();
        assert_eq!((instance.source.as_str(), instance.id.as_str()), ("configdrive", "u-1"));
        assert_eq!((instance.hostname.as_deref(), instance.user_data.as_slice()), (Some("web"), &b"#!a"[..]));
        assert_eq!(instance.local_ipv4.as_deref(), Some("10.0.0.7"));
        assert_eq!(instance.instance_type.as_deref(), Some("m1.small"));
        assert!(!serde_json::to_string(&instance).unwrap().contains("hunter2"));
    }

    #[test]
    fn the_documents_of_ec2_alone_are_enough() {
        let (_tree, system) = tree(&[AS_EC2, ("ec2/latest/user-data", "#!b")]);
        let instance = fetch(&system).unwrap();
        assert_eq!((instance.source.as_str(), instance.id.as_str()), ("configdrive", "i-1"));
        assert_eq!((instance.public_keys, instance.user_data), (vec!["ssh-rsa AAAA me".to_owned()], b"#!b".to_vec()));
        assert_eq!(instance.zone.as_deref(), Some("nova"));
    }

    #[test]
    fn a_drive_that_cannot_be_used_is_told() {
        for (files, sentence) in [
            (vec![], "no disk with the label config-2, and no documents in /config-drive or"),
            (vec![(AS_EC2.0, "{}")], "/config-drive/ec2/latest/meta-data.json: it has no instance-id"),
            (vec![(AS_EC2.0, "{")], "/config-drive/ec2/latest/meta-data.json: not JSON at line 1, column 1"),
            (vec![(OPENSTACK.0, "{}"), AS_EC2], "/config-drive/openstack/latest/meta_data.json: it has no uuid"),
        ] {
            let (_tree, system) = tree(&files);
            let told = fetch(&system).unwrap_err();
            assert!(told.starts_with(sentence), "{told}");
        }
        let (_tree, system) = tree(&[("openstack/latest/user_data", "#!a")]);
        assert_eq!(ConfigDrive.detect(&system), Detected::No);
        system.write("/dev/disk/by-label/config-2", vec![0; 70_000], FileOptions::default()).unwrap();
        assert_eq!(ConfigDrive.detect(&system), Detected::Yes);
        assert_eq!(
            fetch(&system).unwrap_err(),
            "/dev/disk/by-label/config-2: it holds none of iso9660, udf, vfat and ext4"
        );
    }
}
