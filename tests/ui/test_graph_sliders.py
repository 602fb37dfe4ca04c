"""The sliders of the Graph dock: what is pruned and hidden, and when."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt

from attention_studio.core.feature_density import FeatureDensity
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import DictionariesId
from attention_studio.ui.widgets.graph_dock import DEBOUNCE_MS, GraphDock
from attention_studio.ui.widgets.graph_scene import ERROR, FEATURE
from tests.ui.graph_docks import GRAPH, put_graph, scene_of, text
from tests.ui.stage import Stage
from tests.ui.synthetic import synthetic_graph


@pytest.fixture
def dock(stage: Stage) -> GraphDock:
    return put_graph(stage)


def test_sliders_prune_live(stage: Stage, dock: GraphDock) -> None:
    before = scene_of(dock)
    slider = dock.controls.node_slider.slider
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
    dock.controls.edge_slider.slider.setFocus()
    for _ in range(6):
        stage.qtbot.keyClick(dock.controls.edge_slider.slider, Qt.Key.Key_PageDown)
    stage.until(lambda: scene_of(dock) is not fewer)
    stage.settle()
    assert scene_of(dock).n_edges < fewer.n_edges


def test_a_slider_drag_is_one_step_to_undo(stage: Stage, dock: GraphDock) -> None:
    before = scene_of(dock)
    for _ in range(3):
        stage.qtbot.keyClick(dock.controls.node_slider.slider, Qt.Key.Key_Left)
    stage.until(lambda: scene_of(dock) is not before)
    stage.settle()
    stage.session.undo_stack.undo()
    stage.settle()
    assert stage.session.thresholds == pytest.approx((0.8, 0.98))
    assert dock.controls.node_slider.share == pytest.approx(0.8)
    stage.until(lambda: scene_of(dock).n_nodes == before.n_nodes)


def test_only_the_last_of_many_moves_counts(stage: Stage, dock: GraphDock) -> None:
    for share in (0.75, 0.5, 0.65, 0.7):
        stage.session.set_thresholds(share, 0.98)
    stage.until(lambda: scene_of(dock).n_nodes == len(GRAPH.prune(0.7, 0.98).node_ids))
    stage.settle()
    assert dock.controls.node_slider.share == pytest.approx(0.7)
    assert stage.session.pruned is not None
    assert stage.session.pruned.node_threshold == pytest.approx(0.7)


def test_sliders_prune_live_while_a_model_computes(stage: Stage, dock: GraphDock) -> None:
    release = threading.Event()
    stage.runner.submit(lambda _ctx: release.wait(20), title="A harvest")
    before = scene_of(dock)
    try:
        dock.controls.node_slider.slider.setValue(dock.controls.node_slider.slider.value() // 2)
        stage.until(lambda: scene_of(dock) is not before)
    finally:
        release.set()
    stage.settle()


def test_errors_can_be_hidden(stage: Stage, dock: GraphDock) -> None:
    assert ERROR in scene_of(dock).kind
    stage.qtbot.mouseClick(dock.controls.errors, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    stage.until(lambda: ERROR not in scene_of(dock).kind)
    stage.qtbot.mouseClick(dock.controls.errors, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    stage.until(lambda: ERROR in scene_of(dock).kind)


def test_a_hidden_dock_catches_up_when_it_is_shown(stage: Stage, dock: GraphDock) -> None:
    dock.hide()
    other = synthetic_graph(n_layers=6, n_features=90, seed=5)
    stage.session.set_graph(other, None)
    stage.settle()
    assert stage.session.pruned is None, "nothing is pruned for nobody to see"
    dock.show()
    stage.until(lambda: scene_of(dock).n_layers == 6)


def test_a_slider_left_at_once_is_heeded_when_the_dock_shows_again(
    stage: Stage, dock: GraphDock
) -> None:
    before = scene_of(dock)
    stage.qtbot.keyClick(dock.controls.node_slider.slider, Qt.Key.Key_Home)
    dock.hide()
    stage.qtbot.wait(3 * DEBOUNCE_MS)
    assert not stage.runner.busy and scene_of(dock) is before
    dock.show()
    stage.until(lambda: scene_of(dock) is not before)
    pruned = stage.session.pruned
    assert pruned is not None and pruned.node_threshold == 0.0


def test_the_sliders_do_not_wait_for_a_download(stage: Stage, dock: GraphDock) -> None:
    over = threading.Event()
    for lane in ("io", "compute"):
        stage.runner.submit(lambda _ctx: over.wait(20), title="Long", lane=lane)  # type: ignore[arg-type]
    before = scene_of(dock)
    try:
        stage.qtbot.keyClick(dock.controls.node_slider.slider, Qt.Key.Key_PageDown)
        stage.until(lambda: scene_of(dock) is not before)
        assert len(stage.runner.jobs) == 2
    finally:
        over.set()


def test_densities_bring_a_slider_that_hides_features(stage: Stage, dock: GraphDock) -> None:
    controls = dock.controls
    assert controls.count_button.isVisible() and not controls.density_slider.isVisible()
    times = {Site(layer, "mlp"): np.arange(4096, dtype=np.int64) for layer in range(30)}
    stage.session.set_density(FeatureDensity(DictionariesId("synthetic"), "", 4096, times))
    stage.settle()
    assert controls.density_slider.isVisible() and not controls.count_button.isVisible()
    before = scene_of(dock)
    for _ in range(3):
        stage.qtbot.keyClick(controls.density_slider.slider, Qt.Key.Key_PageDown)
    assert controls.density_slider.share == pytest.approx(10**-0.6)
    stage.until(lambda: scene_of(dock) is not before)
    stage.settle()
    features = scene_of(dock).kind == FEATURE
    assert features.any()
    assert scene_of(dock).density[features].max() <= 10**-0.6
    assert scene_of(dock).n_nodes < before.n_nodes
