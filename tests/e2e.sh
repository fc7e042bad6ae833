#!/bin/bash
# The end-to-end cases on the lab:
#
#     tests/e2e.sh [CASE...]      (as root; `make test` calls it)
#
# A case is any part of a test's name. KILN_KEEP=1 leaves the lab up, so that the next run starts at
# once; KILN_LAB names the lab, KILN the program.
set -euo pipefail
cd "$(dirname "$0")/.."

export KILN_LAB=${KILN_LAB:-e2e} KILN=${KILN:-$PWD/target/debug/kiln}
if [ -z "${KILN_KEEP:-}" ]; then
    trap '$KILN lab down >/dev/null' EXIT
fi

$KILN lab up
if ! $KILN -f packaging/demo/kiln.yaml latest golden >/dev/null 2>&1; then
    packaging/demo/foundation.sh target/foundation
    $KILN lab import target/foundation --name debian-12-amd64-tests --owner 136693071363 \
        --description "Debian 12 with its own cloud-init"
    $KILN -f packaging/demo/kiln.yaml bake golden --report target/e2e/golden \
        --agent-deb "$(packaging/dev/agent-deb.sh)"
fi
# The whole workspace is named for its features: see packaging/dev/agent-deb.sh.
cargo test --locked --workspace --test e2e -- --ignored --test-threads=3 "$@"
