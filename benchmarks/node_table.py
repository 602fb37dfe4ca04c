#!/usr/bin/env python3
"""How long the table of nodes takes: making its columns, queries, sorting, choosing.

python benchmarks/node_table.py --nodes 20000 --edges 300000

Columns and queries run on a lane; what the table does on the main thread is measured as the
CPU time until it is painted again, offscreen, at 1000 × 400.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
from PySide6.QtCore import QItemSelectionModel, Qt
from PySide6.QtWidgets import QApplication

from attention_studio.core.attribution_graph import AttributionGraph, GraphNodes, NodeKind
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_settings import GraphSettings
from attention_studio.core.node_query import NodeView, by_influence, evaluate
from attention_studio.core.query_parsing import parse
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.nodes_model import Column
from attention_studio.ui.widgets.nodes_table import NodesTable

QUERIES = (
    "layer>10",
    "pos=5 influence>0.001%",
    "label~mlp or label~12",
    "in(#12)",
    "upstream(kind=output)",
    "layer>5 not pinned (in(kind=output)>1% or #77)",
)
N_TOKENS, N_LAYERS, N_OUTPUTS = 30, 30, 10


def random_graph(n_nodes: int, n_edges: int, seed: int = 0) -> AttributionGraph:
    """A graph of random features and edges in the shape of a large one."""
    rng = np.random.default_rng(seed)
    n_features = n_nodes - N_TOKENS - N_OUTPUTS
    layer = np.sort(rng.integers(0, N_LAYERS, n_features))
    position = rng.integers(0, N_TOKENS, n_features)
    chance = np.sort(rng.dirichlet(np.ones(N_OUTPUTS)))[::-1]
    counts = (n_features, N_TOKENS, N_OUTPUTS)
    kinds = (NodeKind.FEATURE, NodeKind.EMBEDDING, NodeKind.LOGIT)
    nodes = GraphNodes(
        kind=np.repeat(np.array(kinds, dtype=np.int8), counts),
        site_kind=np.repeat(np.array([1, -1, -1], dtype=np.int8), counts),
        layer=np.r_[layer, np.full(N_TOKENS, -1), np.full(N_OUTPUTS, N_LAYERS)].astype(np.int16),
        position=np.r_[position, np.arange(N_TOKENS), np.full(N_OUTPUTS, N_TOKENS - 1)].astype(
            np.int32
        ),
        index=np.r_[rng.permutation(max(100_000, n_features))[:n_features],
                    np.arange(N_TOKENS), np.arange(N_OUTPUTS)].astype(np.int64),
        activation=rng.gamma(2.0, 2.0, n_nodes).astype(np.float32),
        probability=np.r_[np.zeros(n_features + N_TOKENS), chance].astype(np.float32),
    )  # fmt: skip
    sources = n_features + N_TOKENS
    # Pairs in the wrong order are dropped below, so more are drawn.
    out = np.repeat(np.arange(sources, n_nodes), 300)
    target = np.r_[rng.integers(0, n_features, 5 * n_edges), out]
    source = np.r_[rng.integers(0, sources, 5 * n_edges), rng.integers(0, n_features, len(out))]
    pairs = np.unique(target * np.int64(n_nodes) + source)
    target, source = pairs // n_nodes, pairs % n_nodes
    upwards = (nodes.depth[source] < nodes.depth[target]) & (
        nodes.position[source] <= nodes.position[target]
    )
    kept = np.sort(rng.permutation(np.flatnonzero(upwards))[:n_edges])
    target, source = target[kept], source[kept]
    weight = rng.standard_normal(len(source)).astype(np.float32)
    edges = GraphEdges.from_links(sources, nodes.depth, source, target, weight)
    tokens = tuple(f" word{place}" for place in range(N_TOKENS))
    words = {n_features + place: token for place, token in enumerate(tokens)}
    words |= {sources + place: f" out{place}" for place in range(N_OUTPUTS)}
    n_targets = len(edges.targets)
    return AttributionGraph(
        "".join(tokens), tokens, tuple(range(N_TOKENS)), "random", "0" * 64, "random", N_LAYERS,
        nodes, words, edges, np.zeros(n_targets, np.float32), np.zeros(n_targets, np.float32),
        GraphSettings(), 1.0,
    )  # fmt: skip


def milliseconds(work: Callable[[], object], times: int = 5) -> float:
    """The median of some runs, in CPU time: the same on a busy machine."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - began))
    return statistics.median(taken)


def main() -> None:
    """Measure, and print a line per thing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--edges", type=int, default=300_000)
    chosen = parser.parse_args()
    graph = random_graph(chosen.nodes, chosen.edges)
    pruned = graph.prune(1.0, 1.0)
    print(f"{len(graph.nodes):,} nodes, {graph.n_edges:,} edges, {len(pruned.edge_source):,} shown")
    _ = graph.influence
    view = NodeView.of(graph, pruned)
    print(f"columns                {milliseconds(lambda: NodeView.of(graph, pruned), 3):8.1f} ms")
    for text in QUERIES:
        query = parse(text)
        found = int(evaluate(query, view).sum())
        taken = milliseconds(lambda asked=query: evaluate(asked, view))  # type: ignore[misc]
        print(f"{text:50} {taken:8.1f} ms  {found:,} nodes")
    measure_table(view)


def measure_table(view: NodeView) -> None:
    """Measure what the table does on the main thread."""
    app = QApplication.instance() or QApplication([])
    theme = Theme("light")
    table = NodesTable(theme)
    table.resize(1000, 400)
    table.show()
    rows = by_influence(view, np.ones(len(view.table), dtype=bool))
    table.nodes.show(view, rows)
    app.processEvents()
    names = table.nodes.view.table.names if table.nodes.view is not None else ()

    def painted(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            work()
            table.viewport().repaint()

        return run

    def choose_every_other() -> None:
        table.nodes.rows_of(names[::2])

    things: tuple[tuple[str, Callable[[], object]], ...] = (
        ("list all", lambda: table.nodes.show(view, rows[::-1].copy())),
        ("sort by activation", lambda: table.sortByColumn(Column.ACTIVATION,
                                                          Qt.SortOrder.DescendingOrder)),
        ("sort by node", lambda: table.sortByColumn(Column.NODE, Qt.SortOrder.AscendingOrder)),
        ("select all", table.selectAll),
        ("rows of all chosen", table.chosen_rows),
        ("rows of 10,000 names", choose_every_other),
        ("select one", lambda: table.selectionModel().select(
            table.nodes.index(7, 0), QItemSelectionModel.SelectionFlag.ClearAndSelect)),
        ("scroll to the end", table.scrollToBottom),
    )  # fmt: skip
    for name, work in things:
        print(f"table: {name:43} {milliseconds(painted(work)):8.1f} ms")


if __name__ == "__main__":
    main()
