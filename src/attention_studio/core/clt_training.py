"""One optimizer step of a cross-layer transcoder, as a sequence of micro-steps.

With scaled activations, N tokens, position i reading and positions j ≥ i written to:

    L = Σ_j 1/N · Σ‖ŷ_j − y_j‖²  +  Σ_j α/N · Σ‖Σ_{i≤j} z_i·W_D[i→j] + (ŷ_j − y_j)‖²  +  sparsity

z_i are the strongest dead latents of position i; like live ones they write to all positions above
(AuxK, see ``core.training_gradients``). Sparsity is ``λ/N · Σ f·‖decoder rows to all targets‖`` for
ReLU (Ameisen et al. 2025 measure a latent by all that it writes) and ``λ/N · L0`` for JumpReLU.

The decoders are nearly all of the parameters, so no second copy of them exists. One pass over the
pairs of positions decodes; a second one takes each decoder once more, adds what comes back through
it to its latents' gradient, makes its own gradient in a buffer of one decoder's size and updates it
at once. Encoders follow when all their decoders are done. Nothing that is still needed has changed
by then, so the step is the same as with all gradients at hand, with one exception: gradients are
clipped for each decoder and for each encoder (with its biases and thresholds) by itself.

Where latents are ranked by decoder norm, the norms are brought up to date by the same pass: each
decoder is measured as it comes out of its update.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Optional, Union

import torch
from torch import Tensor

from attention_studio.core.batch_statistics import BatchStatistics, add_up_statistics
from attention_studio.core.clt_latents import DenseBatch, SparseBatch
from attention_studio.core.clt_reading import LatentReader
from attention_studio.core.clt_state import CLTScratch, CLTState
from attention_studio.core.distributed import Peers
from attention_studio.core.micro_steps import slices
from attention_studio.core.sites import Site
from attention_studio.core.training_adam import (
    SLICES_PER_MICRO_STEP,
    AdamTensors,
    adam_update,
    norm_of,
)
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_dense import threshold_gradient
from attention_studio.core.training_selection import settle_thresholds
from attention_studio.core.training_step import StepResult

_SLICES_ON_DISK = 4  # per micro-step of Adam, where every page has to be mapped anew


def clt_training_step(
    state: CLTState,
    scratch: CLTScratch,
    rows: Mapping[Site, tuple[Tensor, Tensor]],
    settings: StepSettings,
    peers: Optional[Peers] = None,
) -> Generator[None, None, dict[Site, StepResult]]:
    """Train ``state`` on one batch; yields between micro-steps.

    Args:
        rows: raw inputs and outputs ``[N, d]`` of each of ``state.sites``; the same tokens in the
            same order everywhere.
        peers: processes that have other rows of the same batch. Every gradient is summed over them
            before it is used, so that no more than one decoder's is on its way at any time.

    Returns:
        For each site the loss and FVU of its own output, the activity of its own latents, and the
        norm, before clipping, of the gradients of its encoder and of all its decoders. Losses add
        up to the whole. Abandoning the generator half-way leaves the state unusable: go on, or
        load a checkpoint.
    """
    step = _Step(state, scratch, [rows[site] for site in state.sites], settings, peers)
    yield from step.forward()
    yield from step.errors()
    yield from step.backward()
    return step.results()


class _Step:
    """One step, in three phases."""

    def __init__(
        self,
        state: CLTState,
        scratch: CLTScratch,
        rows: list[tuple[Tensor, Tensor]],
        settings: StepSettings,
        peers: Optional[Peers] = None,
    ) -> None:
        clt = state.clt
        self._state, self._clt, self._scratch, self._settings = state, clt, scratch, settings
        self._rows = rows
        on_disk = state.store.folder is not None
        self._adam_slices = _SLICES_ON_DISK if on_disk else SLICES_PER_MICRO_STEP
        self._n = rows[0][0].shape[0]  # here, and with what the peers have:
        self._total = self._n if peers is None else peers.total(self._n)
        self._peers = peers
        inputs = [x for x, _ in rows]
        self._latents = LatentReader(state, scratch, inputs, settings, peers is not None)
        self._tokens = self._latents.tokens
        d, s, device = clt.config.d_model, clt.config.d_latent, scratch.x.device
        self._stats = [BatchStatistics.empty(self._total, d, s, device) for _ in rows]
        self._norms = [0.0] * len(rows)
        self._error = scratch.error[:, : self._n]
        # What dead latents write, and later its gradient.
        self._aux_error: Optional[Tensor] = None
        if self._latents.has_dead:
            self._aux_error = scratch.aux_error()[:, : self._n]
        self._decoder_norms: list[Tensor] = []

    # --- phase 1: from the lowest position up, decode ----------------------------------------

    def forward(self) -> Iterator[None]:
        """Predictions of all positions, in ``scratch.error``."""
        relu = self._clt.config.activation == "relu"
        for j, bias in enumerate(self._clt.b_D):
            self._error[j] = bias
            if self._aux_error is not None:
                self._aux_error[j].zero_()
            yield None
        for i, decoders in enumerate(self._clt.W_D):
            yield from self._latents.read(i)
            active = yield from self._latents.active(i)
            aux = yield from self._latents.aux(i)
            squares = torch.zeros_like(self._clt.b_E[i])
            for t, decoder in enumerate(decoders):
                yield from active.decode(decoder, self._error[i + t])
                if aux is not None and self._aux_error is not None:
                    yield from aux.decode(decoder, self._aux_error[i + t])
                if relu:
                    yield from self._measure(decoder, squares)
                self._state.store.release(decoder)
            self._decoder_norms.append(squares.sqrt_())
            yield from self._count(i, active)

    def _measure(self, decoder: Tensor, squares: Tensor) -> Iterator[None]:
        """Add the squared lengths of a decoder's rows to ``squares [s]``."""
        for r in slices(len(squares), self._settings.row_chunk):
            squares[r] += decoder[r].square().sum(1)
            yield None

    def _count(self, i: int, active: Union[SparseBatch, DenseBatch]) -> Iterator[None]:
        stats, settings = self._stats[i], self._settings
        if isinstance(active, SparseBatch):
            active.count(stats)
            yield None
            return
        for part in self._tokens:
            value = active.value[part]
            positive = value > 0
            count = positive.sum()
            stats.active += count
            stats.fired |= positive.any(0)
            if self._clt.config.activation == "relu":
                stats.sparsity += settings.l1 * (value @ self._decoder_norms[i]).sum()
            else:
                stats.sparsity += settings.l0 * count.double()
            yield None

    # --- phase 2: what is wrong with the predictions -----------------------------------------

    def errors(self) -> Iterator[None]:
        """Turn predictions into the gradients of their errors, in place."""
        coefficient = self._settings.auxk_coefficient
        for j, (_, outputs) in enumerate(self._rows):
            stats = self._stats[j]
            for part in self._tokens:
                error = self._error[j, part]
                y = outputs[part].to(error.dtype, copy=True).mul_(self._clt.output_scale[j])
                stats.target += y.sum(0)
                stats.target_square += y.square().sum()
                error.sub_(y)
                stats.error += error.square().sum()
                if self._aux_error is not None:
                    residual = self._aux_error[j, part].add_(error)
                    stats.aux += coefficient * residual.square().sum()
                    residual.mul_(2.0 * coefficient / self._total)
                error.mul_(2.0 / self._total)
                yield None

    # --- phase 3: gradients and updates, a decoder at a time ---------------------------------

    def backward(self) -> Iterator[None]:
        """Update all parameters."""
        self._state.steps += 1
        for i in range(len(self._rows)):
            yield from self._latents.read(i)
            active = yield from self._latents.again(i)
            aux = yield from self._latents.aux(i)
            yield from active.start_gradient()
            if aux is not None:
                yield from aux.start_gradient()
            squares = yield from self._update_decoders(i, active, aux)
            squares += yield from self._update_encoder(i, active, aux)
            self._norms[i] = squares**0.5
        if self._peers is not None:
            add_up_statistics(self._stats, self._peers)
            settle_thresholds(self._latents.thresholds, self._peers)
            yield

    def _update_decoders(
        self, i: int, active: Union[SparseBatch, DenseBatch], aux: Optional[DenseBatch]
    ) -> Generator[None, None, float]:
        """Returns the sum of the squared norms of the decoders' gradients."""
        state, gradient, squares = self._state, self._scratch.gradient, 0.0
        kept = self._clt.selection_norm
        lengths = None if kept is None else torch.zeros_like(kept[i])
        pull: Optional[Tensor] = None
        if self._clt.config.activation == "relu":
            assert isinstance(active, DenseBatch)  # ReLU always is
            pull = self._penalty(i, active)
            yield None
        for t, decoder in enumerate(self._clt.W_D[i]):
            g = self._error[i + t]
            yield from active.pull(decoder, g)
            yield from active.decoder_gradient(g, gradient)
            if aux is not None and self._aux_error is not None:
                yield from aux.pull(decoder, self._aux_error[i + t])
                yield from aux.decoder_gradient(self._aux_error[i + t], gradient)
            if pull is not None:
                for r in slices(gradient.shape[0], self._settings.row_chunk):
                    gradient[r].addcmul_(decoder[r], pull[r].unsqueeze(1))
                    yield None
            if self._peers is not None:
                self._peers.add_up([gradient])
                yield None
            norm = norm_of([gradient])
            yield None
            update = AdamTensors(
                decoder, state.first[i]["W_D"][t], state.second[i]["W_D"][t], gradient
            )
            yield from adam_update([update], self._settings, state.steps, norm, self._adam_slices)
            squares += norm**2
            if lengths is not None:
                yield from self._measure(decoder, lengths)
            for tensor in update[:3]:
                state.store.release(tensor)
        if kept is not None and lengths is not None:
            torch.sqrt(lengths, out=kept[i])
        return squares

    def _penalty(self, i: int, active: DenseBatch) -> Tensor:
        """``λ/N · Σ f·‖w‖`` pulls a latent's rows w together along w/‖w‖; by how much of w."""
        weight = self._settings.l1 / self._total
        return active.value.sum(0) * weight / self._decoder_norms[i].clamp_min(1e-30)

    def _update_encoder(
        self, i: int, active: Union[SparseBatch, DenseBatch], aux: Optional[DenseBatch]
    ) -> Generator[None, None, float]:
        """Returns the squared norm of the gradients of encoder, biases and thresholds."""
        state, x = self._state, self._scratch.x[: self._n]
        gradients = {
            "W_E": self._scratch.gradient,
            "b_E": self._scratch.bias_gradient,
            "b_D": self._error[i].sum(0),
        }
        yield None
        if isinstance(active, DenseBatch):
            if self._clt.config.activation == "jumprelu":
                gradients["threshold"] = yield from self._threshold_gradient(i, active)
            else:
                active.gradient.add_(self._decoder_norms[i], alpha=self._settings.l1 / self._total)
                yield None
            yield from active.mask()
        yield from active.encoder_gradient(x, gradients["W_E"], gradients["b_E"])
        if aux is not None:
            yield from aux.mask()
            yield from aux.encoder_gradient(x, gradients["W_E"], gradients["b_E"])
        if self._peers is not None:
            self._peers.add_up(gradients.values())
            yield None
        norm = norm_of(gradients.values())
        yield None
        parameters = self._clt.tensors(i)
        updates = [
            AdamTensors(parameters[name], state.first[i][name], state.second[i][name], gradient)
            for name, gradient in gradients.items()
        ]
        yield from adam_update(updates, self._settings, state.steps, norm)
        if "threshold" in parameters:
            parameters["threshold"].clamp_(min=0.0)
        return norm**2

    def _threshold_gradient(self, i: int, active: DenseBatch) -> Generator[None, None, Tensor]:
        """JumpReLU's straight-through gradient, see ``core.training_dense``."""
        assert self._clt.threshold is not None  # JumpReLU is built with one
        threshold, width = self._clt.threshold[i], self._settings.bandwidth
        from_error, count = torch.zeros_like(threshold), torch.zeros_like(threshold)
        near = active.value.new_empty(self._tokens[0].stop, threshold.shape[0])
        for part in self._tokens:
            pre = near[: part.stop - part.start]
            yield from self._latents.encode(i, part, pre)
            close = pre.sub_(threshold).abs_() < width / 2
            from_error += torch.where(close, active.gradient[part], 0.0).sum(0)
            count += close.sum(0)
            yield None
        return threshold_gradient(from_error, count, threshold, self._settings, self._total)

    # --- what came of it ---------------------------------------------------------------------

    def results(self) -> dict[Site, StepResult]:
        """By site; counts the silence of latents too."""
        state, found = self._state, {}
        for i, (site, stats) in enumerate(zip(state.sites, self._stats, strict=True)):
            silence = state.tokens_since_fired[i]
            silence += self._total
            silence[stats.fired] = 0
            found[site] = StepResult(
                loss=stats.loss,
                fvu=stats.fvu,
                l0=stats.l0,
                dead=int((silence >= self._settings.dead_after_tokens).sum().item()),
                gradient_norm=self._norms[i],
            )
        return found
