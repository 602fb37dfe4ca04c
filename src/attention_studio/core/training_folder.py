"""The folder of a run: who may train there, its checkpoints, and the CRM that it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Optional

from attention_studio.core.crm_quality import MODULE_METRICS
from attention_studio.core.dictionaries.crm_folder import (
    MANIFEST_NAME,
    TrainingRecord,
    load_manifest,
    save_crm,
)
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.distributed import Peers
from attention_studio.core.model_records import ModelInfo
from attention_studio.core.sites import Site
from attention_studio.core.training_checkpoint import (
    CHECKPOINT_FOLDER,
    Progress,
    RunIdentity,
    latest_checkpoint,
    read_metrics,
    read_progress,
    remove_checkpoints,
    write_checkpoint,
    written_metrics,
)
from attention_studio.core.training_checks import ExistingRunError
from attention_studio.core.training_events import SiteMetrics
from attention_studio.core.training_lock import RunLock
from attention_studio.core.training_modules import TrainedModule
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import read_json, write_json_atomic
from attention_studio.utils.progress import WorkContext

HISTORY_NAME = "history.json"
"""What a run measured on held-out text on its way: a row per module and evaluation."""


class RunHistoryError(StudioError):
    """There is no history of a run to be read."""


class RunFolder:
    """The folder of one run, which is the run's own until ``release``.

    Args:
        path: the folder; need not exist yet.
        identity: of the run.
        resume: go on from the last checkpoint that is there, or start if there is none.
        peers: processes that share the run and the folder.

    Attributes:
        path: the folder.
        identity: of the run.
        checkpoint: the last one, or None.
        progress: how far that is; a new run's without one.
        finished: whether the run that was to be resumed has ended long since.

    Raises:
        ExistingRunError: it holds a run and ``resume`` is off, or somebody is training there.
        ResumeMismatchError, CheckpointError: the checkpoint is of another run, or damaged.
    """

    def __init__(
        self, path: Path, identity: RunIdentity, resume: bool, peers: Optional[Peers]
    ) -> None:
        self.path = path
        self.identity = identity
        self.checkpoint: Optional[Path] = None
        self.progress = Progress()
        self.finished = False
        self._peers = peers
        self._lock = RunLock(path) if self._is_first else None
        with ExitStack() as undo:
            undo.callback(self.release)
            self.checkpoint = latest_checkpoint(path)
            self._look(resume)
            if not self.finished:
                undo.pop_all()

    @property
    def working_files(self) -> Path:
        """Where to keep what memory has no room for; it goes with the checkpoints."""
        return self.path / CHECKPOINT_FOLDER

    @property
    def _is_first(self) -> bool:
        return self._peers is None or self._peers.is_first

    def _look(self, resume: bool) -> None:
        """Find out whether there is a run already, and what that means for this one."""
        there = (self.path / MANIFEST_NAME).is_file()
        if not resume:
            if there or self.checkpoint is not None:
                raise ExistingRunError(
                    f"{self.path} already holds a training run",
                    "a finished one" if there else f"its last checkpoint is {self.checkpoint}",
                    "Resume it, or choose another folder",
                )
        elif there:
            training = load_manifest(self.path).training
            self.identity.check_same(training.settings, training.sources)
            # The manifest was written last. Checkpoints are what a kill has kept from going, whole
            # or not.
            self.finished, self.checkpoint = True, None
            if self._is_first:
                remove_checkpoints(self.path)
        elif self.checkpoint is not None:
            self.progress = read_progress(self.checkpoint, self.identity)

    def write_checkpoint(
        self, modules: Sequence[TrainedModule], ctx: Optional[WorkContext] = None
    ) -> None:
        """Write how far the run is, and this process's ``modules``.

        Raises:
            FileWriteError, Cancelled, LostProcessError: as ``training_checkpoint.write_checkpoint``
        """
        self.checkpoint = write_checkpoint(
            self.path, self.identity, self.progress, modules, ctx, self._peers
        )

    def save(
        self, dictionaries: DictionarySet, info: ModelInfo, newest: Sequence[SiteMetrics]
    ) -> None:
        """Write the run's history and the CRM, whose manifest comes last of all: where there is
        one, everything is there, and the checkpoints may go.

        Args:
            dictionaries: this process's own.
            info: of the model.
            newest: what was last measured, of all modules.

        Raises:
            FileWriteError: the disk is full, the folder is read-only, and the like.
        """
        if self._is_first:
            # The curves outlive the checkpoints, which kept them so far.
            rows = [written_metrics(row) for row in self.progress.history]
            write_json_atomic(self.path / HISTORY_NAME, rows)
        save_crm(
            self.path,
            dictionaries,
            info,
            training_record(self.identity, self.progress),
            module_metrics(newest),
            self._peers,
        )
        if self._is_first:
            remove_checkpoints(self.path)

    def release(self) -> None:
        """Let others train here. Again it does nothing."""
        if self._lock is not None:
            self._lock.release()


def training_record(identity: RunIdentity, progress: Progress) -> TrainingRecord:
    """What a CRM's manifest says of the run that it comes from."""
    settings, sources = dict(identity.settings), dict(identity.sources)
    return TrainingRecord(
        text_hash=sources["text_hash"],
        heldout_hash=sources["heldout_hash"],
        tokens_trained=progress.tokens,
        seed=settings["seed"],
        settings=settings,
        sources=sources,
        metrics=progress.overall,
    )


def module_metrics(rows: Sequence[SiteMetrics]) -> dict[Site, dict[str, Optional[float]]]:
    """What a CRM's manifest says of each of its modules."""
    return {row.site: {name: getattr(row, name) for name in MODULE_METRICS} for row in rows}


def read_history(folder: Path) -> tuple[SiteMetrics, ...]:
    """What a run, finished or not, measured on held-out text: a row per module and evaluation.

    Raises:
        RunHistoryError: the folder holds no run, or its history cannot be read.
    """
    file = folder / HISTORY_NAME
    if not file.is_file():
        checkpoint = latest_checkpoint(folder)
        if checkpoint is None:
            raise RunHistoryError(
                f"{folder} holds no training run",
                "it has neither a history nor a checkpoint",
                "Choose the folder that a run writes to",
            )
        return tuple(read_progress(checkpoint).history)
    try:
        return tuple(read_metrics(row) for row in read_json(file))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunHistoryError(
            f"The history of {folder.name} cannot be read",
            f"{file} is not as a run writes it: {error}",
            "Choose another run",
        ) from error
