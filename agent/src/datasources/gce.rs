//! `gce`: the metadata server of Google Compute Engine.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::place::{dmi, text};
use super::{Datasource, Detected, Instance, SourceError};
use crate::handlers::image_default_name;
use crate::net::service::{Api, Service};
use crate::system::System;

/// By address, and not as `metadata.google.internal`: a name server that is down must not cost the instance.
const API: Api = Api {
    bases: &["http://169.254.169.254", "http://[fd20:ce::254]"],
    headers: &[("Metadata-Flavor", "Google")],
    passing: &[],
};
const INSTANCE: &str = "computeMetadata/v1/instance/?recursive=true";
const PROJECT: &str = "computeMetadata/v1/project/attributes/?recursive=true";
/// Keys for this user are the default user's, whatever his name is.
const ANY_NAME: &str = "cloudinit";

/// An instance of Google Compute Engine.
pub struct Gce;

impl Datasource for Gce {
    fn name(&self) -> &'static str {
        "gce"
    }

    fn summary(&self) -> &'static str {
        "The metadata server of Google Compute Engine"
    }

    fn needs_network(&self, _: &System) -> bool {
        true
    }

    fn detect(&self, system: &System) -> Detected {
        let yes = dmi(system, "product_name") == "Google Compute Engine"
            || dmi(system, "product_serial").starts_with("GoogleCloud-");
        if yes { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, system: &System, deadline: Instant) -> Result<Instance, SourceError> {
        read(&Service::new(&API, deadline)?, &image_default_name(system))
    }
}

fn read(service: &Service, user: &str) -> Result<Instance, SourceError> {
    let told = service.json(INSTANCE)?.unwrap_or_default();
    let project = service.json(PROJECT)?.unwrap_or_default();
    let none = || format!("the metadata server at {} tells no instance id", service.base());
    let id = text(&told, "/id").ok_or_else(none)?;
    let last = |pointer: &str| text(&told, pointer).and_then(|path| path.rsplit('/').next().map(str::to_owned));
    let mut instance = Instance::new("gce", &id);
    instance.hostname = text(&told, "/hostname");
    instance.zone = last("/zone");
    instance.region = instance.zone.as_deref().and_then(|zone| Some(zone.rsplit_once('-')?.0.to_owned()));
    instance.instance_type = last("/machineType");
    instance.image_id = text(&told, "/image");
    instance.account_id = text(&told, "/zone").and_then(|zone| zone.split('/').nth(1).map(str::to_owned));
    instance.local_ipv4 = text(&told, "/networkInterfaces/0/ip");
    instance.public_ipv4 = text(&told, "/networkInterfaces/0/accessConfigs/0/externalIp");
    instance.ipv6 = text(&told, "/networkInterfaces/0/ipv6s/0");
    let now = jiff::Timestamp::now();
    instance.public_keys = keys(&told, &project).iter().filter_map(|line| key_of(line, user, now)).collect();
    instance.user_data = user_data(&told)?;
    instance.metadata = json!({
        "instance-id": id,
        "local-hostname": instance.hostname,
        "availability-zone": instance.zone,
        "instance-data": without_user_data(told),
        "project-data": {"attributes": project},
    });
    Ok(instance)
}

/// The lines with keys: those of the instance, and those of the project where the instance takes them.
fn keys(told: &Json, project: &Json) -> Vec<String> {
    let lines = |json: &Json, pointer: &str| {
        let text = json.pointer(pointer).and_then(Json::as_str).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let older = lines(told, "/attributes/sshKeys");
    let blocked =
        text(told, "/attributes/block-project-ssh-keys").is_some_and(|word| word.eq_ignore_ascii_case("true"));
    let mut all = lines(told, "/attributes/ssh-keys");
    // The older key of an instance stands for all of its project's.
    if older.is_empty() && !blocked {
        all.extend(lines(project, "/ssh-keys"));
        all.extend(lines(project, "/sshKeys"));
    }
    all.extend(older);
    all
}

/// The key of a line `user:key`, if it is for this user and still good.
fn key_of(line: &str, user: &str, now: jiff::Timestamp) -> Option<String> {
    let (owner, key) = line.trim().split_once(':')?;
    let key = key.trim();
    if key.is_empty() || (owner != user && owner != ANY_NAME) {
        return None;
    }
    // `… google-ssh {"userName": "…", "expireOn": "2026-11-08T19:30:47+0000"}`
    let expiry = key.split_once(" google-ssh ").and_then(|(_, json)| serde_json::from_str::<Json>(json).ok());
    let expiry = expiry.and_then(|json| text(&json, "/expireOn")).and_then(|at| at.parse::<jiff::Timestamp>().ok());
    expiry.is_none_or(|expiry| expiry > now).then(|| key.to_owned())
}

fn user_data(told: &Json) -> Result<Vec<u8>, String> {
    let Some(raw) = told.pointer("/attributes/user-data").and_then(Json::as_str) else { return Ok(Vec::new()) };
    match text(told, "/attributes/user-data-encoding").as_deref() {
        Some("base64") => {
            let compact: Vec<u8> = raw.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            STANDARD.decode(compact).map_err(|_| "user-data-encoding is base64, and user-data is not".to_owned())
        }
        Some(other) => Err(format!("user-data-encoding is `{other}`; leave it out, or make it base64")),
        None => Ok(raw.as_bytes().to_vec()),
    }
}

fn without_user_data(mut told: Json) -> Json {
    if let Some(attributes) = told.pointer_mut("/attributes").and_then(Json::as_object_mut) {
        attributes.remove("user-data");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasources::testing::{self, Values};

    const TOLD: &str = r##"{"id": 4520031799277581759, "hostname": "web.c.project.internal",
        "zone": "projects/123456/zones/europe-west1-b", "machineType": "projects/123456/machineTypes/e2-small",
        "image": "projects/debian-cloud/global/images/debian-13", "cpuPlatform": "x",
        "networkInterfaces": [{"ip": "10.0.0.2", "accessConfigs": [{"externalIp": "203.0.113.7"}], "mac": "42:01:0a"}],
        "attributes": {"user-data": "#cloud-config\n{}\n",
            "ssh-keys": "debian:ssh-ed25519 AAAA me\nother:ssh-rsa NO no\ncloudinit:ssh-rsa BBBB you\nbroken\n"}}"##;
    const WHOLE: Values = &[
        ("/computeMetadata/v1/instance/?recursive=true", TOLD),
        (
            "/computeMetadata/v1/project/attributes/?recursive=true",
            r#"{"ssh-keys": "debian:ssh-rsa CCCC google-ssh {\"userName\": \"a@b\", \"expireOn\": \"2018-11-08T19:30:47+0000\"}",
                "sshKeys": "debian:ssh-rsa DDDD"}"#,
        ),
    ];

    #[test]
    fn everything_that_the_server_tells_is_known() {
        let instance = read(&testing::service(&API, &testing::server(&API, WHOLE)), "debian").unwrap();
        assert_eq!(instance.id, "4520031799277581759");
        assert_eq!(instance.hostname.as_deref(), Some("web.c.project.internal"));
        assert_eq!(
            (instance.zone.as_deref(), instance.region.as_deref()),
            (Some("europe-west1-b"), Some("europe-west1"))
        );
        assert_eq!(
            (instance.instance_type.as_deref(), instance.account_id.as_deref()),
            (Some("e2-small"), Some("123456"))
        );
        assert_eq!(
            (instance.local_ipv4.as_deref(), instance.public_ipv4.as_deref()),
            (Some("10.0.0.2"), Some("203.0.113.7"))
        );
        assert_eq!(instance.public_keys, ["ssh-ed25519 AAAA me", "ssh-rsa BBBB you", "ssh-rsa DDDD"]);
        assert_eq!(instance.user_data, b"#cloud-config\n{}\n");
        assert_eq!(instance.metadata["instance-data"]["cpuPlatform"], "x");
        assert_eq!(instance.metadata.pointer("/instance-data/attributes/user-data"), None);
    }

    #[test]
    fn the_server_may_be_as_bad_as_it_likes() {
        testing::faults(&API, WHOLE, |service| read(service, "debian"));
    }

    #[test]
    fn the_keys_of_the_project_are_taken_unless_the_instance_forbids_it() {
        let project = json!({"ssh-keys": "u:project"});
        for (attributes, expected) in [
            (json!({"ssh-keys": "u:own"}), &["u:own", "u:project"][..]),
            (json!({"ssh-keys": "u:own", "block-project-ssh-keys": "TRUE"}), &["u:own"]),
            (json!({"ssh-keys": "u:own", "sshKeys": "u:old"}), &["u:own", "u:old"]),
            (json!({}), &["u:project"]),
        ] {
            assert_eq!(keys(&json!({"attributes": attributes}), &project), expected, "{attributes}");
        }
    }

    #[test]
    fn a_key_is_good_until_it_expires() {
        let now = "2020-01-01T00:00:00Z".parse().unwrap();
        let line = |expiry: &str| format!("u:ssh-rsa A google-ssh {{\"userName\": \"a\", \"expireOn\": \"{expiry}\"}}");
        for (line, good) in [
            (line("2020-01-01T00:00:01+0000"), true),
            (line("2020-01-01T01:00:00+0200"), false),
            (line("2019-12-31T23:59:59+0000"), false),
            // As in cloud-init, a date that is none does not lock anybody out.
            (line("soon"), true),
            ("u:ssh-rsa A google-ssh {".to_owned(), true),
            ("u:".to_owned(), false),
            ("v:ssh-rsa A".to_owned(), false),
        ] {
            assert_eq!(key_of(&line, "u", now).is_some(), good, "{line}");
        }
    }

    #[test]
    fn user_data_is_decoded_as_it_is_told_to_be() {
        let encoded = |encoding: &str, data: &str| {
            user_data(&json!({"attributes": {"user-data-encoding": encoding, "user-data": data}}))
        };
        assert_eq!(encoded("base64", "IyFh\nCg==\n").unwrap(), b"#!a\n");
        assert!(encoded("base64", "#!a").unwrap_err().contains("user-data is not"));
        assert!(encoded("rot13", "x").unwrap_err().contains("`rot13`"));
        assert_eq!(user_data(&Json::Null).unwrap(), b"");
        let no_id = testing::server(&API, &[("/computeMetadata/v1/instance/?recursive=true", "{}")]);
        assert!(read(&testing::service(&API, &no_id), "u").unwrap_err().message.ends_with("tells no instance id"));
    }

    #[test]
    fn a_machine_is_known_by_its_firmware_alone() {
        testing::detects(
            &Gce,
            &[
                ("product_name", "Google Compute Engine\n", Detected::Yes),
                ("product_serial", "GoogleCloud-0123\n", Detected::Yes),
                ("product_name", "Google\n", Detected::No),
            ],
        );
    }
}
