"""The real SmolLM2-135M: fetched, loaded, asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.graph_builder import GraphBuilder, GraphSettings
from attention_studio.core.replacement_model import CompleteReplacementModel
from tests.tiny import random_transcoders

if TYPE_CHECKING:
    from attention_studio.core.model_manager import LoadedModel

pytestmark = pytest.mark.integration


def test_facts(smollm2: LoadedModel) -> None:
    info = smollm2.info
    assert (info.family, info.n_layers, info.d_model) == ("llama", 30, 576)
    assert (info.n_heads, info.n_kv_heads, info.d_mlp) == (9, 3, 1536)
    assert info.n_parameters == 134_515_008
    assert info.start_token == "<|endoftext|>"
    assert len(info.weights_hash) == 64


def test_knows_the_capital_of_france(smollm2: LoadedModel) -> None:
    view = smollm2.next_tokens("The capital of France is")
    assert view.tokens == ("<|endoftext|>", "The", " capital", " of", " France", " is")
    assert view.candidates[0].token == " Paris"
    assert view.candidates[0].probability > 0.5


def test_pieces_put_together_are_the_text(smollm2: LoadedModel) -> None:
    text = "Two  spaces,\ta tab,\na line; and naïve café"
    assert "".join(smollm2.token_strings(smollm2.encode(text))[1:]) == text


def test_half_characters_are_readable(smollm2: LoadedModel) -> None:
    pieces = smollm2.token_strings(smollm2.encode("𒀀"))[1:]
    assert len(pieces) > 1
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces).replace("<0x", "").replace(">", "") == "𒀀".encode().hex().upper()


def test_copy_for_harvesting_agrees(smollm2: LoadedModel) -> None:
    ids = torch.tensor([smollm2.encode("The capital of France is")])
    twin = smollm2.copy_in(torch.bfloat16)
    logits = twin.logits(ids)[0, -1].float()
    assert smollm2.token_strings([int(logits.argmax())]) == [" Paris"]


def test_the_identity_holds_at_a_real_models_magnitudes(smollm2: LoadedModel) -> None:
    """Whatever the dictionaries: activations of thousands, as a start token has them, included."""
    transcoders = random_transcoders(smollm2.adapter, d_latent=64, k=8, skip=False)
    replacement = CompleteReplacementModel(smollm2, DictionarySet(transcoders))
    settings = GraphSettings(max_features=48)
    graph = GraphBuilder(replacement).build("The capital of France is", settings)
    assert graph.summary()["output"][0]["token"] == " Paris"
    assert len(graph.targets) > 48
    assert graph.scores.max_identity_error < 1e-4


def test_a_second_load_is_the_same_model_and_its_memory_comes_back(smollm2: LoadedModel) -> None:
    from attention_studio.core.model_manager import ModelManager

    manager = ModelManager()
    again = manager.load_model_sync("smollm2-135m")
    assert again.info.weights_hash == smollm2.info.weights_hash
    size = again.info.memory_bytes
    del again
    assert manager.release() == size
