"""Loss and gradients of one batch, written out by hand and cut into micro-steps.

With scaled activations x, y, N tokens and the sum over d:

    L = 1/N · Σ‖ŷ − y‖²  +  α/N · Σ‖z·W_D + (ŷ − y)‖²  +  sparsity

The middle term is AuxK (``core.training_auxk``), sparsity is what ReLU and JumpReLU need
(``core.training_dense``). TopK and BatchTopK take the sparse road (``core.training_sparse``), ReLU
and JumpReLU the dense one. Neither uses autograd.

A token may have G inputs instead of one: then the latents come in G equal groups, and group g reads
input g. That is a Lorsa, whose heads see different mixtures of positions; what made the mixtures
gets the gradient of the inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from attention_studio.core.batch_statistics import BatchStatistics, add_up_statistics
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.distributed import Peers
from attention_studio.core.micro_steps import pieces, slices
from attention_studio.core.training_auxk import AuxK
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_dense import DenseRoad
from attention_studio.core.training_road import Road, RoadBatch
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_selection import settle_thresholds
from attention_studio.core.training_sparse import SparseRoad


class Portion(NamedTuple):
    """Some tokens of a batch, on raw activations of any type.

    Attributes:
        inputs: ``[n, G, d]``, or ``[n, d]`` for one group.
        outputs: ``[n, d]``.
        input_gradient: ``[n, G, d]``, float; is filled with the loss's gradient at the inputs by
            the time the next portion is asked for. None: nobody wants it.
    """

    inputs: Tensor
    outputs: Tensor
    input_gradient: Optional[Tensor] = None


class BatchGradients:
    """Fills ``scratch.gradients`` for one batch; ``run`` yields between micro-steps.

    Args:
        transcoder: the unfolded transcoder; BatchTopK's threshold is updated on the way.
        scratch: working memory of the transcoder's shape.
        settings: of this step.
        dead: int64, ascending, latents that count as dead.
        threshold_seen: whether BatchTopK's running mean has started.
        peers: processes that have other parts of the same batch; gradients and statistics are then
            those of the whole batch.
    """

    def __init__(
        self,
        transcoder: Transcoder,
        scratch: StepScratch,
        settings: StepSettings,
        dead: Tensor,
        threshold_seen: bool,
        peers: Optional[Peers] = None,
    ) -> None:
        if scratch.groups > 1 and transcoder.W_skip is not None:
            raise ValueError("a skip connection has no meaning with several inputs per token")
        self._t = transcoder
        self._scratch = scratch
        self._settings = settings
        self._dead = dead
        self._threshold_seen = threshold_seen
        self._peers = peers
        self._road: Optional[Road] = None

    def run(self, inputs: Tensor, outputs: Tensor) -> Iterator[Optional[BatchStatistics]]:
        """Go through the batch ``inputs``, ``outputs`` ``[N, d]`` (raw activations, any dtype).

        Yields:
            None between micro-steps and the batch's statistics at last.
        """
        return self.run_portions(inputs.shape[0], [Portion(inputs, outputs)])

    def run_portions(
        self, n: int, portions: Iterable[Optional[Portion]]
    ) -> Iterator[Optional[BatchStatistics]]:
        """As ``run``, for a batch of ``n`` tokens that comes in portions.

        A portion is asked for when the one before it is done. None in between is one more
        micro-step.
        """
        t, scratch, settings = self._t, self._scratch, self._settings
        tokens = n if self._peers is None else self._peers.total(n)
        stats = BatchStatistics.empty(tokens, t.config.d_model, t.config.d_latent, t.W_E.device)
        aux: Optional[AuxK] = None
        if settings.auxk_coefficient > 0 and self._dead.numel():
            aux = AuxK(t, self._dead, n, settings, scratch.groups)
            yield from aux.prepare()
        road = self._road = self._take_road(stats, aux)
        yield from road.prepare()
        done = 0
        for portion in portions:
            if portion is None:
                yield None
                continue
            for part in slices(portion.outputs.shape[0], settings.token_chunk):
                lo, hi = done + part.start, done + part.stop
                x = scratch.x[lo:hi]
                x.copy_(portion.inputs[part].view(x.shape)).mul_(t.input_scale)
                y = portion.outputs[part].to(x.dtype, copy=True).mul_(t.output_scale)
                stats.target += y.sum(0)
                stats.target_square += y.square().sum()
                gradient = portion.input_gradient
                yield from road.chunk(lo, hi, y, None if gradient is None else gradient[part])
                if gradient is not None:
                    gradient[part].mul_(t.input_scale)
            done += portion.outputs.shape[0]
        if n:
            yield from self._bias_and_skip_gradients(n)
            yield from road.rows(n)
        else:  # of a small batch, some processes may have nothing
            for gradient in scratch.gradients.values():
                gradient.zero_()
        if self._peers is not None:
            yield from self._add_up(self._peers, stats, road)
        yield stats

    def _add_up(self, peers: Peers, stats: BatchStatistics, road: Road) -> Iterator[None]:
        """From the gradients and statistics of a part to those of the whole batch."""
        for gradient in self._scratch.gradients.values():
            peers.add_up([gradient])
            yield None
        add_up_statistics([stats], peers)
        if road.threshold is not None:
            settle_thresholds([road.threshold], peers)
        yield None

    def _take_road(self, stats: BatchStatistics, aux: Optional[AuxK]) -> Road:
        batch = RoadBatch(self._t, self._scratch, self._settings, stats, aux)
        if self._scratch.dense:
            return DenseRoad(batch)
        return SparseRoad(batch, self._threshold_seen, in_parts=self._peers is not None)

    def _bias_and_skip_gradients(self, n: int) -> Iterator[None]:
        g, gradients = self._scratch.error_gradient[:n], self._scratch.gradients
        torch.sum(g, 0, out=gradients["b_D"])
        if self._t.W_skip is not None:
            x = self._scratch.x[:n, 0]
            for r in pieces(x.shape[1], g.numel()):
                torch.mm(x[:, r].t(), g, out=gradients["W_skip"][r])
                yield None
