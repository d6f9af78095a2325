#!/usr/bin/env bash
# Checks the project: ruff, then the tests. Creates .venv if PYTHON is not set; arguments are passed to pytest.
#
#   bash scripts/test.sh
#   bash scripts/test.sh tests/test_scripts.py -k help
#
# Two processes share the test files, if PYTHON has pytest-xdist; `-n 0` runs all in one, for example for a debugger.
# Tests that need Horovod are skipped until scripts/install_horovod.sh has built it. scripts/matrix.py tests every
# supported TensorFlow, with Horovod where it builds.

# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

header_as_help "$0" "$@"
cd "$root"
use_python cpu tools
linted=0
"$python" -m ruff check . || linted=$?
tested=0
two=()
if "$python" -c 'import xdist' 2>/dev/null; then two=(-n 2 --dist loadfile); fi
"$python" -m pytest -q -rfEs "${two[@]}" "$@" || tested=$?
(( tested != 4 )) || exit 2  # pytest has said which argument it does not know
(( tested == 0 )) || exit "$tested"
(( linted == 0 )) || die "the tests pass, but ruff found problems, see above" "$linted"
