"""GraphML and CSV hold the graph's nodes and edges, whatever its tokens are made of."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.interchange.tables import (
    EDGE_COLUMNS,
    NODE_COLUMNS,
    csv_paths,
    save_csv,
    save_graphml,
)
from tests.hand_graphs import hand_graph

HOSTILE = 'a\x00\x1b\ud800\ufffe<b>&"\n,=1+1'


@pytest.fixture
def graph() -> AttributionGraph:
    """With a caption of characters that files choke on, and an activation that nobody knows."""
    graph = hand_graph()
    activation = graph.nodes.activation.copy()
    activation[0] = np.nan
    return replace(graph, captions={0: HOSTILE}, nodes=replace(graph.nodes, activation=activation))


def test_graphml_opens_again(graph: AttributionGraph, tmp_path: Path) -> None:
    path = tmp_path / "g.graphml"
    part = graph.prune(1.0, 1.0)
    save_graphml(graph, path, part)
    found, expected = nx.read_graphml(path), graph.to_networkx(part)
    assert set(found.nodes) == set(expected.nodes)
    assert set(found.edges) == set(expected.edges)
    for a, b, facts in expected.edges(data=True):
        assert found.edges[a, b] == pytest.approx(facts, rel=1e-9)
    for name, facts in expected.nodes(data=True):
        again = found.nodes[name]
        if name == graph.node_name(0):
            assert "activation" not in again
            assert again["label"].endswith('a\ufffd\ufffd\ufffd\ufffd<b>&"\n,=1+1')
        else:
            assert again["activation"] == pytest.approx(facts["activation"], rel=1e-9)
            assert (again["kind"], again["layer"]) == (facts["kind"], facts["layer"])
    assert found.graph["prompt"] == graph.prompt
    assert nx.read_graphml(path).number_of_edges() == len(part.edge_weight)


def test_tables_have_a_row_for_everything(graph: AttributionGraph, tmp_path: Path) -> None:
    nodes, edges = csv_paths(tmp_path / "g.csv")
    assert (nodes.name, edges.name) == ("g.nodes.csv", "g.edges.csv")
    part = graph.prune(1.0, 1.0)
    save_csv(graph, nodes, edges, part)
    with nodes.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == NODE_COLUMNS
    assert [row["name"] for row in rows] == [graph.node_name(int(n)) for n in part.node_ids]
    named = {row["name"]: row for row in rows}
    first = named[graph.node_name(0)]
    assert first["activation"] == ""
    assert first["label"].endswith('<b>&"\n,=1+1')
    for row in rows:
        assert not row["name"].startswith(("=", "+", "-", "@"))
        assert not row["label"].startswith(("=", "+", "-", "@"))
    with edges.open(newline="", encoding="utf-8") as stream:
        links = list(csv.DictReader(stream))
    assert tuple(links[0]) == EDGE_COLUMNS
    assert {(link["source"], link["target"]) for link in links} == set(
        graph.to_networkx(part).edges
    )
    weights = graph.to_networkx(part).edges
    for link in links:
        assert float(link["weight"]) == weights[link["source"], link["target"]]["weight"]


def test_what_is_not_said_is_the_usual_pruning(tmp_path: Path) -> None:
    graph = hand_graph()
    save_graphml(graph, tmp_path / "g.graphml")
    assert nx.read_graphml(tmp_path / "g.graphml").number_of_nodes() == len(graph.prune().node_ids)
