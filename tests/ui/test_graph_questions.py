"""What one asks the model about nodes of a graph, on the real window with the demo in it."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLineEdit, QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from tests.ui.demo_window import LONG, traced


def quiet(studio: Studio, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)


def test_features_heads_and_contrasts_are_explained(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    dock, session = studio.window.graph_dock, studio.session
    qtbot.waitUntil(lambda: dock.scene is not None, timeout=LONG)
    scene, panel = dock.scene, dock.panel
    assert scene is not None
    of_attention = [name for name in scene.names if name.startswith("A") and "/F" in name]
    name = max(of_attention, key=lambda name: scene.influence[scene.local_of[name]])
    session.set_selection(name)

    panel.tabs.setCurrentWidget(panel.qk)
    qtbot.waitUntil(lambda: panel.qk.keys.n_rows > 0, timeout=LONG)
    assert panel.qk.pairs.n_rows > 0
    trace = panel.qk._trace
    assert trace is not None
    assert trace.look.name == name
    best = int(np.abs(trace.look.z_pattern).argmax())
    assert panel.qk.keys.positions[0] == best
    source = next(
        found
        for row in range(panel.qk.pairs.n_rows)
        if (found := panel.qk.pairs.source(row, 1)) is not None and session.graph is graph
    )
    assert graph.has(source)

    panel.tabs.setCurrentWidget(panel.feature)
    detail = panel.feature.detail
    qtbot.waitUntil(lambda: detail.near.near.n_rows > 0, timeout=LONG)
    shown = detail.view
    assert shown is not None and shown.node == name
    node = graph.find(name)
    assert shown.here is not None
    assert abs(shown.here - float(graph.nodes.activation[node])) < 1e-3
    box = panel.feature.findChild(QLineEdit, "graph.feature.text")
    assert isinstance(box, QLineEdit)
    qtbot.keyClicks(box, "The capital of the state containing Austin is")
    qtbot.waitUntil(lambda: detail.tried_chips.isVisible(), timeout=LONG)
    assert max(detail.tried_chips.shades()) == 1.0
    quiet(studio, qtbot)

    row = studio.window.prompt_dock.contrast
    likeliest, second = row.tokens
    assert likeliest.strip() == "Austin" and second != likeliest
    typed = row.second.lineEdit()
    assert typed is not None
    typed.clear()
    qtbot.keyClicks(typed, "Sacramento")
    button = studio.window.prompt_dock.findChild(QPushButton, "prompt.contrast.trace")
    assert isinstance(button, QPushButton)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: session.graph is not graph, timeout=LONG)
    quiet(studio, qtbot)
    assert session.graph is not None
    assert session.graph.settings.contrast == (likeliest, "Sacramento")
    qtbot.waitUntil(lambda: "Why" in dock.facts.prompt.whole(), timeout=LONG)
    assert "Sacramento" in dock.facts.prompt.whole()


def test_two_equal_tokens_are_no_contrast(studio: Studio, qtbot: QtBot) -> None:
    dock = studio.window.prompt_dock
    with qtbot.waitSignal(dock.message) as said, qtbot.assertNotEmitted(dock.contrast_wanted):
        dock.trace_contrast()
    assert said.args[0].what == "Choose two different tokens"
