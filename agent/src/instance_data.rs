//! What is known of an instance, by the names that cloud-init's templates use.

use serde_json::{Map, Value as Json, json};

use crate::datasources::Instance;
use crate::system::System;
use crate::template;

/// Folders that cloud-init takes the metadata of EC2 from, beside `meta-data` itself.
const DOCUMENT: &str = "instance-identity";

/// `v1` and `ds`, the names of `v1` again at the top, and the names that the agent's own templates use.
///
/// What is not known is left out. Dashes in names are underscores; a name with dashes is there as well.
pub fn variables(system: &System, instance: &Instance) -> Json {
    let v1 = v1(system, instance);
    let mut metadata = instance.metadata.clone();
    let document = metadata.as_object_mut().and_then(|fields| fields.remove(DOCUMENT));
    let mut ds = json!({"meta_data": with_underscores(&metadata)});
    if let Some(document) = document {
        ds["dynamic"] = with_underscores(&json!({DOCUMENT: {"document": document}}));
    }
    let mut all = template::of_instance(instance);
    if let Some(hostname) = v1.get("local_hostname") {
        all.insert("hostname".to_owned(), hostname.clone());
    }
    all.extend(v1.clone());
    all.insert("v1".to_owned(), Json::Object(v1));
    all.insert("ds".to_owned(), ds);
    Json::Object(all)
}

fn v1(system: &System, instance: &Instance) -> Map<String, Json> {
    let (cloud, platform) = match instance.source.as_str() {
        "ec2" => ("aws", "ec2"),
        source => (source, source),
    };
    let short = instance.hostname.as_ref().and_then(|name| name.split('.').next());
    let text = |text: &str| Some(Json::from(text)).filter(|_| !text.is_empty());
    let file = |path: &str| system.read_text(path).ok().and_then(|line| text(line.trim()));
    let known = [
        ("cloud_name", text(cloud)),
        ("cloud_id", text(cloud)),
        ("platform", text(platform)),
        ("instance_id", text(&instance.id)),
        ("local_hostname", short.and_then(text)),
        ("region", instance.region.as_deref().and_then(text)),
        ("availability_zone", instance.zone.as_deref().and_then(text)),
        ("public_ssh_keys", Some(json!(instance.public_keys))),
        ("distro", text(&system.distro().id)),
        ("distro_version", text(&system.distro().version)),
        ("distro_release", text(&system.distro().codename)),
        ("variant", text(&system.distro().id)),
        ("machine", text(std::env::consts::ARCH)),
        ("kernel_release", file("/proc/sys/kernel/osrelease")),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The same tree, in which every name with dashes is there with underscores too.
fn with_underscores(tree: &Json) -> Json {
    match tree {
        Json::Object(fields) => {
            let mut both = Map::new();
            for (name, value) in fields {
                let value = with_underscores(value);
                let alias = name.replace('-', "_");
                if alias != *name && !fields.contains_key(&alias) {
                    both.insert(alias, value.clone());
                }
                both.insert(name.clone(), value);
            }
            Json::Object(both)
        }
        Json::Array(items) => items.iter().map(with_underscores).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_for_cloud_init_find_their_variables() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system
            .write(
                "/etc/os-release",
                "ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm\n",
                crate::system::FileOptions::default(),
            )
            .unwrap();
        let instance = Instance {
            hostname: Some("ip-10-0-0-1.ec2.internal".into()),
            region: Some("eu-west-1".into()),
            zone: Some("eu-west-1a".into()),
            metadata: json!({
                "ami-id": "ami-1",
                "placement": {"availability-zone": "eu-west-1a"},
                "instance-identity": {"accountId": "1"},
            }),
            ..Instance::new("ec2", "i-1")
        };
        let variables = variables(&system, &instance);
        for (expression, value) in [
            ("v1.local_hostname", "ip-10-0-0-1"),
            ("v1.instance_id", "i-1"),
            ("v1.region", "eu-west-1"),
            ("v1.availability_zone", "eu-west-1a"),
            ("v1.cloud_name", "aws"),
            ("v1.distro", "debian"),
            ("distro_release", "bookworm"),
            ("v1.distro_version", "12"),
            ("availability_zone", "eu-west-1a"),
            ("instance_id", "i-1"),
            ("zone", "eu-west-1a"),
            ("ds.meta_data.ami_id", "ami-1"),
            ("ds.meta_data['ami-id']", "ami-1"),
            ("ds.meta_data.placement.availability_zone", "eu-west-1a"),
            ("ds.dynamic.instance_identity.document.accountId", "1"),
            ("ds.meta_data.instance_identity | default('-')", "-"),
        ] {
            let text = format!("{{{{ {expression} }}}}");
            let filled = template::fill(&text, Some(&variables)).map_err(|fault| fault.message);
            assert_eq!(filled.as_deref(), Ok(value), "{expression}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_empty() {
        let tree = tempfile::tempdir().unwrap();
        let variables = variables(&System::new(tree.path()), &Instance::new("nocloud", "i-1"));
        assert_eq!(variables["v1"]["cloud_name"], "nocloud");
        for name in ["region", "local_hostname", "distro", "distro_release"] {
            assert_eq!(variables["v1"].get(name), None, "{name}");
        }
    }
}
