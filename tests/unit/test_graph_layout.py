"""Layouts of subgraphs: constraints in every layout, and as few crossings as there can be."""

from __future__ import annotations

import itertools
from fractions import Fraction
from itertools import pairwise
from typing import Optional

import numpy as np
import pytest

from attention_studio.core.graph_layout import (
    ConstraintSatisfactionLayoutOptimizer,
    GraphLayout,
    LayoutConfig,
    LayoutConnections,
    LayoutElements,
    config_for,
)
from attention_studio.core.layout_geometry import (
    covered,
    crossings,
    free_gaps,
    line_ends,
    place_row,
    spaced,
    spread_ends,
)
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext


def elements_of(
    level: list[int], seed: int = 0, places: Optional[dict[int, tuple[float, float]]] = None
) -> LayoutElements:
    random = np.random.default_rng(seed)
    n = len(level)
    x, y = np.full(n, np.nan), np.full(n, np.nan)
    for box, place in (places or {}).items():
        x[box], y[box] = place
    return LayoutElements(
        width=random.uniform(60, 160, n),
        height=random.uniform(24, 44, n),
        level=np.array(level),
        hint=random.integers(0, 6, n).astype(np.float64),
        place_x=x,
        place_y=y,
    )


def random_problem(
    seed: int, n: int = 24, placed: int = 0
) -> tuple[LayoutElements, LayoutConnections]:
    random = np.random.default_rng(seed)
    level = random.integers(0, 6, n)
    places = {
        int(box): (float(random.uniform(-400, 400)), float(random.uniform(-250, 250)))
        for box in random.choice(n, placed, replace=False)
    }
    source, target = np.nonzero((level[:, None] < level) & (random.random((n, n)) < 0.15))
    connections = LayoutConnections(source, target, random.random(len(source)))
    return elements_of(level.tolist(), seed, places), connections


def overlapping(elements: LayoutElements, layout: GraphLayout) -> list[tuple[int, int]]:
    """Pairs of boxes that overlap, one pair after another; pairs that a person made excepted."""
    found = []
    for a, b in itertools.combinations(range(len(elements)), 2):
        wide = (elements.width[a] + elements.width[b]) / 2 - abs(layout.x[a] - layout.x[b])
        high = (elements.height[a] + elements.height[b]) / 2 - abs(layout.y[a] - layout.y[b])
        by_hand = elements.placed[a] and elements.placed[b]
        if wide > 1e-6 and high > 1e-6 and not by_hand:
            found.append((a, b))
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("placed", [0, 5])
def test_every_layout_on_the_way_keeps_all_constraints(seed: int, placed: int) -> None:
    elements, connections = random_problem(seed, placed=placed)
    config = LayoutConfig(rounds=4)
    optimizer = ConstraintSatisfactionLayoutOptimizer(elements, connections, config)
    layouts = list(optimizer.optimize_incremental())
    assert 2 < len(layouts) <= 2 + config.rounds
    hand = elements.placed
    for layout in layouts:
        assert overlapping(elements, layout) == []
        assert np.array_equal(layout.x[hand], elements.place_x[hand])
        assert np.array_equal(layout.y[hand], elements.place_y[hand])
        for a, b in itertools.permutations(np.flatnonzero(~hand).tolist(), 2):
            if elements.level[a] < elements.level[b]:
                assert layout.y[a] > layout.y[b]
    costs = [layout.cost.total for layout in layouts]
    assert all(later <= earlier for earlier, later in pairwise(costs))
    assert costs[-1] < costs[0]


def test_a_search_that_finds_nothing_better_ends() -> None:
    # Two boxes and a line: the first layout is the best one.
    elements = elements_of([0, 1])
    line = LayoutConnections(np.array([0]), np.array([1]), np.ones(1))
    config = LayoutConfig(rounds=50, patience=3)
    found = list(
        ConstraintSatisfactionLayoutOptimizer(elements, line, config).optimize_incremental()
    )
    assert len(found) < 30
    assert found[-1].cost.crossings == found[-1].cost.covered == 0


def test_large_pictures_get_short_rounds() -> None:
    assert config_for(8, 12).trials == LayoutConfig().trials
    assert config_for(150, 400).trials == 2
    assert config_for(0, 0).rounds == LayoutConfig().rounds


def test_the_same_problem_has_the_same_layout() -> None:
    elements, connections = random_problem(3)
    first, second = (
        ConstraintSatisfactionLayoutOptimizer(elements, connections).optimize() for _ in range(2)
    )
    assert np.array_equal(first.x, second.x)
    assert np.array_equal(first.y, second.y)


def fewest_crossings(level: list[int], source: list[int], target: list[int]) -> int:
    """The fewest crossings of any order of two rows, by trying all orders."""
    rows = [[box for box in range(len(level)) if level[box] == row] for row in (0, 1)]
    fewest = len(source) ** 2
    for lower in itertools.permutations(rows[0]):
        for upper in itertools.permutations(rows[1]):
            lines = [(lower.index(s), upper.index(t)) for s, t in zip(source, target, strict=True)]
            crossed = sum(
                (a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in itertools.combinations(lines, 2)
            )
            fewest = min(fewest, crossed)
    return fewest


def test_two_rows_are_uncrossed_nearly_as_far_as_any_order_can() -> None:
    more = []
    for seed in range(10):
        random = np.random.default_rng(seed)
        level = [0] * 4 + [1] * 4
        source, target = np.nonzero(random.random((4, 4)) < 0.5)
        target += 4
        lines = LayoutConnections(source, target, np.ones(len(source)))
        found = ConstraintSatisfactionLayoutOptimizer(elements_of(level, seed), lines).optimize()
        fewest = fewest_crossings(level, source.tolist(), target.tolist())
        assert found.cost.crossings >= fewest
        more.append(found.cost.crossings - fewest)
    # One crossing may be worth much shorter lines.
    assert sum(more) <= 1


def test_what_is_placed_stays_and_the_rest_makes_room() -> None:
    # Everything on one level, and a box placed where its row is: the others go around it.
    elements = elements_of([0] * 5, places={2: (0.0, 0.0)})
    none = np.zeros(0, dtype=np.int64)
    layout = ConstraintSatisfactionLayoutOptimizer(
        elements, LayoutConnections(none, none, np.zeros(0))
    ).optimize()
    assert (layout.x[2], layout.y[2]) == (0.0, 0.0)
    assert np.allclose(layout.y, 0.0, atol=1e-6)
    assert overlapping(elements, layout) == []


def test_nothing_and_one_box_have_layouts() -> None:
    none = np.zeros(0, dtype=np.int64)
    no_lines = LayoutConnections(none, none, np.zeros(0))
    empty = ConstraintSatisfactionLayoutOptimizer(elements_of([]), no_lines).optimize()
    assert len(empty.x) == 0
    one = ConstraintSatisfactionLayoutOptimizer(elements_of([7]), no_lines).optimize()
    assert one.cost.total == 0.0


def test_a_search_can_be_stopped() -> None:
    elements, connections = random_problem(1)
    context = WorkContext()
    search = ConstraintSatisfactionLayoutOptimizer(elements, connections).optimize_incremental(
        context
    )
    next(search)
    next(search)
    context.cancel()
    with pytest.raises(Cancelled):
        next(search)


# -- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_spacing_is_the_best_there_is(seed: int) -> None:
    # Against projected descent on the same problem, which knows nothing of pools.
    random = np.random.default_rng(seed)
    wish, weight = random.normal(0, 30, 7), random.uniform(0.5, 3, 7)
    gaps = random.uniform(5, 20, 6)
    low, high = -60.0, 60.0 + gaps.sum() * 0.6
    found = spaced(wish, weight, gaps, low, high)
    assert (np.diff(found) >= gaps - 1e-9).all()
    assert found[0] >= low
    assert found[-1] <= high
    best = float((weight * (found - wish) ** 2).sum())
    for _ in range(4000):
        other = found + random.normal(0, random.choice([0.01, 1.0, 10.0]), 7)
        if (np.diff(other) >= gaps).all() and other[0] >= low and other[-1] <= high:
            assert float((weight * (other - wish) ** 2).sum()) >= best - 1e-9


def test_gaps_between_what_cannot_be_moved() -> None:
    assert free_gaps([]) == [(-np.inf, np.inf)]
    assert free_gaps([(5, 9), (0, 2), (1, 3)]) == [(-np.inf, 0), (3, 5), (9, np.inf)]


def test_a_row_flows_around_obstacles_in_its_order() -> None:
    width = np.array([10.0, 10.0, 10.0])
    places = place_row(np.zeros(3), width, 2.0, [(-8.0, 8.0)])
    assert (np.diff(places) >= 12.0 - 1e-9).all()
    assert all(abs(place) >= 13.0 - 1e-9 for place in places)
    # A gap that is too narrow stays empty.
    narrow = place_row(np.array([0.0]), np.array([10.0]), 2.0, [(-20.0, -4.0), (4.0, 9.0)])
    assert narrow.tolist() == [14.0]


def crosses(a: list[Fraction], b: list[Fraction]) -> bool:
    """Whether two segments cross inside both, by solving for the point."""
    ax, ay, bx, by = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    determinant = ax * by - ay * bx
    if determinant == 0:
        return False
    t = ((b[0] - a[0]) * by - (b[1] - a[1]) * bx) / determinant
    u = ((b[0] - a[0]) * ay - (b[1] - a[1]) * ax) / determinant
    return 0 < t < 1 and 0 < u < 1


def test_lines_leave_the_side_that_faces_the_other_box() -> None:
    x, y = np.array([0.0, 10.0, 200.0]), np.array([0.0, -100.0, 5.0])
    size = np.full(3, 40.0)
    source, target = np.array([0, 1, 0, 2]), np.array([1, 0, 2, 0])
    ends = np.stack(line_ends(x, y, size, size, source, target), axis=1)
    assert ends.tolist() == [
        [0, -20, 10, -80],  # up
        [10, -80, 0, -20],  # down
        [20, 0, 180, 5],  # to the right
        [180, 5, 20, 0],  # to the left
    ]


def test_ends_at_one_edge_stand_side_by_side_in_the_order_of_the_other_ends() -> None:
    x, y = np.array([0.0, -90.0, 0.0, 90.0]), np.array([0.0, -100.0, -100.0, -100.0])
    width, height = np.full(4, 60.0), np.full(4, 20.0)
    source, target = np.array([0, 0, 0]), np.array([3, 1, 2])
    ends = line_ends(x, y, width, height, source, target)
    x0, _, x1, _ = spread_ends(ends, (x, y, width, height), source, target, most=10.0)
    assert x0.tolist() == [10.0, -10.0, 0.0]
    assert x1.tolist() == [90.0, -90.0, 0.0]
    assert crossings(ends, source, target) == 0
    # However many there are, they stay on their edge.
    many = np.zeros(40, dtype=np.int64)
    ends = line_ends(x, y, width, height, many, many + 2)
    x0, *_ = spread_ends(ends, (x, y, width, height), many, many + 2)
    assert abs(x0).max() <= 30.0
    assert len(set(x0.tolist())) == 40


def test_crossings_and_covered_boxes_are_counted_as_one_would_by_hand() -> None:
    random = np.random.default_rng(5)
    n, m = 12, 30
    x, y = random.uniform(0, 600, n), random.uniform(0, 400, n)
    width, height = random.uniform(20, 90, n), random.uniform(10, 40, n)
    source, target = random.integers(0, n, m), random.integers(0, n, m)
    different = source != target
    source, target = source[different], target[different]
    ends = line_ends(x, y, width, height, source, target)
    lines = [[Fraction(float(end)) for end in line] for line in np.stack(ends, axis=1)]
    by_hand = sum(
        crosses(lines[i], lines[j])
        for i, j in itertools.combinations(range(len(lines)), 2)
        if not {source[i], target[i]} & {source[j], target[j]}
    )
    assert by_hand > 10
    assert crossings(ends, source, target) == by_hand
    # A line runs behind a box where one of many points along it lies inside.
    along = np.linspace(0, 1, 20_001)
    behind = 0
    for i, line in enumerate(np.stack(ends, axis=1)):
        px, py = line[0] + along * (line[2] - line[0]), line[1] + along * (line[3] - line[1])
        for box in set(range(n)) - {int(source[i]), int(target[i])}:
            inside = (np.abs(px - x[box]) < width[box] / 2) & (
                np.abs(py - y[box]) < height[box] / 2
            )
            behind += bool(inside.any())
    assert behind > 10
    assert covered(ends, source, target, (x, y, width, height)) == behind
