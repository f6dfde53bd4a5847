#!/usr/bin/env bash
# Are the real clients there that tests connect with? Owner of: Python and npm packages local to this
# checkout (target/setup/venv, target/setup/npm), psql, and the registry that pull tests pull from.
part=clients
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"

python_tools
node_tools

if ! have psql; then
    bare_debian || fail "psql is missing; install PostgreSQL's client programs (https://www.postgresql.org/download/)."
    apt_install postgresql-client
fi

# Elsewhere, tests run a registry as a container of the image registry:2.
if ! have docker-registry && bare_debian; then
    apt_install docker-registry
fi

say "Python, npm and $(psql --version | cut -d' ' -f1,3) ready"
