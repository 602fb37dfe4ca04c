"""Closing the window in the middle of every kind of job: it leaves, and leaves nothing torn."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.dictionaries.crm_folder import MANIFEST_NAME, load_crm, save_crm
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.model_manager import ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.training_checkpoint import latest_checkpoint
from attention_studio.core.training_lock import LOCK_NAME
from attention_studio.ui import work
from attention_studio.utils.config import Settings
from attention_studio.utils.progress import WorkContext
from tests.hub_server import serve_hub
from tests.tiny import PROMPT, WORDS, random_transcoders, tiny_folder
from tests.ui.test_start import assert_clean, environment

if not hasattr(os, "fork"):
    pytest.skip("the windows are forked", allow_module_level=True)

REPO = "somebody/tiny-llama"
SENT = 20_000
# Well below the patience after which the window leaves without its task.
SOON_S = 8.0


class Windows:
    """Carries out orders, each in a fresh process with a folder of its own."""

    def __init__(self, process: subprocess.Popen[str], things: dict[str, str]) -> None:
        self._process = process
        self._things = things

    def close_in(self, kind: str, folder: Path, **more: Any) -> dict[str, Any]:
        """Close a window in the middle of a job; it must leave in good order. Returns its words."""
        folder.mkdir(exist_ok=True)
        order = {"kind": kind, "folder": str(folder), **self._things, **more}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        stderr = (folder / "stderr.txt").read_text()
        assert_clean(subprocess.CompletedProcess([], status, "", stderr))
        told: dict[str, Any] = json.loads((folder / "told.json").read_text())
        assert told["seconds"] < SOON_S, told
        assert_nothing_torn(folder)
        return told


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny model, transcoders for it, a graph, and text."""
    folder = tmp_path_factory.mktemp("things")
    model, crm, graph = folder / "tiny", folder / "crm", folder / "graph.safetensors"
    tiny_folder(model)
    settings = Settings(cache_dir=folder / "cache", state_dir=folder / "state", offline=True)
    loaded = ModelManager(settings=settings).load_model_sync(model)
    save_crm(crm, DictionarySet(random_transcoders(loaded.adapter)), loaded.info)
    replacement = CompleteReplacementModel.from_folder(loaded, crm)
    GraphBuilder(replacement).build(PROMPT).save(graph)
    chance = random.Random(0)
    text = folder / "text.txt"
    text.write_text(" ".join(chance.choice(WORDS) for _ in range(20_000)))
    return {"model": str(model), "crm": str(crm), "graph": str(graph), "text": str(text)}


@pytest.fixture(scope="module")
def windows(things: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Windows]:
    """One process that has imported everything, and forks a window for every order."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ui.closing"],
        cwd=Path(__file__).parents[2],
        env=environment(tmp_path_factory.mktemp("windows"), OMP_NUM_THREADS="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Windows(process, things)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def assert_nothing_torn(folder: Path) -> None:
    """Whatever lies below ``folder`` is whole, and no temporary file or folder is left."""
    assert [p for p in folder.rglob("*") if ".part-" in p.name] == []
    for file in folder.rglob("*.json"):
        json.loads(file.read_text())
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "np") as tensors:
            assert list(tensors.keys())
    for manifest in folder.rglob(MANIFEST_NAME):
        assert load_crm(manifest.parent)
    for state in folder.rglob("checkpoints/*/state.json"):
        for name, digest in json.loads(state.read_text())["files"].items():
            assert hashlib.sha256((state.parent / name).read_bytes()).hexdigest() == digest


def assert_busy_with(told: dict[str, Any], title: str) -> None:
    """The job was going on when the window closed."""
    assert any(running.startswith(title) for running in told["running"]), told


def test_fetching_a_model(windows: Windows, things: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "one"
    with serve_hub() as hub:
        hub.add_folder(REPO, Path(things["model"]))
        hub.stall_after = SENT
        told = windows.close_in("fetch", folder, repo=REPO, endpoint=hub.url, bytes=SENT)
        assert_busy_with(told, f"Fetch {REPO}")
        assert not list((folder / "cache" / "models").glob("*"))
        # What came is kept where unfinished downloads are, and the next try goes on from there.
        (part,) = (folder / "cache" / "downloads").rglob("*.partial")
        assert part.stat().st_size >= SENT
        hub.stall_after = None
        settings = Settings(cache_dir=folder / "cache", HF_ENDPOINT=hub.url)
        fetched = ModelManager(settings=settings).fetch(REPO)
        assert any("Range" in headers for _, headers in hub.requests)
    for file in Path(things["model"]).iterdir():
        assert (fetched / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("load", "Load tiny"),
        ("features", "Extract features"),
        ("trace", "Trace the prompt"),
        ("prune", "Prune the graph"),
        ("open-crm", "Open crm"),
        ("open-graph", "Open graph"),
    ],
)
def test_reading_and_computing(windows: Windows, tmp_path: Path, kind: str, title: str) -> None:
    assert_busy_with(windows.close_in(kind, tmp_path / "one"), title)


def test_saving_a_graph(windows: Windows, things: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "one" / "saved.safetensors"
    told = windows.close_in("save-graph", tmp_path / "one", out=str(out))
    assert_busy_with(told, "Save saved")
    # It was being written: a person who saves and closes has saved.
    saved, original = AttributionGraph.load(out), AttributionGraph.load(Path(things["graph"]))
    assert saved.tokens == original.tokens
    assert np.array_equal(saved.edges.data, original.edges.data)


# Where the window closes while the main thread steps, the step in work is finished and kept.
@pytest.mark.parametrize(
    ("kind", "title", "tokens", "steps"),
    [
        ("prepare", "Prepare training", 64_000, range(0)),
        ("harvest", "Collecting the next activations", 64_000, range(4, 1000)),
        # Far from the next checkpoint and block, however many steps a slice of time may hold.
        ("train", "Train 2 modules", 64_000, range(105, 200)),
        ("evaluate", "Measuring on held-out text", 640, range(9, 10)),
        ("checkpoint", "Writing a checkpoint", 64_000, range(3, 4)),
        ("save-crm", "Saving the replacement model", 256, range(0)),
    ],
)
def test_a_run(
    windows: Windows, tmp_path: Path, kind: str, title: str, tokens: int, steps: range
) -> None:
    out = tmp_path / "one" / "run"
    sizes = {"block": 16_384, "every": 100} if kind == "train" else {}
    told = windows.close_in(kind, tmp_path / "one", out=str(out), tokens=tokens, **sizes)
    assert_busy_with(told, title)
    found = latest_checkpoint(out)
    assert (found is not None) == bool(steps)
    if found is not None:
        assert json.loads((found / "state.json").read_text())["progress"]["step"] in steps
    # Saving is finished; everything before leaves a run that is none, or can go on.
    assert (out / MANIFEST_NAME).is_file() == (kind == "save-crm")
    assert not (out / LOCK_NAME).exists()
    if out.exists():
        assert work.read_run(WorkContext(), out).resume


def test_resuming_a_run(windows: Windows, tmp_path: Path) -> None:
    first, again = tmp_path / "one", tmp_path / "two"
    windows.close_in("checkpoint", first, out=str(first / "run"))
    shutil.copytree(first / "run", again / "run")
    told = windows.close_in("resume", again, out=str(again / "run"))
    assert_busy_with(told, "Preparing")
    # Nothing was done to it.
    files = {p.relative_to(first / "run"): p for p in (first / "run").rglob("*") if p.is_file()}
    assert {p.relative_to(again / "run") for p in (again / "run").rglob("*") if p.is_file()} == set(
        files
    )
    for name, file in files.items():
        assert (again / "run" / name).read_bytes() == file.read_bytes(), name
