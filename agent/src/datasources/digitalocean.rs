//! `digitalocean`: the metadata service of DigitalOcean, which tells all of a droplet at once.

use std::time::Instant;

use serde_json::Value as Json;

use super::place::{dmi, key_lines, text};
use super::{Datasource, Detected, Instance, SourceError};
use crate::net::service::{Api, Service};
use crate::system::System;

const API: Api = Api { bases: &["http://169.254.169.254"], headers: &[], passing: &[] };
const ALL: &str = "metadata/v1.json";

/// A droplet of DigitalOcean.
pub struct DigitalOcean;

impl Datasource for DigitalOcean {
    fn name(&self) -> &'static str {
        "digitalocean"
    }

    fn summary(&self) -> &'static str {
        "The metadata service of DigitalOcean"
    }

    fn needs_network(&self, _: &System) -> bool {
        true
    }

    fn detect(&self, system: &System) -> Detected {
        if dmi(system, "sys_vendor") == "DigitalOcean" { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, _: &System, deadline: Instant) -> Result<Instance, SourceError> {
        read(&Service::new(&API, deadline)?)
    }
}

fn read(service: &Service) -> Result<Instance, SourceError> {
    let mut told = service.json(ALL)?.unwrap_or_default();
    let none = || format!("the metadata service at {} tells no droplet_id", service.base());
    let mut instance = Instance::new("digitalocean", &text(&told, "/droplet_id").ok_or_else(none)?);
    instance.hostname = text(&told, "/hostname");
    let keys = told.get("public_keys").and_then(Json::as_array);
    instance.public_keys = keys.into_iter().flatten().filter_map(Json::as_str).flat_map(key_lines).collect();
    // It has regions, and no zones within them; cloud-init calls them zones.
    instance.region = text(&told, "/region");
    instance.zone.clone_from(&instance.region);
    instance.public_ipv4 = text(&told, "/interfaces/public/0/ipv4/ip_address");
    // As on other clouds the local address is the private one, where there is one.
    let private = text(&told, "/interfaces/private/0/ipv4/ip_address");
    instance.local_ipv4 = private.or_else(|| instance.public_ipv4.clone());
    instance.ipv6 = text(&told, "/interfaces/public/0/ipv6/ip_address");
    let mut take = |name: &str| match told.as_object_mut().and_then(|fields| fields.remove(name)) {
        Some(Json::String(text)) => text.into_bytes(),
        _ => Vec::new(),
    };
    instance.user_data = take("user_data");
    instance.vendor_data = take("vendor_data");
    // By these a program proves that it runs on this droplet.
    for secret in ["auth_key", "auth_token"] {
        take(secret);
    }
    instance.metadata = told;
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasources::testing::{self, Values};

    const WHOLE: Values = &[(
        "/metadata/v1.json",
        r##"{"droplet_id": 2756294, "hostname": "sample-droplet", "region": "nyc3", "auth_key": "hunter2",
            "vendor_data": "#cloud-config\n{a: 1}\n", "user_data": "#!/bin/sh\n",
            "public_keys": ["ssh-ed25519 AAAA me", "ssh-rsa BBBB you\n"], "tags": ["web"],
            "interfaces": {"private": [{"ipv4": {"ip_address": "10.132.0.2"}}],
                "public": [{"ipv4": {"ip_address": "203.0.113.5"}, "ipv6": {"ip_address": "2001:DB8::5"}}]}}"##,
    )];

    #[test]
    fn everything_that_the_service_tells_is_known_and_no_secret() {
        let instance = read(&testing::service(&API, &testing::server(&API, WHOLE))).unwrap();
        assert_eq!((instance.id.as_str(), instance.hostname.as_deref()), ("2756294", Some("sample-droplet")));
        assert_eq!(instance.public_keys, ["ssh-ed25519 AAAA me", "ssh-rsa BBBB you"]);
        assert_eq!((instance.region.as_deref(), instance.zone.as_deref()), (Some("nyc3"), Some("nyc3")));
        assert_eq!(instance.local_ipv4.as_deref(), Some("10.132.0.2"));
        assert_eq!(instance.public_ipv4.as_deref(), Some("203.0.113.5"));
        assert_eq!(instance.ipv6.as_deref(), Some("2001:DB8::5"));
        assert_eq!(instance.user_data, b"#!/bin/sh\n");
        assert_eq!(instance.vendor_data, b"#cloud-config\n{a: 1}\n");
        assert_eq!(instance.metadata["tags"][0], "web");
        assert!(!serde_json::to_string(&instance).unwrap().contains("hunter2"));
    }

    #[test]
    fn the_service_may_be_as_bad_as_it_likes() {
        testing::faults(&API, WHOLE, read);
    }

    #[test]
    fn a_droplet_with_nothing_is_one_and_a_service_without_a_droplet_is_told() {
        let bare = testing::server(&API, &[("/metadata/v1.json", r#"{"droplet_id": 7, "user_data": null}"#)]);
        let instance = read(&testing::service(&API, &bare)).unwrap();
        assert_eq!((instance.id.as_str(), instance.user_data.len(), instance.local_ipv4), ("7", 0, None));
        for values in [&[("/metadata/v1.json", "{}")][..], &[]] {
            let error = read(&testing::service(&API, &testing::server(&API, values))).unwrap_err();
            assert!(error.message.ends_with("tells no droplet_id"), "{}", error.message);
        }
    }

    #[test]
    fn a_machine_is_known_by_its_firmware_alone() {
        testing::detects(
            &DigitalOcean,
            &[("sys_vendor", "DigitalOcean\n", Detected::Yes), ("product_name", "DigitalOcean\n", Detected::No)],
        );
    }
}
