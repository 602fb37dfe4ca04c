# Sourced by the other scripts: makes or updates the virtual environment and sets $PYTHON.
#
# STUDIO_VENV chooses where it lives (default: .venv beside the scripts' folder).

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
VENV="${STUDIO_VENV:-$PWD/.venv}"
PYTHON="$VENV/bin/python"

find_python() {
    local candidate
    for candidate in "${STUDIO_PYTHON:-python3}" python3.11 python3.12 python3.13 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
            2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "AttentionStudio needs Python 3.10 to 3.13, and none was found." >&2
    echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) and try again." >&2
    return 1
}

# make_environment EXTRAS: installs the package in editable form with "" or "[dev]", unless
# what was installed last still fits pyproject.toml and the constraints.
make_environment() {
    local extras="$1" stamp="$VENV/.studio-installed" wanted
    wanted="$(cat pyproject.toml scripts/constraints.txt | cksum) $extras"
    if [ -x "$PYTHON" ] && [ -f "$stamp" ]; then
        case "$(cat "$stamp")" in
            "$wanted"* | "${wanted% *} [dev]"*) return 0 ;;
        esac
    fi
    if [ ! -x "$PYTHON" ]; then
        local base
        base="$(find_python)" || return 1
        echo "Making a virtual environment in $VENV with $base" >&2
        if ! "$base" -m venv "$VENV"; then
            echo "That failed. On Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        fi
    fi
    echo "Installing AttentionStudio (PyTorch is large: this takes a few minutes once)" >&2
    # torch first: with the pinned build in place, nothing else pulls in another.
    "$PYTHON" -m pip install --quiet --constraint scripts/constraints.txt torch || return 1
    "$PYTHON" -m pip install --quiet --constraint scripts/constraints.txt --editable ".$extras" ||
        return 1
    echo "$wanted" >"$stamp"
}
