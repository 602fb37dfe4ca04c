"""The subgraph: pinned nodes and supernodes as boxes, and how much of each box's input comes from
which other.

Edges between boxes are renormalised as viewers of attribution graphs do it. With A the
row-normalised edges (each target's absolute inputs sum to one, Ameisen et al. 2025), what box S
feeds to box T is

    share(S -> T) = sum of A[t, s] over t in T, s in S
                    / sum of |A[t, s]| over t in T, s not in T

so what a box does to itself is left out of the account, a member that hears mostly from within
counts little, and the absolute shares of all nodes outside T sum to one. Between two single nodes
this is the edge's share of the target's input. Signs are kept: members that push and pull cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.graph_edges import EdgeBlock
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.graph_pruning import TINY, GraphScores, restricted
from attention_studio.core.path_search import strongest_paths
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_IN_A_ROW = 5
"""Boxes of neighbouring layers share a row up to this many."""
MOST_BOXES = 1000
"""Of one subgraph. Memory and time go with the square of their number (a thousand take 40 MB and
0.1 s to make), and no picture of more than a few dozen is read."""


class TooManyBoxesError(StudioError):
    """More is pinned than a subgraph can show."""


@dataclass(frozen=True)
class Box:
    """One thing of the subgraph.

    Attributes:
        key: name of its node, or key of its supernode.
        name: what a person calls it; "" for a node without a label.
        nodes: indices of its nodes in the graph, lowest layer first.
        is_group: whether it is a supernode.
        labels: what each of its nodes is called; "" where nothing.
    """

    key: str
    name: str
    nodes: tuple[int, ...]
    is_group: bool
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Subgraph:
    """Boxes and the edges between them.

    Attributes:
        graph: where they come from.
        boxes: in the order in which their nodes were pinned, supernodes first.
        depth: [n] mean depth of a box's nodes, see ``GraphNodes.depth``.
        position: [n] mean token position.
        source, target: [m] indices of boxes.
        share: [m] signed share of the target's input from outside, see above.
        heard: [n] share of a box's input from outside that comes from other boxes; nan for one
            whose inputs nobody knows (tokens, errors, untraced features).
        scores: of the subgraph, see ``AttributionGraph.subgraph_scores``.
    """

    graph: AttributionGraph
    boxes: tuple[Box, ...]
    depth: Floats
    position: Floats
    source: Ints
    target: Ints
    share: Floats
    heard: Floats
    scores: GraphScores

    def __len__(self) -> int:
        return len(self.boxes)

    def index(self, key: Optional[str]) -> Optional[int]:
        """The box of that key, or None."""
        return next((i for i, box in enumerate(self.boxes) if box.key == key), None)

    def box_of(self, node: Optional[str]) -> Optional[int]:
        """The box that holds the node of that name (or has that key), or None."""
        if node is None or not self.graph.has(node):
            return self.index(node)
        number = self.graph.find(node)
        return next((i for i, box in enumerate(self.boxes) if number in box.nodes), None)

    def names(self, box: int) -> tuple[str, ...]:
        """Names of a box's nodes."""
        return tuple(self.graph.node_name(node) for node in self.boxes[box].nodes)

    def links(self, least: float) -> Ints:
        """Indices of the edges whose share is at least that, weakest first."""
        magnitude = np.abs(self.share)
        chosen = np.flatnonzero(magnitude >= least)
        return chosen[np.argsort(magnitude[chosen], kind="stable")]


def boxes_of(graph: AttributionGraph, notes: GraphNotes) -> tuple[Box, ...]:
    """The boxes that notes make of a graph; nodes that it does not have are left out."""
    depth = graph.nodes.depth
    boxes = []
    for group in notes.supernodes:
        found = [graph.find(name) for name in group.nodes if graph.has(name)]
        if found:
            members = sorted(found, key=lambda node: (depth[node], node))
            labels = tuple(notes.label_of(graph.node_name(node)) for node in members)
            boxes.append(Box(group.key, group.name, tuple(members), True, labels))
    grouped = {name for group in notes.supernodes for name in group.nodes}
    boxes += [
        Box(name, notes.label_of(name), (graph.find(name),), False, (notes.label_of(name),))
        for name in notes.pinned
        if name not in grouped and graph.has(name)
    ]
    return tuple(boxes)


def build_subgraph(
    graph: AttributionGraph, notes: GraphNotes, ctx: Optional[WorkContext] = None
) -> Subgraph:
    """Make the subgraph of what a person has pinned and grouped.

    Raises:
        TooManyBoxesError: there would be more than ``MOST_BOXES`` boxes.
        Cancelled: somebody asked ``ctx`` to stop.
    """
    boxes = boxes_of(graph, notes)
    if len(boxes) > MOST_BOXES:
        raise TooManyBoxesError(
            "Too much is pinned for a subgraph",
            f"there would be {len(boxes):,} boxes, and at most {MOST_BOXES:,} are drawn",
            "Unpin some nodes, or group those that do one thing into supernodes",
        )
    group = np.full(len(graph.nodes), -1, dtype=np.int64)
    for number, box in enumerate(boxes):
        group[list(box.nodes)] = number
    if ctx is not None:
        ctx.check()
    share, heard = group_shares(graph.edges.blocks(), graph.totals, group, len(boxes))
    if ctx is not None:
        ctx.check()
    target, source = np.nonzero(share)
    depth, position = graph.nodes.depth, graph.nodes.position
    return Subgraph(
        graph=graph,
        boxes=boxes,
        depth=np.array([depth[list(box.nodes)].mean() for box in boxes]),
        position=np.array([position[list(box.nodes)].mean() for box in boxes]),
        source=source,
        target=target,
        share=share[target, source],
        heard=heard,
        scores=graph.subgraph_scores(np.flatnonzero(group >= 0).tolist()),
    )


def group_shares(
    blocks: Iterable[EdgeBlock], totals: NDArray[np.float32], group: Ints, n_groups: int
) -> tuple[Floats, Floats]:
    """Signed shares between groups, and how much of each group's input they account for.

    Args:
        blocks: the edges of the whole graph.
        totals: [N] sum of |edges| into each node, 0 for one that was not traced.
        group: [N] the group of each node, -1 for none.
        n_groups: how many groups there are.

    Returns:
        [n_groups, n_groups] ``share(column -> row)``, see the head of this file, and [n_groups] the
        share of the input from outside that comes from nodes of other groups; nan where a group has
        no traced node.
    """
    signed = np.zeros((n_groups, n_groups))
    absolute = np.zeros((n_groups, n_groups))
    traced = (group >= 0) & (totals > 0)
    # Shares of each traced node sum to one.
    whole = np.bincount(group[traced], minlength=n_groups).astype(np.float64)
    for block in restricted(blocks, group >= 0):
        into, out_of = group[block.targets], group[block.columns]
        shares = block.weights / np.maximum(totals[block.targets], TINY)[:, None]
        for values, sums in ((shares, signed), (np.abs(shares), absolute)):
            by_source = np.zeros((len(into), n_groups))
            np.add.at(by_source.T, out_of, values.T.astype(np.float64))
            np.add.at(sums, into, by_source)
    outside = whole - np.diagonal(absolute)
    np.fill_diagonal(signed, 0.0)
    np.fill_diagonal(absolute, 0.0)
    # What is left of two large sums may be less than what there demonstrably is.
    outside = np.maximum(outside, absolute.sum(1))
    safe = np.maximum(outside, float(TINY))[:, None]
    heard = np.where(whole > 0, (absolute / safe).sum(1), np.nan)
    return signed / safe, heard


def row_levels(
    depth: Floats, ends: tuple[float, float], source: Ints, target: Ints, most: int = MOST_IN_A_ROW
) -> Ints:
    """Rows for boxes, counted from the bottom: layer order is kept, and few rows are used.

    Boxes of greater depth are never in a lower row. Neighbouring depths share a row as long as no
    edge joins their boxes and the row does not get too long; tokens and outputs share with nothing.

    Args:
        depth: [n] of the boxes.
        ends: depth of tokens and depth of outputs.
        source, target: [m] the edges that are drawn.
        most: boxes in a row that several depths share.
    """
    levels = np.zeros(len(depth), dtype=np.int64)
    joined = set(zip(source.tolist(), target.tolist(), strict=True))
    joined |= {(end, start) for start, end in joined}
    row: list[int] = []
    level = -1
    for value in np.unique(depth):
        members = np.flatnonzero(depth == value).tolist()
        apart = value in ends or (row and depth[row[0]] in ends)
        fits = len(row) + len(members) <= most
        if not row or apart or not fits or _meet(row, members, joined):
            row, level = [], level + 1
        row += members
        levels[members] = level
    return levels


def _meet(first: Sequence[int], second: Sequence[int], joined: set[tuple[int, int]]) -> bool:
    return any((a, b) in joined for a in first for b in second)


def strongest_to_pin(
    graph: AttributionGraph, count: int, ctx: Optional[WorkContext] = None
) -> tuple[str, ...]:
    """Names of what to begin a subgraph with: the nodes of the strongest paths from tokens to the
    likeliest output, path after path while they are at most ``count`` in all, in the order of the
    forward pass.

    Paths hang together, which nodes of the greatest influence alone need not. They begin at no
    error, which explains nothing, and not at the first token, where attention rests.

    Raises:
        Cancelled: somebody asked ``ctx`` to stop.
    """
    from attention_studio.core.attribution_graph import NodeKind

    nodes = graph.nodes
    if not graph.start.any():
        return ()
    output = int(np.argmax(graph.start))
    tokens = np.flatnonzero((nodes.kind == NodeKind.EMBEDDING) & (nodes.position > 0))
    found = strongest_paths(graph.edges, graph.totals, tokens.tolist(), output, 2 * count, ctx)
    chosen = {output}
    for path in found.paths:
        if len(chosen.union(path.nodes)) <= count:
            chosen.update(path.nodes)
    ordered = np.array(sorted(chosen), dtype=np.int64)
    ordered = ordered[np.lexsort((ordered, nodes.position[ordered], nodes.depth[ordered]))]
    return tuple(graph.node_name(int(node)) for node in ordered)
