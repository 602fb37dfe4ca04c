"""Links that are read as columns are those that the reader of whole documents sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attention_studio.core.interchange import link_columns
from attention_studio.core.interchange.foreign_graph import as_graph
from attention_studio.core.interchange.graph_document import GraphDocument, GraphDocumentError
from attention_studio.core.interchange.link_columns import LinkText
from tests.foreign_graphs import circuit_tracer_value, llamascopium_value, neuronpedia_value


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """The value with links of three fields alone, as large files have them."""
    fields = ("source", "target", "weight")
    links = [{key: link[key] for key in fields} for link in value["links"]]
    return {**value, "links": links}


@pytest.mark.parametrize("make", [circuit_tracer_value, neuronpedia_value, llamascopium_value])
@pytest.mark.parametrize("stretch", [60, 1 << 19])
@pytest.mark.parametrize("indent", [None, 2])
def test_columns_hold_what_the_whole_document_does(
    make: Callable[[], dict[str, Any]],
    stretch: int,
    indent: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_columns, "_STRETCH", stretch if indent is None else 3 * stretch)
    value = plain(make())
    fast, slow = GraphDocument.parse(json.dumps(value, indent=indent)), GraphDocument.of(value)
    assert fast.text is not None, "the links were read one by one"
    assert fast.value == value
    for one, other in zip(
        (fast.sources, fast.targets, fast.weights),
        (slow.sources, slow.targets, slow.weights),
        strict=True,
    ):
        assert np.array_equal(one, other)
    first, second = as_graph(fast), as_graph(slow)
    assert np.array_equal(first.links, second.links)
    assert np.array_equal(first.graph.edges.data, second.graph.edges.data)
    assert fast.dialect == slow.dialect


@pytest.mark.parametrize(
    "spoil",
    [
        lambda link: link.update(more=1),
        lambda link: link.update(weight=True),
        lambda link: link.update(weight="1"),
        lambda link: link.update(weight=1e39),
        lambda link: link.update(source="nobody"),
        lambda link: link.update(source=["E_1_0"]),
        lambda link: link.pop("target"),
        lambda link: link.update(weight={"a": [1]}),
    ],
)
def test_what_is_not_plain_is_left_to_the_reader_of_documents(
    spoil: Callable[[dict[str, Any]], Any],
) -> None:
    value = plain(neuronpedia_value())
    places = {node["node_id"]: place for place, node in enumerate(value["nodes"])}
    spoil(value["links"][1])
    text = json.dumps(value)
    found = LinkText.find(text)
    assert found is None or found.columns(places, 100) is None
    try:
        said = GraphDocument.of(json.loads(text)).weights.tolist()
    except GraphDocumentError as error:
        with pytest.raises(GraphDocumentError) as told:
            GraphDocument.parse(text)
        assert told.value.why == error.why
    else:
        assert GraphDocument.parse(text).weights.tolist() == said


@pytest.mark.parametrize(
    "text",
    [
        '{"links": [{"source":"a","target":"b","weight":1,"weight":2}]}',
        '{"links": [{"source":"a","source":"b","target":"b","weight":1}]}',
        '{"links": [{"source":"a","target":"b","weight":NaN}]}',
        '{"links": [{"source":"a","target":"b","weight":1} '
        '{"source":"a","target":"b","weight":1}]}',
        '{"links": [{"source":"a","target":"b","weight":1},]}',
        '{"links": [,{"source":"a","target":"b","weight":1}]}',
        '{"links": [{"source":"a}","target":"b","weight":1}]}',
        '{"links": [7]}',
    ],
)
@pytest.mark.parametrize("stretch", [8, 45, 1 << 19])
def test_no_stretch_makes_sense_of_nonsense(
    text: str, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_columns, "_STRETCH", stretch)
    found = LinkText.find(text)
    assert found is None or found.columns({"a": 0, "b": 1}, 100) is None


def test_another_list_of_that_name_is_not_taken_for_the_links() -> None:
    value = plain(neuronpedia_value())
    hidden = {**value, "metadata": {**value["metadata"], "links": []}}
    assert LinkText.find(json.dumps(hidden)) is None
    only_inside = {key: part for key, part in hidden.items() if key != "links"}
    with pytest.raises(GraphDocumentError, match="cannot be read"):
        GraphDocument.parse(json.dumps(only_inside))


def test_too_many_links_are_refused() -> None:
    value = plain(neuronpedia_value())
    places = {node["node_id"]: place for place, node in enumerate(value["nodes"])}
    found = LinkText.find(json.dumps(value))
    assert found is not None
    n_links = len(value["links"])
    assert found.columns(places, n_links) is not None
    assert found.columns(places, n_links - 1) is None
