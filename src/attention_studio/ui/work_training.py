"""What lanes do with runs that go on: open a checkpoint, trace with it, read histories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attention_studio.ui.work import OpenedCRM, open_crm

if TYPE_CHECKING:
    from pathlib import Path

    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.training_events import SiteMetrics
    from attention_studio.core.training_traces import CheckpointTrace
    from attention_studio.utils.progress import WorkContext


@dataclass(frozen=True)
class PastRun:
    """What a run measured on its way, and the folder that it wrote to."""

    folder: Path
    history: tuple[SiteMetrics, ...]
    traces: tuple[CheckpointTrace, ...]


def open_checkpoint(ctx: WorkContext, model: LoadedModel, run: Path) -> OpenedCRM:
    """Open a run's newest checkpoint as a replacement model."""
    from attention_studio.core.training_snapshot import save_snapshot

    ctx.progress(0, None, "Reading the checkpoint")
    folder = save_snapshot(model, run, ctx)
    ctx.check()
    return open_crm(ctx, model, folder)


def trace_checkpoint(
    ctx: WorkContext, model: LoadedModel, run: Path, prompt: str
) -> CheckpointTrace:
    """Trace a prompt with a run's newest checkpoint."""
    from attention_studio.core import training_traces

    ctx.progress(0, None, "Tracing with the checkpoint")
    return training_traces.trace_checkpoint(model, run, prompt, None, ctx)


def read_past_run(ctx: WorkContext, folder: Path) -> PastRun:
    """What a run, finished or not, measured and traced on its way."""
    from attention_studio.core.training_folder import read_history
    from attention_studio.core.training_traces import read_traces

    ctx.check()
    return PastRun(folder, read_history(folder), read_traces(folder))
