"""Per-layer transcoders: sparse, readable stand-ins for one MLP.

A transcoder reads an MLP's input ``x`` (after the norm before the MLP) and predicts what the MLP
adds to the residual stream: ``f = σ(x·W_Eᵀ + b_E)``, ``ŷ = f·W_D + b_D`` and, with a skip
connection, ``+ x·W_skip`` (Dunefsky et al. 2024, arXiv 2406.11944; skip: Paulo et al. 2025,
arXiv 2501.18823).
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from attention_studio.core.dictionaries.sparse_dictionary import SparseDictionary, fixed
from attention_studio.core.dictionaries.transcoder_config import TranscoderConfig
from attention_studio.utils.errors import StudioError

__all__ = [
    "SparseLatents",
    "Transcoder",
    "TranscoderConfig",
    "UnfoldedDictionaryError",
    "bag_offsets",
    "bag_rows",
]


class UnfoldedDictionaryError(StudioError):
    """A dictionary still needs its training scales; raw activations would be misread."""


class SparseLatents(NamedTuple):
    """The active latents of ``n`` tokens, sorted by token, then by latent.

    Attributes:
        token: int64 ``[m]``, row of the input.
        latent: int64 ``[m]``.
        value: ``[m]``, strictly positive activations.
    """

    token: Tensor
    latent: Tensor
    value: Tensor

    @classmethod
    def of(cls, activations: Tensor) -> SparseLatents:
        """The active latents of dense activations ``[n, s]``, which are nowhere negative."""
        token, latent = activations.nonzero(as_tuple=True)
        return cls(token, latent, activations[token, latent])


class Transcoder(SparseDictionary):
    """A per-layer transcoder.

    Attributes:
        W_E: encoder ``[s, d]``, one row per latent (the papers' W_E transposed).
        b_E: ``[s]``.
        W_D: decoder ``[s, d]``, one row per latent.
        b_D: ``[d]``.
        W_skip: ``[d, d]`` or None; adds ``x @ W_skip``.
        threshold, input_scale, output_scale: as in ``SparseDictionary``.

    A new transcoder has zero weights; ``core.training_init`` gives it a start and
    ``core.dictionaries.crm_folder`` loads a trained one.
    """

    config: TranscoderConfig

    def __init__(self, config: TranscoderConfig) -> None:
        super().__init__()
        self.config = config
        s, d = config.d_latent, config.d_model
        self.W_E = fixed(torch.zeros(s, d))
        self.b_E = fixed(torch.zeros(s))
        self.W_D = fixed(torch.zeros(s, d))
        self.b_D = fixed(torch.zeros(d))
        self.W_skip = fixed(torch.zeros(d, d)) if config.skip else None
        self._start_threshold_and_scales()

    @property
    def decoder(self) -> Tensor:
        """``W_D``."""
        return self.W_D

    def pre_activations(self, x: Tensor) -> Tensor:
        """``x [..., d]`` → ``x·W_Eᵀ + b_E``, ``[..., s]``."""
        return nn.functional.linear(x * self.input_scale, self.W_E, self.b_E)

    def encode(self, x: Tensor) -> Tensor:
        """``x [..., d]`` → activations ``f [..., s]``."""
        return self.activate(self.pre_activations(x))

    def encode_sparse(self, x: Tensor) -> SparseLatents:
        """The active latents of ``x [n, d]``."""
        return SparseLatents.of(self.encode(x))

    def decode(self, f: Tensor, x: Optional[Tensor] = None) -> Tensor:
        """Activations ``f [..., s]`` → prediction ``[..., d]``.

        Raises:
            ValueError: if there is a skip connection and ``x`` is not given.
        """
        return self._finish(f @ self.W_D, x)

    def decode_sparse(self, latents: SparseLatents, n: int, x: Optional[Tensor] = None) -> Tensor:
        """As ``decode``, from the active latents of ``n`` tokens: only their rows are read."""
        offsets = bag_offsets(latents.token, n)
        return self._finish(bag_rows(self.W_D, latents.latent, offsets, latents.value), x)

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., d]`` → prediction of the MLP's output, ``[..., d]``."""
        return self.decode(self.encode(x), x)

    @torch.no_grad()
    def fold(self) -> None:
        """Absorb the training scales into the weights.

        With ``x·a`` and ``y·c`` seen in training: ``W_E ← a·W_E``, ``W_D ← W_D/c``,
        ``b_D ← b_D/c``, ``W_skip ← W_skip·a/c``. Pre-activations stay what they were, so the
        thresholds of JumpReLU and BatchTopK stay right as they are. Folding twice changes nothing.
        """
        self.W_E.mul_(self.input_scale)
        if self.W_skip is not None:
            self.W_skip.mul_(self.input_scale / self.output_scale)
        self._fold_outputs()

    def _finish(self, y: Tensor, x: Optional[Tensor]) -> Tensor:
        y = y + self.b_D
        if self.W_skip is not None:
            if x is None:
                raise ValueError("a transcoder with a skip connection decodes with its input")
            y = y + (x * self.input_scale) @ self.W_skip
        return y / self.output_scale


def bag_offsets(bag: Tensor, bags: int) -> Tensor:
    """Where each bag begins and ends, for ``bag_rows``: ``[bags + 1]`` from the ascending bag
    numbers ``[m]`` of its entries."""
    offsets = torch.zeros(bags + 1, dtype=torch.int64, device=bag.device)
    torch.cumsum(torch.bincount(bag, minlength=bags), 0, out=offsets[1:])
    return offsets


def bag_rows(rows: Tensor, index: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Sums of weighted rows: ``out[b] = Σ weight[j]·rows[index[j]]``, j in bag b.

    Args:
        rows: ``[r, d]``.
        index: int64 ``[m]``, rows in order of the bags.
        offsets: int64 ``[bags + 1]``; bag b is ``index[offsets[b]:offsets[b + 1]]``.
        weight: ``[m]``.

    Returns:
        ``[bags, d]``; an empty bag gives zeros.
    """
    summed: Tensor = torch.embedding_bag(rows, index, offsets, False, 0, False, weight, True)[0]
    return summed
