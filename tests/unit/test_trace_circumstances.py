"""With which replacement model a graph was made: two may lie in folders of one name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.dictionaries.crm_folder import save_crm
from attention_studio.core.edge_choice import EdgeChoiceError
from attention_studio.core.edge_verification import check_belongs
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.interchange.foreign_graph import as_graph
from attention_studio.core.interchange.graph_document import GraphDocument
from attention_studio.core.interchange.graph_writing import graph_json
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.trace_circumstances import DictionariesId, dictionaries_of, made_by
from tests.tiny import PROMPT, random_dictionaries, tiny_loaded


@pytest.fixture
def two(tmp_path: Path) -> tuple[CompleteReplacementModel, CompleteReplacementModel]:
    """Two replacement models of one model, in folders of the same name."""
    loaded = tiny_loaded("llama")
    opened = []
    for seed, run in enumerate(("first", "second")):
        folder = tmp_path / run / "crm"
        folder.parent.mkdir()
        save_crm(folder, random_dictionaries(loaded.adapter, mlp={"seed": seed}), loaded.info)
        opened.append(CompleteReplacementModel.from_folder(loaded, folder))
    return opened[0], opened[1]


def test_folders_of_one_name_are_told_apart(
    two: tuple[CompleteReplacementModel, CompleteReplacementModel], tmp_path: Path
) -> None:
    first, second = two
    graph = GraphBuilder(first).build(PROMPT)
    assert first.name == second.name == graph.crm_name
    assert made_by(graph, first) and not made_by(graph, second)
    with pytest.raises(EdgeChoiceError, match="another crm"):
        check_belongs(second, graph)
    check_belongs(first, graph)
    graph.save(tmp_path / "graph.safetensors")
    again = AttributionGraph.load(tmp_path / "graph.safetensors")
    assert made_by(again, first) and not made_by(again, second)
    written = graph_json(graph, graph.prune(1.0, 1.0), "neuronpedia")
    foreign = as_graph(GraphDocument.of(written)).graph
    assert made_by(foreign, first) and not made_by(foreign, second)


def test_a_copy_under_another_name_is_the_same(
    two: tuple[CompleteReplacementModel, CompleteReplacementModel],
) -> None:
    first, _ = two
    graph = GraphBuilder(first).build(PROMPT)
    copied = CompleteReplacementModel(first.loaded, first.dictionaries, "a copy", first.fingerprint)
    assert made_by(graph, copied)


def test_without_a_fingerprint_the_name_tells(
    two: tuple[CompleteReplacementModel, CompleteReplacementModel],
) -> None:
    first, second = two
    graph = replace(GraphBuilder(first).build(PROMPT), made_with={})
    assert dictionaries_of(graph) == DictionariesId("crm", "")
    assert made_by(graph, first) and made_by(graph, second)
    assert not made_by(replace(graph, crm_name="another"), first)
    in_memory = CompleteReplacementModel(first.loaded, first.dictionaries)
    assert not made_by(graph, in_memory)
    assert made_by(GraphBuilder(in_memory).build(PROMPT), in_memory)


def test_other_weights_of_the_model_are_another_model(
    two: tuple[CompleteReplacementModel, CompleteReplacementModel],
) -> None:
    first, _ = two
    graph = GraphBuilder(first).build(PROMPT)
    for model_hash in ("0" * 64, ""):
        assert not made_by(replace(graph, model_hash=model_hash), first)
