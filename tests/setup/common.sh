# shellcheck shell=bash
# What every set-up script shares. Sourced, never run: the script that sources it names itself in $part.
#
# A script prints one short line, "part: what it found or did", and exits 0; or one sentence that
# says what to install, and exits 1. Whatever programs print on the way goes to $log.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
state=$root/target/setup
log=$state/${part:?}.log
mkdir -p "$state"

say() {
    printf '%s: %s\n' "$part" "$*"
}

fail() {
    printf '%s: %s\n' "$part" "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# The one kind of machine where set-up may install system-wide: root on Debian with no systemd,
# which is a container or a throwaway virtual machine, never somebody's laptop.
bare_debian() {
    [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ] && [ ! -d /run/systemd/system ] && have apt-get
}

# bounded SECONDS COMMAND...: the command, ended when it takes longer. macOS has no timeout(1).
bounded() {
    if have timeout; then
        timeout "$@"
    else
        perl -e 'alarm shift; exec @ARGV or exit 127' "$@"
    fi
}

# One at a time, for this script across all checkouts of a bare machine; released when the script ends.
lock() {
    exec 9>"/run/lock/dev-postgres-mcp-setup-${1:-$part}"
    flock 9
}

# Waits for a package manager that is busy; says nothing unless it fails.
apt_install() {
    (
        lock apt
        export DEBIAN_FRONTEND=noninteractive
        local lists=/var/lib/apt/lists
        # Lists older than a day, or none: mirrors drop old versions of packages.
        if [ -z "$(find "$lists" -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit 2>/dev/null)" ]; then
            apt-get -q update
        fi
        apt-get -q -y -o DPkg::Lock::Timeout=600 install --no-install-recommends "$@"
    ) </dev/null >>"$log" 2>&1 || fail "apt-get could not install $*; $log says why."
}

# fresh STAMP FILE...: does STAMP hold what the files hold? What was set up from them is complete then.
fresh() {
    local stamp=$1
    shift
    [ -f "$stamp" ] && cat "$@" | cmp -s - "$stamp"
}

# The packages of tests/clients/requirements.txt, in $state/venv.
python_tools() {
    python_packages tests/clients "$state/venv"
}

# python_packages FOLDER HOME: the packages of FOLDER/requirements.txt, in the environment HOME.
python_packages() {
    local requirements=$root/$1/requirements.txt home=$2 python
    # Its own interpreter may have been upgraded away.
    if fresh "$home/complete" "$requirements" && "$home/bin/python" -c '' 2>/dev/null; then
        return 0
    fi
    python=$(a_python) || fail "Python 3.10 or newer is missing; install it (https://www.python.org/downloads/)."
    say "installing Python packages (about 20 s)"
    rm -rf "$home"
    if ! "$python" -m venv "$home" >>"$log" 2>&1; then
        bare_debian || fail "Python has no venv; install it (Debian, Ubuntu: apt install python3-venv)."
        apt_install python3-venv
        rm -rf "$home"
        /usr/bin/python3 -m venv "$home" >>"$log" 2>&1 || fail "no Python environment can be made; $log says why."
    fi
    "$home/bin/python" -m pip install --disable-pip-version-check --no-input -r "$requirements" >>"$log" 2>&1 \
        || fail "pip cannot install $1/requirements.txt; $log says why."
    cp "$requirements" "$home/complete"
}

a_python() {
    local python
    for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if have "$python" && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s' "$python"
            return 0
        fi
    done
    return 1
}

# The packages of tests/clients/package-lock.json, in $state/npm/node_modules.
node_tools() {
    npm_packages tests/clients "$state/npm"
}

# npm_packages FOLDER HOME: the packages of FOLDER/package-lock.json, in HOME/node_modules.
npm_packages() {
    local folder=$root/$1 home=$2 file
    if fresh "$home/complete" "$folder/package.json" "$folder/package-lock.json"; then
        return 0
    fi
    if ! have npm || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null; then
        fail "Node.js 20 or newer with npm is missing; install it (https://nodejs.org/)."
    fi
    say "installing npm packages (about 20 s)"
    mkdir -p "$home"
    rm -f "$home/complete"
    for file in package.json package-lock.json .npmrc; do
        cp "$folder/$file" "$home/"
    done
    (cd "$home" && npm ci --ignore-scripts --loglevel=error) </dev/null >>"$log" 2>&1 \
        || fail "npm cannot install $1/package-lock.json; $log says why."
    cat "$folder/package.json" "$folder/package-lock.json" >"$home/complete"
}

# cargo_tool NAME VERSION: a cargo subcommand; any version that is there will do.
cargo_tool() {
    have "$1" && return 0
    say "cargo install $1 (some minutes, once)"
    # Built fast: it runs for seconds.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install "$1" --version "$2" --locked </dev/null >>"$log" 2>&1 || fail "cargo cannot install $1; $log says why."
}
