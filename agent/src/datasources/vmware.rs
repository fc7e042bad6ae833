//! `vmware`: what the hypervisor keeps for a guest under `guestinfo.*`.
//!
//! A container that stands for a guest has the same in the environment, as `VMX_GUESTINFO_METADATA`.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::nocloud::meta;
use super::place::dmi;
use super::{Datasource, Detected, Instance, SourceError};
use crate::network::{Format, NetworkConfig};
use crate::system::{Command, System};
use crate::userdata::gunzip;

/// The programs that ask the hypervisor, and what stands before the question.
const TOOLS: [(&str, &[&str]); 2] = [("/usr/bin/vmware-rpctool", &[]), ("/usr/bin/vmtoolsd", &["--cmd"])];
/// The hypervisor answers at once.
const PER_QUESTION: Duration = Duration::from_secs(10);
/// Most bytes that a packed value may become.
const LIMIT: usize = 16 * 1024 * 1024;
/// So much of a program's output is kept; a value that reaches it may be cut off.
const MOST: usize = 1024 * 1024;
/// What stands in a value that was taken away after its use.
const TAKEN_AWAY: &str = "---";

/// A guest of VMware.
pub struct Vmware;

impl Datasource for Vmware {
    fn name(&self) -> &'static str {
        "vmware"
    }

    fn summary(&self) -> &'static str {
        "What VMware keeps for a guest under `guestinfo.*`"
    }

    fn needs_network(&self, _: &System) -> bool {
        false
    }

    fn detect(&self, system: &System) -> Detected {
        let of_container = ["METADATA", "USERDATA", "VENDORDATA"].iter().any(|name| variable(system, name).is_some());
        // The firmware first: elsewhere no program is looked for.
        let yes = of_container || (dmi(system, "product_name").starts_with("VMware") && tool(system).is_some());
        if yes { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, system: &System, deadline: Instant) -> Result<Instance, SourceError> {
        let mut asked = Asked { tool: tool(system), deadline };
        Ok(read(system, |name| match variable(system, &name.to_uppercase().replace('.', "_")) {
            Some(value) => Ok(Some(value)),
            None => asked.ask(system, name),
        })?)
    }
}

fn variable(system: &System, name: &str) -> Option<String> {
    // A tree's agent is not the tree's.
    let value = std::env::var(format!("VMX_GUESTINFO_{name}")).ok().filter(|_| system.is_live());
    value.filter(|value| !value.is_empty())
}

fn tool(system: &System) -> Option<(&'static str, &'static [&'static str])> {
    TOOLS.into_iter().find(|(path, _)| system.exists(path))
}

/// The hypervisor, by the program that asks it.
struct Asked {
    tool: Option<(&'static str, &'static [&'static str])>,
    deadline: Instant,
}

impl Asked {
    /// A value; none if it is not set.
    fn ask(&mut self, system: &System, name: &str) -> Result<Option<String>, String> {
        let Some((program, before)) = self.tool else {
            return Err(
                "neither vmware-rpctool nor vmtoolsd is installed; install the package open-vm-tools".to_owned()
            );
        };
        let left = self.deadline.saturating_duration_since(Instant::now()).min(PER_QUESTION);
        let question = format!("info-get guestinfo.{name}");
        let command = Command::new(program, left).args(before.iter().copied()).arg(question).capture();
        let finished = system.run(&command).map_err(|error| format!("guestinfo.{name}: {error}"))?;
        if finished.stdout.len() >= MOST {
            return Err(format!("guestinfo.{name}: larger than {MOST} bytes; pack it with gzip+base64"));
        }
        // A value that is not set is a failure with these words; any other failure is one.
        let is_unset = finished.last_lines(5).iter().any(|line| line.contains("No value found"));
        if !finished.success() && !is_unset {
            let said = finished.last_lines(1).join("");
            return Err(format!("guestinfo.{name}: {program} {}: {said}", finished.ending()));
        }
        Ok(finished.success().then(|| finished.text()).filter(|text| !text.trim().is_empty()))
    }
}

/// What the values amount to, whoever has them.
fn read(system: &System, mut value: impl FnMut(&str) -> Result<Option<String>, String>) -> Result<Instance, String> {
    let mut decoded = |name: &str| -> Result<Option<Vec<u8>>, String> {
        let Some(text) = value(name)?.filter(|text| text.trim() != TAKEN_AWAY) else { return Ok(None) };
        let encoding = value(&format!("{name}.encoding"))?.unwrap_or_default();
        decode(&text, encoding.trim()).map(Some).map_err(|why| format!("guestinfo.{name}: {why}"))
    };
    let [metadata, user_data, vendor_data] = ["metadata", "userdata", "vendordata"].map(&mut decoded);
    let (metadata, user_data, vendor_data) = (metadata?, user_data?, vendor_data?);
    if metadata.is_none() && user_data.is_none() && vendor_data.is_none() {
        let message = "none of guestinfo.metadata, guestinfo.userdata and guestinfo.vendordata is set for this machine";
        return Err(message.to_owned());
    }
    let meta = meta::parse("guestinfo.metadata", &metadata.unwrap_or_default())?;
    let network = network(&meta.all).map_err(|why| format!("guestinfo.metadata: network: {why}"))?;
    let of_firmware = || Some(dmi(system, "product_uuid").to_lowercase()).filter(|id| !id.is_empty());
    let none = "guestinfo.metadata has no instance-id, and the firmware no product_uuid";
    let mut instance = Instance::new("vmware", &meta.id.or_else(of_firmware).ok_or(none)?);
    instance.hostname = meta.hostname;
    instance.public_keys = meta.public_keys;
    instance.launch_index = meta.launch_index;
    instance.user_data = user_data.unwrap_or_default();
    instance.vendor_data = vendor_data.unwrap_or_default();
    instance.network = network;
    instance.metadata = meta.all;
    Ok(instance)
}

/// The network's configuration in the metadata: a mapping, or text packed as `network.encoding` says.
fn network(metadata: &Json) -> Result<Option<NetworkConfig>, String> {
    let encoding = metadata.get("network.encoding").and_then(Json::as_str).unwrap_or_default();
    let bytes = match metadata.get("network").map(|told| told.get("config").unwrap_or(told)) {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(text)) => decode(text, encoding.trim())?,
        Some(mapping) => mapping.to_string().into_bytes(),
    };
    Ok(NetworkConfig::of_bytes("guestinfo.metadata/network", Format::CloudInit, &bytes))
}

/// A value as its encoding says.
fn decode(text: &str, encoding: &str) -> Result<Vec<u8>, String> {
    let unpacked = || {
        let compact: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        STANDARD.decode(compact).map_err(|_| format!("its encoding is {encoding}, and it is not base64"))
    };
    match encoding {
        "" => Ok(text.as_bytes().to_vec()),
        "base64" | "b64" => unpacked(),
        "gzip+base64" | "gz+b64" => gunzip(&unpacked()?, LIMIT),
        other => Err(format!("the encoding `{other}` is none of base64 and gzip+base64")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::datasources::testing;
    use crate::system::FileOptions;

    const UUID: &str = "/sys/class/dmi/id/product_uuid";

    fn guest(values: &[(&str, &str)]) -> Result<Instance, String> {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write(UUID, "420A-BC\n", FileOptions::default()).unwrap();
        read(&system, |name| Ok(values.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())))
    }

    fn packed(text: &str) -> String {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        STANDARD.encode(encoder.finish().unwrap())
    }

    #[test]
    fn every_encoding_is_read() {
        let metadata = "instance-id: vm-1\nlocal-hostname: web\npublic-keys: [ssh-rsa A]\n";
        let (base64, gzip) = (STANDARD.encode(metadata), packed(metadata));
        let lines = format!("{}\n{}\n", &base64[..20], &base64[20..]);
        for (text, encoding) in
            [(metadata, ""), (&base64, "base64"), (&lines, "b64"), (&gzip, "gzip+base64"), (&gzip, "gz+b64")]
        {
            let values =
                [("metadata", text), ("metadata.encoding", encoding), ("userdata", "#!a"), ("vendordata", "---")];
            let instance = guest(&values).unwrap();
            assert_eq!((instance.id.as_str(), instance.hostname.as_deref()), ("vm-1", Some("web")), "{encoding}");
            assert_eq!((instance.user_data.as_slice(), instance.vendor_data.len()), (&b"#!a"[..], 0));
            assert_eq!(instance.public_keys, ["ssh-rsa A"]);
        }
    }

    #[test]
    fn the_network_of_the_metadata_is_taken_in_either_form() {
        fn text(metadata: &str) -> Option<String> {
            Some(guest(&[("metadata", metadata)]).unwrap().network?.text)
        }
        let own = r#"{"version":2,"ethernets":{"ens192":{"dhcp4":true}}}"#;
        assert_eq!(text(&format!("instance-id: a\nnetwork: {own}")).as_deref(), Some(own));
        assert_eq!(text(&format!("instance-id: a\nnetwork: {{config: {own}}}")).as_deref(), Some(own));
        let packed = STANDARD.encode(own);
        let metadata = format!("instance-id: a\nnetwork: {packed}\nnetwork.encoding: base64");
        assert_eq!(text(&metadata).as_deref(), Some(own));
        assert_eq!(text("instance-id: a\nnetwork:"), None);
        let told = guest(&[("metadata", "instance-id: a\nnetwork: '?'\nnetwork.encoding: base64")]).unwrap_err();
        assert!(told.starts_with("guestinfo.metadata: network: its encoding is base64"), "{told}");
    }

    #[test]
    fn without_an_id_the_firmware_tells_it() {
        assert_eq!(guest(&[("userdata", "#!a")]).unwrap().id, "420a-bc");
    }

    #[test]
    fn values_that_cannot_be_used_are_told_and_not_shown() {
        for (values, sentence) in [
            (&[][..], "none of guestinfo.metadata"),
            (&[("metadata", "---")], "none of guestinfo.metadata"),
            (
                &[("userdata", "hunter2!"), ("userdata.encoding", "base64")],
                "guestinfo.userdata: its encoding is base64, and",
            ),
            (
                &[("userdata", "aHVudGVy"), ("userdata.encoding", "gz+b64")],
                "guestinfo.userdata: the gzip data is cut off",
            ),
            (&[("userdata", "hunter2"), ("userdata.encoding", "rot13")], "guestinfo.userdata: the encoding `rot13`"),
            (&[("metadata", "just text")], "guestinfo.metadata: it must be a mapping"),
        ] {
            let told = guest(values).unwrap_err();
            assert!(told.starts_with(sentence) && !told.contains("hunter"), "{told}");
        }
    }

    #[test]
    fn a_guest_is_known_by_its_firmware_and_its_tools() {
        testing::detects(&Vmware, &[("product_name", "VMware Virtual Platform\n", Detected::No)]);
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        crate::testing::executable(&system, "/usr/bin/vmtoolsd", "");
        assert_eq!(Vmware.detect(&system), Detected::No);
        system.write("/sys/class/dmi/id/product_name", "VMware7,1\n", FileOptions::default()).unwrap();
        assert_eq!(Vmware.detect(&system), Detected::Yes);
    }

    #[test]
    fn the_tool_is_asked_and_only_what_is_not_set_is_no_value() {
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = crate::testing::machine(tree.path(), &["/usr/bin/dash"], "") else { return };
        let system = &context.system;
        let soon = Instant::now() + Duration::from_secs(30);
        let error = Vmware.fetch(system, soon).unwrap_err().message;
        assert!(error.ends_with("install the package open-vm-tools"), "{error}");
        let script = "#!/usr/bin/dash\n[ \"$1\" = --cmd ] || exit 2\ncase $2 in\n\
                      'info-get guestinfo.metadata') echo '{\"instance-id\": \"vm-2\"}' ;;\n\
                      'info-get guestinfo.vendordata') [ ! -e /broken ] || { echo 'channel closed' >&2; exit 1; } ;;\n\
                      'info-get guestinfo.userdata') [ ! -e /large ] || printf %01100000d 0 ;;\n\
                      *) echo 'No value found' >&2; exit 1 ;;\nesac\n";
        crate::testing::executable(system, "/usr/bin/vmtoolsd", script);
        let instance = Vmware.fetch(system, soon).unwrap();
        assert_eq!((instance.id.as_str(), instance.user_data.len()), ("vm-2", 0));
        system.write("/broken", "", FileOptions::default()).unwrap();
        let error = Vmware.fetch(system, soon).unwrap_err().message;
        assert_eq!(error, "guestinfo.vendordata: /usr/bin/vmtoolsd exited 1: channel closed");
        system.write("/large", "", FileOptions::default()).unwrap();
        let error = Vmware.fetch(system, soon).unwrap_err().message;
        assert!(error.starts_with("guestinfo.userdata: larger than 1048576 bytes"), "{error}");
    }
}
