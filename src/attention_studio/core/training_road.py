"""What a batch's gradients need whichever way they are made, dense or sparse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from attention_studio.core.batch_statistics import BatchStatistics
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.micro_steps import slices
from attention_studio.core.training_auxk import AuxK
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_selection import RunningThreshold


class RoadBatch(NamedTuple):
    """What the gradients of one batch are made of and go to.

    Attributes:
        transcoder: as it is before the update.
        scratch: working memory of its shape, to which the gradients go.
        settings: of this step.
        stats: sums over the batch, which are added to.
        aux: what brings dead latents back, if there are any.
    """

    transcoder: Transcoder
    scratch: StepScratch
    settings: StepSettings
    stats: BatchStatistics
    aux: Optional[AuxK]


class Road(ABC):
    """One batch: ``prepare``, then ``chunk`` for every chunk of tokens, in order, then ``rows``.
    All yield between micro-steps.

    Attributes:
        threshold: BatchTopK's, to be settled with other processes when the batch is done.
    """

    threshold: Optional[RunningThreshold] = None

    def __init__(self, batch: RoadBatch) -> None:
        self._t, self._scratch, self._settings, self._stats, self._aux = batch
        self._group_size = self._t.config.d_latent // self._scratch.groups

    @abstractmethod
    def prepare(self) -> Iterator[None]:
        """What follows from the weights alone."""

    @abstractmethod
    def chunk(
        self, lo: int, hi: int, y: Tensor, input_gradient: Optional[Tensor]
    ) -> Iterator[None]:
        """Tokens ``lo … hi`` of the batch, whose scaled inputs are in the scratch.

        Args:
            y: scaled outputs ``[n, d]``.
            input_gradient: ``[n, G, d]``, is filled with the gradient at the scaled inputs.
        """

    @abstractmethod
    def rows(self, n: int) -> Iterator[None]:
        """Gradients of encoder and decoder, latents by latents, from all ``n`` tokens."""

    def _decoder_norms(self) -> Generator[None, None, Tensor]:
        """Lengths of the decoder's rows, ``[s]``, in the units of training."""
        norms = torch.empty_like(self._t.b_E)
        for r in slices(norms.shape[0], self._settings.row_chunk):
            norms[r] = torch.linalg.vector_norm(self._t.W_D[r], dim=1)
            yield None
        return norms

    def _compare(self, lo: int, hi: int, prediction: Tensor, y: Tensor) -> Tensor:
        """What the latents of a chunk and the bias predict, turned in place into the error of the
        whole prediction, whose gradient goes to the scratch."""
        error, scratch = prediction, self._scratch
        if self._t.W_skip is not None:
            error.addmm_(scratch.x[lo:hi, 0], self._t.W_skip)
        error.sub_(y)
        torch.mul(error, 2.0 / self._stats.tokens, out=scratch.error_gradient[lo:hi])
        self._stats.error += error.square().sum()
        return error
