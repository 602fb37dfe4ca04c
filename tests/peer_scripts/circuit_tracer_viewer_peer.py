"""Runs where circuit-tracer is installed: what its models and its server make of graph files.

read FOLDER    a folder made for its server: says what its models and its server find there
write FILE     a graph file out of its own constructors
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from circuit_tracer.frontend import feature_models, graph_models
from circuit_tracer.frontend.local_server import serve
from circuit_tracer.frontend.utils import add_graph_metadata
from circuit_tracer.utils.decode_url_features import decode_url_features


def read(folder: Path) -> dict[str, object]:
    server = serve(str(folder), port=0)
    _, port = server.httpd.server_address[:2]

    def get(address: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{address}") as answer:
            return json.load(answer)

    try:
        found: dict[str, object] = {}
        for entry in get("/data/graph-metadata.json")["graphs"]:
            graph_models.Metadata.model_validate(entry, strict=True)
            value = get(f"/graph_data/{entry['slug']}.json")
            graph = graph_models.Model.model_validate(value)
            links = [graph_models.Link.model_validate(link) for link in graph.links]
            features = [n for n in graph.nodes if n.feature_type == "cross layer transcoder"]
            pages = 0
            if entry["scan"].startswith("./"):
                for number in {node.feature for node in features}:
                    page = get(f"{entry['scan'][1:]}/{number}.json")
                    pages += feature_models.Model.model_validate(page, strict=True).index == number
            pins = ",".join(graph.qParams.pinnedIds)
            _, single = decode_url_features(f"http://x/?pinnedIds={pins}")
            found[entry["slug"]] = {
                "nodes": len(graph.nodes),
                "links": len(links),
                "numbered_alike": all(
                    node.feature
                    == graph_models._cantor_pairing(*map(int, node.node_id.split("_")[:2]))
                    for node in features
                ),
                "pages": pages,
                "pinned": [list(feature) for feature in single],
            }
        add_graph_metadata({"slug": "theirs", "prompt": "x"}, str(folder))
        return found
    finally:
        server.stop()


def write(path: Path) -> None:
    make = graph_models.Node
    nodes = [
        make.feature_node(0, 2, 5, influence=0.1, activation=1.5),
        make.feature_node(1, 2, 262_143, influence=0.2, activation=0.25),
        make.error_node(5, 2, influence=0.3),  # has the id of the first
        make.error_node(1, 1, influence=0.4),
        *(make.token_node(position, 40 + position, influence=0.5) for position in range(3)),
        make.logit_node(2, 8, ' it\'s "8"', 6, target_logit=True, token_prob=0.75),
    ]
    links = [
        {"source": "E_42_2", "target": "0_5_2", "weight": 2.0},
        {"source": "0_5_2", "target": "1_262143_2", "weight": 0.5},
        {"source": "0_5_2", "target": "7_8_2", "weight": 1.0},
        {"source": "1_262143_2", "target": "7_8_2", "weight": -3.0},
        {"source": "0_5_2", "target": "7_8_2", "weight": 0.25},
        {"source": "0_1_1", "target": "7_8_2", "weight": 0.125},
    ]
    model = graph_models.Model(
        metadata=graph_models.Metadata(
            slug="s", scan="x", transcoder_list=[], prompt_tokens=["a", "b", "c"], prompt="abc"
        ),
        qParams=graph_models.QParams(
            pinnedIds=["1_262143_2"], supernodes=[], linkType="both", clickedId="", sg_pos=""
        ),
        nodes=nodes,
        links=links,
    )
    path.write_text(model.model_dump_json(indent=2))


if __name__ == "__main__":
    if sys.argv[1] == "read":
        sys.stdout.write(json.dumps(read(Path(sys.argv[2]))) + "\n")
    else:
        write(Path(sys.argv[2]))
