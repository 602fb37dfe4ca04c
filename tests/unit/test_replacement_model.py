"""What a replacement model takes in: dictionaries that are sound, prompts that fit."""

from __future__ import annotations

import pytest

from attention_studio.core import active_features, replacement_model
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.tensor_files import CRMFormatError
from attention_studio.core.dictionaries.transcoder import UnfoldedDictionaryError
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.model_manager import PromptTooLongError
from attention_studio.core.replacement_model import CompleteReplacementModel
from tests.crms import complete, replacement
from tests.tiny import PROMPT, random_transcoders, tiny_loaded


def test_a_prompt_whose_frozen_pass_fits_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = replacement()
    # Three layers of 11 tokens: patterns of 4 heads, six rows and six features of width 32.
    patterns, rows, pairs = 3 * 4 * 11**2, 3 * 11 * 6 * 32, 3 * 11 * 6 * 2 * 32
    ids = model.loaded.encode(PROMPT)
    assert len(ids) == 11
    monkeypatch.setattr(replacement_model, "free_bytes", lambda _: 4 * (patterns + rows + pairs))
    with pytest.raises(PromptTooLongError, match="active features"):
        GraphBuilder(model).build(PROMPT)
    monkeypatch.setattr(replacement_model, "free_bytes", lambda _: 8 * (patterns + rows + pairs))
    assert len(model.localize(ids).features) > 0


def test_lorsas_and_cross_layer_decoders_count_in_what_must_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = complete(dictionaries={"clt": {}, "attention": {}})
    ids = model.loaded.encode(PROMPT)
    assert len(ids) == 11
    # Three layers of 11 tokens: patterns of 4 heads twice, six rows and one for the Lorsas; three
    # rows of six features at six modules, and six of each cross-layer pair.
    record = 3 * 11 * (2 * 4 * 11 + 7 * 32)
    rows = 11 * 32 * (3 * 6 * 6 + 6 * 6)
    monkeypatch.setattr(replacement_model, "free_bytes", lambda _: 4 * (record + rows) - 1)
    with pytest.raises(PromptTooLongError, match="active features"):
        model.localize(ids)
    monkeypatch.setattr(replacement_model, "free_bytes", lambda _: 4 * (record + rows))
    features = model.localize(ids).features
    kept = [features.encoder, features.decoder]
    kept += [write.rows for writes in features.writes.values() for write in writes]
    assert sum(column.numel() for column in kept) <= rows


@pytest.mark.parametrize("kind", ["mlp", "attention", "clt"])
@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_active_latents_are_counted_before_their_rows_take_room(
    kind: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = complete(dictionaries={kind: {"activation": activation, "k": 1}})
    ids = model.loaded.encode(PROMPT)
    features = model.localize(ids).features
    assert len(features) > 3 * len(ids)  # k says nothing of how many are active
    last = max(model.sites)
    n = features.of(last).stop - features.of(last).start
    # What the last site adds: rows that are read and written; and a column of all to join.
    needed = 4 * 32 * (2 * n + len(features))
    monkeypatch.setattr(active_features, "free_bytes", lambda _: needed - 1)
    with pytest.raises(PromptTooLongError, match="latents are active"):
        model.localize(ids)
    if kind != "clt":  # whose first layers write to more places than its last
        monkeypatch.setattr(active_features, "free_bytes", lambda _: 3 * needed)
        assert len(model.localize(ids).features) == len(features)


def test_an_unfolded_dictionary_is_refused() -> None:
    loaded = tiny_loaded()
    transcoders = random_transcoders(loaded.adapter)
    transcoders[1].input_scale.fill_(2.0)
    with pytest.raises(UnfoldedDictionaryError, match="mlp 1"):
        CompleteReplacementModel(loaded, DictionarySet(transcoders))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_decoder_that_is_not_finite_is_refused_when_it_is_used(bad: float) -> None:
    model = complete(dictionaries={"clt": {}})
    clt = model.dictionaries.clt
    assert clt is not None
    clt.W_D[1][1, :, 3] = bad
    with pytest.raises(CRMFormatError, match=r"decoder of mlp 1 .* not finite.*to mlp 2"):
        model.localize(model.loaded.encode(PROMPT))


def test_the_callers_dictionaries_stay_as_they_are() -> None:
    loaded = tiny_loaded()
    double = {layer: t.double() for layer, t in random_transcoders(loaded.adapter).items()}
    model = CompleteReplacementModel(loaded, DictionarySet(double))
    assert {str(t.W_E.dtype) for t in model.transcoders.values()} == {"torch.float32"}
    assert {str(t.W_E.dtype) for t in double.values()} == {"torch.float64"}
    single = random_transcoders(loaded.adapter)
    assert CompleteReplacementModel(loaded, DictionarySet(single)).transcoders[1] is single[1]
