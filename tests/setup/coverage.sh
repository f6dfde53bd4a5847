#!/usr/bin/env bash
# Is there all that measuring coverage takes? Owner of: cargo-llvm-cov, and target/setup/coverage.env,
# to be sourced, which names LLVM's tools where the Rust toolchain has none of its own.
part=coverage
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"
cd "$root" # where rustup looks for the toolchain to use

cargo_tool cargo-llvm-cov 0.9.1

env=$state/coverage.env
: >"$env"
own_tools() {
    compgen -G "$(rustc --print sysroot)/lib/rustlib/*/bin/llvm-cov*" >/dev/null
}
if own_tools; then
    say "cargo-llvm-cov and the toolchain's LLVM tools ready"
    exit 0
fi
if have rustup && [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ] && rustup component add llvm-tools >>"$log" 2>&1 && own_tools; then
    say "cargo-llvm-cov and LLVM tools ready (added by rustup)"
    exit 0
fi

# They must read what this compiler writes: the same LLVM.
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
tools=/usr/lib/llvm-$llvm/bin
if [ ! -x "$tools/llvm-cov" ]; then
    bare_debian || fail "the Rust toolchain has no LLVM tools; run: rustup component add llvm-tools"
    apt_install "llvm-$llvm"
fi
printf 'export LLVM_COV=%s/llvm-cov LLVM_PROFDATA=%s/llvm-profdata\n' "$tools" "$tools" >"$env"
say "cargo-llvm-cov and Debian's LLVM $llvm ready"
