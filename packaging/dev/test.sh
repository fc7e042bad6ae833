#!/bin/bash
# All tests, the cheap ones first: units, fixture trees and command lines; the package; the lab.
#
# One dev build of the workspace and one release build of the agent are all that is compiled; see
# agent-deb.sh for why every command names the workspace.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "make test needs root: the lab makes a network namespace and boots machines; run it with sudo" >&2
    exit 1
fi
packaging/dev/prerequisites.sh test
export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

printf '\n== units, fixture trees, command lines\n'
# The end-to-end cases are marked `ignored` and run last.
cargo test --locked --workspace

printf '\n== the package\n'
agent=$(packaging/dev/agent-deb.sh)
packaging/demo/foundation.sh target/foundation
packaging/dev/check-package.sh "$agent" target/foundation

printf '\n== end to end, on the lab\n'
tests/e2e.sh
