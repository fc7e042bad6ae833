# What there is to do in this checkout. `make demo` and `make test` work on a fresh Debian 12 with
# Rust, as root; they install what else they need.

.PHONY: help demo test bench conformance kernel lint deb

help:
	@echo 'make demo    bake a golden and an app image in the lab, launch the app, show what it says'
	@echo 'make test    unit, fixture and command-line tests, then the package, then the end-to-end tests'
	@echo 'make bench   measure the agent against Debian'\''s cloud-init, and kiln against plain packer'
	@echo 'make conformance CORPUS=DIR   compare the agent with what cloud-init did with a corpus of user-data'
	@echo 'make kernel  boot the agent under a kernel of its own in qemu, from cidata disks'
	@echo 'make lint    formatting, clippy, licences and sources of dependencies, shell scripts'
	@echo 'make deb     both packages, in target/deb'

demo:
	packaging/demo/demo.sh

test:
	packaging/dev/test.sh

bench:
	packaging/dev/prerequisites.sh bench
	packaging/demo/foundation.sh target/foundation
	deb="$$(packaging/dev/agent-deb.sh)" && packaging/dev/bench.py --foundation target/foundation --agent-deb "$$deb" && \
		packaging/dev/bench-bake.py --foundation target/foundation --agent-deb "$$deb"

kernel:
	packaging/dev/prerequisites.sh kernel
	packaging/demo/foundation.sh target/foundation
	deb="$$(packaging/dev/agent-deb.sh)" && packaging/dev/boot-kernel.sh target/foundation "$$deb"

lint:
	packaging/dev/lint.sh

conformance:
	@test -n "$(CORPUS)" || { echo 'name the folder of the corpus: make conformance CORPUS=DIR' >&2; exit 64; }
	packaging/dev/prerequisites.sh bench
	packaging/dev/conformance-root.sh target/conformance/root
	cargo build --quiet --locked --workspace
	packaging/dev/conformance.py --corpus "$(CORPUS)" --agent target/debug/kiln-agent --tree target/conformance/root

# The whole workspace, so that the EC2 crate is compiled with one set of features and thus once.
deb:
	packaging/dev/prerequisites.sh demo
	cargo build --quiet --locked --workspace
	target/debug/kiln deb --out target/deb
