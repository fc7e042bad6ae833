#!/bin/bash
# Installs what a task of the Makefile needs on a fresh Debian 12.
#
#     packaging/dev/prerequisites.sh demo|test|bench|kernel|ci
#
# Says what it installs, and nothing when all is there. Where it cannot install (not root, not
# Debian) it says what is missing and fails.
set -euo pipefail

usage() {
    echo "usage: prerequisites.sh demo|test|bench|kernel|ci" >&2
    exit 64
}

fail() {
    echo "prerequisites: $1" >&2
    exit 1
}

# To compile, to pack, to boot machines, to bake.
demo=(
    build-essential ca-certificates git
    debhelper dpkg-dev lintian
    iproute2 mmdebstrap openssh-client python3-venv systemd-container
    packer
)
# The tests run in fixture trees too: with a shell in them, BATS, puppet, sshd and its tools, sudo's check of
# its rules; they make disks, sign packages, make certificates and look for processes that were left.
test=("${demo[@]}" bats busybox-static curl e2fsprogs gnupg openssh-server openssl procps puppet-agent sudo)
# A machine that qemu emulates, and the disks that it boots from.
kernel=("${demo[@]}" dosfstools e2fsprogs genisoimage mtools qemu-system-x86)
ci=("${test[@]}" shellcheck)

case "${1:-}" in
    demo) wanted=("${demo[@]}") ;;
    test | bench) wanted=("${test[@]}") ;;
    kernel) wanted=("${kernel[@]}") ;;
    ci) wanted=("${ci[@]}") ;;
    *) usage ;;
esac

# rustup's folder may be missing from the path of a shell that did not log in.
export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
command -v cargo >/dev/null || fail "Rust is missing: install it from https://rustup.rs, then run this again"

command -v dpkg-query >/dev/null \
    || fail "this is no Debian: install by hand what these Debian packages bring: ${wanted[*]}"
missing=()
for package in "${wanted[@]}"; do
    # shellcheck disable=SC2016 # dpkg-query expands it
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}; as root: apt-get install ${missing[*]}"
    echo "prerequisites: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    install=(apt-get -q -y install --no-install-recommends "${missing[@]}")
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # The lists may be missing or old. An archive that is down and has nothing we need is no obstacle.
    if ! "${install[@]}" >"$log" 2>&1 </dev/null; then
        apt-get -q update >"$log" 2>&1 </dev/null || true
        "${install[@]}" >>"$log" 2>&1 </dev/null || {
            tail -n 20 "$log" >&2
            fail "apt-get could not install ${missing[*]}; its last lines are above"
        }
    fi
fi

# cargo-deny is not in Debian 12. Without optimisation it compiles in a third of the time, and a run
# of it still takes seconds.
if [ "$1" = ci ] && ! command -v cargo-deny >/dev/null; then
    echo "prerequisites: compiling cargo-deny, some minutes"
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 cargo install --quiet --locked --debug cargo-deny@0.20.2
fi
