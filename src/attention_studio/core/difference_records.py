"""What came of putting two graphs side by side: columns, without what it takes to make them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.position_map import PositionMap

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Presence(IntEnum):
    """Which of two graphs something is in."""

    BOTH = 0
    FIRST = 1
    SECOND = 2


@dataclass(frozen=True)
class NodesCompared:
    """Nodes of two graphs, as columns of length n.

    Attributes:
        first, second: the node in each graph; -1 where it is not active there.
        influence: [n, 2] on the outputs, in each graph; 0 where it is not.
        activation: [n, 2] likewise; 0 where it is not.
    """

    first: Ints
    second: Ints
    influence: Floats
    activation: Floats

    def __len__(self) -> int:
        return len(self.first)

    @property
    def presence(self) -> NDArray[np.int8]:
        """[n] of ``Presence``."""
        return np.where(
            self.second < 0, Presence.FIRST, np.where(self.first < 0, Presence.SECOND, 0)
        ).astype(np.int8)

    @property
    def change(self) -> Floats:
        """[n] influence in the second less that in the first."""
        return np.asarray(self.influence[:, 1] - self.influence[:, 0])


@dataclass(frozen=True)
class EdgesCompared:
    """Edges of two graphs, as columns of length m.

    Attributes:
        source, target: rows of the compared nodes.
        weight: [m, 2] in each graph; 0 where it is not.
        share: [m, 2] the weight as a signed share of the target's whole input in that graph.
        flow: [m, 2] the part of the influence on the outputs that goes along the edge: |share|
            times what the target weighs, which is its influence, for an output its own weight.
    """

    source: Ints
    target: Ints
    weight: Floats
    share: Floats
    flow: Floats

    def __len__(self) -> int:
        return len(self.source)

    @property
    def presence(self) -> NDArray[np.int8]:
        """[m] of ``Presence``."""
        there = self.weight != 0
        return np.where(
            ~there[:, 1], Presence.FIRST, np.where(~there[:, 0], Presence.SECOND, 0)
        ).astype(np.int8)

    @property
    def change(self) -> Floats:
        """[m] share in the second less that in the first."""
        return np.asarray(self.share[:, 1] - self.share[:, 0])


@dataclass(frozen=True)
class GraphDifference:
    """Two graphs side by side.

    Attributes:
        nodes: what pruning keeps of either, those whose influence differs most first.
        edges: likewise, by the influence that goes along them.
        differences: what is not the same about how the two were made, in sentences.
        overlap: how alike the two are: of all nodes but the outputs the sum of the smaller
            influences over that of the larger ones (Ruzicka 1958), 1 for equal graphs, 0 for graphs
            that have no node in common.
        positions: which stand for each other.
    """

    nodes: NodesCompared
    edges: EdgesCompared
    differences: tuple[str, ...]
    overlap: float
    positions: PositionMap

    def count(self, presence: Presence) -> int:
        """How many nodes are in both, or in one alone."""
        return int((self.nodes.presence == presence).sum())

    def to_json(
        self, first: AttributionGraph, second: AttributionGraph, most: int = 50
    ) -> dict[str, Any]:
        """The figures, and the nodes that differ most by name, as plain values."""
        rows = range(min(most, len(self.nodes)))
        return {
            "differences": list(self.differences),
            "overlap": self.overlap,
            "nodes_both": self.count(Presence.BOTH),
            "nodes_first": self.count(Presence.FIRST),
            "nodes_second": self.count(Presence.SECOND),
            "positions": list(self.positions.second),
            "nodes": [
                {
                    "first": _name(first, int(self.nodes.first[row])),
                    "second": _name(second, int(self.nodes.second[row])),
                    "influence_first": float(self.nodes.influence[row, 0]),
                    "influence_second": float(self.nodes.influence[row, 1]),
                }
                for row in rows
            ],
        }


def moved(values: Floats, tolerance: float) -> NDArray[np.int8]:
    """Which of two values is the larger, of ``Presence``, or BOTH where they are about equal.

    Args:
        values: [n, 2].
        tolerance: they are about equal where they differ by at most this share of the larger one,
            signs left out.
    """
    sizes = np.abs(values)
    apart = np.abs(values[:, 1] - values[:, 0]) > tolerance * sizes.max(1, initial=0.0)
    larger = np.where(sizes[:, 1] > sizes[:, 0], Presence.SECOND, Presence.FIRST)
    return np.where(apart, larger, Presence.BOTH).astype(np.int8)


def _name(graph: AttributionGraph, node: int) -> Optional[str]:
    return None if node < 0 else graph.node_name(node)
