"""Gradients where any number of latents may be active: ReLU and JumpReLU.

They fire too many latents early in training for sums over single rows, so everything is a dense
product. Sparsity in the loss is ``λ/N · Σ f·‖W_D row‖`` for ReLU and ``λ/N · L0`` for JumpReLU,
whose step has a rectangle kernel K of width ε for a derivative (Rajamanoharan et al. 2024):
``∂f/∂θ = −θ/ε · K((a−θ)/ε)`` and ``∂L0/∂θ = −1/ε · K((a−θ)/ε)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.micro_steps import grouped_pieces, pieces, slices
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_products import encode
from attention_studio.core.training_road import Road, RoadBatch


class DenseRoad(Road):
    """See ``Road``."""

    def __init__(self, batch: RoadBatch) -> None:
        super().__init__(batch)
        self._decoder_norm = torch.zeros_like(self._t.b_E)

    def prepare(self) -> Iterator[None]:
        """See ``Road``."""
        self._scratch.gradients["b_E"].zero_()
        if self._t.config.activation == "jumprelu":
            self._scratch.gradients["threshold"].zero_()
        else:
            self._decoder_norm = yield from self._decoder_norms()

    def chunk(
        self, lo: int, hi: int, y: Tensor, input_gradient: Optional[Tensor]
    ) -> Iterator[None]:
        """See ``Road``."""
        t, stats, n = self._t, self._stats, self._stats.tokens
        x, g = self._scratch.x[lo:hi], self._scratch.error_gradient[lo:hi]
        f = self._scratch.activations[lo:hi]
        assert self._scratch.latent_gradient is not None  # dense scratch has one
        df = self._scratch.latent_gradient[lo:hi]
        yield from encode(x, t.W_E, t.b_E, f)
        aux_pre = self._aux.gather(f) if self._aux is not None else None
        near: Optional[Tensor] = None
        if t.config.activation == "jumprelu":
            assert t.threshold is not None  # JumpReLU is built with one
            near = (f - t.threshold).abs_() < self._settings.bandwidth / 2
            f.mul_(f > t.threshold)
        else:
            f.relu_()
        yield None
        prediction = t.b_D.expand(hi - lo, -1).clone()
        for r in pieces(f.shape[1], g.numel()):
            prediction.addmm_(f[:, r], t.W_D[r])
            yield None
        error = self._compare(lo, hi, prediction, y)
        for r in pieces(f.shape[1], g.numel()):
            torch.mm(g, t.W_D[r].t(), out=df[:, r])
            yield None
        positive = f > 0
        stats.active += positive.sum()
        stats.fired |= positive.any(0)
        if near is not None:
            assert t.threshold is not None
            from_error, count = torch.where(near, df, 0.0).sum(0), near.sum(0).to(df.dtype)
            self._scratch.gradients["threshold"].add_(
                threshold_gradient(from_error, count, t.threshold, self._settings, n)
            )
            stats.sparsity += self._settings.l0 * positive.sum().double()
        else:
            df.add_(self._decoder_norm, alpha=self._settings.l1 / n)
            stats.sparsity += self._settings.l1 * (f @ self._decoder_norm).sum()
        df.mul_(positive)
        self._scratch.gradients["b_E"].add_(df.sum(0))
        yield None
        if input_gradient is not None:
            input_gradient.zero_()
            for group, r in grouped_pieces(0, f.shape[1], self._group_size, g.numel()):
                input_gradient[:, group].addmm_(df[:, r], t.W_E[r])
                yield None
        if self._aux is not None and aux_pre is not None:
            yield from self._aux.chunk(lo, aux_pre, error, stats, input_gradient)

    def rows(self, n: int) -> Iterator[None]:
        """See ``Road``."""
        x, g = self._scratch.x[:n], self._scratch.error_gradient[:n]
        f = self._scratch.activations[:n]
        assert self._scratch.latent_gradient is not None  # dense scratch has one
        df = self._scratch.latent_gradient[:n]
        weight = self._settings.l1 / self._stats.tokens
        gradients = self._scratch.gradients
        for r in slices(f.shape[1], self._settings.row_chunk):
            for group, piece in grouped_pieces(r.start, r.stop, self._group_size, g.numel()):
                torch.mm(f[:, piece].t(), g, out=gradients["W_D"][piece])
                yield None
                torch.mm(df[:, piece].t(), x[:, group], out=gradients["W_E"][piece])
                yield None
            if self._t.config.activation == "relu":
                # The penalty λ/N·Σ f·‖w‖ pulls each decoder row w along w/‖w‖.
                pull = f[:, r].sum(0) * weight
                unit = self._t.W_D[r] / self._decoder_norm[r].clamp_min(1e-30).unsqueeze(1)
                gradients["W_D"][r] += unit * pull.unsqueeze(1)
                yield None
            if self._aux is not None:
                yield from self._aux.add_rows(r, gradients, x)


def threshold_gradient(
    from_error: Tensor, count: Tensor, threshold: Tensor, settings: StepSettings, tokens: int
) -> Tensor:
    """The gradient of JumpReLU's thresholds ``[s]``.

    Args:
        from_error: ``[s]``, the sum of the gradients of the activations that lie within the kernel.
        count: ``[s]``, how many these are.
        tokens: of the whole batch.
    """
    from_count = count * (settings.l0 / tokens)
    return -(from_error * threshold + from_count) / settings.bandwidth
