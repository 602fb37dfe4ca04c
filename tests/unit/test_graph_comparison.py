"""Comparing two graphs, and tracing a stored one again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.graph_comparison import compare_graphs
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_rerun import RerunError, rerun_graph
from attention_studio.core.graph_settings import GraphSettings
from attention_studio.core.interchange.foreign_graph import as_graph, everything
from attention_studio.core.interchange.graph_document import DIALECTS, Dialect, GraphDocument
from attention_studio.core.interchange.graph_writing import graph_json
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.crms import complete
from tests.hand_graphs import hand_graph
from tests.tiny import PROMPT


def with_links(
    graph: AttributionGraph, source: np.ndarray, target: np.ndarray, weight: np.ndarray
) -> AttributionGraph:
    """The same nodes with other edges."""
    edges = GraphEdges.from_links(
        graph.edges.n_sources, graph.nodes.depth, source, target, weight.astype(np.float32)
    )
    return replace(graph, edges=edges)


def test_a_graph_is_the_same_as_itself() -> None:
    graph = hand_graph()
    found = compare_graphs(graph, graph)
    assert found.same
    assert found.differences == ()
    assert found.moved == ()
    assert (found.nodes_both, found.nodes_before, found.nodes_after) == (len(graph.nodes), 0, 0)
    assert (found.edges_both, found.edges_before, found.edges_after) == (graph.n_edges, 0, 0)
    assert (found.largest_change, found.largest_share) == (0.0, 0.0)
    assert found.largest_edge == np.abs(graph.edges.data).max()


def test_every_edge_that_moved_is_found_and_measured() -> None:
    graph = hand_graph()
    part = everything(graph)
    weight = part.edge_weight.astype(np.float64).copy()
    weight[5] *= 3.0
    weight[17] *= -1.0
    weight[30] = 0.0
    after = with_links(graph, part.edge_source, part.edge_target, weight)
    found = compare_graphs(graph, after)
    assert not found.same
    assert found.edges_moved == 2
    assert (found.edges_both, found.edges_before, found.edges_after) == (len(weight) - 1, 1, 0)
    ends = {
        (graph.node_name(int(part.edge_source[i])), graph.node_name(int(part.edge_target[i]))): i
        for i in (5, 17)
    }
    assert {(edge.source, edge.target) for edge in found.moved} == set(ends)
    (gone,) = found.gone
    assert (gone.before, gone.after) == (part.edge_weight[30], 0.0)
    assert gone.source == graph.node_name(int(part.edge_source[30]))
    assert (found.come, found.edges_alone) == ((), 1)
    for edge in found.moved:
        i = ends[edge.source, edge.target]
        assert edge.before == part.edge_weight[i]
        assert edge.after == np.float32(weight[i])
        assert edge.change == edge.after - edge.before
        mine = part.edge_target == part.edge_target[i]
        totals = [float(np.abs(w[mine]).sum()) for w in (part.edge_weight, weight)]
        assert edge.share == pytest.approx(abs(edge.change) / max(totals), rel=1e-5)
    assert found.moved[0].share >= found.moved[1].share
    assert found.largest_share == found.moved[0].share
    assert found.largest_change == max(abs(edge.change) for edge in found.moved)
    backwards = compare_graphs(after, graph)
    assert (backwards.edges_before, backwards.edges_after) == (0, 1)
    assert backwards.edges_moved == 2
    assert [(edge.before, edge.after) for edge in backwards.come] == [(0.0, gone.before)]
    assert [edge.change for edge in backwards.moved] == [-edge.change for edge in found.moved]


def test_only_what_is_asked_for_is_listed_but_everything_is_counted() -> None:
    graph = hand_graph()
    part = everything(graph)
    after = with_links(graph, part.edge_source, part.edge_target, part.edge_weight * -1.0)
    found = compare_graphs(graph, after, shown=3)
    assert found.edges_moved == len(part.edge_weight)
    assert len(found.moved) == 3
    everyone = compare_graphs(graph, after, shown=10**6).moved
    assert found.moved == everyone[:3]
    assert len(everyone) == len(part.edge_weight)
    assert compare_graphs(graph, after, shown=0).moved == ()
    lenient = compare_graphs(graph, after, tolerance=2.1)
    assert lenient.same
    assert lenient.moved == ()


def test_nodes_that_only_one_has_are_named() -> None:
    graph = hand_graph()
    index = graph.nodes.index.copy()
    index[0] = 49_000
    after = replace(graph, nodes=replace(graph.nodes, index=index))
    found = compare_graphs(graph, after)
    assert (found.nodes_before, found.nodes_after) == (1, 1)
    assert found.features_before == (graph.node_name(0),)
    assert found.features_after == (after.node_name(0),)
    part = everything(graph)
    touched = int(((part.edge_source == 0) | (part.edge_target == 0)).sum())
    assert (found.edges_before, found.edges_after) == (touched, touched)
    assert not found.same


def test_what_is_not_comparable_is_said() -> None:
    graph = hand_graph()
    for change, says in (
        ({"model_hash": "cd" * 32}, "different weights"),
        ({"model_hash": ""}, "not known"),
        ({"crm_name": "another"}, "different dictionaries"),
        ({"prompt": "a dog"}, "prompts differ"),
        ({"settings": GraphSettings(max_logits=3)}, "max_logits 10 and 3"),
    ):
        found = compare_graphs(graph, replace(graph, **change))  # type: ignore[arg-type]
        assert len(found.differences) == 1
        assert says in found.differences[0]
        json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_written_graph_is_compared_with_what_it_was(dialect: Dialect) -> None:
    """Through another tool's format nothing moves. What its file lacks is None."""
    graph = hand_graph()
    again = as_graph(GraphDocument.of(graph_json(graph, everything(graph), dialect))).graph
    found = compare_graphs(graph, again)
    assert found.same
    assert found.edges_both == graph.n_edges
    data = found.to_json()
    assert data["scores_after"]["max_identity_error"] is None
    json.dumps(data, allow_nan=False)


def test_comparing_can_be_stopped() -> None:
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        compare_graphs(hand_graph(), hand_graph(), ctx=ctx)


# ---- tracing again -----------------------------------------------------------------------------


def test_a_graph_traced_again_is_the_same() -> None:
    replacement = complete()
    stored = GraphBuilder(replacement).build(PROMPT, GraphSettings(max_logits=3, max_features=20))
    found = rerun_graph(stored, replacement)
    assert found.comparison.same
    assert found.comparison.differences == ()
    assert found.comparison.largest_change == 0.0  # two runs give the same
    assert found.graph.settings == stored.settings


def test_a_graph_of_another_tool_is_traced_again() -> None:
    """Of a file that pruning thinned out, all that it has is found again."""
    replacement = complete()
    stored = GraphBuilder(replacement).build(PROMPT)
    value = graph_json(stored, stored.prune(), "circuit-tracer")
    foreign = as_graph(GraphDocument.of(value)).graph
    found = rerun_graph(foreign, replacement).comparison
    assert found.nodes_before == 0
    assert found.edges_before == 0
    assert found.edges_both == len(stored.prune().edge_weight)
    assert found.edges_after == stored.n_edges - found.edges_both
    assert (found.edges_moved, found.largest_change) == (0, 0.0)
    assert found.moved == ()


def test_other_weights_are_refused_or_said() -> None:
    replacement = complete()
    stored = GraphBuilder(replacement).build(PROMPT)
    other = replace(stored, model_hash="0" * 64)
    with pytest.raises(RerunError, match="weights differ"):
        rerun_graph(other, replacement)
    found = rerun_graph(other, replacement, other_model=True).comparison
    assert any("different weights" in text for text in found.differences)
    unknown = rerun_graph(replace(stored, model_hash=""), replacement).comparison
    assert any("not known" in text for text in unknown.differences)
    renamed = rerun_graph(replace(stored, crm_name="x"), replacement).comparison
    assert any("different dictionaries" in text for text in renamed.differences)


def test_other_tokens_are_refused() -> None:
    replacement = complete()
    stored = GraphBuilder(replacement).build(PROMPT)
    unknown = replace(stored, token_ids=(-1,) * len(stored.token_ids))
    assert rerun_graph(unknown, replacement).comparison.same
    for ids in (stored.token_ids[:-1], (*stored.token_ids[:-1], stored.token_ids[-1] + 1)):
        with pytest.raises(RerunError, match="other tokens"):
            rerun_graph(replace(stored, token_ids=ids), replacement)


def test_what_they_were_made_with_is_compared_where_both_tell_it() -> None:
    graph = replace(
        hand_graph(), made_with={"torch": "2.9", "dictionaries": "a", "dtype": "float32"}
    )
    other = replace(graph, made_with={"torch": "2.10", "dictionaries": "b", "python": "3.12"})
    assert compare_graphs(graph, other).differences == (
        "Their dictionaries have different weights",
        "They were made with different torch: 2.9 and 2.10",
    )
    assert compare_graphs(graph, replace(graph, crm_name="a copy")).differences == ()
    assert compare_graphs(graph, replace(graph, made_with={})).differences == ()
