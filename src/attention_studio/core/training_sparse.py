"""Gradients where few latents are active: TopK and BatchTopK.

Only the active latents take part, so the decoder product, the gradient to the latents and both
weight gradients are sums over a few rows instead of dense products. Which latents are active may be
decided in bfloat16 (``core.training_selection``); all values and gradients are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.activation_functions import selection_weight
from attention_studio.core.dictionaries.transcoder import bag_offsets, bag_rows
from attention_studio.core.micro_steps import slices
from attention_studio.core.training_products import products_at
from attention_studio.core.training_road import Road, RoadBatch
from attention_studio.core.training_selection import Ranking, RunningThreshold


@dataclass
class _Active:
    """Sparse latents of one token chunk; ``token`` and ``row`` (of the inputs, of which a token has
    G) count within the batch."""

    token: Tensor
    row: Tensor
    latent: Tensor
    value: Tensor
    gradient: Tensor


class SparseRoad(Road):
    """See ``Road``.

    Args:
        batch: as there.
        threshold_seen: whether BatchTopK's running mean has started.
        in_parts: whether other processes have other parts of the batch.
    """

    def __init__(self, batch: RoadBatch, threshold_seen: bool, in_parts: bool = False) -> None:
        super().__init__(batch)
        t = self._t
        if t.config.activation == "batchtopk":
            assert t.threshold is not None  # BatchTopK is built with one
            self.threshold = RunningThreshold(t.threshold, threshold_seen, in_parts)
        self._ranking = Ranking(
            t.config.activation, t.W_E, t.b_E, self.threshold, self._scratch.low_encoder
        )
        self._active: list[_Active] = []

    def prepare(self) -> Iterator[None]:
        """See ``Road``."""
        weight: Optional[Tensor] = None
        if self._t.config.norm_aware:
            norms = yield from self._decoder_norms()
            weight = selection_weight(norms / self._t.output_scale)
        yield from self._ranking.prepare(weight, self._settings.row_chunk)

    def chunk(
        self, lo: int, hi: int, y: Tensor, input_gradient: Optional[Tensor]
    ) -> Iterator[None]:
        """See ``Road``."""
        t, stats, groups = self._t, self._stats, self._scratch.groups
        x, g = self._scratch.x[lo:hi], self._scratch.error_gradient[lo:hi]
        pre = self._scratch.activations[: hi - lo]
        yield from self._ranking.products(x, pre)
        token, latent, value = self._ranking.choose(pre, self._settings.k, ascending=groups > 1)
        offsets = bag_offsets(token, hi - lo)
        row, row_offsets = token, offsets
        if groups > 1:
            row = token * groups + latent // self._group_size
            row_offsets = bag_offsets(row, (hi - lo) * groups)
        if value is None:
            value = self._ranking.values(row_offsets, latent, x.flatten(0, 1))
        yield None
        prediction = bag_rows(t.W_D, latent, offsets, value).add_(t.b_D)
        error = self._compare(lo, hi, prediction, y)
        positive = value > 0
        gradient = products_at(offsets, latent, g, t.W_D) * positive
        stats.active += positive.sum()
        stats.fired[latent[positive]] = True
        self._active.append(_Active(token + lo, row + lo * groups, latent, value, gradient))
        yield None
        if input_gradient is not None:
            rows = bag_rows(t.W_E, latent, row_offsets, gradient)
            input_gradient.copy_(rows.view(input_gradient.shape))
            yield None
        if self._aux is not None:
            if self._scratch.low_encoder is None:
                aux_pre = self._aux.gather(pre)
            else:
                aux_pre = yield from self._aux.exact(x)
            yield from self._aux.chunk(lo, aux_pre, error, stats, input_gradient)

    def rows(self, n: int) -> Iterator[None]:
        """See ``Road``."""
        x, g = self._scratch.x[:n], self._scratch.error_gradient[:n]
        gradients = self._scratch.gradients
        s = self._t.config.d_latent
        latent = torch.cat([part.latent for part in self._active])
        # By latent, then by token: every latent's row is then one sum over its own tokens.
        latent, order = latent.sort(stable=True)
        token = torch.cat([part.token for part in self._active])[order]
        row = token
        if self._scratch.groups > 1:
            row = torch.cat([part.row for part in self._active])[order]
        value = torch.cat([part.value for part in self._active])[order]
        gradient = torch.cat([part.gradient for part in self._active])[order]
        offsets = bag_offsets(latent, s)
        gradients["b_E"].zero_().index_add_(0, latent, gradient)
        bounds = offsets[:: self._settings.row_chunk].tolist()
        yield None
        for i, r in enumerate(slices(s, self._settings.row_chunk)):
            start = bounds[i]
            stop = bounds[i + 1] if i + 1 < len(bounds) else latent.numel()
            part, local = slice(start, stop), offsets[r.start : r.stop + 1] - start
            gradients["W_D"][r] = bag_rows(g, token[part], local, value[part])
            gradients["W_E"][r] = bag_rows(x.flatten(0, 1), row[part], local, gradient[part])
            yield None
            if self._aux is not None:
                yield from self._aux.add_rows(r, gradients, x)
