#!/bin/bash
# The demo: from a fresh Debian 12 and this checkout to a gated image that runs.
#
#     packaging/demo/demo.sh            (as root; `make demo` calls it)
#
# It needs no account: the images are baked in the lab, on this machine. What it downloads and builds
# stays under target/, so a second run is quick. The lab is gone when it ends, however it ends.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "make demo needs root: the lab makes a network namespace and boots machines; run it with sudo" >&2
    exit 1
fi

# A lab of its own: one that is up for other work is left alone.
export KILN_LAB=demo
export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
times=()

# The dev build, which `make test` compiles as well: half of what the demo would spend otherwise.
kiln() { target/debug/kiln --file packaging/demo/kiln.yaml "$@"; }

# phase NAME COMMAND...: runs a command and keeps how long it took. Ends the demo if it fails.
phase() {
    local name=$1 began=$EPOCHREALTIME
    shift
    printf '\n== %s\n' "$name"
    "$@"
    times+=("$(awk -v from="$began" -v to="$EPOCHREALTIME" -v name="$name" \
        'BEGIN { printf "%-40s %7.1f s", name, to - from }')")
}

build() { agent_deb=$(packaging/dev/agent-deb.sh); }

lab_up() {
    # What an earlier demo left when it was killed.
    kiln lab down >/dev/null 2>&1 || true
    kiln lab up
    kiln lab import target/foundation --name debian-12-amd64-demo --owner 136693071363 \
        --description "Debian 12 with its own cloud-init"
}

bake() { kiln bake "$1" --agent-deb "$agent_deb" --report "target/demo/$1"; }

launch() {
    local image
    image=$(kiln latest myapp)
    kiln lab exec python3 packaging/demo/launch.py --image "$image" --kiln target/debug/kiln
}

trap 'exit 130' INT TERM
trap 'kiln lab down >/dev/null 2>&1 || true' EXIT

phase "what the demo needs" packaging/dev/prerequisites.sh demo
phase "compile kiln; kiln deb: the agent" build
phase "foundation: stock Debian, cloud-init" packaging/demo/foundation.sh target/foundation
phase "kiln lab up: EC2 on this machine" lab_up
phase "kiln bake golden: agent, puppet" bake golden
phase "kiln bake myapp: converged, tested" bake myapp
phase "launch myapp" launch
phase "kiln images: the catalogue" kiln images
phase "kiln lab down" kiln lab down

printf '\n== how long it took\n'
printf '%s\n' "${times[@]}"
printf '\nThe demo is done. The images were the lab'\''s and went with it.\n'
