"""Texts in, tokens out; and memory given back."""

from __future__ import annotations

import torch

from attention_studio.core.memory import give_back_weights
from tests.tiny import PROMPT, tiny_loaded, tiny_model


def test_text_ids_are_those_of_the_ordinary_call() -> None:
    loaded = tiny_loaded("llama")
    text = f"{PROMPT}\n\n{PROMPT} again  and again."
    expected = loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert loaded.text_ids(text) == expected
    assert loaded.text_ids("") == []


def test_weights_are_given_back_one_by_one() -> None:
    model = tiny_model("llama")
    kept = model.lm_head.weight.detach().clone()
    assert kept.numel() > 0
    give_back_weights(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 0
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
