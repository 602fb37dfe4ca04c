"""A window that is killed while it writes: the next one finds everything again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from attention_studio.core.workspace import Workspace, WorkspaceInUseError
from attention_studio.ui.window_state import WindowState
from tests.hand_graphs import hand_graph
from tests.ui.test_start import environment
from tests.ui.workspace_scene import FEATURE, NODES

ROOT = Path(__file__).resolve().parents[2]


def live_and_die(folder: Path, rng: random.Random) -> tuple[dict[str, Any], int]:
    """A window that works in a workspace until it is killed by SIGKILL.

    Returns:
        What it found, and up to which number it had said that all is saved.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ui.workspace_scene", str(folder / "work")],
        cwd=ROOT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        told = process.stdout.readline()
        saved = process.stdout.readline()
        assert saved.startswith("saved "), told + saved + process.stderr.read()
        with pytest.raises(WorkspaceInUseError, match=f"process {process.pid}"):
            Workspace(folder / "work")
        # Somewhere within the next saves, which come twice a second.
        time.sleep(rng.uniform(0.3, 1.1))
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    found: dict[str, Any] = json.loads(told)
    return found, int(saved.split()[1])


def test_a_killed_window_has_lost_nothing_that_was_saved(tmp_path: Path) -> None:
    state = WindowState(tmp_path / "state")
    state.tour_done = True  # not the first start, which opens the demo
    state.flush()
    rng = random.Random(5)
    first, saved = live_and_die(tmp_path, rng)
    assert first["folder"] == str(tmp_path / "work")
    assert first["graphs"] == [] and first["records"] == {} and first["weights"] is None

    second, saved_again = live_and_die(tmp_path, rng)
    graph = hand_graph(seed=0)
    nodes = [graph.node_name(node) for node in range(NODES)]
    assert second["prompt"] == "typed 0" and second["thresholds"] == [0.5, 0.9]
    assert second["graphs"] == [["G1", "", NODES]] and second["current"] == "G1"
    assert second["weights"] == float(graph.edges.data.sum())
    assert second["selection"] == nodes[0] and second["chosen"] == nodes[1:]
    notes = second["notes"]
    assert notes["pinned"] == nodes and notes["remarks"] == {"": "what I think of it"}
    assert notes["supernodes"] == [{"key": "S1", "name": "two of them", "nodes": nodes[:2]}]
    assert notes["places"] == {"S1": [1.5, -2.0]}
    assert notes["queries"] == [{"name": "late", "text": "layer>1"}]
    # Notes and records are files of their own: each is as it was at one moment since.
    label = int(notes["labels"][FEATURE].split()[1])
    number = second["records"]["count"][0]["number"]
    assert label >= saved and number >= saved
    assert saved_again > number, "it went on counting where it had been"

    third, _ = live_and_die(tmp_path, rng)
    assert [key for key, _, _ in third["graphs"]] == ["G1", "G2"]
    assert third["current"] == "G2" and third["prompt"] == "typed 1"
    assert third["thresholds"] == [0.6, 0.9]
    assert third["weights"] == float(hand_graph(seed=1).edges.data.sum())
    assert third["records"]["count"][0]["number"] >= saved_again

    workspace = Workspace(tmp_path / "work")
    contents = workspace.read()
    assert contents.problems == () and contents.index is not None
    assert workspace.load_notes("G1")[1] == ()
    for entry in contents.index.graphs:
        workspace.load_graph(entry.key)
    workspace.close()
