"""The strongest paths from some nodes of an attribution graph to another node, exactly.

A path's strength is the product of the |shares| of its edges, a share being an edge's part of all
that flows into its target. Added over all paths, the strengths are the influence of the one on the
other as Ameisen et al. 2025 ("Circuit Tracing") define it: the entry of A + A^2 + ... of the
row-normalised absolute edges A. So a few paths can be said to cover a share of the influence.

One walk through the edges from below finds for every node how strong the best way to it is. With
that as the estimate, which is exact, a best-first search from the target backwards (A*, Hart,
Nilsson and Raphael 1968) meets the paths in order of strength, the way of Eppstein 1998 ("Finding
the k shortest paths"): of the ways into a node only the best is looked at, and the next best once
that one has been taken. It costs the walk and about one step per node of a path that is found.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_pruning import TINY
from attention_studio.utils.progress import WorkContext

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BEGIN = -1
"""What stands for "the path begins here" among the ways into a node."""


@dataclass(frozen=True)
class Path:
    """One way through a graph.

    Attributes:
        nodes: from the source to the target.
        shares: of its edges in that order, each the signed share of its target's whole input.
    """

    nodes: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def strength(self) -> float:
        """The product of the |shares|; 1 for a path of no edge."""
        return abs(math.prod(self.shares))

    @property
    def sign(self) -> int:
        """1 where more of the source makes more of the target along this path, else -1."""
        return -1 if sum(share < 0 for share in self.shares) % 2 else 1


@dataclass(frozen=True)
class PathsFound:
    """The strongest paths, and what there is beside them.

    Attributes:
        paths: the strongest first.
        influence: sum of the strengths of all paths: the influence of the sources on the target.
        net: the same with signs, so that what helps and what hinders cancels.
        n_paths: how many paths there are; a float, since there may be more than any integer type
            holds (``inf`` beyond 1.8e308).
    """

    paths: tuple[Path, ...]
    influence: float
    net: float
    n_paths: float

    @property
    def covered(self) -> float:
        """The share of the influence that the found paths carry together, in [0, 1]."""
        return self.covered_by(len(self.paths))

    def covered_by(self, n: int) -> float:
        """The share of the influence that the strongest ``n`` carry together, in [0, 1]."""
        if self.influence <= 0.0:
            return 0.0
        return min(1.0, sum(path.strength for path in self.paths[:n]) / self.influence)


def strongest_paths(
    edges: GraphEdges,
    totals: NDArray[np.float32],
    sources: Iterable[int],
    target: int,
    k: int,
    ctx: Optional[WorkContext] = None,
) -> PathsFound:
    """The ``k`` strongest paths that begin at one of the sources and end at the target.

    Exact: no path that is left out is stronger than one that is returned. A path may lead through
    another source; then the rest of it is a path of its own. Edges of weight zero are none.

    Args:
        edges: of an acyclic graph.
        totals: [n_nodes] by which weights are divided into shares.
        sources, target: nodes.
        k: at most so many paths; fewer are returned where there are fewer.
        ctx: progress, and a way to cancel.

    Raises:
        Cancelled: through ``ctx``.
    """
    ctx = ctx or WorkContext()
    begins = frozenset(int(source) for source in sources)
    reach = _Reach.of(edges, totals, begins, int(target), ctx)
    if not np.isfinite(reach.best[target]):
        return PathsFound((), 0.0, 0.0, 0.0)
    ctx.progress(0, None, "Following the strongest")
    found = itertools.islice(_in_order(edges, totals, begins, int(target), reach.best, ctx), k)
    return PathsFound(
        tuple(found),
        float(reach.influence[target]),
        float(reach.net[target]),
        float(reach.number[target]),
    )


@dataclass(frozen=True)
class _Reach:
    """What arrives at every node [n_nodes] from the sources.

    ``best``: logarithm of the strongest path (-inf: none); ``influence`` and ``net``: sums over all
    paths, without signs and with them; ``number``: of the paths.
    """

    best: Floats
    influence: Floats
    net: Floats
    number: Floats

    @classmethod
    def of(
        cls,
        edges: GraphEdges,
        totals: NDArray[np.float32],
        begins: frozenset[int],
        target: int,
        ctx: WorkContext,
    ) -> _Reach:
        """Walk from below up to the target."""
        n_nodes = len(totals)
        influence, net, number = (np.zeros(n_nodes) for _ in range(3))
        first = np.array(sorted(begins), dtype=np.int64)
        influence[first] = net[first] = number[first] = 1.0
        best = np.full(n_nodes, -np.inf)
        best[first] = 0.0
        blocks = list(edges.blocks())
        for done, block in enumerate(reversed(blocks)):
            if done % 64 == 0:
                ctx.check()
                ctx.progress(done, len(blocks), "Looking for ways")
            begun = np.flatnonzero(number[block.columns])
            if len(begun):
                columns = block.columns[begun]
                shares = block.weights[:, begun].astype(np.float64)
                shares /= np.maximum(totals[block.targets], TINY)[:, None]
                sizes = np.abs(shares)
                net[block.targets] += shares @ net[columns]
                influence[block.targets] += sizes @ influence[columns]
                # Infinitely many times nothing would be no number.
                with np.errstate(over="ignore"):
                    number[block.targets] += np.where(shares != 0, number[columns], 0.0).sum(1)
                with np.errstate(divide="ignore"):
                    way = (best[columns] + np.log(sizes)).max(1)
                best[block.targets] = np.maximum(best[block.targets], way)
            if target in block.targets:
                break
        return cls(best, influence, net, number)


@dataclass(frozen=True)
class _Ways:
    """The ways into one node, the most promising first.

    ``nodes`` [d] where each comes from (``_BEGIN``: it begins here), ``shares`` [d] of the edges,
    ``logs`` [d] of the |shares|, ``promise`` [d] the logarithm of the strongest path that goes so.
    """

    nodes: Ints
    shares: Floats
    logs: Floats
    promise: Floats


@dataclass(frozen=True)
class _Link:
    """A path's end that is settled: a node, the share of the edge out of it, and what follows."""

    node: int
    share: float
    rest: Optional[_Link]


def _in_order(
    edges: GraphEdges,
    totals: NDArray[np.float32],
    begins: frozenset[int],
    target: int,
    best: Floats,
    ctx: WorkContext,
) -> Iterator[Path]:
    """All paths to the target, the strongest first."""
    known: dict[int, _Ways] = {}

    def ways_into(node: int) -> _Ways:
        if node not in known:
            known[node] = _ways(edges, totals, begins, best, node)
        return known[node]

    # Each entry: minus the logarithm of the strongest path that it leads to, a number that keeps
    # entries of one strength in order, the logarithm of what is settled, and which way into the
    # first settled node is meant.
    numbers = itertools.count()
    heap: list[tuple[float, int, float, int, _Link]] = []

    def offer(settled: float, place: int, link: _Link) -> None:
        ways = ways_into(link.node)
        if place < len(ways.nodes):
            strength = settled + float(ways.promise[place])
            heapq.heappush(heap, (-strength, next(numbers), settled, place, link))

    offer(0.0, 0, _Link(target, 1.0, None))
    while heap:
        ctx.check()
        _, _, settled, place, link = heapq.heappop(heap)
        offer(settled, place + 1, link)
        ways = ways_into(link.node)
        node = int(ways.nodes[place])
        if node == _BEGIN:
            yield _path(link)
        else:
            offer(
                settled + float(ways.logs[place]),
                0,
                _Link(node, float(ways.shares[place]), link),
            )


def _ways(
    edges: GraphEdges,
    totals: NDArray[np.float32],
    begins: frozenset[int],
    best: Floats,
    node: int,
) -> _Ways:
    sources, weights = edges.into(node)
    there = np.flatnonzero((weights != 0) & np.isfinite(best[sources]))
    shares = weights[there].astype(np.float64) / max(float(totals[node]), float(TINY))
    sources, logs = sources[there], np.log(np.abs(shares))
    promise = logs + best[sources]
    if node in begins:
        sources = np.append(sources, _BEGIN)
        shares, logs, promise = (np.append(part, end) for part, end in
                                 ((shares, 1.0), (logs, 0.0), (promise, 0.0)))  # fmt: skip
    order = np.argsort(-promise, kind="stable")
    return _Ways(sources[order], shares[order], logs[order], promise[order])


def _path(link: _Link) -> Path:
    nodes: list[int] = [link.node]
    shares: list[float] = []
    while link.rest is not None:
        shares.append(link.share)
        link = link.rest
        nodes.append(link.node)
    return Path(tuple(nodes), tuple(shares))


def nodes_on(paths: Sequence[Path]) -> tuple[int, ...]:
    """The nodes of some paths, each once, in order of first mention."""
    return tuple(dict.fromkeys(node for path in paths for node in path.nodes))


def edges_on(paths: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """The edges (source, target) of some paths, each once, in order of first mention."""
    return tuple(dict.fromkeys(pair for path in paths for pair in itertools.pairwise(path.nodes)))
