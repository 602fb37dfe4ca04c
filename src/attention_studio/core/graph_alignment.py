"""Which nodes of two graphs are the same: by what they are, at positions that stand for each other.

Two graphs of one prompt have the same positions. For two prompts somebody has to say which token of
the one plays the part of which token of the other (see ``position_map``). numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.position_map import AlignmentError, PositionMap

Ints = NDArray[np.int64]


class CommonNodes:
    """The nodes of two graphs under one numbering.

    Attributes:
        graphs: the two.
        n: how many different nodes there are.
        numbers: for each graph the number of every node.
        node_of: for each graph, [n] which of its nodes has a number; -1: none.
        targets: numbers of the nodes whose inputs were traced in either.
    """

    def __init__(
        self,
        first: AttributionGraph,
        second: AttributionGraph,
        positions: Optional[PositionMap] = None,
    ) -> None:
        """``positions``: which stand for each other; None: those of equal number.

        Raises:
            AlignmentError: the positions are those of other prompts.
        """
        self.graphs = (first, second)
        keys = [_keys(graph) for graph in self.graphs]
        if positions is not None:
            _check(first, second, positions)
            _move(keys, first, second, positions)
        _, inverse = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        self.n = int(inverse.max(initial=-1)) + 1
        self.numbers: tuple[Ints, Ints] = (inverse[: len(keys[0])], inverse[len(keys[0]) :])
        self.node_of = [np.full(self.n, -1, dtype=np.int64) for _ in self.graphs]
        for node_of, numbers in zip(self.node_of, self.numbers, strict=True):
            node_of[numbers] = np.arange(len(numbers))
        targets = [
            numbers[graph.edges.targets]
            for numbers, graph in zip(self.numbers, self.graphs, strict=True)
        ]
        self.targets: list[int] = np.union1d(*targets).tolist()

    @property
    def only(self) -> tuple[Ints, Ints]:
        """Nodes of each graph that the other does not have."""
        first, second = self.node_of
        return first[(first >= 0) & (second < 0)], second[(second >= 0) & (first < 0)]

    def into(self, target: int) -> list[NDArray[np.float64]]:
        """Weights [n] of all edges into a node, in both graphs."""
        found = []
        for graph, numbers, node_of in zip(self.graphs, self.numbers, self.node_of, strict=True):
            weights = np.zeros(self.n, dtype=np.float64)
            if node_of[target] >= 0:
                columns, values = graph.edges.into(int(node_of[target]))
                weights[numbers[columns]] = values
            found.append(weights)
        return found

    def name(self, number: int) -> str:
        """A node's name, the first graph's where that has it."""
        for graph, node_of in zip(self.graphs, self.node_of, strict=True):
            if node_of[number] >= 0:
                return graph.node_name(int(node_of[number]))
        raise AssertionError(number)  # every number is some node's


def _keys(graph: AttributionGraph) -> Ints:
    """[N, 5] what each node is; errors and embeddings have no index (a foreign tool may not know
    it)."""
    nodes = graph.nodes
    placed = np.isin(nodes.kind, [int(NodeKind.ERROR), int(NodeKind.EMBEDDING)])
    # Outputs stand above all layers, however many a foreign tool says there are.
    layer = np.where(nodes.site_kind < 0, -1, nodes.layer)
    columns = (
        nodes.kind,
        nodes.site_kind,
        layer,
        nodes.position,
        np.where(placed, -1, nodes.index),
    )
    return np.stack([column.astype(np.int64) for column in columns], 1)


_POSITION, _INDEX = 3, 4


def _check(first: AttributionGraph, second: AttributionGraph, positions: PositionMap) -> None:
    lengths = (len(first.tokens), len(second.tokens))
    if (positions.n_first, positions.n_second) != lengths:
        raise AlignmentError(
            "The positions do not fit the graphs",
            f"they are for prompts of {positions.n_first} and {positions.n_second} tokens, the "
            f"graphs have {lengths[0]} and {lengths[1]}",
            "align the prompts again",
        )


def _move(
    keys: Sequence[Ints],
    first: AttributionGraph,
    second: AttributionGraph,
    positions: PositionMap,
) -> None:
    """Say what the second graph's nodes are in the first one's positions."""
    back = positions.first()
    place = back[keys[1][:, _POSITION]]
    alone = positions.n_first + keys[1][:, _POSITION]
    keys[1][:, _POSITION] = np.where(place >= 0, place, alone)
    outputs = [graph.nodes.kind == NodeKind.LOGIT for graph in (first, second)]
    if all(len(np.unique(g.nodes.position[o])) == 1 for g, o in
           zip((first, second), outputs, strict=True)):  # fmt: skip
        # Each explains one next token, and that is what is compared, wherever it comes.
        for key, which in zip(keys, outputs, strict=True):
            key[which, _POSITION] = 0
    if first.model_hash != second.model_hash:
        _name_by_text(keys, (first, second), outputs)


def _name_by_text(
    keys: Sequence[Ints],
    graphs: Sequence[AttributionGraph],
    outputs: Sequence[NDArray[np.bool_]],
) -> None:
    """Let outputs be known by their text where models may number tokens differently; not those
    whose text another output of the graph has too."""
    texts = [
        {int(node): graph.node_tokens.get(int(node), "") for node in np.flatnonzero(which)}
        for graph, which in zip(graphs, outputs, strict=True)
    ]
    shared = set(texts[0].values()) & set(texts[1].values())
    numbers = {text: -2 - i for i, text in enumerate(sorted(shared))}
    for key, words in zip(keys, texts, strict=True):
        every = list(words.values())
        for node, text in words.items():
            if text in numbers and every.count(text) == 1:
                key[node, _INDEX] = numbers[text]
