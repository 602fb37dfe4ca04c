"""The edges of an attribution graph, stored as many small dense matrices.

All targets at one module and position can be reached from the same sources, and from no others:
what lies below them, at positions that they see. So their edges are one dense block, and a graph is
a list of blocks: nothing is stored for pairs that cannot have an edge, and nothing but the weight
for those that can (a dense matrix holds several times as much, a list of pairs twice).

Sources are put in order of position and, within a position, of depth. What a block can be reached
from is then a few ranges of this order: for each position that its targets see, all sources below
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class EdgeBlock:
    """Edges ``weights`` [r, c] into the nodes ``targets`` [r] from the nodes ``columns`` [c]."""

    targets: Ints
    columns: Ints
    weights: Floats


@dataclass(frozen=True)
class EdgeLayout:
    """Which edges there can be, without their weights.

    Blocks come in order of depth, greatest first, so that whoever walks through them meets every
    node as a target before anything that feeds it.

    Attributes:
        order: [n_sources] the nodes that can be sources, which are the first of the graph, in the
            order that ranges count in.
        targets: [n_targets] node of each row, block by block.
        row_bounds: [B + 1] rows of block b are ``row_bounds[b]:row_bounds[b + 1]``.
        ranges: [R, 2] begin and end in ``order``.
        range_bounds: [B + 1] ranges of block b are ``range_bounds[b]:range_bounds[b + 1]``; its
            columns are theirs, one after the other.
    """

    order: Ints
    targets: Ints
    row_bounds: Ints
    ranges: Ints
    range_bounds: Ints

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.row_bounds) - 1

    @property
    def n_sources(self) -> int:
        """Number of nodes that can be sources."""
        return len(self.order)

    @cached_property
    def widths(self) -> Ints:
        """[B] number of columns."""
        ends = np.concatenate([[0], np.cumsum(self.ranges[:, 1] - self.ranges[:, 0])])
        widths: Ints = ends[self.range_bounds[1:]] - ends[self.range_bounds[:-1]]
        return widths

    @cached_property
    def offsets(self) -> Ints:
        """[B + 1] where the weights of a block are in all weights."""
        sizes = np.diff(self.row_bounds) * self.widths
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def size(self) -> int:
        """How many weights there are, zeros among them."""
        return int(self.offsets[-1])

    def columns(self, block: int) -> Ints:
        """The nodes that the columns of a block stand for."""
        ranges = self.ranges[self.range_bounds[block] : self.range_bounds[block + 1]]
        if len(ranges) == 1:
            return self.order[ranges[0, 0] : ranges[0, 1]]
        lengths = ranges[:, 1] - ranges[:, 0]
        # Counted through, then moved to where each range begins: there may be thousands.
        before = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) + np.repeat(ranges[:, 0] - before, lengths)
        columns: Ints = self.order[places]
        return columns


@dataclass(frozen=True)
class GraphEdges:
    """A layout with its weights ``data`` [layout.size], block by block and row by row.

    ``data`` may be a file that is mapped into memory.
    """

    layout: EdgeLayout
    data: Floats

    @property
    def targets(self) -> Ints:
        """[n_targets] node of each row."""
        return self.layout.targets

    @property
    def n_sources(self) -> int:
        """Nodes that can be sources."""
        return self.layout.n_sources

    @cached_property
    def n_edges(self) -> int:
        """Edges that are not zero."""
        return int(np.count_nonzero(self.data))

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {int(node): row for row, node in enumerate(self.layout.targets)}

    def weights(self, block: int) -> Floats:
        """Weights [r, c] of one block, a view."""
        first, last = self.layout.offsets[block : block + 2]
        shape = (-1, int(self.layout.widths[block]))
        if first == last:
            shape = (int(np.diff(self.layout.row_bounds)[block]), shape[1])
        return self.data[first:last].reshape(shape)

    def blocks(self) -> Iterator[EdgeBlock]:
        """All blocks, those of the greatest depth first."""
        layout = self.layout
        for block in range(layout.n_blocks):
            rows = slice(*layout.row_bounds[block : block + 2])
            yield EdgeBlock(layout.targets[rows], layout.columns(block), self.weights(block))

    def row(self, node: int) -> int:
        """The row of a node among ``targets``; -1 where it is none."""
        return self._row_of.get(int(node), -1)

    def into(self, node: int) -> tuple[Ints, Floats]:
        """Sources and weights of the edges into a node, zeros among them; none for no target."""
        row = self.row(node)
        if row < 0:
            return self.layout.order[:0], self.data[:0]
        block = int(np.searchsorted(self.layout.row_bounds, row, side="right")) - 1
        weights = self.weights(block)[row - self.layout.row_bounds[block]]
        return self.layout.columns(block), weights

    def out_of(self, node: int) -> tuple[Ints, Floats]:
        """Targets and weights of the edges out of a node, zeros among them."""
        layout = self.layout
        place = self._place.get(int(node), -1)
        begin, end = layout.ranges[:, 0], layout.ranges[:, 1]
        holding = np.flatnonzero((begin <= place) & (place < end))
        before = np.concatenate([[0], np.cumsum(end - begin)])
        targets, weights = [layout.targets[:0]], [self.data[:0]]
        for number in holding.tolist():
            block = int(np.searchsorted(layout.range_bounds, number, side="right")) - 1
            first = before[layout.range_bounds[block]]
            column = int(before[number] - first + place - begin[number])
            targets.append(layout.targets[slice(*layout.row_bounds[block : block + 2])])
            weights.append(self.weights(block)[:, column])
        return np.concatenate(targets), np.concatenate(weights)

    @cached_property
    def _place(self) -> dict[int, int]:
        return {int(node): place for place, node in enumerate(self.layout.order)}

    def dense(self) -> Floats:
        """All edges as a matrix [n_targets, n_sources], column c for node c.

        For small graphs: it holds zeros for everything that cannot be an edge.
        """
        matrix = np.zeros((len(self.targets), self.n_sources), dtype=np.float32)
        row = 0
        for block in self.blocks():
            matrix[row : row + len(block.targets), block.columns] = block.weights
            row += len(block.targets)
        return matrix

    @classmethod
    def from_matrix(cls, weights: Floats, targets: Ints, depth: Ints) -> tuple[GraphEdges, Ints]:
        """Edges ``weights`` [n_targets, n_sources] into the nodes ``targets`` [n_targets].

        ``depth`` [n_nodes] is greater for a target than for any of its sources. Also returns the
        order [n_targets] that the rows are put in.
        """
        n_sources = weights.shape[1]
        order = np.argsort(-depth[targets], kind="stable")
        first = np.flatnonzero(np.diff(depth[targets[order]], prepend=np.iinfo(np.int64).min))
        layout = EdgeLayout(
            order=np.arange(n_sources, dtype=np.int64),
            targets=targets[order],
            row_bounds=np.append(first, len(targets)).astype(np.int64),
            ranges=np.tile(np.array([[0, n_sources]], dtype=np.int64), (len(first), 1)),
            range_bounds=np.arange(len(first) + 1, dtype=np.int64),
        )
        return cls(layout, weights[order].astype(np.float32).ravel()), order

    @classmethod
    def from_links(
        cls, n_sources: int, depth: Ints, source: Ints, target: Ints, weight: Floats
    ) -> GraphEdges:
        """Edges that are given as a list, as other tools do.

        Args:
            n_sources: nodes from 0 on that may be sources.
            depth: [n_nodes] greater for a target than for any of its sources.
            source, target, weight: [m] each.
        """
        order = np.lexsort((source, target, -depth[target]))
        source, target, weight = source[order], target[order], weight[order]
        new_row = np.flatnonzero(np.diff(target, prepend=-1))
        new_range = np.diff(source, prepend=-2) != 1
        new_range[new_row] = True
        begins = np.flatnonzero(new_range)
        lengths = np.diff(np.append(begins, len(source)))
        layout = EdgeLayout(
            order=np.arange(n_sources, dtype=np.int64),
            targets=target[new_row].astype(np.int64),
            row_bounds=np.arange(len(new_row) + 1, dtype=np.int64),
            ranges=np.stack([source[begins], source[begins] + lengths], 1).astype(np.int64),
            range_bounds=np.append(np.searchsorted(begins, new_row), len(begins)).astype(np.int64),
        )
        return cls(layout, weight.astype(np.float32))


def merged(parts: Sequence[GraphEdges], depth: Ints) -> GraphEdges:
    """Edges into several sets of targets, from the same sources, as one.

    ``depth`` [n_nodes] is that of every node.
    """
    first = parts[0].layout
    entries = [
        (int(-depth[part.targets[part.layout.row_bounds[block]]]), number, block)
        for number, part in enumerate(parts)
        for block in range(part.layout.n_blocks)
    ]
    entries.sort()
    chosen = [(parts[number], block) for _, number, block in entries]
    rows = [slice(*part.layout.row_bounds[block : block + 2]) for part, block in chosen]
    ranges = [slice(*part.layout.range_bounds[block : block + 2]) for part, block in chosen]
    layout = EdgeLayout(
        order=first.order,
        targets=np.concatenate(
            [first.targets[:0]]
            + [part.targets[which] for (part, _), which in zip(chosen, rows, strict=True)]
        ),
        row_bounds=_bounds([which.stop - which.start for which in rows]),
        ranges=np.concatenate(
            [first.ranges[:0]]
            + [part.layout.ranges[which] for (part, _), which in zip(chosen, ranges, strict=True)]
        ),
        range_bounds=_bounds([which.stop - which.start for which in ranges]),
    )
    data = np.empty(layout.size, dtype=np.float32)
    for number, (part, block) in enumerate(chosen):
        data[slice(*layout.offsets[number : number + 2])] = part.weights(block).ravel()
    return GraphEdges(layout, data)


def _bounds(sizes: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
