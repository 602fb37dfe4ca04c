"""The query and key weights of every family, read out, give the model's own attention patterns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_studio.core.linear_parts import QueryKeyWeights
from attention_studio.core.model_adapter import ModelAdapter
from tests.tiny import FAMILIES, tiny_model

IDS = [0, 5, 9, 14, 3, 21, 8, 30, 2, 11]
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt_neox", {"attention_bias": False}),
    ("llama", {"rope_parameters": LLAMA_3}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {"rope_parameters": YARN}),
    ("gemma2", {"query_pre_attn_scalar": 20}),
]


def slow_score(weights: QueryKeyWeights, x: Tensor, head: int, t: int, j: int) -> float:
    """The score of one query and one key, number by number, as the record's docstring says."""

    def side(w: Tensor, b: Tensor, gain: Tensor | None, position: int) -> list[float]:
        vector = (x[position] @ w[head].double() + b[head]).tolist()
        if gain is not None:
            norm = math.sqrt(sum(v * v for v in vector) / len(vector) + weights.eps)
            vector = [v / norm * g for v, g in zip(vector, gain.tolist(), strict=True)]
        half = weights.rotary_dim // 2
        turned = list(vector)
        for i in range(half):
            assert weights.inv_freq is not None
            angle = position * float(weights.inv_freq[i])
            cos = math.cos(angle) * weights.rotary_scaling
            sin = math.sin(angle) * weights.rotary_scaling
            turned[i] = vector[i] * cos - vector[i + half] * sin
            turned[i + half] = vector[i + half] * cos + vector[i] * sin
        return turned

    q = side(weights.W_Q, weights.b_Q, weights.q_gain, t)
    k = side(weights.W_K, weights.b_K, weights.k_gain, j)
    score = weights.score_scale * sum(a * b for a, b in zip(q, k, strict=True))
    if weights.score_cap is not None:
        score = weights.score_cap * math.tanh(score / weights.score_cap)
    return score


def slow_pattern(weights: QueryKeyWeights, x: Tensor) -> Tensor:
    """Patterns ``[n_heads, T, T]`` by loops over heads, queries and keys."""
    length, heads = x.shape[0], weights.W_Q.shape[0]
    pattern = torch.zeros(heads, length, length, dtype=torch.float64)
    for head in range(heads):
        for t in range(length):
            first = 0 if weights.window is None else max(0, t - weights.window + 1)
            scores = [slow_score(weights, x, head, t, j) for j in range(first, t + 1)]
            shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
            pattern[head, t, first : t + 1] = shares
    return pattern


@pytest.mark.parametrize(("family", "overrides"), VARIANTS)
def test_query_and_key_weights_give_the_models_patterns(
    family: str, overrides: dict[str, Any]
) -> None:
    adapter = ModelAdapter.for_model(tiny_model(family, **overrides))
    record = adapter.record(IDS)
    for layer in range(adapter.n_layers):
        normed = adapter.attention_norm(layer).apply(
            record.resid_pre[layer], record.attention_scale[layer]
        )
        weights = adapter.query_key(layer)
        shape = (adapter.n_heads, adapter.d_model, adapter.d_head)
        assert weights.W_Q.shape == weights.W_K.shape == shape
        pattern = slow_pattern(weights, normed.double())
        assert (pattern - record.patterns[layer]).abs().max() < 1e-5


def test_families_differ_where_they_should() -> None:
    """Guards against a test above that holds because nothing special was ever switched on."""

    def of(family: str, layer: int, **overrides: Any) -> QueryKeyWeights:
        return ModelAdapter.for_model(tiny_model(family, **overrides)).query_key(layer)

    assert of("gpt2", 0).rotary_dim == 0
    assert of("gpt_neox", 0).rotary_dim == 2  # a quarter of eight
    assert of("llama", 0).rotary_dim == 8
    assert of("qwen2", 0, rope_parameters=YARN).rotary_scaling > 1.0
    assert of("mistral", 0).window == 6
    assert [of("gemma2", layer).window for layer in (0, 1)] == [6, None]
    assert of("gemma2", 0).score_cap == 5.0
    assert of("qwen3", 0).q_gain is not None
    local, rest = of("gemma3_text", 0), of("gemma3_text", 5, num_hidden_layers=6)
    assert (local.window, rest.window) == (6, None)
    assert local.inv_freq is not None and rest.inv_freq is not None
    assert not torch.equal(local.inv_freq, rest.inv_freq)
    assert of("gpt2", 1, scale_attn_by_inverse_layer_idx=True).score_scale == pytest.approx(
        of("gpt2", 1).score_scale / 2
    )
