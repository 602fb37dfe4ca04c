"""Edges are exact: three independent ways of computing them agree, and rows sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attention_studio.core.attribution import (
    Targets,
    edges_into,
    sources_of,
    target_batches,
    target_values,
    total_effects,
)
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.replacement_model import LocalModel
from attention_studio.utils.progress import WorkContext
from tests.tiny import FAMILIES, random_transcoders, tiny_model

IDS = [0, 5, 9, 14, 3, 21, 8]
MIXES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((family, {}, {}) for family in FAMILIES),
    ("gpt_neox", {"use_parallel_residual": False}, {}),
    ("llama", {}, {"activation": "relu", "skip": False}),
    ("llama", {}, {"activation": "jumprelu"}),
    ("gpt2", {}, {"activation": "batchtopk"}),
    ("qwen3", {}, {"layers": (0, 2)}),
    ("gemma2", {}, {"layers": ()}),
]
mixes = pytest.mark.parametrize(
    ("family", "model", "dictionary"),
    MIXES,
    ids=[f"{family}-{i}" for i, (family, _, _) in enumerate(MIXES)],
)


def localize(family: str, model: dict[str, Any], dictionary: dict[str, Any]) -> LocalModel:
    adapter = ModelAdapter.for_model(tiny_model(family, **model))
    transcoders = random_transcoders(adapter, **dictionary)
    return LocalModel(adapter, transcoders, IDS, adapter.record(IDS))


def all_targets(local: LocalModel) -> Targets:
    directions, bias = local.logit_directions([4, 11, 30])
    return Targets(
        directions=directions,
        direction_bias=bias,
        positions=torch.tensor([len(IDS) - 1, len(IDS) - 1, 3]),
        features=torch.arange(len(local.features)),
    )


@mixes
def test_rows_sum_to_what_the_target_reads(
    family: str, model: dict[str, Any], dictionary: dict[str, Any]
) -> None:
    local = localize(family, model, dictionary)
    targets = all_targets(local)
    edges = edges_into(local, targets)
    gap = (edges.weights.sum(1) + edges.biases - target_values(local, targets)).abs()
    assert (gap / edges.weights.abs().sum(1)).max() < 1e-5


@mixes
def test_logit_targets_read_the_models_own_logits(
    family: str, model: dict[str, Any], dictionary: dict[str, Any]
) -> None:
    local = localize(family, model, dictionary)
    logits = local.record.logits
    cap = getattr(local.adapter.model.config, "final_logit_softcapping", None)
    if cap:
        logits = cap * torch.atanh(logits.double() / cap).float()
    values = target_values(local, all_targets(local))[:3]
    own = torch.stack([logits[-1, 4], logits[-1, 11], logits[3, 30]])
    means = torch.stack([logits[-1].mean(), logits[-1].mean(), logits[3].mean()])
    assert torch.allclose(values, own - means, atol=1e-4)


@mixes
def test_adding_to_a_source_moves_every_target_by_its_edge(
    family: str, model: dict[str, Any], dictionary: dict[str, Any]
) -> None:
    """Doubling each feature in turn, forwards, against the edges found backwards."""
    local = localize(family, model, dictionary)
    targets = all_targets(local)
    edges = edges_into(local, targets)
    features = local.features
    writes = features.decoder * features.activation.unsqueeze(-1)
    response = local.push(features.layer, features.position, writes, features_respond=False)
    moved = torch.cat([_logit_moves(local, targets, response.resid_final), response.features], 1)
    expected = edges.weights[:, : len(features)].T
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    assert torch.allclose(moved, expected, atol=1e-5 * max(1.0, scale))


@mixes
def test_errors_and_embeddings_have_the_edges_that_pushing_them_gives(
    family: str, model: dict[str, Any], dictionary: dict[str, Any]
) -> None:
    local = localize(family, model, dictionary)
    targets = all_targets(local)
    weights = edges_into(local, targets).weights
    length, n_layers = len(IDS), local.adapter.n_layers
    layers = torch.arange(n_layers).repeat_interleave(length)
    layers = torch.cat([layers, torch.full((length,), -1)])
    positions = torch.arange(length).repeat(n_layers + 1)
    writes = torch.cat([local.errors.flatten(0, 1), local.record.embedding])
    response = local.push(layers, positions, writes, features_respond=False)
    moved = torch.cat([_logit_moves(local, targets, response.resid_final), response.features], 1)
    assert torch.allclose(moved, weights[:, len(local.features) :].T, atol=3e-5)


@mixes
def test_total_effects_are_those_of_pushing_with_features_responding(
    family: str, model: dict[str, Any], dictionary: dict[str, Any]
) -> None:
    local = localize(family, model, dictionary)
    every = all_targets(local)
    logits = Targets(every.directions, every.direction_bias, every.positions, every.features[:0])
    effects = total_effects(local, logits, WorkContext())
    features = local.features
    writes = features.decoder * features.activation.unsqueeze(-1)
    response = local.push(features.layer, features.position, writes, features_respond=True)
    moved = _logit_moves(local, logits, response.resid_final)
    scale = float(moved.abs().max()) if moved.numel() else 1.0
    assert torch.allclose(moved.T, effects, atol=1e-4 * scale)


def _logit_moves(local: LocalModel, targets: Targets, resid: Tensor) -> Tensor:
    normed = local.adapter.final_norm().push(resid, local.record.final_scale)
    return torch.einsum("nkd,kd->nk", normed[:, targets.positions], targets.directions)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_edges_equal_autograds(family: str) -> None:
    """A second implementation: the model's own modules, frozen with detach, differentiated.

    Every write of a source is multiplied by a one that requires a gradient; attention patterns and
    norm denominators are taken from the record and detached.
    """
    local = localize(family, {}, {})
    adapter, record, features = local.adapter, local.record, local.features
    length = len(IDS)
    ones = torch.ones(len(features), requires_grad=True)
    error_ones = torch.ones(adapter.n_layers, length, 1, requires_grad=True)
    token_ones = torch.ones(length, 1, requires_grad=True)

    resid = record.embedding * token_ones
    pre: list[Tensor] = []
    for layer in range(adapter.n_layers):
        before = resid
        x = adapter.attention_norm(layer).apply(resid, record.attention_scale[layer])
        out = adapter.value_output(layer).apply(x, record.patterns[layer])
        post = adapter.attention_post_norm(layer)
        if post is not None:
            out = post.apply(out, record.attention_post_scale[layer])
        resid = resid + out
        read = before if adapter.parallel else resid
        inputs = adapter.mlp_norm(layer).apply(read, record.mlp_scale[layer])
        transcoder = local.transcoders[layer]
        here = features.of_layer(layer)
        position, index = features.position[here], features.index[here]
        pre.append((inputs[position] * transcoder.W_E[index]).sum(-1) + transcoder.b_E[index])
        frozen = features.activation[here] * ones[here]
        written = torch.zeros_like(resid).index_add(
            0, position, frozen.unsqueeze(-1) * transcoder.W_D[index]
        )
        on = local.replaced[layer].unsqueeze(-1).float()
        written = written + on * (transcoder.b_D + inputs @ transcoder.W_skip)
        resid = resid + written + local.errors[layer] * error_ones[layer]
    assert torch.allclose(resid, record.resid_final, atol=1e-5)

    targets = all_targets(local)
    normed = adapter.final_norm().apply(resid, record.final_scale)
    logits = (normed[targets.positions] * targets.directions).sum(-1) + targets.direction_bias
    read_off = torch.cat([logits, torch.cat(pre)])
    rows = []
    for value in read_off:
        grads = torch.autograd.grad(
            value, (ones, error_ones, token_ones), retain_graph=True, allow_unused=True
        )
        rows.append(
            torch.cat(
                [
                    (torch.zeros(size) if grad is None else grad.flatten())
                    for grad, size in zip(
                        grads, (len(features), adapter.n_layers * length, length), strict=True
                    )
                ]
            )
        )
    expected = torch.stack(rows)
    found = edges_into(local, targets).weights
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_batch_of_targets_has_the_edges_that_each_has_alone() -> None:
    local = localize("llama", {}, {})
    targets = all_targets(local)
    together = edges_into(local, targets)
    n_logits = len(targets.directions)
    for batch in target_batches(local, targets.features, 5):
        alone = edges_into(
            local,
            Targets(
                targets.directions[:0], targets.direction_bias[:0], targets.positions[:0], batch
            ),
        )
        assert torch.allclose(alone.weights, together.weights[n_logits + batch], atol=1e-6)
        assert torch.allclose(alone.biases, together.biases[n_logits + batch], atol=1e-6)


def test_nothing_flows_from_the_future_or_from_above() -> None:
    local = localize("llama", {}, {})
    targets = all_targets(local)
    weights = edges_into(local, targets).weights[3:, : len(local.features)]
    features = local.features
    later = features.position[None, :] > features.position[:, None]
    above = features.layer[None, :] >= features.layer[:, None]
    assert torch.equal(weights[later | above], torch.zeros(int((later | above).sum())))


def test_the_first_position_is_left_to_its_error() -> None:
    local = localize("llama", {}, {})
    assert int(local.features.position.min()) == 1
    assert torch.equal(local.errors[:, 0], local.record.mlp_out[:, 0])
    assert len(sources_of(local)) == len(local.features) + 3 * len(IDS) + len(IDS)
