"""The nodes of a graph as columns: what a table shows and what queries compare.

Made once for a graph (naming twenty thousand nodes takes a tenth of a second, so on a lane), and
looked at from then on. What changes while one works (pins, labels, thresholds) is in
``core.node_query.NodeView``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FEATURE, ERROR, TOKEN, OUTPUT = range(4)
"""Kinds of node by number, as ``attribution_graph.NodeKind`` has them, which brings networkx."""
KIND_WORDS = ("feature", "error", "token", "output")


@dataclass(frozen=True, eq=False)
class NodeTable:
    """Columns over all N nodes of a graph.

    Attributes:
        names: the graph's name of each.
        titles: words for each, for people (``AttributionGraph.label``).
        tokens: the prompt's tokens [T].
        kind: one of ``FEATURE`` ... ``OUTPUT``.
        module: 0 attention, 1 MLP, -1 for tokens and outputs.
        layer: NaN for tokens and outputs.
        position: token position.
        index: of a feature, else NaN.
        activation: of a feature, else NaN.
        probability: of an output, else NaN.
        influence: on the outputs.
        depth: order of the forward pass.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    tokens: tuple[str, ...]
    kind: Ints
    module: Ints
    layer: Floats
    position: Ints
    index: Floats
    activation: Floats
    probability: Floats
    influence: Floats
    depth: Ints

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, graph: AttributionGraph) -> NodeTable:
        """The nodes of a graph."""
        nodes = graph.nodes
        kind = nodes.kind.astype(np.int64)
        feature = kind == FEATURE
        placed = nodes.site_kind >= 0
        numbers = range(len(nodes))
        return cls(
            names=tuple(graph.node_name(node) for node in numbers),
            titles=tuple(graph.label(node) for node in numbers),
            tokens=tuple(graph.tokens),
            kind=kind,
            module=nodes.site_kind.astype(np.int64),
            layer=_where(placed, nodes.layer),
            position=nodes.position.astype(np.int64),
            index=_where(feature, nodes.index),
            activation=_where(feature, nodes.activation),
            probability=_where(kind == OUTPUT, nodes.probability),
            influence=graph.influence.astype(np.float64),
            depth=nodes.depth,
        )

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each name."""
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def folded_titles(self) -> tuple[str, ...]:
        """``titles`` without capitals, to look in."""
        return tuple(title.casefold() for title in self.titles)

    @cached_property
    def folded_tokens(self) -> tuple[str, ...]:
        """``tokens`` without capitals and the spaces around them, to look in."""
        return tuple(token.strip().casefold() for token in self.tokens)

    @cached_property
    def rank(self) -> Ints:
        """[N] the place of each node in the order of the forward pass, then of its number."""
        order = np.lexsort((np.nan_to_num(self.index, nan=-1.0), self.depth))
        rank = np.empty(len(self), dtype=np.int64)
        rank[order] = np.arange(len(self))
        return rank

    def rows(self, names: tuple[str, ...]) -> Ints:
        """The rows of those of some names that are nodes of the graph."""
        found = (self.row_of.get(name, -1) for name in names)
        return np.array([row for row in found if row >= 0], dtype=np.int64)

    def mask(self, names: tuple[str, ...]) -> Bools:
        """[N] which nodes have one of these names."""
        here = np.zeros(len(self), dtype=bool)
        here[self.rows(names)] = True
        return here


class TableEdges:
    """The edges that a query follows: those that the thresholds leave, or all of a graph.

    Shares are those of the target's whole input, without their signs.
    """

    def __init__(self, graph: AttributionGraph, pruned: Optional[PrunedGraph]) -> None:
        self._graph, self._pruned = graph, pruned
        self._n = len(graph.nodes)

    def into(self, targets: Bools) -> Floats:
        """[N] the largest |share| of each node's edges into some ``targets`` [N]; 0 for none."""
        found = np.zeros(self._n)
        if self._pruned is not None:
            part = self._pruned
            mine = targets[part.edge_target]
            np.maximum.at(found, part.edge_source[mine], np.abs(part.edge_share[mine]))
            return found
        for block in self._graph.edges.blocks():
            rows = np.flatnonzero(targets[block.targets])
            if len(rows):
                totals = np.maximum(self._graph.totals[block.targets[rows]], 1e-30)
                shares = (np.abs(block.weights[rows]) / totals[:, None]).max(0)
                found[block.columns] = np.maximum(found[block.columns], shares)
        return found

    def out_of(self, sources: Bools) -> Floats:
        """[N] the largest |share| of each node's edges out of some ``sources`` [N]; 0 for none."""
        found = np.zeros(self._n)
        if self._pruned is not None:
            part = self._pruned
            mine = sources[part.edge_source]
            np.maximum.at(found, part.edge_target[mine], np.abs(part.edge_share[mine]))
            return found
        for block in self._graph.edges.blocks():
            columns = np.flatnonzero(sources[block.columns])
            if len(columns):
                totals = np.maximum(self._graph.totals[block.targets], 1e-30)
                found[block.targets] = np.abs(block.weights[:, columns]).max(1) / totals
        return found

    def upstream(self, nodes: Bools) -> Bools:
        """[N] all from which some path leads to one of ``nodes`` [N]."""
        return self._closure(nodes, upwards=False)

    def downstream(self, nodes: Bools) -> Bools:
        """[N] all to which some path leads from one of ``nodes`` [N]."""
        return self._closure(nodes, upwards=True)

    def _closure(self, nodes: Bools, upwards: bool) -> Bools:
        found = np.zeros(self._n, dtype=bool)
        edge = nodes
        while edge.any():
            reached = (self.out_of(edge) if upwards else self.into(edge)) > 0
            edge = reached & ~found
            found |= reached
        return found

    def degrees(self) -> tuple[Ints, Ints]:
        """[N] how many edges lead into each node, and [N] out of it."""
        into, out_of = np.zeros(self._n, dtype=np.int64), np.zeros(self._n, dtype=np.int64)
        if self._pruned is not None:
            np.add.at(into, self._pruned.edge_target, 1)
            np.add.at(out_of, self._pruned.edge_source, 1)
            return into, out_of
        for block in self._graph.edges.blocks():
            there = block.weights != 0
            into[block.targets] += there.sum(1)
            out_of[block.columns] += there.sum(0)
        return into, out_of


def _where(there: Bools, values: NDArray[np.generic]) -> Floats:
    found: Floats = np.where(there, values.astype(np.float64), np.nan)
    return found
