"""The latents of one layer over one batch, as decoders and gradients see them.

A layer's latents meet one decoder after the other. For each they are decoded, later they receive
the gradient that comes back through it, and its own gradient is a sum over them. TopK and BatchTopK
latents are few and go through sums of rows; ReLU, JumpReLU and the dead latents of AuxK are dense.
All methods yield between micro-steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.batch_statistics import BatchStatistics
from attention_studio.core.dictionaries.transcoder import bag_offsets, bag_rows
from attention_studio.core.micro_steps import pieces, slices
from attention_studio.core.training_products import products_at


class SparseBatch:
    """Few active latents per token.

    Args:
        n_latents: s.
        row_chunk: latents per micro-step.
    """

    def __init__(self, n_latents: int, row_chunk: int) -> None:
        self._n_latents = n_latents
        self._row_chunk = row_chunk
        self._chunks: list[tuple[slice, Tensor, Tensor, Tensor]] = []
        self._gradients: list[Tensor] = []
        self._by_latent: Optional[_ByLatent] = None

    def add(self, tokens: slice, offsets: Tensor, latent: Tensor, value: Tensor) -> None:
        """The active latents of the next tokens; ``offsets`` as in ``bag_rows``."""
        self._chunks.append((tokens, offsets, latent, value))

    def count(self, stats: BatchStatistics) -> None:
        """Count the latents that are on."""
        for _, _, latent, value in self._chunks:
            positive = value > 0
            stats.active += positive.sum()
            stats.fired[latent[positive]] = True

    def decode(self, decoder: Tensor, out: Tensor) -> Iterator[None]:
        """``out [N, d] += f @ decoder``, ``decoder [s, d]``."""
        for tokens, offsets, latent, value in self._chunks:
            out[tokens] += bag_rows(decoder, latent, offsets, value)
            yield None

    def start_gradient(self) -> Iterator[None]:
        """Before the first ``pull``."""
        self._gradients = [torch.zeros_like(value) for _, _, _, value in self._chunks]
        self._by_latent = _ByLatent(self._chunks, self._n_latents, self._row_chunk)
        yield None

    def pull(self, decoder: Tensor, g: Tensor) -> Iterator[None]:
        """Add what comes back through ``decoder`` from the gradient ``g [N, d]`` of its output."""
        for (tokens, offsets, latent, _), gradient in zip(
            self._chunks, self._gradients, strict=True
        ):
            gradient += products_at(offsets, latent, g[tokens], decoder)
            yield None

    def decoder_gradient(self, g: Tensor, into: Tensor) -> Iterator[None]:
        """``into [s, d] = fᵀ @ g``."""
        assert self._by_latent is not None  # start_gradient has made it
        yield from self._by_latent.sums(self._by_latent.value, g, into)

    def encoder_gradient(self, x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[None]:
        """The gradients of the encoder ``weight [s, d]`` and ``bias [s]``, from all that was
        pulled. Latents that were selected without being positive get none."""
        by_latent = self._by_latent
        assert by_latent is not None  # start_gradient has made it
        gradient = torch.cat(self._gradients)[by_latent.order] * (by_latent.value > 0)
        bias.zero_().index_add_(0, by_latent.latent, gradient)
        yield None
        yield from by_latent.sums(gradient, x, weight)


class _ByLatent:
    """The same entries sorted by latent, then by token: every latent's row is then one sum over
    its own tokens."""

    def __init__(
        self, chunks: list[tuple[slice, Tensor, Tensor, Tensor]], n_latents: int, row_chunk: int
    ) -> None:
        self.latent, self.order = torch.cat([chunk[2] for chunk in chunks]).sort(stable=True)
        self.value = torch.cat([chunk[3] for chunk in chunks])[self.order]
        tokens = [
            torch.arange(part.start, part.stop, device=offsets.device).repeat_interleave(
                offsets.diff()
            )
            for part, offsets, _, _ in chunks
        ]
        self._token = torch.cat(tokens)[self.order]
        self._offsets = bag_offsets(self.latent, n_latents)
        self._row_chunk = row_chunk
        self._rows = list(slices(n_latents, row_chunk))
        edges = self._offsets[::row_chunk].tolist()
        self._edges = [*edges[: len(self._rows)], self.latent.numel()]

    def sums(self, weight: Tensor, rows: Tensor, out: Tensor) -> Iterator[None]:
        """``out[m] = Σ weight·rows[token]`` over latent m's entries."""
        for i, r in enumerate(self._rows):
            part = slice(self._edges[i], self._edges[i + 1])
            local = self._offsets[r.start : r.stop + 1] - self._edges[i]
            out[r] = bag_rows(rows, self._token[part], local, weight[part])
            yield None


class DenseBatch:
    """All latents, or those of ``subset``, of every token.

    Args:
        value: activations ``[N, m]``.
        gradient: room for their gradient, ``[N, m]``.
        token_chunk: tokens per micro-step.
        subset: int64 ``[m]``, ascending: which latents; None: all.
    """

    def __init__(
        self, value: Tensor, gradient: Tensor, token_chunk: int, subset: Optional[Tensor] = None
    ) -> None:
        self.value = value
        self.gradient = gradient
        self._subset = subset
        # Without tokens there is one chunk all the same, and it is empty.
        self._tokens = list(slices(value.shape[0], token_chunk)) or [slice(0, 0)]

    def decode(self, decoder: Tensor, out: Tensor) -> Iterator[None]:
        """``out [N, d] += f @ decoder``, ``decoder [s, d]``."""
        for r, tokens, rows in self._blocks(decoder):
            out[tokens].addmm_(self.value[tokens, r], rows)
            yield None

    def start_gradient(self) -> Iterator[None]:
        """Before the first ``pull``."""
        for tokens in self._tokens:
            self.gradient[tokens].zero_()
            yield None

    def pull(self, decoder: Tensor, g: Tensor) -> Iterator[None]:
        """Add what comes back through ``decoder`` from the gradient ``g [N, d]`` of its output."""
        for r, tokens, rows in self._blocks(decoder):
            self.gradient[tokens, r].addmm_(g[tokens], rows.t())
            yield None

    def decoder_gradient(self, g: Tensor, into: Tensor) -> Iterator[None]:
        """``into [s, d] = fᵀ @ g``; with a subset, added to its rows of ``into``."""
        yield from self._row_products(self.value, g, into)

    def mask(self) -> Iterator[None]:
        """Silent latents have no gradient."""
        for tokens in self._tokens:
            self.gradient[tokens].mul_(self.value[tokens] > 0)
            yield None

    def encoder_gradient(self, x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[None]:
        """The gradients of the encoder ``weight [s, d]`` and ``bias [s]``, from all that was
        pulled; with a subset, added to its rows."""
        sums = self.gradient.new_zeros(self.gradient.shape[1])
        for tokens in self._tokens:
            sums += self.gradient[tokens].sum(0)
            yield None
        if self._subset is None:
            bias.copy_(sums)
        else:
            bias.index_add_(0, self._subset, sums)
        yield from self._row_products(self.gradient, x, weight)

    def _blocks(self, decoder: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Latents, tokens and the latents' rows, small enough for a micro-step each."""
        chunk = self._tokens[0].stop
        for r in pieces(self.value.shape[1], chunk * decoder.shape[1]):
            rows = decoder[r] if self._subset is None else decoder[self._subset[r]]
            for tokens in self._tokens:
                yield r, tokens, rows

    def _row_products(self, left: Tensor, right: Tensor, into: Tensor) -> Iterator[None]:
        for r in pieces(left.shape[1], right.numel()):
            if self._subset is None:
                torch.mm(left[:, r].t(), right, out=into[r])
            else:
                into.index_add_(0, self._subset[r], left[:, r].t() @ right)
            yield None
