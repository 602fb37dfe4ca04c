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

echo "== ruff"
"$bin/ruff" check .
"$bin/ruff" format --check .
echo "== mypy"
"$bin/mypy"
echo "== import contracts"
"$bin/lint-imports"

marker=(-m "not slow")
if [ "${1:-}" = "--slow" ]; then
    marker=()
    shift
fi
if [ "$#" -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi
echo "== unit tests, as on a machine without Qt"
"$PYTHON" -m pytest -p tests.without_qt -p no:pytest-qt "${marker[@]}" tests/unit
echo "== integration and window tests"
"$PYTHON" -m pytest "${marker[@]}" tests/integration tests/ui
