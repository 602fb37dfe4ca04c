"""Pages about features that go along with a graph: they are the store's, and viewers find them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from attention_studio.core.feature_records import Example, ExampleGroup, FeaturePage, Histogram
from attention_studio.core.feature_store import FeatureStore, SiteSize
from attention_studio.core.feature_store_writing import write_store
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.interchange.feature_export import features_of, write_feature_files
from attention_studio.core.interchange.feature_files import (
    file_of_page,
    number_of,
    quantiles,
)
from attention_studio.core.interchange.node_facts import cantor_pair, cantor_unpair
from attention_studio.core.interchange.slugs import slug_of
from attention_studio.core.interchange.viewer_folder import ViewerFolderError, write_viewer_folder
from attention_studio.core.sites import Site
from tests.crms import complete
from tests.hand_graphs import hand_graph
from tests.tiny import PROMPT
from tests.unit.test_feature_store import about


def page(site: Site, index: int = 3) -> FeaturePage:
    """Of a feature that is active twice."""
    example = Example((" a", "b"), np.array([0.0, 1.5], dtype=np.float32), 1)
    groups = (ExampleGroup("Strongest", None, None, (example,)),)
    counts = Histogram(np.linspace(0, 2, 5), np.array([0, 1, 0, 1]))
    return FeaturePage(site, index, 2, 8, 1.5, counts, groups, (("x", 0.5),), (("y", -0.5),))


def stored(folder: Path, features: Sequence[tuple[Site, int]]) -> FeatureStore:
    """A store with a page about each."""
    write_store(folder, about(n_tokens=8), [page(site, index) for site, index in features])
    return FeatureStore.open(folder)


def test_a_page_in_the_words_of_the_viewer() -> None:
    value = file_of_page(page(Site(2, "mlp")), "d mlp_02", False)
    assert value == {
        "transcoder_id": "d mlp_02",
        "index": cantor_pair(2, 3),
        "examples_quantiles": [
            {
                "quantile_name": "Strongest",
                "examples": [
                    {
                        "tokens_acts_list": [0.0, 1.5],
                        "train_token_ind": 1,
                        "is_repeated_datapoint": False,
                        "tokens": [" a", "b"],
                    }
                ],
            }
        ],
        "top_logits": ["x"],
        "bottom_logits": ["y"],
        "act_min": 0.0,
        "act_max": 2.0,
        "quantile_values": [1.0] * 50 + [1.5] * 50,
        "histogram": [0.0, 1.0, 0.0, 1.0],
        "activation_frequency": 0.25,
    }


def test_quantiles_are_right_to_within_a_bin() -> None:
    values = np.random.default_rng(0).gamma(2, 1, 5000)
    counts, edges = np.histogram(values, 40, (0, values.max()))
    found = quantiles(Histogram(edges, counts), float(values.max()))
    true = np.quantile(values, np.arange(1, 101) / 100, method="inverted_cdf")
    assert len(found) == 100 and np.abs(np.array(found) - true).max() <= edges[1] * 1.0001
    assert quantiles(Histogram(np.array([0.0, 1.0]), np.zeros(1, dtype=np.int64)), 0.0) == []


def test_attention_and_mlp_have_pages_of_their_own() -> None:
    pair = [Site(2, "attention"), Site(2, "mlp")]
    assert number_of(pair[0], 3, False) == number_of(pair[1], 3, False) == cantor_pair(2, 3)
    assert [cantor_unpair(number_of(site, 3, True)) for site in pair] == [(4, 3), (5, 3)]


def test_what_the_store_has_no_page_about_is_left_out(tmp_path: Path) -> None:
    site = Site(1, "mlp")
    store = stored(tmp_path / "store", [(site, 3)])
    assert store.about.sites == (SiteSize(1, "mlp", 4),)
    asked = [(site, 3), (site, 9), (Site(0, "mlp"), 0)]
    assert write_feature_files(store, tmp_path / "files", asked, False) == 1
    assert [path.name for path in (tmp_path / "files").iterdir()] == [f"{cantor_pair(1, 3)}.json"]


# ---- the folder that circuit-tracer's server shows ---------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_the_server_finds_graph_index_and_pages(tmp_path: Path, whole: bool) -> None:
    """By the addresses that its page asks for."""
    graph = hand_graph(whole)
    part = graph.prune()
    pages = stored(tmp_path / "store", features_of(graph, part))
    path = write_viewer_folder(tmp_path, graph, part, "a-graph", pages)
    write_viewer_folder(tmp_path, graph, part, "another")
    write_viewer_folder(tmp_path, graph, part, "a-graph", pages)  # replaced, not doubled
    index = json.loads((tmp_path / "graph-metadata.json").read_text("ascii"))
    assert [entry["slug"] for entry in index["graphs"]] == ["another", "a-graph"]
    value = json.loads(path.read_text("ascii"))
    assert value["metadata"] == index["graphs"][1]
    scan = value["metadata"]["scan"]
    assert scan.startswith("./data/")
    folder = tmp_path / scan.removeprefix("./data/")
    features = [n for n in value["nodes"] if n["feature_type"] == "cross layer transcoder"]
    assert len(features) == len({(n["feature"], n["ctx_idx"]) for n in features})
    assert {f"{n['feature']}.json" for n in features} == {file.name for file in folder.iterdir()}
    for node in features:
        shown = json.loads((folder / f"{node['feature']}.json").read_text("ascii"))
        assert shown["index"] == node["feature"]


def test_an_index_of_somebody_else_is_kept_or_refused(tmp_path: Path) -> None:
    graph = hand_graph()
    part = graph.prune()
    index = tmp_path / "graph-metadata.json"
    index.write_text('{"graphs": [{"slug": "theirs", "odd": 1}], "more": 2}')
    write_viewer_folder(tmp_path, graph, part, "ours")
    found = json.loads(index.read_text())
    assert found["more"] == 2
    assert found["graphs"][0] == {"slug": "theirs", "odd": 1}
    for text in ("[]", '{"graphs": {}}', '{"graphs": [1]}', "{"):
        index.write_text(text)
        with pytest.raises(ViewerFolderError):
            write_viewer_folder(tmp_path, graph, part, "ours")
        assert index.read_text() == text


def test_a_name_that_is_no_address_is_refused(tmp_path: Path) -> None:
    graph = hand_graph()
    for slug in ("", "../up", "a/b", ".hidden", "graph-metadata", "x" * 200, "ü"):
        with pytest.raises(ViewerFolderError, match="name of a graph"):
            write_viewer_folder(tmp_path, graph, graph.prune(), slug)
    assert not list(tmp_path.iterdir())
    assert slug_of("The capital of France is") == "the-capital-of-france-is"
    assert slug_of("¿?") == "graph"
    assert len(slug_of("a " * 500)) <= 60


def test_features_of_a_pruned_graph_are_listed_once() -> None:
    graph = GraphBuilder(complete()).build(PROMPT)
    part = graph.prune(1.0, 1.0)
    found = features_of(graph, part)
    assert len(set(found)) == len(found)
    assert [site.number for site, _ in found] == sorted(site.number for site, _ in found)
    assert {site.kind for site, _ in found} == {"attention", "mlp"}
