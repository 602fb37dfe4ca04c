"""The strongest paths, against all paths written out one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_pruning import input_totals, node_influence
from attention_studio.core.path_search import Path, edges_on, nodes_on, strongest_paths
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.hand_graphs import hand_graph


def all_paths(graph: AttributionGraph, source: int, target: int) -> Iterator[Path]:
    """Every path, found by walking every way backwards, for small graphs."""
    matrix = np.zeros((len(graph.nodes), len(graph.nodes)))
    matrix[graph.targets, : graph.edges.n_sources] = graph.edges.dense()
    shares = matrix / np.maximum(np.abs(matrix).sum(1, keepdims=True), 1e-10)

    def walk(nodes: tuple[int, ...], found: tuple[float, ...]) -> Iterator[Path]:
        if nodes[0] == source:
            yield Path(nodes, found)
            return
        for below in np.flatnonzero(shares[nodes[0]]).tolist():
            yield from walk((below, *nodes), (float(shares[nodes[0], below]), *found))

    return walk((target,), ())


def small(seed: int) -> AttributionGraph:
    return hand_graph(complete=seed % 2 == 0, seed=seed, per_place=1 + seed % 2)


@pytest.mark.parametrize("seed", range(6))
def test_they_are_the_first_of_all_paths(seed: int) -> None:
    graph = small(seed)
    token = int(np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING)[1])
    output = int(np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)[0])
    expected = sorted(all_paths(graph, token, output), key=lambda path: -path.strength)
    assert len(expected) > 20
    for k in (1, 7, len(expected) + 5):
        found = graph.strongest_paths((token,), output, k)
        assert [path.strength for path in found.paths] == pytest.approx(
            [path.strength for path in expected[:k]], rel=1e-5
        )
        by_nodes = {path.nodes: path for path in expected}
        for path in found.paths:
            other = by_nodes.pop(path.nodes)  # no path comes twice
            assert path.shares == pytest.approx(other.shares, rel=1e-5)
            assert path.sign == math.copysign(1, math.prod(other.shares))
        assert found.n_paths == len(expected)
        assert found.influence == pytest.approx(sum(path.strength for path in expected), rel=1e-5)
        signed = sum(path.strength * path.sign for path in expected)
        assert found.net == pytest.approx(signed, rel=1e-4, abs=1e-7)
        held = sum(path.strength for path in expected[:k]) / found.influence
        assert found.covered == pytest.approx(min(1.0, held), rel=1e-5)
    assert found.covered == pytest.approx(1.0, rel=1e-6)
    assert found.covered_by(0) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_sum_over_all_paths_is_the_influence_of_pruning(seed: int) -> None:
    graph = hand_graph(seed=seed)
    output = int(np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)[1])
    start = np.zeros(len(graph.nodes), dtype=np.float32)
    start[output] = 1.0
    influence = node_influence(graph.edges.blocks(), graph.totals, start)
    for node in np.flatnonzero(influence > 0)[::7].tolist():
        found = graph.strongest_paths((node,), output, 1)
        assert found.influence == pytest.approx(float(influence[node]), rel=1e-4)
        assert abs(found.net) <= found.influence * (1 + 1e-9)


def test_from_several_sources_each_has_its_own_paths() -> None:
    """A path that leads through another source counts, and so does the rest of it."""
    graph = small(0)
    tokens = np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING)
    output = int(np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)[0])
    inputs = graph.inputs(output).nodes
    middle = int(inputs[graph.nodes.kind[inputs] == NodeKind.FEATURE][0])
    sources = [*tokens.tolist(), middle]
    every = [path for source in sources for path in all_paths(graph, source, output)]
    expected = sorted((path.strength for path in every), reverse=True)
    found = graph.strongest_paths(sources, output, 40)
    assert [path.strength for path in found.paths] == pytest.approx(expected[:40], rel=1e-5)
    assert found.n_paths == len(every)
    assert {path.nodes for path in found.paths} <= {path.nodes for path in every}
    assert any(middle in path.nodes[1:-1] for path in every)


def test_in_a_pruned_graph_only_its_edges_are_walked() -> None:
    graph = hand_graph()
    part = graph.prune(0.5, 0.7)
    shown = set(zip(part.edge_source.tolist(), part.edge_target.tolist(), strict=True))
    share = {
        pair: float(value)
        for pair, value in zip(
            zip(part.edge_source.tolist(), part.edge_target.tolist(), strict=True),
            part.edge_share,
            strict=True,
        )
    }
    tokens = np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING)
    output = int(np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)[0])
    found = graph.strongest_paths(tokens.tolist(), output, 50, part)
    whole = graph.strongest_paths(tokens.tolist(), output, 50)
    assert found.paths
    assert set(edges_on(found.paths)) <= shown
    for path in found.paths:
        steps = zip(path.nodes[:-1], path.nodes[1:], strict=True)
        # Shares are of the whole input, not of what pruning left of it.
        assert path.shares == pytest.approx([share[step] for step in steps])
    assert found.influence < whole.influence
    assert found.paths[0].strength <= whole.paths[0].strength * (1 + 1e-6)


def test_where_no_way_leads_there_is_none() -> None:
    graph = hand_graph()
    token = int(np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING)[-1])
    output = int(np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)[0])
    none = graph.strongest_paths((output,), token, 5)
    assert (none.paths, none.influence, none.net, none.n_paths, none.covered) == ((), 0, 0, 0, 0)
    itself = graph.strongest_paths((token,), token, 5)
    assert [path.nodes for path in itself.paths] == [(token,)]
    assert (itself.paths[0].strength, itself.paths[0].sign, itself.influence) == (1.0, 1, 1.0)
    assert graph.strongest_paths((), output, 5).paths == ()
    assert graph.strongest_paths((token,), output, 0).paths == ()


def test_what_is_on_paths_comes_once_each() -> None:
    paths = [Path((1, 2, 5), (0.5, 0.5)), Path((1, 3, 5), (0.5, -0.5)), Path((0, 2, 5), (1.0, 1.0))]
    assert nodes_on(paths) == (1, 2, 5, 3, 0)
    assert edges_on(paths) == ((1, 2), (2, 5), (1, 3), (3, 5), (0, 2))


def ladder(rungs: int) -> tuple[GraphEdges, np.ndarray]:
    """Pairs of nodes, each pair fed by both nodes of the one before: 2^rungs paths."""
    n = 2 * rungs + 2
    depth = np.r_[0, np.repeat(np.arange(1, rungs + 1), 2), rungs + 1]
    source, target = [], []
    for rung in range(rungs):
        below = [0] if rung == 0 else [2 * rung - 1, 2 * rung]
        for node in (2 * rung + 1, 2 * rung + 2):
            source += below
            target += [node] * len(below)
    source += [n - 3, n - 2]
    target += [n - 1, n - 1]
    weight = np.random.default_rng(0).uniform(0.5, 1.5, len(source)).astype(np.float32)
    edges = GraphEdges.from_links(n, depth, np.array(source), np.array(target), weight)
    return edges, input_totals(edges.blocks(), n)


def test_a_graph_with_more_paths_than_anybody_could_count_is_quick() -> None:
    edges, totals = ladder(300)
    found = strongest_paths(edges, totals, (0,), len(totals) - 1, 200)
    assert found.n_paths == pytest.approx(2.0**300, rel=1e-9)
    assert found.influence == pytest.approx(1.0, rel=1e-5)  # nothing else feeds the end
    strengths = [path.strength for path in found.paths]
    assert len({path.nodes for path in found.paths}) == 200
    assert strengths == sorted(strengths, reverse=True)
    beyond, their_totals = ladder(1_100)
    many = strongest_paths(beyond, their_totals, (0,), len(their_totals) - 1, 3)
    assert many.n_paths == math.inf
    assert len(many.paths) == 3


def test_looking_can_be_stopped() -> None:
    ctx = WorkContext()
    ctx.cancel()
    graph = hand_graph()
    with pytest.raises(Cancelled):
        graph.strongest_paths((0,), len(graph.nodes) - 1, 5, ctx=ctx)
