"""circuit-tracer itself reads the graphs that the studio writes for it, and writes what it reads.

It runs in an environment of its own (``benchmarks/peers.py``), made on first use. Llamascopium's
package has no reader of graph files; its server's are only known from its sources.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attention_studio.core.attribution_graph import NodeKind
from attention_studio.core.interchange.feature_export import features_of
from attention_studio.core.interchange.foreign_graph import as_graph, everything, read_foreign_graph
from attention_studio.core.interchange.graph_document import GraphDocument
from attention_studio.core.interchange.graph_writing import GraphView, converted
from attention_studio.core.interchange.viewer_folder import write_viewer_folder
from benchmarks.peers import peer_python, run_checked
from tests.foreign_graphs import llamascopium_value, neuronpedia_value
from tests.hand_graphs import hand_graph
from tests.unit.test_interchange_features import stored

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).parents[1] / "peer_scripts" / "circuit_tracer_viewer_peer.py"


def test_its_server_shows_our_graphs_and_pages(tmp_path: Path) -> None:
    python = str(peer_python("circuit-tracer"))
    expected = {}
    for slug, complete in (("plain", False), ("complete", True)):
        graph = hand_graph(complete)
        part = graph.prune(1.0, 1.0)
        pages = features_of(graph, part)
        store = stored(tmp_path / f"{slug} store", pages)
        kinds = graph.nodes.kind[part.node_ids]
        pinned = [int(part.node_ids[np.flatnonzero(kinds == kind)[0]]) for kind in (0, 1, 2)]
        view = GraphView(tuple(pinned), (("both", tuple(pinned)),))
        write_viewer_folder(tmp_path / "shown", graph, part, slug, store, view)
        rows = []
        for node in pinned:
            site = graph.nodes.site(node)
            layer = -1 if site is None else site.number if complete else site.layer
            rows.append([layer, int(graph.nodes.position[node]), int(graph.nodes.index[node])])
        expected[slug] = {
            "nodes": len(part.node_ids),
            "links": len(part.edge_weight),
            "numbered_alike": True,
            "pages": len(pages),
            "pinned": rows,
        }
    assert (
        json.loads(run_checked([python, str(SCRIPT), "read", str(tmp_path / "shown")])) == expected
    )
    index = json.loads((tmp_path / "shown" / "graph-metadata.json").read_text())
    assert [entry["slug"] for entry in index["graphs"]] == ["plain", "complete", "theirs"]
    write_viewer_folder(tmp_path / "shown", hand_graph(), hand_graph().prune(), "complete")
    index = json.loads((tmp_path / "shown" / "graph-metadata.json").read_text())
    assert [entry["slug"] for entry in index["graphs"]] == ["plain", "theirs", "complete"]


def test_it_reads_what_becomes_of_other_tools_files(tmp_path: Path) -> None:
    slugs = {}
    for slug, value in (("a", neuronpedia_value()), ("b", llamascopium_value())):
        foreign = as_graph(GraphDocument.of(value))
        made = converted(foreign, "circuit-tracer")
        made["metadata"]["slug"] = slug
        (tmp_path / f"{slug}.json").write_text(json.dumps(made))
        slugs[slug] = made["metadata"]
    (tmp_path / "graph-metadata.json").write_text(json.dumps({"graphs": list(slugs.values())}))
    python = str(peer_python("circuit-tracer"))
    found = json.loads(run_checked([python, str(SCRIPT), "read", str(tmp_path)]))
    assert {slug: (one["nodes"], one["links"]) for slug, one in found.items()} == {
        "a": (5, 4),
        "b": (5, 4),
    }
    assert all(one["numbered_alike"] for one in found.values())


def test_we_read_what_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    run_checked([str(peer_python("circuit-tracer")), str(SCRIPT), "write", str(path)])
    foreign = read_foreign_graph(path)
    graph, part = foreign.graph, everything(foreign.graph)
    name = graph.node_name
    found = {
        (name(a), name(b)): w
        for a, b, w in zip(part.edge_source, part.edge_target, part.edge_weight, strict=True)
    }
    assert found == {
        ("P2/token", "L0/P2/F5"): 2.0,
        ("L0/P2/F5", "L1/P2/F262143"): 0.5,
        ("L0/P2/F5", "P2/logit/8"): 1.0,
        ("L1/P2/F262143", "P2/logit/8"): -3.0,
        ("L5/P2/error", "P2/logit/8"): 0.25,
        ("L1/P1/error", "P2/logit/8"): 0.125,
    }
    assert graph.n_layers == 6
    assert [name(node) for node in foreign.pinned] == ["L1/P2/F262143"]
    logit = int(np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)[0])
    assert graph.node_tokens[logit] == ' it\'s "8"'
    assert graph.nodes.probability[logit] == 0.75
    again = tmp_path / "again.json"
    foreign.document.write(again)
    assert json.loads(again.read_text()) == json.loads(path.read_text())
