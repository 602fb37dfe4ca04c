"""Edges are exact: three independent ways of computing them agree, and rows sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_studio.core import attribution
from attention_studio.core.attribution import (
    Targets,
    edges_into,
    sources_of,
    target_values,
    total_effects,
    trace,
)
from attention_studio.core.attribution_closed import has_closed_form
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.replacement_model import LocalModel, StreamChange
from attention_studio.core.sites import Site
from attention_studio.utils.progress import WorkContext
from tests.tiny import FAMILIES, random_dictionaries, tiny_model

IDS = [0, 5, 9, 14, 3, 21, 8]
KEPT: dict[str, Any] = {"mlp": {}}
COMPLETE: dict[str, Any] = {"mlp": {}, "attention": {}}
CROSS: dict[str, Any] = {"clt": {}, "attention": {}}
MIXED: dict[str, Any] = {
    "mlp": {"layers": (1,)},
    "attention": {"layers": (0, 2)},
    "clt": {"layers": (0, 2)},
}
SEQUENTIAL = {"use_parallel_residual": False}
"""The mixes: a family, what is special about the model, what replaces what. Where a key is missing,
that kind of module is kept, or has the model's whole output as its error."""
MIXES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((family, {}, KEPT) for family in FAMILIES),
    *((family, {}, COMPLETE) for family in FAMILIES),
    *((family, {}, CROSS) for family in ("llama", "gpt_neox", "gemma2", "gpt2")),
    *((family, {}, MIXED) for family in ("llama", "gpt_neox", "gemma2", "gpt2")),
    *(("gpt_neox", SEQUENTIAL, dictionaries) for dictionaries in (KEPT, COMPLETE, MIXED)),
    ("llama", {}, {"mlp": {"activation": "relu", "skip": False}}),
    ("llama", {}, {"mlp": {"skip": False}, "attention": {"activation": "relu"}}),
    ("llama", {}, {"mlp": {"activation": "jumprelu"}, "attention": {"activation": "jumprelu"}}),
    ("llama", {}, {"mlp": {"norm_aware": True}, "attention": {"norm_aware": True}}),
    ("gpt2", {}, {"mlp": {"activation": "batchtopk"}, "attention": {"activation": "batchtopk"}}),
    ("llama", {}, {"clt": {"activation": "jumprelu"}}),
    ("llama", {}, {"clt": {"norm_aware": True}, "attention": {}}),
    ("gpt2", {}, {"attention": {"n_qk_heads": 2}}),
    ("qwen3", {}, {"mlp": {"layers": (0, 2)}}),
    ("gemma2", {}, {}),
]
mixes = pytest.mark.parametrize(
    ("family", "model", "dictionaries"),
    MIXES,
    ids=[f"{family}-{'+'.join(kinds)}-{i}" for i, (family, _, kinds) in enumerate(MIXES)],
)


@pytest.fixture(params=[False, True], ids=["swept", "pushed"], autouse=True)
def start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which what the first position writes may be found."""
    monkeypatch.setattr(attribution, "starts_apart", lambda _plan: request.param)


def localize(family: str, model: dict[str, Any], dictionaries: dict[str, Any]) -> LocalModel:
    adapter = ModelAdapter.for_model(tiny_model(family, **model))
    replacements = random_dictionaries(adapter, **dictionaries)
    return LocalModel(adapter, replacements, IDS, adapter.record(IDS))


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
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    targets = all_targets(local)
    edges = edges_into(local, targets)
    gap = (edges.weights.sum(1) + edges.biases - target_values(local, targets)).abs()
    assert (gap / edges.weights.abs().sum(1)).max() < 1e-5


@mixes
def test_logit_targets_read_the_models_own_logits(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
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
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    """Doubling each feature in turn, forwards, against the edges found backwards."""
    local = localize(family, model, dictionaries)
    targets = all_targets(local)
    edges = edges_into(local, targets)
    features = local.features
    writes = local.feature_changes(torch.arange(len(features)))
    response = local.push(len(features), writes, features_respond=False)
    moved = torch.cat([_logit_moves(local, targets, response.resid_final), response.features], 1)
    expected = edges.weights[:, : len(features)].T
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    assert torch.allclose(moved, expected, atol=1e-5 * max(1.0, scale))


@mixes
def test_errors_and_embeddings_have_the_edges_that_pushing_them_gives(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    targets = all_targets(local)
    weights = edges_into(local, targets).weights
    every = torch.arange(len(IDS))
    writes = [*local.errors.items(), (None, local.record.embedding)]
    changes = [
        StreamChange(site, every + i * len(IDS), every, rows)
        for i, (site, rows) in enumerate(writes)
    ]
    response = local.push(len(writes) * len(IDS), changes, features_respond=False)
    moved = torch.cat([_logit_moves(local, targets, response.resid_final), response.features], 1)
    assert torch.allclose(moved, weights[:, len(local.features) :].T, atol=3e-5)


@mixes
def test_total_effects_are_those_of_pushing_with_features_responding(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    every = all_targets(local)
    logits = Targets(every.directions, every.direction_bias, every.positions, every.features[:0])
    effects = total_effects(local, logits, WorkContext())
    features = local.features
    writes = local.feature_changes(torch.arange(len(features)))
    response = local.push(len(features), writes, features_respond=True)
    moved = _logit_moves(local, logits, response.resid_final)
    scale = float(moved.abs().max()) if moved.numel() else 1.0
    assert torch.allclose(moved.T, effects, atol=1e-4 * scale)


def _logit_moves(local: LocalModel, targets: Targets, resid: Tensor) -> Tensor:
    normed = local.adapter.final_norm().push(resid, local.record.final_scale)
    return torch.einsum("nkd,kd->nk", normed[:, targets.positions], targets.directions)


@pytest.mark.parametrize("dictionaries", [KEPT, COMPLETE, CROSS, MIXED])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_edges_equal_autograds(family: str, dictionaries: dict[str, Any]) -> None:
    """A second implementation: the model's own modules, frozen with detach, differentiated.

    Every write of a source is multiplied by a one that requires a gradient; attention patterns and
    norm denominators are taken from the record and detached. Dictionaries are used densely, as
    they come, with the latents that are not active masked out.
    """
    local = localize(family, {}, dictionaries)
    adapter, record, features, found = (
        local.adapter, local.record, local.features, local.dictionaries
    )  # fmt: skip
    length = len(IDS)
    on = torch.tensor([0.0] + [1.0] * (length - 1)).unsqueeze(-1)
    ones = torch.ones(len(features), requires_grad=True)
    error_ones = {site: torch.ones(length, 1, requires_grad=True) for site in local.errors}
    token_ones = torch.ones(length, 1, requires_grad=True)
    pre = torch.zeros(len(features))

    def activations(site: Site, dense: Tensor) -> Tensor:
        """Frozen activations [T, s] times the ones; keeps the pre-activations [T, s]."""
        here = features.of(site)
        where = (features.position[here], features.index[here])
        frozen = features.activation[here] * ones[here]
        nonlocal pre
        pre = pre.index_copy(0, torch.arange(here.start, here.stop), dense[where])
        return torch.zeros_like(dense).index_put(where, frozen)

    resid = record.embedding * token_ones
    of_clt: dict[int, Tensor] = {}
    for layer in range(adapter.n_layers):
        before = resid
        x = adapter.attention_norm(layer).apply(resid, record.attention_scale[layer])
        site = Site(layer, "attention")
        if layer in found.lorsas:
            lorsa = found.lorsas[layer]
            own_input = x.detach()
            latents = activations(site, lorsa.pre_activations(x, lorsa.pattern(own_input)))
            resid = resid + on * lorsa.decode(latents) + local.errors[site] * error_ones[site]
        else:
            out = adapter.value_output(layer).apply(x, record.patterns[layer])
            post = adapter.attention_post_norm(layer)
            if post is not None:
                out = post.apply(out, record.attention_post_scale[layer])
            resid = resid + out
        read = before if adapter.parallel else resid
        inputs = adapter.mlp_norm(layer).apply(read, record.mlp_scale[layer])
        site = Site(layer, "mlp")
        if layer in found.transcoders:
            transcoder = found.transcoders[layer]
            latents = activations(site, transcoder.pre_activations(inputs))
            resid = resid + on * transcoder.decode(latents, inputs)
        elif found.clt is not None and layer in found.clt.config.layers:
            i = found.clt.position(layer)
            of_clt[i] = activations(site, found.clt.pre_activations(i, inputs))
            resid = resid + on * found.clt.decode_to(i, of_clt)
        resid = resid + local.errors[site] * error_ones[site]
    assert torch.allclose(resid, record.resid_final, atol=1e-5)

    targets = all_targets(local)
    normed = adapter.final_norm().apply(resid, record.final_scale)
    logits = (normed[targets.positions] * targets.directions).sum(-1) + targets.direction_bias
    values = torch.cat([logits, pre])
    assert torch.allclose(values, target_values(local, targets), atol=1e-4)
    sources = (ones, *error_ones.values(), token_ones)
    rows = []
    for value in values:
        grads = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros(source.numel()) if grad is None else grad.flatten()
                    for grad, source in zip(grads, sources, strict=True)
                ]
            )
        )
    expected = torch.stack(rows)
    edges = edges_into(local, targets).weights
    assert edges.shape == expected.shape
    assert torch.allclose(edges, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("dictionaries", [KEPT, COMPLETE, MIXED])
def test_targets_have_the_edges_together_that_each_has_alone(dictionaries: dict[str, Any]) -> None:
    local = localize("llama", {}, dictionaries)
    targets = all_targets(local)
    together = edges_into(local, targets)
    n_logits = len(targets.directions)
    for batch in torch.split(torch.randperm(len(local.features)), 5):
        alone = edges_into(local, targets.of_features(batch))
        # In float32 an edge is as exact as the largest of those that it is summed with.
        exact = 2e-6 * float(together.weights.abs().max())
        assert torch.allclose(alone.weights, together.weights[n_logits + batch], atol=exact)
        assert torch.allclose(alone.biases, together.biases[n_logits + batch], atol=exact)


@mixes
def test_nothing_is_stored_but_what_can_be_an_edge(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    """The layout has a place for each edge, and (skips and hidden keys aside) no other."""
    local = localize(family, model, dictionaries)
    targets = all_targets(local)
    traced = trace(local, targets)
    edges = traced.edges
    assert len(set(edges.targets.tolist())) == len(targets) == len(traced.target)
    dense = edges.dense()
    for row, node in enumerate(edges.targets.tolist()):
        columns, weights = edges.into(node)
        assert len(set(columns.tolist())) == len(columns)
        assert np.array_equal(dense[row, columns], weights)
        assert np.count_nonzero(dense[row]) == np.count_nonzero(weights)
    for source in range(edges.n_sources):
        rows, weights = edges.out_of(source)
        into = {int(node): float(dense[edges.row(node), source]) for node in rows}
        assert into == dict(zip(rows.tolist(), weights.tolist(), strict=True))
        assert np.count_nonzero(dense[:, source]) == np.count_nonzero(weights)
    if has_closed_form(local):
        assert (edges.data != 0).mean() > 0.9


@mixes
def test_products_in_half_precision_are_near(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> None:
    local = localize(family, model, dictionaries)
    targets = all_targets(local)
    exact, near = (trace(local, targets, precision) for precision in ("float32", "bfloat16"))
    scale = np.abs(exact.edges.dense()).sum(1, keepdims=True)
    gap = np.abs(near.edges.dense() - exact.edges.dense()) / np.maximum(scale, 1e-9)
    # Where terms of an edge cancel, what is left of it may be rounding.
    assert gap.max() < 0.1 and np.quantile(gap, 0.99) < 5e-3
    # Where it is not, nothing but the skips is multiplied, and they are in float32.
    rounded = has_closed_form(local) or any(map(local.keeps_attention, range(3)))
    assert (gap.max() > 0) == rounded


@pytest.mark.parametrize("dictionaries", [KEPT, COMPLETE, CROSS, MIXED])
def test_two_traces_are_the_same_to_the_bit(dictionaries: dict[str, Any]) -> None:
    first, second = (
        trace(local, all_targets(local))
        for local in (localize("llama", {}, dictionaries) for _ in range(2))
    )
    assert first.edges.data.tobytes() == second.edges.data.tobytes()
    assert torch.equal(first.biases, second.biases)


@pytest.mark.parametrize("dictionaries", [KEPT, COMPLETE, CROSS])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_nothing_flows_from_the_future_or_from_above(
    family: str, dictionaries: dict[str, Any]
) -> None:
    local = localize(family, {}, dictionaries)
    targets = all_targets(local)
    weights = edges_into(local, targets).weights[3:, : len(local.features)]
    features = local.features
    later = features.position[None, :] > features.position[:, None]
    # With parallel residual nothing of a layer reads what the same layer writes.
    depth = features.layer if local.adapter.parallel else features.site
    above = depth[None, :] >= depth[:, None]
    assert torch.equal(weights[later | above], torch.zeros(int((later | above).sum())))
    below = depth[None, :] < depth[:, None]
    reads = features.kind[:, None] == 0
    if (features.kind == 0).any():
        crossing = (features.position[None, :] < features.position[:, None]) & below
        assert (weights[crossing & reads] != 0).all()
        # Only a Lorsa's own features look at earlier positions.
        assert torch.equal(weights[crossing & ~reads], torch.zeros(int((crossing & ~reads).sum())))


def test_the_first_position_is_left_to_its_error() -> None:
    local = localize("llama", {}, COMPLETE)
    assert int(local.features.position.min()) == 1
    for layer in range(3):
        assert torch.equal(local.errors[Site(layer, "mlp")][0], local.record.mlp_out[layer, 0])
        attention = local.errors[Site(layer, "attention")][0]
        assert torch.equal(attention, local.record.attention_out[layer, 0])
    assert len(sources_of(local)) == len(local.features) + 2 * 3 * len(IDS) + len(IDS)
    kept = localize("llama", {}, KEPT)
    assert len(sources_of(kept)) == len(kept.features) + 3 * len(IDS) + len(IDS)


def test_only_active_rows_of_a_cross_layer_decoder_are_read() -> None:
    adapter = ModelAdapter.for_model(tiny_model("llama"))
    record = adapter.record(IDS)
    dictionaries = random_dictionaries(adapter, clt={})
    clt = dictionaries.clt
    assert clt is not None
    before = LocalModel(adapter, dictionaries, IDS, record)
    for i, layer in enumerate(clt.config.layers):
        silent = torch.ones(24, dtype=torch.bool)
        silent[before.features.index[before.features.of(Site(layer, "mlp"))]] = False
        assert silent.any()
        clt.W_D[i].data[:, silent] = torch.nan
    after = LocalModel(adapter, dictionaries, IDS, record)
    assert torch.equal(after.features.decoder, before.features.decoder)
    edges = edges_into(after, all_targets(after))
    assert torch.equal(edges.weights, edges_into(before, all_targets(before)).weights)
