"""Lorsa against its formulas written out as loops over heads, queries and keys."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.model_adapter import ModelAdapter
from tests.tiny import FAMILIES, tiny_model

KINDS: tuple[ActivationKind, ...] = ("relu", "topk", "batchtopk", "jumprelu")
T, D, S, HEADS, WIDTH = 7, 6, 12, 3, 4
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rotary": {"rotary_dim": 4},
    "part rotary, scaled": {"rotary_dim": 2, "rotary_scaling": 1.3},
    "norms": {"rotary_dim": 4, "qk_norm": True, "qk_norm_eps": 1e-3},
    "cap": {"rotary_dim": 4, "score_cap": 0.7},
    "window": {"window": 3},
    "all": {"rotary_dim": 2, "qk_norm": True, "score_cap": 1.5, "window": 2},
}
selections = pytest.mark.parametrize(
    ("kind", "norm_aware"),
    [*((kind, False) for kind in KINDS), ("topk", True), ("batchtopk", True)],
)
rules = pytest.mark.parametrize("rule", RULES)


def random_lorsa(kind: ActivationKind = "topk", seed: int = 0, **overrides: Any) -> Lorsa:
    """A double-precision Lorsa with random weights and training scales."""
    g = torch.Generator().manual_seed(seed)
    settings = {"n_qk_heads": HEADS, "d_qk": WIDTH, "k": 4, "score_scale": 0.6, **overrides}
    lorsa = Lorsa(LorsaConfig(d_model=D, d_latent=S, activation=kind, **settings))
    for parameter in lorsa.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.8)
    if lorsa.inv_freq is not None:
        lorsa.inv_freq.copy_(torch.rand(lorsa.inv_freq.shape, generator=g) * 2)
    if lorsa.threshold is not None:
        lorsa.threshold.copy_(torch.rand(lorsa.threshold.shape, generator=g) * 0.5)
    lorsa.input_scale.fill_(0.7)
    lorsa.output_scale.fill_(2.3)
    return lorsa.double()


def inputs(*batch: int) -> Tensor:
    g = torch.Generator().manual_seed(9)
    return torch.randn(*batch, T, D, generator=g, dtype=torch.float64)


def slow_pattern(lorsa: Lorsa, x: Tensor) -> Tensor:
    """Patterns of one sequence, number by number."""
    config, scaled = lorsa.config, x * lorsa.input_scale

    def side(w: Tensor, b: Tensor, gain: Tensor | None, position: int) -> list[float]:
        v = [
            float(b[c]) + sum(float(scaled[position, e] * w[e, c]) for e in range(D))
            for c in range(config.d_qk)
        ]
        if gain is not None:
            norm = math.sqrt(sum(a * a for a in v) / len(v) + config.qk_norm_eps)
            v = [a / norm * float(g) for a, g in zip(v, gain, strict=True)]
        half, turned = config.rotary_dim // 2, list(v)
        for c in range(half):
            assert lorsa.inv_freq is not None
            turn = complex(v[c], v[c + half]) * config.rotary_scaling
            angle = position * float(lorsa.inv_freq[c])
            turn *= complex(math.cos(angle), math.sin(angle))
            turned[c], turned[c + half] = turn.real, turn.imag
        return turned

    pattern = torch.zeros(config.n_qk_heads, T, T, dtype=torch.float64)
    for head in range(config.n_qk_heads):
        q_gain = None if lorsa.q_gain is None else lorsa.q_gain[head]
        k_gain = None if lorsa.k_gain is None else lorsa.k_gain[head]
        for t in range(T):
            q = side(lorsa.W_Q[head], lorsa.b_Q[head], q_gain, t)
            weights = {}
            for j in range(t + 1):
                if config.window is not None and t - j >= config.window:
                    continue
                k = side(lorsa.W_K[head], lorsa.b_K[head], k_gain, j)
                score = config.score_scale * sum(a * b for a, b in zip(q, k, strict=True))
                if config.score_cap is not None:
                    score = config.score_cap * math.tanh(score / config.score_cap)
                weights[j] = math.exp(score)
            for j, weight in weights.items():
                pattern[head, t, j] = weight / sum(weights.values())
    return pattern


def slow_pre_activations(lorsa: Lorsa, x: Tensor, pattern: Tensor) -> Tensor:
    """``Σ_j A[t, j]·(x_j·w_V + b_V)`` for every position and latent."""
    scaled = x * lorsa.input_scale
    found = torch.zeros(T, S, dtype=torch.float64)
    for t in range(T):
        for i in range(S):
            head = i * HEADS // S
            for j in range(t + 1):
                value = float(scaled[j] @ lorsa.W_V[i] + lorsa.b_V[i])
                found[t, i] += float(pattern[head, t, j]) * value
    return found


@rules
def test_patterns_are_what_the_formulas_say(rule: str) -> None:
    lorsa, x = random_lorsa(**RULES[rule]), inputs()
    torch.testing.assert_close(lorsa.pattern(x), slow_pattern(lorsa, x))


@rules
def test_batches_are_sequences_on_their_own(rule: str) -> None:
    lorsa, x = random_lorsa(**RULES[rule]), inputs(2, 3)
    pattern = lorsa.pattern(x)
    assert pattern.shape == (2, 3, HEADS, T, T)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 3, HEADS, T, dtype=torch.float64))
    torch.testing.assert_close(pattern[1, 2], lorsa.pattern(x[1, 2]))
    torch.testing.assert_close(lorsa(x)[0, 1], lorsa(x[0, 1]))


def test_pre_activations_are_sums_over_positions() -> None:
    lorsa, x = random_lorsa(), inputs()
    pattern = slow_pattern(lorsa, x)
    expected = slow_pre_activations(lorsa, x, pattern)
    torch.testing.assert_close(lorsa.pre_activations(x), expected)
    torch.testing.assert_close(lorsa.pre_activations(x, pattern), expected)


def test_given_its_patterns_it_is_a_transcoder_on_what_its_heads_see() -> None:
    lorsa, x = random_lorsa(), inputs(2)
    pattern = lorsa.pattern(x)
    seen = lorsa.mixed(x, pattern)
    assert seen.shape == (2, HEADS, T, D)
    for i in range(S):
        group = i // lorsa.config.group_size
        read = (seen[:, group] * lorsa.input_scale) @ lorsa.W_V[i] + lorsa.b_V[i]
        torch.testing.assert_close(lorsa.pre_activations(x)[..., i], read)


def test_a_latents_pattern_sums_to_its_pre_activation() -> None:
    lorsa, x = random_lorsa(rotary_dim=4), inputs()
    pattern, pre = lorsa.pattern(x), lorsa.pre_activations(x)
    for i in range(S):
        parts = lorsa.z_pattern(x, i, pattern)
        assert parts.shape == (T, T)
        assert parts.triu(1).abs().max() == 0
        torch.testing.assert_close(parts.sum(1), pre[:, i])


@selections
def test_activations_and_prediction(kind: ActivationKind, norm_aware: bool) -> None:
    lorsa, x = random_lorsa(kind, norm_aware=norm_aware), inputs()
    lorsa.W_O[::3] *= 5.0
    pre = lorsa.pre_activations(x)
    norms = lorsa.W_O.norm(dim=1)
    keys = pre * (norms / norms.mean()).clamp_min(0.1) if norm_aware else pre
    expected = torch.zeros_like(pre)
    for t in range(T):
        for i in range(S):
            if kind == "topk":
                active = bool(keys[t, i] >= keys[t].sort(descending=True).values[3])
            elif kind == "relu":
                active = True
            else:
                assert lorsa.threshold is not None
                bound = lorsa.threshold[i] if kind == "jumprelu" else lorsa.threshold
                active = bool(keys[t, i] > bound)
            if active and pre[t, i] > 0:
                expected[t, i] = pre[t, i]
    assert (expected > 0).any() and (expected == 0).any()
    torch.testing.assert_close(lorsa.encode(x), expected)
    prediction = (expected @ lorsa.W_O + lorsa.b_D) / 2.3
    torch.testing.assert_close(lorsa(x), prediction)
    sparse = lorsa.encode_sparse(x)
    assert torch.equal(expected.nonzero(), torch.stack([sparse.token, sparse.latent], 1))
    torch.testing.assert_close(lorsa.decode_sparse(sparse, T), prediction)
    if kind == "topk" and norm_aware:
        plain = random_lorsa(kind)
        plain.W_O[::3] *= 5.0
        assert not torch.equal(plain.encode(x) > 0, expected > 0)


@selections
@rules
def test_folding_changes_no_output(rule: str, kind: ActivationKind, norm_aware: bool) -> None:
    lorsa, x = random_lorsa(kind, norm_aware=norm_aware, **RULES[rule]), inputs(2)
    before = lorsa(x), lorsa.encode(x), lorsa.pattern(x), lorsa.decoder_norms()
    assert not lorsa.is_folded
    lorsa.fold()
    assert lorsa.is_folded
    after = lorsa(x), lorsa.encode(x), lorsa.pattern(x), lorsa.decoder_norms()
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-12, atol=1e-12)
    weights = {name: value.clone() for name, value in lorsa.state_dict().items()}
    lorsa.fold()
    assert all(torch.equal(value, weights[name]) for name, value in lorsa.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
@rules
def test_the_configuration_names_every_tensor(rule: str, kind: ActivationKind) -> None:
    lorsa = random_lorsa(kind, **RULES[rule])
    shapes = {name: tuple(value.shape) for name, value in lorsa.state_dict().items()}
    assert shapes == lorsa.config.tensor_shapes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_qk_heads": 5},
        {"rotary_dim": 3},
        {"rotary_dim": 6},
        {"k": 13},
        {"window": 0},
        {"score_scale": math.inf},
        {"activation": "relu", "norm_aware": True},
    ],
)
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "d_model": D,
        "d_latent": S,
        "n_qk_heads": HEADS,
        "d_qk": WIDTH,
        "k": 4,
        "score_scale": 0.5,
    }
    LorsaConfig(**right)
    with pytest.raises(ValidationError):
        LorsaConfig(**{**right, **wrong})


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_models_queries_and_keys_it_looks_where_the_model_looks(family: str) -> None:
    adapter = ModelAdapter.for_model(tiny_model(family))
    record = adapter.record([0, 5, 9, 14, 3, 21, 8, 30, 2, 11])
    for layer in range(adapter.n_layers):
        weights = adapter.query_key(layer)
        lorsa = Lorsa(
            LorsaConfig(
                d_model=adapter.d_model,
                d_latent=2 * adapter.n_heads,
                n_qk_heads=adapter.n_heads,
                d_qk=adapter.d_head,
                k=1,
                rotary_dim=weights.rotary_dim,
                rotary_scaling=weights.rotary_scaling,
                qk_norm=weights.q_gain is not None,
                qk_norm_eps=weights.eps,
                score_scale=weights.score_scale,
                score_cap=weights.score_cap,
                window=weights.window,
            )
        )
        for name in ("W_Q", "W_K", "b_Q", "b_K", "q_gain", "k_gain", "inv_freq"):
            if getattr(weights, name) is not None:
                getattr(lorsa, name).copy_(getattr(weights, name))
        normed = adapter.attention_norm(layer).apply(
            record.resid_pre[layer], record.attention_scale[layer]
        )
        assert (lorsa.pattern(normed) - record.patterns[layer]).abs().max() < 1e-5
