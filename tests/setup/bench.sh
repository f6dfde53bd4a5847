#!/usr/bin/env bash
# Is Testcontainers there, the peer that the benchmark measures against? Owner of: its Python packages, in
# target/setup/bench-venv. Where they can't be had, the benchmark goes on without.
part=bench
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"

python_packages tests/bench "$state/bench-venv"
say "$("$state/bench-venv/bin/python" -m pip freeze --disable-pip-version-check | grep '^testcontainers=' | sed 's/==/ /') ready"
