#!/bin/bash
# Makes the root in which documents of a corpus are run: a plain Debian 13 without any boot agent, as
# the machine was on which cloud-init's effects were recorded.
#
#     packaging/dev/conformance-root.sh DIR        (as root)
#
# A second run with the same inputs does nothing; `rm -r DIR` makes the next one begin anew.
set -euo pipefail

[ $# = 1 ] || { echo "usage: conformance-root.sh DIR" >&2; exit 64; }
[ "$(id -u)" = 0 ] || { echo "conformance-root.sh needs root, for the owners of the tree; run it with sudo" >&2; exit 1; }

tree=$1
mirror=${KILN_DEBIAN_MIRROR:-http://deb.debian.org/debian}
inputs="$(sha256sum <"$0") $mirror $(dpkg --print-architecture)"
if [ -d "$tree" ] && [ "$(cat "$tree.inputs" 2>/dev/null)" = "$inputs" ]; then
    exit 0
fi
mkdir -p "$(dirname "$tree")"
rm -rf "$tree.new"
trap 'rm -rf "$tree.new"' EXIT

eval "$(apt-config shell proxy Acquire::http::Proxy)"
[ -z "${proxy:-}" ] || export http_proxy=$proxy

mmdebstrap --mode=root --variant=important --format=directory --quiet --dpkgopt='force-unsafe-io' \
    --include=systemd,systemd-sysv,openssh-server,sudo,locales,ca-certificates,tzdata \
    trixie "$tree.new" "deb $mirror trixie main" </dev/null
# Of the machine that made it, and what an instance gets of its own.
rm -f "$tree.new"/etc/ssh/ssh_host_* "$tree.new"/etc/hostname "$tree.new"/etc/apt/apt.conf.d/99mmdebstrap
# It is in every recording, whatever the document said: the recorded machine had it.
echo 'LANG=C.UTF-8' >"$tree.new/etc/locale.conf"

rm -rf "$tree"
mv "$tree.new" "$tree"
printf '%s' "$inputs" >"$tree.inputs"
