"""The Compare dock as a person uses it: another prompt, a file, a graph kept, the same again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QFileDialog, QLabel, QLineEdit, QTableView
from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.difference_records import Presence
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.ui.app import Studio
from attention_studio.ui.difference_highlight import (
    ALIKE,
    MORE_SECOND,
    MOST_EDGES,
    ONLY_FIRST,
    ONLY_SECOND,
    WORDS,
    Which,
    difference_highlight,
    listed,
    states,
)
from attention_studio.ui.highlight import Role
from attention_studio.ui.jobs import LaneContext
from attention_studio.ui.widgets.compare_dock import CompareDock
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.positions_table import PositionsModel
from attention_studio.ui.work_comparing import SecondGraph, compare
from tests.ui.demo_window import LONG, traced
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import TOKENS, synthetic_graph

GRAPH = synthetic_graph(n_layers=6, n_features=120)
LONGER = (*TOKENS[:2], " Leaning", " Tower", " of", " Pisa", *TOKENS[4:])


def other_graph() -> AttributionGraph:
    """The same nodes but for some features, and other weights, on another prompt."""
    index = GRAPH.nodes.index.copy()
    index[:40] += 10_000
    data = GRAPH.edges.data.copy()
    data[::3] *= 2.5
    return replace(
        GRAPH,
        prompt="The Tokyo Tower is in the city of",
        tokens=(*TOKENS[:2], " Tokyo", *TOKENS[3:]),
        nodes=replace(GRAPH.nodes, index=index),
        edges=GraphEdges(GRAPH.edges.layout, data),
    )


OTHER = other_graph()


@pytest.fixture
def dock(stage: Stage) -> CompareDock:
    stage.session.set_graph(GRAPH, GRAPH.prune(0.8, 0.98))
    return stage.put(CompareDock)


@pytest.fixture
def compared(stage: Stage, dock: CompareDock, tmp_path: Path) -> CompareDock:
    """The dock with a second graph opened from a file."""
    OTHER.save(tmp_path / "other.safetensors")
    dock.open_second_file(str(tmp_path / "other.safetensors"))
    stage.until(lambda: dock.compared is not None)
    stage.settle()
    return dock


def text(dock: CompareDock, name: str) -> str:
    found = dock.findChild(QLabel, name)
    assert found is not None
    return found.toolTip() or found.text()


def column(table: QTableView, place: int) -> list[str]:
    model = table.model()
    return [model.index(row, place).data() for row in range(model.rowCount())]


def click(stage: Stage, table: QTableView, row: int, place: int = 0) -> None:
    point = table.visualRect(table.model().index(row, place)).center()
    stage.qtbot.mouseClick(
        table.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, point
    )


def choose(box: QComboBox, text: str, stage: Stage) -> None:
    box.setFocus()
    while box.currentText() != text:
        before = box.currentIndex()
        down = box.findText(text) > before
        stage.qtbot.keyClick(box, Qt.Key.Key_Down if down else Qt.Key.Key_Up)
        assert box.currentIndex() != before


# ---- what is drawn, without a window -----------------------------------------------------------


def test_how_things_differ_in_a_word() -> None:
    presence = np.array([0, 0, 1, 2, 0], dtype=np.int8)
    values = np.array([[1.0, 1.1], [1.0, 2.0], [1.0, 0.0], [0.0, 1.0], [-0.5, -0.5]])
    found = states(presence, values, 0.2)
    assert found.tolist() == [ALIKE, MORE_SECOND, ONLY_FIRST, ONLY_SECOND, ALIKE]
    assert [WORDS[state] for state in found] == [
        "alike", "more in 2", "only in 1", "only in 2", "alike",
    ]  # fmt: skip
    assert listed(found, Which.DIFFERENT).tolist() == [1, 2, 3]
    assert listed(found, Which.FIRST).tolist() == [2]
    assert listed(found, Which.SECOND).tolist() == [3]
    assert listed(found, Which.CHANGED).tolist() == [1]
    assert listed(found, Which.ALL).tolist() == [0, 1, 2, 3, 4]


def test_what_the_graph_shows_of_a_difference() -> None:
    second = SecondGraph(OTHER, None, "opened")
    found = compare(LaneContext(), GRAPH, None, second, None, "tokens", (0.8, 0.98))
    nodes = states(found.difference.nodes.presence, found.difference.nodes.influence, 0.2)
    edges = states(found.difference.edges.presence, found.difference.edges.share, 0.2)
    shown = difference_highlight(found, nodes, edges)
    assert shown is not None
    assert all(GRAPH.has(name) for name in shown.nodes)
    assert all(GRAPH.has(name) for edge in shown.edges for name in edge)
    assert 0 < len(shown.edges) <= MOST_EDGES
    for row, node in enumerate(found.difference.nodes.first):
        if node < 0:
            continue
        name = GRAPH.node_name(int(node))
        role = shown.nodes.get(name)
        before, after = found.difference.nodes.influence[row]
        if found.difference.nodes.second[row] < 0:
            assert role is Role.FIRST
        elif abs(after - before) <= 0.2 * max(before, after):
            assert role is None
        else:
            assert role is (Role.SECOND if after > before else Role.FIRST)
    alike = compare(
        LaneContext(), GRAPH, None, SecondGraph(GRAPH, None, "kept"), None, "tokens", (0.8, 0.98)
    )
    none = np.zeros(len(alike.difference.nodes), dtype=np.int64)
    assert difference_highlight(alike, none, none) is None
    json.dumps(found.record, allow_nan=False)
    json.dumps(alike.record, allow_nan=False)


# ---- the dock ------------------------------------------------------------------------------------


def test_without_a_graph_it_says_what_it_is_for(stage: Stage) -> None:
    dock = stage.put(CompareDock)
    assert dock.empty
    for act in (dock.trace_second, dock.keep, dock.rerun, dock.swap, dock.show_differences,
                dock.close_second):  # fmt: skip
        act()
    stage.settle()
    assert dock.empty and dock.second is None


def test_with_one_graph_it_says_where_another_comes_from(stage: Stage, dock: CompareDock) -> None:
    assert not dock.empty
    hint = dock.findChild(QLabel, "compare.hint")
    assert hint is not None and hint.isVisible()
    assert not dock.pages.isVisible()
    messages: list[Message] = []
    dock.message.connect(messages.append)
    dock.swap()
    assert messages[-1].what == "There is no second graph yet"
    assert not unnamed_controls(dock)


def test_a_second_graph_is_opened_with_a_dialog(
    stage: Stage, dock: CompareDock, tmp_path: Path
) -> None:
    OTHER.save(tmp_path / "other.safetensors")
    dock.open_second()
    dialog = dock.findChild(QFileDialog)
    assert dialog is not None
    dialog.fileSelected.emit(str(tmp_path / "other.safetensors"))
    dialog.done(0)
    stage.until(lambda: dock.compared is not None)
    stage.settle()
    assert text(dock, "compare.second").startswith("2 “The Tokyo Tower")
    assert text(dock, "compare.second").endswith("(from a file)")
    assert text(dock, "compare.told").startswith("The two share ")
    messages: list[Message] = []
    dock.message.connect(messages.append)
    (tmp_path / "not.safetensors").write_bytes(b"nothing")
    dock.open_second_file(str(tmp_path / "not.safetensors"))
    stage.settle()
    assert messages[-1].level == "error"
    assert dock.compared is not None, "the other one is still there"


def test_nodes_are_listed_by_how_much_they_differ(stage: Stage, compared: CompareDock) -> None:
    assert compared.compared is not None
    found = compared.compared.difference
    table = compared.pages.node_table
    assert set(column(table, 0)) == {"only in 1", "only in 2", "more in 1", "more in 2"}
    choose(compared.pages.which, "Everything", stage)
    assert table.model().rowCount() == len(found.nodes)
    choose(compared.pages.which, "Only in the first", stage)
    assert table.model().rowCount() == found.count(Presence.FIRST)
    assert set(column(table, 4)) == {"-"}
    choose(compared.pages.which, "Only in the second", stage)
    assert table.model().rowCount() == found.count(Presence.SECOND)
    choose(compared.pages.which, "In both, changed", stage)
    few = table.model().rowCount()
    compared.pages.tolerance.setFocus()
    for _ in range(4):
        stage.qtbot.keyClick(compared.pages.tolerance, Qt.Key.Key_Down)
    assert compared.pages.tolerance.value() == 0
    assert table.model().rowCount() > few
    table.sortByColumn(5, Qt.SortOrder.AscendingOrder)
    changes = [found.nodes.change[compared.pages.nodes.thing(row)] for row in range(5)]
    assert changes == sorted(changes)
    for place in range(6):
        table.sortByColumn(place, Qt.SortOrder.DescendingOrder)
        compared.pages.edge_table.sortByColumn(place, Qt.SortOrder.DescendingOrder)


def test_differences_are_shown_in_the_graph(stage: Stage, compared: CompareDock) -> None:
    highlight = stage.session.highlight
    assert highlight is not None
    assert highlight.title == f"Compared with “{OTHER.prompt}”"
    assert set(highlight.nodes.values()) == {Role.FIRST, Role.SECOND}
    stage.session.set_highlight(None)
    compared.show_differences()
    assert stage.session.highlight == highlight
    compared.pages.tolerance.setValue(90)
    assert stage.session.highlight is not None
    assert len(stage.session.highlight.nodes) < len(highlight.nodes)


def test_a_row_leads_to_its_node(stage: Stage, compared: CompareDock) -> None:
    choose(compared.pages.which, "Only in the first", stage)
    click(stage, compared.pages.node_table, 0)
    assert compared.compared is not None
    node = compared.compared.difference.nodes.first[compared.pages.nodes.thing(0)]
    assert stage.session.selection == GRAPH.node_name(int(node))
    compared.pages.tabs.setCurrentIndex(1)
    choose(compared.pages.which, "All that differs", stage)
    edges = compared.compared.difference.edges
    row = next(
        row
        for row in range(compared.pages.edges.rowCount())
        for target in [int(edges.target[compared.pages.edges.thing(row)])]
        if compared.compared.difference.nodes.first[target] >= 0
    )
    compared.pages.edge_table.setCurrentIndex(compared.pages.edges.index(row, 0))
    compared.pages.edge_table.setFocus()
    stage.qtbot.keyClick(compared.pages.edge_table, Qt.Key.Key_Return)
    target = int(edges.target[compared.pages.edges.thing(row)])
    expected = GRAPH.node_name(int(compared.compared.difference.nodes.first[target]))
    assert stage.session.selection == expected


def test_positions_are_paired_by_hand(stage: Stage, compared: CompareDock) -> None:
    compared.pages.tabs.setCurrentIndex(2)
    table = compared.pages.position_table
    assert column(table, PositionsModel.SIGN) == ["=", "=", "≠", *["="] * 6]
    place = table.positions.index(2, PositionsModel.SECOND)
    assert place.data() == "2  ␣Tokyo"
    table.setFocus()
    table.setCurrentIndex(place)
    stage.qtbot.keyClick(table, Qt.Key.Key_F2)
    box = table.findChild(QComboBox, "compare.position")
    assert box is not None
    assert box.currentText() == "2  ␣Tokyo"
    box.setCurrentIndex(0)
    box.activated.emit(0)
    stage.settle()
    assert compared.compared is not None
    assert compared.compared.difference.positions.second == (0, 1, -1, *range(3, 9))
    assert compared.pages.alignment == "hand"
    assert table.positions.index(2, PositionsModel.SECOND).data() == "(nothing)"
    assert text(compared, "compare.pairs").startswith("8 of 9 and 9 positions")
    before = compared.compared
    compared.pages.how.setCurrentIndex(0)
    compared.pages.how.activated.emit(0)
    stage.until(lambda: compared.compared is not before)
    assert compared.compared.difference.positions.plain


def test_prompts_of_other_lengths_are_aligned_by_their_tokens(
    stage: Stage, dock: CompareDock, tmp_path: Path
) -> None:
    synthetic_graph(LONGER, n_layers=6, n_features=120, seed=3).save(tmp_path / "g.safetensors")
    dock.open_second_file(str(tmp_path / "g.safetensors"))
    stage.until(lambda: dock.compared is not None)
    stage.settle()
    assert dock.compared is not None
    places = dock.compared.difference.positions.second
    assert places[0] == 0 and places[-5:] == (6, 7, 8, 9, 10)
    assert dock.compared.comparison is None
    for how, expected in (("end", 3), ("number", 1)):
        before = dock.compared
        place = dock.pages.how.findData(how)
        dock.pages.how.setCurrentIndex(place)
        dock.pages.how.activated.emit(place)
        stage.until(lambda before=before: dock.compared is not before)  # type: ignore[misc]
        assert dock.compared.difference.positions.second[1] == expected


def test_a_graph_is_kept_and_the_next_one_put_beside_it(stage: Stage, dock: CompareDock) -> None:
    messages: list[Message] = []
    dock.message.connect(messages.append)
    stage.session.set_notes(GraphNotes(pinned=("P2/token",)), "Pin", None)
    dock.keep()
    stage.settle()
    assert messages[-1].what == "The graph is kept to compare with"
    assert dock.compared is None
    stage.session.set_graph(OTHER, OTHER.prune(0.8, 0.98))
    stage.until(lambda: dock.compared is not None)
    assert dock.compared is not None
    assert dock.compared.first is OTHER
    assert dock.compared.second.graph is GRAPH
    assert stage.session.highlight is None, "nobody has asked for that"
    dock.swap()
    stage.settle()
    assert stage.session.graph is GRAPH
    assert stage.session.pinned == ("P2/token",)
    assert dock.compared.first is GRAPH
    assert dock.compared.second.graph is OTHER
    assert stage.session.highlight is not None
    dock.close_second()
    assert dock.second is None and not dock.pages.node_table.isVisible()


def test_thresholds_act_on_both(stage: Stage, compared: CompareDock) -> None:
    assert compared.compared is not None
    before = len(compared.compared.difference.nodes)
    stage.session.set_thresholds(0.5, 0.98)
    stage.settle()
    assert len(compared.compared.difference.nodes) < before


def test_what_was_compared_is_kept_and_its_report_shown_again(
    stage: Stage, compared: CompareDock
) -> None:
    (record,) = stage.session.records["comparison"]
    json.dumps(record, allow_nan=False)
    assert record["origin"] == "opened"
    stage.session.add_record("comparison", {"when": 3, "facts": "damaged"})
    assert column(compared.pages.history_table, 3) == ["", record["told"]]
    made = datetime.fromisoformat(record["when"]).astimezone()
    assert column(compared.pages.history_table, 0) == ["", f"{made:%Y-%m-%d %H:%M}"]
    compared.close_second()
    compared.pages.tabs.setCurrentIndex(4)
    click(stage, compared.pages.history_table, 1)
    assert compared.pages.tabs.currentIndex() == 3
    assert compared.pages.facts.index(0, 0).data() == "≠ Prompt"
    assert record["told"] in text(compared, "compare.report")


def test_a_figure_of_each_table(compared: CompareDock) -> None:
    offers = compared.figures()
    assert [offer.name for offer in offers] == ["differing-nodes", "differing-edges"]
    for offer in offers:
        figure = offer.make()
        assert figure is not None
        assert "Tokyo" in figure.caption


def test_with_the_demo_another_prompt_and_the_same_once_more(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    session = studio.session
    dock = studio.window.docks["compare"]
    assert isinstance(dock, CompareDock)

    def settle() -> None:
        qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)

    studio.commands.run("go.compare")
    line = studio.window.findChild(QLineEdit, "compare.prompt")
    assert line is not None
    qtbot.keyClicks(line, "The capital of the state containing Oakland is")
    qtbot.keyClick(line, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: dock.compared is not None, timeout=LONG)
    settle()
    assert dock.compared is not None
    assert dock.compared.first is graph
    outputs = column(dock.pages.node_table, 1)
    assert any("Sacramento" in words for words in outputs)
    first = dock.compared
    qtbot.keyClick(
        studio.window, Qt.Key.Key_R,
        Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier,
    )  # fmt: skip
    qtbot.waitUntil(lambda: dock.compared is not first, timeout=LONG)
    settle()
    assert dock.compared.comparison is not None and dock.compared.comparison.same
    assert text(dock, "compare.report").startswith("The same: no edge differs at all")
    names = column(dock.pages.fact_table, 0)
    assert {"torch", "Number format", "Hash of the weights", "Hash of the dictionaries"} <= set(
        names
    )
    assert session.highlight is None, "nothing differs"
    assert len(session.records["comparison"]) == 2
    # A graph that its file says was made elsewhere.
    changed = replace(graph, made_with={**graph.made_with, "torch": "0.1"}, model_hash="f" * 64)
    session.set_graph(changed, changed.prune())
    assert studio.commands.run("compare.rerun")
    message = studio.window.messages.current
    assert message is not None and message.offer is not None
    message.offer.run()
    before = dock.compared
    qtbot.waitUntil(lambda: dock.compared is not before and dock.compared is not None, timeout=LONG)
    settle()
    assert "different torch: 0.1 and" in text(dock, "compare.report")
    assert "≠ torch" in column(dock.pages.fact_table, 0)


def test_a_long_comparison_takes_no_keyboard_away(
    stage: Stage, dock: CompareDock, tmp_path: Path
) -> None:
    """Who asked for it may be typing elsewhere by the time that it is done."""
    OTHER.save(tmp_path / "other.safetensors")
    elsewhere = QLineEdit(stage.window)
    elsewhere.show()
    dock.open_second_file(str(tmp_path / "other.safetensors"))
    elsewhere.setFocus()
    stage.until(lambda: dock.compared is not None)
    stage.settle()
    assert elsewhere.hasFocus()


def test_without_a_replacement_model_nothing_is_traced(stage: Stage, dock: CompareDock) -> None:
    dock.prompt.setText("The cat")
    stage.qtbot.keyClick(dock.prompt, Qt.Key.Key_Return)
    stage.settle()
    assert dock.second is None
    for command_id in ("compare.trace", "compare.rerun"):
        assert not stage.commands.action(command_id).isEnabled()
    assert stage.commands.action("compare.keep").isEnabled()
