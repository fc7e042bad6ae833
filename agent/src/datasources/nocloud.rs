//! `nocloud`: user-data and meta-data in a folder on the disk.

use std::time::Instant;

use kiln_schema::paths;
use kiln_schema::yaml;

use super::{Datasource, Detected, Instance, SourceError};
use crate::system::System;

/// Most bytes of user-data that are read.
const LIMIT: u64 = 16 * 1024 * 1024;

/// A seed on the machine itself.
pub struct NoCloud;

impl Datasource for NoCloud {
    fn name(&self) -> &'static str {
        "nocloud"
    }

    fn needs_network(&self) -> bool {
        false
    }

    fn detect(&self, system: &System) -> Detected {
        if seed(system).is_some() { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, system: &System, _: Instant) -> Result<Instance, SourceError> {
        let fail = |message: String| SourceError { message };
        let folder = seed(system).ok_or_else(|| fail(format!("no user-data in {}", paths::SEEDS.join(" or "))))?;
        let read = |name: &str| match system.read_limited(format!("{folder}/{name}"), LIMIT) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|e| fail(e.to_string())),
        };
        let meta_data = String::from_utf8_lossy(&read("meta-data")?).into_owned();
        let (meta, _) = yaml::parse(&format!("{folder}/meta-data"), &meta_data).map_err(|e| fail(e.to_string()))?;
        let text = |key: &str| meta.get(key).and_then(|node| node.to_json().as_str().map(str::to_owned));
        let mut instance = Instance::new("nocloud", &text("instance-id").unwrap_or_else(|| "nocloud".to_owned()));
        instance.hostname = text("local-hostname").or_else(|| text("hostname"));
        instance.user_data = read("user-data")?;
        instance.vendor_data = read("vendor-data")?;
        instance.metadata = meta.to_json();
        Ok(instance)
    }
}

fn seed(system: &System) -> Option<&'static str> {
    paths::SEEDS.iter().copied().find(|folder| system.exists(format!("{folder}/user-data")))
}
