"""What the benchmark says a trace needs on paper, against traces of tiny models."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from torch.utils.flop_counter import FlopCounterMode

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.replacement_model import CompleteReplacementModel
from benchmarks.attribution_contestants import paper
from tests.operations import IN_PLACE
from tests.tiny import PROMPT, random_dictionaries, tiny_loaded

MLP = {"activation": "relu", "skip": False}
ATTENTION = {"activation": "relu"}


def traced(attention: Optional[dict[str, Any]]) -> tuple[ModelAdapter, AttributionGraph, int]:
    """A graph, and the operations of the matrix products that were made for it."""
    loaded = tiny_loaded("llama")
    found = random_dictionaries(loaded.adapter, mlp=MLP, attention=attention)
    builder = GraphBuilder(CompleteReplacementModel(loaded, found))
    builder.build(PROMPT)  # measures the machine's rate, once
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as before:
        builder.replacement.localize(loaded.encode(PROMPT))
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        graph = builder.build(PROMPT)
    return loaded.adapter, graph, counter.get_total_flops() - before.get_total_flops()


@pytest.mark.integration
@pytest.mark.parametrize("attention", [None, ATTENTION], ids=["kept", "complete"])
def test_edges_and_operations(attention: Optional[dict[str, Any]]) -> None:
    """Paper counts the edges that are found, and about the operations that were made: some are in
    vain, for targets at several positions are taken together, and some are saved, for what the
    first position writes is pushed forward."""
    adapter, graph, made = traced(attention)
    on_paper = paper.of_graph(adapter, graph)
    assert on_paper.edges == graph.n_edges
    assert 0.3 * made < on_paper.operations < 1.3 * made
