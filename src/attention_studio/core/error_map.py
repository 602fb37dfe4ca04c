"""What the dictionaries miss: the error nodes of a graph as a map of modules and positions.

Knows numpy only. Two measures, both read off the graph: the influence of an error node on the
outputs says how much of the answer went through what the dictionary leaves out; its size (the norm
of what it writes) says how much that is, whether or not it mattered here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.attribution_graph import NodeKind
from attention_studio.core.sites import Site

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ErrorMap:
    """The error nodes of a graph.

    Attributes:
        sites: modules that a dictionary stands in for, in order of the forward pass [m].
        tokens: the prompt's tokens [t].
        influence: [m, t] on the outputs, as ``AttributionGraph.influence`` has it.
        size: [m, t] norm of what the error writes into the residual stream.
        nodes: [m, t] the error's node in the graph, -1 where there is none.
        total: influence of all nodes that write without being fed (errors, embeddings, and features
            whose inputs were not traced), which is what shares are of.
    """

    sites: tuple[Site, ...]
    tokens: tuple[str, ...]
    influence: Floats
    size: Floats
    nodes: Ints
    total: float

    @property
    def share(self) -> float:
        """Share of the influence that starts in errors, in [0, 1]."""
        return float(self.influence.sum()) / self.total if self.total > 0 else 0.0

    def by_module(self) -> tuple[tuple[Site, float], ...]:
        """Each module and the share of the influence that starts in its errors, largest first."""
        shares = self.influence.sum(1) / self.total if self.total > 0 else self.influence.sum(1)
        order = np.argsort(-shares, kind="stable")
        return tuple((self.sites[place], float(shares[place])) for place in order)

    def worst(self, share: float) -> tuple[Site, ...]:
        """The fewest modules that hold this share of what starts in errors, in order of the
        forward pass."""
        ranked = self.by_module()
        wanted = share * sum(part for _, part in ranked)
        chosen: list[Site] = []
        held = 0.0
        for site, part in ranked:
            if held >= wanted or part <= 0:
                break
            chosen.append(site)
            held += part
        return tuple(sorted(chosen))


def error_map(graph: AttributionGraph) -> ErrorMap:
    """Gather the error nodes of a graph."""
    nodes = graph.nodes
    errors = np.flatnonzero(nodes.kind == NodeKind.ERROR)
    with_site = np.flatnonzero(nodes.site_kind >= 0)
    numbers = np.unique(2 * nodes.layer[with_site].astype(np.int64) + nodes.site_kind[with_site])
    sites = tuple(Site.of_number(int(number)) for number in numbers)
    shape = (len(sites), len(graph.tokens))
    row = np.searchsorted(
        numbers, 2 * nodes.layer[errors].astype(np.int64) + nodes.site_kind[errors]
    )
    column = nodes.position[errors]
    influence, size = np.zeros(shape), np.zeros(shape)
    place = np.full(shape, -1, dtype=np.int64)
    influence[row, column] = graph.influence[errors]
    size[row, column] = nodes.activation[errors]
    place[row, column] = errors
    starts = (nodes.kind == NodeKind.ERROR) | (nodes.kind == NodeKind.EMBEDDING) | graph.untraced
    return ErrorMap(
        sites,
        tuple(graph.tokens),
        influence,
        size,
        place,
        float(graph.influence[starts].sum(dtype=np.float64)),
    )
