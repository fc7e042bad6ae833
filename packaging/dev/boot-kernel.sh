#!/bin/bash
# Boots a machine of its own kernel with the agent in cloud-init's place, from a `cidata` disk:
#
#     packaging/dev/boot-kernel.sh FOUNDATION AGENT_DEB [FILESYSTEM...]        (as root; `make kernel`)
#
# The lab's machines share the kernel of the machine that they run on, which may mount neither ISO 9660
# nor FAT; here qemu emulates all of a machine, without KVM, and Debian's cloud kernel boots in it. Each
# file system is one boot of the same disk as another instance: it must end as `done`, and power off
# because its user-data said so.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -ge 2 ] || { echo "usage: boot-kernel.sh FOUNDATION AGENT_DEB [iso9660|vfat...]" >&2; exit 64; }
[ "$(id -u)" = 0 ] || { echo "boot-kernel.sh needs root, for the owners of the tree; run it with sudo" >&2; exit 1; }
foundation=$1 deb=$2
shift 2
[ $# -gt 0 ] || set -- iso9660 vfat
# A boot under emulation takes half a minute on two cores.
limit=${KILN_BOOT_LIMIT:-300}

work=target/kernel
tree=$work/tree
inputs="$(sha256sum <"$0") $(cat "$foundation.inputs")"
mkdir -p "$work"

fail() {
    echo "boot-kernel: $1" >&2
    exit 1
}

# The foundation with a kernel, made once.
if [ ! -d "$tree" ] || [ "$(cat "$work/inputs" 2>/dev/null)" != "$inputs" ]; then
    echo "boot-kernel: adding a kernel to the foundation"
    rm -rf "$tree" "$work/inputs"
    cp -a "$foundation" "$tree"
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "${proxy:-}" ] || export http_proxy=$proxy
    cp "$tree/etc/resolv.conf" "$work/resolv.conf"
    cp /etc/resolv.conf "$tree/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    mount -t proc proc "$tree/proc"
    trap 'umount "$tree/proc"' EXIT
    DEBIAN_FRONTEND=noninteractive chroot "$tree" sh -c '
        apt-get -q update &&
        apt-get -q -y install --no-install-recommends initramfs-tools linux-image-cloud-amd64' \
        >"$work/apt.log" 2>&1 || { tail -n 20 "$work/apt.log" >&2; fail "the kernel could not be installed"; }
    umount "$tree/proc"
    trap - EXIT
    cp "$work/resolv.conf" "$tree/etc/resolv.conf"
    rm "$tree/usr/sbin/policy-rc.d"
    chroot "$tree" apt-get clean
    printf '/dev/vda / ext4 defaults 0 1\n' >"$tree/etc/fstab"
    printf '%s' "$inputs" >"$work/inputs"
fi

# The agent takes cloud-init's place, as an operator would have it do.
rm -rf "$work/machine"
cp -a "$tree" "$work/machine"
cp "$deb" "$work/machine/var/tmp/kiln-agent.deb"
chroot "$work/machine" sh -c 'dpkg --purge cloud-init && dpkg --install /var/tmp/kiln-agent.deb' >"$work/dpkg.log" 2>&1 \
    || { tail "$work/dpkg.log" >&2; fail "the package could not be installed"; }
rm "$work/machine/var/tmp/kiln-agent.deb"
cp "$work/machine"/boot/vmlinuz-* "$work/vmlinuz"
cp "$work/machine"/boot/initrd.img-* "$work/initrd"
rm -f "$work/disk"
truncate --size 2G "$work/disk"
mkfs.ext4 -q -d "$work/machine" "$work/disk"
rm -rf "$work/machine"

for filesystem; do
    seed=$work/seed-$filesystem
    rm -rf "$seed" "$seed.img"
    mkdir "$seed"
    instance=i-$filesystem
    echo "instance-id: $instance" >"$seed/meta-data"
    cat >"$seed/user-data" <<DATA
#cloud-config
hostname: $filesystem
ssh_genkeytypes: [ed25519]
write_files:
  - {path: /etc/from-$filesystem, content: here}
runcmd:
  - [sh, -c, uname -r >/var/tmp/kernel-$filesystem]
power_state: {mode: poweroff, timeout: 60}
DATA
    case $filesystem in
        iso9660) genisoimage -quiet -rational-rock -volid cidata -output "$seed.img" "$seed/user-data" "$seed/meta-data" ;;
        vfat)
            truncate --size 1M "$seed.img"
            mkfs.vfat -n CIDATA "$seed.img" >/dev/null
            mcopy -i "$seed.img" "$seed/user-data" "$seed/meta-data" ::
            ;;
        *) fail "cidata on $filesystem: name iso9660 or vfat" ;;
    esac

    begun=$SECONDS
    timeout --foreground "$limit" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 1024 -nographic -no-reboot -nic none \
        -kernel "$work/vmlinuz" -initrd "$work/initrd" -append "root=/dev/vda rw console=ttyS0 panic=-1" \
        -drive "file=$work/disk,format=raw,if=virtio" -drive "file=$seed.img,format=raw,if=virtio,readonly=on" \
        </dev/null >"$work/console-$filesystem" 2>&1 \
        || { tail -n 30 "$work/console-$filesystem" >&2; fail "the machine did not power off within $limit s; its console is above"; }
    read_back() { debugfs -R "cat $1" "$work/disk" 2>/dev/null; }
    state=$(read_back "/var/lib/kiln/instances/$instance/status.json" | python3 -c 'import json,sys; s = json.load(sys.stdin); print(s["state"], s["source"], s["instance_id"])') \
        || { tail -n 30 "$work/console-$filesystem" >&2; fail "$instance left no status; its console is above"; }
    [ "$state" = "done nocloud $instance" ] || { grep -a kiln "$work/console-$filesystem" >&2; fail "$instance ended as: $state"; }
    [ "$(read_back "/etc/from-$filesystem")" = here ] || fail "write_files wrote nothing on $instance"
    kernel=$(read_back "/var/tmp/kernel-$filesystem")
    [ -n "$kernel" ] || fail "runcmd did not run on $instance"
    grep -aq "kiln-agent: done after" "$work/console-$filesystem" || fail "the console of $instance does not tell the end"
    echo "boot-kernel: cidata on $filesystem, kernel $kernel: $state in $((SECONDS - begun)) s; console: $(grep -a -o 'kiln-agent: done.*' "$work/console-$filesystem" | head -1 | tr -d '\r')"
done
