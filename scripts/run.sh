#!/usr/bin/env bash
# Makes the environment if needed and opens the window. Arguments go to attention-studio, so
# `scripts/run.sh doctor` runs a headless command.
set -euo pipefail
here="$PWD"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment ""
cd "$here"
exec "$PYTHON" -m attention_studio "$@"
