//! What the report says of the whole bake: `report.json`, and the bill of materials beside it.

use std::fs;
use std::path::Path;

use kiln_schema::gate;
use serde_json::{Value, json};

use super::packer::Cause;
use super::plan::Plan;
use super::progress::Phase;
use super::{Error, proof, sbom};
use crate::images::names::skipped;
use crate::system::files;

/// The whole bake in one file.
pub const REPORT: &str = "report.json";
/// The bill of materials.
pub const SBOM: &str = "sbom.cdx.json";

/// The packages, which the gate brings home for the bill of materials.
pub const PACKAGES: &str = "packages.tsv";
/// What the instance says of its system.
pub const OS_RELEASE: &str = "os-release";

/// Writes the bill of materials where the instance's packages came home; else there is nothing to tell.
fn bill_of_materials(plan: &Plan, folder: &Path) -> Result<(), Error> {
    let Ok(packages) = fs::read(folder.join(PACKAGES)) else { return Ok(()) };
    let os_release = fs::read(folder.join(OS_RELEASE)).unwrap_or_default();
    let timestamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let serial = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let subject = sbom::Subject {
        name: &plan.run.image_name,
        version: &plan.recipe.version,
        timestamp: &timestamp,
        serial: serial.trim(),
    };
    let document = sbom::document(&subject, &String::from_utf8_lossy(&packages), &String::from_utf8_lossy(&os_release));
    write_json(folder, SBOM, &document)
}

/// Writes what is known at the end of a bake, whatever came of it, and what is in the image.
///
/// # Errors
/// When it cannot be written.
pub fn write(
    plan: &Plan,
    made: &Result<String, Cause>,
    seal: Option<&Value>,
    timings: &[(Phase, u64)],
    folder: &Path,
) -> Result<(), Error> {
    bill_of_materials(plan, folder)?;
    let home = |name: &str| fs::read(folder.join(name)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let tags: serde_json::Map<_, _> = plan.tags.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let inputs: serde_json::Map<_, _> =
        plan.inputs.digests().map(|(name, digest)| (name.to_owned(), json!(digest))).collect();
    let phases: Vec<_> = timings.iter().map(|(phase, ms)| json!({"name": phase.name(), "ms": ms})).collect();
    let report = json!({
        "schema": 1,
        "kiln": env!("CARGO_PKG_VERSION"),
        "outcome": if made.is_ok() { "passed" } else { "failed" },
        "cause": made.as_ref().err().map(|(sentence, _)| sentence),
        "image": {
            "id": made.as_ref().ok(),
            "name": plan.run.image_name,
            "application": plan.recipe.name,
            "arch": plan.recipe.arch.name(),
            "tags": tags,
        },
        "run": plan.run.id,
        "base": {"id": plan.base.id, "name": plan.base.name},
        "bake_key": plan.inputs.key(),
        "inputs": inputs,
        "git_revision": plan.tags.iter().find(|(key, _)| *key == "git_revision").map(|(_, revision)| revision),
        "phases": phases,
        "gate": home(gate::files::REPORT).unwrap_or(Value::Null),
        "seal": seal,
        "seal_skipped": skipped(&plan.recipe.seal),
        "prove": plan.recipe.prove,
        "proof": home(proof::REPORT).unwrap_or(Value::Null),
    });
    write_json(folder, REPORT, &report)
}

fn write_json(folder: &Path, name: &str, value: &Value) -> Result<(), Error> {
    let path = folder.join(name);
    let text = format!("{value:#}\n");
    files::write(&path, text.as_bytes(), 0o644).map_err(|error| Error::file(path.display(), error))
}
