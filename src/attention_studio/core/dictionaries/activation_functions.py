"""The sparse activation functions, on pre-activations ``[..., s]``.

Every function returns dense activations of the same shape. They say what a dictionary does when it
is *used*; how each is trained is in ``core.training_step``.

TopK and BatchTopK rank latents by their pre-activations, or, with a ``weight`` for each latent, by
the product of both: a latent that writes a long row says more by the same activation.

Sources: TopK, Gao et al. 2024 (arXiv 2406.04093); BatchTopK, Bussmann et al. 2024 (arXiv
2412.06410); JumpReLU, Rajamanoharan et al. 2024 (arXiv 2407.14435).
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.transcoder_config import ActivationKind


def activate(
    kind: ActivationKind,
    pre: Tensor,
    k: int,
    threshold: Optional[Tensor],
    weight: Optional[Tensor] = None,
) -> Tensor:
    """The activation function of a dictionary in use: ``pre [..., s]`` → activations.

    Args:
        k: latents that TopK keeps; has no part in the others.
        threshold: ``[s]`` for JumpReLU, a scalar for BatchTopK; has no part in the others.
        weight: ``[s]`` of what is ranked (``selection_weight``), for TopK and BatchTopK.
    """
    if kind == "relu":
        return relu(pre)
    if kind == "topk":
        return topk(pre, k, weight)
    assert threshold is not None  # dictionaries of both other kinds are built with one
    return jumprelu(pre, threshold, weight)


_LEAST_WEIGHT = 0.1


def selection_weight(decoder_norms: Tensor) -> Tensor:
    """What pre-activations are multiplied by before they are ranked by decoder norm, ``[s]``.

    The norm in units of the mean norm, which a common factor in all norms (folding) does not
    change, and never below a tenth, so that a latent whose row is still short can be selected and
    grow. All ones while every norm is zero.
    """
    mean = decoder_norms.mean()
    ones = torch.ones_like(decoder_norms)
    return torch.where(mean > 0, (decoder_norms / mean).clamp_min(_LEAST_WEIGHT), ones)


def relu(pre: Tensor) -> Tensor:
    """``max(pre, 0)``."""
    return torch.relu(pre)


def topk(pre: Tensor, k: int, weight: Optional[Tensor] = None) -> Tensor:
    """ReLU first, then the ``k`` largest of each row; all others are zero.

    A row with fewer than ``k`` positive pre-activations keeps fewer than ``k`` latents.
    """
    values, indices = topk_entries(pre, k, weight)
    return torch.zeros_like(pre).scatter(-1, indices, values)


def topk_entries(pre: Tensor, k: int, weight: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row after ReLU: values ``[..., k]`` and indices ``[..., k]``.

    Values may be zero where a row has fewer than ``k`` positive pre-activations. The order within
    a row is unspecified, but the same for the same input.
    """
    # The k largest of the rectified row are the rectified k largest: one pass less over [n, s].
    keys = pre if weight is None else pre * weight
    values, indices = torch.topk(keys, min(k, pre.shape[-1]), dim=-1, sorted=False)
    if weight is not None:
        values = pre.gather(-1, indices)
    return values.relu(), indices


def jumprelu(pre: Tensor, threshold: Tensor, weight: Optional[Tensor] = None) -> Tensor:
    """``pre`` where it (times ``weight``) exceeds ``threshold``, else zero.

    ``threshold`` is ``[s]`` (JumpReLU) or a scalar (BatchTopK at inference); it is not negative,
    so every activation that survives is positive.
    """
    keys = pre if weight is None else pre * weight
    return torch.where(keys > threshold, pre, torch.zeros_like(pre))


def batchtopk_entries(pre: Tensor, k: int, hint: float = 0.0) -> tuple[Tensor, Tensor]:
    """The ``n·k`` largest positive entries of a whole group ``pre [n, s]`` of tokens.

    Of equal entries the first ones are taken: in bfloat16 many are equal.

    Args:
        pre: contiguous pre-activations of the group.
        k: mean number of active latents per token.
        hint: a guess at the smallest value that will be selected. It only saves time: entries
            below it are looked at again if too few lie above it.

    Returns:
        Flat positions in ``pre`` (ascending, int64) and their values, at most ``n·k`` of each.
    """
    flat = pre.view(-1)
    budget = min(k * pre.shape[0], flat.numel())
    candidates = (flat > max(hint, 0.0)).nonzero().squeeze(1)
    if candidates.numel() < budget and hint > 0.0:
        candidates = (flat > 0.0).nonzero().squeeze(1)
    values = flat[candidates]
    if candidates.numel() > budget:
        least = torch.topk(values, budget, sorted=False).values.min()
        above, level = values > least, values == least
        chosen = above | (level & (level.cumsum(0) <= budget - above.sum()))
        candidates, values = candidates[chosen], values[chosen]
    return candidates, values
