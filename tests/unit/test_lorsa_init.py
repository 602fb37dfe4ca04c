"""Where Lorsas start: at the model's own attention, exactly so where there is room for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.linear_parts import ValueOutputWeights
from attention_studio.core.lorsa_init import AttentionBlock, initial_lorsa, lorsa_config
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.sites import Site
from attention_studio.core.training_init import layer_statistics
from tests.tiny import FAMILIES, tiny_model

LAYER = 1
IDS = torch.randint(1, 90, (12, 20), generator=torch.Generator().manual_seed(3))


class Case:
    """One attention block of a tiny model with its activations on random text."""

    def __init__(self, family: str) -> None:
        self.adapter = ModelAdapter.for_model(tiny_model(family))
        site = Site(LAYER, "attention")
        found = self.adapter.harvest(IDS, [site])[site]
        self.x, self.y = found.inputs, found.outputs
        self.kept = torch.ones(IDS.shape, dtype=torch.bool)
        self.kept[:, 0] = False
        self.kept[::4, 15:] = False
        self.statistics = layer_statistics(self.x[self.kept], self.y[self.kept])
        post = self.adapter.attention_post_norm(LAYER)
        self.block = AttentionBlock(
            self.adapter.query_key(LAYER),
            self.adapter.value_output(LAYER),
            None if post is None else post.gain,
        )

    def start(self, d_latent: int, init: Any = "response", seed: int = 0, **settings: Any) -> Lorsa:
        directions = settings.pop("directions", "head")
        config = lorsa_config(self.block.query_key, d_latent, **{"k": 4, **settings})
        return initial_lorsa(
            config,
            self.block,
            self.statistics,
            self.x,
            self.y,
            self.kept,
            init,
            seed,
            LAYER,
            directions,
        )

    def fvu(self, lorsa: Lorsa) -> float:
        y = self.y[self.kept]
        error = (lorsa(self.x)[self.kept] - y).square().sum()
        return float(error / (y - y.mean(0)).square().sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_with_room_for_every_head_and_no_sparsity_it_is_the_attention_block(family: str) -> None:
    case = Case(family)
    heads, width = case.adapter.n_heads, case.adapter.d_head
    lorsa = case.start(2 * heads * width, activation="relu")
    if case.adapter.attention_post_norm(LAYER) is None:
        assert (lorsa(case.x) - case.y).abs().max() < 2e-4
        lorsa.fold()
        assert (lorsa(case.x) - case.y).abs().max() < 2e-4
    else:
        # The norm that follows in Gemma has a denominator of its own at every position.
        assert case.fvu(lorsa) < 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_it_looks_where_the_model_looks(family: str) -> None:
    case = Case(family)
    record = case.adapter.record(IDS[2])
    assert (case.start(24).pattern(case.x[2]) - record.patterns[LAYER]).abs().max() < 1e-5


def test_every_latent_starts_at_the_middle_of_what_it_sees_with_variance_one() -> None:
    case = Case("qwen2")
    pre = case.start(96).pre_activations(case.x)[case.kept]
    torch.testing.assert_close(pre.mean(0), torch.zeros(96), atol=1e-4, rtol=0)
    torch.testing.assert_close(pre.var(0, correction=0), torch.ones(96), atol=1e-2, rtol=0)


def test_the_response_has_the_scale_with_the_least_error() -> None:
    case = Case("llama")
    lorsa = case.start(64, activation="topk", k=6)
    best = case.fvu(lorsa)
    assert best < 0.9
    start, centre = lorsa.W_O.clone(), lorsa.b_D.clone()
    mean = (lorsa.encode(case.x)[case.kept] @ start).mean(0)
    for factor in (0.8, 1.25):
        lorsa.W_O.copy_(start * factor)
        lorsa.b_D.copy_(centre + mean - factor * mean)
        assert case.fvu(lorsa) > best


def test_a_zero_decoder_predicts_the_mean() -> None:
    case = Case("gpt2")
    lorsa = case.start(24, init="zero")
    assert lorsa.W_O.abs().max() == 0
    assert lorsa.W_V.abs().max() > 0
    torch.testing.assert_close(lorsa(case.x)[0, 0].double(), case.statistics.output_mean)


def test_jumprelu_latents_fire_on_their_share() -> None:
    case = Case("mistral")
    lorsa = case.start(40, activation="jumprelu", k=4)
    share = (lorsa.encode(case.x)[case.kept] > 0).float().mean().item()
    assert share == pytest.approx(0.1, abs=0.02)


def _silenced(weights: ValueOutputWeights, heads: list[int]) -> ValueOutputWeights:
    output = weights.output.clone().view(weights.n_heads, weights.d_head, -1)
    output[heads] *= 1e-3
    return ValueOutputWeights(
        weights.value,
        weights.value_bias,
        output.flatten(0, 1),
        weights.output_bias,
        weights.n_heads,
        weights.n_kv_heads,
    )


def test_fewer_heads_are_the_loudest_and_more_are_repetitions() -> None:
    case = Case("llama")
    full = case.start(24)
    case.block = AttentionBlock(
        case.block.query_key, _silenced(case.block.value_output, [0, 2]), None
    )
    few = case.start(24, n_qk_heads=2)
    assert torch.equal(few.W_Q, full.W_Q[[1, 3]])
    many = case.start(24, n_qk_heads=8)
    assert torch.equal(many.W_K, full.W_K.repeat_interleave(2, 0))
    odd = case.start(24, n_qk_heads=6)
    assert torch.equal(odd.b_Q, full.b_Q[[0, 0, 1, 2, 2, 3]])


@pytest.mark.parametrize("directions", ["head", "random"])
def test_seed_and_layer_decide_the_directions(directions: str) -> None:
    case = Case("llama")

    def reads(seed: int) -> Tensor:
        return case.start(24, seed=seed, directions=directions).W_V

    assert torch.equal(reads(1), reads(1))
    assert not torch.equal(reads(1), reads(2))
