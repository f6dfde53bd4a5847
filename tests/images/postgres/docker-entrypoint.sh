#!/usr/bin/env bash
# What the official postgres image promises, written anew for the stand-in: docs at
# https://hub.docker.com/_/postgres. It makes a database cluster in an empty $PGDATA, then becomes
# the command. It must not promise more than the official one, or tests would prove too much.
set -euo pipefail
shopt -s nullglob

scripts=/docker-entrypoint-initdb.d
sockets=/var/run/postgresql

fail() {
    printf 'Error: %s\n' "$1" >&2
    exit 1
}

# setting NAME DEFAULT: exports $NAME, taken from the file $NAME_FILE where that is given.
setting() {
    local name=$1 from_file=$1_FILE value=$2
    if [ -n "${!name:-}" ] && [ -n "${!from_file:-}" ]; then
        fail "both $name and $from_file are set (but are exclusive)"
    fi
    if [ -n "${!from_file:-}" ]; then
        value=$(<"${!from_file}")
    elif [ -n "${!name:-}" ]; then
        value=${!name}
    fi
    export "$name=$value"
    unset "$from_file"
}

asks_for_help() {
    local word
    for word; do
        case $word in
            '-?' | --help | --describe-config | -V | --version | -C) return 0 ;;
        esac
    done
    return 1
}

# Directories the server writes to, owned by postgres when root may arrange that.
prepare_directories() {
    local directories=("$PGDATA" "$sockets") directory
    if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
        directories+=("$POSTGRES_INITDB_WALDIR")
    fi
    for directory in "${directories[@]}"; do
        mkdir -p "$directory" || :
        if [ "$directory" = "$sockets" ]; then
            chmod 03775 "$directory" 2>/dev/null || :
        else
            chmod 0700 "$directory" 2>/dev/null || :
        fi
        if [ "$(id -u)" = 0 ]; then
            find "$directory" \! -user postgres -exec chown postgres '{}' +
        fi
    done
}

require_password() {
    [ "$POSTGRES_HOST_AUTH_METHOD" != trust ] || return 0
    [ -n "$POSTGRES_PASSWORD" ] || fail "Database is uninitialized and superuser password is not specified.
       You must specify POSTGRES_PASSWORD to a non-empty value for the
       superuser. For example, \"-e POSTGRES_PASSWORD=password\" on \"docker run\".

       You may also use \"POSTGRES_HOST_AUTH_METHOD=trust\" to allow all
       connections without a password. This is *not* recommended."
}

# initdb wants its user to have a name; `docker run --user 1234` has none.
borrow_a_name() {
    local library
    getent passwd "$(id -u)" >/dev/null && return 0
    for library in /usr/lib/*/libnss_wrapper.so; do
        NSS_WRAPPER_PASSWD=$(mktemp)
        NSS_WRAPPER_GROUP=$(mktemp)
        printf 'postgres:x:%s:%s:PostgreSQL:%s:/bin/false\n' "$(id -u)" "$(id -g)" "$PGDATA" >"$NSS_WRAPPER_PASSWD"
        printf 'postgres:x:%s:\n' "$(id -g)" >"$NSS_WRAPPER_GROUP"
        export LD_PRELOAD=$library NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
        return 0
    done
}

return_the_name() {
    if [ -n "${NSS_WRAPPER_PASSWD:-}" ]; then
        rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
        unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    fi
}

make_cluster() {
    local arguments=()
    # POSTGRES_INITDB_ARGS is written in shell syntax; it comes from whoever starts the container.
    eval "arguments=(${POSTGRES_INITDB_ARGS:-})"
    if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
        arguments+=(--waldir "$POSTGRES_INITDB_WALDIR")
    fi
    borrow_a_name
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        "${arguments[@]}" --pgdata="$PGDATA"
    return_the_name
}

# Who may connect from other hosts: by password, hashed as this server hashes them.
allow_hosts() {
    local method=$POSTGRES_HOST_AUTH_METHOD
    [ -n "$method" ] || method=$(postgres -C password_encryption "$@")
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# The server while it is being set up: reached by its unix socket alone.
start_unreachable() {
    set -- "$@" -c listen_addresses='' -p "${PGPORT:-5432}"
    PGUSER=$POSTGRES_USER pg_ctl --pgdata="$PGDATA" -o "$(printf '%q ' "$@")" --wait start
}

stop_unreachable() {
    PGUSER=$POSTGRES_USER pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
}

# query DATABASE PSQL-ARGUMENT...: runs what is on stdin.
query() {
    local database=$1
    shift
    PGHOST='' PGHOSTADDR='' PGDATABASE=$database psql --set=ON_ERROR_STOP=1 --no-psqlrc --no-password \
        --username="$POSTGRES_USER" "$@"
}

make_database() {
    local there
    there=$(query postgres --set=name="$POSTGRES_DB" --tuples-only \
        <<<"SELECT 1 FROM pg_database WHERE datname = :'name';")
    if [ -z "$there" ]; then
        query postgres --set=name="$POSTGRES_DB" <<<'CREATE DATABASE :"name";'
        printf '\n'
    fi
}

run_scripts() {
    local file
    printf '\n'
    for file in "$scripts"/*; do
        case $file in
            *.sh)
                if [ -x "$file" ]; then
                    printf '%s: running %s\n' "$0" "$file"
                    "$file"
                else
                    printf '%s: sourcing %s\n' "$0" "$file"
                    # shellcheck disable=SC1090 # the user's
                    . "$file"
                fi
                ;;
            *.sql) run_sql "$file" cat ;;
            *.sql.gz) run_sql "$file" gunzip -c ;;
            *.sql.xz) run_sql "$file" xz -dc ;;
            *.sql.zst) run_sql "$file" zstd -dc ;;
            *) printf '%s: ignoring %s\n' "$0" "$file" ;;
        esac
        printf '\n'
    done
}

# run_sql FILE UNPACK...
run_sql() {
    printf '%s: running %s\n' "$0" "$1"
    "${@:2}" "$1" | query "$POSTGRES_DB"
}

# initialise SERVER-ARGUMENT...
initialise() {
    require_password
    # Unreadable, it would leave a half-made cluster.
    ls "$scripts" >/dev/null
    make_cluster
    allow_hosts "$@"
    export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
    start_unreachable "$@"
    make_database
    run_scripts
    stop_unreachable
    unset PGPASSWORD
    printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

if [ "${1:0:1}" = - ]; then
    set -- postgres "$@"
fi
if [ "${1:-}" = postgres ] && ! asks_for_help "$@"; then
    prepare_directories
    if [ "$(id -u)" = 0 ]; then
        exec gosu postgres "$0" "$@"
    fi
    if [ -s "$PGDATA/PG_VERSION" ]; then
        printf '\nPostgreSQL Database directory appears to contain a database; Skipping initialization\n\n'
    else
        setting POSTGRES_PASSWORD ''
        setting POSTGRES_USER postgres
        setting POSTGRES_DB "$POSTGRES_USER"
        setting POSTGRES_INITDB_ARGS ''
        : "${POSTGRES_HOST_AUTH_METHOD:=}"
        initialise "${@:2}"
    fi
fi
exec "$@"
