# `make test` is the one command that passes the tests on a fresh Debian machine with Rust; `make help` lists the others.
.PHONY: test setup check compat compat-wide compat-cluster cluster bench help

test: ## install what the tests need, then run all of them
	tests/setup
	tests/all

setup: ## only install what the tests need
	tests/setup

check: ## the quick part: formatting, lints, unit and integration tests
	tests/all quick

compat: ## the official clients against a live server
	cargo build -p gantry-server
	tests/compat/runner/run

compat-wide: ## the same, every scenario over both transports
	cargo build -p gantry-server
	tests/compat/runner/run --wide

compat-cluster: ## the scenarios with kills on a cluster of eight processes, where one broker after the other is killed
	cargo build -p gantry-server
	tests/compat/runner/run --cluster

cluster: ## a cluster that is broken in every way, measured; about an hour, and some of it needs root
	cargo build --release -p gantry-server -p gantry-cluster
	target/release/gantry-cluster kills --times 50
	target/release/gantry-cluster kills --victim both --times 10
	target/release/gantry-cluster kills --victim proxy --times 20
	target/release/gantry-cluster kills --victim majority --times 5
	target/release/gantry-cluster restarts --times 10
	target/release/gantry-cluster pauses
	target/release/gantry-cluster cuts
	target/release/gantry-cluster disks

bench: ## the numbers of docs/benchmarks.md
	cargo build --release
	bench/run

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/ -/'
