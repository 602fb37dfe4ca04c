"""Graph files of other tools: nothing is lost, and what is wrong is refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attention_studio.core.interchange import graph_document
from attention_studio.core.interchange.graph_document import (
    Dialect,
    GraphDocument,
    GraphDocumentError,
    Supernode,
)
from tests.foreign_graphs import circuit_tracer_value, llamascopium_value, neuronpedia_value

VALUES: dict[Dialect, Callable[[], dict[str, Any]]] = {
    "circuit-tracer": circuit_tracer_value,
    "neuronpedia": neuronpedia_value,
    "llamascopium": llamascopium_value,
}


def ordered(text: str) -> Any:
    """A JSON value in which the order of keys counts, and 1 is not 1.0."""
    return json.loads(text, object_pairs_hook=lambda pairs: [("object", *pairs)], parse_float=str)


@pytest.mark.parametrize("dialect", VALUES)
def test_reading_and_writing_again_loses_nothing(dialect: Dialect, tmp_path: Path) -> None:
    value = VALUES[dialect]()
    value["nodes"][0]["odd ⏎ \ud800 \U0001f600"] = [{"x": [None, True, 1, 1.0, -0.0, 1e-300]}]
    value["links"][0]["more"] = {"z": 1, "a": 2}
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(value), encoding="utf-8")
    document = GraphDocument.read(first)
    document.write(second)
    assert ordered(second.read_text("utf-8")) == ordered(first.read_text("utf-8"))
    assert GraphDocument.read(second).dialect == document.dialect == dialect


def test_a_byte_order_of_no_consequence_is_kept(tmp_path: Path) -> None:
    """Keys that come last stay last, also among those that the studio knows."""
    value = {key: circuit_tracer_value()[key] for key in ("links", "nodes", "qParams", "metadata")}
    path = tmp_path / "g.json"
    GraphDocument.of(value).write(path)
    assert list(json.loads(path.read_text("ascii"))) == ["links", "nodes", "qParams", "metadata"]


def test_pins_and_groups_are_read_in_every_form() -> None:
    value = circuit_tracer_value()
    document = GraphDocument.of(value)
    assert document.pinned_ids == ("0_5_2", "27_8_2")
    assert document.supernodes == (Supernode("pair", ("0_5_2", "20_93988_2")),)
    value["qParams"] = {"pinnedIds": ["E_2_0"], "supernodes": [["one", "E_2_0"], ["none"]]}
    document = GraphDocument.of(value)
    assert document.pinned_ids == ("E_2_0",)
    assert document.supernodes == (Supernode("one", ("E_2_0",)), Supernode("none", ()))
    value["qParams"] = {"pinnedIds": " , ", "supernodes": ""}
    document = GraphDocument.of(value)
    assert (document.pinned_ids, document.supernodes) == ((), ())
    del value["qParams"]
    assert GraphDocument.of(value).supernodes == ()


def test_layers_are_told_from_modules() -> None:
    assert GraphDocument.of(llamascopium_value()).layers_are_sites
    assert not GraphDocument.of(neuronpedia_value()).layers_are_sites
    value = circuit_tracer_value()
    assert not GraphDocument.of(value).layers_are_sites
    value["metadata"]["attention_studio"] = {"layers": "sites"}
    assert GraphDocument.of(value).layers_are_sites
    value["metadata"]["attention_studio"] = "layers"
    assert not GraphDocument.of(value).layers_are_sites


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Put the last of ``path`` where the rest leads."""

    def change(value: dict[str, Any]) -> None:
        place: Any = value
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1]

    return change


def _drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        place: Any = value
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


WRONG: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (_drop("metadata"), "metadata"),
    (_set("metadata", []), "metadata"),
    (_drop("metadata", "prompt_tokens"), "metadata.prompt_tokens"),
    (_set("metadata", "prompt_tokens", []), "metadata.prompt_tokens"),
    (_set("metadata", "prompt_tokens", ["a", 1, "b"]), "metadata.prompt_tokens.1"),
    (_set("metadata", "prompt", 5), "metadata.prompt"),
    (_set("metadata", "schema_version", "1"), "metadata.schema_version"),
    (_set("metadata", "node_threshold", "0.5"), "metadata.node_threshold"),
    (_set("qParams", [1]), "qParams"),
    (_set("qParams", "pinnedIds", [1]), "qParams.pinnedIds"),
    (_set("qParams", "supernodes", "[[1]]"), "qParams.supernodes"),
    (_set("qParams", "supernodes", "[["), "qParams.supernodes"),
    (_set("qParams", "supernodes", "[" * 5000), "qParams.supernodes"),
    (_set("qParams", "supernodes", [[]]), "qParams.supernodes"),
    (_set("qParams", "supernodes", [{"label": "x"}]), "qParams.supernodes"),
    (_drop("nodes"), "nodes"),
    (_set("nodes", {}), "nodes"),
    (_set("nodes", 0, "node"), "nodes.0"),
    (_drop("nodes", 1, "node_id"), "nodes.1.node_id"),
    (_set("nodes", 1, "node_id", ""), "nodes.1.node_id"),
    (_set("nodes", 1, "node_id", "x" * 600), "nodes.1.node_id"),
    (_set("nodes", 1, "node_id", 7), "nodes.1.node_id"),
    (_drop("nodes", 1, "layer"), "nodes.1.layer"),
    (_set("nodes", 1, "layer", 1.5), "nodes.1.layer"),
    (_set("nodes", 1, "layer", True), "nodes.1.layer"),
    (_set("nodes", 1, "ctx_idx", "2"), "nodes.1.ctx_idx"),
    (_set("nodes", 1, "ctx_idx", -1), "nodes.1.ctx_idx"),
    (_set("nodes", 1, "ctx_idx", 3), "nodes.1.ctx_idx"),
    (_set("nodes", 1, "ctx_idx", 10**30), "nodes.1.ctx_idx"),
    (_set("nodes", 1, "feature_type", None), "nodes.1.feature_type"),
    (_set("nodes", 1, "activation", "1e3"), "nodes.1.activation"),
    (_set("nodes", 1, "influence", []), "nodes.1.influence"),
    (_set("nodes", 7, "token_prob", -0.5), "nodes.7.token_prob"),
    (_set("nodes", 7, "is_target_logit", 1), "nodes.7.is_target_logit"),
    (_set("nodes", 1, "node_id", "E_2_0"), "two nodes"),
    (_set("nodes", 3, "node_id", "0_5_2"), "three nodes"),
    (_drop("links"), "links"),
    (_set("links", 2, None), "links.2"),
    (_set("links", 2, "source", "0_6_2"), "links.2"),
    (_set("links", 2, "target", "nowhere"), "links.2"),
    (_set("links", 2, "source", 4), "links.2.source"),
    (_set("links", 2, "source", ["0_5_2"]), "links.2.source"),
    (_drop("links", 2, "weight"), "links.2.weight"),
    (_set("links", 2, "weight", "1"), "links.2.weight"),
    (_set("links", 2, "weight", True), "links.2.weight"),
    (_set("links", 2, "weight", 10**400), "links.2.weight"),
    (_set("links", 2, "weight", 1e300), "links.2.weight"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "names"), WRONG, ids=[f"{i}-{n}" for i, (_, n) in enumerate(WRONG)]
)
def test_what_is_wrong_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], names: str
) -> None:
    value = circuit_tracer_value()
    change(value)
    with pytest.raises(GraphDocumentError, match=names.replace(".", r"\.")):
        GraphDocument.parse(json.dumps(value), "some.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "object"),
        ("3", "object"),
        ("null", "object"),
        ('"graph"', "object"),
        ("[" * 200_000, "not valid JSON"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": ' + "9" * 10_000 + "}", "not valid JSON"),
        ('{"a": "\x01"}', "not valid JSON"),
    ],
)
def test_what_is_no_json_is_refused(text: str, says: str) -> None:
    with pytest.raises(GraphDocumentError, match=says):
        GraphDocument.parse(text)


def test_a_file_that_is_missing_binary_or_huge_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.json"
    with pytest.raises(GraphDocumentError, match="cannot be read"):
        GraphDocument.read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GraphDocumentError, match="UTF-8"):
        GraphDocument.read(path)
    monkeypatch.setattr(graph_document, "MAX_GRAPH_JSON_BYTES", 2)
    with pytest.raises(GraphDocumentError, match="too large"):
        GraphDocument.read(path)


def test_more_nodes_or_links_than_anybody_draws_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = circuit_tracer_value()
    for name in ("MAX_NODES", "MAX_LINKS"):
        with monkeypatch.context() as few:
            few.setattr(graph_document, name, 6)
            with pytest.raises(GraphDocumentError, match="at most 6"):
                GraphDocument.of(value)
    monkeypatch.setattr(graph_document, "_MAX_OPENINGS", 20)
    with pytest.raises(GraphDocumentError, match="more than 20"):
        GraphDocument.parse(json.dumps(value))


def test_a_number_that_claims_a_size_takes_no_room() -> None:
    """Nothing is allotted by what a file says it holds."""
    value = circuit_tracer_value()
    value["metadata"]["n_nodes"] = 10**9
    value["n_nodes"] = 10**9
    assert len(GraphDocument.of(value).nodes) == 8


def test_the_value_of_a_document_is_not_changed_by_looking_at_it() -> None:
    value = neuronpedia_value()
    before = copy.deepcopy(value)
    document = GraphDocument.of(value)
    _ = (document.dialect, document.pinned_ids, document.supernodes, document.own)
    assert document.value == before
