"""The workspace in the window, by clicks and keys: what one makes is there again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLineEdit, QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.workspace import Workspace, WorkspaceChanges
from attention_studio.core.workspace_index import GraphEntry, WorkspaceIndex
from attention_studio.ui.app import Studio
from attention_studio.ui.command_table import COMMANDS
from attention_studio.ui.watchdog import StallWatchdog
from attention_studio.ui.window_state import RECENT_WORKSPACES
from attention_studio.ui.work_workspace import open_workspace
from attention_studio.ui.workspace_binding import WorkspaceBinding
from attention_studio.ui.workspace_view import SaveState, WorkspaceView
from attention_studio.utils.config import Settings
from attention_studio.utils.files import FileWriteError
from attention_studio.utils.progress import WorkContext
from tests.hand_graphs import hand_graph
from tests.ui.conftest import tear_down
from tests.ui.demo_window import LONG, traced
from tests.ui.flow import answer
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph

New = Callable[[], Studio]
CTRL = Qt.KeyboardModifier.ControlModifier


def opened(studio: Studio, qtbot: QtBot, folder: Optional[Path] = None) -> WorkspaceView:
    """A shown window that keeps a workspace."""
    with qtbot.waitExposed(studio.window):
        studio.window.show()
    with qtbot.waitSignal(studio.window.keeper.opened, timeout=LONG):
        studio.window.keeper.start(folder)
    return view(studio)


def view(studio: Studio) -> WorkspaceView:
    assert studio.session.workspace is not None
    return studio.session.workspace


def saved(studio: Studio, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: view(studio).state is SaveState.SAVED, timeout=LONG)


def show(studio: Studio, seed: int, prompt: str) -> AttributionGraph:
    """A graph comes in, as if it had been traced."""
    graph = hand_graph(seed=seed)
    object.__setattr__(graph, "prompt", prompt)
    studio.session.set_graph(graph, graph.prune())
    return graph


def titles(studio: Studio) -> list[str]:
    return [entry.title for entry in view(studio).graphs]


def leave(studio: Studio, qtbot: QtBot) -> None:
    """Quit by the keyboard; everything is saved before the window goes."""
    qtbot.keyClick(studio.window, Qt.Key.Key_Q, CTRL)
    qtbot.waitUntil(lambda: not studio.window.isVisible(), timeout=LONG)
    tear_down(studio)


def message(studio: Studio) -> str:
    current = studio.window.messages.current
    return "" if current is None else current.what


def click_offer(studio: Studio, qtbot: QtBot) -> None:
    button = studio.window.messages.findChild(QPushButton, "messageBar.offer")
    assert button is not None and button.isVisible()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


# -- coming back ----------------------------------------------------------------------------------


def test_the_demo_comes_back_with_all_that_was_made_of_it(new_studio: New, qtbot: QtBot) -> None:
    first = new_studio()
    opened(first, qtbot)
    graph = traced(first, qtbot)
    assert view(first).current == "G1"
    # A node by the keyboard, pinned by the keyboard; another threshold; another prompt.
    first.session.set_selection(graph.node_name(0))
    canvas = first.window.graph_dock
    canvas.go_there()
    qtbot.keyClick(first.window, Qt.Key.Key_P)
    assert first.session.pinned == (graph.node_name(0),)
    first.session.set_thresholds(0.7, 0.9)
    first.window.prompt_dock.set_text("What I typed last")
    first.session.add_record("probe", {"found": [1, 2]})
    folder = view(first).folder
    leave(first, qtbot)
    assert not (folder / "workspace.lock").exists()

    second = new_studio()
    shown = opened(second, qtbot)
    session = second.session
    # At once, and before torch is there: the graph, its notes, and everything else.
    assert session.model is None and shown.folder == folder
    assert session.graph is not None
    np.testing.assert_array_equal(session.graph.edges.data, graph.edges.data)
    restored = session.graph
    assert session.pinned == (graph.node_name(0),) == (session.selection,)
    assert session.thresholds == (0.7, 0.9) and session.prompt == "What I typed last"
    assert session.records["probe"] == ({"found": [1, 2]},)
    assert not session.undo_stack.canUndo()
    # Then its models, which leave the graph as it is.
    qtbot.waitUntil(lambda: session.crm is not None, timeout=LONG)
    qtbot.waitUntil(lambda: not second.runner.busy, timeout=LONG)
    assert session.graph is restored and session.pinned == (graph.node_name(0),)
    told = json.loads((folder / "workspace.json").read_text())
    assert told["model"]["name"] == "demo" and len(told["model"]["weights_hash"]) == 64
    assert told["crm"]["fingerprint"] and told["graphs"][0]["made_with"]["dtype"] == "float32"


def test_nothing_is_kept_before_the_workspace_is_open(studio: Studio, qtbot: QtBot) -> None:
    show(studio, 1, "one")
    qtbot.wait(30)
    assert studio.session.workspace is None
    assert not (studio.settings.state_dir / "workspaces").exists()


def test_saving_never_stops_the_window(
    new_studio: New, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread writes nothing: a disk that hangs is the lane's."""
    import threading

    studio = new_studio()
    opened(studio, qtbot)
    go_on, threads = threading.Event(), []
    save = Workspace.save

    def slow(self: Workspace, changes: WorkspaceChanges, ctx: Any = None) -> Any:
        threads.append(threading.current_thread())
        assert go_on.wait(30)
        return save(self, changes, ctx)

    monkeypatch.setattr(Workspace, "save", slow)
    studio.session.set_prompt("a")
    qtbot.waitUntil(lambda: bool(threads))
    for number in range(20):
        studio.session.set_prompt(f"a{number}")
    assert view(studio).state is SaveState.SAVING
    go_on.set()
    saved(studio, qtbot)
    assert threading.main_thread() not in threads
    assert len(threads) == 2, "what came meanwhile is written at once, and once"
    told = json.loads((view(studio).folder / "workspace.json").read_text())
    assert told["prompt"] == "a19"


def test_a_large_graph_is_saved_without_a_stall(stage: Stage, tmp_path: Path) -> None:
    """Tens of megabytes go to the disk while the event loop turns."""
    graph = synthetic_graph(n_features=3000)
    assert graph.edges.data.nbytes > 10_000_000
    binding = WorkspaceBinding(stage.session, stage.runner, stage.session)
    opened = open_workspace(WorkContext(), Settings(), tmp_path / "w", (0.8, 0.98))
    binding.take(opened)
    stage.until(lambda: binding.saver.clean)
    watchdog = StallWatchdog()
    watchdog.start()
    stage.session.set_graph(graph, None)
    stage.until(lambda: binding.saver.clean)
    report = watchdog.stop()
    assert (tmp_path / "w" / "graphs" / "G1.safetensors").stat().st_size > 10_000_000
    assert report.longest_own_ms < 100, str(report)
    binding.let_go()


# -- several graphs -------------------------------------------------------------------------------


def test_graphs_are_kept_and_gone_back_to(new_studio: New, qtbot: QtBot) -> None:
    studio = new_studio()
    opened(studio, qtbot)
    session = studio.session
    first = show(studio, 1, "one")
    session.set_prompt("one")
    session.toggle_pin(first.node_name(0))
    second = show(studio, 2, "two")
    assert session.pinned == () and titles(studio) == ["one", "two"]
    session.toggle_pin(second.node_name(1))
    # Back at once, while the first is perhaps still on its way to the disk.
    qtbot.keyClick(studio.window, Qt.Key.Key_PageUp, CTRL)
    qtbot.waitUntil(lambda: view(studio).current == "G1", timeout=LONG)
    assert session.graph is not None and session.graph.prompt == "one"
    assert session.pinned == (first.node_name(0),)
    saved(studio, qtbot)
    qtbot.keyClick(studio.window, Qt.Key.Key_PageDown, CTRL)
    qtbot.waitUntil(lambda: view(studio).current == "G2", timeout=LONG)
    assert session.pinned == (second.node_name(1),)
    saved(studio, qtbot)
    workspace_notes = json.loads((view(studio).folder / "graphs" / "G1.notes.json").read_text())
    assert workspace_notes["pinned"] == [first.node_name(0)]


def test_a_prompt_goes_along_unless_it_was_edited(new_studio: New, qtbot: QtBot) -> None:
    studio = new_studio()
    opened(studio, qtbot)
    session = studio.session
    for seed, prompt in ((1, "one"), (2, "two")):
        show(studio, seed, prompt)
        session.set_prompt(prompt)
    studio.commands.run("workspace.next_graph")
    qtbot.waitUntil(lambda: view(studio).current == "G1", timeout=LONG)
    assert session.prompt == "one"
    session.set_prompt("one and a half")
    studio.commands.run("workspace.next_graph")
    qtbot.waitUntil(lambda: view(studio).current == "G2", timeout=LONG)
    assert session.prompt == "one and a half"


def test_the_same_question_again_takes_the_place_of_what_nobody_touched(
    new_studio: New, qtbot: QtBot
) -> None:
    studio = new_studio()
    opened(studio, qtbot)
    show(studio, 1, "one")
    graph = show(studio, 2, "one")
    assert titles(studio) == ["one"]
    studio.session.toggle_pin(graph.node_name(0))
    newest = show(studio, 3, "one")
    assert titles(studio) == ["one", "one"] and view(studio).current == "G2"
    # One that goes on as the prompt is edited stays the one that it is.
    studio.session.set_graph(hand_graph(seed=4), None, keep=True)
    assert [entry.key for entry in view(studio).graphs] == ["G1", "G2"]
    assert newest.prompt == "one"
    saved(studio, qtbot)
    workspace = view(studio).folder / "graphs"
    assert sorted(path.name for path in workspace.glob("*.safetensors")) == [
        "G1.safetensors", "G2.safetensors",
    ]  # fmt: skip


def test_the_dock_shows_names_and_removes_graphs(new_studio: New, qtbot: QtBot) -> None:
    studio = new_studio()
    opened(studio, qtbot)
    dock: Any = studio.window.docks["workspace"]
    qtbot.keyClick(studio.window, Qt.Key.Key_W, Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: dock.isVisible() and dock.empty)
    for seed, prompt in ((1, "one"), (2, "two"), (3, "three")):
        graph = show(studio, seed, prompt)
    studio.session.toggle_pin(graph.node_name(0))
    assert not dock.empty and unnamed_controls(dock) == []
    table, model = dock.table, dock.model
    assert [model.index(row, 0).data() for row in range(3)] == ["", "", "●"]
    # Enter shows the graph of the row.
    table.setFocus()
    table.selectRow(0)
    qtbot.keyClick(table, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: view(studio).current == "G1", timeout=LONG)
    assert model.index(0, 0).data() == "●"
    # What was pinned is counted once it is written.
    qtbot.waitUntil(lambda: model.index(2, 5).data() == "1", timeout=LONG)
    # F2 names it.
    table.setCurrentIndex(model.index(0, 1))
    qtbot.keyClick(table, Qt.Key.Key_F2)
    editor = table.findChild(QLineEdit)
    assert editor is not None
    editor.selectAll()
    qtbot.keyClicks(editor, "my first <b>graph</b>")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: titles(studio) == ["my first <b>graph</b>", "two", "three"])
    # Delete takes it out, and the message offers it back.
    qtbot.keyClick(table, Qt.Key.Key_Delete)
    qtbot.waitUntil(lambda: "out of the workspace" in message(studio), timeout=LONG)
    assert titles(studio) == ["two", "three"] and studio.session.graph is None
    saved(studio, qtbot)
    assert (view(studio).folder / "removed" / "G1.safetensors").exists()
    click_offer(studio, qtbot)
    qtbot.waitUntil(lambda: view(studio).current == "G1", timeout=LONG)
    assert titles(studio) == ["my first <b>graph</b>", "two", "three"]
    saved(studio, qtbot)


# -- several workspaces ---------------------------------------------------------------------------


def test_new_workspaces_and_the_way_back(new_studio: New, qtbot: QtBot, tmp_path: Path) -> None:
    studio = new_studio()
    default = opened(studio, qtbot).folder
    show(studio, 1, "one")
    studio.session.set_prompt("mine")
    qtbot.keyClick(studio.window, Qt.Key.Key_N, CTRL)
    answer(qtbot, str(tmp_path / "cats & dogs"))
    qtbot.waitUntil(lambda: view(studio).folder == tmp_path / "cats & dogs", timeout=LONG)
    # An empty page, with the prompt that one was at.
    assert studio.session.graph is None and titles(studio) == []
    assert studio.session.prompt == "mine"
    assert studio.window.windowTitle() == "cats & dogs · AttentionStudio"
    show(studio, 2, "two")
    recent = studio.commands.action("workspace.recent1")
    assert recent.isVisible() and recent.text() == "Recent: Workspace"
    assert "workspace.recent1" in [c.id for c in studio.commands.search("recent work")]
    # Back by the palette; what was made in the other one is saved first.
    studio.commands.run("palette.show")
    palette = studio.window.palette_popup
    qtbot.keyClicks(palette.focusWidget(), "recent: workspace")
    assert palette.shown_commands()[0] == "workspace.recent1"
    qtbot.keyClick(palette.focusWidget(), Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: view(studio).folder == default, timeout=LONG)
    assert titles(studio) == ["one"] and studio.session.graph is not None
    assert recent.text() == "Recent: cats && dogs"
    other = json.loads((tmp_path / "cats & dogs" / "workspace.json").read_text())
    assert [entry["prompt"] for entry in other["graphs"]] == ["two"]
    assert not (tmp_path / "cats & dogs" / "workspace.lock").exists()


def test_copies_to_go_on_in_and_to_keep(new_studio: New, qtbot: QtBot, tmp_path: Path) -> None:
    studio = new_studio()
    start = opened(studio, qtbot).folder
    show(studio, 1, "one")
    studio.window.keeper.copy_to(str(tmp_path / "kept"))
    qtbot.waitUntil(lambda: "copied as kept" in message(studio), timeout=LONG)
    assert view(studio).folder == start
    studio.window.keeper.save_to(str(tmp_path / "on"))
    qtbot.waitUntil(lambda: view(studio).folder == tmp_path / "on", timeout=LONG)
    assert titles(studio) == ["one"] and view(studio).name == "on"
    for folder in (tmp_path / "kept", tmp_path / "on"):
        assert (folder / "graphs" / "G1.safetensors").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    studio.window.keeper.copy_to(str(tmp_path / "full"))
    qtbot.waitUntil(lambda: "is not empty" in message(studio), timeout=LONG)


def test_a_second_window_gets_a_workspace_of_its_own(new_studio: New, qtbot: QtBot) -> None:
    first, second = new_studio(), new_studio()
    folder = opened(first, qtbot).folder
    assert folder.name == "Workspace"
    # The second remembers the first's as the last one, and may not have it.
    second.window.state.workspaces = (str(folder),)
    assert opened(second, qtbot).folder.name == "Workspace 2"
    assert "open in another window" in message(second)
    second.window.messages.dismiss()
    second.window.keeper.open_folder(str(folder))
    qtbot.waitUntil(lambda: "open in another window" in message(second), timeout=LONG)
    assert view(second).folder.name == "Workspace 2"


def test_more_recent_workspaces_than_are_shown(new_studio: New, tmp_path: Path) -> None:
    studio = new_studio()
    studio.window.state.workspaces = [str(tmp_path / f"w{n}") for n in range(20)]
    again = new_studio()
    names = [f"workspace.recent{n + 1}" for n in range(RECENT_WORKSPACES)]
    assert all(again.commands.action(name).isVisible() for name in names)
    assert again.commands.action(names[0]).text() == "Recent: w0"
    studio.window.state._settings.setValue("recent/workspaces", "[[1], 2, nonsense")
    assert studio.window.state.workspaces == ()


# -- what goes wrong ------------------------------------------------------------------------------


def broken(folder: Path) -> Path:
    """A workspace whose index is damaged."""
    workspace = Workspace(folder)
    graph = hand_graph()
    index = WorkspaceIndex.new("x").model_copy(update={"graphs": (GraphEntry.of("G1", graph),)})
    workspace.save(WorkspaceChanges(index, {"G1": graph}))
    workspace.close()
    (folder / "workspace.json").write_text("{")
    return folder


def test_a_damaged_workspace_can_be_recovered(
    new_studio: New, qtbot: QtBot, tmp_path: Path
) -> None:
    folder = broken(tmp_path / "w")
    studio = new_studio()
    # One that was asked for and cannot be opened: another one is, and a message says so.
    assert opened(studio, qtbot, folder).folder.name == "Workspace"
    assert "cannot be opened" in message(studio)
    assert (folder / "workspace.json").read_text() == "{"
    click_offer(studio, qtbot)
    qtbot.waitUntil(lambda: view(studio).folder == folder, timeout=LONG)
    assert studio.session.graph is not None and titles(studio) == ["the cat"]
    assert (folder / "workspace.damaged-1.json").read_text() == "{"


def test_what_cannot_be_read_is_said(new_studio: New, qtbot: QtBot, tmp_path: Path) -> None:
    folder = broken(tmp_path / "w")
    Workspace(folder).recover()
    (folder / "graphs" / "G1.safetensors").write_bytes(b"rubbish")
    (folder / "records").mkdir(exist_ok=True)
    (folder / "records" / "probe.json").write_text("rubbish")
    studio = new_studio()
    opened(studio, qtbot, folder)
    assert "Not everything in w could be read" in message(studio)
    current = studio.window.messages.current
    assert current is not None and "probe.damaged-1.json" in current.why
    assert "G1" in current.why and studio.session.graph is None
    assert titles(studio) == ["the cat"], "it is still listed"
    assert (folder / "graphs" / "G1.safetensors").read_bytes() == b"rubbish"


def test_a_workspace_from_elsewhere_fetches_nothing(
    new_studio: New, qtbot: QtBot, tmp_path: Path
) -> None:
    folder = broken(tmp_path / "w")
    Workspace(folder).recover()
    told = json.loads((folder / "workspace.json").read_text())
    told["model"] = {"name": "someone/large-model", "weights_hash": "ab" * 32}
    told["crm"] = {"folder": "//server/share/crm"}
    (folder / "workspace.json").write_text(json.dumps(told))
    studio = new_studio()
    opened(studio, qtbot, folder)
    assert "someone/large-model, which is not here" in message(studio)
    assert studio.session.graph is not None
    assert [job.title for job in studio.runner.jobs if job.lane != "quick"] == []
    assert studio.session.model is None


def test_when_nothing_can_be_saved_the_window_says_so_and_stays(
    new_studio: New, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = new_studio()
    opened(studio, qtbot)
    saved(studio, qtbot)

    def full(*_: Any) -> None:
        raise FileWriteError("w could not be written", "the disk is full", "Free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "save", full)
        studio.session.set_prompt("precious")
        qtbot.waitUntil(lambda: view(studio).state is SaveState.FAILED, timeout=LONG)
        assert message(studio) == "w could not be written"
        studio.window.messages.dismiss()
        qtbot.keyClick(studio.window, Qt.Key.Key_Q, CTRL)
        qtbot.waitUntil(lambda: message(studio) == "The window stays open", timeout=LONG)
        assert studio.window.isVisible()
    # The disk has room again: what was due is written.
    studio.session.set_prompt("precious!")
    studio.window.keeper._saver.flush()
    saved(studio, qtbot)
    told = json.loads((view(studio).folder / "workspace.json").read_text())
    assert told["prompt"] == "precious!"
    monkeypatch.setattr(Workspace, "save", full)
    studio.session.set_prompt("lost")
    studio.window.messages.dismiss()
    qtbot.keyClick(studio.window, Qt.Key.Key_Q, CTRL)
    qtbot.waitUntil(lambda: message(studio) == "w could not be written", timeout=LONG)
    studio.window.messages.dismiss()
    assert message(studio) == "The window stays open"
    click_offer(studio, qtbot)
    qtbot.waitUntil(lambda: not studio.window.isVisible(), timeout=LONG)


def test_the_commands_are_there_when_they_make_sense(new_studio: New, qtbot: QtBot) -> None:
    studio = new_studio()
    studio.window.show()
    names = [c.id for c in COMMANDS if c.handler.startswith("keeper.")]
    assert len(names) > 8
    assert not studio.commands.action("workspace.save_as").isEnabled()
    opened(studio, qtbot)
    assert studio.commands.action("workspace.save_as").isEnabled()
    assert not studio.commands.action("workspace.next_graph").isEnabled()
    assert not studio.commands.action("workspace.remove_graph").isEnabled()
    studio.session.set_training("running")
    assert not studio.commands.action("workspace.open").isEnabled()
    studio.session.set_training(None)
