"""Driving a training run without a window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from attention_studio.core.training_events import (
    MicroStep,
    OffThread,
    StepDone,
    Stopped,
    TrainEvent,
)
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.crm_trainer import CRMTrainer


def run_to_end(
    trainer: CRMTrainer,
    ctx: Optional[WorkContext] = None,
    on_event: Optional[Callable[[TrainEvent], None]] = None,
) -> Path:
    """Drive a run in a plain loop, everything on this thread.

    Args:
        trainer: a run that nobody else drives.
        ctx: progress in steps, and cancellation at every micro-step.
        on_event: called with every event except micro-steps.

    Returns:
        The CRM's folder, or the last checkpoint if the trainer was asked to stop.

    Raises:
        Cancelled: through ``ctx``; the last checkpoint is kept.
        StudioError: whatever goes wrong on the way.
    """
    path = trainer.out_dir
    try:
        for event in trainer:
            if ctx is not None:
                ctx.check()
            if isinstance(event, OffThread):
                event.run(ctx)
            elif isinstance(event, StepDone) and ctx is not None:
                ctx.progress(event.step, event.total_steps, "Training")
            if on_event is not None and not isinstance(event, MicroStep):
                on_event(event)
            if isinstance(event, Stopped):
                path = event.checkpoint
    finally:
        trainer.close()
    return path
