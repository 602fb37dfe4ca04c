"""Which edges of a graph are to be verified: numpy only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind, PrunedGraph
from attention_studio.core.edge_checks import MAX_EDGES, Scope
from attention_studio.core.graph_pruning import TINY
from attention_studio.utils.errors import StudioError

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class EdgeChoiceError(StudioError):
    """No edges can be verified."""


@dataclass(frozen=True)
class EdgeChoice:
    """Edges that are to be verified.

    Attributes:
        source, target: [n] nodes of the graph; sources are features. The edges over which most
            influence flows come first.
        weight: [n] the graph's weight.
        n_tokens: how many edges were left out because they start at a token or an error, which
            cannot be taken out like a feature.
        n_weaker: how many were left out because their sources are beyond the number asked for, or
            because there are more than ``MAX_EDGES``.
    """

    source: Ints
    target: Ints
    weight: Floats
    n_tokens: int = 0
    n_weaker: int = 0

    def __len__(self) -> int:
        return len(self.source)

    @property
    def sources(self) -> Ints:
        """[m] the features that are taken out, each once, ascending."""
        found: Ints = np.unique(self.source)
        return found


def choose_edges(
    graph: AttributionGraph,
    pruned: PrunedGraph,
    scope: Scope = "shown",
    nodes: Iterable[str] = (),
    max_features: int = 64,
) -> EdgeChoice:
    """The edges that a scope means.

    Args:
        graph: the whole graph.
        pruned: what is shown of it.
        scope: ``shown``: the edges of ``pruned``; ``pinned``: all edges of the graph between two
            of ``nodes``; ``selected``: those of ``pruned`` that start or end at one of ``nodes``.
        nodes: names; those that the graph does not have are left out.
        max_features: at most so many features are taken out, those whose edges carry most
            influence.
    """
    if scope == "pinned":
        chosen = np.array([graph.find(name) for name in nodes if graph.has(name)], dtype=np.int64)
        source, target, weight = _between(graph, np.unique(chosen))
    else:
        source, target = pruned.edge_source, pruned.edge_target
        weight = pruned.edge_weight.astype(np.float32)
        if scope == "selected":
            at = [graph.find(name) for name in nodes if graph.has(name)]
            here = np.isin(source, at) | np.isin(target, at)
            source, target, weight = source[here], target[here], weight[here]
    feature = graph.nodes.kind[source] == NodeKind.FEATURE
    n_tokens = int((~feature).sum())
    source, target, weight = source[feature], target[feature], weight[feature]
    # What flows over an edge: its share of the target's input times the target's influence.
    outputs = graph.influence + graph.start
    carried = np.abs(weight) / np.maximum(graph.totals[target], TINY) * outputs[target]
    of_source = np.bincount(source, weights=carried, minlength=len(graph.nodes))
    candidates = np.unique(source)
    order = np.argsort(-of_source[candidates], kind="stable")
    mine = np.flatnonzero(np.isin(source, candidates[order[:max_features]]))
    kept = mine[np.argsort(-carried[mine], kind="stable")][:MAX_EDGES]
    return EdgeChoice(
        source[kept].astype(np.int64),
        target[kept].astype(np.int64),
        weight[kept],
        n_tokens,
        len(source) - len(kept),
    )


def _between(graph: AttributionGraph, nodes: Ints) -> tuple[Ints, Ints, Floats]:
    """All edges from one of some nodes to another."""
    none = np.zeros(0, dtype=np.int64)
    sources, targets, weights = [none], [none], [np.zeros(0, dtype=np.float32)]
    for node in nodes.tolist():
        found, weight = graph.edges.into(node)
        mine = np.isin(found, nodes) & (weight != 0)
        sources.append(found[mine].astype(np.int64))
        targets.append(np.full(int(mine.sum()), node, dtype=np.int64))
        weights.append(weight[mine].astype(np.float32))
    return np.concatenate(sources), np.concatenate(targets), np.concatenate(weights)
