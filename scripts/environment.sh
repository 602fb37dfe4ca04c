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
    echo "Install one (Debian, Ubuntu: sudo apt install python3 python3-venv) and try again." >&2
    return 1
}

# python_of_environment: which Python the environment runs, "3.13" say; nothing while it runs none.
python_of_environment() {
    "$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# make_environment EXTRAS: installs the package in editable form with "" or "[dev]", unless
# what was installed last still fits pyproject.toml, the constraints and the environment's Python.
make_environment() {
    local extras="$1" stamp="$VENV/.studio-installed" files version wanted
    files="$(cat pyproject.toml scripts/constraints.txt | cksum)"
    version="$(python_of_environment)"
    wanted="$files $version $extras"
    if [ -n "$version" ] && [ -f "$stamp" ]; then
        case "$(cat "$stamp")" in
            "$wanted"* | "${wanted% *} [dev]"*) return 0 ;;
        esac
    fi
    # An environment without pip is one whose making failed half way (no python3-venv yet), or whose
    # Python went with an upgrade of the system. Making it again over what is there completes it.
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        local base
        base="$(find_python)" || return 1
        echo "Making a virtual environment in $VENV with $base" >&2
        if ! "$base" -m venv "$VENV"; then
            echo "That failed. On Debian and Ubuntu: sudo apt install python3-venv" >&2
            return 1
        fi
    fi
    echo "Installing AttentionStudio (PyTorch is large: this takes a few minutes once)" >&2
    # torch first: with the pinned build in place, nothing else pulls in another.
    "$PYTHON" -m pip install --quiet --constraint scripts/constraints.txt torch || return 1
    "$PYTHON" -m pip install --quiet --constraint scripts/constraints.txt --editable ".$extras" ||
        return 1
    echo "$files $(python_of_environment) $extras" >"$stamp"
}
