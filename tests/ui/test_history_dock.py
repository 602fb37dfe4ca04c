"""The History dock: steps by their names, and a click that goes to one."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QToolButton

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.ui.widgets.history_dock import BEGINNING, HistoryDock
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    return synthetic_graph(n_layers=4, n_features=30)


@pytest.fixture
def dock(stage: Stage, graph: AttributionGraph) -> HistoryDock:
    made = stage.put(HistoryDock, 500, 400)
    stage.session.set_graph(graph, graph.prune())
    return made


def rows(dock: HistoryDock, role: int = Qt.ItemDataRole.DisplayRole) -> list[str]:
    return [dock.steps.index(row).data(role) for row in range(dock.steps.rowCount())]


def click(stage: Stage, dock: HistoryDock, row: int) -> None:
    place = dock.list.visualRect(dock.steps.index(row)).center()
    stage.qtbot.mouseClick(dock.list.viewport(), Qt.MouseButton.LeftButton, pos=place)


def test_it_says_what_it_is_for_until_something_is_done(stage: Stage, dock: HistoryDock) -> None:
    assert dock.empty
    stage.session.toggle_pin("L0/P1/F1")
    assert not dock.empty
    assert unnamed_controls(dock) == []


def test_steps_are_named_and_can_be_gone_to(stage: Stage, dock: HistoryDock) -> None:
    session = stage.session
    session.toggle_pin("L0/P2/F1")
    session.set_notes(session.notes.labelled("L0/F1", "tower"), "Label L0 #1")
    session.toggle_pin("L1/P2/F5")
    assert rows(dock) == [
        BEGINNING, "Pin L0 #1 at “Eiffel”", "Label L0 #1", "Pin L1 #5 at “Eiffel”"
    ]  # fmt: skip
    assert dock.steps.now == 3
    click(stage, dock, 1)
    assert session.pinned == ("L0/P2/F1",) and not session.notes.labels
    assert rows(dock)[2:] == ["Label L0 #1  (taken back)", "Pin L1 #5 at “Eiffel”  (taken back)"]
    spoken = rows(dock, Qt.ItemDataRole.AccessibleTextRole)
    assert spoken[1].endswith("the present") and spoken[3].endswith("taken back")
    click(stage, dock, 3)
    assert session.notes.labels == {"L0/F1": "tower"} and len(session.pinned) == 2
    click(stage, dock, 0)
    assert session.notes.empty


def test_keys_and_buttons_go_step_by_step(stage: Stage, dock: HistoryDock) -> None:
    session = stage.session
    for feature in range(3):
        session.toggle_pin(f"L0/P1/F{feature}")
    dock.list.setFocus()
    stage.qtbot.keyClick(dock.list, Qt.Key.Key_Up)
    assert len(session.pinned) == 3, "looking through the list changes nothing"
    stage.qtbot.keyClick(dock.list, Qt.Key.Key_Return)
    assert len(session.pinned) == 2
    stage.commands.bind("window", _Window(stage))
    for name, left in (("history.undo", 1), ("history.redo", 2)):
        button = dock.findChild(QToolButton, name)
        assert button is not None
        stage.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        assert len(session.pinned) == left
    session.toggle_pin("L3/P1/F9")
    assert len(rows(dock)) == 4, "what was taken back is gone once something else is done"


def test_another_graph_begins_another_history(
    stage: Stage, dock: HistoryDock, graph: AttributionGraph
) -> None:
    stage.session.toggle_pin("L0/P1/F1")
    assert not dock.empty
    stage.session.set_graph(synthetic_graph(n_layers=3, n_features=10), None)
    assert dock.empty and dock.steps.rowCount() == 1
    stage.theme.toggle()
    stage.settle()


class _Window:
    """What the undo commands call in the real window."""

    def __init__(self, stage: Stage) -> None:
        self._stack = stage.session.undo_stack

    def undo(self) -> None:
        self._stack.undo()

    def redo(self) -> None:
        self._stack.redo()
