# Needs Rust and make; installs the rest itself on Debian and Ubuntu (see xtask/install-debian.sh).
#
#   make demo [ARGS=--keep]   two servers, a mirror, a proxy, a kill -9: the whole story
#   make test                 formats, lints, documentation and all tests
#   make campaign             the long tests (marked #[ignore = "campaign: …"])
#   make bench [ARGS=--list]  the server, PgBouncer and the proxy side by side (-s, -r: see --help)
#   make lint                 formats, lints and documentation only

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test campaign bench lint install-demo install-test install-campaign install-bench components

# Servers are heavy: more at a time than this makes the tests slower, not faster.
RUST_TEST_THREADS ?= $(shell n=$$(nproc); if [ $$n -gt 4 ]; then echo 4; else echo $$n; fi)
export RUST_TEST_THREADS

help:
	@sed -n 's/^#   //p' Makefile

demo: install-demo
	cargo run --locked --profile quick -- demo $(ARGS)

# The same choices each time, so that a failure is one that can be looked at; `cargo test` takes others.
test: export PROPTEST_RNG_SEED ?= 20261120
test: install-test lint
	cargo test --locked --workspace --no-fail-fast

campaign: install-test install-campaign
	cargo test --locked --profile quick --no-fail-fast -- --ignored --nocapture --test-threads=1

bench: install-bench
	cargo bench --locked --bench proxy -- $(ARGS)

lint: components
	cargo xtask lint

install-demo:
	@xtask/install-debian.sh demo

install-test:
	@xtask/install-debian.sh test
	@xtask/python-env.sh

install-campaign:
	@xtask/drivers.sh
	-@xtask/regress.sh >/dev/null

install-bench:
	@xtask/install-debian.sh bench

components:
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
