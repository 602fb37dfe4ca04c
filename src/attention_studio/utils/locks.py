"""Folders that belong to one process at a time.

The lock is the operating system's, on an open file. A process that is killed lets go of it; the
file that then stays behind locks nobody out.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileReadError, explain_write_errors, read_text

_MAX_PID_BYTES = 32


class FolderHeldError(StudioError):
    """Somebody else holds the folder.

    Attributes:
        holder: the process that does, in brackets and with a space before it, or "" where the file
            does not tell.
    """

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder} is in use{holder}", "", "Wait for it, or choose another folder")
        self.holder = holder


class FolderLock:
    """Holds a folder from now until ``release``, which any thread may call.

    Args:
        folder: made if it is not there.
        name: of the lock's file in it.

    Raises:
        FolderHeldError: this process, through another lock, or another one holds it.
        FileWriteError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        with explain_write_errors(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            # Made on a lane, released on the main thread.
            self._lock = FileLock(str(self._path), thread_local=False)
            while True:
                holder = _pid_in(self._path)
                try:
                    self._lock.acquire(timeout=0)
                except Timeout:
                    raise FolderHeldError(folder, holder) from None
                if self._path.exists():
                    break
                # Who held it has deleted it between our opening and our locking.
                self._lock.release()
        with suppress(OSError):  # Windows lets nobody write to a locked file
            self._path.write_text(str(os.getpid()), encoding="ascii")

    def release(self) -> None:
        """Let others have the folder; nothing is left of the lock. Again it does nothing."""
        if not self._lock.is_locked:
            return
        with suppress(OSError):
            # While it is held, so that nobody else's file is deleted; Windows cannot do so then.
            self._path.unlink()
        self._lock.release()
        if os.name == "nt":
            with suppress(OSError):
                self._path.unlink()


def _pid_in(path: Path) -> str:
    """The process that holds the lock, in brackets, or nothing where the file does not tell."""
    try:
        text = read_text(path, _MAX_PID_BYTES).strip()
    except FileReadError:
        return ""
    return f" (process {text})" if text.isdigit() else ""
