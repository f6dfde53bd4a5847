#!/usr/bin/env bash
# Is there all that fuzzing takes? Owner of: cargo-fuzz, and the C++ compiler that builds libFuzzer.
part=fuzz
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"
cd "$root" # where rustup looks for the toolchain to use

if ! have c++ && ! have g++ && ! have clang++; then
    bare_debian || fail "a C++ compiler is missing; install one (Debian, Ubuntu: apt install g++)."
    apt_install g++
fi
cargo_tool cargo-fuzz 0.13.2
say "$(cargo fuzz --version | tail -1) ready"
