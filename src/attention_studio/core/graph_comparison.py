"""Two graphs edge by edge: what moved, by how much, and what only one of them has.

Nodes are matched by what they are (see ``graph_alignment``), edges by both ends. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.graph_alignment import CommonNodes
from attention_studio.core.graph_pruning import TINY, GraphScores
from attention_studio.core.position_map import PositionMap
from attention_studio.core.trace_circumstances import dictionaries_of
from attention_studio.utils.progress import WorkContext

Ints = NDArray[np.int64]

TOLERANCE = 1e-4
"""A change of less than this share of a target's whole input is what rounding makes of an edge."""
_SHOWN = 50


@dataclass(frozen=True)
class EdgeChange:
    """One edge in two graphs.

    Attributes:
        source, target: names of its ends.
        before, after: its weight; 0 where a graph does not have it.
        change: ``after - before``.
        share: |change| as a share of the sum of |edges| into the target, in the graph where that is
            greater.
    """

    source: str
    target: str
    before: float
    after: float
    change: float
    share: float


@dataclass(frozen=True)
class GraphComparison:
    """How one graph differs from another.

    Attributes:
        differences: what is not the same about how the two were made, in sentences.
        nodes_both: nodes that both have; ``nodes_before`` and ``nodes_after``: that one alone has.
        features_before, features_after: names of the most influential features that one alone has.
        edges_both: edges that are not zero in both; ``edges_before`` and ``edges_after``: in one.
        edges_moved: edges in both whose change has a share above ``tolerance``.
        edges_alone: edges in one whose weight has a share above ``tolerance``.
        largest_change: the largest |change| of an edge in both.
        largest_edge: the largest |weight| in either.
        largest_share: the largest share of a change of an edge in both.
        moved: the edges in both that moved most, by share, the most first.
        gone, come: the strongest edges that only the first has, and only the second.
        scores_before, scores_after: of the two graphs.
        tolerance: see ``edges_moved``.
    """

    differences: tuple[str, ...]
    nodes_both: int
    nodes_before: int
    nodes_after: int
    features_before: tuple[str, ...]
    features_after: tuple[str, ...]
    edges_both: int
    edges_before: int
    edges_after: int
    edges_moved: int
    edges_alone: int
    largest_change: float
    largest_edge: float
    largest_share: float
    moved: tuple[EdgeChange, ...]
    gone: tuple[EdgeChange, ...]
    come: tuple[EdgeChange, ...]
    scores_before: GraphScores
    scores_after: GraphScores
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether both have the same nodes, and edges that differ by at most ``tolerance``."""
        apart = self.nodes_before + self.nodes_after + self.edges_moved + self.edges_alone
        return apart == 0

    def to_json(self) -> dict[str, Any]:
        """For ``--json``; what is not known (NaN) is None."""
        found = asdict(self)
        for name in ("scores_before", "scores_after"):
            found[name] = {
                key: None if value is None or value != value else value
                for key, value in found[name].items()
            }
        return {**found, "same": self.same}


def compare_graphs(
    before: AttributionGraph,
    after: AttributionGraph,
    tolerance: float = TOLERANCE,
    shown: int = _SHOWN,
    positions: Optional[PositionMap] = None,
    ctx: Optional[WorkContext] = None,
) -> GraphComparison:
    """Compare two graphs, of which one may be a foreign tool's.

    Args:
        before, after: the graphs.
        tolerance: share of a target's input below which a change is none.
        shown: how many edges of each sort are named.
        positions: which positions stand for each other; None: those of equal number.
        ctx: progress, and a way to cancel.

    Raises:
        AlignmentError: the positions are those of other prompts.
        Cancelled: through ``ctx``.
    """
    ctx = ctx or WorkContext()
    common = CommonNodes(before, after, positions)
    moves = _Moves(tolerance, shown)
    for row, target in enumerate(common.targets):
        if row % 256 == 0:
            ctx.check()
            ctx.progress(row, len(common.targets), "Comparing edges")
        old, new = common.into(target)
        moves.add(target, old, new)
    only_before, only_after = common.only

    def named(strongest: _Strongest) -> tuple[EdgeChange, ...]:
        return tuple(
            EdgeChange(common.name(source), common.name(target), old, new, new - old, share)
            for share, source, target, old, new in strongest.found
        )

    return GraphComparison(
        differences=tuple(made_differently(before, after)),
        nodes_both=common.n - len(only_before) - len(only_after),
        nodes_before=len(only_before),
        nodes_after=len(only_after),
        features_before=_strongest(before, only_before),
        features_after=_strongest(after, only_after),
        edges_both=moves.both,
        edges_before=moves.before,
        edges_after=moves.after,
        edges_moved=moves.moved,
        edges_alone=moves.alone,
        largest_change=moves.largest_change,
        largest_edge=moves.largest_edge,
        largest_share=moves.largest_share,
        moved=named(moves.strongest_moved),
        gone=named(moves.strongest_before),
        come=named(moves.strongest_after),
        scores_before=before.scores,
        scores_after=after.scores,
        tolerance=tolerance,
    )


class _Strongest:
    """The few edges with the largest shares, of all that are offered."""

    def __init__(self, tolerance: float, shown: int) -> None:
        self._tolerance, self._shown = tolerance, shown
        self.found: list[tuple[float, int, int, float, float]] = []
        """Share, source, target, weight before and after."""

    def offer(
        self,
        target: int,
        share: NDArray[np.float64],
        old: NDArray[np.float64],
        new: NDArray[np.float64],
    ) -> None:
        """The edges into one target; those with a share up to the tolerance are passed over."""
        if not self._shown:
            return
        full = len(self.found) >= self._shown
        beyond = np.flatnonzero(share > (self.found[-1][0] if full else self._tolerance))
        if not len(beyond):
            return
        chosen = beyond[np.argsort(-share[beyond], kind="stable")[: self._shown]]
        self.found += [
            (float(share[source]), source, target, float(old[source]), float(new[source]))
            for source in chosen.tolist()
        ]
        self.found.sort(key=lambda one: (-one[0], one[2], one[1]))
        del self.found[self._shown :]


class _Moves:
    """What is counted of the edges, target by target."""

    def __init__(self, tolerance: float, shown: int) -> None:
        self.tolerance = tolerance
        self.both = self.before = self.after = self.moved = self.alone = 0
        self.largest_change = self.largest_edge = self.largest_share = 0.0
        self.strongest_moved, self.strongest_before, self.strongest_after = (
            _Strongest(tolerance, shown) for _ in range(3)
        )

    def add(self, target: int, old: NDArray[np.float64], new: NDArray[np.float64]) -> None:
        """The edges into one target."""
        had, has = old != 0, new != 0
        both = had & has
        self.both += int(both.sum())
        self.before += int((had & ~has).sum())
        self.after += int((has & ~had).sum())
        change = np.abs(new - old)
        total = max(float(np.abs(old).sum()), float(np.abs(new).sum()), float(TINY))
        share = change / total
        beyond = share > self.tolerance
        self.moved += int((beyond & both).sum())
        self.alone += int((beyond & ~both).sum())
        self.largest_change = max(self.largest_change, float(change[both].max(initial=0.0)))
        self.largest_share = max(self.largest_share, float(share[both].max(initial=0.0)))
        ends = (np.abs(old).max(initial=0.0), np.abs(new).max(initial=0.0))
        self.largest_edge = max(self.largest_edge, *map(float, ends))
        for strongest, which in (
            (self.strongest_moved, both),
            (self.strongest_before, had & ~has),
            (self.strongest_after, has & ~had),
        ):
            strongest.offer(target, np.where(which, share, 0.0), old, new)


def _strongest(graph: AttributionGraph, nodes: Ints, most: int = 10) -> tuple[str, ...]:
    features = nodes[graph.nodes.kind[nodes] == NodeKind.FEATURE]
    order = np.argsort(-graph.influence[features], kind="stable")[:most]
    return tuple(graph.node_name(int(node)) for node in features[order])


def made_differently(before: AttributionGraph, after: AttributionGraph) -> Iterator[str]:
    """What is not the same about how two graphs were made, in sentences."""
    if before.prompt != after.prompt:
        yield f"The prompts differ: {before.prompt[:80]!r} and {after.prompt[:80]!r}"
    if not before.model_hash or not after.model_hash:
        yield "One does not identify the model's weights, so whether they are the same is not known"
    elif before.model_hash != after.model_hash:
        yield f"They are of different weights: {before.model_name} and {after.model_name}"
    same_dictionaries = dictionaries_of(before).means(dictionaries_of(after))
    if not same_dictionaries and before.crm_name == after.crm_name:
        yield "Their dictionaries have different weights"
    elif not same_dictionaries:
        yield f"They are of different dictionaries: {before.crm_name} and {after.crm_name}"
    if before.settings != after.settings:
        changed = [
            f"{name} {old} and {new}"
            for (name, old), new in zip(
                asdict(before.settings).items(), asdict(after.settings).values(), strict=True
            )
            if old != new
        ]
        yield f"They were traced with different settings: {', '.join(changed)}"
    known = [name for name in before.made_with if name in after.made_with]
    for name in known:
        old, new = before.made_with[name], after.made_with[name]
        if old != new and name != "dictionaries":
            yield f"They were made with different {name}: {old or 'unknown'} and {new or 'unknown'}"
