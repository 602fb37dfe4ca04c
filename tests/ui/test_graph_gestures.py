"""Choosing nodes, freezing what is shown, labels, emphasis and the overview in the graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QColor, QImage, QMouseEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import NodeKind
from attention_studio.core.feature_density import FeatureDensity
from attention_studio.core.graph_notes import feature_of
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import DictionariesId
from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets import graph_scene
from attention_studio.ui.widgets.graph_emphasis import Emphasis
from attention_studio.ui.widgets.graph_minimap import Minimap
from attention_studio.ui.widgets.graph_scene import GraphScene, LinkMode, build_scene
from attention_studio.ui.widgets.graph_view import GraphView
from attention_studio.ui.widgets.role_look import ROLE_LOOKS
from tests.ui.synthetic import synthetic_graph

GRAPH = synthetic_graph()
PRUNED = GRAPH.prune(0.8, 0.9)
LEFT, SHIFT = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier
BOTH = SHIFT | Qt.KeyboardModifier.ControlModifier


@pytest.fixture
def scene() -> GraphScene:
    return build_scene(GRAPH, PRUNED)


@pytest.fixture
def view(qtbot: QtBot, scene: GraphScene) -> GraphView:
    theme = Theme("light")
    theme.apply()
    made = GraphView(theme)
    qtbot.addWidget(made)
    made.resize(1000, 700)
    made.show()
    qtbot.waitExposed(made)
    made.set_scene(scene)
    QApplication.processEvents()
    return made


def picture(view: GraphView) -> QImage:
    return view.grab().toImage()


def at(view: GraphView, name: str) -> QPoint:
    point = view.node_point(name)
    assert point is not None
    return point


def drag(
    qtbot: QtBot, view: GraphView, start: QPoint, end: QPoint, keys: Qt.KeyboardModifier
) -> None:
    qtbot.mousePress(view.viewport(), LEFT, keys, start)
    qtbot.mouseMove(view.viewport(), (start + end) / 2)
    qtbot.mouseMove(view.viewport(), end)
    qtbot.mouseRelease(view.viewport(), LEFT, keys, end)


# -- choosing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "adds"), [(SHIFT, False), (BOTH, True)])
def test_a_rectangle_chooses_what_lies_in_it(
    view: GraphView, qtbot: QtBot, keys: Qt.KeyboardModifier, adds: bool
) -> None:
    frame = view.frame
    assert frame is not None
    start, end = QPoint(420, 200), QPoint(760, 420)
    inside = (frame.x >= 420) & (frame.x <= 760) & (frame.y >= 200) & (frame.y <= 420)
    assert 0 < inside.sum() < frame.scene.n_nodes
    with (
        qtbot.assertNotEmitted(view.selected),
        qtbot.assertNotEmitted(view.pin_toggled),
        qtbot.waitSignal(view.rectangle_chosen) as said,
    ):
        drag(qtbot, view, start, end, keys)
    names, added = said.args
    assert set(names) == {frame.scene.names[local] for local in np.flatnonzero(inside)}
    assert added is adds
    assert view.horizontalScrollBar().value() == 0


def test_the_rectangle_is_seen_while_it_is_drawn(view: GraphView, qtbot: QtBot) -> None:
    before = picture(view)
    qtbot.mousePress(view.viewport(), LEFT, SHIFT, QPoint(420, 200))
    qtbot.mouseMove(view.viewport(), QPoint(700, 400))
    assert picture(view) != before
    qtbot.mouseRelease(view.viewport(), LEFT, SHIFT, QPoint(700, 400))
    assert picture(view) == before


def test_shift_click_and_shift_enter_choose_one(
    view: GraphView, scene: GraphScene, qtbot: QtBot
) -> None:
    name = scene.names[int(np.flatnonzero(scene.kind == graph_scene.EMBEDDING)[2])]
    with qtbot.assertNotEmitted(view.selected), qtbot.waitSignal(view.choice_toggled) as said:
        qtbot.mouseClick(view.viewport(), LEFT, SHIFT, at(view, name))
    assert said.args == [name]
    view.setFocus()
    qtbot.keyClick(view, Qt.Key.Key_Down)
    cursor = view.cursor_node
    with qtbot.assertNotEmitted(view.selected), qtbot.waitSignal(view.choice_toggled) as said:
        qtbot.keyClick(view, Qt.Key.Key_Return, SHIFT)
    assert said.args == [cursor]


def test_what_is_chosen_is_seen(view: GraphView, scene: GraphScene) -> None:
    before = picture(view)
    view.set_chosen(scene.names[:12])
    assert picture(view) != before
    view.set_chosen(())
    assert picture(view) == before


def test_shift_keeps_what_is_shown(view: GraphView, scene: GraphScene) -> None:
    names = [scene.names[int(n)] for n in np.flatnonzero(scene.kind == graph_scene.EMBEDDING)]
    none = Qt.KeyboardModifier.NoModifier
    for name, keys, shown in (
        (names[1], none, names[1]),
        (names[5], SHIFT, names[1]),
        (names[5], none, names[5]),
    ):
        point = QPointF(at(view, name))
        event = QMouseEvent(
            QEvent.Type.MouseMove, point, view.viewport().mapToGlobal(point),
            Qt.MouseButton.NoButton, Qt.MouseButton.NoButton, keys,
        )  # fmt: skip
        QApplication.sendEvent(view.viewport(), event)
        assert view.cursor_node == shown


# -- links ----------------------------------------------------------------------------------------


def test_both_pinned_shows_the_links_among_the_pinned(view: GraphView, scene: GraphScene) -> None:
    edge = int(scene.strongest[-1])
    ends = int(scene.edge_source[edge]), int(scene.edge_target[edge])
    view.set_pinned([scene.names[local] for local in ends])
    view.set_link_mode(LinkMode.PINNED)
    frame = view.frame
    assert frame is not None and frame.coloured is not None
    among = [
        number
        for number in range(scene.n_edges)
        if {int(scene.edge_source[number]), int(scene.edge_target[number])} <= set(ends)
    ]
    assert sorted(frame.coloured.tolist()) == among
    assert edge in among
    view.set_pinned([])
    assert view.frame is not None and view.frame.coloured is None


# -- emphasis -------------------------------------------------------------------------------------


def test_every_role_has_a_sign_and_a_pen_of_its_own() -> None:
    assert set(ROLE_LOOKS) == set(Role)
    assert len({look.sign for look in ROLE_LOOKS.values()}) == len(Role)
    assert len({look.token for look in ROLE_LOOKS.values()}) == len(Role)


def test_an_emphasis_takes_what_the_scene_has(scene: GraphScene) -> None:
    first, second = scene.names[3], scene.names[7]
    highlight = Highlight(
        "a path",
        {first: Role.MARKED, "L0/P1/F999999": Role.MARKED},
        {(first, second): Role.CONFIRMED, (first, "nobody"): Role.REFUTED},
    )
    emphasis = Emphasis.of(highlight, scene)
    assert emphasis is not None
    assert emphasis.nodes.tolist() == [3]
    assert (emphasis.sources.tolist(), emphasis.targets.tolist()) == ([3], [7])
    assert emphasis.edge_roles == (Role.CONFIRMED,)
    assert np.flatnonzero(emphasis.touched(scene.n_nodes)).tolist() == [3, 7]
    assert Emphasis.of(None, scene) is None


@pytest.mark.parametrize("role", list(Role))
def test_emphasised_nodes_and_edges_are_drawn_in_their_roles(
    view: GraphView, scene: GraphScene, role: Role
) -> None:
    before = picture(view)
    edge = int(scene.strongest[-1])
    ends = scene.names[scene.edge_source[edge]], scene.names[scene.edge_target[edge]]
    view.set_highlight(Highlight("x", {ends[0]: role}, {ends: role}))
    after = picture(view)
    colour = QColor(getattr(view._theme.tokens, ROLE_LOOKS[role].token))
    seen = {after.pixel(x, y) for x in range(after.width()) for y in range(0, after.height(), 2)}
    assert colour.rgb() in seen
    view.set_highlight(None)
    assert picture(view) == before


# -- labels and densities -------------------------------------------------------------------------


def test_a_label_is_shown_wherever_the_feature_is_named(view: GraphView, scene: GraphScene) -> None:
    local = int(np.flatnonzero(scene.kind == graph_scene.FEATURE)[0])
    feature = feature_of(scene.names[local])
    assert feature is not None
    labelled = scene.labelled({feature: "says <b>Paris</b>"})
    same = [n for n in range(scene.n_nodes) if feature_of(scene.names[n]) == feature]
    assert [labelled.label(n) for n in same] == ["says <b>Paris</b>"] * len(same)
    assert labelled.caption(local) == "says <b>Paris</b>"
    assert "labelled says <b>Paris</b>" in labelled.describe(local)
    view.set_selected(scene.names[local])
    before = picture(view)
    view.set_scene(labelled)
    assert picture(view) != before
    assert scene.labelled({}) is scene


def test_features_that_are_active_too_often_are_left_out() -> None:
    often = {Site(layer, "mlp"): np.arange(4096, dtype=np.int64) for layer in range(GRAPH.n_layers)}
    density = FeatureDensity(DictionariesId("synthetic"), "", 4096, often)
    whole = build_scene(GRAPH, PRUNED, density=density)
    part = build_scene(GRAPH, PRUNED, density=density, max_density=0.5)
    features = whole.kind == NodeKind.FEATURE
    kept = ~features | (whole.index <= 2048)
    assert 0 < part.n_nodes < whole.n_nodes
    assert part.names == tuple(name for name, keep in zip(whole.names, kept, strict=True) if keep)
    assert np.isnan(whole.density[~features]).all()
    local = int(np.flatnonzero(features)[0])
    assert ("Density", f"{100 * whole.index[local] / 4096:.1f}%") in whole.facts(local)


# -- the overview ---------------------------------------------------------------------------------


def test_the_overview_comes_when_a_part_is_in_view_and_leads_elsewhere(
    view: GraphView, qtbot: QtBot
) -> None:
    assert view.frame is not None and Minimap.box(view.frame) is None
    for _ in range(6):
        view.zoom_in()
    assert view.frame is not None
    box = Minimap.box(view.frame)
    assert box is not None
    with qtbot.assertNotEmitted(view.selected):
        qtbot.mouseClick(view.viewport(), LEFT, pos=(box.topLeft()).toPoint() + QPoint(6, 6))
    assert view.horizontalScrollBar().value() == 0
    assert view.verticalScrollBar().value() == 0
    qtbot.mouseClick(view.viewport(), LEFT, pos=(box.bottomRight()).toPoint() - QPoint(6, 6))
    assert view.horizontalScrollBar().value() == view.horizontalScrollBar().maximum()
    shown = picture(view)
    view.set_minimap(False)
    assert picture(view) != shown


def test_attention_features_are_triangles(qtbot: QtBot, view: GraphView) -> None:
    graph = synthetic_graph(n_layers=6, n_features=80, attention=True)
    both = build_scene(graph, graph.prune(1.0, 1.0))
    triangles = both.shape == graph_scene.ATTENTION_SHAPE
    assert triangles.any()
    names = np.array(both.names)
    is_attention = np.char.startswith(names, "A") & (both.kind == graph_scene.FEATURE)
    assert np.array_equal(triangles, is_attention)
    view.set_scene(both)
    drawn = picture(view)
    view.set_scene(replace(both, shape=both.kind))
    assert picture(view) != drawn
