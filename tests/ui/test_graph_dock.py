"""The Graph dock as a person uses it: sliders, panel, pins, undo, pictures."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QLabel

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.ui import work
from attention_studio.ui.widgets import graph_dock
from attention_studio.ui.widgets.graph_dock import GraphDock, PictureError
from attention_studio.ui.widgets.graph_scene import ERROR, FEATURE, GraphScene, LinkMode
from attention_studio.ui.widgets.message_bar import Message
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph

GRAPH = synthetic_graph()


@pytest.fixture
def dock(stage: Stage) -> GraphDock:
    made = stage.put(GraphDock)
    stage.session.set_prompt(GRAPH.prompt)
    stage.session.set_graph(GRAPH, GRAPH.prune(0.8, 0.98))
    stage.until(lambda: made.scene is not None)
    stage.settle()
    return made


def scene_of(dock: GraphDock) -> GraphScene:
    assert dock.scene is not None
    return dock.scene


def hub(scene: GraphScene) -> str:
    """A feature with many inputs and outputs."""
    n = scene.n_nodes
    degree = np.minimum(
        np.bincount(scene.edge_target, minlength=n), np.bincount(scene.edge_source, minlength=n)
    )
    degree[scene.kind != FEATURE] = 0
    return scene.names[int(degree.argmax())]


def click_node(stage: Stage, dock: GraphDock, name: str, *, control: bool = False) -> None:
    point = dock.view.node_point(name)
    assert point is not None
    keys = Qt.KeyboardModifier.ControlModifier if control else Qt.KeyboardModifier.NoModifier
    stage.qtbot.mouseClick(dock.view.viewport(), Qt.MouseButton.LeftButton, keys, point)


def text(dock: GraphDock, name: str) -> str:
    found = dock.findChild(QLabel, name)
    assert found is not None
    return found.text()


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
    assert dock._counts.whole().startswith(f"{scene.n_nodes} of ")
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
    from dataclasses import replace

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


def test_sliders_prune_live(stage: Stage, dock: GraphDock) -> None:
    before = scene_of(dock)
    slider = dock.node_slider.slider
    slider.setFocus()
    for _ in range(4):
        stage.qtbot.keyClick(slider, Qt.Key.Key_PageDown)
    assert stage.session.thresholds == pytest.approx((0.6, 0.98))
    stage.until(lambda: scene_of(dock) is not before)
    stage.settle()
    after = scene_of(dock)
    assert after.n_nodes < before.n_nodes
    assert after.n_nodes == len(GRAPH.prune(0.6, 0.98).node_ids)
    assert stage.session.pruned is not None
    assert stage.session.pruned.node_threshold == pytest.approx(0.6)
    assert text(dock, "graph.nodes.value") == "60%"
    fewer = after
    dock.edge_slider.slider.setFocus()
    for _ in range(6):
        stage.qtbot.keyClick(dock.edge_slider.slider, Qt.Key.Key_PageDown)
    stage.until(lambda: scene_of(dock) is not fewer)
    stage.settle()
    assert scene_of(dock).n_edges < fewer.n_edges


def test_a_slider_drag_is_one_step_to_undo(stage: Stage, dock: GraphDock) -> None:
    before = scene_of(dock)
    for _ in range(3):
        stage.qtbot.keyClick(dock.node_slider.slider, Qt.Key.Key_Left)
    stage.until(lambda: scene_of(dock) is not before)
    stage.settle()
    stage.session.undo_stack.undo()
    stage.settle()
    assert stage.session.thresholds == pytest.approx((0.8, 0.98))
    assert dock.node_slider.share == pytest.approx(0.8)
    stage.until(lambda: scene_of(dock).n_nodes == before.n_nodes)


def test_only_the_last_of_many_moves_counts(stage: Stage, dock: GraphDock) -> None:
    for share in (0.75, 0.5, 0.65, 0.7):
        stage.session.set_thresholds(share, 0.98)
    stage.until(lambda: scene_of(dock).n_nodes == len(GRAPH.prune(0.7, 0.98).node_ids))
    stage.settle()
    assert dock.node_slider.share == pytest.approx(0.7)
    assert stage.session.pruned is not None
    assert stage.session.pruned.node_threshold == pytest.approx(0.7)


def test_sliders_prune_live_while_a_model_computes(stage: Stage, dock: GraphDock) -> None:
    release = threading.Event()
    stage.runner.submit(lambda _ctx: release.wait(20), title="A harvest")
    before = scene_of(dock)
    try:
        dock.node_slider.slider.setValue(dock.node_slider.slider.value() // 2)
        stage.until(lambda: scene_of(dock) is not before)
    finally:
        release.set()
    stage.settle()


def test_errors_can_be_hidden(stage: Stage, dock: GraphDock) -> None:
    assert ERROR in scene_of(dock).kind
    stage.qtbot.mouseClick(dock.errors, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    stage.until(lambda: ERROR not in scene_of(dock).kind)
    stage.qtbot.mouseClick(dock.errors, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    stage.until(lambda: ERROR in scene_of(dock).kind)


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


def test_another_prompt_offers_to_trace_again(stage: Stage, dock: GraphDock) -> None:
    assert not dock._again.isVisible()
    stage.session.set_prompt("Something else")
    assert not dock._again.isVisible(), "there is nothing to trace with"
    assert "Eiffel" in dock._prompt.whole(), "the picture still says for which prompt it is"


def test_the_build_command_traces_on_a_lane(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def traced(_ctx: object, crm: object, prompt: str, settings: object, at: object) -> object:
        asked.append((crm, prompt, settings, at))
        return work.TracedGraph(GRAPH, GRAPH.prune(0.8, 0.98))

    monkeypatch.setattr(work, "build_graph", traced)
    dock = stage.put(GraphDock)
    stage.commands.bind("graph", dock)
    crm = object()
    stage.session.set_crm(crm, None)  # type: ignore[arg-type]
    stage.session.set_prompt(GRAPH.prompt)
    button = dock.findChild(graph_dock.CommandButton, "button.graph.build")
    assert button is not None
    assert button.isEnabled()
    stage.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    stage.until(lambda: dock.scene is not None)
    assert asked == [(crm, GRAPH.prompt, None, (0.8, 0.98))]
    assert stage.session.graph is GRAPH
    assert not dock.empty


def test_a_failure_is_said_in_the_message_bar(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> object:
        raise PictureError("It broke", "for a test", "try again")

    monkeypatch.setattr(work, "build_graph", fails)
    dock = stage.put(GraphDock)
    stage.session.set_crm(object(), None)  # type: ignore[arg-type]
    stage.session.set_prompt("A prompt")
    with stage.qtbot.waitSignal(dock.message) as said:
        dock.build()
    message = said.args[0]
    assert isinstance(message, Message)
    assert (message.level, message.what) == ("error", "It broke")
    stage.settle()
    assert not dock.strip.isVisible()


def export(stage: Stage, dock: GraphDock, path: Path) -> Message:
    """Have the picture written; return what is said about it."""
    with stage.qtbot.waitSignal(dock.message) as said:
        dock.export_file(str(path))
    stage.settle()
    message = said.args[0]
    assert isinstance(message, Message)
    return message


def test_pictures_are_exported(stage: Stage, dock: GraphDock, tmp_path: Path) -> None:
    stage.session.set_selection(hub(scene_of(dock)))
    png, svg = tmp_path / "graph.png", tmp_path / "graph.svg"
    assert export(stage, dock, png).level == "success"
    image = QImage(str(png))
    assert image.width() >= 1000
    colours = {image.pixel(x, y) for x in range(0, image.width(), 40) for y in range(0, 900, 20)}
    assert len(colours) > 5
    assert export(stage, dock, svg).level == "success"
    assert GRAPH.prompt in svg.read_text(encoding="utf-8")
    refused = export(stage, dock, tmp_path / "graph.bmp")
    assert refused.level == "error" and "bmp" in refused.what
    assert sorted(tmp_path.iterdir()) == [png, svg]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_that_cannot_be_written_leaves_the_older_one(
    stage: Stage, dock: GraphDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / f"graph{suffix}"
    path.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full)
    said = export(stage, dock, path)
    assert said.level == "error" and "could not be written" in said.what
    assert "disk is full" in said.why
    assert path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]


def test_a_saved_graph_opens_again_as_it_was(stage: Stage, dock: GraphDock, tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    GRAPH.save(path)
    before = scene_of(dock)
    stage.session.set_graph(AttributionGraph.load(path), None)
    stage.until(lambda: scene_of(dock) is not before)
    stage.settle()
    assert scene_of(dock).names == before.names
    assert scene_of(dock).words == before.words


def test_a_hidden_dock_catches_up_when_it_is_shown(stage: Stage, dock: GraphDock) -> None:
    dock.hide()
    other = synthetic_graph(n_layers=6, n_features=90, seed=5)
    stage.session.set_graph(other, None)
    stage.settle()
    assert stage.session.pruned is None, "nothing is pruned for nobody to see"
    dock.show()
    stage.until(lambda: scene_of(dock).n_layers == 6)


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
    stage.qtbot.mouseClick(dock.panel_button, Qt.MouseButton.LeftButton)
    assert not dock.panel.isVisible()
    frame = dock.view.frame
    assert frame is not None
    rows = frame.rows()
    assert rows.max() < frame.plot.bottom(), "thirty layers fit a small window"


def test_every_control_has_its_names(dock: GraphDock) -> None:
    assert unnamed_controls(dock) == []
