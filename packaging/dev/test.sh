#!/bin/bash
# All tests, the cheap ones first: units, fixture trees and command lines; the package; the lab.
#
# One dev build of the workspace and one release build of the agent are all that is compiled. The dev
# build is always of the whole workspace: one crate alone would have its dependencies with other
# features, and the EC2 crate, which takes minutes, would be compiled once more.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "make test needs root: the lab makes a network namespace and boots machines; run it with sudo" >&2
    exit 1
fi
packaging/dev/prerequisites.sh test
export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

printf '\n== units, fixture trees, command lines\n'
cargo test --locked --workspace --exclude kiln-tests

printf '\n== the package\n'
cargo build --quiet --locked --workspace
target/debug/kiln deb --only kiln-agent --out target/deb
packaging/demo/foundation.sh target/foundation
version=$(dpkg-parsechangelog --show-field Version)
agent=target/deb/kiln-agent_${version}_$(dpkg --print-architecture).deb
packaging/dev/check-package.sh "$agent" target/foundation

printf '\n== end to end, on the lab\n'
end_to_end=()
for file in tests/tests/*.rs; do
    end_to_end+=(--test "$(basename "$file" .rs)")
done
cargo test --locked --workspace "${end_to_end[@]}"
