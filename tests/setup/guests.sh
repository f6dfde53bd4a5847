#!/usr/bin/env bash
# Are the programs there that make components of Python and of JavaScript? Owner of: componentize-py and componentize-js,
# local to this checkout (target/setup/componentize-py, target/setup/componentize-js).
part=guests
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"

python_packages tests/componentize "$state/componentize-py"
npm_packages tests/componentize "$state/componentize-js"

# Wheels and packages are built for each system: what is there may not run.
py=$("$state/componentize-py/bin/componentize-py" --version 2>>"$log") || fail "componentize-py does not run; $log says why."
js=$("$state/componentize-js/node_modules/.bin/componentize-js" --version 2>>"$log") \
    || fail "componentize-js does not run; $log says why."
say "$py, componentize-js $js ready"
