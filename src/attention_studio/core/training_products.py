"""Pre-activations in a training step: all of them, in micro-steps, or some."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from attention_studio.core.micro_steps import grouped_pieces

# PyTorch says once per process that CSR tensors are in beta. Have it said here, to nobody.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 1], [0], [1.0], check_invariants=False)


def encode(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Iterator[None]:
    """``x·Wᵀ + b`` in the type of ``weight``; yields between micro-steps.

    Args:
        x: ``[n, G, d]``; the latents come in G equal groups, and group g reads input g.
        weight: ``[s, d]``.
        bias: ``[s]``, of the same type.
        out: is filled, ``[n, s]``, of the same type.
    """
    size = x.shape[0] * x.shape[2]
    if weight.dtype != x.dtype:
        x, size = x.to(weight.dtype), size // 2  # see MICRO_STEP_FLOPS
    for group, r in grouped_pieces(0, weight.shape[0], weight.shape[0] // x.shape[1], size):
        torch.addmm(bias[r], x[:, group], weight[r].t(), out=out[:, r])
        yield None


def products_at(offsets: Tensor, latent: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T`` at some places only: ``out[j] = left[i]·right[latent[j]]``, j in row i.

    Args:
        offsets: int64 ``[n + 1]``; row i has the entries ``offsets[i]:offsets[i + 1]``.
        latent: int64 ``[m]``.
        left: ``[n, d]``.
        right: ``[s, d]``.

    Returns:
        ``[m]``.
    """
    entries = torch.sparse_csr_tensor(
        offsets,
        latent,
        left.new_zeros(latent.shape[0]),  # β = 0 still lets NaN through
        (left.shape[0], right.shape[0]),
        check_invariants=False,
    )
    found: Tensor = torch.sparse.sampled_addmm(entries, left, right.t(), beta=0.0).values()
    return found
