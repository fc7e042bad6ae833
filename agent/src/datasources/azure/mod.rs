//! `azure`: `ovf-env.xml` on the disk of the first boot, and the metadata service.
//!
//! The disk is gone at later boots. As for Azure's own agent, its document is kept in [`KEPT`], without
//! the password and with the machine's id beside it.

mod ovf;
mod wire;
mod xml;

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::Reason;
use serde_json::{Value as Json, json};

use super::place::{Place, dmi, key_lines, text};
use super::{Datasource, Detected, Instance, SourceError};
use crate::net::service::{Api, Service};
use crate::net::{self};
use crate::report::instance_folder;
use crate::system::{FileOptions, System};
use ovf::Ovf;
pub use wire::report;

const API: Api = Api {
    bases: &["http://169.254.169.254"],
    headers: &[("Metadata", "true")],
    // While the service is set up for a new machine, and while a machine moves.
    passing: &[404, 410],
};
const INSTANCE: &str = "metadata/instance?api-version=2021-08-01&extended=true";
/// Older clouds refuse the newer version.
const OLDER: &str = "metadata/instance?api-version=2019-06-01";
/// The same on every machine of Azure.
const CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";
/// The beginning of the disk's label.
const LABEL: &str = "rd_rdfe_";
const DOCUMENT: &str = "ovf-env.xml";
const KEPT: &str = "/var/lib/waagent";
/// Whose document is kept.
const KEPT_ID: &str = "/var/lib/waagent/ovf-env.id";
const FOLDERS: &[&str] = &["/var/lib/cloud/seed/azure", KEPT];

/// A machine of Azure.
pub struct Azure;

impl Datasource for Azure {
    fn name(&self) -> &'static str {
        "azure"
    }

    fn summary(&self) -> &'static str {
        "The disk of the first boot with `ovf-env.xml`, and the metadata service of Azure"
    }

    fn needs_network(&self, _: &System) -> bool {
        true
    }

    fn detect(&self, system: &System) -> Detected {
        let yes = is_azure(system) || Place::folder(system, &FOLDERS[..1], &[DOCUMENT]).is_some();
        if yes { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, system: &System, deadline: Instant) -> Result<Instance, SourceError> {
        read(system, &Service::new(&API, deadline)?)
    }
}

/// Whether the firmware says that this is a machine of Azure.
pub fn is_azure(system: &System) -> bool {
    dmi(system, "chassis_asset_tag") == CHASSIS
}

fn read(system: &System, service: &Service) -> Result<Instance, SourceError> {
    let told = imds(service)?;
    let of_firmware = Some(dmi(system, "product_uuid").to_lowercase()).filter(|id| !id.is_empty());
    let none = || format!("neither the firmware nor the metadata service at {} tells an id", service.base());
    let id = of_firmware.or_else(|| text(&told, "/compute/vmId")).ok_or_else(none)?;
    let mut findings = Vec::new();
    let ovf = document(system, &id, &mut findings)?;
    let pool = text(&told, "/extended/compute/ppsType").filter(|kind| kind != "None");
    if ovf.is_of_pool || pool.is_some() {
        let message = "this machine waits in a pool of Azure for its order, which the agent cannot do; \
                       let cloud-init provision machines of pools";
        return Err(message.to_owned().into());
    }
    Ok(Instance { findings, ..instance(&id, ovf, told)? })
}

/// The document, from the disk or as it was kept; empty where there is none. That it could not be kept is told,
/// as no later boot sees the disk.
fn document(system: &System, id: &str, findings: &mut Vec<Diagnostic>) -> Result<Ovf, String> {
    let disk = Place::disk_like(system, LABEL);
    let is_new = disk.is_some();
    // What was kept for another machine came with an image of its disk.
    let is_own = system.read_text(KEPT_ID).is_ok_and(|kept| kept.trim() == id);
    let folders = if is_own { FOLDERS } else { &FOLDERS[..1] };
    let Some(place) = disk.or_else(|| Place::folder(system, folders, &[DOCUMENT])) else {
        // A first boot has the disk, and kept the document if it could.
        if system.exists(instance_folder(id)) {
            let message = "this machine has booted before, but the document of its order was not kept, so its \
                           user-data may be missing; `kiln-agent status` of its first boot tells why";
            findings.push(Diagnostic::new(Severity::Warning, KEPT, message));
        }
        return Ok(Ovf::default());
    };
    let [Some(bytes)] = place.read(system, [DOCUMENT])? else {
        return Err(format!("{}: it has no {DOCUMENT}", place.name()));
    };
    let ovf = ovf::parse(&bytes).map_err(|why| format!("{}/{DOCUMENT}: {why}", place.name()))?;
    if is_new {
        try_to_keep(system, id, &ovf, findings);
    }
    Ok(ovf)
}

fn try_to_keep(system: &System, id: &str, ovf: &Ovf, findings: &mut Vec<Diagnostic>) {
    if let Err(error) = keep(system, id, ovf) {
        let message = format!(
            "{DOCUMENT} cannot be kept, so later boots will lack its user-data: {error}; make room in {KEPT} and \
             start the machine with the disk once more"
        );
        findings.push(Diagnostic::error("azure", message));
    }
}

fn keep(system: &System, id: &str, ovf: &Ovf) -> std::io::Result<()> {
    system.make_dir(KEPT, 0o700, None)?;
    system.write(format!("{KEPT}/{DOCUMENT}"), &ovf.redacted, FileOptions::mode(0o600).durable())?;
    system.write(KEPT_ID, format!("{id}\n"), FileOptions::mode(0o600).durable())
}

fn imds(service: &Service) -> Result<Json, net::Error> {
    let told = match service.json(INSTANCE) {
        Err(error) if error.status == Some(400) => service.json(OLDER)?,
        told => told?,
    };
    let none = || net::Error::new(Reason::Network, format!("the metadata service at {} tells nothing", service.base()));
    told.filter(Json::is_object).ok_or_else(none)
}

/// What the document and the metadata amount to.
fn instance(id: &str, ovf: Ovf, mut told: Json) -> Result<Instance, String> {
    let compute = |name: &str| text(&told, &format!("/compute/{name}"));
    let mut instance = Instance::new("azure", id);
    let profile = |name: &str| compute(&format!("osProfile/{name}"));
    instance.hostname = ovf.hostname.or_else(|| profile("computerName")).or_else(|| compute("name"));
    let keys = told.pointer("/compute/publicKeys").and_then(Json::as_array);
    let keys = keys.into_iter().flatten().filter_map(|key| key.get("keyData")?.as_str());
    // Azure lets line breaks into the middle of a key.
    instance.public_keys =
        keys.map(|key| key.replace(['\r', '\n'], "")).flat_map(|key| key_lines(&key).collect::<Vec<_>>()).collect();
    if instance.public_keys.is_empty() {
        instance.public_keys = ovf.public_keys;
    }
    instance.local_ipv4 = text(&told, "/network/interface/0/ipv4/ipAddress/0/privateIpAddress");
    instance.public_ipv4 = text(&told, "/network/interface/0/ipv4/ipAddress/0/publicIpAddress");
    instance.ipv6 = text(&told, "/network/interface/0/ipv6/ipAddress/0/privateIpAddress");
    instance.region = compute("location");
    // As in cloud-init: a zone is within a region, and a machine may be in none.
    instance.zone = compute("platformFaultDomain");
    instance.instance_type = compute("vmSize");
    instance.image_id = compute("storageProfile/imageReference/id");
    instance.account_id = compute("subscriptionId");
    instance.user_data = ovf.custom_data;
    if instance.user_data.is_empty() {
        let user_data = compute("userData").unwrap_or_default();
        instance.user_data =
            STANDARD.decode(user_data).map_err(|_| "the userData of the metadata service is not base64".to_owned())?;
    }
    let no_password_login =
        ovf.no_password_login.or_else(|| Some(profile("disablePasswordAuthentication")?.eq_ignore_ascii_case("true")));
    let mut settings = serde_json::Map::new();
    if let Some(name) = ovf.user.or_else(|| profile("adminUsername")) {
        let mut user = json!({"name": name});
        if let Some(password) = ovf.password {
            user["lock_passwd"] = false.into();
            user["plain_text_passwd"] = password.into();
        }
        settings.insert("default_user".to_owned(), user);
    }
    settings.extend(no_password_login.map(|off| ("ssh_pwauth".to_owned(), Json::Bool(!off))));
    instance.settings = Json::Object(settings);
    for large in ["userData", "customData"] {
        if let Some(fields) = told.pointer_mut("/compute").and_then(Json::as_object_mut) {
            fields.remove(large);
        }
    }
    instance.metadata = json!({"instance-id": id, "local-hostname": instance.hostname, "imds": told});
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::datasources::testing::{self, Values};
    use crate::net::testing::{Reply, Server, answer};

    const TOLD: &str = r#"{"compute": {"vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "name": "web-vm", "location": "westeurope",
        "platformFaultDomain": "1", "vmSize": "Standard_B1s", "subscriptionId": "8d10da13", "userData": "IyEvYmluL3NoCg==",
        "osProfile": {"adminUsername": "operator", "computerName": "web", "disablePasswordAuthentication": "true"},
        "publicKeys": [{"keyData": "ssh-rsa AAAA\r\nBBBB me\r\n", "path": "/home/operator/.ssh/authorized_keys"}]},
        "extended": {"compute": {"hasCustomData": false, "ppsType": "None"}},
        "network": {"interface": [{"ipv4": {"ipAddress": [{"privateIpAddress": "10.0.0.4", "publicIpAddress": "203.0.113.8"}]},
            "ipv6": {"ipAddress": []}, "macAddress": "000D3A"}]}}"#;
    const WHOLE: Values = &[("/metadata/instance?api-version=2021-08-01&extended=true", TOLD)];

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in files {
            system.write(path, text, FileOptions::default()).unwrap();
        }
        (tree, system)
    }

    #[test]
    fn everything_that_the_service_tells_is_known() {
        let (_tree, system) = tree(&[]);
        let instance = read(&system, &testing::service(&API, &testing::server(&API, WHOLE))).unwrap();
        assert_eq!(instance.id, "02aab8a4-74ef-476e-8182-f6d2ba4166a6");
        assert_eq!(instance.hostname.as_deref(), Some("web"));
        assert_eq!(instance.public_keys, ["ssh-rsa AAAABBBB me"]);
        assert_eq!((instance.region.as_deref(), instance.zone.as_deref()), (Some("westeurope"), Some("1")));
        assert_eq!(
            (instance.local_ipv4.as_deref(), instance.public_ipv4.as_deref()),
            (Some("10.0.0.4"), Some("203.0.113.8"))
        );
        assert_eq!((instance.instance_type.as_deref(), instance.ipv6), (Some("Standard_B1s"), None));
        assert_eq!(instance.user_data, b"#!/bin/sh\n");
        assert_eq!(instance.settings, json!({"default_user": {"name": "operator"}, "ssh_pwauth": false}));
        assert_eq!(instance.metadata["imds"]["compute"]["name"], "web-vm");
        assert_eq!(instance.metadata.pointer("/imds/compute/userData"), None);
    }

    #[test]
    fn the_document_wins_and_its_password_is_a_setting_and_nothing_else() {
        let (_tree, system) = tree(&[
            ("/sys/class/dmi/id/product_uuid", "02AAB8A4-FIRMWARE\n"),
            ("/var/lib/cloud/seed/azure/ovf-env.xml", ovf::tests::DOCUMENT),
        ]);
        assert_eq!(Azure.detect(&system), Detected::Yes);
        let mut instance = read(&system, &testing::service(&API, &testing::server(&API, WHOLE))).unwrap();
        assert_eq!((instance.id.as_str(), instance.user_data.as_slice()), ("02aab8a4-firmware", &b"#!/bin/sh\n"[..]));
        let user = json!({"name": "operator", "lock_passwd": false, "plain_text_passwd": "hunter2<&"});
        assert_eq!(instance.settings.take(), json!({"default_user": user, "ssh_pwauth": true}));
        assert!(!serde_json::to_string(&instance).unwrap().contains("hunter2"));
    }

    #[test]
    fn the_user_of_the_order_ranks_between_the_image_and_the_user_data() {
        let (_tree, system) = tree(&[("/etc/kiln/agent.yaml", "default_user: {name: image, shell: /bin/zsh}")]);
        let ovf = ovf::parse(ovf::tests::DOCUMENT.as_bytes()).unwrap();
        let mut instance = instance("i-1", ovf, json!({})).unwrap();
        let default_user = |instance: &Instance| {
            let config = crate::config::Config::load(&system, instance, None);
            assert_eq!(config.diagnostics, []);
            config.root.get("default_user").unwrap().to_json()
        };
        let user = default_user(&instance);
        assert_eq!(
            (&user["name"], &user["shell"], &user["lock_passwd"]),
            (&json!("operator"), &json!("/bin/zsh"), &json!(false))
        );
        instance.user_data = b"#cloud-config\ndefault_user: {name: mine}\n".to_vec();
        assert_eq!(default_user(&instance)["name"], "mine");
    }

    #[test]
    fn the_document_as_it_was_kept_serves_later_boots_of_the_same_machine() {
        let order = ovf::parse(ovf::tests::DOCUMENT.replace("web", "kept").as_bytes()).unwrap();
        let (_tree, system) = tree(&[]);
        keep(&system, "another", &order).unwrap();
        let mode = |path: &str| system.metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(KEPT), mode("/var/lib/waagent/ovf-env.xml")), (0o700, 0o600));
        assert!(!system.read_text("/var/lib/waagent/ovf-env.xml").unwrap().contains("hunter2"));
        // It may come with a disk to machines elsewhere, too.
        assert_eq!(Azure.detect(&system), Detected::No);
        let told = || read(&system, &testing::service(&API, &testing::server(&API, WHOLE))).unwrap();
        assert_eq!(told().hostname.as_deref(), Some("web"), "it is of the machine whose disk became an image");
        keep(&system, &told().id, &order).unwrap();
        let instance = told();
        assert_eq!(instance.hostname.as_deref(), Some("kept"));
        assert_eq!(instance.settings["default_user"], json!({"name": "operator"}));
        assert_eq!(instance.user_data, b"#!/bin/sh\n");
    }

    #[test]
    fn a_document_that_is_not_kept_is_told_at_the_first_boot_and_at_later_ones() {
        let order = ovf::parse(ovf::tests::DOCUMENT.as_bytes()).unwrap();
        let told = |findings: &[Diagnostic]| findings.iter().map(ToString::to_string).collect::<Vec<_>>();
        // A file where the folder is to be: also root cannot write there.
        let (_tree, system) = tree(&[(KEPT, "")]);
        let mut findings = Vec::new();
        try_to_keep(&system, "i-1", &order, &mut findings);
        let [finding] = &told(&findings)[..] else { panic!("{findings:?}") };
        assert!(finding.starts_with("azure: error: ovf-env.xml cannot be kept, so later boots"), "{finding}");
        assert!(!finding.contains("hunter2"), "{finding}");

        let (_tree, system) = tree(&[]);
        let mut findings = Vec::new();
        document(&system, "i-1", &mut findings).unwrap();
        assert_eq!(findings, [], "a first boot may have no document");
        system.make_dir(instance_folder("i-1"), 0o755, None).unwrap();
        document(&system, "i-1", &mut findings).unwrap();
        assert!(told(&findings)[0].starts_with("/var/lib/waagent: warning: this machine has booted before"));
        let instance = Instance { findings, ..Instance::new("azure", "i-1") };
        let config = crate::config::Config::load(&system, &instance, None);
        assert_eq!(config.diagnostics, instance.findings, "the status has it");
        let kept: Instance = serde_json::from_slice(&serde_json::to_vec(&instance).unwrap()).unwrap();
        assert_eq!(kept.findings.len(), 1, "and so have later stages");
    }

    #[test]
    fn the_service_may_be_as_bad_as_it_likes() {
        testing::faults(&API, WHOLE, |service| read(&System::new("/no/such/tree"), service));
        let late = Server::start(|_, before| match before {
            0 => answer(404, ""),
            1 => answer(410, ""),
            _ => answer(200, TOLD),
        });
        imds(&testing::service(&API, &late)).unwrap();
        let older = Server::start(|request, _| match request.target.contains("2019-06-01") {
            true => answer(200, TOLD),
            false => answer(400, ""),
        });
        imds(&testing::service(&API, &older)).unwrap();
        assert_eq!(older.received().len(), 2);
    }

    #[test]
    fn what_cannot_be_used_is_told_without_a_secret() {
        let bad = [("/var/lib/cloud/seed/azure/ovf-env.xml", "<E><UserPassword>hunter2")];
        let disk = [("/dev/disk/by-label/rd_rdfe_stable.1", "hunter2")];
        for (files, told, why) in [
            (&bad[..], TOLD, "/var/lib/cloud/seed/azure/ovf-env.xml: line 1: the document is cut off"),
            (&disk, TOLD, "/dev/disk/by-label/rd_rdfe_stable.1: it holds none of"),
            (&[], "{}", "tells an id"),
            (&[], "[]", "tells nothing"),
            (
                &[],
                r#"{"compute": {"vmId": "1", "userData": "hunter2!"}}"#,
                "userData of the metadata service is not base64",
            ),
        ] {
            let (_tree, system) = tree(files);
            let told = told.to_owned();
            let server = Server::start(move |_, _| Reply::Answer(200, Vec::new(), told.clone().into_bytes()));
            let error = read(&system, &testing::service(&API, &server)).unwrap_err().message;
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_machine_is_known_by_its_firmware_alone() {
        testing::detects(
            &Azure,
            &[
                ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77\n", Detected::Yes),
                ("sys_vendor", "Microsoft Corporation\n", Detected::No),
            ],
        );
    }
}
