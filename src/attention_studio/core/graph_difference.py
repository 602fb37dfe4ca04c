"""How two graphs differ, node by node and edge by edge, as a person wants to see it.

Where ``graph_comparison`` counts and ranks all edges of two graphs that should be equal, this is
for two that need not be: two prompts, two checkpoints, two models. Of each the part that pruning
keeps is looked at, and what either part has is looked up in both whole graphs: a node or edge that
pruning left out of one is not taken for one that is not there. numpy only.
"""

from __future__ import annotations

import itertools
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind, PrunedGraph
from attention_studio.core.difference_records import (
    EdgesCompared,
    GraphDifference,
    NodesCompared,
)
from attention_studio.core.graph_alignment import CommonNodes
from attention_studio.core.graph_comparison import made_differently
from attention_studio.core.graph_pruning import TINY
from attention_studio.core.position_map import PositionMap
from attention_studio.utils.progress import WorkContext

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def difference_of(
    first: AttributionGraph,
    second: AttributionGraph,
    positions: Optional[PositionMap] = None,
    thresholds: tuple[float, float] = (0.8, 0.98),
    parts: tuple[Optional[PrunedGraph], Optional[PrunedGraph]] = (None, None),
    ctx: Optional[WorkContext] = None,
) -> GraphDifference:
    """Put two graphs side by side.

    Args:
        first, second: the graphs.
        positions: which stand for each other; None: as the tokens suggest.
        thresholds: the shares of influence that pruning keeps of nodes and edges.
        parts: the pruned graphs, where they are known.
        ctx: progress, and a way to cancel.

    Raises:
        AlignmentError: the positions are those of other prompts.
        Cancelled: through ``ctx``.
    """
    ctx = ctx or WorkContext()
    if positions is None:
        positions = PositionMap.by_tokens(first.tokens, second.tokens)
    graphs = (first, second)
    ctx.progress(0, None, "Pruning")
    kept = []
    for graph, part in zip(graphs, parts, strict=True):
        kept.append(graph.prune(*thresholds) if part is None else part)
        ctx.check()
    common = CommonNodes(first, second, positions)
    ids = np.union1d(*(n[p.node_ids] for n, p in zip(common.numbers, kept, strict=True)))
    influence, activation = (np.zeros((common.n, 2)) for _ in range(2))
    for side, graph in enumerate(graphs):
        influence[common.numbers[side], side] = graph.influence
        activation[common.numbers[side], side] = graph.nodes.activation
    inner = _not_outputs(common)
    larger = influence[inner].max(1, initial=0.0).sum()
    overlap = float(influence[inner].min(1, initial=np.inf).sum() / larger) if larger > 0 else 1.0
    order = np.argsort(-np.abs(influence[ids, 1] - influence[ids, 0]), kind="stable")
    ids = ids[order]
    nodes = NodesCompared(
        common.node_of[0][ids], common.node_of[1][ids], influence[ids], activation[ids]
    )
    return GraphDifference(
        nodes=nodes,
        edges=_edges(common, kept, ids, ctx),
        differences=tuple(made_differently(first, second)),
        overlap=overlap,
        positions=positions,
    )


def _not_outputs(common: CommonNodes) -> NDArray[np.bool_]:
    """[n] influence of outputs on outputs is none, so they say nothing about likeness."""
    inner = np.ones(common.n, dtype=bool)
    for graph, numbers in zip(common.graphs, common.numbers, strict=True):
        inner[numbers[graph.nodes.kind == NodeKind.LOGIT]] = False
    return inner


def _edges(
    common: CommonNodes, kept: list[PrunedGraph], ids: Ints, ctx: WorkContext
) -> EdgesCompared:
    """The edges of either part, with what they are in both whole graphs."""
    ends = [
        np.stack([numbers[part.edge_source], numbers[part.edge_target]], 1)
        for numbers, part in zip(common.numbers, kept, strict=True)
    ]
    pairs = np.unique(np.concatenate(ends), axis=0)
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    weight, share, flow = (np.zeros((len(pairs), 2)) for _ in range(3))
    weighs = [graph.influence + graph.start for graph in common.graphs]
    starts = np.flatnonzero(np.diff(pairs[:, 1], prepend=-1))
    bounds = [*starts.tolist(), len(pairs)]
    for done, (begin, end) in enumerate(itertools.pairwise(bounds)):
        if done % 256 == 0:
            ctx.check()
            ctx.progress(done, len(starts), "Comparing edges")
        sources, target = pairs[begin:end, 0], int(pairs[begin, 1])
        for side, into in enumerate(common.into(target)):
            weight[begin:end, side] = into[sources]
            share[begin:end, side] = into[sources] / max(float(np.abs(into).sum()), float(TINY))
            node = int(common.node_of[side][target])
            if node >= 0:
                flow[begin:end, side] = np.abs(share[begin:end, side]) * float(weighs[side][node])
    row_of = np.full(common.n, -1, dtype=np.int64)
    row_of[ids] = np.arange(len(ids))
    order = np.argsort(-np.abs(flow[:, 1] - flow[:, 0]), kind="stable")
    pairs = row_of[pairs[order]]
    return EdgesCompared(pairs[:, 0], pairs[:, 1], weight[order], share[order], flow[order])
