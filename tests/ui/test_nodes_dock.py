"""The Nodes dock as a person uses it: asking, choosing, pinning, labelling, copying."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLineEdit
from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.node_query import NodeView
from attention_studio.core.node_table import NodeTable, TableEdges
from attention_studio.ui import work_nodes
from attention_studio.ui.app import Studio
from attention_studio.ui.highlight import Role
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.nodes_dock import NodesDock
from attention_studio.ui.widgets.nodes_model import Column
from attention_studio.ui.widgets.nodes_table import NodesTable
from attention_studio.ui.widgets.query_bar import KEEP, NOTHING_KEPT
from tests.ui.demo_window import LONG, traced
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph

Key, Modifier = Qt.Key, Qt.KeyboardModifier


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    return synthetic_graph(n_layers=8, n_features=200)


@pytest.fixture
def dock(stage: Stage, graph: AttributionGraph) -> NodesDock:
    made = stage.put(NodesDock, 1000, 500)
    stage.session.set_graph(graph, graph.prune(0.8, 0.9))
    stage.settle()
    return made


def names(dock: NodesDock) -> list[str]:
    return [dock.nodes.name(row) for row in range(dock.nodes.n_rows)]


def ask(stage: Stage, dock: NodesDock, text: str) -> None:
    dock.edit.setFocus()
    dock.edit.selectAll()
    stage.qtbot.keyClicks(dock.edit, text)
    stage.qtbot.keyClick(dock.edit, Key.Key_Escape)
    stage.until(lambda: not dock._typing.isActive())
    stage.settle()


def click(stage: Stage, dock: NodesDock, row: int, column: Column, *modifier: Modifier) -> None:
    index = dock.nodes.index(row, column)
    dock.table.scrollTo(index)
    place = dock.table.visualRect(index).center()
    keys = modifier[0] if modifier else Modifier.NoModifier
    stage.qtbot.mouseClick(dock.table.viewport(), Qt.MouseButton.LeftButton, keys, place)


def test_it_is_empty_at_first_and_every_control_has_a_name(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = stage.put(NodesDock)
    assert dock.empty
    stage.session.set_graph(graph, graph.prune())
    stage.settle()
    assert not dock.empty
    assert unnamed_controls(dock) == []
    stage.theme.toggle()
    stage.theme.set_scale(2.0)
    stage.theme.set_scale(0.8)
    stage.session.set_graph(None, None)
    stage.settle()
    assert dock.empty and dock.nodes.n_rows == 0


def test_it_lists_what_is_shown_the_most_influential_first(
    stage: Stage, dock: NodesDock, graph: AttributionGraph
) -> None:
    pruned = stage.session.pruned
    assert pruned is not None
    assert sorted(names(dock)) == sorted(graph.node_name(int(n)) for n in pruned.node_ids)
    influence = [float(graph.influence[graph.find(name)]) for name in names(dock)]
    assert influence == sorted(influence, reverse=True)
    dock.scope.setFocus()
    stage.qtbot.keyClick(dock.scope, Key.Key_Down)
    stage.settle()
    assert len(names(dock)) == len(graph.nodes)
    assert f"{len(graph.nodes)} of {len(graph.nodes)} nodes" in dock._outcome.whole()


def test_typing_narrows_the_table_and_marks_what_fits_in_the_graph(
    stage: Stage, dock: NodesDock
) -> None:
    every = names(dock)
    ask(stage, dock, "layer>=5 kind=feature")
    fitting = names(dock)
    assert fitting == [n for n in every if n.startswith("L") and "/F" in n and int(n[1]) >= 5]
    assert 0 < len(fitting) < len(every)
    highlight = stage.session.highlight
    assert highlight is not None and "layer>=5 kind=feature" in highlight.title
    assert dict(highlight.nodes) == dict.fromkeys(fitting, Role.MARKED)
    stage.qtbot.mouseClick(dock._shown, Qt.MouseButton.LeftButton)
    assert stage.session.highlight is None
    stage.qtbot.mouseClick(dock._shown, Qt.MouseButton.LeftButton)
    assert stage.session.highlight is not None
    assert stage.session.query == "layer>=5 kind=feature"
    ask(stage, dock, " ")
    assert names(dock) == every and stage.session.highlight is None


def test_another_view_keeps_its_highlight(stage: Stage, dock: NodesDock) -> None:
    ask(stage, dock, "L3")
    mine = stage.session.highlight
    assert mine is not None
    stage.session.set_highlight(None)
    stage.session.toggle_pin(names(dock)[0])
    stage.settle()
    assert stage.session.highlight is None, (
        "what was cleared stays so until something else is asked"
    )
    ask(stage, dock, "L4")
    assert stage.session.highlight is not None


def test_a_mistake_is_underlined_and_said_where_it_is(stage: Stage, dock: NodesDock) -> None:
    ask(stage, dock, "pos=1 lyer>3")
    stage.qtbot.keyClick(dock.edit, Key.Key_Return)
    assert dock.edit.error is not None and dock.edit.error.start == 6
    assert "lyer" in dock._outcome.whole() and "column 7" in dock._outcome.whole()
    assert dock._outcome.property("role") == "error"
    stage.settle()
    wrong = stage.theme.colour("error").name()
    picture = dock.edit.grab().toImage()
    red = [
        x
        for x in range(picture.width())
        for y in range(picture.height() // 2, picture.height())
        if picture.pixelColor(x, y).name() == wrong
    ]
    letters = dock.edit.fontMetrics()
    left = letters.horizontalAdvance("pos=1 ")
    right = left + letters.horizontalAdvance("lyer")
    assert red and left <= min(red) and max(red) <= right + 20
    ask(stage, dock, "pos=1 layer>3")
    assert dock.edit.error is None and dock._outcome.property("role") == "caption"


def test_what_can_follow_is_offered_and_taken(stage: Stage, dock: NodesDock) -> None:
    edit = dock.edit
    edit.setFocus()
    stage.qtbot.keyClicks(edit, "lay")
    assert edit.suggesting
    assert [text for text, _ in edit.suggestions.items] == ["layer"]
    stage.qtbot.keyClick(edit, Key.Key_Tab)
    assert edit.text() == "layer"
    assert [text for text, _ in edit.suggestions.items][:2] == ["=", "!="]
    stage.qtbot.keyClicks(edit, "=3 pos=")
    tokens = [text for text, _ in edit.suggestions.items]
    assert "Eiffel" in tokens
    assert edit.error is None, "who is still typing is not told what is missing"
    row = tokens.index("Eiffel")
    index = edit.suggestions.list.model().index(row, 0)
    edit.suggestions.list.scrollTo(index)
    place = edit.suggestions.list.visualRect(index).center()
    stage.qtbot.mouseClick(edit.suggestions.list.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert edit.text() == "layer=3 pos=Eiffel" and not edit.suggesting
    stage.until(lambda: not dock._typing.isActive())
    stage.settle()
    assert all(name.startswith("L3/P2/") for name in names(dock))
    stage.qtbot.keyClicks(edit, " ki")
    stage.qtbot.keyClick(edit, Key.Key_Down)
    stage.qtbot.keyClick(edit, Key.Key_Return)
    assert edit.text().endswith(" kind") and edit.suggesting
    stage.qtbot.keyClick(edit, Key.Key_Escape)
    assert not edit.suggesting and edit.text().endswith(" kind")
    edit.selectAll()
    stage.qtbot.keyClick(edit, Key.Key_Space, Modifier.ControlModifier)
    assert edit.suggesting
    dock.scope.setFocus()
    assert not edit.suggesting
    edit.setFocus()
    edit.selectAll()
    stage.qtbot.keyClicks(edit, "pos=")
    stage.until(lambda: not dock._typing.isActive())
    assert edit.error is None
    dock.table.setFocus()
    assert edit.error is not None, "who has left is told what is missing"


def test_examples_begin_a_query(stage: Stage, dock: NodesDock) -> None:
    dock.edit.setFocus()
    stage.qtbot.keyClick(dock.edit, Key.Key_F1)
    shown = dock.bar.examples_list
    assert shown is not None and shown.isVisible() and shown.list.hasFocus()
    stage.qtbot.keyClick(shown.list, Key.Key_Down)
    stage.qtbot.keyClick(shown.list, Key.Key_Return)
    assert not shown.isVisible() and dock.edit.hasFocus()
    assert dock.edit.text() == "layer=3..8"
    stage.settle()
    assert len(names(dock)) > 0 and all(n.startswith("L") for n in names(dock))
    stage.qtbot.mouseClick(dock.bar.help, Qt.MouseButton.LeftButton)
    assert shown.isVisible()
    stage.qtbot.keyClick(shown.list, Key.Key_Escape)
    assert not shown.isVisible() and dock.edit.text() == "layer=3..8"


def test_a_query_is_kept_and_taken_up_again(stage: Stage, dock: NodesDock) -> None:
    stage.qtbot.mouseClick(dock.bar.saved, Qt.MouseButton.LeftButton)
    shown = dock.bar.saved_list
    assert shown is not None and [text for text, _ in shown.items] == [NOTHING_KEPT]
    stage.qtbot.keyClick(shown.list, Key.Key_Return)
    ask(stage, dock, "layer=2")
    for _ in range(2):  # the second time it is there already
        stage.qtbot.mouseClick(dock.bar.saved, Qt.MouseButton.LeftButton)
        assert shown.items[0][0] == KEEP
        stage.qtbot.keyClick(shown.list, Key.Key_Return)
    assert [query.text for query in stage.session.notes.queries] == ["layer=2"]
    ask(stage, dock, "layer=3")
    stage.qtbot.mouseClick(dock.bar.saved, Qt.MouseButton.LeftButton)
    assert shown.items == ((KEEP, "layer=3"), ("layer=2", "layer=2"))
    stage.qtbot.keyClick(shown.list, Key.Key_Down)
    stage.qtbot.keyClick(shown.list, Key.Key_Return)
    stage.settle()
    assert dock.edit.text() == "layer=2" and all(n.startswith("L2") for n in names(dock))
    stage.session.undo_stack.undo()
    assert stage.session.notes.queries == ()


def test_rows_are_chosen_together_with_clicks_and_keys(stage: Stage, dock: NodesDock) -> None:
    listed = names(dock)
    click(stage, dock, 1, Column.NODE)
    assert stage.session.chosen == (listed[1],) and stage.session.selection == listed[1]
    click(stage, dock, 4, Column.TOKEN, Modifier.ShiftModifier)
    assert stage.session.chosen == tuple(listed[1:5])
    click(stage, dock, 2, Column.NODE, Modifier.ControlModifier)
    assert stage.session.chosen == (listed[1], listed[3], listed[4])
    assert "3 chosen" in dock._outcome.whole()
    dock.table.setFocus()
    stage.qtbot.keyClick(dock.table, Key.Key_A, Modifier.ControlModifier)
    assert stage.session.chosen == tuple(listed)
    assert stage.commands.run("nodes.choose_none")
    assert stage.session.chosen == () and dock.table.chosen_rows() == []


def test_the_table_follows_what_others_choose_and_select(stage: Stage, dock: NodesDock) -> None:
    listed = names(dock)
    stage.session.set_chosen((listed[3], listed[4], listed[9], "not here"))
    assert dock.table.chosen_rows() == [3, 4, 9]
    assert stage.session.chosen[-1] == "not here", "following must not change what is chosen"
    dock.table.sortByColumn(Column.TOKEN, Qt.SortOrder.AscendingOrder)
    assert {dock.nodes.name(row) for row in dock.table.chosen_rows()} == {
        listed[3], listed[4], listed[9]
    }  # fmt: skip
    stage.session.set_selection(listed[5])
    row = int(dock.nodes.rows_of((listed[5],))[0])
    bold = dock.nodes.index(row, Column.NODE).data(Qt.ItemDataRole.FontRole)
    assert bold.bold() and stage.session.selection == listed[5]
    ask(stage, dock, "chosen")
    assert set(names(dock)) == {listed[3], listed[4], listed[9]}
    stage.session.set_chosen((listed[0],))
    stage.settle()
    assert names(dock) == [listed[0]]


def test_pins_with_space_and_undo(stage: Stage, dock: NodesDock) -> None:
    listed = names(dock)
    stage.session.set_chosen(listed[2:4])
    dock.table.setFocus()
    dock.table.selectionModel().setCurrentIndex(
        dock.nodes.index(2, 0), dock.table.selectionModel().SelectionFlag.NoUpdate
    )
    stage.qtbot.keyClick(dock.table, Key.Key_Space)
    assert stage.session.pinned == tuple(listed[2:4])
    stage.settle()
    assert dock.nodes.index(2, 0).data(Qt.ItemDataRole.DecorationRole) is not None
    assert dock.nodes.index(0, 0).data(Qt.ItemDataRole.DecorationRole) is None
    assert stage.session.undo_stack.undoText() == "Pin 2 nodes"
    stage.qtbot.keyClick(dock.table, Key.Key_Space)
    assert stage.session.pinned == ()
    stage.session.undo_stack.undo()
    assert stage.session.pinned == tuple(listed[2:4])
    stage.settle()
    stage.qtbot.keyClick(dock.table, Key.Key_Delete)
    assert stage.session.pinned == ()


def test_labels_and_remarks_are_written_in_the_table(stage: Stage, dock: NodesDock) -> None:
    ask(stage, dock, "kind=feature")
    name = names(dock)[0]
    click(stage, dock, 0, Column.LABEL)
    stage.qtbot.keyClick(dock.table, Key.Key_Return)
    field = dock.table.findChild(QLineEdit)
    assert field is not None
    stage.qtbot.keyClicks(field, "iron tower")
    stage.qtbot.keyClick(field, Key.Key_Return)
    stage.settle()
    assert stage.session.notes.label_of(name) == "iron tower"
    assert "iron tower" in [dock.nodes.index(r, Column.LABEL).data() for r in range(3)]
    ask(stage, dock, "label~IRON")
    assert name in names(dock)
    row = names(dock).index(name)
    click(stage, dock, row, Column.REMARK)
    stage.qtbot.keyClick(dock.table, Key.Key_F2)
    field = dock.table.findChild(QLineEdit)
    assert field is not None
    stage.qtbot.keyClicks(field, "why here?")
    stage.qtbot.keyClick(field, Key.Key_Return)
    stage.settle()
    assert stage.session.notes.remarks[name] == "why here?"
    assert stage.session.undo_stack.undoText().startswith("Remark on iron tower (L")
    stage.session.set_chosen((name,))
    stage.qtbot.keyClick(dock.table, Key.Key_Delete)
    stage.settle()
    assert name not in stage.session.notes.remarks
    assert stage.session.notes.label_of(name) == "iron tower"
    ask(stage, dock, "kind=token")
    click(stage, dock, 0, Column.LABEL)
    stage.qtbot.keyClick(dock.table, Key.Key_F2)
    assert dock.table.findChild(QLineEdit) is None
    assert stage.session.notes.labels == {
        f"{name.split('/')[0]}/{name.split('/')[2]}": "iron tower"
    }


def test_inputs_and_outputs_are_chosen(
    stage: Stage, dock: NodesDock, graph: AttributionGraph
) -> None:
    pruned = stage.session.pruned
    assert pruned is not None
    target = int(pruned.edge_target[0])
    stage.session.set_chosen((graph.node_name(target),))
    assert stage.commands.run("nodes.inputs")
    stage.settle()
    mine = pruned.edge_target == target
    order = np.argsort(-np.abs(pruned.edge_share[mine]), kind="stable")
    expected = [graph.node_name(int(node)) for node in pruned.edge_source[mine][order]]
    assert list(stage.session.chosen) == expected
    stage.session.set_chosen((graph.node_name(int(pruned.edge_source[0])),))
    assert stage.commands.run("nodes.outputs")
    stage.settle()
    assert graph.node_name(target) in stage.session.chosen
    heard: list[object] = []
    dock.chosen.message.connect(heard.append)
    tokens = next(name for name in names(dock) if name.endswith("/token"))
    stage.session.set_chosen((tokens,))
    assert stage.commands.run("nodes.inputs")
    stage.settle()
    assert stage.session.chosen == (tokens,) and len(heard) == 1


def test_rows_are_copied_as_a_table(stage: Stage, dock: NodesDock) -> None:
    listed = names(dock)
    stage.session.set_notes(GraphNotes().remarked(listed[1], "two\nlines\tand a tab"), "Remark")
    stage.settle()
    click(stage, dock, 0, Column.NODE)
    click(stage, dock, 1, Column.NODE, Modifier.ShiftModifier)
    stage.qtbot.keyClick(dock.table, Key.Key_C, Modifier.ControlModifier)
    stage.settle()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["name", *listed[:2]]
    assert len({line.count("\t") for line in lines}) == 1
    assert "two lines and a tab" in lines[2]
    stage.session.set_chosen(())
    assert stage.commands.run("nodes.copy")
    stage.settle()
    assert len(QGuiApplication.clipboard().text().splitlines()) == 1 + len(listed)


def test_heads_sort_and_what_is_unknown_counts_least(stage: Stage, dock: NodesDock) -> None:
    header = dock.table.horizontalHeader()
    middle = QPoint(header.sectionViewportPosition(Column.ACTIVATION) + 20, header.height() // 2)
    stage.qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=middle)
    stage.qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=middle)
    shown = [dock.nodes.index(row, Column.ACTIVATION).data() for row in range(dock.nodes.n_rows)]
    known = [float(text) for text in shown if text]
    assert known == sorted(known, reverse=True)
    assert "" in shown and shown.index("") == len(known)
    stage.session.set_notes(stage.session.notes.remarked(names(dock)[-1], "a remark"), "Remark")
    stage.settle()
    dock.table.sortByColumn(Column.REMARK, Qt.SortOrder.AscendingOrder)
    assert dock.nodes.index(0, Column.REMARK).data() == "a remark"
    dock.table.sortByColumn(Column.NODE, Qt.SortOrder.AscendingOrder)
    assert names(dock)[0].endswith("/token") and "/logit/" in names(dock)[-1]


def test_text_from_models_and_people_stays_plain(stage: Stage, dock: NodesDock) -> None:
    name = next(name for name in names(dock) if "/F" in name)
    odd = stage.session.notes.remarked(name, "<b>x</b> & <img src=x>")
    stage.session.set_notes(odd, "Remark")
    stage.settle()
    row = names(dock).index(name)
    tip = dock.nodes.index(row, Column.REMARK).data(Qt.ItemDataRole.ToolTipRole)
    assert "&lt;b&gt;" in tip and "<b>" not in tip


def test_twenty_thousand_rows_are_fluid(stage: Stage, graph: AttributionGraph) -> None:
    small, times = NodeTable.of(graph), 20_000 // len(graph.nodes) + 1
    columns = {
        name: np.tile(getattr(small, name), times)
        for name in ("kind", "module", "layer", "position", "index", "activation", "probability",
                     "influence", "depth")
    }  # fmt: skip
    names = tuple(f"{name}-{turn}" for turn in range(times) for name in small.names)
    big = NodeTable(names=names, titles=small.titles * times, tokens=small.tokens, **columns)
    shown = np.ones(len(big), dtype=bool)
    view = NodeView(big, TableEdges(graph, None), shown)
    table = NodesTable(stage.theme)
    stage.qtbot.addWidget(table)
    table.resize(1000, 400)
    table.show()
    table.nodes.show(view, np.arange(len(big)))
    assert table.nodes.n_rows == len(big) > 20_000

    def cost(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        table.repaint()
        return time.process_time() - began

    # Generous bounds for a busy machine: a table that asks every row for everything takes seconds.
    assert cost(lambda: table.sortByColumn(Column.ACTIVATION, Qt.SortOrder.DescendingOrder)) < 0.5
    assert cost(table.selectAll) < 0.5
    assert cost(lambda: table.sortByColumn(Column.NODE, Qt.SortOrder.AscendingOrder)) < 0.5
    assert cost(table.scrollToBottom) < 0.5


# -- in the real window ---------------------------------------------------------------------------


def test_in_the_window_densities_are_measured_when_a_query_asks(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_nodes, "DENSITY_TOKENS", 256)
    traced(studio, qtbot)
    assert studio.commands.run("nodes.query")
    dock = studio.window.docks["nodes"]
    assert isinstance(dock, NodesDock)
    dock.set_query("density<3% kind=feature")
    waited(studio, qtbot)
    assert dock.nodes.n_rows == 0 and dock._measure.isVisible()
    seen: list[SessionPart] = []
    studio.session.changed.connect(lambda part, _by: seen.append(part))
    qtbot.mouseClick(dock._measure, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: studio.session.density is not None, timeout=LONG)
    waited(studio, qtbot)
    assert SessionPart.DENSITY in seen and not dock._measure.isVisible()
    density, graph = studio.session.density, studio.session.graph
    assert density is not None and graph is not None and density.n_tokens == 256
    assert dock.nodes.n_rows > 0
    for name in (dock.nodes.name(row) for row in range(dock.nodes.n_rows)):
        node = graph.find(name)
        site = graph.nodes.site(node)
        assert site is not None and density.of(site, int(graph.nodes.index[node])) < 0.03
    assert not dock.table.isColumnHidden(Column.DENSITY)


def waited(studio: Studio, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    qtbot.wait(20)
