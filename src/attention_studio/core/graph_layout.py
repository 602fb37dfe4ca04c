"""Where the boxes of a subgraph stand: layers from bottom to top, nothing on top of anything, what
a person has placed where it was placed, and as few crossings as can be found.

Layered drawing after Sugiyama, Tagawa and Toda (1981), with coordinates from separation constraints
(``layout_geometry``): rows are the levels of the elements, and the order within rows and a sideways
shift of every element are searched for. Constraints hold in every layout that is handed out,
whatever the search has come to:

- boxes of free elements overlap nothing;
- of two free elements the one of the greater level stands higher;
- what has a place keeps it.

Everything is decided by the elements, the connections and the configuration, never by time: the
same subgraph looks the same wherever it is arranged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.layout_geometry import covered, crossings, line_ends, place_row, spaced
from attention_studio.utils.progress import WorkContext

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# How much an element is drawn to where its token stands, against the pull of all its lines.
_HINT_PULL = 0.08
# How little a row without placed elements cares where it is, against one with.
_ROW_PULL = 1e-3
_RELAXATIONS = 4
# Up to about so much of cost is put up with at the beginning of the search.
_HEAT = 1.0
# So often another order is tried rather than a shift.
_REORDER = 0.7
# A round that lowers the cost by less than this share has not been worth the wait.
_WORTHWHILE = 0.01


@dataclass(frozen=True)
class LayoutElements:
    """The boxes to place.

    Attributes:
        width, height: [n] in pixels.
        level: [n] its row counted from the bottom; greater is higher.
        hint: [n] from left to right, before anything is known of lines: a token position.
        place_x, place_y: [n] the centre, where a person has put it; nan for one that is free.
    """

    width: Floats
    height: Floats
    level: Ints
    hint: Floats
    place_x: Floats
    place_y: Floats

    def __len__(self) -> int:
        return len(self.width)

    @property
    def placed(self) -> Bools:
        """[n] which have a place."""
        return np.asarray(~(np.isnan(self.place_x) | np.isnan(self.place_y)))


@dataclass(frozen=True)
class LayoutConnections:
    """The lines between boxes.

    Attributes:
        source, target: [m] indices of elements.
        strength: [m] how hard a line pulls its ends together, not negative.
    """

    source: Ints
    target: Ints
    strength: Floats


@dataclass(frozen=True)
class LayoutConfig:
    """How boxes are spaced and how long a better picture is looked for.

    Attributes:
        gap_x, gap_y: least distance between boxes, in pixels.
        rounds: rounds of search at most; each tries ``trials`` changes.
        patience: the search ends after so many rounds without a picture worth the wait.
        trials: changes tried per round.
        stretch: how many crossings it is worth to shorten a line by the width of a box.
        max_lines: of so many of the strongest lines crossings are counted.
        seed: of the search.
    """

    gap_x: float = 18.0
    gap_y: float = 44.0
    rounds: int = 24
    patience: int = 5
    trials: int = 12
    stretch: float = 0.35
    max_lines: int = 250
    seed: int = 0


def config_for(n_boxes: int, n_lines: int) -> LayoutConfig:
    """The configuration for a picture of that size: the larger, the fewer trials to a round, so
    that no round takes long."""
    trials = max(2, min(LayoutConfig.trials, 1_500 // max(1, n_boxes + n_lines)))
    return LayoutConfig(trials=trials)


@dataclass(frozen=True)
class LayoutCost:
    """What makes a picture hard to read.

    Attributes:
        crossings: pairs of lines that cross.
        covered: how often a line runs behind a box.
        length: sum of the lines' horizontal lengths in widths of an average box, weighted by
            strength (the strongest counts one) and by ``LayoutConfig.stretch``.
    """

    crossings: int
    covered: int
    length: float

    @property
    def total(self) -> float:
        """Everything in one number: a line behind a box is worse than a crossing."""
        return self.crossings + 2.0 * self.covered + self.length


@dataclass(frozen=True)
class GraphLayout:
    """Centres of all boxes [n] and what the picture costs."""

    x: Floats
    y: Floats
    cost: LayoutCost


@dataclass
class _Arrangement:
    """What is searched over: the order within rows, and how far elements are shifted sideways."""

    orders: list[Ints]
    shift: Floats

    def copy(self) -> _Arrangement:
        return _Arrangement([order.copy() for order in self.orders], self.shift.copy())


class ConstraintSatisfactionLayoutOptimizer:
    """Arranges boxes in rows under the constraints above, better and better."""

    def __init__(
        self,
        elements: LayoutElements,
        connections: LayoutConnections,
        config: LayoutConfig = LayoutConfig(),
    ) -> None:
        self._elements = elements
        self._config = config
        strongest = np.argsort(-connections.strength, kind="stable")[: config.max_lines]
        joined = strongest[connections.source[strongest] != connections.target[strongest]]
        self._source = np.asarray(connections.source[joined], dtype=np.int64)
        self._target = np.asarray(connections.target[joined], dtype=np.int64)
        strength = np.asarray(connections.strength[joined], dtype=np.float64)
        self._strength = strength / strength.max(initial=1e-30)
        self._placed = elements.placed
        self._unit = float(elements.width.mean()) if len(elements) else 1.0
        levels = np.unique(elements.level)
        self._row = np.searchsorted(levels, elements.level)
        self._row_y = self._find_rows(len(levels))
        self._y = np.where(self._placed, elements.place_y, self._row_y[self._row])
        self._free = [
            np.flatnonzero((self._row == row) & ~self._placed) for row in range(len(levels))
        ]
        self._obstacles = [self._in_the_way(row) for row in range(len(levels))]
        spread = elements.hint - (elements.hint.mean() if len(elements) else 0.0)
        self._base = spread * (self._unit + config.gap_x) * 0.5
        if self._placed.any():
            self._base += float(elements.place_x[self._placed].mean())

    def optimize_incremental(self, ctx: Optional[WorkContext] = None) -> Iterator[GraphLayout]:
        """Yield a layout that keeps all constraints, then after each round the best one known.

        Stopping to iterate is fine at any time.

        Args:
            ctx: asked between trials whether to go on.

        Raises:
            Cancelled: somebody asked ``ctx`` to stop.
        """
        arrangement = self._start()
        best = self._laid_out(arrangement)
        yield best
        if not len(self._source) or not any(len(row) for row in self._free):
            return
        for downward in (False, True, False, True):
            swept = self._swept(arrangement, best.x, downward)
            layout = self._laid_out(swept)
            if layout.cost.total < best.cost.total:
                arrangement, best = swept, layout
        yield best
        random = np.random.default_rng(self._config.seed)
        now, idle = best.cost.total, 0
        for number in range(self._config.rounds):
            # Annealing (Kirkpatrick et al. 1983): what is a little worse is taken at first, since
            # the way out of a tangle often leads through a worse one; at last only what is better.
            before = best
            heat = _HEAT * (1.0 - number / max(1, self._config.rounds - 1)) ** 2
            for _ in range(self._config.trials):
                if ctx is not None:
                    ctx.check()
                changed = self._changed(arrangement, random)
                layout = self._laid_out(changed)
                worse = layout.cost.total - now
                if worse <= 0 or random.random() < np.exp(-worse / max(heat, 1e-6)):
                    arrangement, now = changed, layout.cost.total
                if layout.cost.total < best.cost.total - 1e-9:
                    best = layout
            yield best
            gained = before.cost.total - best.cost.total
            idle = 0 if gained > _WORTHWHILE * before.cost.total else idle + 1
            if idle >= self._config.patience:
                return

    def optimize(self, ctx: Optional[WorkContext] = None) -> GraphLayout:
        """Return the best layout after all rounds.

        Raises:
            Cancelled: somebody asked ``ctx`` to stop.
        """
        best: Optional[GraphLayout] = None
        for better in self.optimize_incremental(ctx):
            best = better
        assert best is not None  # the first is handed out in any case
        return best

    # -- constraints ----------------------------------------------------------------------------

    def _find_rows(self, count: int) -> Floats:
        """Return the middle of every row: as near to placed elements of its level as the order of
        rows and the heights of their boxes allow."""
        height = np.zeros(count)
        np.maximum.at(height, self._row, self._elements.height)
        pitch = (height[:-1] + height[1:]) / 2.0 + self._config.gap_y
        stacked = np.concatenate([[0.0], np.cumsum(pitch)])[:count]
        placed = np.flatnonzero(self._placed)
        rows = self._row[placed]
        number = np.bincount(rows, minlength=count).astype(np.float64)
        # Heights grow upwards here, as levels do.
        summed = np.bincount(rows, -self._elements.place_y[placed], minlength=count)
        if len(placed):
            stacked = stacked + float((summed / np.maximum(number, 1) - stacked)[rows].mean())
        wish = np.where(number > 0, summed / np.maximum(number, 1), stacked)
        return -spaced(wish, np.maximum(number, _ROW_PULL), pitch)

    def _in_the_way(self, row: int) -> list[tuple[float, float]]:
        """Return the intervals of a row that placed elements take, gaps included."""
        e, free = self._elements, self._free[row]
        if not len(free):
            return []
        half = float(e.height[free].max()) / 2.0 + self._config.gap_y / 2.0
        placed = np.flatnonzero(self._placed)
        reach = np.abs(e.place_y[placed] - self._row_y[row]) < half + e.height[placed] / 2.0
        return [
            (
                float(e.place_x[box] - e.width[box] / 2.0) - self._config.gap_x,
                float(e.place_x[box] + e.width[box] / 2.0) + self._config.gap_x,
            )
            for box in placed[reach]
        ]

    def _placed_x(self, arrangement: _Arrangement, wish: Floats, x: Floats, row: int) -> None:
        """Put one row's free elements where they wish, as far as that can be, into ``x``."""
        order = arrangement.orders[row]
        if len(order):
            x[order] = place_row(
                wish[order], self._elements.width[order], self._config.gap_x, self._obstacles[row]
            )

    # -- layouts ----------------------------------------------------------------------------------

    def _start(self) -> _Arrangement:
        orders = [row[np.argsort(self._base[row], kind="stable")] for row in self._free]
        return _Arrangement(orders, np.zeros(len(self._elements)))

    def _laid_out(self, arrangement: _Arrangement) -> GraphLayout:
        """Return the layout of an arrangement: every row moves towards what it is joined to."""
        n = len(self._elements)
        x = np.where(self._placed, self._elements.place_x, self._base)
        for row in range(len(self._free)):
            self._placed_x(arrangement, x + arrangement.shift, x, row)
        for turn in range(_RELAXATIONS if len(self._source) else 0):
            rows = range(len(self._free))
            for row in rows if turn % 2 == 0 else reversed(rows):
                self._placed_x(arrangement, self._pulled(x, n) + arrangement.shift, x, row)
        return GraphLayout(x, self._y, self._cost(x))

    def _pulled(self, x: Floats, n: int) -> Floats:
        """Return where every element is drawn to: the mean of what it is joined to."""
        s, t, strength = self._source, self._target, self._strength
        pull = np.bincount(s, strength, n) + np.bincount(t, strength, n) + _HINT_PULL
        sums = np.bincount(s, strength * x[t], n) + np.bincount(t, strength * x[s], n)
        return np.asarray((sums + _HINT_PULL * self._base) / pull)

    def _cost(self, x: Floats) -> LayoutCost:
        e = self._elements
        ends = line_ends(x, self._y, e.width, e.height, self._source, self._target)
        run = np.abs(x[self._source] - x[self._target])
        return LayoutCost(
            crossings(ends, self._source, self._target),
            covered(ends, self._source, self._target, (x, self._y, e.width, e.height)),
            self._config.stretch * float((self._strength * run).sum()) / self._unit,
        )

    # -- search -----------------------------------------------------------------------------------

    def _swept(self, arrangement: _Arrangement, x: Floats, downward: bool) -> _Arrangement:
        """Order every row by the mean of what it is joined to in the rows passed before it."""
        swept = arrangement.copy()
        n, middle = len(self._elements), x.copy()
        near, far = (self._source, self._target) if downward else (self._target, self._source)
        pull = np.bincount(near, self._strength, n)
        rows = range(len(swept.orders))
        for row in reversed(rows) if downward else rows:
            sums = np.bincount(near, self._strength * middle[far], n)
            order = swept.orders[row]
            wish = np.where(pull > 0, sums / np.maximum(pull, 1e-30), middle)
            swept.orders[row] = order[np.argsort(wish[order], kind="stable")]
            self._placed_x(swept, wish, middle, row)
        return swept

    def _changed(self, arrangement: _Arrangement, random: np.random.Generator) -> _Arrangement:
        """Return an arrangement with one element elsewhere in its row, or shifted sideways."""
        changed = arrangement.copy()
        free = np.concatenate(self._free)
        element = int(random.choice(free))
        row = self._row[element]
        order = changed.orders[row]
        if len(order) > 1 and random.random() < _REORDER:
            at = int(np.flatnonzero(order == element)[0])
            to = (at + int(random.integers(1, len(order)))) % len(order)
            if random.random() < 0.5:
                order[[at, to]] = order[[to, at]]
            else:
                changed.orders[row] = np.insert(np.delete(order, at), to, element)
            # Shifts that held the old order apart would pull the new one together.
            changed.shift[order] = 0.0
            return changed
        step = float(random.normal()) * self._unit
        changed.shift[element] = 0.0 if random.random() < 0.25 else changed.shift[element] + step
        return changed
