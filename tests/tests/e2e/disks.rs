//! Disks that are real to the kernel: loop devices, the tools of the stock Debian, and the packaged agent in it.

use std::path::Path;
use std::process::Command;

use kiln_tests::skip;
use serde_json::{Value as Json, json};

use crate::empty_root::unpacked;

/// What both scripts begin with. Everything they mount is in a namespace that ends with them.
const BEGIN: &str = r#"
set -eu
loops=()
end() {
    set +e
    for loop in "${loops[@]}"; do swapoff "$loop"p* && true; done
    swapoff machine/swap.img
    umount --recursive machine
    for loop in "${loops[@]}"; do partx --delete "$loop"; losetup --detach "$loop"; done
} 2>/dev/null
trap end EXIT
attach() {
    loop=$(losetup --find --show "$1")
    loops+=("$loop")
    # A kernel may be built without tables of partitions.
    partx --update "$loop" 2>/dev/null || true
}
# boot NAME: boots the machine and keeps its status.
boot() {
    chroot machine /usr/bin/kiln-agent boot 2>"$1.log" || true
    cp machine/run/kiln/status.json "$1.json"
    rm -rf machine/run/kiln
}
furnish() {
    mount -t proc proc machine/proc
    mount --rbind /dev machine/dev
    mount --rbind /sys machine/sys
    mount -t tmpfs run machine/run
    cp usr/bin/kiln-agent machine/usr/bin/
    mkdir -p machine/var/lib/cloud/seed/nocloud
    echo "instance-id: i-1" >machine/var/lib/cloud/seed/nocloud/meta-data
    cat >machine/var/lib/cloud/seed/nocloud/user-data
}
mkdir machine
"#;

/// Runs a script on a machine to be; false, with a word on standard error, where there are no loop devices.
fn on_loops(folder: &Path, script: &str) -> bool {
    let foundation = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/foundation"));
    let free = Command::new("losetup").arg("--find").output().unwrap();
    if !free.status.success() {
        skip(&format!("no loop device: {}", String::from_utf8_lossy(&free.stderr).trim()));
        return false;
    }
    unpacked(folder);
    let script = format!("{BEGIN}{script}");
    let ran = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", &script])
        .env("FOUNDATION", foundation)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    true
}

fn text(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// What a boot said of a handler; null if it did not run.
fn handler(folder: &Path, boot: &str, name: &str) -> Json {
    let status: Json = serde_json::from_str(&text(folder, &format!("{boot}.json"))).unwrap();
    let handlers = status["handlers"].as_array().unwrap();
    handlers.iter().find(|handler| handler["name"] == name).cloned().unwrap_or_default()
}

/// Whether this process may let a mounted ext4 grow; a container may not.
fn may_resize() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    // CAP_SYS_RESOURCE, capability.h.
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}

const LARGER: &str = r#"
truncate --size 700M disk
# This machine may have no sfdisk of its own.
PATH=$PATH:$FOUNDATION/usr/sbin:$FOUNDATION/sbin
printf 'label: gpt\nsize=600MiB\n' | sfdisk --quiet disk
attach disk
mkfs.ext4 -q "$loop"p1
mount "$loop"p1 machine
cp -a "$FOUNDATION"/. machine/
umount machine
partx --delete "$loop"; losetup --detach "$loop"; loops=()
# The volume is larger than the image was.
truncate --size 1G disk
attach disk
mount "$loop"p1 machine
furnish <<END
#cloud-config
users: []
swap: {size: 4M}
END
boot first
stat --file-system --format '%b %S' machine >blocks
cat "/sys/class/block/${loop#/dev/}p1/size" >sectors
cat /proc/swaps >swaps
stat --format '%a %s' machine/swap.img >swap
cp machine/etc/fstab fstab
boot second
"#;

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_root_disk_that_became_larger_is_filled_once_and_gets_its_swap_file() {
    let work = tempfile::tempdir().unwrap();
    let here = work.path();
    if !on_loops(here, LARGER) {
        return;
    }
    let grown = handler(here, "first", "growpart");
    assert_eq!((&grown["outcome"], &grown["detail"]["done"][0]["changed"]), (&json!("ok"), &json!(true)), "{grown}");
    let sectors: u64 = text(here, "sectors").trim().parse().unwrap();
    assert!(sectors > 1020 * 2048, "{sectors}");
    assert_eq!(handler(here, "second", "growpart"), Json::Null, "nothing is left to do");

    let swap = handler(here, "first", "mounts");
    assert_eq!(swap["outcome"], "ok", "{swap}");
    assert_eq!(text(here, "swap"), "600 4194304\n");
    assert!(text(here, "swaps").contains("/swap.img"), "{}", text(here, "swaps"));
    assert!(text(here, "fstab").ends_with("/swap.img\tnone\tswap\tsw,comment=cloudconfig\t0\t0\n"));

    if !may_resize() {
        skip("ext4 grows only with CAP_SYS_RESOURCE, which this container does not have");
        return;
    }
    assert_eq!(handler(here, "first", "resizefs")["outcome"], "ok", "{}", text(here, "first.log"));
    let blocks = text(here, "blocks");
    let (count, size) = blocks.trim().split_once(' ').unwrap();
    assert!(count.parse::<u64>().unwrap() * size.parse::<u64>().unwrap() > 900 << 20, "{blocks}");
    assert_eq!(handler(here, "second", "resizefs"), Json::Null);
}

const SETUP: &str = r#"
mkdir top && mount -t tmpfs top top && mkdir top/upper top/work
mount -t overlay overlay -o "lowerdir=$FOUNDATION,upperdir=top/upper,workdir=top/work" machine
truncate --size 200M data swap full
attach data; data=$loop
attach swap; swap=$loop
attach full; full=$loop
mkfs.ext4 -q -F -L precious "$full"
before=$(sha256sum <full)
cp machine/etc/fstab theirs
furnish <<END
#cloud-config
users: []
device_aliases: {data: $data, swapdisk: $swap}
disk_setup:
  data: {table_type: gpt, layout: [50, 50]}
  $full: {layout: true}
  /dev/none: {layout: true}
  $swap: {layout: [[100, 82]]}
fs_setup:
- {device: data.1, filesystem: ext4, label: one}
- {device: $full, partition: none, filesystem: ext4, label: new}
- {device: data, partition: auto, filesystem: ext4, label: two}
- {device: swapdisk.1, filesystem: swap}
mounts:
- [/dev/none, /mnt/none]
- [data.1, /mnt/one]
- [LABEL=two, /mnt/two, ext4, "defaults,nofail"]
- [LABEL=none, /mnt/three]
- [swapdisk.1, none, swap, sw, "0", "0"]
END
boot first
cat /proc/self/mountinfo >mounts
cat /proc/swaps >swaps
blkid --probe --output value --match-tag LABEL "${data}p1" >labels
blkid --probe --output value --match-tag LABEL "${data}p2" >>labels
touch machine/mnt/one/kept
cp machine/etc/fstab fstab
echo "instance-id: i-2" >machine/var/lib/cloud/seed/nocloud/meta-data
boot second
cp machine/etc/fstab fstab.second
ls machine/mnt/one >one
sync
[ "$before" = "$(sha256sum <full)" ] && echo same >full.state
"#;

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn new_disks_are_made_and_mounted_once_and_what_is_in_the_way_stays() {
    let work = tempfile::tempdir().unwrap();
    let here = work.path();
    if !on_loops(here, SETUP) {
        return;
    }
    let setup = handler(here, "first", "disk_setup");
    let message = setup["message"].as_str().unwrap_or_default();
    assert_eq!(setup["outcome"], "failed");
    for part in ["/dev/none is not there", "holds ext4, and nothing was changed", "holds ext4 labelled `precious`"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(message.matches("; fs_setup").count() + message.matches("; disk_setup").count(), 2, "{message}");
    assert_eq!(text(here, "full.state"), "same\n", "a disk that holds something is not written to");
    assert_eq!(text(here, "labels"), "one\ntwo\n");

    let mounts = handler(here, "first", "mounts");
    let message = mounts["message"].as_str().unwrap_or_default();
    assert!(message.contains("/dev/none is not there") && message.contains("LABEL=none is not there"), "{message}");
    let table = text(here, "mounts");
    assert!(table.contains("/machine/mnt/one ") && table.contains("/machine/mnt/two "), "{table}");
    assert_eq!(text(here, "swaps").lines().count(), 2, "{}", text(here, "swaps"));
    let fstab = text(here, "fstab");
    let own = fstab.strip_prefix(&text(here, "theirs")).unwrap();
    assert_eq!(own.lines().count(), 4, "{own}");
    assert!(
        own.lines().all(|line| line.split('\t').nth(3).is_some_and(|o| o.ends_with(",comment=cloudconfig"))),
        "{own}"
    );

    // Another instance of the same disks finds them as they are.
    assert_eq!(text(here, "fstab.second"), fstab);
    assert!(text(here, "one").lines().any(|name| name == "kept"));
    for (name, key) in [("disk_setup", "changed"), ("mounts", "changed")] {
        let again = handler(here, "second", name);
        let done = again["detail"]["done"].as_array().unwrap();
        assert!(
            !done.is_empty() && done.iter().all(|entry| entry[key] != true && entry["partitions"] != "made"),
            "{again}"
        );
    }
}
