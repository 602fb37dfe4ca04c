"""Kill −9 at any moment, resume, and end with the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
import safetensors.torch
import torch

from attention_studio.core.training_checks import ExistingRunError
from attention_studio.core.training_lock import LOCK_NAME, RunLock
from tests.training import CONFIG

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="training processes are forked")

ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts training processes one at a time and kills them when told."""

    def __init__(self) -> None:
        self.steps = 0  # that the last process did
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.training"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def train(self, out: Path, kill: Optional[Callable[[str], bool]] = None, **order: Any) -> int:
        """Train, or resume; SIGKILL when ``kill`` says so of a line. Returns the exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"out": str(out), **order}) + "\n")
        self.process.stdin.flush()
        pid = self.steps = 0
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "pid":
                pid = int(rest)
            elif word == "exit":
                return int(rest)
            elif word == "StepDone":
                self.steps += 1
            elif word == "failed":
                pytest.fail(rest)
            if pid and kill is not None and kill(word):
                os.kill(pid, signal.SIGKILL)
                kill = None
        raise AssertionError("the nursery died")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery()
    yield found
    found.close()


@pytest.fixture(scope="module")
def unbroken(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "crm"
    assert nursery.train(out) == 0
    return out


def assert_same(out: Path, expected: Path) -> None:
    for site in CONFIG.sites:
        name = f"{site.name}.safetensors"
        found = safetensors.torch.load_file(out / name)
        wanted = safetensors.torch.load_file(expected / name)
        assert found.keys() == wanted.keys()
        for tensor in wanted:
            assert torch.equal(found[tensor], wanted[tensor]), (name, tensor)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (out, expected)]
    for manifest in manifests:
        for changing in ("created", "versions"):
            del manifest[changing]
        del manifest["training"]["settings"]["checkpoint_every"]
    assert manifests[0] == manifests[1]
    leftovers = {p.name for p in out.iterdir()} - {p.name for p in expected.iterdir()}
    assert not {name for name in leftovers if not name.startswith(".")}


def after(count: int) -> Callable[[str], bool]:
    """True from the ``count``-th line on."""
    seen = 0

    def kill(_word: str) -> bool:
        nonlocal seen
        seen += 1
        return seen >= count

    return kill


def test_unbroken_runs_agree(nursery: Nursery, unbroken: Path, tmp_path: Path) -> None:
    assert nursery.train(tmp_path / "again") == 0
    assert_same(tmp_path / "again", unbroken)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(
    nursery: Nursery, unbroken: Path, tmp_path: Path, seed: int
) -> None:
    out, draw = tmp_path / "crm", random.Random(seed)
    kills = 0
    while kills < 5:
        code = nursery.train(out, kill=after(draw.randint(1, 400)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills > 0
    assert nursery.train(out) == 0
    assert_same(out, unbroken)


def test_a_folder_is_the_run_s_own_until_it_is_killed(nursery: Nursery, tmp_path: Path) -> None:
    refusals: list[str] = []

    def kill(word: str) -> bool:
        if word != "StepDone":
            return False
        with pytest.raises(ExistingRunError) as refused:
            RunLock(tmp_path / "crm")
        refusals.append(str(refused.value))
        return True

    assert nursery.train(tmp_path / "crm", kill=kill) == -signal.SIGKILL
    assert re.search(r"Another run \(process \d+\) is training", refusals[0])
    assert f"process {os.getpid()}" not in refusals[0]
    lock = RunLock(tmp_path / "crm")
    lock.release()
    assert not (tmp_path / "crm" / LOCK_NAME).exists()


@pytest.mark.parametrize("stage", ["checkpoint", "removal", "save"])
def test_killed_while_writing(nursery: Nursery, unbroken: Path, tmp_path: Path, stage: str) -> None:
    """With a file half written: a checkpoint's or the replacement model's; or between a new
    checkpoint and the removal of the old one."""
    out = tmp_path / "crm"
    assert nursery.train(out, kill=lambda word: word == "stalled", stall=stage) == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    assert nursery.train(out) == 0
    # From the last complete checkpoint.
    assert nursery.steps == CONFIG.total_steps - {"checkpoint": 4, "removal": 8, "save": 24}[stage]
    assert_same(out, unbroken)


def test_killed_while_cleaning_up(nursery: Nursery, unbroken: Path, tmp_path: Path) -> None:
    """The run was complete, whatever is left of its checkpoints."""
    out = tmp_path / "crm"
    code = nursery.train(out, kill=lambda word: word == "stalled", stall="cleanup")
    assert code == -signal.SIGKILL
    assert list((out / "checkpoints").glob("step_*"))
    assert nursery.train(out) == 0
    assert nursery.steps == 0
    assert not (out / "checkpoints").exists()
    assert_same(out, unbroken)
    assert (out / "history.json").read_bytes() == (unbroken / "history.json").read_bytes()


def test_a_finished_run_is_only_reported(nursery: Nursery, unbroken: Path) -> None:
    before = (unbroken / "manifest.json").read_bytes()
    assert nursery.train(unbroken) == 0
    assert (unbroken / "manifest.json").read_bytes() == before
