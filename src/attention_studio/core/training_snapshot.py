"""A run's newest checkpoint as a replacement model, while the run goes on.

The run's own modules change under one's hands, so they are not touched: the checkpoint is read
anew, folded, and saved as a CRM of its own in the run's folder. One that somebody opens stays,
since workspaces name it by its folder; one that is made for a moment goes again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import torch

from attention_studio.core.dictionaries.crm_folder import MANIFEST_NAME, save_crm
from attention_studio.core.training_checkpoint import (
    CheckpointError,
    latest_checkpoint,
    read_identity,
    read_modules,
    read_progress,
)
from attention_studio.core.training_folder import module_metrics, training_record
from attention_studio.core.training_modules import dictionaries_of
from attention_studio.core.training_request import train_config
from attention_studio.core.training_setup import ModuleFactory
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import atomic_folder, passing_folder, remove_leftovers
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

SNAPSHOT_FOLDER = "snapshots"
_TRIES = 3


class SnapshotError(StudioError):
    """There is no checkpoint that could be opened."""


def save_snapshot(loaded: LoadedModel, run: Path, ctx: Optional[WorkContext] = None) -> Path:
    """Save the newest checkpoint of a run as a CRM that stays until somebody deletes it. Takes the
    memory of the run's modules once.

    Args:
        loaded: the model that the run is of.
        run: the folder of the run, which may go on meanwhile.
        ctx: for progress and cancelling.

    Returns:
        The CRM's folder, ``run/snapshots/step_…``; the one that is there if it is of that step.

    Raises:
        SnapshotError: there is no checkpoint yet, or the run is of another model.
        CheckpointError: the checkpoint is damaged.
        FileWriteError: the disk is full, the folder is read-only, and the like.
    """
    return _save_newest(loaded, run, run / SNAPSHOT_FOLDER, ctx)


@contextmanager
def passing_snapshot(
    loaded: LoadedModel, run: Path, ctx: Optional[WorkContext] = None
) -> Iterator[Path]:
    """The newest checkpoint of a run as a CRM that goes again, unless it was saved to stay.

    Raises:
        SnapshotError, CheckpointError, FileWriteError: see ``save_snapshot``.
    """
    _newest(run)
    with passing_folder(run / SNAPSHOT_FOLDER, "passing") as folder:
        yield _save_newest(loaded, run, folder, ctx)


def _newest(run: Path) -> Path:
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        raise SnapshotError(
            f"{run.name} has no checkpoint yet",
            "a run writes one at every so many steps",
            "Write one now, or wait for the first",
        )
    return checkpoint


def _save_newest(loaded: LoadedModel, run: Path, folder: Path, ctx: Optional[WorkContext]) -> Path:
    for attempt in range(_TRIES):
        checkpoint = _newest(run)
        try:
            kept = run / SNAPSHOT_FOLDER / checkpoint.name
            if (kept / MANIFEST_NAME).is_file():
                return kept
            remove_leftovers(run / SNAPSHOT_FOLDER)
            return _save(loaded, run, checkpoint, folder / checkpoint.name, ctx)
        except CheckpointError:
            # The run has gone on: it deletes a checkpoint once there is a newer one.
            if attempt + 1 == _TRIES or latest_checkpoint(run) == checkpoint:
                raise
    raise AssertionError("unreachable")


def _save(
    loaded: LoadedModel,
    run: Path,
    checkpoint: Path,
    place: Path,
    ctx: Optional[WorkContext],
) -> Path:
    identity, progress = read_identity(checkpoint), read_progress(checkpoint)
    if identity.sources.get("weights_hash") != loaded.info.weights_hash:
        raise SnapshotError(
            f"{run.name} trains for another model",
            f"its weights are not those of {loaded.info.name}",
            "Load the model that the run was started with",
        )
    config = train_config(identity.settings)
    # A cross-layer transcoder's optimizer state need not be in memory only to be left alone.
    with passing_folder(place.parent, "state") as spare:
        modules = ModuleFactory(
            loaded,
            config,
            torch.device("cpu"),
            torch.float32,
            spare if config.mlp == "clt" else None,
        ).blank()
        read_modules(checkpoint, modules, ctx)
        newest = [row for row in progress.history if row.tokens == progress.history[-1].tokens]
        with atomic_folder(place) as temporary:
            save_crm(
                temporary,
                dictionaries_of(modules),
                loaded.info,
                training_record(identity, progress),
                module_metrics(newest),
            )
    return place
