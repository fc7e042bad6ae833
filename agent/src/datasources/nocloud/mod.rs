//! `nocloud`: user-data and meta-data that the machine itself carries.
//!
//! Places, the first one that has a seed counts: the folder that `ds=nocloud;s=…` names (in the serial
//! number of the machine, or on the kernel's command line), a seed folder, a disk with the label `cidata`.
//! An id or a host name in such a line wins over the meta-data of any place.

mod line;
mod meta;

use std::io;
use std::time::Instant;

use kiln_schema::paths;

use super::{Datasource, Detected, Instance, SourceError};
use crate::network::{Format, NetworkConfig};
use crate::system::System;
use line::Line;

/// Most bytes of a file of a seed.
const LIMIT: u64 = 16 * 1024 * 1024;
/// The files of a seed.
const FILES: [&str; 4] = ["user-data", "meta-data", "vendor-data", "network-config"];
const LABELS: &[&str] = &["/dev/disk/by-label/cidata", "/dev/disk/by-label/CIDATA"];
const SERIAL: &str = "/sys/class/dmi/id/product_serial";

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
        let here = line(system).is_some() || folder(system).is_some() || disk(system).is_some();
        if here { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, system: &System, _: Instant) -> Result<Instance, SourceError> {
        fetch(system).map_err(|message| SourceError { message })
    }
}

/// A seed: where it was, and its files in the order of [`FILES`].
struct Seed {
    place: String,
    files: Vec<Option<Vec<u8>>>,
}

fn fetch(system: &System) -> Result<Instance, String> {
    let line = line(system);
    let told = line.clone().unwrap_or_default();
    let mut seed = match (&told.seed, folder(system), disk(system)) {
        (Some(address), ..) => in_folder(system, local_folder(address)?)?,
        (None, Some(folder), _) => in_folder(system, folder)?,
        (None, None, Some(device)) => on_disk(system, device)?,
        // The line alone may name the instance.
        (None, None, None) if line.is_some() => Seed { place: String::new(), files: vec![None; FILES.len()] },
        (None, None, None) => {
            return Err(format!("no user-data in {}, and no disk with the label cidata", paths::SEEDS.join(" or ")));
        }
    };
    let mut file = |index: usize| seed.files[index].take().unwrap_or_default();
    let [user_data, meta_data, vendor_data, network] = std::array::from_fn(&mut file);
    let meta = meta::parse(&format!("{}/meta-data", seed.place), &meta_data)?;
    let mut instance = Instance::new("nocloud", &told.id.or(meta.id).unwrap_or_else(|| "nocloud".to_owned()));
    instance.hostname = told.hostname.or(meta.hostname);
    instance.public_keys = meta.public_keys;
    instance.launch_index = meta.launch_index;
    instance.user_data = user_data;
    instance.vendor_data = vendor_data;
    instance.network = NetworkConfig::of_bytes(format!("{}/network-config", seed.place), Format::CloudInit, &network);
    instance.metadata = meta.all;
    Ok(instance)
}

/// What the serial number and the kernel's command line tell, the serial number first.
fn line(system: &System) -> Option<Line> {
    let serial = system.read_text(SERIAL).ok().and_then(|text| Line::find(&text));
    let kernel = Line::find(system.kernel_command_line());
    match (serial, kernel) {
        (Some(serial), Some(kernel)) => Some(serial.or(kernel)),
        (serial, kernel) => serial.or(kernel),
    }
}

fn folder(system: &System) -> Option<&'static str> {
    let has_seed = |folder: &&str| ["user-data", "meta-data"].iter().any(|f| system.exists(format!("{folder}/{f}")));
    paths::SEEDS.iter().copied().find(has_seed)
}

fn disk(system: &System) -> Option<&'static str> {
    LABELS.iter().copied().find(|label| system.exists(label))
}

/// The folder of a seed's address. An address may hold a password, so it is not shown.
fn local_folder(address: &str) -> Result<&str, String> {
    let path = address.strip_prefix("file://").unwrap_or(address);
    if path.starts_with('/') {
        return Ok(path.trim_end_matches('/'));
    }
    let kind = path.split_once("://").map_or("no absolute path", |(scheme, _)| scheme);
    Err(format!(
        "`ds=nocloud;s=…` names a seed that is not a folder ({kind}), which is not supported; put the files into \
         {} or onto a disk with the label cidata",
        paths::SEEDS[0]
    ))
}

fn in_folder(system: &System, folder: &str) -> Result<Seed, String> {
    let read = |name: &str| match system.read_limited(format!("{folder}/{name}"), LIMIT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    let files = FILES.iter().map(|name| read(name)).collect::<Result<Vec<_>, _>>()?;
    complete(Seed { place: folder.to_owned(), files })
}

fn on_disk(system: &System, device: &str) -> Result<Seed, String> {
    let files = system.read_disk(device, &FILES, LIMIT).map_err(|error| error.to_string())?;
    complete(Seed { place: device.to_owned(), files })
}

fn complete(seed: Seed) -> Result<Seed, String> {
    if seed.files[..2].iter().all(Option::is_none) {
        return Err(format!("{}: it has neither user-data nor meta-data", seed.place));
    }
    Ok(seed)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the test makes a real disk")]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::system::FileOptions;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in files {
            system.write(path, text, FileOptions::default()).unwrap();
        }
        (tree, system)
    }

    const SEED: &str = "/var/lib/kiln/seed/nocloud";

    #[test]
    fn a_line_names_the_folder_and_wins_over_the_meta_data() {
        let (_tree, system) = tree(&[
            ("/proc/cmdline", "quiet ds=nocloud;s=file:///srv/seed/;h=line ro\n"),
            (SERIAL, "ds=nocloud;i=serial\n"),
            ("/srv/seed/user-data", "#!a"),
            ("/srv/seed/meta-data", "{instance-id: meta, local-hostname: meta, public-keys: [ssh-rsa A]}"),
            ("/var/lib/cloud/seed/nocloud/user-data", "#!b"),
        ]);
        assert_eq!(NoCloud.detect(&system), Detected::Yes);
        let instance = fetch(&system).unwrap();
        assert_eq!((instance.id.as_str(), instance.hostname.as_deref()), ("serial", Some("line")));
        assert_eq!((instance.user_data, instance.public_keys), (b"#!a".to_vec(), vec!["ssh-rsa A".to_owned()]));
    }

    #[test]
    fn a_seed_that_cannot_be_used_is_told() {
        let user_data = format!("{SEED}/user-data");
        let meta_data = format!("{SEED}/meta-data");
        for (files, sentence) in [
            (
                vec![("/proc/cmdline", "ds=nocloud-net;s=http://me:hunter2@10.0.0.1/")],
                "not a folder (http), which is not supported",
            ),
            (vec![("/proc/cmdline", "ds=nocloud;s=seed")], "not a folder (no absolute path)"),
            (vec![("/proc/cmdline", "ds=nocloud;s=/srv/")], "/srv: it has neither user-data nor meta-data"),
            (vec![(user_data.as_str(), ""), (meta_data.as_str(), "- a")], "meta-data: it must be a mapping"),
            (vec![], "no user-data in /var/lib/kiln/seed/nocloud"),
        ] {
            let (_tree, system) = tree(&files);
            let told = fetch(&system).unwrap_err();
            assert!(told.contains(sentence) && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_configuration_of_the_network_is_taken_from_the_seed_and_an_empty_one_is_none() {
        let user_data = format!("{SEED}/user-data");
        let network = format!("{SEED}/network-config");
        let (_tree, system) = tree(&[(&user_data, ""), (&network, "version: 2\n")]);
        let expected = NetworkConfig::new(network.clone(), Format::CloudInit, "version: 2\n");
        assert_eq!(fetch(&system).unwrap().network, Some(expected));
        system.write(&network, " \n", FileOptions::default()).unwrap();
        assert_eq!(fetch(&system).unwrap().network, None);
    }

    #[test]
    fn a_line_without_a_seed_is_an_instance_without_user_data() {
        let (_tree, system) = tree(&[("/proc/cmdline", "ds=nocloud;i=i-1")]);
        let instance = fetch(&system).unwrap();
        assert_eq!((instance.id.as_str(), instance.user_data.is_empty()), ("i-1", true));
    }

    /// The one disk with a real kernel behind it that works wherever loop devices do.
    #[test]
    fn a_labelled_disk_is_read_and_nothing_stays_mounted() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not tried: only root can mount a disk");
            return;
        }
        let (tree, system) = tree(&[("/content/user-data", "#!disk"), ("/content/meta-data", "instance-id: i-disk")]);
        let image = tree.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-t", "ext4", "-L", "CIDATA", "-d"]).arg(tree.path().join("content")).arg(&image);
        assert!(make.status().unwrap().success());
        let attached = Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(&image).output().unwrap();
        if !attached.status.success() {
            eprintln!("not tried: no loop device: {}", String::from_utf8_lossy(&attached.stderr));
            return;
        }
        let device = String::from_utf8(attached.stdout).unwrap().trim().to_owned();
        system.make_dir("/dev/disk/by-label", 0o755, None).unwrap();
        let label = tree.path().join("dev/disk/by-label/CIDATA");
        let number = std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(&device).unwrap());
        let (kind, mode) = (nix::sys::stat::SFlag::S_IFBLK, nix::sys::stat::Mode::S_IRUSR);
        nix::sys::stat::mknod(&label, kind, mode, number).unwrap();
        let read = fetch(&system);
        let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let detached = Command::new("losetup").args(["--detach", &device]).status().unwrap();
        let instance = read.unwrap();
        assert_eq!((instance.id.as_str(), instance.user_data.as_slice()), ("i-disk", &b"#!disk"[..]));
        assert!(!mounted.contains(&*tree.path().to_string_lossy()) && detached.success());
        assert!(!system.exists("/run/kiln/disk"));
    }
}
