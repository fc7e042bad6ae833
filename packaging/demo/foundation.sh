#!/bin/bash
# Makes the foundation: a stock Debian 12 with its own cloud-init, as a cloud's image would have it.
#
#     packaging/demo/foundation.sh DIR        (as root)
#
# DIR gets the root tree, in one step, when it is whole. A second run with the same inputs does
# nothing; `rm -r DIR` makes the next one begin anew. The demo and the end-to-end tests share it.
# Debian's mirror is reached as apt on this machine would reach it, through the same proxy.
set -euo pipefail

[ $# = 1 ] || { echo "usage: foundation.sh DIR" >&2; exit 64; }
[ "$(id -u)" = 0 ] || { echo "foundation.sh needs root, for the owners and devices of the tree; run it with sudo" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "foundation.sh needs mmdebstrap: apt-get install mmdebstrap" >&2; exit 1; }

mkdir -p "$(dirname "$1")"
tree=$(realpath "$(dirname "$1")")/$(basename "$1")
stamp=$tree.inputs
mirror=${KILN_DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${KILN_DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
inputs="$(sha256sum <"$0") $mirror $security $(dpkg --print-architecture)"

# Two runs at a time would build the same; the second one waits and then finds it done.
exec 9>"$tree.lock"
flock 9
if [ -d "$tree" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$inputs" ]; then
    echo "foundation: $tree is up to date"
    exit 0
fi

new=$tree.new
rm -rf "$new" "$tree.old"
trap 'rm -rf "$new"' EXIT

# What apt here uses as a proxy; from the environment it reaches apt and leaves nothing in the tree.
eval "$(apt-config shell proxy Acquire::http::Proxy)"
[ -z "${proxy:-}" ] || export http_proxy=$proxy

packages=(
    systemd systemd-sysv dbus libpam-systemd udev
    openssh-server sudo cloud-init
    iproute2 iputils-ping netbase ca-certificates procps
)

# Translations and manuals are half of such a tree and nobody reads them in the lab.
mmdebstrap --mode=root --variant=minbase --format=directory --quiet \
    --include="$(IFS=,; echo "${packages[*]}")" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='force-unsafe-io' \
    bookworm "$new" \
    "deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $security bookworm-security main" </dev/null
rm -f "$new/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$new/etc/apt/apt.conf.d/99mmdebstrap"

# One source and one user, as in Debian's own image for EC2. The machine of the lab does not look like
# Xen or Nitro, so cloud-init must not insist on the signs of a real instance.
cat >"$new/etc/cloud/cloud.cfg.d/90_foundation.cfg" <<'CONFIG'
datasource_list: [Ec2]
datasource:
  Ec2: {strict_id: false, timeout: 5, max_wait: 30}
network: {config: disabled}
ssh_genkeytypes: [ed25519]
ssh_pwauth: false
disable_root: true
apt: {preserve_sources_list: true}
locale: C.UTF-8
manage_etc_hosts: true
system_info:
  default_user:
    name: admin
    gecos: Debian
    groups: [adm, sudo]
    lock_passwd: true
    shell: /bin/bash
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
CONFIG

# Every instance makes its own identity. An empty machine-id means a first boot; `uninitialized` would
# start systemd-firstboot, which asks questions on the console.
: >"$new/etc/machine-id"
rm -f "$new/var/lib/dbus/machine-id" "$new"/etc/ssh/ssh_host_*
echo localhost >"$new/etc/hostname"
# Not this machine's name servers: the lab has none, and without any a look-up fails at once.
echo '# no name server' >"$new/etc/resolv.conf"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$new/etc/hosts"

# No passwords and one kind of host key: an RSA key takes seconds to make on a small machine.
cat >"$new/etc/ssh/sshd_config.d/50-foundation.conf" <<'CONFIG'
PasswordAuthentication no
PermitRootLogin no
HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
CONFIG
chroot "$new" passwd --quiet --lock root
chroot "$new" systemctl --quiet enable ssh.service
# Upgrades in the background hold apt's lock just when a bake wants it.
chroot "$new" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer

rm -f "$stamp"
[ ! -e "$tree" ] || mv "$tree" "$tree.old"
mv "$new" "$tree"
printf '%s\n' "$inputs" >"$stamp"
rm -rf "$tree.old"
echo "foundation: $tree, $(du -sh "$tree" | cut -f 1)"
