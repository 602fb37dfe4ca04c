"""One optimizer step of one layer, as a sequence of micro-steps.

Gradients (``core.training_gradients``), then one norm over all of them, then Adam (Kingma & Ba
2015) over slices of the parameters. Rows without a gradient take part in Adam like all others.
Each micro-step is a few milliseconds, so that a window stays responsive between them, and their
number and size depend on shapes and settings alone.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_gradients import (
    BatchGradients,
    BatchStatistics,
    StepScratch,
    trained_shapes,
)

_ADAM_SLICE = 1 << 17  # elements; the four arrays of a slice then stay in a core's cache
_SLICES_PER_MICRO_STEP = 8


@dataclass
class LayerState:
    """A transcoder in training and everything a resumed run needs to go on with it.

    Attributes:
        transcoder: unfolded.
        first, second: Adam's running means of the gradient and of its square, by parameter.
        tokens_since_fired: int64 ``[s]``.
        steps: optimizer steps done.
    """

    transcoder: Transcoder
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    tokens_since_fired: Tensor
    steps: int = 0

    @classmethod
    def new(cls, transcoder: Transcoder) -> LayerState:
        """The state before the first step."""
        names = trained_shapes(transcoder.config)
        parameters = {name: getattr(transcoder, name) for name in names}
        return cls(
            transcoder=transcoder,
            first={name: torch.zeros_like(p) for name, p in parameters.items()},
            second={name: torch.zeros_like(p) for name, p in parameters.items()},
            tokens_since_fired=torch.zeros(
                transcoder.config.d_latent, dtype=torch.int64, device=transcoder.W_E.device
            ),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, as views: copy into them to restore it."""
        found = {
            name: getattr(self.transcoder, name) for name in self.transcoder.config.tensor_shapes()
        }
        found.update({f"adam_first.{name}": t for name, t in self.first.items()})
        found.update({f"adam_second.{name}": t for name, t in self.second.items()})
        found["tokens_since_fired"] = self.tokens_since_fired
        return {name: t.detach() for name, t in found.items()}


@dataclass(frozen=True)
class StepResult:
    """What one step of one layer measured on its own batch, before the update.

    ``dead`` counts latents silent for longer than the setting, after the batch.
    """

    loss: float
    fvu: float
    l0: float
    dead: int
    gradient_norm: float


def training_step(
    state: LayerState,
    scratch: StepScratch,
    inputs: Tensor,
    outputs: Tensor,
    settings: StepSettings,
) -> Generator[None, None, StepResult]:
    """Train ``state`` on one batch of raw activations ``[N, d]``; yields between micro-steps.

    The generator's return value is the ``StepResult``. Abandoning it half-way leaves the state
    unusable: go on, or load a checkpoint.
    """
    dead = (state.tokens_since_fired >= settings.dead_after_tokens).nonzero().squeeze(1)
    batch = BatchGradients(
        state.transcoder, scratch, settings, dead, threshold_seen=state.steps > 0
    )
    stats: BatchStatistics
    for found in batch.run(inputs, outputs):
        if found is None:
            yield
        else:
            stats = found
    norm = gradient_norm(scratch)
    yield
    yield from _adam(state, scratch, settings, norm)
    threshold = state.transcoder.threshold
    if threshold is not None:
        threshold.clamp_(min=0.0)
    state.tokens_since_fired += stats.tokens
    state.tokens_since_fired[stats.fired] = 0
    return StepResult(
        loss=stats.loss,
        fvu=stats.fvu,
        l0=stats.l0,
        dead=int((state.tokens_since_fired >= settings.dead_after_tokens).sum().item()),
        gradient_norm=norm,
    )


def gradient_norm(scratch: StepScratch) -> float:
    """The norm of all gradients taken together."""
    squares = [torch.linalg.vector_norm(g).double().square() for g in scratch.gradients.values()]
    return float(torch.stack(squares).sum().sqrt().item())


def _adam(
    state: LayerState, scratch: StepScratch, settings: StepSettings, norm: float
) -> Generator[None, None, None]:
    state.steps += 1
    beta1, beta2 = settings.beta1, settings.beta2
    rate = settings.learning_rate / (1.0 - beta1**state.steps)
    second_scale = (1.0 - beta2**state.steps) ** 0.5
    clip = 1.0
    if settings.clip_norm is not None:
        clip = min(1.0, settings.clip_norm / (norm + 1e-6))
    done = 0
    for name, gradient in scratch.gradients.items():
        parameter: Tensor = getattr(state.transcoder, name).detach().view(-1)
        flat = gradient.view(-1)
        first, second = state.first[name].view(-1), state.second[name].view(-1)
        for start in range(0, flat.numel(), _ADAM_SLICE):
            part = slice(start, min(start + _ADAM_SLICE, flat.numel()))
            g = flat[part]
            if clip < 1.0:
                g.mul_(clip)
            first[part].lerp_(g, 1.0 - beta1)
            second[part].mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
            spread = second[part].sqrt().div_(second_scale).add_(settings.eps)
            parameter[part].addcdiv_(first[part], spread, value=-rate)
            done += 1
            if done % _SLICES_PER_MICRO_STEP == 0:
                yield
