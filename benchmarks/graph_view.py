"""How long the link graph takes to arrange and to paint.

    python benchmarks/graph_view.py [--nodes 2000] [--edges 20000]

Runs without a display. Every figure is the median of several runs, in milliseconds, at 1400 × 900.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
from PySide6.QtWidgets import QApplication

from attention_studio.core.attribution_graph import (
    AttributionGraph,
    GraphNodes,
    GraphSettings,
    NodeKind,
    PrunedGraph,
)
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.graph_geometry import nearest
from attention_studio.ui.widgets.graph_scene import GraphScene, build_scene
from attention_studio.ui.widgets.graph_view import GraphView

N_LAYERS, N_TOKENS, RUNS = 30, 12, 9


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
    nodes = GraphNodes(
        kind, layer, position, np.arange(n_nodes), rng.gamma(2.0, 2.0, n_nodes).astype(np.float32),
        probability,
    )  # fmt: skip
    ends = rng.integers(0, n_nodes, (n_edges * 6, 2))
    upwards = (layer[ends[:, 0]] < layer[ends[:, 1]]) & (
        position[ends[:, 0]] <= position[ends[:, 1]]
    )
    ends = ends[upwards][:n_edges]
    weight = rng.standard_normal(len(ends)).astype(np.float32)
    graph = AttributionGraph(
        prompt="", tokens=tuple(f" t{i}" for i in range(N_TOKENS)), token_ids=(0,) * N_TOKENS,
        model_name="", model_hash="", crm_name="", n_layers=N_LAYERS, nodes=nodes, node_tokens={},
        weights=np.zeros((0, 0), dtype=np.float32), targets=np.zeros(0, dtype=np.int64),
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


def median_ms(run: Callable[[], object]) -> float:
    """The median time of a few runs."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2000)
    parser.add_argument("--edges", type=int, default=20_000)
    arguments = parser.parse_args()
    app = QApplication([])
    theme = Theme("light")
    theme.apply()
    scene, arranged = random_scene(arguments.nodes, arguments.edges)
    view = GraphView(theme)
    view.resize(1400, 900)
    view.show()
    view.set_scene(scene)
    app.processEvents()

    def repaint(moving: bool) -> None:
        view.invalidate(moving=moving)
        view.viewport().repaint()

    print(f"{scene.n_nodes} nodes, {scene.n_edges} edges")
    print(f"arrange (on a lane)              {1000 * arranged:7.1f} ms")
    print(f"full repaint, at rest, smooth    {median_ms(lambda: repaint(False)):7.1f} ms")
    print(f"full repaint, moving             {median_ms(lambda: repaint(True)):7.1f} ms")
    hub = int(np.bincount(scene.edge_source, minlength=scene.n_nodes).argmax())
    view.set_selected(scene.names[hub])
    print(f"full repaint, node selected      {median_ms(lambda: repaint(False)):7.1f} ms")
    print(f"hover (prepared picture)         {median_ms(view.viewport().repaint):7.2f} ms")
    view.set_selected(None)
    view.set_max_faint_edges(arguments.edges)
    print(f"full repaint, every edge, moving {median_ms(lambda: repaint(True)):7.1f} ms")
    frame = view.frame
    assert frame is not None
    hit = median_ms(lambda: nearest(frame.x, frame.y, 700.0, 450.0))
    print(f"hit test                         {hit:7.3f} ms")


if __name__ == "__main__":
    main()
