#!/usr/bin/env bash
# Builds wheel and sdist, then installs the wheel into a clean environment to prove that it starts.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment "[dev]"
rm -rf dist
"$VENV/bin/hatch" build
wheel="$(echo dist/*.whl)"
clean="$(mktemp -d)"
trap 'rm -rf "$clean"' EXIT
echo "Installing $wheel into a clean environment"
"$(find_python)" -m venv "$clean/venv"
"$clean/venv/bin/python" -m pip install --quiet --constraint scripts/constraints.txt torch
"$clean/venv/bin/python" -m pip install --quiet --constraint scripts/constraints.txt "$wheel"
(
    cd "$clean"
    venv/bin/attention-studio --version
    venv/bin/attention-studio doctor
    QT_QPA_PLATFORM=offscreen venv/bin/python -c "import attention_studio.ui.app"
)
ls -l dist
