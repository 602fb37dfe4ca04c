"""From pins in the link graph to a named supernode, in the real window with the demo."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.subgraph_dock import SubgraphDock
from tests.ui.demo_window import LONG, traced

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


def settle(studio: Studio, qtbot: QtBot, dock: SubgraphDock) -> None:
    for _ in range(2):
        qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
        QApplication.processEvents()
        qtbot.waitUntil(lambda: not dock.view.moving, timeout=LONG)


def test_what_is_pinned_in_the_graph_becomes_a_named_supernode(
    studio: Studio, qtbot: QtBot
) -> None:
    graph = traced(studio, qtbot)
    window, session = studio.window, studio.session
    dock = window.docks["subgraph"]
    assert isinstance(dock, SubgraphDock)
    view = window.graph_dock.view
    scene = window.graph_dock.scene
    assert scene is not None
    features = [name for name in scene.names if "/F" in name][:3]
    for name in features:
        view.show_node(name)
        at = view.node_point(name)
        assert at is not None
        qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, CTRL, at)
    pinned = session.pinned
    assert pinned
    qtbot.keyClick(window, Qt.Key.Key_6, Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: dock._made and dock.view.scene is not None, timeout=LONG)
    settle(studio, qtbot, dock)
    assert dock.view.scene is not None
    assert set(dock.view.scene.keys) == set(pinned)
    assert studio.commands.run("subgraph.begin")
    qtbot.waitUntil(lambda: len(session.pinned) > len(pinned), timeout=LONG)
    settle(studio, qtbot, dock)
    first, second = [name for name in dock.view.scene.keys if "/F" in name][:2]
    for name, modifier in ((first, Qt.KeyboardModifier.NoModifier), (second, SHIFT)):
        at_box = dock.view.box_point(name)
        assert at_box is not None
        qtbot.mouseClick(dock.view, Qt.MouseButton.LeftButton, modifier, at_box.toPoint())
    assert session.chosen == (first, second)
    qtbot.keyClick(dock.view, Qt.Key.Key_G)
    settle(studio, qtbot, dock)
    qtbot.waitUntil(lambda: dock.view._editor.active, timeout=LONG)
    qtbot.keyClicks(dock.view._editor, "Texas")
    qtbot.keyClick(dock.view._editor, Qt.Key.Key_Return)
    settle(studio, qtbot, dock)
    (group,) = session.notes.supernodes
    assert (group.name, set(group.nodes)) == ("Texas", {first, second})
    assert session.selection == group.key
    # Sticky, through another trace of what is shown.
    at_group = dock.view.box_point(group.key)
    assert at_group is not None
    qtbot.keyClick(dock.view, Qt.Key.Key_Left, CTRL)
    settle(studio, qtbot, dock)
    place = session.notes.places[group.key]
    moved = dock.view.box_point(group.key)
    assert moved is not None
    assert moved.toPoint() != at_group.toPoint()
    assert dock.scores._values["completeness"].text()
    offers = [offer.name for offer in dock.figures()]
    assert offers == ["subgraph"]
    # Everything goes back step by step: place, name, group.
    for _ in range(3):
        assert studio.commands.run("edit.undo")
    settle(studio, qtbot, dock)
    assert session.notes.supernodes == ()
    assert not session.notes.places
    for _ in range(3):
        assert studio.commands.run("edit.redo")
    assert session.notes.places[group.key] == place
    assert session.notes.supernodes[0].name == "Texas"
    assert graph is session.graph
