#!/usr/bin/env bash
# Is there a Rust compiler with the standard library for wasm32-unknown-unknown, and a linker for it?
# Owner of: the target that host/build.rs compiles the built-in components for.
part=wasm
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"
cd "$root" # where rustup looks for the toolchain to use

target=wasm32-unknown-unknown
# Of a library this script built: the compiler it was built by, and for. Debian may replace that
# compiler by one that cannot read the library.
stamp=.built-by

library_of() {
    "$1" --print target-libdir --target "$target" 2>/dev/null
}

has_target() {
    local lib
    lib=$(library_of "$1") || return 1
    compgen -G "$lib/libstd-*.rlib" >/dev/null || return 1
    [ ! -e "$lib/$stamp" ] || [ "$(cat "$lib/$stamp")" = "$("$1" -vV)" ]
}

has_linker() {
    compgen -G "$("$1" --print sysroot)/lib/rustlib/*/bin/rust-lld" >/dev/null && return 0
    have wasm-ld || compgen -c wasm-ld- >/dev/null
}

# The first compiler that has all it takes, in the order in which host/build.rs looks.
compiler() {
    local rustc
    for rustc in ${RUSTC:+"$RUSTC"} $(type -ap rustc); do
        if has_target "$rustc" && has_linker "$rustc"; then
            printf '%s' "$rustc"
            return 0
        fi
    done
    return 1
}

done_with() {
    say "$1 ($("$2" --version | cut -d' ' -f1-2), $target)"
    exit 0
}

# Debian has no copy of this library, but a compiler with the library's source. Run as a job of its
# own: as part of a condition, it would not stop at an error.
build_library() (
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    cd "$dir"
    unset RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS
    mkdir src
    : >src/lib.rs
    printf '[package]\nname = "%s"\nedition = "2024"\n' only-its-dependencies >Cargo.toml
    # Bitcode lets components be optimised together with the library.
    RUSTFLAGS=-Cembed-bitcode=yes RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=$dir/target \
        nice /usr/bin/cargo build --release -Zbuild-std=std,panic_abort --target "$target"

    # Beside its place first, then renamed: a build cut short leaves nothing that looks finished.
    lib=$(library_of /usr/bin/rustc)
    rm -rf "$lib.new" "$lib"
    mkdir -p "$lib.new"
    cp "target/$target/release/deps/"*.rlib "$lib.new/"
    rm "$lib.new/"libonly_its_dependencies-*.rlib
    /usr/bin/rustc -vV >"$lib.new/$stamp"
    mv "$lib.new" "$lib"
)

if rustc=$(compiler); then
    done_with found "$rustc"
fi

if have rustup && [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ] && rustup target add "$target" >>"$log" 2>&1 \
    && rustc=$(compiler); then
    done_with "added by rustup" "$rustc"
fi

if ! bare_debian; then
    have rustc || fail "there is no Rust compiler; install Rust (https://rustup.rs)."
    fail "the $target target, or a linker for it, is missing; run: rustup target add $target"
fi

lock
if rustc=$(compiler); then # another run was at it
    done_with found "$rustc"
fi
say "building the standard library for $target from Debian's rustc-web (about a minute)"
apt_install rustc-web cargo-web rust-web-src
llvm=$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
apt_install "lld-$llvm"
build_library </dev/null >>"$log" 2>&1 &
wait "$!" || fail "the standard library for $target does not build; $log says why."
rustc=$(compiler) || fail "the compiler does not see the library built for it; $log has the details."
done_with built "$rustc"
