"""Which latents of a cross-layer transcoder take part in a training batch, position by position.

A step goes over all positions twice: once to decode, once for the gradients. What both passes read
of a position's latents, the active ones and the dead ones that AuxK revives, comes from here.
Selected latents are remembered in between; dense activations are made again, for keeping them would
take a batch of them for every layer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Optional, Union

import torch
from torch import Tensor

from attention_studio.core.clt_latents import DenseBatch, SparseBatch
from attention_studio.core.clt_state import CLTScratch, CLTState
from attention_studio.core.dictionaries.transcoder import bag_offsets
from attention_studio.core.micro_steps import pieces, slices
from attention_studio.core.training_auxk import keep_strongest
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_products import encode
from attention_studio.core.training_selection import Ranking, RunningThreshold


class LatentReader:
    """The latents of one batch. All methods yield between micro-steps.

    Args:
        state: the transcoder; BatchTopK's thresholds are updated on the way.
        scratch: working memory of its shape.
        inputs: raw inputs ``[N, d]`` of each position.
        settings: of this step.
        in_parts: whether other processes have other parts of the batch.

    Attributes:
        tokens: the batch in slices of a micro-step's size.
        thresholds: BatchTopK's, to be settled with the other processes when the batch is done.
        has_dead: whether any position has latents to revive.
    """

    def __init__(
        self,
        state: CLTState,
        scratch: CLTScratch,
        inputs: Sequence[Tensor],
        settings: StepSettings,
        in_parts: bool,
    ) -> None:
        clt = state.clt
        self._state, self._clt, self._scratch, self._settings = state, clt, scratch, settings
        self._inputs = inputs
        self._n = inputs[0].shape[0]
        # Of a small batch, some processes may have nothing, and go through the motions.
        self.tokens = list(slices(self._n, settings.token_chunk)) or [slice(0, 0)]
        silent = state.tokens_since_fired >= settings.dead_after_tokens
        if settings.auxk_coefficient == 0:
            silent = torch.zeros_like(silent)
        self._dead = [row.nonzero().squeeze(1) for row in silent]
        self.has_dead = bool(silent.any())
        self.thresholds: list[RunningThreshold] = []
        if clt.config.activation == "batchtopk":
            assert clt.threshold is not None  # BatchTopK is built with one
            self.thresholds = [
                RunningThreshold(mean, state.steps > 0, in_parts) for mean in clt.threshold
            ]
        self._sparse: list[SparseBatch] = []

    def read(self, i: int) -> Iterator[None]:
        """Put the scaled input of position i into ``scratch.x``."""
        x = self._scratch.x
        for part in self.tokens:
            x[part].copy_(self._inputs[i][part]).mul_(self._clt.input_scale[i])
            yield None

    def active(self, i: int) -> Generator[None, None, Union[SparseBatch, DenseBatch]]:
        """The active latents of position i, whose input is in ``scratch.x``. Those that are sparse
        are kept for ``again``."""
        pre = self._scratch.activations
        if self._scratch.latent_gradient is not None:
            dense = DenseBatch(
                pre[: self._n], self._scratch.latent_gradient[: self._n], self._settings.token_chunk
            )
            for part in self.tokens:
                yield from self.encode(i, part, pre[part])
                self._rectify(i, pre[part])
                yield None
            return dense
        sparse = SparseBatch(pre.shape[1], self._settings.row_chunk)
        ranking = Ranking(
            self._clt.config.activation,
            self._clt.W_E[i],
            self._clt.b_E[i],
            self.thresholds[i] if self.thresholds else None,
            self._scratch.low_encoder,
        )
        yield from ranking.prepare(self._clt.selection_weight(i), self._settings.row_chunk)
        for part in self.tokens:
            x, chunk = self._scratch.x[part], pre[: part.stop - part.start]
            yield from ranking.products(x.unsqueeze(1), chunk)
            token, latent, value = ranking.choose(chunk, self._settings.k)
            offsets = bag_offsets(token, chunk.shape[0])
            if value is None:
                value = ranking.values(offsets, latent, x)
            sparse.add(part, offsets, latent, value)
            yield None
        self._sparse.append(sparse)
        return sparse

    def again(self, i: int) -> Generator[None, None, Union[SparseBatch, DenseBatch]]:
        """As ``active``, once it was asked for all positions."""
        if self._scratch.dense:
            return (yield from self.active(i))
        return self._sparse[i]

    def aux(self, i: int) -> Generator[None, None, Optional[DenseBatch]]:
        """The dead latents of position i that take part, if there are any."""
        dead = self._dead[i]
        if not dead.numel():
            return None
        value, room = self._scratch.aux_room(self._n, dead.numel())
        for r in pieces(dead.numel(), self._settings.token_chunk * self._scratch.x.shape[1]):
            weight, bias = self._clt.W_E[i][dead[r]], self._clt.b_E[i][dead[r]]
            for part in self.tokens:
                torch.addmm(bias, self._scratch.x[part], weight.t(), out=value[part, r])
                yield None
        for part in self.tokens:
            keep_strongest(value[part], self._settings.auxk)
            yield None
        return DenseBatch(value, room, self._settings.token_chunk, subset=dead)

    def encode(self, i: int, tokens: slice, out: Tensor) -> Iterator[None]:
        """Pre-activations of position i at some tokens, into ``out [n, s]``."""
        x = self._scratch.x[tokens].unsqueeze(1)
        return encode(x, self._clt.W_E[i], self._clt.b_E[i], out)

    def _rectify(self, i: int, pre: Tensor) -> None:
        if self._clt.config.activation == "jumprelu":
            assert self._clt.threshold is not None  # JumpReLU is built with one
            pre.mul_(pre > self._clt.threshold[i])
        else:
            pre.relu_()
