#!/bin/sh
# What every step of a bake shares. A step that fails leaves its reason and ends well: the report
# comes home first, and the verdict after it ends the bake. Lines that begin with ::kiln are read by kiln.
# shellcheck disable=SC1091,SC2034,SC2154 # each step uses some of it, and bake.env comes by the payload
set -eu
exec 2>&1
umask 022
home=/tmp/kiln
tab=$(printf '\t')
export DEBIAN_FRONTEND=noninteractive

phase() {
    printf '::kiln phase %s\n' "$*"
}

fail() {
    printf '%s\n' "$*" >"$home/failed"
    printf '::kiln failed %s\n' "$*"
    exit 0
}

if [ -e "$home/failed" ]; then failed=1; else failed=; fi
if [ -e "$home/bake.env" ]; then . "$home/bake.env"; fi

