"""Where the nodes of an attribution graph sit, as far as the graph alone decides it.

A link graph fixes two things: a node's column is its token position and its row is its layer, or
its module, where a layer's attention has features of its own and so a row below its MLP's. What is
left to choose is the order of the nodes that share a cell. A good order keeps edges short and
uncrossed; it is found by barycentre sweeps (Sugiyama, Tagawa and Toda 1981), which cost a few
milliseconds for thousands of nodes because a sweep is a handful of numpy calls per row.

Positions are in *slots*, the width of one node. Pixels are the view's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CellElements:
    """The nodes to place.

    Attributes:
        column: [n] token position of each node, from 0.
        row: [n] row of each node, from 0 at the bottom.
        n_columns: how many columns there are, empty ones included.
    """

    column: Ints
    row: Ints
    n_columns: int


@dataclass(frozen=True)
class CellLinks:
    """The edges that pull nodes together.

    Attributes:
        source: [m] index into the elements.
        target: [m] index into the elements.
        strength: [m] how hard the edge pulls, not negative.
    """

    source: Ints
    target: Ints
    strength: Floats


@dataclass(frozen=True)
class CellOrderConfig:
    """How long to look for a better order.

    Attributes:
        sweeps: passes over all rows; the best one is kept.
    """

    sweeps: int = 6


@dataclass(frozen=True)
class CellOrder:
    """The places found.

    Attributes:
        offset: [n] distance of a node from the middle of its cell, in slots.
        column_slots: [n_columns] how many nodes the fullest cell of each column holds.
        cost: the strength-weighted sum of horizontal edge lengths, in slots. Smaller is better.
    """

    offset: Floats
    column_slots: Ints
    cost: float


class CellOrderOptimizer:
    """Orders nodes within their cells; column and row are constraints that are never broken."""

    def __init__(
        self,
        elements: CellElements,
        connections: CellLinks,
        config: CellOrderConfig = CellOrderConfig(),
    ) -> None:
        self._elements = elements
        self._config = config
        n = len(elements.column)
        self._n_rows = int(elements.row.max()) + 1 if n else 0
        self._source = np.asarray(connections.source, dtype=np.int64)
        self._target = np.asarray(connections.target, dtype=np.int64)
        self._strength = np.asarray(connections.strength, dtype=np.float64)
        self._cell = elements.row * max(1, elements.n_columns) + elements.column
        # Nodes sorted by cell are sorted by row too, so a row is one slice of this order.
        self._by_cell = np.argsort(self._cell, kind="stable")
        self._row_bounds = np.searchsorted(
            elements.row[self._by_cell], np.arange(self._n_rows + 1), side="left"
        )
        self._column_slots = self._count_slots()
        self._centre = np.cumsum(self._column_slots) - self._column_slots / 2.0
        self._incoming = self._group_by_row(self._target)
        self._outgoing = self._group_by_row(self._source)

    def optimize_incremental(self) -> Iterator[CellOrder]:
        """Yield the starting order, then the best order known after each sweep."""
        offset = self._offsets_for(np.arange(len(self._cell), dtype=np.float64))
        best = CellOrder(offset, self._column_slots, self._cost(offset))
        yield best
        for sweep in range(self._config.sweeps):
            offset = self._sweep(offset, upward=sweep % 2 == 0)
            cost = self._cost(offset)
            if cost < best.cost:
                best = CellOrder(offset, self._column_slots, cost)
            yield best

    def optimize(self) -> CellOrder:
        """Return the best order after all sweeps."""
        layout = CellOrder(np.zeros(0), self._column_slots, 0.0)
        for better in self.optimize_incremental():
            layout = better
        return layout

    def _count_slots(self) -> Ints:
        """Return the fullest cell of every column, at least one slot."""
        slots = np.ones(self._elements.n_columns, dtype=np.int64)
        if len(self._cell):
            cells, counts = np.unique(self._cell, return_counts=True)
            np.maximum.at(slots, cells % self._elements.n_columns, counts)
        return slots

    def _group_by_row(self, ends: Ints) -> list[Ints]:
        """Return for every row the edges whose given end lies in it."""
        if not len(ends):
            return [np.zeros(0, dtype=np.int64)] * self._n_rows
        rows = self._elements.row[ends]
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(self._n_rows + 1), side="left")
        return [order[bounds[r] : bounds[r + 1]] for r in range(self._n_rows)]

    def _offsets_for(self, key: Floats) -> Floats:
        """Return the offsets that put the nodes of every cell in the order of ``key``."""
        return self._rank(key, self._by_cell)

    def _rank(self, key: Floats, members: Ints) -> Floats:
        """Rank ``members`` (sorted by cell) within their cells; others get zero."""
        offset = np.zeros(len(self._cell))
        if not len(members):
            return offset
        order = members[np.lexsort((key[members], self._cell[members]))]
        cells = self._cell[order]
        first = np.flatnonzero(np.r_[True, cells[1:] != cells[:-1]])
        counts = np.diff(np.r_[first, len(cells)])
        rank = np.arange(len(cells)) - np.repeat(first, counts)
        offset[order] = rank - (np.repeat(counts, counts) - 1) / 2.0
        return offset

    def _sweep(self, offset: Floats, upward: bool) -> Floats:
        """Move every row towards its neighbours below (upward) or above, one row at a time."""
        x = self._centre[self._elements.column] + offset
        rows = range(self._n_rows) if upward else range(self._n_rows - 1, -1, -1)
        near, far = (self._target, self._source) if upward else (self._source, self._target)
        groups = self._incoming if upward else self._outgoing
        result: Floats = offset.copy()
        for row in rows:
            edges = groups[row]
            if not len(edges):
                continue
            members = self._by_cell[self._row_bounds[row] : self._row_bounds[row + 1]]
            n = len(x)
            strength = self._strength[edges]
            pull = np.bincount(near[edges], strength, n).astype(np.float64)[members]
            sums = np.bincount(near[edges], strength * x[far[edges]], n)[members]
            key = x.copy()
            pulled = pull > 0
            key[members[pulled]] = sums[pulled] / pull[pulled]
            result[members] = self._rank(key, members)[members]
            x[members] = self._centre[self._elements.column[members]] + result[members]
        return result

    def _cost(self, offset: Floats) -> float:
        x = self._centre[self._elements.column] + offset
        return float(np.sum(self._strength * np.abs(x[self._source] - x[self._target])))
