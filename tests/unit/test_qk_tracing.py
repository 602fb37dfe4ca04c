"""Why heads look where they look: pairs add up to the model's own scores, by every road."""

from __future__ import annotations

from typing import Any, Optional, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_studio.core import qk_tracing
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.model_manager import ModelManager
from attention_studio.core.qk_heads import QKHead
from attention_studio.core.qk_records import (
    AttentionTraceError,
    HeadName,
    QKTrace,
    strongest,
)
from attention_studio.core.qk_tracing import Baseline, feature_look, trace_feature, trace_head
from attention_studio.core.replacement_model import (
    CompleteReplacementModel,
    LocalModel,
    StreamChange,
)
from attention_studio.core.sites import Site
from attention_studio.core.stream_sweep import Reading, owed_to_sources, source_names
from attention_studio.utils.paths import BUILT_IN_CRMS
from attention_studio.utils.progress import Cancelled, WorkContext
from tests.crms import CROSS, complete, replacement
from tests.tiny import PROMPT
from tests.unit.test_attribution import COMPLETE, IDS, KEPT, MIXED, localize, mixes

QUERY = len(IDS) - 1


def heads_of(local: LocalModel) -> list[HeadName]:
    """One of the model's heads in every layer, and one of each Lorsa's."""
    own = [HeadName("model", layer, 1 + layer) for layer in range(local.adapter.n_layers)]
    return own + [HeadName("lorsa", layer, 1) for layer in local.dictionaries.lorsas]


def recorded(local: LocalModel, head: HeadName, query: int) -> Tensor:
    """The pattern [T] that the local model froze, in double precision."""
    if head.kind == "model":
        return local.record.patterns[head.layer, head.head, query].double()
    lorsa = local.dictionaries.lorsas[head.layer]
    norm, scale = local.norm_at(Site(head.layer, "attention"))
    inputs = norm.apply(local.record.resid_pre[head.layer], scale)
    return lorsa.pattern(inputs)[head.head, query].double()


def capped(trace: QKTrace, scores: np.ndarray[Any, Any]) -> Tensor:
    values = torch.as_tensor(scores, dtype=torch.float64)
    cap = trace.score_cap
    return values if cap is None else cap * torch.tanh(values / cap)


@mixes
def test_pairs_add_up_to_the_score_that_made_the_pattern(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    for head in heads_of(local):
        trace = trace_head(local, head, QUERY, keys=[QUERY - 2, QUERY], baseline="none")
        largest = float(np.abs(trace.scores).max())
        for key in trace.keys:
            assert abs(key.explained - key.score) < 1e-4 * largest
            assert float(key.by_query.sum(dtype=np.float64)) == pytest.approx(
                key.score, abs=1e-4 * largest
            )
            assert float(key.by_key.sum(dtype=np.float64)) == pytest.approx(
                key.score, abs=1e-4 * largest
            )
        # A softmax shows differences of what it reads: those of the pattern that was frozen.
        pattern = recorded(local, head, QUERY)[torch.as_tensor(trace.visible)].log()
        first, second = (key.key - int(trace.visible[0]) for key in trace.keys)
        explained = np.array([key.explained for key in trace.keys])
        moved = capped(trace, explained)
        assert float(moved[0] - moved[1]) == pytest.approx(
            float(pattern[first] - pattern[second]), abs=1e-4 * max(1.0, largest)
        )
        assert trace.probabilities == pytest.approx(pattern.exp().numpy(), abs=1e-6)
        hidden = torch.ones(len(IDS), dtype=torch.bool)
        hidden[torch.as_tensor(trace.visible)] = False
        assert not recorded(local, head, QUERY)[hidden].any()


@mixes
def test_what_is_subtracted_leaves_the_difference_to_it(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    head = heads_of(local)[-1]
    every = trace_head(local, head, QUERY, keys=list(QKHead(local, head).visible(QUERY)))
    largest = float(np.abs(every.scores).max())
    assert every.baseline == "mean"
    assert len(every.keys) == len(every.visible)
    for key, score in zip(every.keys, every.scores, strict=True):
        assert key.explained == pytest.approx(
            float(score) - float(every.scores.mean()), abs=1e-4 * largest
        )
    # Of all that is the same for every key nothing is left.
    assert np.sum([key.by_query for key in every.keys], axis=0) == pytest.approx(
        0, abs=1e-4 * max(key.scale for key in every.keys)
    )
    other = trace_head(local, head, QUERY, keys=[QUERY], baseline=QUERY - 1)
    assert other.baseline == f"P{QUERY - 1}"
    expected = float(other.scores[-1] - other.scores[-2])
    assert other.keys[0].explained == pytest.approx(expected, abs=1e-4 * largest)
    itself = trace_head(local, head, QUERY, keys=[QUERY], baseline=QUERY)
    assert itself.keys[0].explained == 0
    assert not len(itself.keys[0].pair_value)


@mixes
def test_the_parts_of_queries_and_keys_are_what_pushing_each_source_gives(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    """All pairs, from what every source alone adds to the layer's input, forwards."""
    local = localize(family, model, dictionaries)
    inputs = pushed_inputs(local)
    for head in heads_of(local)[1:]:
        found, key = QKHead(local, head), QUERY - 1
        trace = trace_head(local, head, QUERY, keys=[key], top_k=5, baseline="none")
        of_query, of_key = (
            inputs[head.layer][:, position] @ found.linear(side, position)[0]
            for side, position in (("query", QUERY), ("key", key))
        )
        pairs = of_query @ of_key.T * found.score_scale
        (got,) = trace.keys
        assert len(trace.names) == len(pairs) + 1
        tolerance = 1e-4 * float(pairs.abs().max())
        both = (got.pair_query < len(pairs)) & (got.pair_key < len(pairs))
        expected = pairs[got.pair_query[both], got.pair_key[both]]
        assert got.pair_value[both] == pytest.approx(expected.numpy(), abs=tolerance)
        # Whatever is not listed is no stronger than what is.
        assert float(pairs.abs().max()) <= np.abs(got.pair_value[0]) + tolerance
        weakest = float(np.abs(got.pair_value).min())
        assert int((pairs.abs() > weakest + tolerance).sum()) <= len(got.pair_value)
        without_bias = pairs.sum(1) + of_query @ found_bias(local, found, key, of_key)
        scale = tolerance * len(pairs)
        assert got.by_query[:-1] == pytest.approx(without_bias.numpy(), abs=scale)


def found_bias(local: LocalModel, head: QKHead, key: int, of_key: Tensor) -> Tensor:
    """The part of a key that no source adds, times the scale [k]."""
    matrix, bias = head.linear("key", key)
    return (head.inputs[key] @ matrix + bias - of_key.sum(0)) * head.score_scale


def pushed_inputs(local: LocalModel) -> dict[int, Tensor]:
    """By layer, what each source adds to the attention's normed input [n_sources, T, d]."""
    n, length = len(local.features), len(local.ids)
    changes = local.feature_changes(torch.arange(n))
    every = torch.arange(length)
    written = [*local.errors.items(), (None, local.record.embedding)]
    for i, (site, rows) in enumerate(written):
        changes.append(StreamChange(site, n + i * length + every, every, rows))
    inputs: dict[int, Tensor] = {}

    def seen(site: Site, change: Tensor) -> None:
        if site.kind == "attention":
            inputs[site.layer] = change

    local.push(n + len(written) * length, changes, features_respond=False, seen=seen)
    return inputs


@mixes
def test_followed_features_leave_all_to_tokens_errors_and_biases(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    n = len(local.features)
    inputs = followed_inputs(local)
    for head in heads_of(local)[1:]:
        trace = trace_head(
            local, head, QUERY, keys=[QUERY - 1], baseline="none", follow_features=True
        )
        (key,) = trace.keys
        largest = float(np.abs(trace.scores).max())
        assert abs(key.explained - key.score) < 1e-4 * max(largest, key.scale)
        assert not key.by_query[:n].any()
        assert not key.by_key[:n].any()
        found = QKHead(local, head)
        matrix, _ = found.linear("query", QUERY)
        other, bias = found.linear("key", QUERY - 1)
        k = (found.inputs[QUERY - 1] @ other + bias) * found.score_scale
        expected = inputs[head.layer][:, QUERY] @ matrix @ k
        tolerance = 1e-4 * max(float(expected.abs().max()), largest)
        assert key.by_query[n:-1] == pytest.approx(expected.numpy(), abs=tolerance)


def followed_inputs(local: LocalModel) -> dict[int, Tensor]:
    """By layer, what each error and token adds to the attention's normed input with the active
    features responding [n_errors + T, T, d]."""
    length = len(local.ids)
    every = torch.arange(length)
    written = [*local.errors.items(), (None, local.record.embedding)]
    changes = [
        StreamChange(site, i * length + every, every, rows)
        for i, (site, rows) in enumerate(written)
    ]
    inputs: dict[int, Tensor] = {}

    def seen(site: Site, change: Tensor) -> None:
        if site.kind == "attention":
            inputs[site.layer] = change

    local.push(len(written) * length, changes, features_respond=True, seen=seen)
    return inputs


@pytest.mark.parametrize("dictionaries", [KEPT, COMPLETE, MIXED])
def test_strongest_pairs_are_the_same_in_any_blocks(
    dictionaries: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = localize("llama", {}, dictionaries)
    head = HeadName("model", 2, 1)
    whole = trace_head(local, head, QUERY, keys=[3])
    monkeypatch.setattr(qk_tracing, "_PAIRS_AT_ONCE", 700)
    (one,), (many,) = whole.keys, trace_head(local, head, QUERY, keys=[3]).keys
    assert many.pair_value == pytest.approx(one.pair_value, rel=1e-5)
    assert many.pair_query.tolist() == one.pair_query.tolist()
    assert many.pair_key.tolist() == one.pair_key.tolist()
    assert (np.diff(np.abs(one.pair_value)) <= 0).all()
    assert (one.pair_value < 0).any()  # what keeps a head away stands among them


@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS])
def test_names_are_those_of_the_graphs_nodes(dictionaries: dict[str, Any]) -> None:
    model = complete(dictionaries=dictionaries)
    graph = GraphBuilder(model).build(PROMPT)
    local = model.localize(graph.token_ids)
    names = source_names(local)
    assert names == [graph.node_name(node) for node in range(len(names))]
    trace = trace_head(local, HeadName("model", 0, 0), -1)
    assert trace.names == (*names, "bias")
    assert trace.query == len(graph.tokens) - 1


def test_a_reading_in_pieces_owes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    local = localize("gemma2", {}, KEPT)
    rows = torch.randn(7, 2, 32, generator=torch.Generator().manual_seed(0))
    reading = Reading(Site(2, "mlp"), torch.tensor([2, 4]), rows)
    whole = owed_to_sources(local, reading)
    monkeypatch.setattr("attention_studio.core.stream_sweep._WORKING_BYTES", 2 * 4 * 32 * 7)
    parts = owed_to_sources(local, reading)
    assert torch.allclose(parts.with_bias, whole.with_bias, atol=1e-5)
    read = (local.record.mlp_in[2, [2, 4]] * rows).sum((1, 2))
    assert torch.allclose(whole.with_bias.sum(1), read, atol=1e-4)


@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma2"])
def test_a_lorsas_feature_says_where_it_looked_and_why(
    family: str, dictionaries: dict[str, Any]
) -> None:
    local = localize(family, {}, dictionaries)
    features = local.features
    here = features.of(Site(2, "attention"))
    lorsa = local.dictionaries.lorsas[2]
    for feature in range(here.stop - 4, here.stop):
        name = source_names(local)[feature]
        look = feature_look(local, name)
        assert look.position == int(features.position[feature])
        # The activation of a feature that TopK lets through is its pre-activation.
        assert float(look.z_pattern.sum()) == pytest.approx(look.activation, abs=1e-4)
        norm, scale = local.norm_at(Site(2, "attention"))
        inputs = norm.apply(local.record.resid_pre[2], scale)
        expected = lorsa.z_pattern(inputs, int(features.index[feature]), lorsa.pattern(inputs))
        assert look.z_pattern == pytest.approx(expected[look.position].numpy(), abs=1e-5)
        found = trace_feature(local, name, top_k=4)
        assert found.trace.head == look.head == HeadName("lorsa", 2, look.head.head)
        assert [key.key for key in found.trace.keys] == strongest(look.z_pattern, 3).tolist()
        assert found.trace.query == look.position
        assert found.trace.identity_error < 1e-4


def test_the_default_keys_are_those_that_get_most() -> None:
    local = localize("mistral", {}, KEPT)
    trace = trace_head(local, HeadName("model", 1, 0), -1)
    ranked = trace.visible[np.argsort(-trace.probabilities)]
    assert [key.key for key in trace.keys] == ranked[:3].tolist()
    assert 0 not in trace.visible  # the window of six positions is past
    first = trace_head(local, HeadName("model", 1, 0), 0)
    assert [key.key for key in first.keys] == [0]
    assert first.keys[0].explained == 0  # nothing else could be looked at


@pytest.mark.parametrize(
    ("head", "query", "keys", "baseline", "says"),
    [
        ("0.4", -1, None, "mean", "heads of that attention are 0 to 3"),
        ("3.0", -1, None, "mean", "layers are 0 to 2"),
        ("A1.0", -1, None, "mean", "no Lorsa stands in"),
        ("1.0", 7, None, "mean", "7 tokens"),
        ("1.0", -8, None, "mean", "7 tokens"),
        ("1.0", 3, [4], "mean", "sees 0 to 3"),
        ("1.0", 3, [9], "mean", "7 tokens"),
        ("1.0", 3, [1], 5, "sees 0 to 3"),
    ],
)
def test_what_is_not_there_is_said(
    head: str, query: int, keys: Optional[list[int]], baseline: Any, says: str
) -> None:
    local = localize("llama", {}, KEPT)
    with pytest.raises(AttentionTraceError, match=says):
        trace_head(local, HeadName.parse(head), query, keys, baseline=cast(Baseline, baseline))


@pytest.mark.parametrize("text", ["", "3", "B3.1", "3.1.2", "a.b", "-1.0", "3.1\n4"])
def test_words_that_name_no_head(text: str) -> None:
    with pytest.raises(AttentionTraceError, match="names no head"):
        HeadName.parse(text)


def test_heads_are_named_and_read_alike() -> None:
    for name in (HeadName("model", 3, 1), HeadName("lorsa", 12, 0)):
        assert HeadName.parse(str(name)) == name


def test_no_pairs_and_no_such_feature_are_refused() -> None:
    local = localize("llama", {}, COMPLETE)
    with pytest.raises(AttentionTraceError, match="pairs"):
        trace_head(local, HeadName("model", 1, 0), -1, top_k=0)
    mlp = source_names(local)[local.features.of(Site(0, "mlp")).start]
    for name in (mlp, "A0/P1/F999", "nonsense"):
        with pytest.raises(AttentionTraceError, match="no active feature of a Lorsa"):
            trace_feature(local, name)


def test_tracing_stops_when_asked_to() -> None:
    local = localize("llama", {}, COMPLETE)
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        trace_head(local, HeadName("model", 1, 0), -1, ctx=ctx)


def test_features_that_blow_each_other_up_are_not_followed() -> None:
    local = localize("llama", {}, {"mlp": {"activation": "relu", "skip": False}})
    local.features.encoder.mul_(1e15)
    for writes in local.features.writes.values():
        for write in writes:
            write.rows.mul_(1e15)
    with pytest.raises(AttentionTraceError, match="features instead"):
        trace_head(local, HeadName("model", 2, 1), -1, follow_features=True)


def test_a_model_without_features_is_traced_to_errors_and_tokens() -> None:
    model = replacement("llama", layers=())
    local = model.localize(model.loaded.encode(PROMPT))
    assert not len(local.features)
    trace = trace_head(local, HeadName("model", 2, 3), -1)
    assert trace.identity_error < 1e-4
    assert all(not name.startswith("A") for name in trace.names)


# ---- the demo ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> CompleteReplacementModel:
    loaded = ModelManager().load_model_sync("demo")
    return CompleteReplacementModel.from_folder(loaded, BUILT_IN_CRMS["demo"])


SEQUENCE = "stone river apple music stone river apple"
"""At the last word induction must look at ``music``, which stood after ``apple`` before."""


@pytest.mark.parametrize("head", ["A2.0", "3.1", "3.2"])
def test_an_induction_head_looks_at_what_followed_the_same_word(
    demo: CompleteReplacementModel, head: str
) -> None:
    local = demo.localize(demo.loaded.encode(SEQUENCE))
    assert demo.loaded.token_strings(local.ids)[3:] == [
        *(" apple", " music", " stone", " river", " apple")
    ]
    words = trace_head(local, HeadName.parse(head), -1, [4], follow_features=True)
    (key,) = words.keys
    assert words.identity_error < 1e-5
    assert key.probability > 0.9
    names = words.names
    pairs = [(names[a], names[b]) for a, b in zip(key.pair_query, key.pair_key, strict=True)]
    # The start token stands before every prompt alike and counts with the biases.
    of_words = [pair for pair in pairs if "token" in pair[0] and "token" in pair[1]]
    of_words = [pair for pair in of_words if "P0/token" not in pair]
    assert of_words[0] == ("P7/token", "P3/token")
    assert names[int(np.argmax(key.by_query))] == "P7/token"

    (key,) = trace_head(local, HeadName.parse(head), -1, [4]).keys
    # What draws it there is written by attention of layer 1, which read it off the word before.
    drawn = [names[i] for i in np.argsort(-key.by_key)]
    drawn = [name for name in drawn if name.startswith("A1/P4/F")][:3]
    read = [int(np.abs(feature_look(local, name).z_pattern).argmax()) for name in drawn]
    assert read.count(3) >= 2
    assert sum(key.by_key[names.index(name)] for name in drawn) > 1


def test_the_head_before_it_looks_one_word_back(demo: CompleteReplacementModel) -> None:
    local = demo.localize(demo.loaded.encode(SEQUENCE))
    names = source_names(local)
    (key,) = trace_head(local, HeadName.parse("A2.0"), -1, [4]).keys
    strongest_name = names[int(np.argmax(key.by_key[: len(names)]))]
    found = trace_feature(local, strongest_name)
    assert found.trace.query == 4
    assert found.trace.keys[0].key == 3
    assert found.look.z_pattern[3] > 0.9 * found.look.z_pattern.sum()
    # Any word before will do: most of the score comes with the position, through biases alone.
    first = found.trace.keys[0]
    assert first.by_key[-1] == max(first.by_key)
