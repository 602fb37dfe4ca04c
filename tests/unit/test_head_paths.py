"""Edges divided by head add up to the edges, and each part is what cutting that head takes away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention_studio.core.attribution import edges_into, target_values
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.head_paths import _reading, head_paths
from attention_studio.core.model_manager import ModelManager
from attention_studio.core.qk_records import AttentionTraceError
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.core.stream_sweep import source_names
from attention_studio.utils.paths import BUILT_IN_CRMS
from tests.unit.test_attribution import COMPLETE, IDS, KEPT, MIXED, localize, mixes


def some_targets(local: LocalModel) -> list[str]:
    """Two logits, and features of the upper half: an MLP's, and a Lorsa's where there is one."""
    names = source_names(local)[: len(local.features)]
    kinds = local.features.kind.tolist()
    found = ["P6/logit/4", "P3/logit/11"]
    for kind in (0, 1):
        found += [name for name, k in zip(names, kinds, strict=True) if k == kind][-1:]
    return found


def some_sources(local: LocalModel) -> list[str]:
    names = source_names(local)
    step = max(1, len(names) // 4)
    return [*names[::step], "P2/token"]


@mixes
def test_parts_add_up_to_the_edge(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    names = source_names(local)
    kept = [layer for layer in range(3) if local.keeps_attention(layer)]
    for target in some_targets(local):
        targets, _, _ = _reading(local, target, names)
        edges = edges_into(local, targets).weights[0]
        tolerance = 1e-5 * float(edges.abs().max())
        for source in some_sources(local):
            paths = head_paths(local, target, source)
            edge = float(edges[names.index(source)])
            assert paths.value == pytest.approx(edge, abs=tolerance)
            parts = paths.stayed + float(paths.heads.sum(dtype=np.float64))
            assert parts == pytest.approx(edge, abs=tolerance)
            assert not paths.biases.any()
            assert set(paths.layers.tolist()) <= set(kept)
        whole = head_paths(local, target)
        value = float(target_values(local, targets)[0])
        assert whole.value == pytest.approx(value, abs=1e-6)
        parts = whole.stayed + float(whole.heads.sum()) + float(whole.biases.sum())
        assert parts == pytest.approx(value, abs=1e-5 * float(edges.abs().sum()))


@mixes
def test_all_crossings_of_a_head_are_its_part(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    for target in some_targets(local)[:3]:
        paths = head_paths(local, target, "P2/token", top_k=10_000)
        total = np.zeros((3, 4))
        for crossing in paths.crossings:
            assert crossing.head.kind == "model"
            assert crossing.key <= crossing.query
            total[crossing.head.layer, crossing.head.head] += crossing.value
        for layer, heads in zip(paths.layers, paths.heads, strict=True):
            assert total[layer] == pytest.approx(heads, abs=1e-5)
        sizes = [abs(crossing.value) for crossing in paths.crossings]
        assert sizes == sorted(sizes, reverse=True)
        few = head_paths(local, target, "P2/token", top_k=3).crossings
        assert few == paths.crossings[:3]


@pytest.mark.parametrize("dictionaries", [KEPT, MIXED])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_without_the_last_layers_head_its_part_is_gone(
    family: str, dictionaries: dict[str, Any]
) -> None:
    """The top kept layer's heads are the last on every way through them: with the frozen pattern of
    one at zero, edges fall by just its part."""
    local = localize(family, {}, dictionaries)
    names = source_names(local)
    top = max(layer for layer in range(3) if local.keeps_attention(layer))
    target = "P6/logit/4"
    targets, _, _ = _reading(local, target, names)
    before = edges_into(local, targets).weights[0]
    paths = {source: head_paths(local, target, source) for source in some_sources(local)}
    for head in range(4):
        kept = local.record.patterns[top, head].clone()
        local.record.patterns[top, head] = 0
        after = edges_into(local, targets).weights[0]
        local.record.patterns[top, head] = kept
        for source, found in paths.items():
            column = names.index(source)
            place = found.layers.tolist().index(top)
            fell = float(before[column] - after[column])
            scale = float(before.abs().max())
            assert float(found.heads[place, head]) == pytest.approx(fell, abs=1e-5 * scale)
    assert max(float(np.abs(found.heads).max()) for found in paths.values()) > 1e-3


def test_where_every_attention_is_replaced_nothing_crosses() -> None:
    local = localize("llama", {}, COMPLETE)
    paths = head_paths(local, "P6/logit/4", "P6/token")
    assert paths.heads.shape == (0, 4)
    assert paths.crossings == ()
    assert paths.stayed == pytest.approx(paths.value, rel=1e-4)


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("P7/logit/4", None),
        ("P6/logit/999999", None),
        ("P2/token", None),
        ("L1/P2/error", None),
        ("L1/P2/F999", None),
        ("P6/logit/4", "P6/logit/4"),
        ("P6/logit/4", "P9/token"),
    ],
)
def test_names_that_are_not_there_are_refused(target: str, source: Any) -> None:
    local = localize("llama", {}, KEPT)
    with pytest.raises(AttentionTraceError, match="There is no"):
        head_paths(local, target, source)


def test_no_ways_are_refused() -> None:
    with pytest.raises(AttentionTraceError, match="ways"):
        head_paths(localize("llama", {}, KEPT), "P6/logit/4", top_k=0)


def test_a_copy_at_the_same_position_needs_no_head() -> None:
    """From the last layer's MLP to a logit there is the residual stream alone."""
    local = localize("llama", {}, KEPT)
    features = local.features
    last = int(torch.nonzero(features.position == len(IDS) - 1).max())
    name = source_names(local)[last]
    assert name.startswith("L2/")
    paths = head_paths(local, "P6/logit/4", name)
    assert paths.stayed == pytest.approx(paths.value, rel=1e-5)
    assert not paths.heads.any()


def test_the_demos_answer_comes_through_its_induction_heads() -> None:
    loaded = ModelManager().load_model_sync("demo")
    crm = CompleteReplacementModel.from_folder(loaded, BUILT_IN_CRMS["demo"])
    kept = CompleteReplacementModel(loaded, DictionarySet(crm.transcoders, {}, None))
    local = kept.localize(loaded.encode("stone river apple music stone river apple"))
    (music,) = local.record.logits[-1].topk(1).indices.tolist()
    assert loaded.token_strings([music]) == [" music"]
    paths = head_paths(local, f"P7/logit/{music}")
    assert paths.identity_error < 1e-5
    ways = [(str(way.head), way.query, way.key) for way in paths.crossings[:3]]
    assert set(ways) == {("3.2", 7, 4), ("3.1", 7, 4), ("2.0", 7, 4)}
    assert sum(way.value for way in paths.crossings[:3]) > paths.value / 2
