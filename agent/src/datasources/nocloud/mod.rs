//! `nocloud`: user-data and meta-data that the machine itself carries.
//!
//! Places, the first one that has a seed counts: the folder or the server (`http://…`) that
//! `ds=nocloud;s=…` names (in the serial number of the machine, or on the kernel's command line), a seed
//! folder, a disk with the label `cidata`.
//! An id or a host name in such a line wins over the meta-data of any place.

mod line;
pub mod meta;

use std::time::{Duration, Instant};

use kiln_schema::paths;

use super::place::Place;
use super::{Datasource, Detected, Instance, SourceError};
use crate::net::{self, hidden};
use crate::network::{Format, NetworkConfig};
use crate::system::System;
use line::Line;

/// The files of a seed.
const FILES: [&str; 4] = ["user-data", "meta-data", "vendor-data", "network-config"];
const LABEL: &str = "cidata";
/// A server's seed is there by then. `init` has 300 s, and its handlers need a part of them.
const BUDGET: Duration = Duration::from_secs(120);
/// Most bytes of a file of a server.
const LIMIT: usize = 16 * 1024 * 1024;
const SERIAL: &str = "/sys/class/dmi/id/product_serial";

/// A seed on the machine itself.
pub struct NoCloud;

impl Datasource for NoCloud {
    fn name(&self) -> &'static str {
        "nocloud"
    }

    fn summary(&self) -> &'static str {
        "A seed folder or server that the kernel's command line or the SMBIOS serial names, or a disk `cidata`"
    }

    fn needs_network(&self, system: &System) -> bool {
        match line(system) {
            Some(Line { seed: Some(seed), .. }) => is_url(&seed),
            // The line alone counts only when a disk, which may still be on its way, would have come.
            Some(_) => folder(system).is_none() && disk(system).is_none(),
            None => false,
        }
    }

    fn detect(&self, system: &System) -> Detected {
        let here = line(system).is_some() || folder(system).is_some() || disk(system).is_some();
        if here { Detected::Yes } else { Detected::No }
    }

    fn fetch(&self, system: &System, deadline: Instant) -> Result<Instance, SourceError> {
        Ok(fetch(system, deadline.min(Instant::now() + BUDGET))?)
    }
}

fn fetch(system: &System, deadline: Instant) -> Result<Instance, String> {
    let line = line(system);
    let told = line.clone().unwrap_or_default();
    let place = match &told.seed {
        Some(address) if is_url(address) => None,
        Some(address) => Some(Place::Folder(local_folder(address)?.to_owned())),
        None => folder(system).or_else(|| disk(system)),
    };
    let (name, [user_data, meta_data, vendor_data, network]) = match (&told.seed, &place) {
        (_, Some(place)) => (place.name().to_owned(), complete(place.name(), place.read(system, FILES)?)?),
        (Some(url), None) => (shown(url), from_server(system, url, deadline)?),
        // The line alone may name the instance.
        (None, None) if line.is_some() => (String::new(), Default::default()),
        (None, None) => {
            return Err(format!("no user-data in {}, and no disk with the label {LABEL}", paths::SEEDS.join(" or ")));
        }
    };
    let meta = meta::parse(&format!("{name}/meta-data"), &meta_data.unwrap_or_default())?;
    let mut instance = Instance::new("nocloud", &told.id.or(meta.id).unwrap_or_else(|| "nocloud".to_owned()));
    instance.hostname = told.hostname.or(meta.hostname);
    instance.public_keys = meta.public_keys;
    instance.launch_index = meta.launch_index;
    instance.user_data = user_data.unwrap_or_default();
    instance.vendor_data = vendor_data.unwrap_or_default();
    let network = network.unwrap_or_default();
    instance.network = NetworkConfig::of_bytes(format!("{name}/network-config"), Format::CloudInit, &network);
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

fn folder(system: &System) -> Option<Place> {
    Place::folder(system, paths::SEEDS, &FILES[..2])
}

fn disk(system: &System) -> Option<Place> {
    Place::disk(system, LABEL)
}

/// The files of a seed, in the order of [`FILES`].
type Files = [Option<Vec<u8>>; 4];

fn complete(place: &str, files: Files) -> Result<Files, String> {
    if files[..2].iter().all(Option::is_none) {
        return Err(format!("{place}: it has neither user-data nor meta-data"));
    }
    Ok(files)
}

fn is_url(address: &str) -> bool {
    address.starts_with("http://") || address.starts_with("https://")
}

/// The files below an address. What the server says to be missing is; any other refusal is told.
fn from_server(system: &System, url: &str, deadline: Instant) -> Result<Files, String> {
    // A name may also be the value of a query, `http://…?file=`.
    let between = if url.ends_with(['/', '=', '?', '&']) { "" } else { "/" };
    let mut files = Files::default();
    for (file, name) in files.iter_mut().zip(FILES) {
        *file = match net::get(system, &format!("{url}{between}{name}"), LIMIT, deadline) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.status == Some(404) => None,
            Err(error) => return Err(error.message),
        };
    }
    complete(&shown(url), files)
}

/// An address without what may be secret in it.
fn shown(url: &str) -> String {
    hidden(url.trim_end_matches('/'))
}

/// The folder of a seed's address. An address may hold a password, so it is not shown.
fn local_folder(address: &str) -> Result<&str, String> {
    let path = address.strip_prefix("file://").unwrap_or(address);
    if path.starts_with('/') {
        return Ok(path.trim_end_matches('/'));
    }
    let kind = path.split_once("://").map_or("no absolute path", |(scheme, _)| scheme);
    Err(format!(
        "`ds=nocloud;s=…` names a seed that is neither a folder nor a server of HTTP ({kind}); put the files into \
         {} or onto a disk with the label cidata",
        paths::SEEDS[0]
    ))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the test makes a real disk")]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::net::testing::{Received, Reply, Server, answer};
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

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    /// What a machine makes of a server that answers so.
    fn from(
        reply: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static,
        time: Duration,
    ) -> Result<Instance, String> {
        let server = Server::start(reply);
        let line = format!("ds=nocloud;s={}/;h=line", server.url("").replace("://", "://me:hunter2@") + "/seed");
        let (_tree, system) = tree(&[("/proc/cmdline", &line)]);
        assert!(NoCloud.needs_network(&system));
        fetch(&system, Instant::now() + time)
    }

    #[test]
    fn a_server_has_the_seed_and_may_stumble() {
        let told = from(
            |request, before| match (before, request.target.as_str()) {
                (0, _) => Reply::Answer(503, vec!["retry-after: 0".to_owned()], Vec::new()),
                (1, _) => Reply::Reset,
                (_, "/seed/user-data") => answer(200, "#!server"),
                (_, "/seed/meta-data") => answer(200, "{instance-id: i-server, local-hostname: meta}"),
                _ => answer(404, ""),
            },
            Duration::from_secs(30),
        );
        let instance = told.unwrap();
        assert_eq!((instance.id.as_str(), instance.hostname.as_deref()), ("i-server", Some("line")));
        assert_eq!((instance.user_data.as_slice(), instance.vendor_data.len()), (&b"#!server"[..], 0));
    }

    #[test]
    fn a_server_that_has_no_seed_is_told_without_its_password() {
        let long = Duration::from_secs(30);
        let short = Duration::from_secs(1);
        for (told, sentence) in [
            (from(|_, _| answer(404, ""), long), "/seed: it has neither user-data nor meta-data"),
            (from(|_, _| answer(401, ""), long), "/seed/user-data: HTTP 401 Unauthorized"),
            (from(|_, _| answer(200, "- a"), long), "/seed/meta-data: it must be a mapping"),
            (from(|_, _| Reply::Silence, short), "/seed/user-data: no answer within"),
            (from(|_, _| Reply::Stall("#!half"), short), "/seed/user-data: no answer within"),
        ] {
            let told = told.unwrap_err();
            assert!(told.contains(sentence) && !told.contains("hunter2"), "{told}");
        }
    }

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
        let instance = fetch(&system, soon()).unwrap();
        assert_eq!((instance.id.as_str(), instance.hostname.as_deref()), ("serial", Some("line")));
        assert_eq!((instance.user_data, instance.public_keys), (b"#!a".to_vec(), vec!["ssh-rsa A".to_owned()]));
    }

    #[test]
    fn a_seed_that_cannot_be_used_is_told() {
        let user_data = format!("{SEED}/user-data");
        let meta_data = format!("{SEED}/meta-data");
        for (files, sentence) in [
            (
                vec![("/proc/cmdline", "ds=nocloud-net;s=ftp://me:hunter2@10.0.0.1/")],
                "neither a folder nor a server of HTTP (ftp)",
            ),
            (vec![("/proc/cmdline", "ds=nocloud;s=seed")], "neither a folder nor a server of HTTP (no absolute path)"),
            (vec![("/proc/cmdline", "ds=nocloud;s=/srv/")], "/srv: it has neither user-data nor meta-data"),
            (vec![(user_data.as_str(), ""), (meta_data.as_str(), "- a")], "meta-data: it must be a mapping"),
            (vec![], "no user-data in /var/lib/kiln/seed/nocloud"),
        ] {
            let (_tree, system) = tree(&files);
            let told = fetch(&system, soon()).unwrap_err();
            assert!(told.contains(sentence) && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_configuration_of_the_network_is_taken_from_the_seed_and_an_empty_one_is_none() {
        let user_data = format!("{SEED}/user-data");
        let network = format!("{SEED}/network-config");
        let (_tree, system) = tree(&[(&user_data, ""), (&network, "version: 2\n")]);
        let expected = NetworkConfig::new(network.clone(), Format::CloudInit, "version: 2\n");
        assert_eq!(fetch(&system, soon()).unwrap().network, Some(expected));
        system.write(&network, " \n", FileOptions::default()).unwrap();
        assert_eq!(fetch(&system, soon()).unwrap().network, None);
    }

    #[test]
    fn a_line_without_a_seed_is_an_instance_without_user_data() {
        let (_tree, system) = tree(&[("/proc/cmdline", "ds=nocloud;i=i-1")]);
        let instance = fetch(&system, soon()).unwrap();
        assert_eq!((instance.id.as_str(), instance.user_data.is_empty()), ("i-1", true));
    }

    /// The one disk with a real kernel behind it that works wherever loop devices do.
    #[test]
    fn a_labelled_disk_is_read_and_nothing_stays_mounted() {
        if !nix::unistd::geteuid().is_root() {
            crate::testing::skip("only root can mount a disk");
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
            crate::testing::skip(&format!("no loop device: {}", String::from_utf8_lossy(&attached.stderr)));
            return;
        }
        let device = String::from_utf8(attached.stdout).unwrap().trim().to_owned();
        system.make_dir("/dev/disk/by-label", 0o755, None).unwrap();
        let label = tree.path().join("dev/disk/by-label/CIDATA");
        let number = std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(&device).unwrap());
        let (kind, mode) = (nix::sys::stat::SFlag::S_IFBLK, nix::sys::stat::Mode::S_IRUSR);
        nix::sys::stat::mknod(&label, kind, mode, number).unwrap();
        let read = fetch(&system, soon());
        let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let detached = Command::new("losetup").args(["--detach", &device]).status().unwrap();
        let instance = read.unwrap();
        assert_eq!((instance.id.as_str(), instance.user_data.as_slice()), ("i-disk", &b"#!disk"[..]));
        assert!(!mounted.contains(&*tree.path().to_string_lossy()) && detached.success());
        assert!(!system.exists("/run/kiln/disk"));
    }
}
