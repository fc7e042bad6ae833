//! In cloud-init's place: the files that other tools read of it, written where `kiln-cloud-init` is installed.
//!
//! All of it is told from the agent's own status and instance, and nothing of it is read back by the agent:
//! what cannot be written costs a line in the log and no boot.

use std::io;

use kiln_schema::status::{Stage, Status};
use serde_json::{Value as Json, json};

use crate::datasources::Instance;
use crate::system::{FileOptions, System, now};

pub mod data;
pub mod logs;
pub mod settings;
pub mod told;

/// Comes with the package: without it none of the files here is written.
pub const INSTALLED: &str = "/usr/lib/kiln/cloud-init";
/// The cloud-init whose behaviour this is, and whose program this stands for.
pub const VERSION: &str = concat!("26.2-kiln", env!("CARGO_PKG_VERSION"));

/// When this file exists cloud-init does nothing.
pub const DISABLED: &str = "/etc/cloud/cloud-init.disabled";
/// What is true of this boot alone.
pub const RUN: &str = "/run/cloud-init";
/// The stages of the boot and their errors, from the first stage on.
pub const STATUS: &str = "/run/cloud-init/status.json";
/// The errors of the boot; there from its end on and not before.
pub const RESULT: &str = "/run/cloud-init/result.json";
/// The cloud, by a name.
pub const CLOUD_ID: &str = "/run/cloud-init/cloud-id";
/// The folder of the instance, a link.
pub const INSTANCE: &str = "/var/lib/cloud/instance";
/// One folder an instance.
pub const INSTANCES: &str = "/var/lib/cloud/instances";
/// Copies that outlive the boot, and the names of instances.
pub const DATA: &str = "/var/lib/cloud/data";
/// There from the end of a boot on; scripts wait for it.
pub const BOOT_FINISHED: &str = "/var/lib/cloud/instance/boot-finished";

/// Whether the machine's tools take the agent for cloud-init.
pub fn is_installed(system: &System) -> bool {
    system.is_there(INSTALLED)
}

/// Whether the machine was told to keep still in cloud-init's words, and stands in its place.
pub fn is_disabled(system: &System) -> bool {
    let told = || system.kernel_was_told(|word| word == "cloud-init=disabled");
    (system.exists(DISABLED) || told()) && is_installed(system)
}

/// A stage has begun: the boot is not finished, whatever an earlier one left.
pub fn stage_began(system: &System, status: &Status) {
    for path in [RESULT, "/var/lib/cloud/data/result.json", BOOT_FINISHED] {
        try_to(system.remove(path));
    }
    stage_told(system, status);
    logs::stage_began(system, status);
}

/// A stage has ended.
pub fn stage_ended(system: &System, status: &Status) {
    logs::stage_ended(system, status);
    if status.stage == Some(Stage::Final) { ended(system, status) } else { stage_told(system, status) }
}

/// Writes how the stages stand.
fn stage_told(system: &System, status: &Status) {
    put(system, "status.json", &json!({"v1": told::stages(status)}));
}

/// The boot has ended: its result comes last, as that is what tools wait for.
pub fn ended(system: &System, status: &Status) {
    stage_told(system, status);
    let line = format!("{} - {} - v. {VERSION}\n", uptime(system), now().strftime(told::DATE));
    if system.exists(INSTANCE) {
        try_to(system.write(BOOT_FINISHED, line, FileOptions::mode(0o644)));
    }
    let details = told::details(status);
    let datasource = status.source.as_deref().map(told::datasource);
    put(system, "result.json", &json!({"v1": {"datasource": datasource, "errors": details["errors"]}}));
}

/// The seconds since the kernel started, for a person.
fn uptime(system: &System) -> String {
    let uptime = system.read_text("/proc/uptime").unwrap_or_default();
    uptime.split_whitespace().next().unwrap_or("na").to_owned()
}

/// Keeps what the source told of the instance.
pub fn keep(system: &System, instance: &Instance) {
    let private = FileOptions::mode(0o600);
    let public = FileOptions::mode(0o644);
    let name = crate::report::instance_folder(&instance.id);
    let folder = format!("{INSTANCES}/{}", name.rsplit('/').next().unwrap_or_default());
    let id = format!("{}\n", instance.id);
    let known = format!("{DATA}/instance-id");
    let previous = system.read_text(&known).unwrap_or_else(|_| "NO_PREVIOUS_INSTANCE_ID\n".to_owned());
    let class = told::datasource(&instance.source);
    let all = data::variables(system, instance);
    let cloud = all["v1"]["cloud_id"].as_str().unwrap_or("unknown").to_owned();
    let of_cloud = format!("{CLOUD_ID}-{}", cloud.replace('/', "_"));
    for (path, bytes, options) in [
        (format!("{folder}/user-data.txt"), instance.user_data.clone(), private),
        (format!("{folder}/vendor-data.txt"), instance.vendor_data.clone(), private),
        (format!("{folder}/datasource"), format!("{class}: {class}\n").into_bytes(), public),
        (format!("{DATA}/previous-instance-id"), previous.into_bytes(), public),
        (known, id.clone().into_bytes(), public),
        (format!("{RUN}/.instance-id"), id.into_bytes(), public),
        (data::SENSITIVE.to_owned(), text(&all), private),
        (data::PUBLIC.to_owned(), text(&data::redacted(&all)), public),
        (of_cloud.clone(), format!("{cloud}\n").into_bytes(), public),
    ] {
        try_to(system.write(path, bytes, options));
    }
    try_to(system.link(INSTANCE, &folder));
    try_to(system.link(CLOUD_ID, of_cloud));
}

/// In /run, which cannot be of an earlier boot, and beside the other data.
fn put(system: &System, name: &str, content: &Json) {
    for folder in [DATA, RUN] {
        try_to(system.write(format!("{folder}/{name}"), text(content), FileOptions::mode(0o644)));
    }
}

fn text(content: &Json) -> Vec<u8> {
    format!("{content:#}\n").into_bytes()
}

fn try_to(done: io::Result<()>) {
    if let Err(error) = done {
        tracing::warn!("not written for the tools of cloud-init: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_schema::status::{StageReport, State};
    use std::os::unix::fs::PermissionsExt;

    fn machine() -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        (tree, system)
    }

    fn instance() -> Instance {
        Instance { user_data: b"#cloud-config\npassword: hunter2\n".to_vec(), ..Instance::new("nocloud", "i/1") }
    }

    #[test]
    fn what_holds_secrets_is_for_root_alone() {
        let (_tree, system) = machine();
        keep(&system, &instance());
        let mode = |path: &str| system.metadata(path).unwrap().permissions().mode() & 0o777;
        for path in
            [data::SENSITIVE, "/var/lib/cloud/instance/user-data.txt", "/var/lib/cloud/instance/vendor-data.txt"]
        {
            assert_eq!(mode(path), 0o600, "{path}");
        }
        assert_eq!(mode(data::PUBLIC), 0o644);
        assert!(system.read_text(data::SENSITIVE).unwrap().contains("hunter2"));
        assert!(!system.read_text(data::PUBLIC).unwrap().contains("hunter2"));
        assert!(system.is_link_to(INSTANCE, "/var/lib/cloud/instances/i_1"));
        assert_eq!(system.read_text(CLOUD_ID).unwrap(), "nocloud\n");
    }

    #[test]
    fn it_keeps_still_where_cloud_init_would_and_only_in_its_place() {
        for (path, text) in [(DISABLED, ""), ("/proc/cmdline", "quiet cloud-init=disabled\n")] {
            let (tree, system) = machine();
            system.write(path, text, FileOptions::default()).unwrap();
            assert!(!is_disabled(&system) && !crate::boot::is_disabled(&system), "{path}");
            system.write(INSTALLED, "", FileOptions::default()).unwrap();
            let system = System::new(tree.path());
            assert!(is_disabled(&system) && crate::boot::is_disabled(&system), "{path}");
        }
    }

    #[test]
    fn the_instance_before_this_one_is_known_by_its_name() {
        let (_tree, system) = machine();
        let previous = |system: &System| system.read_text(format!("{DATA}/previous-instance-id")).unwrap();
        keep(&system, &instance());
        assert_eq!(previous(&system), "NO_PREVIOUS_INSTANCE_ID\n");
        keep(&system, &Instance::new("nocloud", "i-2"));
        assert_eq!(previous(&system), "i/1\n");
        assert_eq!(system.read_text(format!("{DATA}/instance-id")).unwrap(), "i-2\n");
    }

    #[test]
    fn the_result_of_an_earlier_boot_is_gone_when_the_next_begins() {
        let (_tree, system) = machine();
        keep(&system, &instance());
        let mut status = Status::new("0", "b");
        status.state = State::Failed;
        ended(&system, &status);
        for path in [RESULT, "/var/lib/cloud/data/result.json", BOOT_FINISHED] {
            assert!(system.exists(path), "{path}");
        }
        assert!(system.read_text(RESULT).unwrap().contains("kiln-agent status"), "a failure is never without an error");
        status.state = State::Running;
        status.stages.push(StageReport { name: Stage::Local, started: String::new(), finished: None });
        stage_began(&system, &status);
        for path in [RESULT, "/var/lib/cloud/data/result.json", BOOT_FINISHED] {
            assert!(!system.exists(path), "{path}");
        }
        assert!(system.read_text(STATUS).unwrap().contains("\"stage\": \"init-local\""));
    }

    #[test]
    fn a_folder_in_the_way_stops_nothing_else() {
        let (_tree, system) = machine();
        system.write("/var/lib/cloud/instance/mine", "", FileOptions::default()).unwrap();
        system.write("/var/lib/cloud/data", "a file", FileOptions::default()).unwrap();
        keep(&system, &instance());
        ended(&system, &Status::new("0", "b"));
        assert!(system.exists("/var/lib/cloud/instance/mine"));
        assert!(system.exists(data::PUBLIC) && system.exists(RESULT));
    }
}
