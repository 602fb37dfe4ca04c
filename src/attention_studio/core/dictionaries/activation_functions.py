"""The sparse activation functions, on pre-activations ``[..., s]``.

Every function returns dense activations of the same shape. They say what a dictionary does when it
is *used*; how each is trained is in ``core.training_step``.

Sources: TopK, Gao et al. 2024 (arXiv 2406.04093); BatchTopK, Bussmann et al. 2024 (arXiv
2412.06410); JumpReLU, Rajamanoharan et al. 2024 (arXiv 2407.14435).
"""

from __future__ import annotations

import torch
from torch import Tensor


def relu(pre: Tensor) -> Tensor:
    """``max(pre, 0)``."""
    return torch.relu(pre)


def topk(pre: Tensor, k: int) -> Tensor:
    """ReLU first, then the ``k`` largest of each row; all others are zero.

    A row with fewer than ``k`` positive pre-activations keeps fewer than ``k`` latents.
    """
    values, indices = topk_entries(pre, k)
    return torch.zeros_like(pre).scatter(-1, indices, values)


def topk_entries(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row after ReLU: values ``[..., k]`` and indices ``[..., k]``.

    Values may be zero where a row has fewer than ``k`` positive pre-activations. The order within
    a row is unspecified, but the same for the same input.
    """
    # The k largest of the rectified row are the rectified k largest: one pass less over [n, s].
    values, indices = torch.topk(pre, min(k, pre.shape[-1]), dim=-1, sorted=False)
    return values.relu(), indices


def jumprelu(pre: Tensor, threshold: Tensor) -> Tensor:
    """``pre`` where it exceeds ``threshold``, else zero.

    ``threshold`` is ``[s]`` (JumpReLU) or a scalar (BatchTopK at inference); it is not negative,
    so every activation that survives is positive.
    """
    return torch.where(pre > threshold, pre, torch.zeros_like(pre))


def batchtopk_entries(pre: Tensor, k: int, hint: float = 0.0) -> tuple[Tensor, Tensor]:
    """The ``n·k`` largest positive entries of a whole group ``pre [n, s]`` of tokens.

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
        chosen = torch.topk(values, budget, sorted=False).indices.sort().values
        candidates, values = candidates[chosen], values[chosen]
    return candidates, values
