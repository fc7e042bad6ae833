#!/bin/bash
# Builds the agent's package, and kiln-cloud-init beside it, with the checkout's own kiln. Prints the path of
# the agent's.
#
# The dev build is always of the whole workspace: one crate alone would have its dependencies with
# other features, and the EC2 crate, which takes minutes, would be compiled once more.
set -euo pipefail
cd "$(dirname "$0")/../.."

{
    cargo build --locked --workspace
    target/debug/kiln deb --only kiln-agent --out target/deb
    target/debug/kiln deb --only kiln-cloud-init --out target/deb
} >&2
version=$(dpkg-parsechangelog --show-field Version)
echo "target/deb/kiln-agent_${version}_$(dpkg --print-architecture).deb"
