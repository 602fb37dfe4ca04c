"""What a trainer tells its driver. Plain records without torch, so that the window can use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional, Union

from attention_studio.utils.progress import WorkContext

OffThreadKind = Literal["prepare", "harvest", "evaluate", "checkpoint", "save"]


@dataclass(frozen=True)
class MicroStep:
    """A few milliseconds of work on ``layer`` are done; nothing to show."""

    step: int
    layer: int


@dataclass(frozen=True)
class StepMetrics:
    """One layer's numbers on the batch it has just been trained on, before the update.

    ``fvu`` is the batch's own; ``dead`` counts latents that have been silent for long.
    """

    layer: int
    loss: float
    fvu: float
    l0: float
    dead: int
    gradient_norm: float


@dataclass(frozen=True)
class StepDone:
    """A batch is done for all layers. ``step`` counts from 1, ``tokens`` are those trained on."""

    step: int
    total_steps: int
    tokens: int
    learning_rate: float
    k: int
    layer_metrics: tuple[StepMetrics, ...]


@dataclass(frozen=True)
class OffThread:
    """Long work: the driver runs ``run(ctx)``, on any thread, before it calls ``next`` again.

    ``run`` may raise; the run can then only be given up, and resumed from its last checkpoint.
    """

    kind: OffThreadKind
    text: str
    run: Callable[[Optional[WorkContext]], None]


@dataclass(frozen=True)
class LayerMetrics:
    """One layer's dictionary on held-out text after ``tokens`` tokens of training.

    ``affine_fvu`` is the FVU of the best affine map without any latents, the baseline that
    ``fvu`` has to beat. ``loss_recovered`` and ``kl`` are of this layer spliced in alone; None
    where they were not measured. ``density`` counts latents between the edges of
    ``core.evaluation.DENSITY_EDGES``.
    """

    tokens: int
    layer: int
    fvu: float
    affine_fvu: float
    l0: float
    dead_fraction: float
    density: tuple[int, ...]
    loss_recovered: Optional[float]
    kl: Optional[float]


@dataclass(frozen=True)
class Evaluated:
    """Held-out metrics, by layer and with all layers spliced in at once."""

    step: int
    tokens: int
    layers: tuple[LayerMetrics, ...]
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
