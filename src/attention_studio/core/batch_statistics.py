"""What a training step learns about its own batch on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_studio.core.distributed import Peers


@dataclass
class BatchStatistics:
    """Sums over the tokens of a batch, kept on the device until somebody asks.

    Where processes have parts of a batch, ``tokens`` are those of the whole all along, and the sums
    become those of the whole by ``add_up_statistics``.
    """

    tokens: int
    error: Tensor
    aux: Tensor
    sparsity: Tensor
    target: Tensor
    target_square: Tensor
    active: Tensor
    fired: Tensor

    @classmethod
    def empty(cls, tokens: int, d: int, s: int, device: torch.device) -> BatchStatistics:
        """All zero, for outputs of width ``d`` and ``s`` latents."""
        zero = torch.zeros((), device=device, dtype=torch.float64)
        return cls(
            tokens=tokens,
            error=zero.clone(),
            aux=zero.clone(),
            sparsity=zero.clone(),
            target=torch.zeros(d, device=device, dtype=torch.float64),
            target_square=zero.clone(),
            active=zero.clone(),
            fired=torch.zeros(s, device=device, dtype=torch.bool),
        )

    @property
    def loss(self) -> float:
        """The whole loss, per token."""
        return float((self.error + self.aux + self.sparsity).item()) / self.tokens

    @property
    def fvu(self) -> float:
        """Unexplained share of the variance of this batch's targets."""
        spread = self.target_square - self.target.square().sum() / self.tokens
        return float(self.error.item()) / max(float(spread.item()), 1e-30)

    @property
    def l0(self) -> float:
        """Active latents per token."""
        return float(self.active.item()) / self.tokens


def add_up_statistics(found: Sequence[BatchStatistics], peers: Peers) -> None:
    """From the sums over parts of a batch to those over the whole, module by module."""
    for one in found:
        numbers = [one.error, one.aux, one.sparsity, one.target_square, one.active]
        everything = torch.cat([torch.stack(numbers), one.target, one.fired.double()])
        peers.add_up([everything])
        for number, total in zip(numbers, everything[: len(numbers)], strict=True):
            number.copy_(total)
        width = one.target.shape[0]
        one.target.copy_(everything[len(numbers) : len(numbers) + width])
        one.fired.copy_(everything[len(numbers) + width :] > 0)
