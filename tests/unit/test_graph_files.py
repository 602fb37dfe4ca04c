"""Graphs on disk: what is saved opens equal, and what is wrong is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from attention_studio.core.graph_builder import AttributionGraph, GraphBuilder, GraphError
from attention_studio.core.interchange.graph_writing import graph_json
from tests.crms import complete
from tests.tiny import PROMPT


def test_a_saved_graph_opens_equal(graph: AttributionGraph, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    again = AttributionGraph.load(path)
    for name in ("targets", "biases", "values"):
        assert np.array_equal(getattr(again, name), getattr(graph, name))
    assert np.array_equal(again.edges.data, graph.edges.data)
    assert np.array_equal(again.edges.dense(), graph.edges.dense())
    assert again.summary() == graph.summary()
    assert again.captions == graph.captions
    assert again.settings == graph.settings
    assert np.array_equal(again.prune().node_ids, graph.prune().node_ids)
    assert again.made_with == graph.made_with
    recorded = graph.made_with["torch"]  # a build from the registry leaves "+cu130" out
    assert torch.__version__.split("+")[0] == recorded.split("+")[0]
    assert graph.made_with["dtype"] == "float32"


def test_json_is_what_viewers_read(graph: AttributionGraph, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    graph.save(path)
    read = json.loads(path.read_text(encoding="utf-8"))
    part = graph.prune()
    assert read == json.loads(json.dumps(graph_json(graph, part)))
    assert set(read) == {"metadata", "qParams", "nodes", "links"}
    ids = [node["node_id"] for node in read["nodes"]]
    assert len(set(ids)) == len(ids) == len(part.node_ids)
    assert all(link["source"] in ids and link["target"] in ids for link in read["links"])
    assert read["metadata"]["prompt_tokens"] == list(graph.tokens)
    feature = next(n for n in read["nodes"] if n["feature_type"] == "cross layer transcoder")
    layer, index, position = map(int, feature["node_id"].split("_"))
    assert feature["feature"] == (layer + index) * (layer + index + 1) // 2 + index
    assert feature["ctx_idx"] == position


def test_a_saved_complete_graph_opens_equal(tmp_path: Path) -> None:
    graph = GraphBuilder(complete()).build(PROMPT)
    path = tmp_path / "g.safetensors"
    graph.save(path)
    again = AttributionGraph.load(path)
    assert np.array_equal(again.nodes.site_kind, graph.nodes.site_kind)
    assert again.summary() == graph.summary()
    wrong = replace(graph, nodes=replace(graph.nodes, site_kind=-graph.nodes.site_kind))
    wrong.save(path)
    with pytest.raises(GraphError, match="site_kind"):
        AttributionGraph.load(path)


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_graph_of_an_older_version_opens(
    graph: AttributionGraph, tmp_path: Path, version: str
) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    with safe_open(path, framework="numpy") as file:
        header = {**file.metadata(), "version": version}
    arrays = {k: v for k, v in load_file(path).items() if not k.startswith("edges.")}
    del arrays["output_weights"]
    # Rows came in the order in which they were traced.
    shuffled = np.random.default_rng(0).permutation(len(graph.targets))
    arrays["weights"] = graph.edges.dense()[shuffled]
    arrays["targets"] = graph.targets[shuffled]
    for name in ("biases", "values"):
        arrays[name] = arrays[name][shuffled]
    if version == "1":  # features and errors were those of MLPs alone
        del arrays["nodes.site_kind"]
    save_file(arrays, path, header)
    again = AttributionGraph.load(path)
    assert np.array_equal(again.nodes.site_kind, graph.nodes.site_kind)
    for score in ("replacement", "completeness"):
        ours = getattr(graph.scores, score)
        assert getattr(again.scores, score) == pytest.approx(ours, rel=1e-6)
    node = int(graph.targets[-1])
    assert np.array_equal(np.sort(again.inputs(node).nodes), np.sort(graph.inputs(node).nodes))
    save_file(arrays, path, {**header, "version": "4"})
    with pytest.raises(GraphError, match="version 4"):
        AttributionGraph.load(path)


def test_json_tells_attention_from_mlp_as_viewers_do() -> None:
    graph = GraphBuilder(complete()).build(PROMPT)
    part = graph.prune(1.0, 1.0)
    read = graph_json(graph, part)
    ids = [node["node_id"] for node in read["nodes"]]
    assert len(set(ids)) == len(ids) == len(part.node_ids)
    patterns = {
        "lorsa": r"(\d+)_lor_(\d+)_(\d+)",
        "lorsa error": r"(\d+)_error_attn_(\d+)",
        "cross layer transcoder": r"(\d+)_cro_(\d+)_(\d+)",
        "mlp reconstruction error": r"(\d+)_error_mlp_(\d+)",
        "embedding": r"E_(\d+)_(\d+)",
        "logit": r"3_(\d+)_(\d+)",
    }
    assert {node["feature_type"] for node in read["nodes"]} == set(patterns)
    for node in read["nodes"]:
        found = re.fullmatch(patterns[node["feature_type"]], node["node_id"])
        assert found is not None
        assert int(found.groups()[-1]) == node["ctx_idx"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"\xff" * 64), "cannot be opened"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be opened"),
        (lambda path: path.unlink(), "no graph"),
        (lambda path: path.write_bytes(b""), "cannot be opened"),
    ],
)
def test_a_damaged_file_gets_a_clear_error(
    graph: AttributionGraph, tmp_path: Path, damage: Any, words: str
) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    damage(path)
    with pytest.raises(GraphError, match=words):
        AttributionGraph.load(path)


def with_layout(graph: AttributionGraph, **changes: Any) -> AttributionGraph:
    layout = replace(graph.edges.layout, **changes)
    return replace(graph, edges=replace(graph.edges, layout=layout))


def with_nodes(graph: AttributionGraph, **changes: Any) -> AttributionGraph:
    return replace(graph, nodes=replace(graph.nodes, **changes))


def with_an_empty_block(graph: AttributionGraph) -> AttributionGraph:
    """One that says of no rows that millions of columns feed them."""
    layout = graph.edges.layout
    wide = np.tile(np.array([[0, layout.n_sources]]), (10_000, 1))
    return with_layout(
        graph,
        row_bounds=np.append(layout.row_bounds, layout.row_bounds[-1]),
        ranges=np.concatenate([layout.ranges, wide]),
        range_bounds=np.append(layout.range_bounds, len(layout.ranges) + len(wide)),
    )


def with_data(graph: AttributionGraph, data: Any) -> AttributionGraph:
    return replace(graph, edges=replace(graph.edges, data=data))


def test_arrays_that_do_not_fit_together_are_refused(
    graph: AttributionGraph, tmp_path: Path
) -> None:
    path = tmp_path / "g.safetensors"
    for wrong, name in (
        (with_layout(graph, targets=graph.targets + len(graph.nodes)), "targets"),
        (with_layout(graph, order=graph.edges.layout.order * 0), "order"),
        (with_layout(graph, ranges=graph.edges.layout.ranges + 10**9), "ranges"),
        (with_layout(graph, row_bounds=graph.edges.layout.row_bounds[:-1]), "row_bounds"),
        (with_layout(graph, range_bounds=graph.edges.layout.range_bounds[::-1]), "range_bounds"),
        (replace(graph, biases=graph.biases[:-1]), "biases"),
        (with_data(graph, np.full_like(graph.edges.data, np.nan)), "not finite"),
        (with_data(graph, graph.edges.data[:-1]), "weights"),
        (with_data(graph, graph.edges.data.astype(np.float64)), "weights"),
        (replace(graph, token_ids=graph.token_ids[:-1]), "tokens"),
        (with_nodes(graph, layer=np.array(3, dtype=np.int16)), "nodes"),
        (with_nodes(graph, index=graph.nodes.index[:, None]), "nodes"),
        (with_nodes(graph, layer=graph.nodes.layer.astype(np.float32)), "nodes"),
        (with_nodes(graph, layer=graph.nodes.layer + np.int16(1)), "layer"),
        (with_nodes(graph, probability=graph.nodes.probability * np.nan), "probability"),
        (with_nodes(graph, probability=-graph.nodes.probability), "probability"),
        (replace(graph, n_layers=10**7), "n_layers"),
        (replace(graph, output_weights=np.full_like(graph.start, np.inf)), "output_weights"),
        (with_an_empty_block(graph), "row_bounds"),
    ):
        wrong.save(path)
        with pytest.raises(GraphError, match=name):
            AttributionGraph.load(path)


def test_an_unknown_ending_is_refused(graph: AttributionGraph, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="ending"):
        graph.save(tmp_path / "g.pt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_layers", float("inf")),
        ("token_ids", [float("inf")]),
        ("settings", {"positions": ["x"]}),
        ("settings", {"tokens": [[1]]}),
        ("settings", {"max_gigabytes": float("inf")}),
        ("made_with", ["torch"]),
        ("made_with", {"torch": 2}),
        ("made_with", {"torch": "x" * 2_000}),
        ("made_with", {str(n): "" for n in range(200)}),
    ],
)
def test_a_description_of_wrong_values_is_refused(
    graph: AttributionGraph, tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
    about = {**json.loads(header["graph"]), name: value}
    arrays = load_file(path)
    for text in (json.dumps(about), "[" * 200_000):
        save_file(arrays, path, {**header, "graph": text})
        with pytest.raises(GraphError):
            AttributionGraph.load(path)


def test_a_graph_without_its_words_can_still_be_described(
    graph: AttributionGraph, tmp_path: Path
) -> None:
    path = tmp_path / "g.safetensors"
    replace(graph, node_tokens={}).save(path)
    assert {output["token"] for output in AttributionGraph.load(path).summary()["output"]} == {"?"}
