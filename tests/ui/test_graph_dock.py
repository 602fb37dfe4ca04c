"""The Graph dock as a person uses it: picture, panel, pins, labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtWidgets import QApplication, QLabel, QMenu, QPushButton

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_notes import feature_of
from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.widgets import graph_dock
from attention_studio.ui.widgets.controls import ElidedLabel
from attention_studio.ui.widgets.graph_dock import GraphDock
from attention_studio.ui.widgets.graph_scene import LinkMode
from tests.ui.graph_docks import GRAPH, hub, put_graph, scene_of, text
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph


@pytest.fixture
def dock(stage: Stage) -> GraphDock:
    return put_graph(stage)


def click_node(stage: Stage, dock: GraphDock, name: str, *, control: bool = False) -> None:
    point = dock.view.node_point(name)
    assert point is not None
    keys = Qt.KeyboardModifier.ControlModifier if control else Qt.KeyboardModifier.NoModifier
    stage.qtbot.mouseClick(dock.view.viewport(), Qt.MouseButton.LeftButton, keys, point)


def test_it_is_empty_at_first_and_says_what_fills_it(stage: Stage) -> None:
    dock = stage.put(GraphDock)
    assert dock.empty
    button = dock.findChild(graph_dock.CommandButton, "button.graph.build")
    assert button is not None
    assert button.text() == "Trace the prompt"
    assert not button.isEnabled(), "without a replacement model there is nothing to trace with"
    stage.theme.toggle()
    dock.build()
    dock.fit()
    dock.pin_selected()
    dock.clear_selection()
    stage.settle()
    assert dock.empty


def test_a_graph_in_the_session_is_drawn(stage: Stage, dock: GraphDock) -> None:
    assert not dock.empty
    scene = scene_of(dock)
    pruned = stage.session.pruned
    assert pruned is not None
    assert scene.n_nodes == len(pruned.node_ids)
    assert dock.facts.counts.whole().startswith(f"{scene.n_nodes} of ")
    assert dock.view.scene is scene


def test_scores_are_told_with_a_mark_and_in_words(dock: GraphDock) -> None:
    value = dock.findChild(QLabel, "graph.score.replacement")
    assert value is not None
    assert value.text() == f"✓ {GRAPH.scores.replacement:.1%}"
    assert value.property("role") == "success"
    assert "features" in value.toolTip()
    exact = dock.findChild(QLabel, "graph.score.identity")
    assert exact is not None
    assert exact.text().startswith("✓")
    assert "good" in exact.accessibleName()


def test_a_graph_that_does_not_add_up_is_marked(stage: Stage) -> None:

    graph = synthetic_graph(n_layers=6, n_features=80)
    wrong = replace(graph, values=graph.values + np.float32(3.0))
    dock = stage.put(GraphDock)
    stage.session.set_graph(wrong, None)
    stage.until(lambda: dock.scene is not None)
    value = dock.findChild(QLabel, "graph.score.identity")
    assert value is not None
    assert value.text().startswith("⚠")
    assert value.property("role") == "warning"
    assert "do not trust" in value.toolTip()


def test_click_selects_in_the_session_and_fills_the_panel(
    stage: Stage,
    dock: GraphDock,
) -> None:
    scene = scene_of(dock)
    name = hub(scene)
    stage.session.set_selection(name)
    local = scene.local_of[name]
    inputs = dock.panel.table(LinkMode.INPUTS).edges
    assert inputs.rowCount() == int((scene.edge_target == local).sum())
    weights = np.abs(scene.edge_weight[scene.edge_target == local])
    first = float(inputs.index(0, 2).data())
    assert abs(first) == pytest.approx(weights.max(), abs=0.006)
    pruned = stage.session.pruned
    assert pruned is not None
    node = int(scene.node_ids[local])
    shares = pruned.edge_share[pruned.edge_target == node]
    assert inputs.total_share() == pytest.approx(np.abs(shares).sum(), rel=1e-5)
    assert inputs.index(0, 3).data().strip("+-%") == f"{100 * np.abs(shares).max():.1f}"
    assert scene.title(local) in dock.panel._title.whole()


def test_a_row_of_the_panel_leads_to_its_node(stage: Stage, dock: GraphDock) -> None:
    scene = scene_of(dock)
    stage.session.set_selection(hub(scene))
    table = dock.panel.table(LinkMode.OUTPUTS)
    expected = table.edges.name(1)
    QApplication.processEvents()  # the selection's line above has its place before one points
    place = table.visualRect(table.edges.index(1, 0)).center()
    stage.qtbot.mouseMove(table.viewport(), place)
    assert dock.view.cursor_node == expected
    stage.qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert stage.session.selection == expected
    assert scene.title(scene.local_of[expected]) == dock.panel._title.whole()


def test_click_and_ctrl_click_in_the_picture(stage: Stage, dock: GraphDock) -> None:
    scene = scene_of(dock)
    name = scene.names[int(np.flatnonzero(scene.kind == 2)[3])]
    click_node(stage, dock, name)
    assert stage.session.selection == name
    click_node(stage, dock, name, control=True)
    assert stage.session.pinned == (name,)
    assert dock.panel.pins.pins.rowCount() == 1
    stage.session.undo_stack.undo()
    assert stage.session.pinned == ()
    assert dock.panel.pins.pins.rowCount() == 0
    stage.session.undo_stack.redo()
    assert stage.session.pinned == (name,)


def test_delete_in_the_list_unpins(stage: Stage, dock: GraphDock) -> None:
    names = scene_of(dock).names[:2]
    for name in names:
        stage.session.toggle_pin(name)
    pins = dock.panel.pins
    row = pins.visualRect(pins.model().index(1, 0))
    stage.qtbot.mouseClick(pins.viewport(), Qt.MouseButton.LeftButton, pos=row.center())
    assert stage.session.selection == names[1]
    stage.qtbot.keyClick(pins, Qt.Key.Key_Delete)
    assert stage.session.pinned == names[:1]


def test_the_pin_button_follows_the_selection(stage: Stage, dock: GraphDock) -> None:
    name = hub(scene_of(dock))
    button = dock.panel._pin
    assert not button.isEnabled()
    stage.session.set_selection(name)
    stage.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert stage.session.pinned == (name,)
    assert button.isChecked()
    stage.session.set_selection(scene_of(dock).names[0])
    assert not button.isChecked()


def test_keys_in_the_picture_reach_the_session(stage: Stage, dock: GraphDock) -> None:
    dock.view.setFocus()
    stage.qtbot.keyClick(dock.view, Qt.Key.Key_Down)
    stage.qtbot.keyClick(dock.view, Qt.Key.Key_Return)
    assert stage.session.selection is not None
    stage.qtbot.keyClick(dock.view, Qt.Key.Key_P)
    assert stage.session.pinned == (stage.session.selection,)
    stage.qtbot.keyClick(dock.view, Qt.Key.Key_Escape)
    assert stage.session.selection is None


def test_a_node_that_is_pruned_away_is_said_to_be(stage: Stage, dock: GraphDock) -> None:
    stage.session.set_selection("L0/P1/F999999")
    assert "Not in the picture" in text(dock, "connections.facts")
    assert dock.panel.table(LinkMode.INPUTS).edges.rowCount() == 0
    assert dock.view.frame is not None
    assert dock.view.frame.selected is None


def test_a_saved_graph_opens_again_as_it_was(stage: Stage, dock: GraphDock, tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    GRAPH.save(path)
    before = scene_of(dock)
    stage.session.set_graph(AttributionGraph.load(path), None)
    stage.until(lambda: scene_of(dock) is not before)
    stage.settle()
    assert scene_of(dock).names == before.names
    assert scene_of(dock).words == before.words


def test_the_graph_can_go_away(stage: Stage, dock: GraphDock) -> None:
    stage.session.set_graph(None, None)
    stage.settle()
    assert dock.empty
    assert dock.scene is None
    assert dock.view.scene is None


def test_it_survives_themes_and_text_sizes(stage: Stage, dock: GraphDock) -> None:
    stage.session.set_selection(hub(scene_of(dock)))
    for _ in range(2):
        stage.theme.toggle()
        stage.settle()
        assert not dock.grab().isNull()
    stage.theme.set_scale(1.6)
    stage.settle()
    frame = dock.view.frame
    assert frame is not None
    assert frame.plot.height() > 100
    assert not dock.grab().isNull()


def test_the_panel_gives_way_and_can_be_hidden(stage: Stage, dock: GraphDock) -> None:
    wide = dock.panel.width()
    stage.window.resize(760, 600)
    stage.settle()
    assert dock.panel.width() < wide
    assert dock.view.width() > 1.6 * dock.panel.width()
    assert dock.panel.table(LinkMode.INPUTS).isColumnHidden(2)
    stage.qtbot.mouseClick(dock.controls.panel_button, Qt.MouseButton.LeftButton)
    assert not dock.panel.isVisible()
    frame = dock.view.frame
    assert frame is not None
    rows = frame.rows()
    assert rows.max() < frame.plot.bottom(), "thirty layers fit a small window"


def test_every_control_has_its_names(dock: GraphDock) -> None:
    assert unnamed_controls(dock) == []


def test_the_pinned_nodes_are_scored_alone(stage: Stage, dock: GraphDock) -> None:
    assert not dock.facts.pinned_scores.isVisible()
    names = [name for name in scene_of(dock).names if "/F" in name][:6]
    stage.session.set_pinned(names)
    stage.settle()
    wanted = GRAPH.subgraph_scores([GRAPH.find(name) for name in names])
    assert text(dock, "pinned.score.replacement").endswith(f"{100 * wanted.replacement:.1f}%")
    stage.session.set_pinned(())
    stage.settle()
    assert not dock.facts.pinned_scores.isVisible()


def test_what_is_emphasised_is_said_and_can_be_cleared(stage: Stage, dock: GraphDock) -> None:
    first, second = scene_of(dock).names[:2]
    roles = {first: Role.CONFIRMED, second: Role.REFUTED}
    stage.session.set_highlight(Highlight("2 edges verified", roles))
    title = dock.findChild(ElidedLabel, "graph.emphasis.title")
    assert title is not None and title.isVisible()
    assert title.whole() == "2 edges verified"
    legend = text(dock, "graph.emphasis.legend")
    assert "✓ confirmed" in legend and "✗ refuted" in legend
    assert dock.view.frame is not None and dock.view.frame.emphasis is not None
    stage.commands.bind("graph", dock)
    button = dock.findChild(QPushButton, "graph.emphasis.clear")
    assert isinstance(button, QPushButton)
    stage.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert stage.session.highlight is None
    assert not title.isVisible()


def test_chosen_nodes_come_and_go_with_shift(stage: Stage, dock: GraphDock) -> None:
    names = [name for name in scene_of(dock).names if name.endswith("/token")]
    dock.view.choice_toggled.emit(names[0])
    dock.view.choice_toggled.emit(names[3])
    assert stage.session.chosen == (names[0], names[3])
    assert dock.facts.findChild(QLabel, "graph.choice.count").isVisible()  # type: ignore[union-attr]
    dock.view.choice_toggled.emit(names[0])
    assert stage.session.chosen == (names[3],)
    dock.view.rectangle_chosen.emit((names[1], names[3]), True)
    assert stage.session.chosen == (names[3], names[1])
    dock.view.rectangle_chosen.emit((names[2],), False)
    assert stage.session.chosen == (names[2],)
    assert stage.session.selection is None and stage.session.pinned == ()


def test_the_picture_points_at_rows_of_the_panel(stage: Stage, dock: GraphDock) -> None:
    stage.session.set_selection(hub(scene_of(dock)))
    table = dock.panel.table(LinkMode.INPUTS)
    name = table.edges.name(2)
    dock.view.hovered.emit(name)
    assert [index.row() for index in table.selectionModel().selectedRows()] == [2]
    dock.view.hovered.emit(None)
    assert not table.selectionModel().hasSelection()


def test_a_label_reaches_panel_and_picture(stage: Stage, dock: GraphDock) -> None:
    name = hub(scene_of(dock))
    feature = feature_of(name)
    assert feature is not None
    stage.session.set_selection(name)
    stage.session.set_notes(stage.session.notes.labelled(feature, "the answer"), "Label")
    assert "“the answer”" in text(dock, "connections.facts")
    assert scene_of(dock).label(scene_of(dock).local_of[name]) == "the answer"
    stage.session.undo_stack.undo()
    assert "the answer" not in text(dock, "connections.facts")


def test_the_graph_gets_the_whole_screen_and_goes_back(stage: Stage, dock: GraphDock) -> None:
    stage.commands.bind("graph", dock)
    assert stage.commands.run("graph.full_screen")
    assert dock.isFullScreen()
    assert stage.commands.action("graph.full_screen").isChecked()
    assert stage.commands.run("graph.full_screen")
    assert not dock.isFullScreen() and not dock.isFloating()
    assert not stage.commands.action("graph.full_screen").isChecked()


def test_a_right_click_offers_what_can_be_done_with_a_node(stage: Stage, dock: GraphDock) -> None:
    stage.commands.bind("graph", dock)
    name = hub(scene_of(dock))
    point = dock.view.node_point(name)
    assert point is not None
    event = QContextMenuEvent(
        QContextMenuEvent.Reason.Mouse, point, dock.view.viewport().mapToGlobal(point)
    )
    QApplication.sendEvent(dock.view.viewport(), event)
    assert stage.session.selection == name
    menu = dock.findChild(QMenu, "graph.menu")
    assert menu is not None and menu.isVisible()
    pin = next(action for action in menu.actions() if action.data() == "graph.pin")
    pin.trigger()
    assert stage.session.pinned == (name,)
    menu.close()


def test_queries_and_keys_are_asked_when_their_tab_is_seen(stage: Stage, dock: GraphDock) -> None:
    qk = dock.panel.qk
    assert "Select an attention feature" in qk.says.text()
    dock.panel.tabs.setCurrentWidget(qk)
    stage.session.set_selection("A3/P2/F17")
    assert "needs the replacement model" in qk.says.text()
    stage.session.set_selection(hub(scene_of(dock)))
    assert "Select an attention feature" in qk.says.text()
