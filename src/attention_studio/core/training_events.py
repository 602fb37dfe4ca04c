"""What a trainer tells its driver. Plain records without torch, so that the window can use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional, Union

from attention_studio.core.sites import Site
from attention_studio.utils.progress import WorkContext

OffThreadKind = Literal["prepare", "harvest", "evaluate", "checkpoint", "save"]

DENSITY_EDGES = tuple(-5 + step / 4 for step in range(21))
"""Edges of the density histogram: log10 of the share of tokens at which a latent is active."""
ERROR_EDGES = tuple(-3 + step / 4 for step in range(21))
"""Edges of the error histogram: log10 of a token's squared error over the mean squared distance
of outputs from their mean, so that their average (not of the logarithms) is the FVU."""
DENSE_SHARE = 0.1
"""A latent that is active at more than this share of the tokens counts as dense."""


@dataclass(frozen=True)
class MicroStep:
    """A few milliseconds of work on the dictionary ``name`` are done; nothing to show."""

    step: int
    name: str


@dataclass(frozen=True)
class StepMetrics:
    """One module's numbers on the batch it has just been trained on, before the update.

    ``fvu`` is the batch's own; ``dead_fraction`` counts latents that have been silent for long.
    """

    site: Site
    loss: float
    fvu: float
    l0: float
    dead_fraction: float
    gradient_norm: float


@dataclass(frozen=True)
class StepDone:
    """A batch is done for all modules. ``step`` counts from 1, ``tokens`` are those trained on."""

    step: int
    total_steps: int
    tokens: int
    learning_rate: float
    k: int
    metrics: tuple[StepMetrics, ...]


@dataclass(frozen=True)
class OffThread:
    """Long work: the driver runs ``run(ctx)``, on any thread, before it calls ``next`` again.

    ``run`` may raise; the run can then only be given up, and resumed from its last checkpoint.
    """

    kind: OffThreadKind
    text: str
    run: Callable[[Optional[WorkContext]], None]


@dataclass(frozen=True)
class SiteMetrics:
    """One module's dictionary on held-out text after ``tokens`` tokens of training.

    ``affine_fvu`` is the FVU of the best affine map without any latents, the baseline that
    ``fvu`` has to beat; None where it is not known. ``loss_recovered`` and ``kl`` are of this
    module spliced in alone; None where they were not measured. ``density`` counts latents between
    the edges of ``DENSITY_EDGES``, ``errors`` tokens between those of ``ERROR_EDGES``.
    """

    tokens: int
    site: Site
    fvu: float
    affine_fvu: Optional[float]
    l0: float
    dead_fraction: float
    density: tuple[int, ...]
    errors: tuple[int, ...]
    dense_fraction: float
    loss_recovered: Optional[float]
    kl: Optional[float]


@dataclass(frozen=True)
class Evaluated:
    """Held-out metrics, by module and with all modules spliced in at once."""

    step: int
    tokens: int
    metrics: tuple[SiteMetrics, ...]
    loss_recovered: Optional[float]
    kl: Optional[float]


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop and can be resumed from ``checkpoint``."""

    step: int
    checkpoint: Path


@dataclass(frozen=True)
class Finished:
    """The replacement model is in the folder ``path``."""

    path: Path


TrainEvent = Union[MicroStep, StepDone, OffThread, Evaluated, Stopped, Finished]
