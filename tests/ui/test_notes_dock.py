"""The Notes dock: labels and remarks typed, listed, edited, taken away, and found again."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLineEdit
from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_notes import GraphNotes, SavedQuery, feature_of
from attention_studio.core.node_query import find_nodes
from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.nodes_dock import NodesDock
from attention_studio.ui.widgets.notes_dock import NotesDock
from attention_studio.ui.widgets.notes_model import WHOLE_GRAPH, Note, NoteKind, changed, notes_of
from tests.ui.demo_window import LONG, traced
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph

Key = Qt.Key


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    return synthetic_graph(n_layers=4, n_features=30)


@pytest.fixture
def dock(stage: Stage, graph: AttributionGraph) -> NotesDock:
    made = stage.put(NotesDock, 900, 300)
    stage.session.set_graph(graph, graph.prune())
    return made


def cells(dock: NotesDock) -> list[tuple[str, str, str]]:
    notes = dock.table.notes
    return [
        (notes.note(row).kind.value, notes.note(row).about, notes.note(row).text)
        for row in range(notes.n_rows)
    ]


def test_it_is_empty_without_a_graph_and_its_controls_have_names(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = stage.put(NotesDock)
    assert dock.empty
    dock.keep()
    stage.session.set_graph(graph, graph.prune())
    assert not dock.empty and unnamed_controls(dock) == []
    for width in (300, 1200):
        stage.window.resize(width, 500)
        stage.settle()
        upright = dock._splitter.orientation() == Qt.Orientation.Vertical
        assert upright == (width == 300)
    stage.theme.toggle()


def test_a_label_is_typed_and_holds_for_the_feature_everywhere(
    stage: Stage, dock: NotesDock
) -> None:
    assert not dock.label.isEnabled(), "the whole graph has no label"
    stage.session.set_selection("L1/P2/F7")
    assert "L1 #7" in dock._title.whole()
    dock.edit_label()
    stage.qtbot.keyClicks(dock.label, "iron ")
    stage.qtbot.keyClick(dock.label, Key.Key_Return)
    assert stage.session.notes.labels == {"L1/F7": "iron"}
    assert stage.session.undo_stack.undoText() == "Label L1 #7 at “Eiffel” “iron”"
    assert cells(dock) == [("Label", "L1 #7", "iron")]
    stage.session.set_selection("L1/P3/F7")
    assert dock.label.text() == "iron"
    stage.session.set_selection("P3/token")
    assert not dock.label.isEnabled() and dock.label.text() == ""
    stage.session.undo_stack.undo()
    assert cells(dock) == []


def test_a_remark_is_kept_as_one_types_in_one_step(stage: Stage, dock: NotesDock) -> None:
    stage.session.set_selection("L1/P2/F7")
    dock.edit_remark()
    stage.qtbot.keyClicks(dock.remark, "why")
    stage.until(lambda: not dock._typing.isActive())
    assert stage.session.notes.remarks == {"L1/P2/F7": "why"}
    stage.qtbot.keyClicks(dock.remark, " here?")
    dock.label.setFocus()
    assert stage.session.notes.remarks == {"L1/P2/F7": "why here?"}
    assert stage.session.undo_stack.count() == 1
    stage.session.undo_stack.undo()
    assert dock.remark.toPlainText() == "" and stage.session.notes.empty


def test_what_is_typed_belongs_to_what_was_selected_then(stage: Stage, dock: NotesDock) -> None:
    stage.qtbot.keyClicks(dock.remark, "about it all")
    stage.session.set_selection("L1/P2/F7")
    assert stage.session.notes.remarks == {"": "about it all"}
    assert dock.remark.toPlainText() == ""
    stage.qtbot.keyClicks(dock.label, "half")
    stage.session.set_selection(None)
    assert stage.session.notes.labels == {"L1/F7": "half"}
    assert dock.remark.toPlainText() == "about it all"
    assert ("Remark", WHOLE_GRAPH, "about it all") in cells(dock)


def full() -> GraphNotes:
    notes, group = GraphNotes().grouped(("L0/P1/F1", "L0/P2/F1"), "Towers")
    notes = notes.labelled("L0/F1", "tower").remarked(group.key, "both").remarked("", "all")
    return notes.remarked("P3/token", "odd").with_queries((SavedQuery("low", "layer<2"),))


def test_everything_written_is_listed_edited_and_taken_away(stage: Stage, dock: NotesDock) -> None:
    stage.session.set_notes(full(), "All")
    assert cells(dock) == [
        ("Label", "L0 #1", "tower"),
        ("Remark", "Towers", "both"),
        ("Remark", WHOLE_GRAPH, "all"),
        ("Remark", "token “Tower”", "odd"),
        ("Supernode", "2 nodes", "Towers"),
        ("Query", "layer<2", "low"),
    ]
    table = dock.table
    table.setFocus()
    table.selectRow(4)
    stage.qtbot.keyClick(table, Key.Key_F2)
    field = table.findChild(QLineEdit)
    assert field is not None
    stage.qtbot.keyClicks(field, "High houses")
    stage.qtbot.keyClick(field, Key.Key_Return)
    stage.settle()
    assert [group.name for group in stage.session.notes.supernodes] == ["High houses"]
    assert stage.session.undo_stack.undoText() == "Change the supernode Towers"
    for _ in range(6):
        table.selectRow(0)
        stage.qtbot.keyClick(table, Key.Key_Delete)
    # With the supernode its remark goes; its nodes stay pinned.
    assert cells(dock) == []
    assert stage.session.notes == GraphNotes(pinned=("L0/P1/F1", "L0/P2/F1"))
    while stage.session.undo_stack.index() > 1:
        stage.session.undo_stack.undo()
    assert stage.session.notes == full()


def test_enter_goes_to_what_a_note_is_about(
    stage: Stage, dock: NotesDock, graph: AttributionGraph
) -> None:
    notes, _ = GraphNotes().grouped(("L0/P1/F1",), "One")
    stage.session.set_notes(notes.remarked("P3/token", "odd"), "All")
    dock.table.setFocus()
    dock.table.selectRow(0)
    stage.qtbot.keyClick(dock.table, Key.Key_Return)
    assert stage.session.selection == "P3/token"
    dock.table.selectRow(1)
    stage.qtbot.keyClick(dock.table, Key.Key_Return)
    assert stage.session.chosen == ("L0/P1/F1",)


def test_a_changed_note_changes_nothing_else() -> None:
    notes = full()
    for note in notes_of(notes):
        again = changed(notes, note, f"{note.text}!")
        texts = [other.text for other in notes_of(again)]
        expected = [f"{o.text}!" if o == note else o.text for o in notes_of(notes)]
        assert texts == expected
        gone = changed(notes, note, "  ")
        dissolved = note.kind is NoteKind.SUPERNODE  # its remark goes with it
        assert len(notes_of(gone)) == len(notes_of(notes)) - (2 if dissolved else 1)
        assert gone.pinned == notes.pinned
    assert Note(NoteKind.LABEL, "L0/F1", "L0 #1", "tower") in notes_of(notes)


def test_in_the_window_a_label_is_typed_listed_and_found(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    session, docks = studio.session, studio.window.docks
    pruned = session.pruned
    assert pruned is not None
    feature = next(
        name for name in map(graph.node_name, pruned.node_ids.tolist()) if feature_of(name)
    )
    session.set_selection(feature)
    assert studio.commands.run("notes.label")
    dock, nodes = docks["notes"], docks["nodes"]
    assert isinstance(dock, NotesDock) and isinstance(nodes, NodesDock)
    assert dock.label.hasFocus()
    qtbot.keyClicks(dock.label, "my own words")
    qtbot.keyClick(dock.label, Key.Key_Return)
    assert session.notes.label_of(feature) == "my own words"
    dock.table.setFocus()
    dock.table.selectRow(0)
    qtbot.keyClick(dock.table, Key.Key_Return)
    assert session.query == feature_of(feature) and nodes.isVisible()
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    qtbot.waitUntil(lambda: nodes.nodes.n_rows > 0, timeout=LONG)
    listed = [nodes.nodes.name(row) for row in range(nodes.nodes.n_rows)]
    assert feature in listed and {feature_of(name) for name in listed} == {feature_of(feature)}
    # The script of the command finds the same nodes.
    script = studio.window.scripts.script("nodes.query")
    assert "find_nodes" in script
    held = {"graph": graph, "pruned": pruned, "notes": session.notes, "find_nodes": find_nodes}
    exec(f"found = {script.split('found = ')[1]}", held)
    assert list(held["found"]) == listed  # type: ignore[call-overload]
    assert studio.commands.run("go.history")
    assert "my own words" in docks["history"].steps.index(1).data()  # type: ignore[attr-defined]
