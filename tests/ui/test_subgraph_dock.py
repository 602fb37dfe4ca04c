"""The subgraph: boxes that are dragged, chosen, grouped and named by clicks and by keys."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QPoint, QPointF, QRectF, Qt
from PySide6.QtGui import QAccessible, QImage, QMouseEvent, QPainter
from PySide6.QtWidgets import QApplication, QLabel, QPushButton

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.subgraph import strongest_to_pin
from attention_studio.ui.figures.look import FigureLook
from attention_studio.ui.figures.subgraph_figure import SubgraphFigure
from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.tokens import LIGHT
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.subgraph_dock import SubgraphDock
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    return synthetic_graph(n_layers=8, n_features=200)


def shown(stage: Stage, graph: AttributionGraph, pins: int = 9) -> SubgraphDock:
    """The dock with the beginning of a subgraph in it."""
    dock = stage.put(SubgraphDock)
    stage.session.set_graph(graph, graph.prune())
    stage.session.set_pinned(strongest_to_pin(graph, pins))
    settle(stage, dock)
    return dock


def settle(stage: Stage, dock: SubgraphDock) -> None:
    """Wait until boxes are where they are to be."""
    stage.settle()
    stage.until(lambda: not dock.view.moving)
    stage.settle()


def point(dock: SubgraphDock, key: str) -> QPoint:
    at = dock.view.box_point(key)
    assert at is not None
    return at.toPoint()


def click(
    stage: Stage,
    dock: SubgraphDock,
    key: str,
    modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
) -> None:
    at = point(dock, key)
    # The left part of a box: the middle of a supernode's lower line is a member's sign.
    stage.qtbot.mouseClick(dock.view, LEFT, modifier, at + QPoint(0, -12))
    settle(stage, dock)


def drag(
    stage: Stage,
    dock: SubgraphDock,
    start: QPoint,
    end: QPoint,
    modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
) -> None:
    """Press, move in steps, release: qtbot's own moves carry no buttons."""
    view = dock.view

    def send(kind: QEvent.Type, at: QPoint, held: Qt.MouseButton) -> None:
        button = LEFT if kind != QEvent.Type.MouseMove else Qt.MouseButton.NoButton
        place = QPointF(at)
        event = QMouseEvent(kind, place, QPointF(view.mapToGlobal(at)), button, held, modifier)
        QApplication.sendEvent(view, event)

    send(QEvent.Type.MouseButtonPress, start, LEFT)
    for part in (0.3, 0.7, 1.0):
        send(QEvent.Type.MouseMove, start + (end - start) * part, LEFT)
    send(QEvent.Type.MouseButtonRelease, end, Qt.MouseButton.NoButton)
    settle(stage, dock)


def key(
    stage: Stage,
    dock: SubgraphDock,
    which: Qt.Key,
    modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
) -> None:
    stage.qtbot.keyClick(dock.view, which, modifier)
    settle(stage, dock)


def features(dock: SubgraphDock) -> list[str]:
    assert dock.view.scene is not None
    return [name for name in dock.view.scene.keys if "/F" in name]


def assert_apart(dock: SubgraphDock) -> None:
    scene = dock.view.scene
    assert scene is not None
    for a, b in itertools.combinations(range(len(scene)), 2):
        wide = (scene.width[a] + scene.width[b]) / 2 - abs(scene.x[a] - scene.x[b])
        high = (scene.height[a] + scene.height[b]) / 2 - abs(scene.y[a] - scene.y[b])
        assert wide <= 1e-6 or high <= 1e-6, (scene.keys[a], scene.keys[b])


def test_an_empty_subgraph_says_how_to_fill_it(stage: Stage, graph: AttributionGraph) -> None:
    dock = stage.put(SubgraphDock)
    assert dock.empty
    assert dock.findChild(QPushButton, "subgraph.trace").isVisible()
    stage.session.set_graph(graph, graph.prune())
    stage.settle()
    begin = dock.findChild(QPushButton, "button.subgraph.begin")
    assert dock.empty
    assert begin.isVisible()
    stage.qtbot.mouseClick(begin, LEFT)
    settle(stage, dock)
    assert not dock.empty
    assert dock.view.scene is not None
    assert set(dock.view.scene.keys) == set(stage.session.pinned) != set()
    stage.session.undo_stack.undo()
    stage.settle()
    assert dock.empty
    stage.session.set_graph(None, None)
    stage.settle()
    assert dock.findChild(QPushButton, "subgraph.trace").isVisible()


def test_too_many_boxes_are_said_to_be_too_many_until_some_are_grouped(
    stage: Stage, graph: AttributionGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = shown(stage, graph)
    said: list[Message] = []
    dock.message.connect(said.append)
    monkeypatch.setattr("attention_studio.core.subgraph.MOST_BOXES", 9)
    more = [graph.node_name(node) for node in range(3)]
    stage.session.set_pinned((*stage.session.pinned, *more), text="Pin more")
    settle(stage, dock)
    assert dock.view.scene is None
    assert "Too much is pinned" in said[-1].what
    assert any("at most 9 are drawn" in words.text() for words in dock.findChildren(QLabel)
               if words.isVisibleTo(dock))  # fmt: skip
    notes, _ = stage.session.notes.grouped(stage.session.pinned[:4], "four")
    stage.session.set_notes(notes, "Group them", None)
    settle(stage, dock)
    assert dock.view.scene is not None
    assert len(dock.view.scene) == 9


def test_boxes_are_chosen_grouped_named_and_ungrouped_with_the_mouse(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    first, second, third = features(dock)[:3]
    click(stage, dock, first)
    assert stage.session.selection == first
    click(stage, dock, second, SHIFT)
    assert stage.session.chosen == (first, second)
    click(stage, dock, third, SHIFT)
    click(stage, dock, third, SHIFT)
    assert stage.session.chosen == (first, second)
    assert stage.commands.run("subgraph.group")
    settle(stage, dock)
    editor = dock.view._editor
    assert editor.active
    assert editor.hasFocus()
    stage.qtbot.keyClicks(editor, "say Paris")
    stage.qtbot.keyClick(editor, Qt.Key.Key_Return)
    settle(stage, dock)
    (group,) = stage.session.notes.supernodes
    assert (group.name, group.nodes) == ("say Paris", (first, second))
    scene = dock.view.scene
    assert scene is not None
    assert scene.words[scene.keys.index(group.key)].title == "say Paris"
    assert first not in scene.keys
    assert_apart(dock)
    # A member's sign selects the member, and it can be taken out.
    sign = dock.view.member_point(group.key, 1)
    assert sign is not None
    stage.qtbot.mouseClick(dock.view, LEFT, pos=sign.toPoint())
    settle(stage, dock)
    member = scene.subgraph.names(scene.keys.index(group.key))[1]
    assert stage.session.selection == member
    assert dock.view.state.member == graph.find(member)
    assert stage.commands.run("subgraph.take_out")
    settle(stage, dock)
    assert member not in stage.session.notes.supernodes[0].nodes
    stage.session.undo_stack.undo()
    settle(stage, dock)
    click(stage, dock, group.key)
    assert stage.session.selection == group.key
    assert stage.commands.run("subgraph.ungroup")
    settle(stage, dock)
    assert stage.session.notes.supernodes == ()
    assert set(stage.session.chosen) == {first, second}
    for _ in range(3):
        stage.session.undo_stack.undo()
    settle(stage, dock)
    assert stage.session.notes.supernodes == ()
    assert_apart(dock)


def test_whoever_groups_elsewhere_is_not_asked_for_a_name_later(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    dock.hide()
    stage.session.set_chosen(features(dock)[:2])
    assert stage.commands.run("subgraph.group")
    assert len(stage.session.notes.supernodes) == 1
    assert stage.session.notes.supernodes[0].name
    dock.show()
    settle(stage, dock)
    assert dock.view.scene is not None
    assert stage.session.notes.supernodes[0].key in dock.view.scene.keys
    assert not dock.view._editor.active


def test_everything_can_be_done_from_the_keyboard(stage: Stage, graph: AttributionGraph) -> None:
    dock = shown(stage, graph)
    view = dock.view
    view.setFocus()
    key(stage, dock, Qt.Key.Key_Down)
    assert view.pointed_key is not None
    seen = {view.pointed_key}
    for _ in range(4):
        key(stage, dock, Qt.Key.Key_Down)
        seen.add(view.pointed_key)
    assert len(seen) > 2
    name = features(dock)[0]
    while view.pointed_key != name:
        before = view.pointed_key
        scene = view.scene
        assert scene is not None
        at, to = scene.keys.index(before or ""), scene.keys.index(name)
        if abs(scene.y[to] - scene.y[at]) > 1:
            up = scene.y[to] < scene.y[at]
            key(stage, dock, Qt.Key.Key_Up if up else Qt.Key.Key_Down)
        else:
            right = scene.x[to] > scene.x[at]
            key(stage, dock, Qt.Key.Key_Right if right else Qt.Key.Key_Left)
        assert view.pointed_key != before
    assert "of its input comes from boxes shown" in view.accessibleDescription()
    key(stage, dock, Qt.Key.Key_Return)
    assert stage.session.selection == name
    # Another label, then none after Escape.
    key(stage, dock, Qt.Key.Key_F2)
    assert view._editor.active
    stage.qtbot.keyClicks(view._editor, "city")
    stage.qtbot.keyClick(view._editor, Qt.Key.Key_Return)
    settle(stage, dock)
    assert stage.session.notes.label_of(name) == "city"
    assert view.hasFocus()
    key(stage, dock, Qt.Key.Key_F2)
    stage.qtbot.keyClicks(view._editor, "town")
    stage.qtbot.keyClick(view._editor, Qt.Key.Key_Escape)
    settle(stage, dock)
    assert stage.session.notes.label_of(name) == "city"
    # Moving with Ctrl and arrows is one step of the history, and stays.
    steps = stage.session.undo_stack.count()
    for _ in range(3):
        key(stage, dock, Qt.Key.Key_Right, CTRL)
    assert stage.session.undo_stack.count() == steps + 1
    assert view.scene is not None
    here = view.scene.keys.index(name)
    assert view.scene.placed[here]
    assert stage.session.notes.places[name] == (view.scene.x[here], view.scene.y[here])
    assert_apart(dock)
    # Space chooses; G groups, U ungroups, P unpins.
    stage.session.set_chosen(())
    key(stage, dock, Qt.Key.Key_Space)
    other = features(dock)[1]
    stage.session.set_chosen((*stage.session.chosen, other))
    assert set(stage.session.chosen) == {name, other}
    key(stage, dock, Qt.Key.Key_G)
    stage.qtbot.keyClick(view._editor, Qt.Key.Key_Escape)
    assert len(stage.session.notes.supernodes) == 1
    key(stage, dock, Qt.Key.Key_U)
    assert stage.session.notes.supernodes == ()
    stage.session.set_chosen(())
    stage.session.set_selection(other)
    key(stage, dock, Qt.Key.Key_P)
    assert other not in stage.session.pinned
    zoom = view.zoom
    key(stage, dock, Qt.Key.Key_Plus)
    assert view.zoom > zoom
    key(stage, dock, Qt.Key.Key_F)
    assert view.zoom == pytest.approx(zoom, rel=0.5)
    key(stage, dock, Qt.Key.Key_Escape)
    assert stage.session.selection is None


def test_a_box_stays_where_it_is_dragged_and_others_make_room(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    first, second = features(dock)[:2]
    target = point(dock, second)
    drag(stage, dock, point(dock, first), target + QPoint(6, 3))
    place = stage.session.notes.places[first]
    scene = dock.view.scene
    assert scene is not None
    assert (scene.x[scene.keys.index(first)], scene.y[scene.keys.index(first)]) == place
    assert_apart(dock)
    at = point(dock, first)
    assert abs(at.x() - target.x() - 6) <= 2
    # Pinning another node leaves it there.
    more = next(
        graph.node_name(int(node))
        for node in graph.prune().node_ids
        if graph.node_name(int(node)) not in stage.session.pinned
    )
    stage.session.toggle_pin(more)
    settle(stage, dock)
    assert stage.session.notes.places[first] == place
    scene = dock.view.scene
    assert scene is not None
    assert scene.x[scene.keys.index(first)] == place[0]
    assert_apart(dock)
    assert stage.commands.run("subgraph.release")
    settle(stage, dock)
    assert not stage.session.notes.places
    stage.session.undo_stack.undo()
    assert stage.session.notes.places[first] == place


def test_a_click_with_ctrl_unpins_and_a_frame_chooses(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    view = dock.view
    gone = features(dock)[0]
    click(stage, dock, gone, CTRL)
    assert gone not in stage.session.pinned
    drag(stage, dock, QPoint(2, 2), QPoint(view.width() - 3, view.height() - 3), SHIFT)
    assert set(stage.session.chosen) == set(stage.session.pinned)
    assert view.scene is not None
    assert view.state.chosen == frozenset(range(len(view.scene)))
    # A drag on nothing pans.
    before = point(dock, features(dock)[0])
    drag(stage, dock, QPoint(3, 3), QPoint(43, 23))
    assert point(dock, features(dock)[0]) - before == QPoint(40, 20)


def test_links_and_scores_follow_what_is_asked_for(stage: Stage, graph: AttributionGraph) -> None:
    dock = shown(stage, graph)
    scene = dock.view.scene
    assert scene is not None
    assert (np.abs(scene.share) >= 0.02).all()
    dock.least.setFocus()
    stage.qtbot.keyClick(dock.least, Qt.Key.Key_Home)
    settle(stage, dock)
    scene = dock.view.scene
    assert scene is not None
    assert len(scene.links) == len(scene.subgraph.share)
    kept = [graph.find(name) for name in stage.session.pinned]
    expected = graph.subgraph_scores(kept)
    assert scene.subgraph.scores == expected
    shown_score = dock.scores._values["replacement"].text()
    assert f"{100 * expected.replacement:.1f}%" in shown_score
    assert f"{len(kept)} nodes" in dock._counts.whole()


def test_a_layout_that_comes_after_its_subgraph_went_is_dropped(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    stage.session.set_pinned(())
    settle(stage, dock)
    # On its way from the lane when the pins went.
    dock.arranger._on_arranged((None, False))
    assert not stage.runner.busy and dock.view.scene is None


def test_what_is_highlighted_is_drawn_and_can_be_cleared(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    plain = dock.view.grab().toImage()
    first = features(dock)[0]
    scene = dock.view.scene
    assert scene is not None
    link = (scene.keys[scene.source[-1]], scene.keys[scene.target[-1]])
    stage.session.set_highlight(Highlight("two things", {first: Role.FIRST}, {link: Role.REFUTED}))
    settle(stage, dock)
    assert dock.view.state.boxes == {scene.keys.index(first): Role.FIRST}
    assert list(dock.view.state.links.values()) == [Role.REFUTED]
    assert dock._highlighted.whole() == "two things"
    assert dock.view.grab().toImage() != plain
    stage.qtbot.mouseClick(dock._clear, LEFT)
    assert stage.session.highlight is None
    assert dock._highlighted.isHidden()
    assert dock.view.grab().toImage() == plain


def test_suggestions_are_shown_rejected_and_accepted_with_the_scores_they_promise(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    panel = dock.panel
    assert panel.isHidden()
    panel.likeness.setValue(0.05)
    panel.one_token.setChecked(False)
    assert stage.commands.run("subgraph.suggest")
    settle(stage, dock)
    assert panel.isVisible()
    assert len(panel.found) >= 2
    gone, wanted = panel.found[0], panel.found[1]
    stage.qtbot.mouseClick(panel.cards[1].show_button, LEFT)
    assert stage.session.highlight is not None
    assert set(stage.session.highlight.nodes) == set(wanted.nodes)
    stage.qtbot.mouseClick(panel.cards[0].reject_button, LEFT)
    stage.settle()
    assert gone not in panel.found
    place = [suggestion.nodes for suggestion in panel.found].index(wanted.nodes)
    panel.cards[place].accept_button.setFocus()
    stage.qtbot.keyClick(panel.cards[place].accept_button, Qt.Key.Key_Space)
    settle(stage, dock)
    (group,) = stage.session.notes.supernodes
    assert set(group.nodes) == set(wanted.nodes)
    assert stage.session.highlight is None
    scene = dock.view.scene
    assert scene is not None
    assert scene.subgraph.scores == wanted.scores == panel.now
    assert all(not set(one.nodes) & set(group.nodes) for one in panel.found)
    assert unnamed_controls(dock) == []
    assert stage.commands.run("subgraph.suggest")
    settle(stage, dock)
    assert gone.nodes not in [suggestion.nodes for suggestion in panel.found]
    stage.session.set_graph(None, None)
    stage.settle()
    assert panel.isHidden()


def test_it_looks_right_in_both_schemes_and_with_large_text(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    scene = dock.view.scene
    assert scene is not None
    width = scene.width.copy()
    assert unnamed_controls(dock) == []
    light = dock.view.grab().toImage()
    stage.theme.set_choice("dark")
    stage.theme.set_scale(2.0)
    settle(stage, dock)
    scene = dock.view.scene
    assert scene is not None
    assert scene.width.mean() > width.mean()
    assert_apart(dock)
    dark = dock.view.grab().toImage()
    assert dark.pixelColor(2, 2).lightness() < 60 < light.pixelColor(2, 2).lightness()
    # Everything is in view.
    inside = QRectF(dock.view.rect())
    assert all(inside.contains(QPointF(point(dock, name))) for name in scene.keys)
    stage.theme.set_scale(1.0)
    stage.theme.set_choice("light")


def test_a_screen_reader_hears_of_the_box_under_the_pointer(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = shown(stage, graph)
    view = dock.view
    assert "boxes" in view.accessibleDescription()
    name = features(dock)[0]
    stage.qtbot.mouseMove(view, point(dock, name))
    assert view.pointed_key == name
    assert view.scene is not None
    told = QAccessible.queryAccessibleInterface(view).text(QAccessible.Text.Description)
    assert told == view.scene.describe(view.scene.keys.index(name))


def test_the_figure_holds_the_whole_subgraph(stage: Stage, graph: AttributionGraph) -> None:
    dock = shown(stage, graph)
    (offer,) = dock.figures()
    figure = offer.make()
    assert isinstance(figure, SubgraphFigure)
    assert graph.prompt in figure.caption
    look = FigureLook(LIGHT, stage.theme.sans, stage.theme.mono)
    height = figure.height(look, 500.0)
    image = QImage(500, round(height), QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.white)
    painter = QPainter(image)
    figure.paint(painter, look, 500.0, height)
    painter.end()
    pixels = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), -1, 4)[..., :3]
    inked = (pixels != 255).any(2)
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    assert rows[0] > 2
    assert rows[-1] < image.height() - 3
    assert columns[-1] - columns[0] > 300


def test_a_graph_that_goes_takes_its_search_along(stage: Stage, graph: AttributionGraph) -> None:
    dock = stage.put(SubgraphDock)
    stage.session.set_graph(graph, graph.prune())
    stage.session.set_pinned(strongest_to_pin(graph, 9))
    stage.until(lambda: dock.view.scene is not None)
    stage.session.set_graph(None, None)
    settle(stage, dock)
    assert dock.empty
    assert dock.view.scene is None


def test_a_hand_on_a_slider_does_not_wait_for_a_search(
    stage: Stage, graph: AttributionGraph
) -> None:
    dock = stage.put(SubgraphDock)
    pruned = graph.prune()
    stage.session.set_graph(graph, pruned)
    strongest = pruned.node_ids[np.argsort(-pruned.influence)[:60]]
    stage.session.set_pinned(graph.node_name(int(node)) for node in strongest)
    stage.until(lambda: dock.view.scene is not None)
    done: list[object] = []
    job = stage.runner.submit(lambda _ctx: graph.prune(0.5, 0.9), title="Prune", lane="quick")
    job.finished.connect(done.append)
    stage.until(lambda: bool(done))
    assert dock.arranger.searching
    settle(stage, dock)
    assert not dock.arranger.searching
    assert_apart(dock)
