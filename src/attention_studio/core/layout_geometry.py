"""Geometry of boxes joined by lines: keeping boxes apart, and counting what makes a picture hard
to read.

Coordinates are pixels, x to the right and y downwards; a box is given by its centre and size.
Keeping boxes apart is a least-squares problem with separation constraints (Dwyer, Marriott and
Stuckey 2005, "Fast node overlap removal"), which on a line is isotonic regression and so solved
exactly by pooling adjacent violators (Barlow et al. 1972).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def spaced(
    wish: Floats, weight: Floats, gaps: Floats, low: float = -np.inf, high: float = np.inf
) -> Floats:
    """Places in the given order that come nearest to what each wishes.

    Minimises ``sum weight (x - wish)^2`` subject to ``x[i + 1] - x[i] >= gaps[i]`` and
    ``low <= x[0]``, ``x[-1] <= high``, which has to be possible.

    Args:
        wish: [k] where each would like to be.
        weight: [k] how much it wants that, positive.
        gaps: [k - 1] least distances.
        low, high: bounds for all.
    """
    offset = np.concatenate([[0.0], np.cumsum(gaps)])[: len(wish)]
    pools: list[list[float]] = []  # weighted mean, weight, members
    for value, mass in zip((wish - offset).tolist(), weight.tolist(), strict=True):
        pools.append([value, mass, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, more, members = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * more) / (last[1] + more)
            last[1] += more
            last[2] += members
    flat = np.repeat([pool[0] for pool in pools], [int(pool[2]) for pool in pools])
    # Bounds on all move the pools beyond them, and no others.
    top = high - float(offset[-1]) if len(offset) else high
    placed: Floats = np.clip(flat, low, top) + offset
    return placed


def free_gaps(obstacles: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What intervals leave of a line, from left to right; the outer two have no end."""
    gaps: list[tuple[float, float]] = []
    left = -np.inf
    for begin, end in sorted(obstacles):
        if begin > left:
            gaps.append((left, begin))
        left = max(left, end)
    return [*gaps, (left, np.inf)]


def place_row(
    wish: Floats, width: Floats, gap: float, obstacles: Sequence[tuple[float, float]] = ()
) -> Floats:
    """Centres of boxes side by side, in the given order, between what cannot be moved.

    Which boxes go between which two obstacles is found by dynamic programming over the order, so
    that the sum of squared distances to the nearest point of the gap is least; within a gap the
    places are the best there are.

    Args:
        wish: [k] where the middle of each box would like to be.
        width: [k] of the boxes.
        gap: least distance between two boxes.
        obstacles: (left, right) of what is in the way, ``gap`` included.
    """
    count = len(wish)
    places = free_gaps(obstacles)
    if len(places) == 1:
        return spaced(wish, np.ones(count), (width[:-1] + width[1:]) / 2.0 + gap)
    reach = np.concatenate([[0.0], np.cumsum(width + gap)])
    best = np.full((len(places) + 1, count + 1), np.inf)
    best[0, 0] = 0.0
    begins = np.zeros((len(places) + 1, count + 1), dtype=np.int64)
    for number, (low, high) in enumerate(places, start=1):
        to = np.clip(wish, low + width / 2.0, np.maximum(high - width / 2.0, low + width / 2.0))
        away = np.concatenate([[0.0], np.cumsum((to - wish) ** 2)])
        for end in range(count + 1):
            for begin in range(end + 1):
                if end > begin and reach[end] - reach[begin] - gap > high - low:
                    continue
                cost = best[number - 1, begin] + away[end] - away[begin]
                if cost < best[number, end]:
                    best[number, end], begins[number, end] = cost, begin
    result = np.zeros(count)
    end = count
    for number in range(len(places), 0, -1):
        begin = int(begins[number, end])
        if begin < end:
            low, high = places[number - 1]
            mine = slice(begin, end)
            half = width[mine] / 2.0
            result[mine] = spaced(
                wish[mine],
                np.ones(end - begin),
                half[:-1] + half[1:] + gap,
                low + float(half[0]),
                high - float(half[-1]),
            )
        end = begin
    return result


def line_ends(
    x: Floats, y: Floats, width: Floats, height: Floats, source: Ints, target: Ints
) -> tuple[Floats, Floats, Floats, Floats]:
    """Where lines between boxes begin and end: x and y of both ends [m].

    A line leaves the side of its source that faces its target, and arrives likewise: above or
    below, or, between boxes that stand beside each other, left or right.
    """
    rise, run = y[source] - y[target], x[target] - x[source]
    beside = np.abs(rise) < (height[source] + height[target]) / 2.0
    up = np.where(beside, 0.0, np.where(rise >= 0, 0.5, -0.5))
    over = np.where(beside, np.where(run >= 0, 0.5, -0.5), 0.0)
    return (
        x[source] + over * width[source],
        y[source] - up * height[source],
        x[target] - over * width[target],
        y[target] + up * height[target],
    )


def crossings(ends: tuple[Floats, Floats, Floats, Floats], source: Ints, target: Ints) -> int:
    """How many pairs of lines cross in a point that is an end of neither.

    Lines that share a box are not counted: they meet there.

    Args:
        ends: x and y of the beginnings, x and y of the ends, [m] each.
        source, target: [m] the boxes that they join.
    """
    x0, y0, x1, y1 = ends
    dx, dy = x1 - x0, y1 - y0
    # [i, j]: on which side of line i the ends of line j lie.
    first = np.sign(dx[:, None] * (y0 - y0[:, None]) - dy[:, None] * (x0 - x0[:, None]))
    second = np.sign(dx[:, None] * (y1 - y0[:, None]) - dy[:, None] * (x1 - x0[:, None]))
    apart = first * second < 0
    shared = (source[:, None] == source) | (target[:, None] == target)
    shared |= (source[:, None] == target) | (target[:, None] == source)
    return int(np.count_nonzero(apart & apart.T & ~shared)) // 2


def covered(
    ends: tuple[Floats, Floats, Floats, Floats],
    source: Ints,
    target: Ints,
    boxes: tuple[Floats, Floats, Floats, Floats],
) -> int:
    """How often a line runs behind a box that is not its own.

    Args:
        ends, source, target: as for ``crossings``.
        boxes: centre x, centre y, width and height, [n] each.
    """
    x0, y0, x1, y1 = (end[:, None] for end in ends)
    x, y, width, height = boxes
    enter, leave = np.zeros((len(source), len(x))), np.ones((len(source), len(x)))
    inside = np.ones((len(source), len(x)), dtype=bool)
    for begin, run, middle, half in (
        (x0, x1 - x0, x, width / 2.0),
        (y0, y1 - y0, y, height / 2.0),
    ):
        low, high = middle - half - begin, middle + half - begin
        still = np.abs(run) < 1e-9
        safe = np.where(still, 1.0, run)
        one, other = low / safe, high / safe
        enter = np.where(still, enter, np.maximum(enter, np.minimum(one, other)))
        leave = np.where(still, leave, np.minimum(leave, np.maximum(one, other)))
        inside &= ~still | ((low < 0) & (high > 0))
    own = (np.arange(len(x)) == source[:, None]) | (np.arange(len(x)) == target[:, None])
    return int(np.count_nonzero(inside & (leave - enter > 1e-9) & ~own))


def spread_ends(
    ends: tuple[Floats, Floats, Floats, Floats],
    boxes: tuple[Floats, Floats, Floats, Floats],
    source: Ints,
    target: Ints,
    most: float = 16.0,
) -> tuple[Floats, Floats, Floats, Floats]:
    """The same lines with their ends side by side along the edges of boxes, in the order in which
    they come, so that one can tell them apart.

    Args:
        ends: of the lines, from ``line_ends``.
        boxes: centre x, centre y, width and height, [n] each.
        source, target: [m] the boxes that they join.
        most: greatest distance between two ends at one edge.
    """
    x0, y0, x1, y1 = (end.copy() for end in ends)
    x, y, width, _ = boxes
    places: dict[tuple[int, bool], list[tuple[float, bool, int]]] = {}
    for line in range(len(source)):
        for begins, box, at_x, at_y, other in (
            (True, int(source[line]), x0, y0, x1[line]),
            (False, int(target[line]), x1, y1, x0[line]),
        ):
            if at_x[line] == x[box]:  # at an upper or lower edge
                key = (box, bool(at_y[line] < y[box]))
                places.setdefault(key, []).append((float(other), begins, line))
    for (box, _), found in places.items():
        step = min(most, 0.7 * float(width[box]) / len(found))
        for rank, (_, begins, line) in enumerate(sorted(found)):
            (x0 if begins else x1)[line] += (rank - (len(found) - 1) / 2.0) * step
    return x0, y0, x1, y1
