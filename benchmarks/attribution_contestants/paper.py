"""How many operations the matrix products of a trace need, counted on paper.

A trace has a row for each target (an active feature, or an output token) and a column for each
source (an active feature, the error of a module at a position, a token's embedding). Everything
follows from how many there are at each module and position, and from the widths of the model.
Counted are multiplications and additions of the plain method, for the edges that can be other than
zero; norms, biases and the making of rows are left out, and so is what is gone through in vain
because targets are taken together. What the studio saves by pushing forward what the first position
writes is not taken off, so that another tool's way may be measured by the same count.

*Kept attention.* A target at position p of layer l sends a gradient [d] down the residual stream.
Each source that it passes costs 2d. Each attention on its way takes the gradient at every position
it has reached through the output map [d, A] (A = heads · width), the pattern, and the value map
[V, d] (V = key/value heads · width). Before the first one it has reached p alone, afterwards 0 … p,
which the pattern mixes as a triangle:

    first    2dA          + 2A(p+1)          + 2dV(p+1)
    others   2dA(p+1)     + A(p+1)(p+2)      + 2dV(p+1)

An MLP's feature of layer l has l + 1 attentions below it, an output token all of them.

*Complete.* Nothing moves between positions but by Lorsas, so an MLP's feature and an output token
meet the sources below them at their own position, a Lorsa's feature those at 0 … p: 2d for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.model_adapter import ModelAdapter

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Widths:
    """Of the model: layers, d, A and V."""

    n_layers: int
    d_model: int
    output: int
    value: int


@dataclass(frozen=True)
class Paper:
    """What a trace comes to on paper.

    Attributes:
        operations: of all products.
        edges: that can be other than zero.
        bytes: in float32, of those edges and of what features read and write. The gradients of a
            sweep come on top, as many as one cares to hold.
    """

    operations: float
    edges: int
    bytes: float


def of_graph(adapter: ModelAdapter, graph: AttributionGraph) -> Paper:
    """What this graph needed. Its MLPs all have transcoders, its attentions all Lorsas or none."""
    nodes, weights = graph.nodes, adapter.value_output(0)
    widths = Widths(
        adapter.n_layers, adapter.d_model, weights.output.shape[0], weights.value.shape[1]
    )
    shape = (2 * adapter.n_layers + 1, len(graph.tokens))
    sources, targets = np.zeros((2, *shape), dtype=np.int64)
    active = np.flatnonzero(nodes.kind == NodeKind.FEATURE)
    np.add.at(sources, (nodes.depth[active], nodes.position[active]), 1)
    np.add.at(targets, (nodes.depth[graph.targets], nodes.position[graph.targets]), 1)
    count = complete if nodes.has_attention else kept
    return count(widths, sources[:-1], targets)


def kept(widths: Widths, sources: Counts, targets: Counts) -> Paper:
    """Of per-layer transcoders with the model's own attention.

    Args:
        widths: of the model.
        sources: [2L, T] active features of each module (``Site.number``: attention, MLP of layer
            0, …) at each position.
        targets: [2L + 1, T] how many of them have a row; last the output tokens.
    """
    d, length = widths.d_model, sources.shape[1]
    reached = np.arange(1, length + 1)
    first = 2 * d * widths.output + 2 * widths.output * reached + 2 * d * widths.value * reached
    other = 2 * d * (widths.output + widths.value) * reached
    other = other + widths.output * reached * (reached + 1)
    # Sources below: features and an error at every position of the layers below, embeddings.
    up_to = np.cumsum(sources[1::2] + 1, 1)
    below = np.vstack([reached, reached + np.cumsum(up_to, 0)])
    operations, edges = 0.0, 0
    for layer in range(widths.n_layers):
        rows = targets[2 * layer + 1]
        operations += float((rows * (first + layer * other)).sum())
        edges += int((rows * below[layer]).sum())
    logits, last = targets[-1], widths.n_layers - 1
    operations += float((logits * (first + last * other)).sum())
    # What the last MLP writes is read where the output is.
    edges += int((logits * (below[last] + sources[-1] + 1)).sum())
    return Paper(operations + 2.0 * d * edges, edges, _bytes(edges, sources, d))


def complete(widths: Widths, sources: Counts, targets: Counts) -> Paper:
    """Of transcoders and Lorsas in all layers; arguments as for ``kept``."""
    d, length = widths.d_model, sources.shape[1]
    own = np.vstack([np.ones(length, dtype=np.int64), 1 + np.cumsum(sources + 1, 0)])
    edges = 0
    for site in range(2 * widths.n_layers + 1):
        looks_back = site % 2 == 0 and site < 2 * widths.n_layers
        seen = np.cumsum(own[site]) if looks_back else own[site]
        edges += int((targets[site] * seen).sum())
    return Paper(2.0 * d * edges, edges, _bytes(edges, sources, d))


def _bytes(edges: int, sources: Counts, d: int) -> float:
    return 4.0 * edges + 8.0 * d * float(sources.sum())
