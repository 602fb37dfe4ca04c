#!/usr/bin/env bash
# Makes the environment if needed, lints, and runs the tests.
#
#   scripts/test.sh            everything but the slow tests
#   scripts/test.sh --slow     the slow ones too
#   scripts/test.sh ARGS…      lint, then pytest with these arguments
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment "[dev]"
export QT_QPA_PLATFORM="${QT_QPA_PLATFORM:-offscreen}" PYTEST_QT_API=pyside6
bin="$VENV/bin"
missing="$("$PYTHON" -c 'from attention_studio.utils.display import missing_packages
print(*missing_packages(x11=False))')"
if [ -n "$missing" ]; then
    echo "The window tests draw with Qt, which needs more than is here." >&2
    echo "On Debian and Ubuntu: sudo apt install $missing" >&2
    exit 1
fi

echo "== ruff"
"$bin/ruff" check .
"$bin/ruff" format --check .
echo "== mypy"
# The code is held to 3.10's rules on every Python (pyproject.toml), but to one numpy's stubs: 3.10
# has an older numpy, whose stubs tell arrays of one and of two dimensions apart differently.
if "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    "$bin/mypy"
else
    echo "Left out on Python 3.10: types are checked against the numpy of 3.11 and later."
fi
echo "== import contracts"
"$bin/lint-imports"
echo "== reference page"
"$PYTHON" scripts/make_reference.py --check

marker=(-m "not slow")
if [ "${1:-}" = "--slow" ]; then
    marker=()
    shift
fi
if [ "$#" -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi
# The two halves need nothing of each other: side by side they take half the time. Each gets as many
# threads as leave the other its share.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
reports="$(mktemp -d)"
# What fails in here under -e would be the script's own exit status, and after a whole run there is
# nothing left to kill.
trap 'kill "${unit_tests:-}" 2>/dev/null || true; rm -rf "$reports"' EXIT
"$PYTHON" -m pytest -p tests.without_qt -p no:pytest-qt "${marker[@]}" tests/unit \
    >"$reports/unit" 2>&1 &
unit_tests=$!
echo "== integration and window tests"
status=0
"$PYTHON" -m pytest "${marker[@]}" tests/integration tests/ui | tee "$reports/window" || status=$?
echo "== unit tests, as on a machine without Qt"
wait "$unit_tests" || status=$?
cat "$reports/unit"
# Once more at the very end: a log that is cut keeps its end, and there are two runs in this one.
echo "== both runs"
grep -hE "^(FAILED|ERROR) |^=+ .*(passed|failed|error).* in .*=+$" "$reports/window" "$reports/unit"
exit "$status"
