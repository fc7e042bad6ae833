#!/bin/bash
# The demo: from a fresh Debian 12 and this checkout to a gated image that runs.
#
#     packaging/demo/demo.sh            (as root; `make demo` calls it)
#
# It needs no account: the images are baked in the lab, on this machine. What it downloads and builds
# stays under target/, so a second run takes seconds. The lab is gone when it ends.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "make demo needs root: the lab makes a network namespace and boots machines; run it with sudo" >&2
    exit 1
fi

kiln=target/builder/kiln
work=target/demo
times=()

# phase NAME COMMAND...: runs a command and keeps how long it took.
phase() {
    local name=$1 began=$EPOCHREALTIME
    shift
    printf '\n== %s\n' "$name"
    "$@"
    times+=("$(awk -v from="$began" -v to="$EPOCHREALTIME" -v name="$name" \
        'BEGIN { printf "%-38s %7.1f s", name, to - from }')")
}

build() {
    cargo build --quiet --locked --profile builder --package kiln
    $kiln deb --out target/deb
}

lab_up() {
    $kiln lab up
    $kiln lab import "$work/foundation" --name debian-12-amd64-demo --owner 136693071363 \
        --description "Debian 12 with its own cloud-init"
}

bake() { $kiln -f packaging/demo/kiln.yaml bake "$1" --agent-deb "$(ls -t target/deb/kiln-agent_*.deb | head -n 1)"; }

launch() {
    local image
    image=$($kiln -f packaging/demo/kiln.yaml latest myapp)
    # shellcheck disable=SC2046 # the words of the command are meant
    $($kiln lab enter) "$($kiln lab python)" packaging/demo/launch.py \
        --endpoint http://10.0.0.1:5000 --region eu-west-1 --image "$image"
}

trap '$kiln lab down >/dev/null 2>&1 || true' EXIT

phase "what the demo needs" packaging/dev/prerequisites.sh demo
phase "build kiln, kiln-agent and the .deb" build
phase "foundation: stock Debian, cloud-init" packaging/demo/foundation.sh "$work/foundation"
phase "lab: EC2 on this machine" lab_up
phase "bake golden: agent, puppet" bake golden
phase "bake myapp: converged, tested" bake myapp
phase "launch myapp" launch
phase "catalogue" $kiln -f packaging/demo/kiln.yaml images

printf '\n== how long it took\n'
printf '%s\n' "${times[@]}"
