"""Influence, scores and pruning of an attribution graph, as plain numpy.

The definitions are those of Ameisen et al. 2025 ("Circuit Tracing", appendix on graph pruning) and
of circuit-tracer, so that numbers can be compared: row-normalise the absolute edges into A (each
target's inputs sum to one), then ``influence = p (A + A^2 + ...)`` with the logits' probabilities
p. The graph is acyclic, so instead of summing powers the influence is handed down once, from one
block of targets to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.graph_edges import EdgeBlock

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TINY = np.float32(1e-10)
_BINS = 1 << 16


@dataclass(frozen=True)
class GraphScores:
    """Whether a graph may be believed.

    Where not all features were traced, nothing is known of what feeds the others. They count as
    not explained, so that the two shares are lower bounds.

    Attributes:
        replacement: share of end-to-end influence that starts at tokens rather than errors.
        completeness: share of edge inputs, weighted by influence, that are not errors.
        max_identity_error: largest ``|sum of edges + bias - value| / sum |edges|`` over targets.
    """

    replacement: float
    completeness: float
    max_identity_error: float


def input_totals(blocks: Iterable[EdgeBlock], n_nodes: int) -> Floats:
    """Sum of |weights| into every node [n_nodes], by which shares are measured; 0 for no target."""
    totals = np.zeros(n_nodes, dtype=np.float32)
    for block in blocks:
        totals[block.targets] = np.abs(block.weights).sum(1)
    return totals


def node_influence(blocks: Iterable[EdgeBlock], totals: Floats, start: Floats) -> Floats:
    """Influence [n_nodes] of every node on the outputs.

    Args:
        blocks: the edges, targets of greater depth first.
        totals: [n_nodes] from ``input_totals``.
        start: [n_nodes] what the outputs weigh: their probabilities, zero elsewhere.
    """
    influence = np.zeros(len(totals), dtype=np.float64)
    for block in blocks:
        weight = (influence + start)[block.targets]
        if weight.any():
            weight /= np.maximum(totals[block.targets], TINY)
            influence[block.columns] += weight.astype(np.float32) @ np.abs(block.weights)
    return influence.astype(np.float32)


def replacement_score(influence: Floats, embeddings: Bools, unexplained: Bools) -> float:
    """Share of the influence arriving at the graph's leaves that arrives at tokens.

    ``unexplained`` [n_nodes]: the other leaves, which are errors and features that have no row.
    """
    from_tokens = float(influence[embeddings].sum())
    from_errors = float(influence[unexplained].sum())
    return from_tokens / max(from_tokens + from_errors, float(TINY))


def completeness_score(
    blocks: Iterable[EdgeBlock],
    totals: Floats,
    influence: Floats,
    start: Floats,
    errors: Bools,
    untraced: Bools,
) -> float:
    """Mean share of inputs that are not errors, over all nodes, weighted by their influence."""
    weight = influence.astype(np.float64) + start
    explained = np.ones(len(totals))
    explained[untraced] = 0.0
    for block in blocks:
        columns = np.flatnonzero(errors[block.columns])
        from_errors = np.abs(block.weights[:, columns]).sum(1)
        explained[block.targets] -= from_errors / np.maximum(totals[block.targets], TINY)
    return float((explained * weight).sum() / max(float(weight.sum()), float(TINY)))


def share_threshold(scores: Floats, share: float) -> float:
    """The score above which (inclusive) the smallest set lies that holds ``share`` of the total.

    A share of 1 keeps everything, however the sums round; a share of 0 the largest. Scores are not
    negative. Tens of millions of them are not sorted but counted in bins first: the bits of a
    positive float, read as a whole number, are in the order of the floats.
    """
    if share >= 1.0 or not len(scores):
        return 0.0
    if share <= 0.0:
        return float(scores.max())
    scores = np.ascontiguousarray(scores, dtype=np.float32)
    bins = scores.view(np.uint32) >> np.uint32(16)
    held = np.bincount(bins, weights=scores, minlength=_BINS)
    above = np.cumsum(held[::-1])
    if above[-1] <= 0:
        return 0.0
    wanted = share * above[-1]
    place = min(int(np.searchsorted(above, wanted)), len(above) - 1)
    number = len(above) - 1 - place
    inside = np.sort(scores[bins == number])[::-1]
    before = above[place - 1] if place else 0.0
    within = int(np.searchsorted(before + np.cumsum(inside, dtype=np.float64), wanted))
    return float(inside[min(within, len(inside) - 1)])


@dataclass(frozen=True)
class KeptEdges:
    """What pruning keeps: ``nodes`` [n]; of each edge ``source``, ``target`` and ``weight``."""

    nodes: Ints
    source: Ints
    target: Ints
    weight: Floats


def prune(
    blocks: Iterable[EdgeBlock],
    influence: Floats,
    start: Floats,
    always: Bools,
    needs_inputs: Bools,
    node_share: float,
    edge_share: float,
) -> KeptEdges:
    """Keep the nodes that hold ``node_share`` of the influence, then the edges that hold
    ``edge_share`` of the edge influence among them, then drop what dangles.

    Args:
        blocks: all edges, targets of greater depth first.
        influence: [n_nodes] from ``node_influence``.
        start: [n_nodes] as for ``node_influence``.
        always: [n_nodes] nodes that stay whatever they weigh (tokens and logits).
        needs_inputs: [n_nodes] nodes that are dropped when no edge into them is left (features).
        node_share: in [0, 1].
        edge_share: in [0, 1].
    """
    keep = (influence >= share_threshold(influence, node_share)) | always
    small = restricted(blocks, keep)
    totals = input_totals(small, len(keep))
    weight = node_influence(small, totals, start) + start
    per_unit = weight / np.maximum(totals, TINY)
    scores = [np.abs(block.weights) * per_unit[block.targets][:, None] for block in small]
    flat = np.concatenate([np.zeros(0, dtype=np.float32), *(score.ravel() for score in scores)])
    threshold = share_threshold(flat, edge_share)

    sources, targets, weights = [], [], []
    for block, score in zip(small, scores, strict=True):
        row, column = np.nonzero((score >= threshold) & (block.weights != 0))
        sources.append(block.columns[column])
        targets.append(block.targets[row])
        weights.append(block.weights[row, column])
    no_nodes = np.zeros(0, dtype=np.int64)
    source = np.concatenate([no_nodes, *sources])
    target = np.concatenate([no_nodes, *targets])
    edge_weight = np.concatenate([np.zeros(0, dtype=np.float32), *weights])

    alive = keep.copy()
    while True:
        feeds, fed = np.zeros_like(alive), np.zeros_like(alive)
        feeds[source], fed[target] = True, True
        still = alive & (feeds | always) & (fed | ~needs_inputs | always)
        if np.array_equal(still, alive):
            break
        alive = still
        stays = alive[source] & alive[target]
        source, target, edge_weight = source[stays], target[stays], edge_weight[stays]
    return KeptEdges(np.flatnonzero(alive), source, target, edge_weight)


def restricted(blocks: Iterable[EdgeBlock], keep: Bools) -> Sequence[EdgeBlock]:
    """The edges among the kept nodes [n_nodes] alone."""
    small = []
    for block in blocks:
        rows = np.flatnonzero(keep[block.targets])
        if not len(rows):
            continue
        columns = np.flatnonzero(keep[block.columns])
        weights = block.weights[rows][:, columns]
        small.append(EdgeBlock(block.targets[rows], block.columns[columns], weights))
    return small
