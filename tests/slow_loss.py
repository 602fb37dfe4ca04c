"""The training loss as one would write it down, for autograd: slow, dense and obvious."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.training_config import StepSettings
from tests.straight_through import JumpReLU, Step


def activations(
    kind: ActivationKind,
    pre: Tensor,
    threshold: Optional[Tensor],
    settings: StepSettings,
    groups: Sequence[int],
    weight: Optional[Tensor] = None,
) -> Tensor:
    """What is active in training, ``[n, s]``.

    Args:
        groups: numbers of tokens among which BatchTopK selects.
        weight: ``[s]``, of what is ranked.
    """
    keys = pre.detach() if weight is None else pre.detach() * weight
    if kind == "relu":
        return pre.relu()
    if kind == "topk":
        kept = torch.zeros_like(pre).scatter(1, keys.topk(settings.k, dim=1).indices, 1.0)
        return pre.relu() * kept
    if kind == "batchtopk":
        found = []
        for part, key in zip(pre.split(list(groups)), keys.split(list(groups)), strict=True):
            least = key.relu().flatten().topk(settings.k * len(part)).values[-1]
            found.append(part.relu() * (key >= least))
        return torch.cat(found)
    active: Tensor = JumpReLU.apply(pre, threshold, settings.bandwidth)
    return active


def whole_loss(
    kind: ActivationKind,
    pre: Tensor,
    f: Tensor,
    prediction: Tensor,
    y: Tensor,
    decoder: Tensor,
    threshold: Optional[Tensor],
    dead: Tensor,
    settings: StepSettings,
) -> Tensor:
    """Error, AuxK and sparsity together, per token."""
    error = prediction - y
    loss = error.square().sum(1).mean()
    z = pre[:, dead].relu()
    if settings.auxk < dead.numel():
        z = z * torch.zeros_like(z).scatter(1, z.topk(settings.auxk, dim=1).indices, 1.0)
    residual = z @ decoder[dead] + error.detach()
    loss = loss + settings.auxk_coefficient * residual.square().sum(1).mean()
    if kind == "relu":
        loss = loss + settings.l1 * (f * decoder.norm(dim=1)).sum(1).mean()
    if kind == "jumprelu":
        count = Step.apply(pre.detach(), threshold, settings.bandwidth).sum(1).mean()
        loss = loss + settings.l0 * count
    return loss
