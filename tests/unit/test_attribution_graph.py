"""What one asks of a graph."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest

from attention_studio.core.graph_builder import AttributionGraph, GraphError, NodeKind
from tests.hand_graphs import hand_graph


def test_inputs_and_outputs_tell_the_same_edges(graph: AttributionGraph) -> None:
    node = int(graph.targets[-1])
    inputs = graph.inputs(node)
    assert list(np.abs(inputs.weights)) == sorted(np.abs(inputs.weights), reverse=True)
    assert np.abs(inputs.shares).sum() == pytest.approx(1, abs=1e-5)
    source = int(inputs.nodes[0])
    outputs = graph.outputs(source)
    place = int(np.flatnonzero(outputs.nodes == node)[0])
    assert outputs.weights[place] == inputs.weights[0]
    assert outputs.shares[place] == pytest.approx(inputs.shares[0])
    logit = len(graph.nodes) - 1
    assert len(graph.outputs(logit).nodes) == 0
    assert len(graph.inputs(graph.edges.n_sources - 1).nodes) == 0


def test_names_find_their_nodes(graph: AttributionGraph) -> None:
    names = [graph.node_name(node) for node in range(len(graph.nodes))]
    assert len(set(names)) == len(names)
    assert graph.find(names[17]) == 17
    with pytest.raises(GraphError, match="no node L99"):
        graph.find("L99/P0/F0")


def test_pruning_keeps_logits_and_tokens_and_shrinks(graph: AttributionGraph) -> None:
    small, large = graph.prune(0.5, 0.8), graph.prune(1.0, 1.0)
    assert len(small.node_ids) < len(large.node_ids)
    assert len(small.edge_weight) < len(large.edge_weight)
    kinds = graph.nodes.kind[small.node_ids]
    assert (kinds == NodeKind.EMBEDDING).sum() == len(graph.tokens)
    assert set(small.edge_source) | set(small.edge_target) <= set(small.node_ids)
    with pytest.raises(GraphError, match="from 0 to 1"):
        graph.prune(1.2)


def test_networkx_gets_every_kept_node_and_edge(graph: AttributionGraph) -> None:
    part = graph.prune()
    other = graph.to_networkx(part)
    assert other.number_of_nodes() == len(part.node_ids)
    assert other.number_of_edges() == len(part.edge_weight)
    assert nx.is_directed_acyclic_graph(other)


def test_the_strongest_path_is_the_best_of_all_paths(graph: AttributionGraph) -> None:
    part = graph.prune(0.6, 0.7)
    other = graph.to_networkx(part)
    logit = len(graph.nodes) - len(graph.nodes.kind[graph.nodes.kind == NodeKind.LOGIT])
    names_of = {graph.node_name(node): node for node in range(len(graph.nodes))}
    above = nx.ancestors(other, graph.node_name(logit))
    token = next(names_of[name] for name in sorted(above) if name.endswith("token"))
    path = graph.strongest_path(token, logit, part)
    assert path is not None
    assert path[0] == token
    assert path[-1] == logit

    def strength(names: list[str]) -> float:
        pairs = itertools.pairwise(names)
        return float(np.prod([abs(other.edges[pair]["share"]) for pair in pairs]))

    names = [graph.node_name(node) for node in path]
    every = nx.all_simple_paths(other, names[0], names[-1])
    assert strength(names) == pytest.approx(max(strength(p) for p in every), rel=1e-6)


def test_no_path_gives_none(graph: AttributionGraph) -> None:
    logit = len(graph.nodes) - 1
    token = int(np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING)[2])
    assert graph.strongest_path(logit, token) is None
    untouched = graph.prune(0.0, 0.0)
    lost = int(np.setdiff1d(np.arange(graph.n_features), untouched.node_ids)[0])
    assert graph.strongest_path(lost, logit, untouched) is None


def test_the_strongest_path_of_all_edges_is_what_networkx_finds(graph: AttributionGraph) -> None:
    whole = nx.DiGraph()
    for row, node in enumerate(graph.targets.tolist()):
        shares = np.abs(graph.edges.dense()[row]) / graph.totals[node]
        for source in np.flatnonzero(shares).tolist():
            whole.add_edge(source, node, cost=-np.log(shares[source]))
    logit, token = int(graph.targets[0]), int(np.flatnonzero(graph.nodes.kind == 2)[2])
    expected = nx.shortest_path(whole, token, logit, weight="cost", method="bellman-ford")
    found = graph.strongest_path(token, logit)
    assert found is not None
    assert nx.path_weight(whole, found, "cost") == pytest.approx(
        nx.path_weight(whole, expected, "cost"), rel=1e-5
    )


def test_a_subgraph_of_all_features_has_the_scores_of_the_graph(graph: AttributionGraph) -> None:
    features = np.flatnonzero(graph.nodes.kind == NodeKind.FEATURE)
    whole = graph.subgraph_scores(features.tolist())
    assert whole.replacement == pytest.approx(graph.scores.replacement, abs=1e-6)
    assert whole.completeness == pytest.approx(graph.scores.completeness, abs=1e-6)


def test_features_that_are_left_out_of_a_subgraph_count_as_errors(graph: AttributionGraph) -> None:
    """Against the same scores of a dense matrix in which they are moved to an error column."""
    rng = np.random.default_rng(0)
    features = np.flatnonzero(graph.nodes.kind == NodeKind.FEATURE)
    kept = rng.choice(features, len(features) // 3, replace=False)
    n = len(graph.nodes)
    a = np.zeros((n, n))
    a[graph.targets, : graph.edges.n_sources] = np.abs(graph.edges.dense())
    a /= np.maximum(a.sum(1, keepdims=True), 1e-10)
    left_out = np.setdiff1d(features, kept)
    a[left_out] = 0.0  # as errors they have no inputs
    errors = graph.nodes.kind == NodeKind.ERROR
    errors[left_out] = True
    influence, step = np.zeros(n), graph.start.astype(float)
    while step.any():
        step = step @ a
        influence += step
    tokens = graph.nodes.kind == NodeKind.EMBEDDING
    weight = influence + graph.start
    found = graph.subgraph_scores(kept.tolist())
    assert found.replacement == pytest.approx(
        influence[tokens].sum() / (influence[tokens].sum() + influence[errors].sum()), abs=1e-5
    )
    explained = 1 - a[:, errors].sum(1)
    assert found.completeness == pytest.approx((explained * weight).sum() / weight.sum(), abs=1e-5)
    assert found.replacement < graph.scores.replacement
    few = graph.subgraph_scores([])
    assert few.replacement < found.replacement


def test_every_node_is_found_by_its_name(graph: AttributionGraph) -> None:
    """Names are made in one go for looking nodes up, and one by one for telling them."""
    for found in (graph, hand_graph(), hand_graph(complete=False)):
        names = [found.node_name(node) for node in range(len(found.nodes))]
        assert len(set(names)) == len(names)
        assert [found.find(name) for name in names] == list(range(len(names)))
