"""The Paths dock as a person uses it: choosing ends, looking, choosing among what was found."""

from __future__ import annotations

import numpy as np
import pytest
from PySide6.QtCore import QItemSelectionModel, QModelIndex, Qt
from PySide6.QtWidgets import QLabel, QTableView
from pytestqt.qtbot import QtBot

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.ui.app import Studio
from attention_studio.ui.highlight import Role
from attention_studio.ui.text import percent
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.paths_dock import AT_FIRST, PathsDock
from attention_studio.ui.work_paths import ANY_TOKEN
from tests.ui.demo_window import LONG, traced
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph

GRAPH = synthetic_graph(n_layers=8, n_features=160)
OUTPUT = GRAPH.node_name(int(np.argmax(GRAPH.start)))


@pytest.fixture
def dock(stage: Stage) -> PathsDock:
    stage.session.set_graph(GRAPH, GRAPH.prune(0.8, 0.98))
    made = stage.put(PathsDock)
    stage.until(lambda: made.answer is not None)
    stage.settle()
    return made


def told(dock: PathsDock) -> str:
    found = dock.findChild(QLabel, "paths.told")
    assert found is not None
    return found.toolTip()


def click_row(stage: Stage, table: QTableView, row: int, *, control: bool = False) -> None:
    keys = Qt.KeyboardModifier.ControlModifier if control else Qt.KeyboardModifier.NoModifier
    point = table.visualRect(table.model().index(row, 0)).center()
    stage.qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, keys, point)


def strongest_feature() -> int:
    inputs = GRAPH.inputs(GRAPH.find(OUTPUT)).nodes
    return int(inputs[GRAPH.nodes.kind[inputs] == 0][0])


def test_without_a_graph_it_says_what_it_is_for(stage: Stage) -> None:
    dock = stage.put(PathsDock)
    assert dock.empty
    stage.commands.bind("paths", dock)
    dock.find_paths()
    dock.pin()
    dock.choose()
    dock.show_paths()
    stage.settle()
    assert dock.empty
    assert stage.session.highlight is None


def test_it_begins_with_the_ways_from_all_tokens_to_the_likeliest_output(
    stage: Stage, dock: PathsDock
) -> None:
    assert (dock.source.name, dock.target.name) == (ANY_TOKEN, OUTPUT)
    assert dock.source.currentText() == "Any token"
    assert dock.target.currentText() == "Output “Paris”"
    assert dock.model.rowCount() == AT_FIRST
    tokens = np.flatnonzero(GRAPH.nodes.kind == 2).tolist()
    expected = GRAPH.strongest_paths(tokens, GRAPH.find(OUTPUT), AT_FIRST)
    assert dock.answer is not None
    assert dock.answer.found == expected
    assert f"{expected.covered:.1%} of the influence" in told(dock)
    assert dock.model.index(AT_FIRST - 1, 4).data() == f"{expected.covered:.1%}"
    # Nobody has asked for it, and something else may be shown.
    assert stage.session.highlight is None
    assert not unnamed_controls(dock)


def test_looking_shows_the_paths_in_the_graph(stage: Stage, dock: PathsDock) -> None:
    dock.find_paths()
    stage.settle()
    highlight = stage.session.highlight
    assert highlight is not None and dock.answer is not None
    expected = {
        (GRAPH.node_name(one), GRAPH.node_name(other))
        for path in dock.answer.found.paths
        for one, other in zip(path.nodes[:-1], path.nodes[1:], strict=True)
    }
    assert set(highlight.edges) == expected
    assert set(highlight.nodes) == {name for edge in expected for name in edge}
    assert set(highlight.edges.values()) == {Role.MARKED}
    assert highlight.title == "10 strongest paths: Any token → Output “Paris”"


def test_choosing_paths_shows_them_alone(stage: Stage, dock: PathsDock) -> None:
    click_row(stage, dock.table, 2)
    assert dock.answer is not None
    path = dock.answer.found.paths[2]
    assert stage.session.highlight is not None
    assert len(stage.session.highlight.edges) == len(path.shares)
    assert stage.session.highlight.title.startswith("A path: ")
    names = [GRAPH.node_name(node) for node in path.nodes]
    assert [dock.steps.name(row) for row in range(dock.steps.rowCount())] == names
    so_far = np.cumprod(np.abs(np.r_[1.0, path.shares]))
    told_so_far = [dock.steps.index(row, 3).data() for row in range(len(names))]
    assert told_so_far == [percent(float(strength)) for strength in so_far]
    click_row(stage, dock.table, 4, control=True)
    assert stage.session.highlight.title.startswith("2 paths: ")
    stage.qtbot.keyClick(dock.table, Qt.Key.Key_Down)
    assert stage.session.highlight.title.startswith("A path: ")
    dock.table.clearSelection()
    assert stage.session.highlight.title.startswith("10 strongest paths")


def test_a_step_leads_to_its_node(stage: Stage, dock: PathsDock) -> None:
    click_row(stage, dock.step_table, 1)
    assert stage.session.selection == dock.steps.name(1)
    stage.session.set_selection(dock.steps.name(0))
    assert dock.step_table.currentIndex().row() == 0
    stage.session.set_selection(OUTPUT)
    dock.step_table.setFocus()
    dock.step_table.selectionModel().setCurrentIndex(
        dock.steps.index(1, 0), QItemSelectionModel.SelectionFlag.ClearAndSelect
    )
    stage.qtbot.keyClick(dock.step_table, Qt.Key.Key_Return)
    assert stage.session.selection == dock.steps.name(1)


def test_ends_are_typed_by_what_they_are_called_or_by_name(stage: Stage, dock: PathsDock) -> None:
    line = dock.source.lineEdit()
    assert line is not None
    line.selectAll()
    stage.qtbot.keyClicks(line, "tower")
    stage.qtbot.keyClick(line, Qt.Key.Key_Return)
    stage.settle()
    assert dock.source.name == "P3/token"
    assert dock.answer is not None and dock.answer.query.source == "P3/token"
    node = strongest_feature()
    line = dock.target.lineEdit()
    assert line is not None
    line.selectAll()
    stage.qtbot.keyClicks(line, GRAPH.node_name(node))
    stage.qtbot.keyClick(line, Qt.Key.Key_Return)
    stage.settle()
    assert dock.answer.query.target == GRAPH.node_name(node)
    assert dock.target.currentText().startswith(f"L{int(GRAPH.nodes.layer[node])} #")
    messages: list[Message] = []
    dock.message.connect(messages.append)
    line.selectAll()
    stage.qtbot.keyClicks(line, "no such thing")
    stage.qtbot.keyClick(line, Qt.Key.Key_Return)
    stage.settle()
    assert messages and "no node no such thing" in messages[0].what


def test_ends_are_taken_from_the_graph(stage: Stage, dock: PathsDock) -> None:
    node = strongest_feature()
    stage.session.set_selection(GRAPH.node_name(node))
    dock.to_selected()
    stage.settle()
    assert dock.target.name == GRAPH.node_name(node)
    stage.session.set_selection("P2/token")
    dock.from_selected()
    stage.settle()
    assert dock.answer is not None
    assert (dock.answer.query.source, dock.answer.query.target) == (
        "P2/token",
        GRAPH.node_name(node),
    )
    # The other way round no path leads.
    stage.session.set_selection(OUTPUT)
    dock.from_selected()
    stage.settle()
    assert told(dock).startswith("No path leads from Output “Paris”")
    assert dock.model.rowCount() == 0
    assert stage.session.highlight is None


def test_more_paths_and_fewer_edges(stage: Stage, dock: PathsDock) -> None:
    dock.number.setFocus()
    dock.number.selectAll()
    stage.qtbot.keyClicks(dock.number, "25")
    stage.qtbot.keyClick(dock.number, Qt.Key.Key_Return)
    stage.settle()
    assert dock.model.rowCount() == 25
    dock.among.setFocus()
    stage.qtbot.keyClick(dock.among, Qt.Key.Key_Down)
    stage.settle()
    pruned = stage.session.pruned
    assert pruned is not None and dock.answer is not None
    shown = set(zip(pruned.edge_source.tolist(), pruned.edge_target.tolist(), strict=True))
    for path in dock.answer.found.paths:
        assert set(zip(path.nodes[:-1], path.nodes[1:], strict=True)) <= shown
    assert "along the edges that are shown" in told(dock)
    before = dock.answer
    stage.session.set_pruned(GRAPH.prune(0.3, 0.5))
    stage.settle()
    assert dock.answer is not before
    assert dock.answer.found.influence < before.found.influence


def test_nodes_on_paths_are_pinned_and_chosen(stage: Stage, dock: PathsDock) -> None:
    click_row(stage, dock.table, 0)
    assert dock.answer is not None
    names = tuple(GRAPH.node_name(node) for node in dock.answer.found.paths[0].nodes)
    dock.pin()
    assert stage.session.pinned == names
    stage.session.undo_stack.undo()
    assert stage.session.pinned == ()
    dock.choose()
    assert stage.session.chosen == names


def test_labels_are_used_and_found(stage: Stage, dock: PathsDock) -> None:
    node = strongest_feature()
    feature = f"L{int(GRAPH.nodes.layer[node])}/F{int(GRAPH.nodes.index[node])}"
    stage.session.set_notes(GraphNotes().labelled(feature, "near the end"), "Label", None)
    assert dock.target.findText("near the end", Qt.MatchFlag.MatchContains) >= 0
    assert "near the end" in " ".join(
        dock.model.index(row, 0).data() for row in range(dock.model.rowCount())
    )


def test_columns_sort(stage: Stage, dock: PathsDock) -> None:
    header = dock.table.horizontalHeader()
    dock.table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    steps = [int(dock.model.index(row, 1).data()) for row in range(dock.model.rowCount())]
    assert steps == sorted(steps)
    click_row(stage, dock.table, 0)
    assert dock.answer is not None
    assert len(dock.answer.found.paths[dock._ranks()[0]].shares) == steps[0]
    for column in range(5):
        dock.table.sortByColumn(column, Qt.SortOrder.DescendingOrder)
    assert header.sortIndicatorSection() == 4
    assert dock.model.rowCount(QModelIndex()) == AT_FIRST


def test_another_graph_is_looked_through_anew(stage: Stage, dock: PathsDock) -> None:
    stage.session.set_selection(GRAPH.node_name(strongest_feature()))
    dock.to_selected()
    stage.settle()
    other = synthetic_graph(n_layers=6, n_features=90, seed=4)
    stage.session.set_graph(other, other.prune())
    stage.until(lambda: dock.answer is not None and dock.answer.graph is other)
    assert dock.source.name == ANY_TOKEN
    assert other.has(dock.target.name)
    assert stage.session.highlight is None
    stage.session.set_graph(None, None)
    assert dock.empty
    assert dock.model.rowCount() == 0


def test_with_the_demo_from_node_to_node_by_keys(studio: Studio, qtbot: QtBot) -> None:
    """Select a node, Ctrl+[; another, Ctrl+]; the paths are shown without leaving the graph."""
    graph = traced(studio, qtbot)
    window, session = studio.window, studio.session
    dock = window.docks["paths"]
    assert isinstance(dock, PathsDock)
    session.set_selection("P7/token")
    qtbot.keyClick(window, Qt.Key.Key_BracketLeft, Qt.KeyboardModifier.ControlModifier)
    output = graph.node_name(int(np.argmax(graph.start)))
    session.set_selection(output)
    qtbot.keyClick(window, Qt.Key.Key_BracketRight, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: session.highlight is not None, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert session.highlight is not None
    assert session.highlight.title == "10 strongest paths: Token “Dallas” → Output “Austin”"
    assert not dock.isVisible() or dock.visibleRegion().isEmpty()
    studio.commands.run("go.paths")
    qtbot.waitUntil(lambda: dock.isVisible() and not studio.runner.busy, timeout=LONG)
    assert dock.model.rowCount() == AT_FIRST
    assert session.highlight is not None
    assert len(dock.figures()) == 1
    assert dock.figures()[0].make() is not None
