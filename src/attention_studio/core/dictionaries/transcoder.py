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

from attention_studio.core.dictionaries import activation_functions
from attention_studio.core.dictionaries.transcoder_config import TranscoderConfig
from attention_studio.utils.errors import StudioError

__all__ = [
    "SparseLatents",
    "Transcoder",
    "TranscoderConfig",
    "UnfoldedDictionaryError",
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


class Transcoder(nn.Module):
    """A per-layer transcoder.

    Attributes:
        W_E: encoder ``[s, d]``, one row per latent (the papers' W_E transposed).
        b_E: ``[s]``.
        W_D: decoder ``[s, d]``, one row per latent.
        b_D: ``[d]``.
        W_skip: ``[d, d]`` or None; adds ``x @ W_skip``.
        threshold: ``[s]`` for JumpReLU, a scalar for BatchTopK (the running mean of what training
            selected), else None.
        input_scale, output_scale: scalars by which ``x`` and ``y`` were multiplied in training;
            1 once folded. ``forward`` takes and returns raw activations either way.

    A new transcoder has zero weights; ``core.training_init`` gives it a start and
    ``core.dictionaries.crm_folder`` loads a trained one.
    """

    threshold: Optional[Tensor]
    input_scale: Tensor
    output_scale: Tensor

    def __init__(self, config: TranscoderConfig) -> None:
        super().__init__()
        self.config = config
        s, d = config.d_latent, config.d_model
        self.W_E = nn.Parameter(torch.zeros(s, d), requires_grad=False)
        self.b_E = nn.Parameter(torch.zeros(s), requires_grad=False)
        self.W_D = nn.Parameter(torch.zeros(s, d), requires_grad=False)
        self.b_D = nn.Parameter(torch.zeros(d), requires_grad=False)
        self.W_skip: Optional[nn.Parameter] = None
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(d, d), requires_grad=False)
        if config.activation == "jumprelu":
            self.threshold = nn.Parameter(torch.zeros(s), requires_grad=False)
        elif config.activation == "batchtopk":
            self.register_buffer("threshold", torch.zeros(()))
        else:
            self.threshold = None
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("output_scale", torch.ones(()))

    @property
    def is_folded(self) -> bool:
        """Whether the weights work on raw activations without the training scales."""
        return self.input_scale.item() == 1.0 and self.output_scale.item() == 1.0

    def pre_activations(self, x: Tensor) -> Tensor:
        """``x [..., d]`` → ``x·W_Eᵀ + b_E``, ``[..., s]``."""
        return nn.functional.linear(x * self.input_scale, self.W_E, self.b_E)

    def activate(self, pre: Tensor) -> Tensor:
        """The activation function alone: pre-activations ``[..., s]`` → activations."""
        if self.config.activation == "relu":
            return activation_functions.relu(pre)
        if self.config.activation == "topk":
            return activation_functions.topk(pre, self.config.k)
        assert self.threshold is not None  # both other kinds are built with one
        return activation_functions.jumprelu(pre, self.threshold)

    def encode(self, x: Tensor) -> Tensor:
        """``x [..., d]`` → activations ``f [..., s]``."""
        return self.activate(self.pre_activations(x))

    def encode_sparse(self, x: Tensor) -> SparseLatents:
        """The active latents of ``x [n, d]``."""
        activations = self.encode(x)
        token, latent = activations.nonzero(as_tuple=True)
        return SparseLatents(token, latent, activations[token, latent])

    def decode(self, f: Tensor, x: Optional[Tensor] = None) -> Tensor:
        """Activations ``f [..., s]`` → prediction ``[..., d]``.

        Raises:
            ValueError: if there is a skip connection and ``x`` is not given.
        """
        return self._finish(f @ self.W_D, x)

    def decode_sparse(self, latents: SparseLatents, n: int, x: Optional[Tensor] = None) -> Tensor:
        """As ``decode``, from the active latents of ``n`` tokens: only their rows are read."""
        counts = torch.bincount(latents.token, minlength=n)
        offsets = torch.zeros(n + 1, dtype=torch.int64, device=counts.device)
        torch.cumsum(counts, 0, out=offsets[1:])
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
        self.W_D.div_(self.output_scale)
        self.b_D.div_(self.output_scale)
        if self.W_skip is not None:
            self.W_skip.mul_(self.input_scale / self.output_scale)
        self.input_scale.fill_(1.0)
        self.output_scale.fill_(1.0)

    def _finish(self, y: Tensor, x: Optional[Tensor]) -> Tensor:
        y = y + self.b_D
        if self.W_skip is not None:
            if x is None:
                raise ValueError("a transcoder with a skip connection decodes with its input")
            y = y + (x * self.input_scale) @ self.W_skip
        return y / self.output_scale


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
