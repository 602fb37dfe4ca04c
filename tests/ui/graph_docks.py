"""A Graph dock with a graph in it, and what tests ask of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from PySide6.QtWidgets import QLabel

from attention_studio.core.trace_circumstances import DictionariesId
from attention_studio.ui.widgets.graph_dock import GraphDock
from attention_studio.ui.widgets.graph_scene import FEATURE, GraphScene
from tests.ui.stage import Stage
from tests.ui.synthetic import synthetic_graph

GRAPH = synthetic_graph()


def put_graph(stage: Stage) -> GraphDock:
    """A Graph dock that shows ``GRAPH``."""
    made = stage.put(GraphDock)
    stage.session.set_prompt(GRAPH.prompt)
    stage.session.set_graph(GRAPH, GRAPH.prune(0.8, 0.98))
    stage.until(lambda: made.scene is not None)
    stage.settle()
    return made


def scene_of(dock: GraphDock) -> GraphScene:
    """What is drawn."""
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


def text(dock: GraphDock, name: str) -> str:
    """What a label says."""
    found = dock.findChild(QLabel, name)
    assert found is not None
    return found.text()


def as_model(name: str, fingerprint: str = "") -> Any:
    """What a window asks of a replacement model and of the model that it stands in for, the one
    that ``GRAPH`` was traced on."""
    info = SimpleNamespace(weights_hash=GRAPH.model_hash)
    return SimpleNamespace(
        name=name,
        dictionaries_id=DictionariesId(name, fingerprint),
        info=info,
        loaded=SimpleNamespace(info=info),
    )
