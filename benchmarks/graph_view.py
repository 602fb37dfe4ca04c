"""Whether the link graph stays fluid: frames of the real view, driven by events, and large files.

    python benchmarks/graph_view.py [--nodes 10000] [--edges 300000] [--file-mb 100]

Runs without a display, at 1400 × 900 in software raster. A frame is an event and everything up to
the end of the painting that it causes; of each kind of movement some hundred frames are taken, in
milliseconds: the CPU time of the window's thread, which other programs do not change much, and the
time on the wall. Meant are 16 for the median and 33 for the 99th percentile. The last part makes a
graph file as Neuronpedia has them, opens it in the whole window and says how long that took and
what was the longest time in which the window answered nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
from neuronpedia_file import neuronpedia_file
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt, QTimer
from PySide6.QtGui import QMouseEvent, QWheelEvent
from PySide6.QtWidgets import QApplication

from attention_studio.core.attribution_graph import (
    AttributionGraph,
    GraphNodes,
    GraphSettings,
    NodeKind,
    PrunedGraph,
)
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.ui.app import SWITCH_INTERVAL_S, build_studio
from attention_studio.ui.collector import MainThreadCollector
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.graph_scene import GraphScene, build_scene
from attention_studio.ui.widgets.graph_view import GraphView
from attention_studio.utils.config import Settings

N_LAYERS, N_TOKENS = 30, 12
FRAMES = 400
NONE = Qt.MouseButton.NoButton
LEFT = Qt.MouseButton.LeftButton


def random_scene(n_nodes: int, n_edges: int, seed: int = 0) -> tuple[GraphScene, float]:
    """A scene of random nodes and edges, and how long arranging it took, in seconds."""
    rng = np.random.default_rng(seed)
    n_features = n_nodes - N_TOKENS - 8
    layer = np.r_[
        rng.integers(0, N_LAYERS, n_features), np.full(N_TOKENS, -1), np.full(8, N_LAYERS)
    ].astype(np.int16)
    position = np.r_[
        rng.choice(N_TOKENS, n_features), np.arange(N_TOKENS), np.full(8, N_TOKENS - 1)
    ].astype(np.int32)
    kind = np.repeat(
        np.array([NodeKind.FEATURE, NodeKind.EMBEDDING, NodeKind.LOGIT], dtype=np.int8),
        (n_features, N_TOKENS, 8),
    )
    probability = np.where(kind == NodeKind.LOGIT, 0.1, 0.0).astype(np.float32)
    site_kind = np.where(kind == NodeKind.FEATURE, 1, -1).astype(np.int8)
    nodes = GraphNodes(
        kind, site_kind, layer, position, np.arange(n_nodes),
        rng.gamma(2.0, 2.0, n_nodes).astype(np.float32), probability,
    )  # fmt: skip
    ends = rng.integers(0, n_nodes, (n_edges * 6, 2))
    upwards = (layer[ends[:, 0]] < layer[ends[:, 1]]) & (
        position[ends[:, 0]] <= position[ends[:, 1]]
    )
    ends = ends[upwards][:n_edges]
    weight = rng.standard_normal(len(ends)).astype(np.float32)
    no_edges, _ = GraphEdges.from_matrix(
        np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64), nodes.depth
    )
    graph = AttributionGraph(
        prompt="", tokens=tuple(f" t{i}" for i in range(N_TOKENS)), token_ids=(0,) * N_TOKENS,
        model_name="", model_hash="", crm_name="", n_layers=N_LAYERS, nodes=nodes, node_tokens={},
        edges=no_edges,
        biases=np.zeros(0, dtype=np.float32), values=np.zeros(0, dtype=np.float32),
        settings=GraphSettings(), seconds=0.0,
    )  # fmt: skip
    influence = rng.pareto(1.5, n_nodes).astype(np.float32)
    pruned = PrunedGraph(
        np.arange(n_nodes), ends[:, 0], ends[:, 1], weight, weight / 20.0, influence, 1.0, 1.0
    )
    started = time.perf_counter()
    scene = build_scene(graph, pruned)
    return scene, time.perf_counter() - started


class Frames:
    """Times of frames of one view."""

    def __init__(self, app: QApplication, view: GraphView) -> None:
        self._app = app
        self._view = view

    def take(self, name: str, events: Iterator[Callable[[], object]]) -> None:
        """Carry out events one by one, paint after each, and print what that took."""
        times = []
        for happen in events:
            wall, own = time.perf_counter(), time.thread_time()
            happen()
            self._app.processEvents()
            times.append((time.thread_time() - own, time.perf_counter() - wall))
        figures = np.percentile(1000 * np.array(times), [50, 99], axis=0).T.ravel()
        print(f"{name:<40}" + "".join(f"{figure:9.1f}" for figure in figures))

    def mouse(self, kind: QEvent.Type, at: QPointF, button: Qt.MouseButton) -> None:
        """Send a mouse event to the view."""
        held = NONE if kind == QEvent.Type.MouseButtonRelease else button
        sent = NONE if kind == QEvent.Type.MouseMove else button
        event = QMouseEvent(
            kind, at, self._view.viewport().mapToGlobal(at), sent, held,
            Qt.KeyboardModifier.NoModifier,
        )  # fmt: skip
        QApplication.sendEvent(self._view.viewport(), event)

    def wheel(self, at: QPointF, turn: int) -> None:
        """Turn the wheel over the view."""
        event = QWheelEvent(
            at, self._view.viewport().mapToGlobal(at), QPoint(), QPoint(0, turn), NONE,
            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(self._view.viewport(), event)

    def hovering(self) -> Iterator[Callable[[], object]]:
        """The pointer goes over the picture in a wave."""
        for number in range(FRAMES):
            at = QPointF(90 + 1200 * number / FRAMES, 450 + 330 * np.sin(number / 7.0))
            yield lambda at=at: self.mouse(QEvent.Type.MouseMove, at, NONE)

    def panning(self) -> Iterator[Callable[[], object]]:
        """The picture is dragged in circles."""
        middle = QPointF(700, 450)
        self.mouse(QEvent.Type.MouseButtonPress, middle, LEFT)
        for number in range(FRAMES):
            angle = number / 11.0
            at = middle + QPointF(260 * np.sin(angle), 160 * np.sin(1.7 * angle))
            yield lambda at=at: self.mouse(QEvent.Type.MouseMove, at, LEFT)
        self.mouse(QEvent.Type.MouseButtonRelease, middle, LEFT)

    def zooming(self) -> Iterator[Callable[[], object]]:
        """The wheel is turned in and out, here and there."""
        for number in range(FRAMES):
            at = QPointF(300 + 800 * (number % 40) / 40, 450)
            turn = 60 if number % 24 < 12 else -60
            yield lambda at=at, turn=turn: self.wheel(at, turn)

    def selecting(self, scene: GraphScene) -> Iterator[Callable[[], object]]:
        """One node after the other is selected, those with most edges first."""
        degree = np.bincount(scene.edge_source, minlength=scene.n_nodes)
        degree += np.bincount(scene.edge_target, minlength=scene.n_nodes)
        for local in np.argsort(-degree, kind="stable")[:FRAMES].tolist():
            yield lambda local=local: self._view.set_selected(scene.names[local])


def open_file(app: QApplication, folder: Path, megabytes: float) -> None:
    """Open a large file in the whole window and print what that took."""
    path = folder / "large.json"
    neuronpedia_file(path, megabytes)
    studio = build_studio(
        Settings(cache_dir=folder / "cache", state_dir=folder / "state", offline=True)
    )
    studio.window.resize(1400, 900)
    studio.window.show()
    for _ in range(200):
        app.processEvents()
        time.sleep(0.005)
    beats: list[float] = []
    timer = QTimer()
    timer.setInterval(5)
    timer.timeout.connect(lambda: beats.append(time.perf_counter()))
    timer.start()
    started = time.perf_counter()
    studio.window.open_graph_file(str(path))
    while studio.window.graph_dock.scene is None and time.perf_counter() - started < 120:
        app.processEvents()
        time.sleep(0.001)
    took = time.perf_counter() - started
    app.processEvents()
    timer.stop()
    graph = studio.session.graph
    assert graph is not None
    gaps = 1000 * np.diff([started, *beats, time.perf_counter()])
    print(
        f"\n{path.stat().st_size / 1e6:.0f} MB, {len(graph.nodes)} nodes, {graph.n_edges} edges: "
        f"drawn after {took:.1f} s, longest stall {gaps.max():.0f} ms"
    )
    studio.window.close()
    studio.runner.shutdown(20.0, force=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--edges", type=int, default=300_000)
    parser.add_argument("--file-mb", type=float, default=100.0, help="0: no file")
    arguments = parser.parse_args()
    # As the window itself has it.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    app = QApplication([])
    collector = MainThreadCollector(app)
    collector.start()
    theme = Theme("light")
    theme.apply()
    for n_nodes, n_edges in ((arguments.nodes, arguments.edges), (2000, 5000)):
        scene, arranged = random_scene(n_nodes, n_edges)
        view = GraphView(theme)
        view.resize(1400, 900)
        view.show()
        view.set_scene(scene)
        app.processEvents()
        print(f"\n{scene.n_nodes} nodes, {scene.n_edges} edges, arranged in {arranged:.2f} s")
        print(f"{'milliseconds per frame':<40}{'CPU':>9}{'99%':>9}{'wall':>9}{'99%':>9}")
        frames = Frames(app, view)
        frames.take("hover, whole graph", frames.hovering())
        frames.take("pan, whole graph (scrolls where it must)", frames.panning())
        frames.take("zoom with the wheel", frames.zooming())
        for _ in range(6):
            view.zoom_in()
        frames.take("pan, zoomed in, with the overview", frames.panning())
        frames.take("hover, zoomed in", frames.hovering())
        view.fit()
        frames.take("select one node after the other", frames.selecting(scene))
        frames.take("hover with a node selected", frames.hovering())
        frames.take("pan with a node selected", frames.panning())
        view.close()
    if arguments.file_mb:
        with tempfile.TemporaryDirectory() as folder:
            open_file(app, Path(folder), arguments.file_mb)


if __name__ == "__main__":
    main()
