"""Two graphs side by side, against looking everything up by name."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.difference_records import Presence, moved
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.graph_difference import difference_of
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.position_map import PositionMap
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.crms import complete
from tests.hand_graphs import hand_graph
from tests.tiny import WORDS

SAME = PositionMap.same(4, 4)


def shares_by_name(graph: AttributionGraph) -> dict[tuple[str, str], tuple[float, float]]:
    """Weight and share of every edge."""
    return {
        (graph.node_name(int(source)), graph.node_name(int(target))): (float(w), float(s))
        for target in graph.targets.tolist()
        for edges in [graph.inputs(target)]
        for source, w, s in zip(edges.nodes, edges.weights, edges.shares, strict=True)
    }


def with_weights(graph: AttributionGraph, seed: int) -> AttributionGraph:
    """Other features and other weights between the same modules: half of the features of one place
    are another's, and some edges are gone."""
    generator = np.random.default_rng(seed)
    index = graph.nodes.index.copy()
    features = np.flatnonzero(graph.nodes.kind == NodeKind.FEATURE)
    index[features[::2]] += 1_000
    data = graph.edges.data * generator.uniform(0.2, 2.0, len(graph.edges.data)).astype(np.float32)
    data[generator.random(len(data)) < 0.1] = 0.0
    edges = GraphEdges(graph.edges.layout, data.astype(np.float32))
    return replace(graph, nodes=replace(graph.nodes, index=index), edges=edges)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("thresholds", [(0.8, 0.98), (0.5, 0.6), (1.0, 1.0)])
def test_everything_is_what_looking_it_up_by_name_says(
    seed: int, thresholds: tuple[float, float]
) -> None:
    first = hand_graph(complete=seed % 2 == 0, seed=seed)
    second = with_weights(first, seed)
    found = difference_of(first, second, SAME, thresholds)
    graphs = (first, second)
    parts = [graph.prune(*thresholds) for graph in graphs]
    wanted = {
        graph.node_name(int(node))
        for graph, part in zip(graphs, parts, strict=True)
        for node in part.node_ids
    }
    names = []
    for row in range(len(found.nodes)):
        here = (int(found.nodes.first[row]), int(found.nodes.second[row]))
        (name,) = {g.node_name(n) for g, n in zip(graphs, here, strict=True) if n >= 0}
        names.append(name)
        for side, graph in enumerate(graphs):
            node = here[side]
            assert (node >= 0) == graph.has(name)
            influence = graph.influence[node] if node >= 0 else 0.0
            activation = graph.nodes.activation[node] if node >= 0 else 0.0
            assert found.nodes.influence[row, side] == pytest.approx(influence)
            assert found.nodes.activation[row, side] == pytest.approx(activation)
        in_both = here[0] >= 0 and here[1] >= 0
        only = Presence.FIRST if here[0] >= 0 else Presence.SECOND
        assert found.nodes.presence[row] == (Presence.BOTH if in_both else only)
    assert len(set(names)) == len(names)
    assert set(names) == wanted
    sizes = np.abs(found.nodes.change)
    assert (np.diff(sizes) <= 1e-12).all()

    tables = [shares_by_name(graph) for graph in graphs]
    wanted_edges = {
        (graph.node_name(int(s)), graph.node_name(int(t)))
        for graph, part in zip(graphs, parts, strict=True)
        for s, t in zip(part.edge_source, part.edge_target, strict=True)
    }
    pairs = [(names[s], names[t]) for s, t in zip(found.edges.source, found.edges.target,
                                                  strict=True)]  # fmt: skip
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == wanted_edges
    for row, pair in enumerate(pairs):
        for side, table in enumerate(tables):
            weight, share = table.get(pair, (0.0, 0.0))
            assert found.edges.weight[row, side] == pytest.approx(weight)
            assert found.edges.share[row, side] == pytest.approx(share, abs=1e-6)
            graph, target = graphs[side], pair[1]
            weighs = 0.0
            if graph.has(target):
                weighs = float((graph.influence + graph.start)[graph.find(target)])
            assert found.edges.flow[row, side] == pytest.approx(abs(share) * weighs, abs=1e-6)
    flows = np.abs(found.edges.flow[:, 1] - found.edges.flow[:, 0])
    assert (np.diff(flows) <= 1e-12).all()


def test_the_overlap_is_the_smaller_influences_over_the_larger() -> None:
    first = hand_graph()
    second = with_weights(first, 3)
    tables = [
        {
            graph.node_name(node): float(graph.influence[node])
            for node in range(len(graph.nodes))
            if graph.nodes.kind[node] != NodeKind.LOGIT
        }
        for graph in (first, second)
    ]
    every = set(tables[0]) | set(tables[1])
    smaller, larger = (
        sum(pick(table.get(name, 0.0) for table in tables) for name in every) for pick in (min, max)
    )
    assert difference_of(first, second, SAME).overlap == pytest.approx(smaller / larger, rel=1e-5)
    assert difference_of(first, first, SAME).overlap == pytest.approx(1.0)


def test_a_graph_does_not_differ_from_itself() -> None:
    graph = hand_graph()
    found = difference_of(graph, graph)
    assert found.positions.plain
    assert (found.nodes.change == 0).all()
    assert (found.edges.change == 0).all()
    assert found.count(Presence.BOTH) == len(graph.prune().node_ids)
    assert found.count(Presence.FIRST) == found.count(Presence.SECOND) == 0
    assert found.differences == ()


def test_what_pruning_left_out_of_one_graph_is_not_taken_for_absent() -> None:
    """A part that is known takes the place of pruning, and what the other has is looked up."""
    graph = hand_graph()
    little, much = graph.prune(0.3, 0.5), graph.prune(1.0, 1.0)
    found = difference_of(graph, graph, parts=(little, much))
    assert len(found.nodes) == len(much.node_ids) > len(little.node_ids)
    assert (found.nodes.presence == Presence.BOTH).all()
    assert (found.edges.presence == Presence.BOTH).all()


def test_what_is_larger_by_how_much() -> None:
    values = np.array([[1.0, 1.0], [1.0, 1.09], [1.0, 1.2], [1.0, 0.0], [0.0, 2.0], [1.0, -1.0]])
    f, s, b = Presence.FIRST, Presence.SECOND, Presence.BOTH
    assert moved(values, 0.1).tolist() == [b, b, s, f, s, f]
    assert moved(values, 0.0).tolist() == [b, s, s, f, s, f]
    assert moved(np.zeros((0, 2)), 0.1).tolist() == []


def test_two_prompts_are_put_side_by_side() -> None:
    """A real tiny model: the tokens after the one that differs may differ, those before do not."""
    builder = GraphBuilder(complete())
    first, second = (builder.build(f"{WORDS[1]} {WORDS[2]} {word} {WORDS[4]}")
                     for word in WORDS[7:9])  # fmt: skip
    found = difference_of(first, second)
    assert found.positions.plain
    assert any("prompts differ" in text for text in found.differences)
    change = np.flatnonzero([a != b for a, b in zip(first.tokens, second.tokens, strict=True)])[0]
    for row in range(len(found.nodes)):
        node = int(found.nodes.first[row])
        if node >= 0 and first.nodes.position[node] < change:
            assert found.nodes.second[row] >= 0
            assert found.nodes.activation[row, 0] == pytest.approx(
                found.nodes.activation[row, 1], rel=1e-4
            )
    told = found.to_json(first, second, most=3)
    assert len(told["nodes"]) == 3
    assert told["nodes_both"] + told["nodes_first"] + told["nodes_second"] == len(found.nodes)
    json.dumps(told, allow_nan=False)


def test_it_can_be_stopped() -> None:
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        difference_of(hand_graph(), hand_graph(), ctx=ctx)
