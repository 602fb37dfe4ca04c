from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from attention_studio.utils.errors import Cancelled
from attention_studio.utils.processes import run_process
from attention_studio.utils.progress import WorkContext

# Starts a grandchild, notes both process ids, and would then sleep for a minute.
SLEEPER = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
note = pathlib.Path(sys.argv[1])
note.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
note.with_suffix(".new").rename(note)
time.sleep(60)
"""


def test_output_status_and_environment() -> None:
    code = "import os, sys; print(os.environ['X']); print('e', file=sys.stderr); sys.exit(3)"
    result = run_process([sys.executable, "-c", code], WorkContext(), env={"X": "größe"})
    assert (result.returncode, result.stderr.strip()) == (3, "e")
    assert result.stdout.strip() == "größe"


def test_much_output_blocks_nothing() -> None:
    code = "import sys; sys.stdout.write('x' * 3_000_000)"
    result = run_process([sys.executable, "-c", code], WorkContext())
    assert len(result.stdout) == 3_000_000


def test_cancel_kills_the_child_and_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    ctx = WorkContext()

    def when_started() -> None:
        if note.exists():
            ctx.cancel()

    started = time.monotonic()
    with pytest.raises(Cancelled):
        run_process([sys.executable, "-c", SLEEPER, str(note)], ctx, on_poll=when_started)
    assert time.monotonic() - started < 20
    for pid in map(int, note.read_text().split()):
        for _ in range(50):
            if not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie":
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"process {pid} still runs")


def test_missing_program() -> None:
    with pytest.raises(OSError, match="no/such"):
        run_process(["/no/such/program"], WorkContext())
