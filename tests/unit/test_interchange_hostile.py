"""Whatever somebody does to a graph file, it opens or is refused in words, and nothing else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from attention_studio.core.interchange.foreign_graph import as_graph
from attention_studio.core.interchange.graph_document import (
    DIALECTS,
    GraphDocument,
    GraphDocumentError,
)
from attention_studio.core.interchange.graph_writing import converted
from tests.foreign_graphs import circuit_tracer_value, llamascopium_value, neuronpedia_value

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 10**20, -(10**20), 0.0, -0.0, 1.5, 1e30, 1e300),
    *("", "0", "1", "-1", "E", "x", "E_2_0", "0_5_2", "0_error_1", "1_lor_4_1", "9" * 50, "\ud800"),
    *("lorsa", "lorsa error", "bias", "logit", "embedding", "cross layer transcoder", "odd error"),
    *([], {}, [[]], [None], {"a": []}, ["a", "b"], [["label", "0_5_2"]], "[]", '[["a"]]', "{"),
    *("sites", {"layers": "sites"}, {"n_layers": 4096, "outputs": {"4_33_1": 2.0}, "crm_name": 5}),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from places(part, (*path, index))


def spoiled(value: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The value with something changed, taken away, put in or doubled, once or a few times."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        path = chance.choice(list(places(value)))
        whole: Any = value
        for key in path[:-1]:
            whole = whole[key]
        what = chance.randrange(5)
        if what == 0:
            del whole[path[-1]]
        elif what == 1 and isinstance(whole, list):
            whole.append(copy.deepcopy(chance.choice(whole)))
        elif what == 2 and isinstance(whole, dict):
            whole[chance.choice(("attention_studio", "layer", "feature", "odd"))] = chance.choice(
                ODD
            )
        elif what == 3:
            others = [other for other in places(value) if other[-1] == path[-1]]
            other: Any = value
            for key in chance.choice(others):
                other = other[key]
            whole[path[-1]] = copy.deepcopy(other)
        else:
            whole[path[-1]] = copy.deepcopy(chance.choice(ODD))
    return value


@pytest.mark.parametrize("make", [circuit_tracer_value, neuronpedia_value, llamascopium_value])
def test_a_spoiled_file_opens_or_is_refused(make: Any) -> None:
    chance = random.Random(0)
    opened = refused = 0
    for _ in range(300):
        value = spoiled(make(), chance)
        try:
            document = GraphDocument.parse(json.dumps(value))
            foreign = as_graph(document)
        except GraphDocumentError as error:
            refused += 1
            assert len(str(error)) < 2000
            continue
        opened += 1
        assert document.value == json.loads(json.dumps(value))
        part = foreign.graph.prune()
        assert len(part.node_ids) <= len(foreign.graph.nodes)
        assert foreign.graph.n_edges <= len(document.weights)
        for dialect in DIALECTS:
            again = GraphDocument.parse(json.dumps(converted(foreign, dialect), allow_nan=False))
            assert len(again.weights) <= len(document.weights)
    assert opened > 50
    assert refused > 50
