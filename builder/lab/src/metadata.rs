//! The tree of an instance's metadata, as EC2 lays it out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::state::Instance;

/// The role of an instance that was given none: in the lab everybody has credentials.
const ROLE: &str = "kiln-lab";
/// How long credentials claim to hold.
const VALIDITY: Duration = Duration::from_secs(6 * 3600);

/// Paths below the version, and their contents.
pub struct Tree(BTreeMap<String, Vec<u8>>);

impl Tree {
    /// The tree of one instance at this moment.
    pub fn of(instance: &Instance) -> Tree {
        let mut tree = Tree(BTreeMap::new());
        tree.identity(instance);
        tree.network(instance);
        tree.role(instance);
        let document = "dynamic/instance-identity/document".to_owned();
        tree.0.insert(document, identity_document(instance).into_bytes());
        if let Some(data) = instance.user_data.as_ref().and_then(|data| STANDARD.decode(data).ok()) {
            tree.0.insert("user-data".to_owned(), data);
        }
        tree
    }

    fn add(&mut self, path: &str, value: impl Into<String>) {
        self.0.insert(format!("meta-data/{path}"), value.into().into_bytes());
    }

    fn identity(&mut self, instance: &Instance) {
        self.add("ami-id", &instance.image);
        self.add("ami-launch-index", instance.launch_index.to_string());
        self.add("ami-manifest-path", "(unknown)");
        self.add("instance-action", "none");
        self.add("instance-id", &instance.id);
        self.add("instance-life-cycle", "on-demand");
        self.add("instance-type", &instance.instance_type);
        self.add("placement/availability-zone", &instance.zone);
        self.add("placement/region", &instance.region);
        self.add("profile", "default-hvm");
        self.add("reservation-id", &instance.reservation);
        self.add("security-groups", instance.security_groups.join("\n"));
        self.add("services/domain", "amazonaws.com");
        self.add("services/partition", "aws");
        if let (Some(_), Some(key)) = (&instance.key_name, &instance.public_key) {
            self.add("public-keys/0/openssh-key", format!("{key}\n"));
        }
        for (key, value) in instance.tags.iter().flatten() {
            self.add(&format!("tags/instance/{key}"), value);
        }
    }

    fn network(&mut self, instance: &Instance) {
        let address = instance.address.to_string();
        self.add("hostname", &instance.hostname);
        self.add("local-hostname", &instance.hostname);
        self.add("local-ipv4", &address);
        self.add("mac", &instance.mac);
        if let (Some(address), Some(name)) = (&instance.public_address, &instance.public_hostname) {
            self.add("public-ipv4", address);
            self.add("public-hostname", name);
        }
        let interface = format!("network/interfaces/macs/{}", instance.mac);
        self.add(&format!("{interface}/device-number"), "0");
        self.add(&format!("{interface}/local-hostname"), &instance.hostname);
        self.add(&format!("{interface}/local-ipv4s"), address);
        self.add(&format!("{interface}/mac"), &instance.mac);
        self.add(&format!("{interface}/owner-id"), &instance.account);
        self.add(&format!("{interface}/security-groups"), instance.security_groups.join("\n"));
        for (name, value) in [("subnet-id", &instance.subnet), ("vpc-id", &instance.vpc)] {
            if let Some(value) = value {
                self.add(&format!("{interface}/{name}"), value);
            }
        }
    }

    fn role(&mut self, instance: &Instance) {
        let now = SystemTime::now();
        let given = instance.profile.as_ref();
        let role = given.and_then(|profile| profile.role.as_deref()).unwrap_or(ROLE);
        let own = format!("arn:aws:iam::{}:instance-profile/{ROLE}", instance.account);
        let info = json!({
            "Code": "Success", "LastUpdated": stamp(now),
            "InstanceProfileArn": given.map_or(own.as_str(), |profile| &profile.arn),
            "InstanceProfileId": given.map_or("AIPAKILNLAB", |profile| &profile.id),
        });
        self.add("iam/info", info.to_string());
        // The lab takes every signature, so these keep no secret.
        let credentials = json!({
            "Code": "Success", "LastUpdated": stamp(now), "Type": "AWS-HMAC",
            "AccessKeyId": "ASIAKILNLAB000000000", "SecretAccessKey": "kiln-lab",
            "Token": format!("kiln-lab-{}", instance.id), "Expiration": stamp(now + VALIDITY),
        });
        self.add(&format!("iam/security-credentials/{role}"), credentials.to_string());
    }

    /// What is at a path: a value, or the listing of what is below, where what has more below it
    /// ends with a slash.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        if let Some(value) = self.0.get(path) {
            return Some(value.clone());
        }
        let folder = path.trim_end_matches('/');
        let within = |known: &str| {
            let rest = if folder.is_empty() { Some(known) } else { known.strip_prefix(folder)?.strip_prefix('/') }?;
            Some(rest.split_once('/').map_or_else(|| rest.to_owned(), |(name, _)| format!("{name}/")))
        };
        let mut names: BTreeSet<String> = self.0.keys().filter_map(|known| within(known)).collect();
        if folder == "meta-data/public-keys" {
            names = self.key_names();
        }
        let names: Vec<String> = names.into_iter().collect();
        (!names.is_empty()).then(|| names.join("\n").into_bytes())
    }

    /// Keys are listed with their number and the comment of the key, which is its name.
    fn key_names(&self) -> BTreeSet<String> {
        let key = self.0.get("meta-data/public-keys/0/openssh-key");
        let text = key.map(|key| String::from_utf8_lossy(key).trim().to_owned());
        text.iter().map(|text| format!("0={}", text.splitn(3, ' ').nth(2).unwrap_or("key"))).collect()
    }
}

fn identity_document(instance: &Instance) -> String {
    let document = json!({
        "accountId": instance.account, "architecture": instance.architecture,
        "availabilityZone": instance.zone, "imageId": instance.image, "instanceId": instance.id,
        "instanceType": instance.instance_type, "pendingTime": instance.launched,
        "privateIp": instance.address, "region": instance.region, "version": "2017-09-30",
        "billingProducts": null, "devpayProductCodes": null, "marketplaceProductCodes": null,
        "kernelId": null, "ramdiskId": null,
    });
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// A moment as AWS writes it, in UTC and whole seconds.
fn stamp(moment: SystemTime) -> String {
    let moment = jiff::Timestamp::try_from(moment).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::instance;

    fn get(path: &str) -> Option<String> {
        let mut one = instance("i-1");
        one.tags = Some([("role".to_owned(), "jetty".to_owned())].into());
        Tree::of(&one).get(path).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn values_are_where_ec2_has_them() {
        for (path, value) in [
            ("meta-data/instance-id", "i-1"),
            ("meta-data/ami-id", "ami-1"),
            ("meta-data/ami-launch-index", "0"),
            ("meta-data/hostname", "ip-10-1-2-3.ec2.internal"),
            ("meta-data/local-hostname", "ip-10-1-2-3.ec2.internal"),
            ("meta-data/local-ipv4", "10.1.2.3"),
            ("meta-data/mac", "02:00:00:11:22:33"),
            ("meta-data/instance-type", "t3.micro"),
            ("meta-data/placement/availability-zone", "us-east-1a"),
            ("meta-data/placement/region", "us-east-1"),
            ("meta-data/security-groups", "default"),
            ("meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA\n"),
            ("meta-data/network/interfaces/macs/02:00:00:11:22:33/vpc-id", "vpc-1"),
            ("meta-data/tags/instance/role", "jetty"),
            ("user-data", "#cloud-config\n"),
        ] {
            assert_eq!(get(path).as_deref(), Some(value), "{path}");
        }
    }

    #[test]
    fn folders_are_listed_with_and_without_slash() {
        assert_eq!(get("").unwrap(), "dynamic/\nmeta-data/\nuser-data");
        assert_eq!(get("meta-data/placement/").unwrap(), "availability-zone\nregion");
        assert_eq!(get("meta-data/placement").unwrap(), "availability-zone\nregion");
        assert_eq!(get("meta-data/public-keys/").unwrap(), "0=key");
        assert_eq!(get("meta-data/public-keys/0/").unwrap(), "openssh-key");
        assert_eq!(get("meta-data/iam/security-credentials/").unwrap(), "kiln-lab");
        let top = get("meta-data/").unwrap();
        assert!(top.contains("ami-id\n") && top.contains("\nplacement/\n"), "{top}");
    }

    #[test]
    fn what_is_not_there_is_not_listed() {
        for path in ["meta-data/instance", "meta-data/instance-id/x", "meta-data/public-keys/1", "nothing", "x/"] {
            assert_eq!(get(path), None, "{path}");
        }
        let mut bare = instance("i-1");
        (bare.key_name, bare.public_key, bare.user_data) = (None, None, None);
        for path in ["user-data", "meta-data/public-keys/", "meta-data/tags/", "meta-data/public-ipv4"] {
            assert_eq!(Tree::of(&bare).get(path), None, "{path}");
        }
    }

    #[test]
    fn credentials_are_in_the_future_and_named_by_the_role() {
        let mut one = instance("i-1");
        one.profile = serde_json::from_value(json!({"arn": "arn:x", "id": "AIPA1", "role": "web"})).unwrap();
        let tree = Tree::of(&one);
        assert_eq!(tree.get("meta-data/iam/security-credentials").unwrap(), b"web");
        let credentials = tree.get("meta-data/iam/security-credentials/web").unwrap();
        let credentials: serde_json::Value = serde_json::from_slice(&credentials).unwrap();
        let end: jiff::Timestamp = credentials["Expiration"].as_str().unwrap().parse().unwrap();
        assert!(end > jiff::Timestamp::now());
        let info: serde_json::Value = serde_json::from_slice(&tree.get("meta-data/iam/info").unwrap()).unwrap();
        assert_eq!(info["InstanceProfileArn"], "arn:x");
    }

    #[test]
    fn the_identity_document_names_the_instance() {
        let document: serde_json::Value =
            serde_json::from_str(&get("dynamic/instance-identity/document").unwrap()).unwrap();
        for (name, value) in [
            ("accountId", "123456789012"),
            ("region", "us-east-1"),
            ("instanceId", "i-1"),
            ("imageId", "ami-1"),
            ("privateIp", "10.1.2.3"),
            ("architecture", "x86_64"),
        ] {
            assert_eq!(document[name], value, "{name}");
        }
    }
}
