"""Which heads brought to a target what it reads, where attention is kept.

An edge of a graph sums over all ways through the residual stream and the frozen attention. Here it
is divided by the last head on the way, the one nearest to the target:

    edge = stayed + Σ over kept layers and their heads of what comes last through that head

``stayed`` crosses no kept attention; what a Lorsa's feature reads at other positions through its
own head is part of it. What lies before the last head is followed along all ways, other heads
among them, so that the parts add up to the edge exactly (Elhage et al. 2021, *A Mathematical
Framework for Transformer Circuits*, call the product of several heads a virtual head; its value
stands with its last one here). A head's part is ``pattern[t, j]`` times the product of the target's
gradient with what the head's OV circuit makes of the position j, summed over j: those terms are the
crossings, whose pattern ``core.qk_tracing`` explains.

Without a source, all that the target reads is divided: a direct attribution to heads.
"""

from __future__ import annotations

import re
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from attention_studio.core.attribution import Targets, edges_into, target_values
from attention_studio.core.qk_records import AttentionTraceError, Crossing, HeadName, HeadPaths
from attention_studio.core.replacement_model import LocalModel, StreamChange
from attention_studio.core.sites import Site
from attention_studio.core.stream_sweep import Reading, owed_to_sources, source_names

DEFAULT_CROSSINGS = 20


@torch.no_grad()
def head_paths(
    local: LocalModel,
    target: str,
    source: Optional[str] = None,
    top_k: int = DEFAULT_CROSSINGS,
) -> HeadPaths:
    """Divide an edge, or all that a target reads, by the last head on the way.

    Args:
        local: the prompt.
        target: a feature or a logit, named as ``AttributionGraph.node_name`` does:
            ``L12/P5/F1043``, ``A12/P5/F1043``, ``P7/logit/42``.
        source: a feature, an error or a token (``P4/token``); None: everything.
        top_k: crossings that are kept.

    Raises:
        AttentionTraceError: a name is not of this prompt, or ``top_k`` is not positive.
    """
    if top_k < 1:
        raise AttentionTraceError(f"{top_k} ways cannot be listed", "", "ask for 1 or more")
    names = source_names(local)
    targets, reading, bias = _reading(local, target, names)
    gradients: list[tuple[int, Tensor, Tensor]] = []
    owed = owed_to_sources(
        local,
        reading,
        stop_at=lambda layer, at, gradient: gradients.append((layer, at, gradient[0])),
    )
    if source is None:
        value = float(target_values(local, targets)[0])
        stayed = float(owed.weights.sum() + owed.biases[0] + bias)
        inputs = None
    else:
        column = _column(names, source)
        value = float(edges_into(local, targets).weights[0, column])
        stayed = float(owed.weights[0, column])
        inputs = _inputs_of(local, column)
    heads, biases, crossings = [], [], []
    for layer, positions, gradient in gradients:
        ways, constant = _ways(
            local, layer, positions, gradient, None if inputs is None else inputs[layer]
        )
        heads.append(ways.sum((1, 2)))
        biases.append(constant)
        crossings += _strongest(ways, layer, positions, top_k)
    crossings.sort(key=lambda crossing: -abs(crossing.value))
    n_heads = local.adapter.n_heads
    added = owed.weights.abs().sum() if source is None else abs(stayed)
    found = torch.stack(heads) if heads else local.on.new_zeros(0, n_heads)
    return HeadPaths(
        source=source,
        target=target,
        value=value,
        stayed=stayed,
        layers=np.array([layer for layer, _, _ in gradients], dtype=np.int64),
        heads=found.float().cpu().numpy(),
        biases=np.array(biases, dtype=np.float32),
        scale=float(added + found.abs().sum()) + sum(map(abs, biases)),
        crossings=tuple(crossings[:top_k]),
    )


def _ways(
    local: LocalModel, layer: int, positions: Tensor, gradient: Tensor, inputs: Optional[Tensor]
) -> tuple[Tensor, float]:
    """What comes through each head from each position, [H, p, T], and by the output's bias.

    ``gradient`` [p, d] at what the attention writes at ``positions``; ``inputs`` [T, d] the change
    of its normed input, None: that input itself, with all biases.
    """
    weights = local.adapter.value_output(layer)
    post = local.adapter.attention_post_norm(layer)
    if post is not None:
        gradient = post.pull(gradient, local.record.attention_post_scale[layer][positions])
    whole, constant = inputs is None, 0.0
    if inputs is None:
        norm, scale = local.norm_at(Site(layer, "attention"))
        inputs = norm.apply(local.record.resid_pre[layer], scale)
        if weights.output_bias is not None:
            constant = float(gradient.sum(0) @ weights.output_bias)
    values = inputs @ weights.value
    if whole and weights.value_bias is not None:
        values = values + weights.value_bias
    values = values.view(len(values), weights.n_kv_heads, weights.d_head)
    values = values.repeat_interleave(weights.n_heads // weights.n_kv_heads, dim=1)
    per_head = (gradient @ weights.output.T).view(len(positions), weights.n_heads, weights.d_head)
    ways = torch.einsum("phk,jhk->hpj", per_head, values)
    return ways * local.record.patterns[layer][:, positions], constant


def _strongest(ways: Tensor, layer: int, positions: Tensor, k: int) -> list[Crossing]:
    """The crossings of one layer with the largest |values|."""
    flat = ways.flatten()
    best = flat.abs().topk(min(k, len(flat))).indices
    _, p, length = ways.shape
    return [
        Crossing(
            HeadName("model", layer, place // (p * length)),
            int(positions[place // length % p]),
            place % length,
            float(flat[place]),
        )
        for place in best.tolist()
        if flat[place] != 0
    ]


def _inputs_of(local: LocalModel, column: int) -> dict[int, Tensor]:
    """By layer, what a source adds to the normed input of the attention [T, d]."""
    features, length = local.features, len(local.ids)
    place = column - len(features)
    if place < 0:
        changes = local.feature_changes(torch.tensor([column], device=local.on.device))
    else:
        which, position = place // length, torch.tensor([place % length], device=local.on.device)
        written = [*local.errors.items(), (None, local.record.embedding)]
        site, rows = written[which]
        changes = [StreamChange(site, torch.zeros_like(position), position, rows[position])]
    inputs: dict[int, Tensor] = {}

    def seen(site: Site, change: Tensor) -> None:
        if site.kind == "attention" and local.keeps_attention(site.layer):
            inputs[site.layer] = change[0]

    local.push(1, changes, features_respond=False, seen=seen)
    return inputs


def _reading(local: LocalModel, target: str, names: list[str]) -> tuple[Targets, Reading, float]:
    """A target as an edge has it and as what is read, and the bias that comes on top."""
    device = local.on.device
    found = re.fullmatch(r"P(\d{1,9})/logit/(\d{1,9})", target)
    if found is not None:
        position, token = int(found[1]), int(found[2])
        if position >= len(local.ids) or token >= local.adapter.vocab_size:
            raise _unknown(target)
        directions, bias = local.logit_directions([token])
        at = torch.tensor([position], device=device)
        none = torch.zeros(0, dtype=torch.long, device=device)
        reading = Reading(None, at, directions.unsqueeze(1))
        return Targets(directions, bias, at, none), reading, float(bias[0])
    features = local.features
    feature = _column(names, target)
    if feature >= len(features):
        raise _unknown(target)
    site = Site.of_number(int(features.site[feature]))
    weights = local.reading_weights(site, slice(feature, feature + 1))[0]
    at = torch.nonzero(weights).squeeze(1)
    rows = features.encoder[feature] * weights[at].unsqueeze(1)
    empty = local.on.new_zeros(0, local.adapter.d_model)
    chosen = torch.tensor([feature], device=device)
    targets = Targets(empty, empty[:, 0], chosen[:0], chosen)
    return targets, Reading(site, at, rows.unsqueeze(0)), float(features.encoder_bias[feature])


def _column(names: list[str], name: str) -> int:
    if name not in names:
        raise _unknown(name)
    return names.index(name)


def _unknown(name: str) -> AttentionTraceError:
    return AttentionTraceError(
        f"There is no {name} on this prompt",
        "names have the forms L12/P5/F1043 (A12 for attention), L3/P2/error, P4/token and "
        "P7/logit/42, and targets are features or logits",
        "copy a name from the graph or from the features command",
    )
