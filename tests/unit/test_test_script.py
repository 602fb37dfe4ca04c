"""`scripts/test.sh` says by its exit status whether both halves of the tests passed.

The script itself runs, in a folder where the linters always agree and pytest is a stand-in that
passes or fails as the test wants, so that its own conduct is all there is to see.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "test.sh"
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *"-m pytest"*tests/unit*) echo "=== 1 $UNIT in 0.1s ==="; [ "$UNIT" = passed ] ;;
    *"-m pytest"*tests/ui*)
        sleep "$PAUSE"
        echo "=== 1 $WINDOW in 0.1s ==="
        [ "$WINDOW" = passed ]
        ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of the script alone, with programs that answer as the environment says."""
    scripts, programs = tmp_path / "scripts", tmp_path / "venv" / "bin"
    scripts.mkdir()
    programs.mkdir(parents=True)
    shutil.copy(SCRIPT, scripts)
    (scripts / "environment.sh").write_text(
        f'VENV="{tmp_path}/venv"\nPYTHON="$VENV/bin/python"\nmake_environment() {{ :; }}\n'
    )
    for name in ("ruff", "mypy", "lint-imports"):
        (programs / name).write_text("#!/usr/bin/env bash\n")
    (programs / "python").write_text(PYTHON)
    for program in programs.iterdir():
        program.chmod(0o755)
    return tmp_path


def run(
    folder: Path, unit: str, window: str, pause: float = 0.0
) -> subprocess.CompletedProcess[str]:
    """Runs the script where each half ends as named; the window's takes `pause` seconds longer."""
    temporary = folder / "temporary"
    temporary.mkdir()
    return subprocess.run(
        ["bash", "scripts/test.sh"],
        cwd=folder,
        env={
            **os.environ,
            "UNIT": unit,
            "WINDOW": window,
            "PAUSE": str(pause),
            "TMPDIR": str(temporary),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_a_run_in_which_all_passes_ends_with_zero(folder: Path, pause: float) -> None:
    done = run(folder, "passed", "passed", pause)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 passed") >= 3
    assert not list((folder / "temporary").iterdir())


@pytest.mark.parametrize(
    ("unit", "window"), [("failed", "passed"), ("passed", "failed"), ("failed", "failed")]
)
def test_a_half_that_fails_fails_the_run(folder: Path, unit: str, window: str) -> None:
    done = run(folder, unit, window)
    assert done.returncode == 1
    assert done.stdout.index("== both runs") < done.stdout.rindex(f"1 {unit}")
