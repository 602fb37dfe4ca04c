"""One process at a time trains into a folder: two would delete each other's checkpoints."""

from __future__ import annotations

from pathlib import Path

from attention_studio.core.training_checks import ExistingRunError
from attention_studio.utils.locks import FolderHeldError, FolderLock

LOCK_NAME = "training.lock"


class RunLock:
    """Holds the folder of a run from now until ``release``, which any thread may call.

    Raises:
        ExistingRunError: another run, of this process or another one, holds it.
        FileWriteError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._lock = FolderLock(folder, LOCK_NAME)
        except FolderHeldError as error:
            raise ExistingRunError(
                f"Another run{error.holder} is training into {folder}",
                "two in one folder would destroy each other's checkpoints",
                "Wait for it or stop it, or choose another folder",
            ) from None

    def release(self) -> None:
        """Let others train here; nothing is left of the lock. Again it does nothing."""
        self._lock.release()
