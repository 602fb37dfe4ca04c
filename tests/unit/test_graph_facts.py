"""What is said of two graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attention_studio.core.graph_comparison import compare_graphs
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_facts import NOT_KNOWN, facts, verdict
from attention_studio.core.graph_settings import GraphSettings
from tests.hand_graphs import hand_graph


def test_what_is_equal_and_what_is_not() -> None:
    graph = replace(hand_graph(), made_with={"torch": "2.9", "dictionaries": "f" * 64})
    other = replace(
        graph,
        prompt="a dog",
        model_hash="",
        settings=GraphSettings(max_features=7, tokens=("x", 3)),
        made_with={"torch": "2.10", "dtype": "float32", "dictionaries": "f" * 64},
    )
    told = {fact.name: fact for fact in facts(graph, other)}
    assert not told["Prompt"].same
    assert (told["Hash of the weights"].first, told["Hash of the weights"].second) == (
        ("ab" * 32)[:16],
        NOT_KNOWN,
    )
    assert told["Hash of the dictionaries"].same
    assert told["Hash of the dictionaries"].first == "f" * 16
    assert (told["torch"].first, told["torch"].second) == ("2.9", "2.10")
    assert (told["Number format"].first, told["Number format"].second) == (NOT_KNOWN, "float32")
    assert (told["Setting max_features"].first, told["Setting max_features"].second) == ("all", "7")
    assert (told["Setting tokens"].first, told["Setting tokens"].second) == ("none", "x, 3")
    assert told["Edges"].first == f"{graph.n_edges:,}"
    assert told["Nodes"].same
    assert all(fact.same for fact in facts(graph, graph))


def test_a_verdict_says_what_differs() -> None:
    graph = hand_graph()
    assert verdict(compare_graphs(graph, graph)) == (
        f"The same: no edge differs at all, and both have the same {len(graph.nodes)} nodes"
    )

    def with_data(data: np.ndarray) -> str:
        edges = GraphEdges(graph.edges.layout, data.astype(np.float32))
        return verdict(compare_graphs(graph, replace(graph, edges=edges)))

    data = graph.edges.data
    assert "by more than 0.01% of its target's input" in with_data(data * np.float32(1 + 3e-7))
    assert with_data(data * np.float32(1 + 3e-7)).startswith("The same")
    doubled = data.copy()
    doubled[:5] *= 2
    assert with_data(doubled) == (
        "Not the same: 5 edges differ by more than 0.01% of its target's input"
    )
    gone = data.copy()
    gone[3] = 0
    assert with_data(gone) == "Not the same: 1 edge is in one alone"
    index = graph.nodes.index.copy()
    index[0] = 49_000
    renamed = replace(graph, nodes=replace(graph.nodes, index=index))
    comparison = compare_graphs(graph, renamed)
    assert verdict(comparison).startswith("Not the same: 2 nodes are in one of them alone")
    told = {fact.name: fact for fact in facts(graph, renamed, comparison)}
    assert told["Edges in this one alone"].first == f"{comparison.edges_before:,}"
    assert told["Edges in both"].same
