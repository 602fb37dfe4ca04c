"""AuxK: what keeps latents from dying for good.

The strongest dead latents z of a token reconstruct what the others leave of its error, which is a
constant in this (Gao et al. 2024, arXiv 2406.04093): ``α/N · Σ‖z·W_D + (ŷ − y)‖²``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterator
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.batch_statistics import BatchStatistics
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.micro_steps import pieces, slices
from attention_studio.core.training_config import StepSettings


class AuxK:
    """The auxiliary loss of one batch. ``prepare`` comes first.

    Args:
        transcoder: as it is before the update.
        dead: int64, ascending.
        tokens: of the batch, or of the part of it that is here.
        groups: number of inputs per token (see ``StepScratch``).
    """

    def __init__(
        self, transcoder: Transcoder, dead: Tensor, tokens: int, settings: StepSettings, groups: int
    ) -> None:
        self._t = transcoder
        self._dead = dead
        self._bias = transcoder.b_E[dead]
        self._encoder = transcoder.W_E.new_empty(dead.numel(), transcoder.W_E.shape[1])
        self._decoder = torch.empty_like(self._encoder)
        self._settings = settings
        shape = (tokens, dead.numel())
        self._z = self._decoder.new_empty(shape)
        self._dz = self._decoder.new_empty(shape)
        self._gradient = self._decoder.new_empty(tokens, self._decoder.shape[1])
        self._bounds: list[int] = dead.tolist()
        self._groups = groups
        self._group_size = transcoder.config.d_latent // groups

    def prepare(self) -> Iterator[None]:
        """Gather the dead latents' weights; yields between micro-steps."""
        for r in slices(self._dead.numel(), self._settings.row_chunk):
            self._encoder[r] = self._t.W_E[self._dead[r]]
            yield None
            self._decoder[r] = self._t.W_D[self._dead[r]]
            yield None

    def gather(self, pre: Tensor) -> Tensor:
        """The dead latents' pre-activations of a chunk, before anything overwrites them."""
        return pre[:, self._dead]

    def exact(self, x: Tensor) -> Generator[None, None, Tensor]:
        """The same, from the chunk's inputs ``[n, G, d]``; yields between micro-steps."""
        found = x.new_empty(x.shape[0], self._dead.numel())
        for group, part in self._parts(0, self._groups * self._group_size):
            inputs = x[:, group]
            for r in pieces(part.stop - part.start, inputs.numel(), part.start):
                torch.addmm(self._bias[r], inputs, self._encoder[r].t(), out=found[:, r])
                yield None
        return found

    def chunk(
        self,
        lo: int,
        pre: Tensor,
        error: Tensor,
        stats: BatchStatistics,
        input_gradient: Optional[Tensor],
    ) -> Iterator[None]:
        """One token chunk.

        Args:
            pre: what ``gather`` or ``exact`` gave.
            error: ``ŷ − y``, ``[n, d]``.
            input_gradient: ``[n, G, d]``, to which this loss's gradient at the scaled inputs is
                added.
        """
        tokens = slice(lo, lo + pre.shape[0])
        z = self._z[tokens]
        keep_strongest(z.copy_(pre), self._settings.auxk)
        yield None
        residual = error.clone()
        for r in pieces(z.shape[1], error.numel()):
            residual.addmm_(z[:, r], self._decoder[r])
            yield None
        coefficient = self._settings.auxk_coefficient
        stats.aux += coefficient * residual.square().sum()
        gradient = torch.mul(residual, 2.0 * coefficient / stats.tokens, out=self._gradient[tokens])
        dz = self._dz[tokens]
        for r in pieces(z.shape[1], error.numel()):
            torch.mm(gradient, self._decoder[r].t(), out=dz[:, r])
            yield None
        dz.mul_(z > 0)
        if input_gradient is not None:
            for group, part in self._parts(0, self._groups * self._group_size):
                for r in pieces(part.stop - part.start, error.numel(), part.start):
                    input_gradient[:, group].addmm_(dz[:, r], self._encoder[r])
                    yield None

    def add_rows(self, rows: slice, gradients: dict[str, Tensor], x: Tensor) -> Iterator[None]:
        """Add what the auxiliary loss does to the latents in ``rows``, for inputs
        ``x [N, G, d]``."""
        for group, part in self._parts(rows.start, rows.stop):
            for r in pieces(part.stop - part.start, self._gradient.numel(), part.start):
                latents = self._dead[r]
                gradients["W_D"].index_add_(0, latents, self._z[:, r].t() @ self._gradient)
                yield None
                gradients["W_E"].index_add_(0, latents, self._dz[:, r].t() @ x[:, group])
                gradients["b_E"].index_add_(0, latents, self._dz[:, r].sum(0))
                yield None

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Groups that have dead latents in ``start … stop``, and where those are in ``dead``."""
        while start < stop:
            group = start // self._group_size
            end = min(stop, (group + 1) * self._group_size)
            first, last = (bisect_left(self._bounds, edge) for edge in (start, end))
            if first < last:
                yield group, slice(first, last)
            start = end


def keep_strongest(z: Tensor, k: int) -> None:
    """From pre-activations of dead latents ``[n, m]`` to the activations that take part, in place:
    of each token the ``k`` largest, if they are positive."""
    z.relu_()
    if k < z.shape[1]:
        values, indices = torch.topk(z, k, dim=1, sorted=False)
        z.zero_().scatter_(1, indices, values)
