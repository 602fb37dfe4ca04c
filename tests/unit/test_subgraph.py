"""Subgraphs: shares between groups against sums written out pair by pair, and rows for boxes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.subgraph import (
    Subgraph,
    TooManyBoxesError,
    boxes_of,
    build_subgraph,
    group_shares,
    row_levels,
    strongest_to_pin,
)
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.hand_graphs import hand_graph


def notes_for(graph: AttributionGraph, seed: int, n: int = 20) -> GraphNotes:
    random = np.random.default_rng(seed)
    chosen = random.choice(len(graph.nodes), n, replace=False).tolist()
    names = [graph.node_name(node) for node in chosen]
    notes = GraphNotes().with_pinned(names)
    notes, _ = notes.grouped(names[:4], "first")
    notes, _ = notes.grouped(names[4:7], "second")
    return notes


def slow_share(graph: AttributionGraph, source: list[int], target: list[int]) -> float:
    """What one group feeds to another, edge by edge."""
    inner = outer = 0.0
    for t in target:
        feeding = graph.inputs(t)
        total = float(np.abs(feeding.weights).sum())
        for s, weight in zip(feeding.nodes.tolist(), feeding.weights.tolist(), strict=True):
            if s in source:
                inner += weight / total
            if s not in target:
                outer += abs(weight) / total
    return inner / outer if outer else 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("complete", [True, False])
def test_shares_are_the_sums_written_out(seed: int, complete: bool) -> None:
    graph = hand_graph(complete, seed)
    subgraph = build_subgraph(graph, notes_for(graph, seed))
    found = {
        (source, target): share
        for source, target, share in zip(
            subgraph.source.tolist(), subgraph.target.tolist(), subgraph.share, strict=True
        )
    }
    compared = 0
    for target, to in enumerate(subgraph.boxes):
        for source, from_ in enumerate(subgraph.boxes):
            if source == target:
                assert (source, target) not in found
                continue
            expected = slow_share(graph, list(from_.nodes), list(to.nodes))
            assert found.get((source, target), 0.0) == pytest.approx(expected, abs=1e-5)
            compared += abs(expected) > 1e-3
    assert compared > 10


def test_a_single_nodes_share_is_the_graphs_own() -> None:
    graph = hand_graph()
    target = int(graph.targets[0])
    inputs = graph.inputs(target)
    source = int(inputs.nodes[0])
    names = [graph.node_name(node) for node in (source, target)]
    subgraph = build_subgraph(graph, GraphNotes().with_pinned(names))
    assert subgraph.share.tolist() == pytest.approx([float(inputs.shares[0])], rel=1e-5)
    assert subgraph.heard[1] == pytest.approx(abs(float(inputs.shares[0])), rel=1e-5)


def test_with_every_node_a_box_of_its_own_all_input_is_heard() -> None:
    graph = hand_graph()
    everything = np.arange(len(graph.nodes))
    share, heard = group_shares(graph.edges.blocks(), graph.totals, everything, len(everything))
    traced = graph.totals > 0
    assert np.allclose(np.abs(share).sum(1)[traced], 1.0, atol=1e-5)
    assert np.allclose(heard[traced], 1.0, atol=1e-5)
    assert np.isnan(heard[~traced]).all()


def test_what_a_group_feeds_itself_is_out_of_the_account() -> None:
    graph = hand_graph()
    target = int(graph.targets[0])
    inputs = graph.inputs(target)
    inside, outside = (int(node) for node in inputs.nodes[:2])
    notes = GraphNotes().with_pinned([graph.node_name(outside)])
    # A token has no inputs: what the pair hears is what its target hears, without the token.
    token = next(int(node) for node in inputs.nodes if graph.nodes.kind[node] == NodeKind.EMBEDDING)
    inside = token if token != outside else inside
    notes, group = notes.grouped([graph.node_name(node) for node in (inside, target)], "pair")
    subgraph = build_subgraph(graph, notes)
    weights = dict(zip(inputs.nodes.tolist(), inputs.weights.tolist(), strict=True))
    total = sum(abs(weight) for weight in weights.values())
    into = subgraph.index(group.key)
    edge = np.flatnonzero(subgraph.target == into)
    assert subgraph.share[edge].tolist() == pytest.approx(
        [weights[outside] / (total - abs(weights[inside]))], rel=1e-4
    )


def test_scores_are_those_of_the_pinned_nodes() -> None:
    graph = hand_graph()
    notes = notes_for(graph, 1)
    kept = [graph.find(name) for name in notes.pinned]
    assert build_subgraph(graph, notes).scores == graph.subgraph_scores(kept)


def test_boxes_leave_out_what_the_graph_does_not_have() -> None:
    graph = hand_graph()
    real = graph.node_name(0)
    notes = GraphNotes().with_pinned([real, "L77/P1/F2"])
    notes, _ = notes.grouped(["L78/P1/F2"], "gone")
    assert [box.key for box in boxes_of(graph, notes)] == [real]
    subgraph = build_subgraph(graph, notes)
    assert subgraph.box_of(real) == 0
    assert subgraph.box_of("L77/P1/F2") is None
    assert len(build_subgraph(graph, GraphNotes())) == 0


def test_links_come_by_strength_and_names_by_layer() -> None:
    graph = hand_graph()
    subgraph = build_subgraph(graph, notes_for(graph, 2))
    links = subgraph.links(0.01)
    magnitude = np.abs(subgraph.share[links])
    assert (np.diff(magnitude) >= 0).all()
    assert magnitude.min() >= 0.01
    assert len(subgraph.links(0.0)) == len(subgraph.share)
    depths = graph.nodes.depth
    for number, box in enumerate(subgraph.boxes):
        assert [graph.find(name) for name in subgraph.names(number)] == list(box.nodes)
        assert (np.diff(depths[list(box.nodes)]) >= 0).all()


def test_making_a_subgraph_can_be_stopped() -> None:
    graph = hand_graph()
    context = WorkContext()
    context.cancel()
    with pytest.raises(Cancelled):
        build_subgraph(graph, notes_for(graph, 0), context)


def test_more_boxes_than_can_be_drawn_are_refused_and_supernodes_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = hand_graph()
    monkeypatch.setattr("attention_studio.core.subgraph.MOST_BOXES", 19)
    pinned = GraphNotes().with_pinned(graph.node_name(node) for node in range(20))
    with pytest.raises(TooManyBoxesError, match="20 boxes, and at most 19"):
        build_subgraph(graph, pinned)
    grouped, _ = pinned.grouped(pinned.pinned[:2], "pair")
    assert len(build_subgraph(graph, grouped)) == 19


# -- rows -----------------------------------------------------------------------------------------


def rows_of(subgraph: Subgraph) -> np.ndarray:
    return row_levels(subgraph.depth, (-2.0, 6.0), subgraph.source, subgraph.target)


@pytest.mark.parametrize("seed", range(4))
def test_rows_keep_the_order_of_layers_and_never_hold_both_ends_of_an_edge(seed: int) -> None:
    graph = hand_graph(seed=seed)
    subgraph = build_subgraph(graph, notes_for(graph, seed))
    rows = rows_of(subgraph)
    for a in range(len(subgraph)):
        for b in range(len(subgraph)):
            if subgraph.depth[a] < subgraph.depth[b]:
                assert rows[a] <= rows[b]
            if subgraph.depth[a] == subgraph.depth[b]:
                assert rows[a] == rows[b]
    for source, target in zip(subgraph.source, subgraph.target, strict=True):
        if subgraph.depth[source] != subgraph.depth[target]:
            assert rows[source] != rows[target]


def test_unjoined_neighbours_share_a_row_but_tokens_and_outputs_stand_alone() -> None:
    none = np.zeros(0, dtype=np.int64)
    depth = np.array([-2.0, -2.0, 1.0, 3.0, 5.0, 8.0])
    assert row_levels(depth, (-2.0, 8.0), none, none).tolist() == [0, 0, 1, 1, 1, 2]
    joined = np.array([2]), np.array([3])
    assert row_levels(depth, (-2.0, 8.0), *joined).tolist() == [0, 0, 1, 2, 2, 3]
    assert row_levels(depth, (-2.0, 8.0), none, none, most=2).tolist() == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_a_subgraph_begins_with_the_strongest_paths(seed: int) -> None:
    graph = hand_graph(seed=seed)
    names = strongest_to_pin(graph, 8)
    nodes = [graph.find(name) for name in names]
    kinds = graph.nodes.kind[nodes]
    assert 2 < len(set(nodes)) == len(nodes) <= 8
    assert (np.diff(graph.nodes.depth[nodes]) >= 0).all()
    (output,) = (node for node in nodes if graph.nodes.kind[node] == NodeKind.LOGIT)
    assert graph.nodes.probability[output] == graph.nodes.probability.max()
    assert not (kinds == NodeKind.ERROR).any()
    tokens = [node for node in nodes if graph.nodes.kind[node] == NodeKind.EMBEDDING]
    assert graph.nodes.position[tokens].min() > 0
    # The strongest path of all is among them, and whatever is pinned feeds something pinned.
    paths = [
        graph.strongest_path(int(token), output)
        for token in np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING)
        if graph.nodes.position[token] > 0
    ]

    def strength(path: list[int]) -> float:
        shares = 1.0
        for source, target in pairwise(path):
            inputs = graph.inputs(target)
            shares *= abs(float(inputs.shares[inputs.nodes == source][0]))
        return shares

    best = max((path for path in paths if path is not None), key=strength)
    assert set(best) <= set(nodes)
    for node in set(nodes) - {output}:
        assert set(graph.outputs(node).nodes.tolist()) & set(nodes)
