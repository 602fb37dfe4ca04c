"""Loss and gradients of one batch, written out by hand and cut into micro-steps.

No autograd: only the active latents take part in TopK and BatchTopK, so the decoder product, the
gradient to the latents and both weight gradients are sums over a few rows instead of dense
products. ReLU and JumpReLU fire too many latents early in training for that, and go through dense
products.

With scaled activations x, y, N tokens and the sum over d:

    L = 1/N · Σ‖ŷ − y‖²  +  α/N · Σ‖z·W_D + (ŷ − y)‖²  +  sparsity

The middle term is AuxK (Gao et al. 2024): z are the strongest dead latents of a token and the
error ``ŷ − y`` is a constant in it. Sparsity is ``λ/N · Σ f·‖W_D row‖`` for ReLU and ``λ/N · L0``
for JumpReLU, whose step has a rectangle kernel K of width ε for a derivative (Rajamanoharan et al.
2024): ``∂f/∂θ = −θ/ε · K((a−θ)/ε)`` and ``∂L0/∂θ = −1/ε · K((a−θ)/ε)``.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.activation_functions import (
    batchtopk_entries,
    topk_entries,
)
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig, bag_rows
from attention_studio.core.training_config import StepSettings

# PyTorch says once per process that CSR tensors are in beta. Have it said here, to nobody.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 1], [0], [1.0], check_invariants=False)

MICRO_STEP_FLOPS = 7e8
"""About 5 ms on two desktop cores in float32. A constant, so that results depend on no clock."""


class StepScratch:
    """Working memory of a step. Layers are trained one after the other, so they share it.

    Args:
        config: shape of the transcoders.
        batch_tokens: tokens per batch (N).
        token_chunk: tokens per micro-step.
    """

    def __init__(
        self,
        config: TranscoderConfig,
        batch_tokens: int,
        token_chunk: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        s, d = config.d_latent, config.d_model
        self.dense = config.activation in ("relu", "jumprelu")
        self.x = torch.empty(batch_tokens, d, device=device, dtype=dtype)
        self.error_gradient = torch.empty_like(self.x)
        rows = batch_tokens if self.dense else token_chunk
        self.activations = torch.empty(rows, s, device=device, dtype=dtype)
        self.latent_gradient = torch.empty_like(self.activations) if self.dense else None
        self.gradients = {
            name: torch.zeros(shape, device=device, dtype=dtype)
            for name, shape in trained_shapes(config).items()
        }


def trained_shapes(config: TranscoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tensors that gradient descent changes."""
    return {
        name: shape
        for name, shape in config.tensor_shapes().items()
        if not name.endswith("_scale")
        and not (name == "threshold" and config.activation == "batchtopk")
    }


@dataclass
class BatchStatistics:
    """Sums over the tokens of a batch, kept on the device until somebody asks."""

    tokens: int
    error: Tensor
    aux: Tensor
    sparsity: Tensor
    target: Tensor
    target_square: Tensor
    active: Tensor
    fired: Tensor

    @classmethod
    def empty(cls, tokens: int, like: Transcoder) -> BatchStatistics:
        """All zero."""
        zero = torch.zeros((), device=like.W_E.device, dtype=torch.float64)
        return cls(
            tokens=tokens,
            error=zero.clone(),
            aux=zero.clone(),
            sparsity=zero.clone(),
            target=torch.zeros(like.b_D.shape, device=zero.device, dtype=torch.float64),
            target_square=zero.clone(),
            active=zero.clone(),
            fired=torch.zeros(like.b_E.shape, device=zero.device, dtype=torch.bool),
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


@dataclass
class _Active:
    """Sparse latents of one token chunk; ``token`` counts within the batch."""

    token: Tensor
    latent: Tensor
    value: Tensor
    gradient: Tensor


class BatchGradients:
    """Fills ``scratch.gradients`` for one batch; ``run`` yields between micro-steps.

    Args:
        transcoder: the unfolded transcoder; BatchTopK's threshold is updated on the way.
        scratch: working memory of the transcoder's shape.
        settings: of this step.
        dead: int64, ascending, latents that count as dead.
        threshold_seen: whether BatchTopK's running mean has started.
    """

    def __init__(
        self,
        transcoder: Transcoder,
        scratch: StepScratch,
        settings: StepSettings,
        dead: Tensor,
        threshold_seen: bool,
    ) -> None:
        self._t = transcoder
        self._scratch = scratch
        self._settings = settings
        self._dead = dead
        self._threshold_seen = threshold_seen
        self._active: list[_Active] = []
        self._aux: Optional[_AuxK] = None

    def run(self, inputs: Tensor, outputs: Tensor) -> Iterator[Optional[BatchStatistics]]:
        """Go through the batch ``inputs``, ``outputs`` ``[N, d]`` (raw activations, any dtype).

        Yields:
            None between micro-steps and the batch's statistics at last.
        """
        n = inputs.shape[0]
        t, scratch = self._t, self._scratch
        stats = BatchStatistics.empty(n, t)
        if self._settings.auxk_coefficient > 0 and self._dead.numel():
            self._aux = _AuxK(t, self._dead, n, self._settings)
            yield None
        decoder_norm = self._start_dense() if scratch.dense else None
        for lo in range(0, n, self._settings.token_chunk):
            hi = min(lo + self._settings.token_chunk, n)
            x = scratch.x[lo:hi].copy_(inputs[lo:hi]).mul_(t.input_scale)
            y = outputs[lo:hi].to(x.dtype, copy=True).mul_(t.output_scale)
            stats.target += y.sum(0)
            stats.target_square += y.square().sum()
            pre = scratch.activations[lo:hi] if scratch.dense else scratch.activations[: hi - lo]
            yield from self._encode(x, pre)
            if decoder_norm is not None:
                yield from self._dense_chunk(lo, hi, pre, y, decoder_norm, stats)
            else:
                yield from self._sparse_chunk(lo, hi, pre, y, stats)
        yield from self._bias_and_skip_gradients(n)
        if decoder_norm is not None:
            yield from self._dense_rows(n, decoder_norm)
        else:
            yield from self._sparse_rows(n)
        yield stats

    # --- phase 1: tokens -------------------------------------------------------------------

    def _encode(self, x: Tensor, pre: Tensor) -> Iterator[None]:
        t = self._t
        for r in _pieces(t.W_E.shape[0], x.numel()):
            torch.addmm(t.b_E[r], x, t.W_E[r].t(), out=pre[:, r])
            yield None

    def _sparse_chunk(
        self, lo: int, hi: int, pre: Tensor, y: Tensor, stats: BatchStatistics
    ) -> Iterator[None]:
        t, g = self._t, self._scratch.error_gradient[lo:hi]
        offsets, latent, value = self._select(pre)
        yield None
        error = bag_rows(t.W_D, latent, offsets, value).add_(t.b_D)
        self._finish_error(error, lo, hi, y, g, stats)
        entries = torch.sparse_csr_tensor(offsets, latent, value, pre.shape, check_invariants=False)
        gradient = torch.sparse.sampled_addmm(entries, g, t.W_D.t(), beta=0.0).values()
        positive = value > 0
        gradient = gradient * positive
        stats.active += positive.sum()
        stats.fired[latent[positive]] = True
        counts = offsets.diff()
        token = torch.arange(lo, hi, device=counts.device).repeat_interleave(counts)
        self._active.append(_Active(token, latent, value, gradient))
        yield None
        if self._aux is not None:
            yield from self._aux.chunk(lo, pre, error, stats)

    def _select(self, pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets ``[n + 1]`` by token, latents and values of the entries that stay."""
        n, s = pre.shape
        k = self._settings.k
        if self._t.config.activation == "topk":
            values, indices = topk_entries(pre, k)
            offsets = torch.arange(0, indices.numel() + 1, indices.shape[1], device=pre.device)
            return offsets, indices.reshape(-1), values.reshape(-1)
        threshold = self._t.threshold
        assert threshold is not None  # BatchTopK is built with one
        flat, value = batchtopk_entries(pre, k, hint=0.8 * float(threshold))
        if value.numel():
            # Running mean of the least selected value: what makes inference independent of
            # which tokens happen to share a batch (Bussmann et al. 2024).
            weight = 0.01 if self._threshold_seen else 1.0
            threshold.lerp_(value.min().to(threshold.dtype), weight)
            self._threshold_seen = True
        offsets = torch.zeros(n + 1, dtype=torch.int64, device=pre.device)
        torch.cumsum(torch.bincount(flat // s, minlength=n), 0, out=offsets[1:])
        return offsets, flat % s, value

    def _finish_error(
        self, error: Tensor, lo: int, hi: int, y: Tensor, g: Tensor, stats: BatchStatistics
    ) -> None:
        """Turn the decoded latents (bias included) into the error, in place, and its gradient."""
        if self._t.W_skip is not None:
            error.addmm_(self._scratch.x[lo:hi], self._t.W_skip)
        error.sub_(y)
        torch.mul(error, 2.0 / stats.tokens, out=g)
        stats.error += error.square().sum()

    def _start_dense(self) -> Tensor:
        self._scratch.gradients["b_E"].zero_()
        if self._t.config.activation == "jumprelu":
            self._scratch.gradients["threshold"].zero_()
        norms: Tensor = torch.linalg.vector_norm(self._t.W_D, dim=1)
        return norms

    def _dense_chunk(
        self,
        lo: int,
        hi: int,
        f: Tensor,
        y: Tensor,
        decoder_norm: Tensor,
        stats: BatchStatistics,
    ) -> Iterator[None]:
        t, g, n = self._t, self._scratch.error_gradient[lo:hi], stats.tokens
        assert self._scratch.latent_gradient is not None  # dense scratch has one
        df = self._scratch.latent_gradient[lo:hi]
        aux_pre = self._aux.gather(f) if self._aux is not None else None
        near: Optional[Tensor] = None
        if t.config.activation == "jumprelu":
            assert t.threshold is not None  # JumpReLU is built with one
            near = (f - t.threshold).abs_() < self._settings.bandwidth / 2
            f.mul_(f > t.threshold)
        else:
            f.relu_()
        yield None
        error = t.b_D.expand(hi - lo, -1).clone()
        for r in _pieces(f.shape[1], g.numel()):
            error.addmm_(f[:, r], t.W_D[r])
            yield None
        self._finish_error(error, lo, hi, y, g, stats)
        for r in _pieces(f.shape[1], g.numel()):
            torch.mm(g, t.W_D[r].t(), out=df[:, r])
            yield None
        positive = f > 0
        stats.active += positive.sum()
        stats.fired |= positive.any(0)
        if near is not None:
            self._threshold_gradient(df, near, n)
            stats.sparsity += self._settings.l0 * positive.sum().double()
        else:
            df.add_(decoder_norm, alpha=self._settings.l1 / n)
            stats.sparsity += self._settings.l1 * (f @ decoder_norm).sum()
        df.mul_(positive)
        self._scratch.gradients["b_E"].add_(df.sum(0))
        yield None
        if self._aux is not None and aux_pre is not None:
            yield from self._aux.chunk(lo, aux_pre, error, stats, gathered=True)

    def _threshold_gradient(self, df: Tensor, near: Tensor, n: int) -> None:
        threshold, width = self._t.threshold, self._settings.bandwidth
        assert threshold is not None  # only called for JumpReLU
        from_error = torch.where(near, df, 0.0).sum(0).mul_(threshold)
        from_count = near.sum(0).to(df.dtype).mul_(self._settings.l0 / n)
        self._scratch.gradients["threshold"].sub_((from_error + from_count) / width)

    # --- phase 2: latents ------------------------------------------------------------------

    def _bias_and_skip_gradients(self, n: int) -> Iterator[None]:
        x, g = self._scratch.x[:n], self._scratch.error_gradient[:n]
        gradients = self._scratch.gradients
        torch.sum(g, 0, out=gradients["b_D"])
        if self._t.W_skip is not None:
            for r in _pieces(x.shape[1], g.numel()):
                torch.mm(x[:, r].t(), g, out=gradients["W_skip"][r])
                yield None

    def _sparse_rows(self, n: int) -> Iterator[None]:
        x, g = self._scratch.x[:n], self._scratch.error_gradient[:n]
        gradients = self._scratch.gradients
        s = self._t.config.d_latent
        latent = torch.cat([part.latent for part in self._active])
        # By latent, then by token: every latent's row is then one sum over its own tokens.
        latent, order = latent.sort(stable=True)
        token = torch.cat([part.token for part in self._active])[order]
        value = torch.cat([part.value for part in self._active])[order]
        gradient = torch.cat([part.gradient for part in self._active])[order]
        offsets = torch.zeros(s + 1, dtype=torch.int64, device=latent.device)
        torch.cumsum(torch.bincount(latent, minlength=s), 0, out=offsets[1:])
        gradients["b_E"].zero_().index_add_(0, latent, gradient)
        bounds = offsets[:: self._settings.row_chunk].tolist()
        yield None
        for i, r in enumerate(_slices(s, self._settings.row_chunk)):
            start = bounds[i]
            stop = bounds[i + 1] if i + 1 < len(bounds) else latent.numel()
            part, local = slice(start, stop), offsets[r.start : r.stop + 1] - start
            gradients["W_D"][r] = bag_rows(g, token[part], local, value[part])
            gradients["W_E"][r] = bag_rows(x, token[part], local, gradient[part])
            yield None
            if self._aux is not None:
                yield from self._aux.add_rows(r, gradients, x)

    def _dense_rows(self, n: int, decoder_norm: Tensor) -> Iterator[None]:
        x, g = self._scratch.x[:n], self._scratch.error_gradient[:n]
        f = self._scratch.activations[:n]
        assert self._scratch.latent_gradient is not None  # dense scratch has one
        df = self._scratch.latent_gradient[:n]
        gradients = self._scratch.gradients
        for r in _slices(f.shape[1], self._settings.row_chunk):
            for piece in _pieces(r.stop - r.start, g.numel(), r.start):
                torch.mm(f[:, piece].t(), g, out=gradients["W_D"][piece])
                yield None
                torch.mm(df[:, piece].t(), x, out=gradients["W_E"][piece])
                yield None
            if self._t.config.activation == "relu":
                # The penalty λ/N·Σ f·‖w‖ pulls each decoder row w along w/‖w‖.
                pull = f[:, r].sum(0) * (self._settings.l1 / n)
                unit = self._t.W_D[r] / decoder_norm[r].clamp_min(1e-30).unsqueeze(1)
                gradients["W_D"][r] += unit * pull.unsqueeze(1)
                yield None
            if self._aux is not None:
                yield from self._aux.add_rows(r, gradients, x)


class _AuxK:
    """The auxiliary loss on dead latents: they reconstruct what is left of the error."""

    def __init__(
        self, transcoder: Transcoder, dead: Tensor, tokens: int, settings: StepSettings
    ) -> None:
        self._dead = dead
        self._decoder = transcoder.W_D[dead]
        self._settings = settings
        self._tokens = tokens
        shape = (tokens, dead.numel())
        self._z = self._decoder.new_empty(shape)
        self._dz = self._decoder.new_empty(shape)
        self._gradient = self._decoder.new_empty(tokens, self._decoder.shape[1])
        self._bounds: list[int] = dead.tolist()

    def gather(self, pre: Tensor) -> Tensor:
        """The dead latents' pre-activations of a chunk, before anything overwrites them."""
        return pre[:, self._dead]

    def chunk(
        self, lo: int, pre: Tensor, error: Tensor, stats: BatchStatistics, gathered: bool = False
    ) -> Iterator[None]:
        """One token chunk: ``pre`` is the whole chunk's, or ``gather``'s if ``gathered``."""
        part = slice(lo, lo + pre.shape[0])
        z = self._z[part]
        z.copy_(pre if gathered else self.gather(pre)).relu_()
        if self._settings.auxk < z.shape[1]:
            values, indices = torch.topk(z, self._settings.auxk, dim=1, sorted=False)
            z.zero_().scatter_(1, indices, values)
        yield None
        residual = error.clone()
        for r in _pieces(z.shape[1], error.numel()):
            residual.addmm_(z[:, r], self._decoder[r])
            yield None
        coefficient = self._settings.auxk_coefficient
        stats.aux += coefficient * residual.square().sum()
        gradient = torch.mul(residual, 2.0 * coefficient / self._tokens, out=self._gradient[part])
        dz = self._dz[part]
        for r in _pieces(z.shape[1], error.numel()):
            torch.mm(gradient, self._decoder[r].t(), out=dz[:, r])
            yield None
        dz.mul_(z > 0)

    def add_rows(self, rows: slice, gradients: dict[str, Tensor], x: Tensor) -> Iterator[None]:
        """Add what the auxiliary loss does to the latents in ``rows``."""
        first, last = (bisect_left(self._bounds, edge) for edge in (rows.start, rows.stop))
        for piece in _pieces(last - first, x.numel(), first):
            latents = self._dead[piece]
            gradients["W_D"].index_add_(0, latents, self._z[:, piece].t() @ self._gradient)
            yield None
            gradients["W_E"].index_add_(0, latents, self._dz[:, piece].t() @ x)
            gradients["b_E"].index_add_(0, latents, self._dz[:, piece].sum(0))
            yield None


def _pieces(size: int, multiplier: int, start: int = 0) -> Iterator[slice]:
    """Slices of ``start … start + size`` whose product of ``2·rows·multiplier`` operations stays
    within one micro-step."""
    rows = max(16, int(MICRO_STEP_FLOPS / (2 * max(multiplier, 1))))
    for s in _slices(size, rows):
        yield slice(s.start + start, s.stop + start)


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
