"""Suggested supernodes: clusters against naive ones, likeness against sums written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.supernode_suggestions import (
    SuggestionConfig,
    average_linkage,
    decoder_likeness,
    edge_likeness,
    name_for,
    rescored,
    suggest_supernodes,
)
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.crms import complete, replacement
from tests.hand_graphs import hand_graph

LOOSE = SuggestionConfig(likeness=0.1, one_position=False)


def naive_linkage(likeness: np.ndarray, least: float, most: int) -> list[list[int]]:
    """Average linkage from its definition: all means anew at every step."""
    clusters = [[number] for number in range(len(likeness))]
    while True:
        best, pair = -np.inf, None
        for i in range(len(clusters)):
            for j in range(i + 1, len(clusters)):
                if len(clusters[i]) + len(clusters[j]) > most:
                    continue
                mean = float(np.mean([likeness[a, b] for a in clusters[i] for b in clusters[j]]))
                if mean > best + 1e-12:
                    best, pair = mean, (i, j)
        if pair is None or best < least:
            return [cluster for cluster in clusters if len(cluster) > 1]
        i, j = pair
        clusters[i] = sorted(clusters[i] + clusters[j])
        del clusters[j]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [3, 20])
def test_clusters_are_those_of_the_definition(seed: int, most: int) -> None:
    random = np.random.default_rng(seed)
    points = random.normal(size=(14, 4))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    likeness = points @ points.T
    apart = random.random((14, 14)) < 0.1
    likeness[apart | apart.T] = -np.inf
    found = average_linkage(likeness, 0.2, most)
    assert found
    assert found == naive_linkage(likeness, 0.2, most)


def test_nothing_has_no_clusters() -> None:
    assert average_linkage(np.zeros((0, 0)), 0.5, 5) == []
    assert average_linkage(np.ones((1, 1)), 0.5, 5) == []


@pytest.mark.parametrize("complete_graph", [True, False])
def test_edge_likeness_is_the_cosine_of_shares(complete_graph: bool) -> None:
    graph = hand_graph(complete_graph)
    pruned = graph.prune(1.0, 1.0)
    features = np.flatnonzero(graph.nodes.kind == NodeKind.FEATURE)
    inputs, outputs = edge_likeness(graph, pruned, features)
    kept = set(pruned.node_ids.tolist()) | set(features.tolist())
    weight = graph.influence + graph.start

    def profile(node: int, into: bool) -> np.ndarray:
        edges = graph.inputs(node) if into else graph.outputs(node)
        row = np.zeros(len(graph.nodes))
        for other, share in zip(edges.nodes.tolist(), edges.shares.tolist(), strict=True):
            if other in kept:
                row[other] = share if into else share * weight[other]
        return row

    checked = 0
    for found, into in ((inputs, True), (outputs, False)):
        rows = [profile(node, into) for node in features.tolist()]
        for i in range(0, len(features), 3):
            for j in range(len(features)):
                norm = float(np.linalg.norm(rows[i]) * np.linalg.norm(rows[j]))
                if norm == 0:
                    assert np.isnan(found[i, j])
                else:
                    assert found[i, j] == pytest.approx(rows[i] @ rows[j] / norm, abs=1e-5)
                    checked += 1
    assert checked > 100


def twins() -> tuple[AttributionGraph, list[str]]:
    """A graph in which the first two features of one place hear and say the same."""
    graph = hand_graph(complete=False)
    first, second = (int(node) for node in np.flatnonzero(graph.nodes.kind == NodeKind.FEATURE)[:2])
    assert graph.nodes.position[first] == graph.nodes.position[second]
    matrix, targets = graph.edges.dense(), graph.targets
    matrix[targets == second] = matrix[targets == first]
    matrix[:, second] = matrix[:, first]
    edges, order = GraphEdges.from_matrix(matrix, targets, graph.nodes.depth)
    copied = replace(graph, edges=edges, biases=graph.biases[order], values=graph.values[order])
    return copied, [copied.node_name(node) for node in (first, second)]


def test_twins_are_suggested_with_the_scores_that_follow() -> None:
    graph, names = twins()
    notes = GraphNotes().with_pinned(names[:1])
    suggestions = suggest_supernodes(graph, graph.prune(1.0, 1.0), notes)
    (twin,) = (one for one in suggestions.found if set(names) <= set(one.nodes))
    if len(twin.nodes) == 2:
        assert twin.likeness == pytest.approx(1.0, abs=1e-5)
    assert names[1] in twin.new
    assert names[0] not in twin.new
    assert twin.decoders is None
    accepted, _ = notes.grouped(twin.nodes, twin.name)
    kept = [graph.find(name) for name in accepted.pinned]
    assert twin.scores == graph.subgraph_scores(kept)
    assert suggestions.now == graph.subgraph_scores([graph.find(names[0])])


def test_what_was_rejected_or_grouped_is_not_suggested_again() -> None:
    graph, _ = twins()
    pruned = graph.prune(1.0, 1.0)
    first = suggest_supernodes(graph, pruned, GraphNotes(), config=LOOSE)
    gone = first.found[0].nodes
    refused = suggest_supernodes(
        graph, pruned, GraphNotes(), config=LOOSE, rejected=[frozenset(gone)]
    )
    assert gone not in [one.nodes for one in refused.found]
    notes, _ = GraphNotes().grouped(gone, "mine")
    later = suggest_supernodes(graph, pruned, notes, config=LOOSE)
    assert not {name for one in later.found for name in one.nodes} & set(gone)
    left = rescored(graph, notes, first.found)
    assert gone not in [one.nodes for one in left.found]
    assert left.now == later.now
    for one in left.found:
        kept = [graph.find(name) for name in {*notes.pinned, *one.nodes}]
        assert one.scores == graph.subgraph_scores(sorted(kept))


def test_bounds_of_a_suggestion_are_kept() -> None:
    graph = hand_graph()
    pruned = graph.prune(1.0, 1.0)
    config = replace(LOOSE, likeness=-1.0, most_members=3, most_suggestions=2)
    found = suggest_supernodes(graph, pruned, GraphNotes(), config=config).found
    assert len(found) == 2
    assert max(len(one.nodes) for one in found) == 3
    placed = suggest_supernodes(
        graph, pruned, GraphNotes(), config=replace(config, one_position=True)
    )
    for one in placed.found:
        assert len({graph.nodes.position[graph.find(name)] for name in one.nodes}) == 1
    pinned = GraphNotes().with_pinned(found[0].nodes)
    mine = suggest_supernodes(graph, pruned, pinned, config=replace(config, pinned_only=True))
    assert {name for one in mine.found for name in one.nodes} <= set(pinned.pinned)
    assert all(one.new == () for one in mine.found)


@pytest.mark.parametrize("kind", ["mlp", "complete"])
def test_decoders_are_compared_where_the_replacement_model_is_open(kind: str) -> None:
    crm = replacement("llama") if kind == "mlp" else complete("llama")
    graph = GraphBuilder(crm).build("the cat sat")
    features = np.flatnonzero(graph.nodes.kind == NodeKind.FEATURE)[:12]
    found = decoder_likeness(graph, features, crm)
    local = crm.localize(graph.token_ids)
    rows = local.features.decoder[torch.as_tensor(features)].double()
    expected = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    assert np.allclose(found, expected.numpy(), atol=1e-5)
    config = replace(LOOSE, likeness=-1.0)
    one = suggest_supernodes(graph, graph.prune(), GraphNotes(), crm, config).found[0]
    assert one.decoders is not None
    other = replace(graph, crm_name="another")
    two = suggest_supernodes(other, graph.prune(), GraphNotes(), crm, config).found[0]
    assert two.decoders is None


def test_names_come_from_labels_then_words_then_places() -> None:
    graph = replace(hand_graph(complete=False), captions={})
    nodes = np.flatnonzero(graph.nodes.kind == NodeKind.FEATURE)[:3].tolist()
    assert name_for(graph, GraphNotes(), nodes[:1]).startswith("L0 at “")
    worded = replace(graph, captions={nodes[0]: "Texas, Dallas", nodes[1]: "Texas, state"})
    assert name_for(worded, GraphNotes(), nodes) == "Texas"
    feature = graph.node_name(nodes[2])
    site, _, latent = feature.split("/")
    notes = GraphNotes().labelled(f"{site}/{latent}", "say Texas")
    assert name_for(worded, notes, nodes) == "say Texas"


def test_a_search_for_suggestions_can_be_stopped() -> None:
    graph = hand_graph()
    context = WorkContext()
    context.cancel()
    with pytest.raises(Cancelled):
        suggest_supernodes(graph, graph.prune(), GraphNotes(), ctx=context)
