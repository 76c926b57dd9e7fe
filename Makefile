# `make test` is the one command that passes the tests on a fresh Debian machine with Rust; `make help` lists the others.
.PHONY: test setup check compat compat-wide bench help

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

bench: ## the numbers of docs/benchmarks.md
	cargo build --release
	bench/run

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/ -/'
