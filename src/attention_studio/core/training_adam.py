"""Adam (Kingma & Ba 2015) over slices of tensors, cut into micro-steps, with the weight decay of
AdamW (Loshchilov & Hutter 2019) where it is wanted.

Rows without a gradient take part like all others: a latent that did not fire moves by what is in
its moments. Number and size of the micro-steps depend on shapes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attention_studio.core.training_config import StepSettings

_SLICE = 1 << 17  # elements; the four arrays of a slice then stay in a core's cache
SLICES_PER_MICRO_STEP = 8


class AdamTensors(NamedTuple):
    """A parameter, Adam's running means of its gradient and of its square, and the gradient; all
    contiguous and of the same shape. All but the gradient are updated in place, and the gradient
    may be scaled. ``decays``: whether ``StepSettings.weight_decay`` applies."""

    parameter: Tensor
    first: Tensor
    second: Tensor
    gradient: Tensor
    decays: bool = False


def adam_update(
    tensors: Iterable[AdamTensors],
    settings: StepSettings,
    step: int,
    norm: float,
    slices_per_micro_step: int = SLICES_PER_MICRO_STEP,
) -> Iterator[None]:
    """Update ``tensors``; yields between micro-steps.

    Args:
        tensors: what is clipped and updated together.
        settings: learning rate, moments and clipping.
        step: how many updates this makes, from 1.
        norm: of all the gradients taken together; above ``settings.clip_norm`` they are scaled
            down to it.
    """
    clip = 1.0
    if settings.clip_norm is not None:
        clip = min(1.0, settings.clip_norm / (norm + 1e-6))
    done = 0
    for entry in tensors:
        steps = [torch.tensor(float(step), device=entry.parameter.device)]
        parameter, first, second, gradient = (t.detach().view(-1) for t in entry[:4])
        for start in range(0, gradient.numel(), _SLICE):
            part = slice(start, min(start + _SLICE, gradient.numel()))
            g = gradient[part]
            if clip < 1.0:
                g.mul_(clip)
            # One pass over the four arrays; what torch.optim.AdamW(fused=True) calls, which itself
            # can only update whole parameters.
            torch._fused_adamw_(
                [parameter[part]],
                [g],
                [first[part]],
                [second[part]],
                [],
                steps,
                lr=settings.learning_rate,
                beta1=settings.beta1,
                beta2=settings.beta2,
                weight_decay=settings.weight_decay if entry.decays else 0.0,
                eps=settings.eps,
                amsgrad=False,
                maximize=False,
            )
            done += 1
            if done % slices_per_micro_step == 0:
                yield


def norm_of(gradients: Iterable[Tensor]) -> float:
    """The norm of all gradients taken together."""
    squares = [torch.linalg.vector_norm(g).double().square() for g in gradients]
    return float(torch.stack(squares).sum().sqrt().item())
