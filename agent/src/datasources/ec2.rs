//! `ec2`: the metadata service of AWS.
//!
//! Everything is asked within one budget of [`BUDGET`], or what is left of the stage if that is less.
//! A service that cannot be reached is asked again while the budget lasts, because the network may
//! still be coming up; one that refuses is believed at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_schema::status::Reason;
use serde_json::{Map, Value as Json};
use tokio::task::JoinSet;

use super::{Datasource, Detected, Instance, SourceError};
use crate::net::imds::Imds;
use crate::net::{Engine, Error};
use crate::network::NetworkConfig;
use crate::system::System;

/// The whole conversation ends by then. `init` has 300 s, and its handlers need a part of them.
const BUDGET: Duration = Duration::from_secs(120);
/// So many requests are under way at once: the service throttles whoever asks for more.
const AT_ONCE: usize = 8;
/// An instance with many network interfaces has some hundreds of values.
const MOST_VALUES: usize = 4096;
/// Folders of the service that hold credentials; they are never read here.
const SECRET: &[&str] = &["security-credentials", "identity-credentials"];

/// An instance of EC2.
pub struct Ec2;

impl Datasource for Ec2 {
    fn name(&self) -> &'static str {
        "ec2"
    }

    fn summary(&self) -> &'static str {
        "The metadata service of AWS (IMDSv2), by IPv4 or IPv6"
    }

    fn needs_network(&self, _: &System) -> bool {
        true
    }

    fn detect(&self, system: &System) -> Detected {
        let read = |path: &str| system.read_text(path).unwrap_or_default().trim().to_lowercase();
        let dmi = |name: &str| read(&format!("/sys/class/dmi/id/{name}"));
        let asset = dmi("board_asset_tag");
        let is_id = |id: &str| id.len() >= 8 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if dmi("sys_vendor") == "amazon ec2" || asset.strip_prefix("i-").is_some_and(is_id) {
            return Detected::Yes;
        }
        if read("/sys/hypervisor/uuid").starts_with("ec2") {
            return Detected::Yes;
        }
        // Machines of the Xen generation show it here alone. One machine in 4096 has such a number by
        // chance, so one of the two only suggests it.
        match (is_uuid_of_ec2(&dmi("product_uuid")), is_uuid_of_ec2(&dmi("product_serial"))) {
            (true, true) => Detected::Yes,
            (false, false) => Detected::No,
            _ => Detected::Perhaps,
        }
    }

    fn fetch(&self, _: &System, deadline: Instant) -> Result<Instance, SourceError> {
        let imds = Imds::new(deadline.min(Instant::now() + BUDGET));
        let told = Engine::new().and_then(|engine| engine.run(read(imds)));
        told.map_err(|error| SourceError { message: error.message })
    }
}

/// `ec2…`, or the same with the bytes of the first group turned round, as some firmware tells it.
fn is_uuid_of_ec2(uuid: &str) -> bool {
    let turned = || {
        let first = uuid.as_bytes().first_chunk::<8>()?;
        // The first byte is `ec`, and the second begins with `2`.
        Some(&first[6..] == b"ec" && first[4] == b'2')
    };
    uuid.starts_with("ec2") || turned().unwrap_or(false)
}

async fn read(imds: Imds) -> Result<Instance, Error> {
    let imds = Arc::new(imds);
    let document = imds.get("dynamic/instance-identity/document").await?.unwrap_or_default();
    let document: Json = serde_json::from_slice(&document).unwrap_or_default();
    let user_data = imds.get("user-data").await?.unwrap_or_default();
    let metadata = tree(&imds).await?;
    let mut instance = instance(&document, metadata).ok_or_else(|| {
        let message = format!("the metadata service at {} tells no instance id", imds.base());
        Error::new(Reason::Refused, message)
    })?;
    instance.user_data = user_data;
    Ok(instance)
}

/// What the parts amount to; none without an instance id.
pub fn instance(document: &Json, metadata: Json) -> Option<Instance> {
    let from_document = |key: &str| document.get(key).and_then(Json::as_str).map(str::to_owned);
    let from_tree = |path: &str| {
        let text = metadata.pointer(path)?.as_str()?.trim();
        Some(text.to_owned()).filter(|text| !text.is_empty())
    };
    let interface = from_tree("/mac").map(|mac| format!("/network/interfaces/macs/{mac}"));
    let of_interface = |name: &str| {
        let lines = from_tree(&format!("{}/{name}", interface.as_ref()?))?;
        lines.lines().next().map(str::to_owned)
    };
    let id = from_document("instanceId").or_else(|| from_tree("/instance-id"))?;
    let mut instance = Instance::new("ec2", &id);
    // With several interfaces the service lists a name for each address.
    instance.hostname = from_tree("/local-hostname").and_then(|n| n.split_whitespace().next().map(str::to_owned));
    instance.public_keys = public_keys(metadata.get("public-keys"));
    instance.local_ipv4 = from_tree("/local-ipv4").or_else(|| from_document("privateIp"));
    instance.public_ipv4 = from_tree("/public-ipv4");
    instance.ipv6 = from_tree("/ipv6").or_else(|| of_interface("ipv6s"));
    instance.zone = from_tree("/placement/availability-zone").or_else(|| from_document("availabilityZone"));
    instance.region = from_document("region").or_else(|| from_tree("/placement/region")).or_else(|| {
        // The region's name is in front of the zone's letter.
        instance.zone.as_ref().map(|zone| zone.trim_end_matches(|c: char| c.is_ascii_lowercase()).to_owned())
    });
    instance.instance_type = from_tree("/instance-type").or_else(|| from_document("instanceType"));
    instance.image_id = from_tree("/ami-id").or_else(|| from_document("imageId"));
    instance.account_id = from_document("accountId").or_else(|| of_interface("owner-id"));
    instance.launch_index = from_tree("/ami-launch-index").and_then(|index| index.parse().ok());
    instance.network = NetworkConfig::of_ec2(&metadata);
    let mut metadata = metadata;
    if let (Some(fields), true) = (metadata.as_object_mut(), document.is_object()) {
        fields.insert("instance-identity".to_owned(), document.clone());
    }
    instance.metadata = metadata;
    Some(instance)
}

/// The keys in the order of their numbers.
fn public_keys(folder: Option<&Json>) -> Vec<String> {
    let Some(Json::Object(numbered)) = folder else { return Vec::new() };
    let mut keys: Vec<_> = numbered.iter().map(|(number, key)| (number.parse().unwrap_or(u32::MAX), key)).collect();
    keys.sort_by_key(|(number, _)| *number);
    let texts = keys.iter().filter_map(|(_, key)| key.get("openssh-key")?.as_str());
    texts.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// All values below `meta-data/`, as nested mappings. Each is a request of its own.
async fn tree(imds: &Arc<Imds>) -> Result<Json, Error> {
    let mut waiting: VecDeque<String> = VecDeque::from([String::new()]);
    let mut running = JoinSet::new();
    let mut root = Json::Object(Map::new());
    let mut values = 0;
    loop {
        while running.len() < AT_ONCE
            && let Some(path) = waiting.pop_front()
        {
            let imds = imds.clone();
            running.spawn(async move {
                let body = imds.get(&format!("meta-data/{path}")).await;
                (path, body)
            });
        }
        let Some(joined) = running.join_next().await else { return Ok(root) };
        let (path, body) = joined.map_err(|e| Error::new(Reason::Panicked, format!("a bug in this source: {e}")))?;
        // What is listed and not there came or went meanwhile.
        let Some(body) = body? else { continue };
        let text = String::from_utf8_lossy(&body);
        if path.is_empty() || path.ends_with('/') {
            let names = text.lines().map(|line| entry(&path, line.trim()));
            waiting.extend(names.flatten().map(|name| path.clone() + &name));
        } else if values < MOST_VALUES {
            values += 1;
            put(&mut root, &path, text.into_owned());
        }
    }
}

/// The name under which a line of a listing is asked for; none if it is not.
fn entry(folder: &str, line: &str) -> Option<String> {
    let name = line.trim_end_matches('/');
    if name.is_empty() || SECRET.contains(&name) {
        return None;
    }
    if folder == "public-keys/" {
        // `0=name of the key`; the service answers below the number alone.
        let number = name.split('=').next().unwrap_or(name);
        return Some(format!("{number}/"));
    }
    Some(line.to_owned())
}

fn put(root: &mut Json, path: &str, value: String) {
    let mut place = root;
    for name in path.split('/') {
        if !place.is_object() {
            *place = Json::Object(Map::new());
        }
        let Some(fields) = place.as_object_mut() else { return };
        place = fields.entry(name).or_insert(Json::Null);
    }
    *place = Json::String(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Reply, Server, answer};
    use crate::system::FileOptions;
    use serde_json::json;

    /// A service with these values; folders are listed as AWS lists them.
    fn service(values: &'static [(&'static str, &'static str)]) -> Server {
        Server::start(move |request, _| {
            if request.method == "PUT" {
                return answer(200, "t");
            }
            assert_eq!(request.header("x-aws-ec2-metadata-token"), Some("t"));
            let path = request.target.trim_start_matches("/latest/");
            if let Some((_, value)) = values.iter().find(|(name, _)| *name == path) {
                return answer(200, *value);
            }
            if !path.ends_with('/') {
                return answer(404, "");
            }
            let below = values.iter().filter_map(|(name, _)| name.strip_prefix(path));
            let mut names: Vec<_> = below
                .map(|rest| rest.split_once('/').map_or(rest.to_owned(), |(folder, _)| format!("{folder}/")))
                .map(|name| if path == "meta-data/public-keys/" { name.replace('/', "=my key") } else { name })
                .collect();
            names.dedup();
            if names.is_empty() { answer(404, "") } else { answer(200, names.join("\n")) }
        })
    }

    fn ask(server: &Server) -> Result<Instance, Error> {
        let imds = Imds::at(&server.url(""), Instant::now() + Duration::from_secs(30));
        Engine::new()?.run(read(imds))
    }

    const WHOLE: &[(&str, &str)] = &[
        (
            "dynamic/instance-identity/document",
            r#"{"instanceId": "i-0123456789abcdef0", "region": "eu-west-1", "accountId": "111122223333"}"#,
        ),
        ("user-data", "#cloud-config\n{}\n"),
        ("meta-data/ami-id", "ami-1"),
        ("meta-data/ami-launch-index", "3"),
        ("meta-data/hostname", "ip-10-0-0-1.ec2.internal"),
        ("meta-data/iam/info", "{}"),
        ("meta-data/iam/security-credentials/role", "SECRET"),
        ("meta-data/identity-credentials/ec2/security-credentials/ec2-instance", "SECRET"),
        ("meta-data/instance-id", "i-0123456789abcdef0"),
        ("meta-data/instance-type", "t3.small"),
        ("meta-data/local-hostname", "ip-10-0-0-1.ec2.internal"),
        ("meta-data/local-ipv4", "10.0.0.1"),
        ("meta-data/mac", "0a:00:00:00:00:01"),
        ("meta-data/network/interfaces/macs/0a:00:00:00:00:01/ipv6s", "2001:db8::1\n2001:db8::2"),
        ("meta-data/network/interfaces/macs/0a:00:00:00:00:02/device-number", "1"),
        ("meta-data/network/interfaces/macs/0a:00:00:00:00:02/ipv6s", "2001:db8::9"),
        ("meta-data/network/interfaces/macs/0a:00:00:00:00:02/local-ipv4s", "10.0.1.1\n10.0.1.2"),
        ("meta-data/placement/availability-zone", "eu-west-1a"),
        ("meta-data/public-ipv4", "203.0.113.9"),
        ("meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA one\n"),
        ("meta-data/public-keys/1/openssh-key", "ssh-rsa BBBB two"),
        ("meta-data/tags/instance/Name", "web"),
    ];

    #[test]
    fn everything_that_the_service_tells_is_known_and_no_credential() {
        let server = service(WHOLE);
        let instance = ask(&server).unwrap();
        assert_eq!(instance.id, "i-0123456789abcdef0");
        assert_eq!(instance.user_data, b"#cloud-config\n{}\n");
        assert_eq!(instance.hostname.as_deref(), Some("ip-10-0-0-1.ec2.internal"));
        assert_eq!(instance.public_keys, ["ssh-ed25519 AAAA one", "ssh-rsa BBBB two"]);
        assert_eq!(instance.local_ipv4.as_deref(), Some("10.0.0.1"));
        assert_eq!(instance.public_ipv4.as_deref(), Some("203.0.113.9"));
        assert_eq!(instance.ipv6.as_deref(), Some("2001:db8::1"));
        assert_eq!(instance.region.as_deref(), Some("eu-west-1"));
        assert_eq!(instance.zone.as_deref(), Some("eu-west-1a"));
        assert_eq!(instance.instance_type.as_deref(), Some("t3.small"));
        assert_eq!(instance.image_id.as_deref(), Some("ami-1"));
        assert_eq!(instance.account_id.as_deref(), Some("111122223333"));
        assert_eq!(instance.launch_index, Some(3));
        assert_eq!(instance.metadata.pointer("/tags/instance/Name"), Some(&json!("web")));
        let second = "/network/interfaces/macs/0a:00:00:00:00:02/local-ipv4s";
        assert_eq!(instance.metadata.pointer(second), Some(&json!("10.0.1.1\n10.0.1.2")));
        assert_eq!(instance.metadata.pointer("/iam/info"), Some(&json!("{}")));
        assert_eq!(instance.metadata.pointer("/instance-identity/region"), Some(&json!("eu-west-1")));
        assert!(!instance.metadata.to_string().contains("SECRET"));
        assert!(server.received().iter().all(|request| !request.target.contains("credentials")));
        let tokens = server.received().iter().filter(|request| request.method == "PUT").count();
        assert_eq!(tokens, 1);
    }

    #[test]
    fn an_instance_without_key_user_data_and_document_is_one_all_the_same() {
        let server =
            service(&[("meta-data/instance-id", "i-1"), ("meta-data/placement/availability-zone", "us-east-1b")]);
        let instance = ask(&server).unwrap();
        assert_eq!(instance.id, "i-1");
        assert_eq!(instance.region.as_deref(), Some("us-east-1"));
        assert!(instance.user_data.is_empty() && instance.public_keys.is_empty());
        assert_eq!(instance.public_ipv4, None);
    }

    #[test]
    fn a_service_without_an_instance_id_is_an_error() {
        let server = service(&[("meta-data/ami-id", "ami-1")]);
        assert!(ask(&server).unwrap_err().message.ends_with("tells no instance id"));
    }

    #[test]
    fn a_service_that_falls_silent_half_way_ends_at_the_deadline() {
        let server = Server::start(|request, _| match request.target.as_str() {
            "/latest/meta-data/" => answer(200, "ami-id\ninstance-id"),
            "/latest/meta-data/instance-id" => Reply::Silence,
            _ => answer(200, "x"),
        });
        let began = Instant::now();
        let imds = Imds::at(&server.url(""), began + Duration::from_secs(3));
        let error = Engine::new().unwrap().run(read(imds)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(error.message.contains("/latest/meta-data/instance-id: no answer within"), "{}", error.message);
    }

    #[test]
    fn a_machine_is_known_by_its_firmware_alone() {
        for (files, expected) in [
            (&[("class/dmi/id/sys_vendor", "Amazon EC2\n")][..], Detected::Yes),
            (&[("class/dmi/id/board_asset_tag", "i-0123456789abcdef0\n")], Detected::Yes),
            (&[("class/dmi/id/board_asset_tag", "i-am-no-instance\n")], Detected::No),
            (&[("hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n")], Detected::Yes),
            (
                &[
                    ("class/dmi/id/product_uuid", "EC2E1916-9099-7CAF-FD21-012345ABCDEF"),
                    ("class/dmi/id/product_serial", "ec2e1916-9099-7caf-fd21-012345abcdef"),
                ],
                Detected::Yes,
            ),
            (&[("class/dmi/id/product_uuid", "45E12AEC-DCD1-B213-94ED-012345ABCDEF")], Detected::Perhaps),
            (&[("class/dmi/id/product_uuid", "45e12bec-dcd1-b213-94ed-012345abcdef")], Detected::Perhaps),
            (&[("class/dmi/id/product_uuid", "45e13aec-dcd1-b213-94ed-012345abcdef")], Detected::No),
            (&[("class/dmi/id/sys_vendor", "QEMU"), ("class/dmi/id/product_uuid", "ec")], Detected::No),
            (&[], Detected::No),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let system = System::new(tree.path());
            for (name, text) in files {
                system.write(format!("/sys/{name}"), text, FileOptions::default()).unwrap();
            }
            assert_eq!(Ec2.detect(&system), expected, "{files:?}");
        }
    }
}
