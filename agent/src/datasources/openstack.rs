//! `openstack`: the metadata service of OpenStack, and the documents that it shares with its config drive.

use std::time::Instant;

use serde_json::{Value as Json, json};

use super::place::{dmi, key_lines, text};
use super::{Datasource, Detected, Instance, SourceError};
use crate::net::service::{Api, Service};
use crate::network::{Format, NetworkConfig};
use crate::system::System;

/// The documents of an instance, below `openstack/latest/`.
pub const DOCUMENTS: [&str; 5] = [
    "openstack/latest/meta_data.json",
    "openstack/latest/user_data",
    "openstack/latest/vendor_data.json",
    "openstack/latest/vendor_data2.json",
    "openstack/latest/network_data.json",
];
const API: Api = Api { bases: &["http://169.254.169.254"], headers: &[], passing: &[] };
const PRODUCTS: &[&str] = &["OpenStack Nova", "OpenStack Compute"];
/// Clouds that are OpenStack under a name of their own.
const ASSETS: &[&str] = &[
    "HUAWEICLOUD",
    "OpenTelekomCloud",
    "SAP CCloud VM",
    "Samsung Cloud Platform",
    "OpenStack Nova",
    "OpenStack Compute",
];
/// What of the metadata is nobody's business: a password, and randomness that seeds the kernel.
const SECRET: &[&str] = &["admin_pass", "random_seed"];

/// An instance of OpenStack.
pub struct OpenStack;

impl Datasource for OpenStack {
    fn name(&self) -> &'static str {
        "openstack"
    }

    fn summary(&self) -> &'static str {
        "The metadata service of OpenStack"
    }

    fn needs_network(&self, _: &System) -> bool {
        true
    }

    fn detect(&self, system: &System) -> Detected {
        let is = |name: &str, known: &[&str]| known.contains(&dmi(system, name).as_str());
        let yes = is("product_name", PRODUCTS) || is("chassis_asset_tag", ASSETS);
        if yes { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, _: &System, deadline: Instant) -> Result<Instance, SourceError> {
        read(&Service::new(&API, deadline)?)
    }
}

fn read(service: &Service) -> Result<Instance, SourceError> {
    let mut files: [Option<Vec<u8>>; 5] = Default::default();
    for (file, path) in files.iter_mut().zip(DOCUMENTS) {
        *file = service.get(path)?;
    }
    let [Some(meta), rest @ ..] = files else {
        let message = format!("the metadata service at {} has no {}", service.base(), DOCUMENTS[0]);
        return Err(SourceError { message });
    };
    Ok(instance("openstack", service.base(), &meta, rest)?)
}

/// What the documents amount to; `place` is where they were, for the sentence.
///
/// # Errors
/// When one of them is no JSON, or there is no instance id.
pub fn instance(
    source: &str,
    place: &str,
    meta: &[u8],
    [user_data, vendor, vendor2, network]: [Option<Vec<u8>>; 4],
) -> Result<Instance, String> {
    let parse = |bytes: &[u8], name: &str| -> Result<Json, String> {
        let parsed = serde_json::from_slice(bytes);
        // The parser's own words may repeat a secret.
        parsed.map_err(|e| format!("{place}/{name}: not JSON at line {}, column {}", e.line(), e.column()))
    };
    let mut meta = parse(meta, DOCUMENTS[0])?;
    let id = text(&meta, "/uuid").ok_or_else(|| format!("{place}/{}: it has no uuid", DOCUMENTS[0]))?;
    let mut instance = Instance::new(source, &id);
    instance.hostname = text(&meta, "/hostname").or_else(|| text(&meta, "/name"));
    if let Some(Json::Object(keys)) = meta.get("public_keys") {
        instance.public_keys = keys.values().filter_map(Json::as_str).flat_map(key_lines).collect();
    }
    instance.zone = text(&meta, "/availability_zone");
    instance.account_id = text(&meta, "/project_id");
    instance.launch_index = text(&meta, "/launch_index").and_then(|index| index.parse().ok());
    instance.user_data = user_data.unwrap_or_default();
    let mut parts = Vec::new();
    for (bytes, name) in [(vendor, DOCUMENTS[2]), (vendor2, DOCUMENTS[3])] {
        // An operator's mistake there must not cost the user his machine; cloud-init goes on as well.
        match bytes.map(|bytes| parse(&bytes, name)) {
            Some(Ok(json)) => parts.extend(vendor_parts(json)),
            Some(Err(why)) => tracing::warn!("the vendor-data is left out: {why}"),
            None => {}
        }
    }
    instance.vendor_data = together(parts);
    if let Some(bytes) = &network {
        instance.network = NetworkConfig::of_bytes(format!("{place}/{}", DOCUMENTS[4]), Format::OpenStack, bytes);
    }
    if let Some(network) = network.and_then(|bytes| parse(&bytes, DOCUMENTS[4]).ok()) {
        instance.local_ipv4 = address(&network, "ipv4");
        instance.ipv6 = address(&network, "ipv6");
    }
    if let Some(fields) = meta.as_object_mut() {
        fields.retain(|name, _| !SECRET.contains(&name.as_str()));
    }
    instance.metadata = meta;
    Ok(instance)
}

/// The vendor's documents: a text, a list of them, or either under the key `cloud-init`.
fn vendor_parts(mut json: Json) -> Vec<Json> {
    if let Some(own) = json.as_object_mut() {
        json = own.remove("cloud-init").unwrap_or_default();
    }
    match json {
        Json::Array(parts) => parts,
        Json::String(text) if !text.trim().is_empty() => vec![Json::String(text)],
        _ => Vec::new(),
    }
}

/// Several documents as one that holds them.
fn together(parts: Vec<Json>) -> Vec<u8> {
    match parts.as_slice() {
        [] => Vec::new(),
        [Json::String(text)] => text.clone().into_bytes(),
        _ => format!("#cloud-config-archive\n{}\n", json!(parts)).into_bytes(),
    }
}

/// The first address of a kind that the network's description has.
fn address(network: &Json, kind: &str) -> Option<String> {
    let networks = network.get("networks")?.as_array()?.iter();
    let mut fitting = networks.filter(|n| n.get("type").and_then(Json::as_str).is_some_and(|t| t.starts_with(kind)));
    let address = fitting.find_map(|network| text(network, "/ip_address"))?;
    Some(address.split('/').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasources::testing::{self, Values};

    const META: &str = r#"{"uuid": "83679162-1378-4288-a2d4-70e13ec132aa", "name": "web", "hostname": "web.novalocal",
        "availability_zone": "nova", "launch_index": 2, "project_id": "f7ac731cc11f40efbc03a9f9e1d1d21f",
        "public_keys": {"mine": "ssh-ed25519 AAAA me\n", "yours": "ssh-rsa BBBB you"},
        "admin_pass": "hunter2", "random_seed": "c2VjcmV0", "meta": {"role": "web"}}"#;
    const WHOLE: Values = &[
        ("/openstack/latest/meta_data.json", META),
        ("/openstack/latest/user_data", "#cloud-config\n{}\n"),
        ("/openstack/latest/vendor_data.json", r##"{"cloud-init": "#cloud-config\n{a: 1}"}"##),
        ("/openstack/latest/vendor_data2.json", r##"{"cloud-init": ["#!/bin/sh\n"], "other": {}}"##),
        (
            "/openstack/latest/network_data.json",
            r#"{"networks": [{"type": "ipv6_slaac"}, {"type": "ipv4_dhcp"}, {"type": "ipv4", "ip_address": "10.0.0.5"},
                {"type": "ipv6", "ip_address": "2001:db8::5/64"}]}"#,
        ),
    ];

    #[test]
    fn everything_that_the_service_tells_is_known_and_no_password() {
        let instance = read(&testing::service(&API, &testing::server(&API, WHOLE))).unwrap();
        assert_eq!(instance.id, "83679162-1378-4288-a2d4-70e13ec132aa");
        assert_eq!(instance.hostname.as_deref(), Some("web.novalocal"));
        assert_eq!(instance.public_keys, ["ssh-ed25519 AAAA me", "ssh-rsa BBBB you"]);
        assert_eq!((instance.zone.as_deref(), instance.launch_index), (Some("nova"), Some(2)));
        assert_eq!((instance.local_ipv4.as_deref(), instance.ipv6.as_deref()), (Some("10.0.0.5"), Some("2001:db8::5")));
        assert_eq!(instance.user_data, b"#cloud-config\n{}\n");
        let vendor = String::from_utf8(instance.vendor_data).unwrap();
        assert_eq!(vendor, "#cloud-config-archive\n[\"#cloud-config\\n{a: 1}\",\"#!/bin/sh\\n\"]\n");
        assert_eq!(instance.metadata["meta"]["role"], "web");
        let all = instance.metadata.to_string();
        assert!(!all.contains("hunter2") && !all.contains("c2VjcmV0"));
    }

    #[test]
    fn the_service_may_be_as_bad_as_it_likes() {
        testing::faults(&API, WHOLE, read);
    }

    #[test]
    fn documents_that_cannot_be_used_are_told_without_their_text() {
        for (meta, sentence) in [
            (&br#"{"admin_pass": "hunter2""#[..], "x/openstack/latest/meta_data.json: not JSON at line 1, column 24"),
            (br#"{"admin_pass": "hunter2"}"#, "x/openstack/latest/meta_data.json: it has no uuid"),
            (b"[]", "x/openstack/latest/meta_data.json: it has no uuid"),
        ] {
            assert_eq!(instance("openstack", "x", meta, Default::default()).unwrap_err(), sentence);
        }
        let no_meta = testing::server(&API, &[("/openstack/latest/user_data", "x")]);
        let error = read(&testing::service(&API, &no_meta)).unwrap_err();
        assert!(error.message.ends_with("has no openstack/latest/meta_data.json"), "{}", error.message);
    }

    #[test]
    fn bad_vendor_data_costs_the_vendor_data_alone() {
        let files = |vendor: &str| [Some(b"#!a".to_vec()), Some(vendor.as_bytes().to_vec()), None, Some(b"{".to_vec())];
        for (vendor, read) in [
            ("{", ""),
            ("null", ""),
            ("{}", ""),
            (r#""  ""#, ""),
            (r#"{"static": {"x": 1}}"#, ""),
            (r##""#cloud-config\n""##, "#cloud-config\n"),
        ] {
            let instance = instance("openstack", "x", br#"{"uuid": "u"}"#, files(vendor)).unwrap();
            assert_eq!(String::from_utf8(instance.vendor_data).unwrap(), read, "{vendor}");
            assert_eq!((instance.user_data.as_slice(), instance.hostname), (&b"#!a"[..], None));
        }
    }

    #[test]
    fn a_machine_is_known_by_its_firmware_alone() {
        testing::detects(
            &OpenStack,
            &[
                ("product_name", "OpenStack Nova\n", Detected::Yes),
                ("product_name", "OpenStack Compute\n", Detected::Yes),
                ("chassis_asset_tag", "OpenTelekomCloud\n", Detected::Yes),
                ("product_name", "OpenStack\n", Detected::No),
                ("sys_vendor", "OpenStack Nova\n", Detected::No),
            ],
        );
    }
}
