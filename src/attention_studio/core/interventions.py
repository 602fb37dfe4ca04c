"""Change features in the real model and see what happens: predictions against measurements.

A graph says what ablating a feature should do. ``validate`` does it: for sampled features it
compares the change that the local linear model predicts with the change that the model itself
shows when the feature's write is taken out of its MLP's output, with nothing frozen. A random
direction of the same norm, written at the same place, is the control.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.attribution import Targets, edges_into
from attention_studio.core.model_adapter import MlpReplacement
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

_VALUES_PER_PASS = 1 << 26
"""Bounds the batch of a measuring pass: the logits of all its tokens are in memory at once."""


class InterventionError(StudioError):
    """An intervention that cannot be carried out."""


@dataclass(frozen=True)
class FeatureCheck:
    """One ablated feature: what was predicted and measured for the logit it moves most."""

    layer: int
    position: int
    index: int
    activation: float
    token: str
    predicted: float
    measured: float
    control: float
    """What a random direction of the same norm did to the same logit."""


@dataclass(frozen=True)
class Agreement:
    """How a set of predictions compares with the measurements.

    Attributes:
        n: how many pairs.
        correlation: Pearson's r.
        slope: of measured on predicted, through the origin; 1 is perfect, 0 is no effect.
        relative_error: |measured - predicted| summed, over |measured| summed.
    """

    n: int
    correlation: float
    slope: float
    relative_error: float


@dataclass(frozen=True)
class ValidationReport:
    """What ``validate`` found.

    ``logits``: the salient logits, all freezes off. ``features``: pre-activations of downstream
    active features, likewise. ``control``: the same predictions for the logits against random
    directions. ``largest_freeze_gap``: under all freezes, the largest difference between a graph
    edge and the measured change, relative to the largest edge; this one must be rounding error.
    """

    prompt: str
    n_samples: int
    logits: Agreement
    features: Agreement
    control: Agreement
    largest_freeze_gap: float
    checks: tuple[FeatureCheck, ...]


def validate(
    replacement: CompleteReplacementModel,
    prompt: str,
    samples: int = 32,
    seed: int = 0,
    ctx: Optional[WorkContext] = None,
) -> ValidationReport:
    """Ablate ``samples`` features of a prompt, one at a time, and compare with the prediction.

    Features are drawn with probability in proportion to the absolute effect that the local model
    predicts for the most probable logit, so that those which a graph shows are checked most.

    Raises:
        InterventionError: nothing is active, nothing that is active has an effect, or ``samples``
            is not positive.
        Cancelled: ``ctx`` was cancelled.
    """
    if samples < 1:
        raise InterventionError(
            f"{samples} features cannot be checked", "", "ask for one or more samples"
        )
    ctx = ctx or WorkContext()
    loaded = replacement.loaded
    ids = loaded.encode(prompt)
    ctx.progress(0, None, "Running the model")
    local = replacement.localize(ids)
    features = local.features
    if not len(features):
        raise InterventionError(
            "No feature is active on this prompt",
            "the dictionaries are silent or cover no layer",
            "try a longer prompt or another CRM",
        )
    tokens = local.record.logits[-1].topk(5).indices.tolist()
    directions, bias = local.logit_directions(tokens)
    targets = Targets(
        directions=directions,
        direction_bias=bias,
        positions=torch.full((len(tokens),), len(ids) - 1, device=directions.device),
        features=torch.arange(len(features), device=directions.device)[:0],
    )
    generator = torch.Generator().manual_seed(seed)
    chosen = _sample(local, targets, samples, generator).to(directions.device)
    writes = -features.decoder[chosen] * features.activation[chosen].unsqueeze(-1)
    noise = torch.randn(writes.shape, generator=generator).to(writes)
    random = noise * (writes.norm(dim=-1) / noise.norm(dim=-1)).unsqueeze(-1)
    layers, positions = features.layer[chosen], features.position[chosen]

    ctx.check()
    ctx.progress(1, 4, "Predicting")
    predicted = local.push(layers, positions, writes, features_respond=True)
    predicted_logits = _logit_changes(local, targets, predicted.resid_final)
    ctx.check()
    ctx.progress(2, 4, f"Ablating {len(chosen)} features in the model")
    measured_logits, measured_features = _measure(local, targets, layers, positions, writes, ctx)
    ctx.check()
    ctx.progress(3, 4, "Writing random directions of the same norm")
    control_logits, _ = _measure(local, targets, layers, positions, random, ctx)

    downstream = (features.layer[None, :] > layers[:, None]) & (
        features.position[None, :] >= positions[:, None]
    )
    text = loaded.token_strings(tokens)
    best = predicted_logits.abs().argmax(1)
    ctx.progress(4, 4, "Comparing")
    return ValidationReport(
        prompt=prompt,
        n_samples=len(chosen),
        logits=agreement(predicted_logits.flatten(), measured_logits.flatten()),
        features=agreement(predicted.features[downstream], measured_features[downstream]),
        control=agreement(predicted_logits.flatten(), control_logits.flatten()),
        largest_freeze_gap=_freeze_gap(local, targets, chosen),
        checks=tuple(
            FeatureCheck(
                layer=int(layers[i]),
                position=int(positions[i]),
                index=int(features.index[chosen[i]]),
                activation=float(features.activation[chosen[i]]),
                token=text[int(best[i])],
                predicted=float(predicted_logits[i, best[i]]),
                measured=float(measured_logits[i, best[i]]),
                control=float(control_logits[i, best[i]]),
            )
            for i in range(len(chosen))
        ),
    )


def agreement(predicted: Tensor, measured: Tensor) -> Agreement:
    """Compare predictions with measurements, both [n]."""
    x, y = predicted.double(), measured.double()
    n = int(x.numel())
    if n < 2 or float(x.std()) == 0 or float(y.std()) == 0:
        correlation = 0.0
    else:
        correlation = float(torch.corrcoef(torch.stack([x, y]))[0, 1])
    scale = float((x * x).sum())
    return Agreement(
        n=n,
        correlation=correlation,
        slope=float((x * y).sum()) / scale if scale else 0.0,
        relative_error=float((y - x).abs().sum() / y.abs().sum().clamp_min(1e-30)),
    )


def _sample(
    local: LocalModel, targets: Targets, samples: int, generator: torch.Generator
) -> Tensor:
    from attention_studio.core.attribution import total_effects

    first = Targets(
        targets.directions[:1], targets.direction_bias[:1], targets.positions[:1], targets.features
    )
    weight = total_effects(local, first, WorkContext())[0].abs().cpu()
    count = min(samples, int((weight > 0).sum()))
    if not count:
        raise InterventionError(
            "No active feature has an effect on the most probable token",
            "the dictionaries' decoders write nothing that reaches it",
            "train the CRM for longer or try another prompt",
        )
    return torch.multinomial(weight, count, generator=generator).sort().values


def _logit_changes(local: LocalModel, targets: Targets, resid: Tensor) -> Tensor:
    """Change [n, k] of the target logits for a change of the final residual stream [n, T, d]."""
    normed = local.adapter.final_norm().push(resid, local.record.final_scale)
    return torch.einsum("nkd,kd->nk", normed[:, targets.positions], targets.directions)


def _measure(
    local: LocalModel,
    targets: Targets,
    layers: Tensor,
    positions: Tensor,
    writes: Tensor,
    ctx: WorkContext,
) -> tuple[Tensor, Tensor]:
    """What the model itself does when ``writes`` [n, d] are added, each to a prompt of its own.

    Returns the change of the target logits [n, k] (before the cap, in a family that caps them, as
    in the prediction) and of every active feature's pre-activation [n, n_features].
    """
    prompts = _VALUES_PER_PASS // (len(local.ids) * local.adapter.d_mlp)
    logits, features = [], []
    # One of the prompts in a pass is the untouched one.
    every = torch.arange(len(writes), device=writes.device)
    for part in torch.split(every, max(1, prompts - 1)):
        ctx.check()
        found = _measure_pass(local, targets, layers[part], positions[part], writes[part])
        logits.append(found[0])
        features.append(found[1])
    return torch.cat(logits), torch.cat(features)


def _measure_pass(
    local: LocalModel, targets: Targets, layers: Tensor, positions: Tensor, writes: Tensor
) -> tuple[Tensor, Tensor]:
    """``_measure`` for as many writes as go into one batch."""
    adapter, features = local.adapter, local.features
    n = len(writes)
    pre = writes.new_zeros(n + 1, len(features))

    def edit(layer: int) -> MlpReplacement:
        def function(inputs: Tensor, outputs: Tensor) -> Tensor:
            here = features.of_layer(layer)
            read = inputs[:, features.position[here]]
            pre[:, here] = (read * features.encoder[here]).sum(-1) + features.encoder_bias[here]
            changed = outputs.clone()
            mine = torch.nonzero(layers == layer).squeeze(-1)
            changed[mine, positions[mine]] += writes[mine]
            return changed

        return function

    # The last row of the batch is the untouched model, so that both sides round alike.
    batch = torch.tensor([local.ids] * (n + 1), device=adapter.device)
    with adapter.replaced_mlps({layer: edit(layer) for layer in range(adapter.n_layers)}):
        normed = adapter.final_normed(batch)
    chosen = torch.einsum("nkd,kd->nk", normed[:, targets.positions], targets.directions)
    return chosen[:n] - chosen[n], pre[:n] - pre[n]


def _freeze_gap(local: LocalModel, targets: Targets, chosen: Tensor) -> float:
    """Largest |edge - change under all freezes| of the chosen sources, over the largest edge."""
    features = local.features
    writes = features.decoder[chosen] * features.activation[chosen].unsqueeze(-1)
    response = local.push(
        features.layer[chosen], features.position[chosen], writes, features_respond=False
    )
    changes = torch.cat(
        [_logit_changes(local, targets, response.resid_final), response.features], 1
    )
    every = Targets(targets.directions, targets.direction_bias, targets.positions, chosen)
    edges = edges_into(local, every).weights[:, chosen].T
    columns = torch.cat(
        [torch.arange(len(targets.directions)), len(targets.directions) + chosen.cpu()]
    )
    gap = (edges - changes[:, columns.to(changes.device)]).abs().max()
    return float(gap / edges.abs().max().clamp_min(1e-30))
