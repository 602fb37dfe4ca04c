"""Graph files of other tools open in the window, which says what they do not tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from tests.foreign_graphs import circuit_tracer_value, llamascopium_value, neuronpedia_value


@pytest.mark.parametrize("value", [circuit_tracer_value, neuronpedia_value, llamascopium_value])
def test_a_graph_of_another_tool_opens(
    studio: Studio, qtbot: QtBot, tmp_path: Path, value: Callable[[], dict[str, Any]]
) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(value()))
    studio.window.open_graph_file(str(file))
    qtbot.waitUntil(lambda: studio.session.graph is not None, timeout=20_000)
    graph = studio.session.graph
    assert graph is not None
    assert np.isnan(graph.scores.max_identity_error)
    badge = studio.window.findChild(QLabel, "graph.score.identity")
    qtbot.waitUntil(lambda: "not known" in badge.text(), timeout=20_000)
    assert "does not hold those values" in badge.toolTip()
    for node in range(len(graph.nodes)):
        studio.session.set_selection(graph.node_name(node))
    assert studio.window.messages.current is None
