#!/bin/bash
# Measures kiln-agent against Debian's cloud-init and prints medians and ratios; see bench.py.
#
#     packaging/dev/bench.sh [--runs N]       (as root; `make bench` calls it)
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "make bench needs root: it boots machines; run it with sudo" >&2
    exit 1
fi
packaging/dev/prerequisites.sh bench
export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
packaging/demo/foundation.sh target/foundation
exec packaging/dev/bench.py --foundation target/foundation --agent-deb "$(packaging/dev/agent-deb.sh)" "$@"
