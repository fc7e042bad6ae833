#!/bin/bash
# What must hold before any test: formatting, clippy, dependencies, shell scripts.
set -euo pipefail
cd "$(dirname "$0")/../.."

packaging/dev/prerequisites.sh ci
export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

echo "== formatting"
cargo fmt --all --check

echo "== shell scripts"
# Not the data of the fixture trees; and the steps of a bake are read as they run, behind their preamble.
steps=builder/src/bake/steps
git ls-files -z -- '*.sh' packaging/cloud-init/cloud-init-per .ci/run 'debian/*.postinst' 'debian/*.postrm' ":!agent/tests/cases" ":!$steps" | xargs -0 shellcheck
for step in "$steps"/*.sh; do
    # SC2317: a step need not use all that the preamble defines.
    [ "${step##*/}" = common.sh ] || cat "$steps/common.sh" "$step" | shellcheck --shell=sh --exclude=SC2317 - \
        || { echo "shellcheck: that is $step behind common.sh" >&2; exit 1; }
done
shellcheck packaging/bats/kiln.bash
shellcheck --shell=bats packaging/bats/kiln.bats

echo "== dependencies"
# The licences, sources and duplicates need the lock file alone. The advisories need a database from
# GitHub: where that cannot be fetched, this says so and goes on, for it is no fault of the source. It
# reads each crate's own manifest, so on a fresh machine they are fetched first.
cargo fetch --locked --quiet
cargo deny --locked --offline check --hide-inclusion-graph bans licenses sources
if curl --silent --head --fail --max-time 10 --output /dev/null https://github.com/rustsec/advisory-db; then
    cargo deny --locked check --hide-inclusion-graph advisories
else
    echo "advisories NOT CHECKED: https://github.com/rustsec/advisory-db cannot be reached from here"
fi

echo "== clippy"
cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
