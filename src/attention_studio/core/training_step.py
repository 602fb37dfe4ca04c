"""One optimizer step of one layer, as a sequence of micro-steps.

Gradients (``core.training_gradients``), then one norm over all of them, then Adam
(``core.training_adam``). Each micro-step is a few milliseconds, so that a window stays responsive
between them, and their number and size depend on shapes and settings alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Optional, TypeVar

import torch
from torch import Tensor

from attention_studio.core.batch_statistics import BatchStatistics
from attention_studio.core.dictionaries.sparse_dictionary import SparseDictionary
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.distributed import Peers
from attention_studio.core.training_adam import AdamTensors, adam_update, norm_of
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_gradients import BatchGradients
from attention_studio.core.training_scratch import StepScratch

if TYPE_CHECKING:
    from typing_extensions import Self

_Dictionary = TypeVar("_Dictionary", bound=SparseDictionary)


@dataclass(frozen=True)
class StepResult:
    """What one step of one module measured on its own batch, before the update.

    ``dead`` counts latents silent for longer than the setting, after the batch.
    """

    loss: float
    fvu: float
    l0: float
    dead: int
    gradient_norm: float


@dataclass
class DictionaryState(Generic[_Dictionary]):
    """A module's dictionary in training and everything a resumed run needs to go on with it.

    Attributes:
        dictionary: unfolded.
        first, second: Adam's running means of the gradient and of its square, by parameter.
        tokens_since_fired: int64 ``[s]``.
        steps: optimizer steps done.
        DECAYED: names of the parameters that weight decay applies to.
    """

    DECAYED: ClassVar[frozenset[str]] = frozenset()

    dictionary: _Dictionary
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    tokens_since_fired: Tensor
    steps: int = 0

    @classmethod
    def new(cls, dictionary: _Dictionary) -> Self:
        """The state before the first step."""
        first, second = (
            {name: torch.zeros_like(p) for name, p in dictionary.named_parameters()}
            for _ in range(2)
        )
        silent = torch.zeros(
            dictionary.config.d_latent, dtype=torch.int64, device=dictionary.b_D.device
        )
        return cls(dictionary, first, second, silent)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, as views: copy into them to restore it."""
        names = self.dictionary.config.tensor_shapes()
        found = {name: getattr(self.dictionary, name) for name in names}
        found.update({f"adam_first.{name}": t for name, t in self.first.items()})
        found.update({f"adam_second.{name}": t for name, t in self.second.items()})
        found["tokens_since_fired"] = self.tokens_since_fired
        return {name: t.detach() for name, t in found.items()}

    def dead(self, settings: StepSettings) -> Tensor:
        """Latents that count as dead, int64, ascending."""
        return (self.tokens_since_fired >= settings.dead_after_tokens).nonzero().squeeze(1)

    def update(
        self, gradients: Mapping[str, Tensor], settings: StepSettings, norm: float
    ) -> Iterator[None]:
        """Change the parameters that ``gradients`` name, as step number ``steps``; yields between
        micro-steps. ``norm`` is that of all the step's gradients taken together."""
        updates = (
            AdamTensors(
                getattr(self.dictionary, name),
                self.first[name],
                self.second[name],
                gradient,
                decays=name in self.DECAYED,
            )
            for name, gradient in gradients.items()
        )
        return adam_update(updates, settings, self.steps, norm)

    def settle(self, stats: BatchStatistics, settings: StepSettings, norm: float) -> StepResult:
        """End a step whose updates are done: count the silence of latents, keep thresholds from
        going below zero, and say what the batch measured."""
        threshold = self.dictionary.threshold
        if threshold is not None:
            threshold.clamp_(min=0.0)
        self.tokens_since_fired += stats.tokens
        self.tokens_since_fired[stats.fired] = 0
        return StepResult(
            loss=stats.loss,
            fvu=stats.fvu,
            l0=stats.l0,
            dead=self.dead(settings).numel(),
            gradient_norm=norm,
        )


class TranscoderState(DictionaryState[Transcoder]):
    """A transcoder in training."""

    DECAYED = frozenset({"W_E", "W_D"})


def training_step(
    state: TranscoderState,
    scratch: StepScratch,
    inputs: Tensor,
    outputs: Tensor,
    settings: StepSettings,
    peers: Optional[Peers] = None,
) -> Generator[None, None, StepResult]:
    """Train ``state`` on one batch of raw activations ``[N, d]``; yields between micro-steps.

    With ``peers`` the batch is what all processes have together, and the same step is made by all.

    The generator's return value is the ``StepResult``. Abandoning it half-way leaves the state
    unusable: go on, or load a checkpoint.
    """
    batch = BatchGradients(
        state.dictionary, scratch, settings, state.dead(settings), state.steps > 0, peers
    )
    stats = yield from statistics_of(batch.run(inputs, outputs))
    norm = norm_of(scratch.gradients.values())
    yield
    state.steps += 1
    yield from state.update(scratch.gradients, settings, norm)
    return state.settle(stats, settings, norm)


def statistics_of(
    run: Iterator[Optional[BatchStatistics]],
) -> Generator[None, None, BatchStatistics]:
    """Go through what ``BatchGradients`` yields, and return the statistics at its end."""
    for found in run:
        if found is not None:
            return found
        yield
    raise ValueError("a batch ends with its statistics")
