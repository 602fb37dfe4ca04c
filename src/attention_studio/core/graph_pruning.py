"""Influence, scores and pruning of an attribution graph, as plain numpy.

The definitions are those of Ameisen et al. 2025 ("Circuit Tracing", appendix on graph pruning) and
of circuit-tracer, so that numbers can be compared: row-normalise the absolute edges into A (each
target's inputs sum to one), then ``influence = p (A + A^2 + ...)`` with the logits' probabilities
p. The graph is acyclic, so instead of summing powers the influence is handed down once, level by
level.

An edge matrix here is ``weights`` [n_targets, n_sources]; row r belongs to node ``targets[r]``, and
column c to node c. Nodes at the same ``level`` never feed each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_TINY = 1e-10


@dataclass(frozen=True)
class EdgeMatrix:
    """Edges of a graph with ``n_nodes`` nodes.

    ``weights`` [n_targets, n_sources]; ``targets`` [n_targets] node of each row; ``levels``
    [n_targets] depth of each row's node, higher nearer to the output; ``totals`` [n_targets] sum of
    |weights| of each row, by which shares are measured.
    """

    weights: Floats
    targets: Ints
    levels: Ints
    totals: Floats
    n_nodes: int

    @classmethod
    def of(cls, weights: Floats, targets: Ints, levels: Ints, n_nodes: int) -> EdgeMatrix:
        """An edge matrix whose totals are summed here."""
        totals = np.empty(len(targets), dtype=np.float32)
        for rows in _chunks(len(targets)):
            totals[rows] = np.abs(weights[rows]).sum(1)
        return cls(weights, targets, levels, totals, n_nodes)

    def restricted(self, keep: Bools) -> tuple[EdgeMatrix, Ints]:
        """The matrix of the kept nodes alone, renumbered, and the numbers they had."""
        nodes = np.flatnonzero(keep)
        renumber = np.full(self.n_nodes, -1, dtype=np.int64)
        renumber[nodes] = np.arange(len(nodes))
        rows = np.flatnonzero(keep[self.targets])
        n_sources = self.weights.shape[1]
        columns = nodes[nodes < n_sources]
        weights = self.weights[np.ix_(rows, columns)]
        matrix = EdgeMatrix.of(weights, renumber[self.targets[rows]], self.levels[rows], len(nodes))
        return matrix, nodes

    def normalised(self, rows: NDArray[np.intp] | slice) -> Floats:
        """|weights| of some rows, each row summing to one."""
        totals = np.maximum(self.totals[rows], np.float32(_TINY))
        normalised: Floats = np.abs(self.weights[rows]) / totals[:, None]
        return normalised


@dataclass(frozen=True)
class GraphScores:
    """Whether a graph may be believed.

    Attributes:
        replacement: share of end-to-end influence that starts at tokens rather than errors.
        completeness: share of edge inputs, weighted by influence, that are not errors.
        max_identity_error: largest ``|sum of edges + bias - value| / sum |edges|`` over targets.
    """

    replacement: float
    completeness: float
    max_identity_error: float


def node_influence(matrix: EdgeMatrix, start: Floats) -> Floats:
    """Influence [n_nodes] of every node on the outputs.

    Args:
        matrix: the edges.
        start: [n_nodes] what the outputs weigh: their probabilities, zero elsewhere.
    """
    influence = np.zeros(matrix.n_nodes, dtype=np.float64)
    n_sources = matrix.weights.shape[1]
    for level in np.unique(matrix.levels)[::-1]:
        at_level = np.flatnonzero(matrix.levels == level)
        for chunk in _chunks(len(at_level)):
            rows = at_level[chunk]
            weight = (influence + start)[matrix.targets[rows]] / np.maximum(
                matrix.totals[rows], _TINY
            )
            influence[:n_sources] += weight.astype(np.float32) @ np.abs(matrix.weights[rows])
    return influence.astype(np.float32)


def replacement_score(influence: Floats, embeddings: Bools, errors: Bools) -> float:
    """Share of the influence arriving at the graph's leaves that arrives at tokens."""
    from_tokens = float(influence[embeddings].sum())
    from_errors = float(influence[errors].sum())
    return from_tokens / max(from_tokens + from_errors, _TINY)


def completeness_score(
    matrix: EdgeMatrix, influence: Floats, start: Floats, errors: Bools
) -> float:
    """Mean share of inputs that are not errors, over all nodes, weighted by their influence."""
    weight = influence.astype(np.float64) + start
    explained = np.ones(matrix.n_nodes)
    columns = np.flatnonzero(errors[: matrix.weights.shape[1]])
    for rows in _chunks(len(matrix.targets)):
        from_errors = np.abs(matrix.weights[rows][:, columns]).sum(1)
        explained[matrix.targets[rows]] -= from_errors / np.maximum(matrix.totals[rows], _TINY)
    return float((explained * weight).sum() / max(weight.sum(), _TINY))


def share_threshold(scores: Floats, share: float) -> float:
    """The score above which (inclusive) the smallest set lies that holds ``share`` of the total.

    A share of 1 keeps everything, however the sums round.
    """
    if share >= 1.0:
        return 0.0
    ordered = np.sort(scores)[::-1]
    cumulative = np.cumsum(ordered, dtype=np.float64)
    if not len(ordered) or cumulative[-1] <= 0:
        return 0.0
    place = int(np.searchsorted(cumulative / cumulative[-1], share))
    return float(ordered[min(place, len(ordered) - 1)])


@dataclass(frozen=True)
class KeptEdges:
    """What pruning keeps: ``nodes`` [n]; of each edge ``source``, ``target`` and ``weight``."""

    nodes: Ints
    source: Ints
    target: Ints
    weight: Floats


def prune(
    matrix: EdgeMatrix,
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
        matrix: all edges.
        influence: [n_nodes] from ``node_influence``.
        start: [n_nodes] as for ``node_influence``.
        always: [n_nodes] nodes that stay whatever they weigh (tokens and logits).
        needs_inputs: [n_nodes] nodes that are dropped when no edge into them is left (features).
        node_share: in [0, 1].
        edge_share: in [0, 1].
    """
    keep = (influence >= share_threshold(influence, node_share)) | always
    small, nodes = matrix.restricted(keep)
    weight = node_influence(small, start[nodes]) + start[nodes]
    scores = small.normalised(slice(None)) * weight[small.targets][:, None]
    edges = (scores >= share_threshold(scores.ravel(), edge_share)) & (small.weights != 0)

    free = ~always[nodes]
    hungry = needs_inputs[nodes]
    alive = np.ones(len(nodes), dtype=bool)
    n_sources = small.weights.shape[1]
    while True:
        feeds = np.zeros(len(nodes), dtype=bool)
        feeds[:n_sources] = edges.any(0)
        fed = np.zeros(len(nodes), dtype=bool)
        fed[small.targets] = edges.any(1)
        still = alive & (feeds | ~free) & (fed | ~hungry)
        if np.array_equal(still, alive):
            break
        alive = still
        edges &= alive[small.targets][:, None]
        edges &= alive[:n_sources][None, :]
    row, column = np.nonzero(edges)
    return KeptEdges(
        nodes=nodes[alive],
        source=nodes[column],
        target=nodes[small.targets[row]],
        weight=small.weights[row, column],
    )


def _chunks(n: int, size: int = 512) -> Iterator[slice]:
    for begin in range(0, n, size):
        yield slice(begin, min(begin + size, n))
