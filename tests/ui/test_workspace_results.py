"""What goes on while one goes from workspace to workspace: results reach the one in which they were
asked for, a copy that one goes on in misses nothing, and graphs of the workspace are compared."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QComboBox, QInputDialog
from pytestqt.qtbot import QtBot

from attention_studio.core.workspace import Workspace
from attention_studio.ui import work, work_interventions
from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.compare_dock import CompareDock
from tests.ui.demo_window import LONG, traced
from tests.ui.test_workspace_window import (
    click_offer,
    leave,
    message,
    opened,
    saved,
    show,
    titles,
    view,
)

New = Callable[[], Studio]


class Gate:
    """Holds a function of a lane until it is let go."""

    def __init__(self, owner: Any, name: str, patch: pytest.MonkeyPatch) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        real = getattr(owner, name)

        def held(*arguments: Any) -> Any:
            self.reached.set()
            assert self._open.wait(60)
            return real(*arguments)

        patch.setattr(owner, name, held)

    def open(self) -> None:
        self._open.set()


def go_to(studio: Studio, qtbot: QtBot, folder: Path) -> None:
    studio.window.keeper.open_folder(str(folder))
    qtbot.waitUntil(lambda: view(studio).folder == folder, timeout=LONG)


def in_file(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = folder / "records" / f"{kind}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


def ask(studio: Studio, qtbot: QtBot, kind: str, gate: Gate) -> None:
    """Run an intervention, or verify edges, as far as the gate."""
    graph = traced(studio, qtbot)
    if kind == "intervention":
        studio.session.set_selection("L0/P8/F199")
        assert studio.commands.run("intervene.switch_off")
    elif kind == "validation":
        assert studio.commands.run("intervene.validate")
    else:
        studio.session.set_pinned([graph.node_name(n) for n in range(graph.n_features)][:6])
        assert studio.commands.run("intervene.verify")
    qtbot.waitUntil(gate.reached.is_set, timeout=LONG)


WORK = {
    "intervention": "run_plan",
    "verification": "verify_edges",
    "validation": "validate_graph",
}


@pytest.mark.parametrize("kind", WORK)
def test_a_result_reaches_the_workspace_in_which_it_was_asked_for(
    kind: str, new_studio: New, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(work_interventions, WORK[kind], monkeypatch)
    studio = new_studio()
    first = opened(studio, qtbot).folder
    ask(studio, qtbot, kind, gate)
    go_to(studio, qtbot, tmp_path / "other")
    gate.open()
    qtbot.waitUntil(lambda: "and is kept there" in message(studio), timeout=LONG)
    assert message(studio) == (
        f"The {kind} was asked for in the workspace Workspace, and is kept there"
    )
    assert kind not in studio.session.records
    assert len(in_file(first, kind)) == 1 and not (first / "workspace.lock").exists()
    saved(studio, qtbot)
    assert in_file(tmp_path / "other", kind) == []
    # There it is when one goes back.
    go_to(studio, qtbot, first)
    assert len(studio.session.records[kind]) == 1
    leave(studio, qtbot)


def test_a_result_whose_workspace_is_gone_is_offered_to_the_one_that_is_open(
    new_studio: New, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(work_interventions, "run_plan", monkeypatch)
    studio = new_studio()
    first = opened(studio, qtbot).folder
    ask(studio, qtbot, "intervention", gate)
    go_to(studio, qtbot, tmp_path / "other")
    shutil.rmtree(first)
    gate.open()
    qtbot.waitUntil(lambda: "cannot be kept there" in message(studio), timeout=LONG)
    current = studio.window.messages.current
    assert current is not None and current.why == "the workspace is no longer there"
    assert not first.exists() and "intervention" not in studio.session.records
    click_offer(studio, qtbot)
    assert len(studio.session.records["intervention"]) == 1
    saved(studio, qtbot)
    assert len(in_file(tmp_path / "other", "intervention")) == 1


def test_a_result_comes_home_to_a_workspace_that_was_left_and_opened_again(
    new_studio: New, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(work_interventions, "run_plan", monkeypatch)
    studio = new_studio()
    first = opened(studio, qtbot).folder
    ask(studio, qtbot, "intervention", gate)
    go_to(studio, qtbot, tmp_path / "other")
    go_to(studio, qtbot, first)
    gate.open()
    qtbot.waitUntil(lambda: "intervention" in studio.session.records, timeout=LONG)
    saved(studio, qtbot)
    assert len(in_file(first, "intervention")) == 1


def test_another_window_that_has_the_workspace_is_said(
    new_studio: New, qtbot: QtBot, tmp_path: Path
) -> None:
    studio = new_studio()
    first = opened(studio, qtbot)
    go_to(studio, qtbot, tmp_path / "other")
    held = Workspace(first.folder)
    assert not studio.session.add_record("probe", {"found": 1}, home=held)
    qtbot.waitUntil(lambda: "cannot be kept there" in message(studio), timeout=LONG)
    current = studio.window.messages.current
    assert current is not None and "is open in another window" in current.why
    held.close()


def test_a_graph_traced_for_another_workspace_waits_to_be_asked_for(
    new_studio: New, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = new_studio()
    first = opened(studio, qtbot).folder
    traced(studio, qtbot)
    gate = Gate(work, "build_graph", monkeypatch)
    assert studio.commands.run("graph.build")
    qtbot.waitUntil(gate.reached.is_set, timeout=LONG)
    go_to(studio, qtbot, tmp_path / "other")
    gate.open()
    qtbot.waitUntil(lambda: "is traced, for another workspace" in message(studio), timeout=LONG)
    assert titles(studio) == [] and studio.session.graph is None
    click_offer(studio, qtbot)
    assert len(titles(studio)) == 1 and studio.session.graph is not None
    told = json.loads((first / "workspace.json").read_text())
    assert len(told["graphs"]) == 1


def test_what_is_made_while_it_is_copied_is_in_the_copy_that_one_goes_on_in(
    new_studio: New, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = new_studio()
    start = opened(studio, qtbot).folder
    graph = show(studio, 1, "one")
    session = studio.session
    session.toggle_pin(graph.node_name(0))
    saved(studio, qtbot)
    gate = Gate(Workspace, "move_to", monkeypatch)
    studio.window.keeper.save_to(str(tmp_path / "on"))
    qtbot.waitUntil(gate.reached.is_set, timeout=LONG)
    session.set_prompt("typed meanwhile")
    session.toggle_pin(graph.node_name(1))
    session.add_record("probe", {"found": 1})
    second = show(studio, 2, "two")
    session.toggle_pin(second.node_name(2))
    gate.open()
    qtbot.waitUntil(lambda: view(studio).folder == tmp_path / "on", timeout=LONG)
    # Nothing was read anew: one is where one was, and can still undo.
    assert session.graph is second and session.undo_stack.canUndo()
    assert view(studio).name == "on" and titles(studio) == ["one", "two"]
    session.add_record("probe", {"found": 2})
    saved(studio, qtbot)
    told = json.loads((tmp_path / "on" / "workspace.json").read_text())
    assert told["prompt"] == "typed meanwhile" and told["name"] == "on"
    assert [entry["prompt"] for entry in told["graphs"]] == ["one", "two"]
    assert in_file(tmp_path / "on", "probe") == [{"found": 1}, {"found": 2}]
    notes = json.loads((tmp_path / "on" / "graphs" / "G1.notes.json").read_text())
    assert notes["pinned"] == [graph.node_name(0), graph.node_name(1)]
    assert not (start / "workspace.lock").exists()
    assert studio.window.state.workspaces[:2] == (str(tmp_path / "on"), str(start))
    # What was left is whole, as it was at some moment since.
    old = Workspace(start)
    assert old.read().problems == () and {"found": 2} not in in_file(start, "probe")
    old.close()
    leave(studio, qtbot)


def test_a_graph_of_the_workspace_is_chosen_to_compare_with(new_studio: New, qtbot: QtBot) -> None:
    studio = new_studio()
    opened(studio, qtbot)
    show(studio, 1, "one")
    assert not studio.commands.action("compare.pick").isEnabled()
    studio.window.keeper.rename_graph("G1", "my first")
    show(studio, 2, "two")
    show(studio, 3, "three")
    dock = studio.window.docks["compare"]
    assert isinstance(dock, CompareDock)
    assert studio.commands.run("compare.pick")
    qtbot.waitUntil(lambda: isinstance(QApplication.activeModalWidget(), QInputDialog))
    dialog = QApplication.activeModalWidget()
    assert isinstance(dialog, QInputDialog)
    box = dialog.findChild(QComboBox)
    assert box is not None
    assert [box.itemText(n) for n in range(box.count())] == ["G2  two", "G1  my first"]
    qtbot.keyClick(box, Qt.Key.Key_Down)
    qtbot.keyClick(box, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: dock.compared is not None, timeout=LONG)
    assert dock.compared is not None
    assert dock.compared.first.prompt == "three" and dock.compared.second.graph.prompt == "one"
    assert dock.second is not None and dock.second.key == "G1"
    qtbot.waitUntil(lambda: "comparison" in studio.session.records, timeout=LONG)
    assert studio.session.records["comparison"][0]["origin"] == "workspace"
    assert view(studio).current == "G3", "the graph that is shown stays the first"
