//! The instance's data in the layout that cloud-init's tools read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};

use crate::datasources::Instance;
use crate::instance_data;
use crate::system::System;

/// For everybody; what may hold a secret is redacted.
pub const PUBLIC: &str = "/run/cloud-init/instance-data.json";
/// The whole, for root.
pub const SENSITIVE: &str = "/run/cloud-init/instance-data-sensitive.json";
/// Stands in the place of what only root may see.
pub const REDACTED: &str = "redacted for non-root user";

/// Names of `v1` that are there with dashes as well.
const TWINS: [&str; 5] = ["availability_zone", "cloud_name", "instance_id", "local_hostname", "region"];
/// Part of the names, anywhere in the metadata, whose values are for root alone.
const SECRET: &[&str] = &[
    "passw",
    "admin_pass",
    "secret",
    "credential",
    "token",
    "private_key",
    "api_key",
    "psk",
    "random_seed",
    "user_data",
    "vendor_data",
];

/// All that is known, secrets and all.
pub fn variables(system: &System, instance: &Instance) -> Json {
    let known = instance_data::variables(system, instance);
    let mut v1 = known["v1"].as_object().cloned().unwrap_or_default();
    for name in TWINS {
        if let Some(value) = v1.get(name).cloned() {
            v1.insert(name.replace('_', "-"), value);
        }
    }
    let mut encoded: Vec<&str> = Vec::new();
    let mut text = |name, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            encoded.push(name);
            STANDARD.encode(bytes)
        }
    };
    let (userdata, vendordata) = (text("userdata", &instance.user_data), text("vendordata", &instance.vendor_data));
    let mut sensitive = vec!["userdata".to_owned(), "vendordata".to_owned()];
    paths(&known["ds"], "ds", &mut sensitive);
    json!({
        "base64_encoded_keys": encoded,
        "ds": known["ds"],
        "sensitive_keys": sensitive,
        "sys_info": {"system": "Linux", "release": v1.get("kernel_release"), "variant": v1.get("variant")},
        "userdata": userdata,
        "v1": v1,
        "vendordata": vendordata,
    })
}

/// The same without what only root may see.
pub fn redacted(all: &Json) -> Json {
    let mut public = all.clone();
    for name in ["userdata", "vendordata"] {
        public[name] = json!(REDACTED);
    }
    redact(&mut public["ds"]);
    public
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase().replace('-', "_");
    SECRET.iter().any(|part| name.contains(part)) || matches!(name.as_str(), "userdata" | "vendordata")
}

fn redact(tree: &mut Json) {
    match tree {
        Json::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                if is_secret(name) { *value = json!(REDACTED) } else { redact(value) }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// Where the secret ones are, as cloud-init tells it.
fn paths(tree: &Json, at: &str, found: &mut Vec<String>) {
    for (name, value) in tree.as_object().into_iter().flat_map(Map::iter) {
        let path = format!("{at}/{name}");
        if is_secret(name) { found.push(path) } else { paths(value, &path, found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_left_in_what_everybody_reads() {
        let tree = tempfile::tempdir().unwrap();
        let instance = Instance {
            user_data: vec![0x1f, 0x8b, 0xff],
            vendor_data: b"hunter2".to_vec(),
            metadata: json!({
                "admin_pass": "hunter2",
                "iam": {"security-credentials": {"role": {"Token": "hunter2"}}},
                "devices": [{"password": "hunter2"}],
                "vendor-data": "hunter2",
                "local-ipv4": "10.0.0.1",
            }),
            ..Instance::new("ec2", "i-1")
        };
        let all = variables(&System::new(tree.path()), &instance);
        assert_eq!(all["base64_encoded_keys"], json!(["userdata"]));
        assert_eq!(all["userdata"], "H4v/");
        let public = redacted(&all);
        assert!(all.to_string().contains("hunter2") && !public.to_string().contains("hunter2"), "{public}");
        assert_eq!(public["ds"]["meta_data"]["local-ipv4"], "10.0.0.1");
        assert_eq!(public["ds"]["meta_data"]["iam"]["security-credentials"], REDACTED);
        let secret = public["sensitive_keys"].as_array().unwrap();
        assert!(secret.contains(&json!("ds/meta_data/admin_pass")), "{secret:?}");
        assert_eq!((&public["v1"]["instance-id"], &public["v1"]["cloud_name"]), (&json!("i-1"), &json!("aws")));
    }
}
