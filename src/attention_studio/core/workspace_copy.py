"""Copying the folder of a workspace while somebody goes on working in it.

Files of a workspace are replaced whole, never changed, so that each can be copied at any time; what
belongs together is made so by a last look while nothing is written. Knows neither Qt nor torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Optional

from attention_studio.core.workspace_files import (
    GRAPHS,
    INDEX_NAME,
    LOCK_NAME,
    RECORDS,
    REMOVED,
    WorkspaceError,
    explain_read_errors,
    names_in,
    read_bounded,
    write_bounded,
)
from attention_studio.utils.files import FileReadError, atomic_write, explain_write_errors
from attention_studio.utils.progress import WorkContext

_Stamp = tuple[int, int, int]


class FolderCopy:
    """A copy that can be brought up to date.

    Args:
        source: the workspace's folder.
        name: what the copy is called in its index.
        writing: held by whoever writes to the workspace. It is taken for one file at a time, so
            that nobody waits long; who holds it gets a copy of one moment.
    """

    def __init__(self, source: Path, name: str, writing: AbstractContextManager[Any]) -> None:
        self._source = source
        self._name = name
        self._writing = writing
        self._copied: dict[Path, _Stamp] = {}

    def bring_up_to_date(self, target: Path, ctx: Optional[WorkContext] = None) -> None:
        """Copy what is new or was replaced, the index last, and take away what is gone.

        Raises:
            WorkspaceUnreadableError: a file cannot be read.
            FileWriteError: the copy cannot be written.
            Cancelled: through ``ctx``, between two files.
        """
        found = list(self._files())
        for done, name in enumerate(found):
            if ctx is not None:
                ctx.check()
                ctx.progress(done, len(found), name.name)
            with self._writing:
                self._copy(name, target)
        for name in self._copied.keys() - set(found):
            with explain_write_errors(target / name):
                (target / name).unlink(missing_ok=True)
            del self._copied[name]

    def _files(self) -> Iterator[Path]:
        """All files of the workspace. Links are left out: a copy holds what it holds."""
        for part in (Path(GRAPHS), Path(RECORDS), Path(REMOVED), Path()):
            for name in names_in(self._source / part):
                path = self._source / part / name
                hidden = name.startswith(".") or name == LOCK_NAME
                if not hidden and not path.is_symlink() and path.is_file():
                    yield part / name

    def _copy(self, name: Path, target: Path) -> None:
        path, copy = self._source / name, target / name
        with explain_read_errors(path):
            try:
                told = path.stat()
            except FileNotFoundError:
                return  # moved since it was listed, and it is found in its place next time
        stamp = (told.st_ino, told.st_mtime_ns, told.st_size)
        if self._copied.get(name) == stamp:
            return
        if not (name == Path(INDEX_NAME) and self._copy_index(path, copy)):
            with atomic_write(copy) as temporary:
                try:
                    shutil.copyfile(path, temporary)
                except OSError as error:
                    if error.filename != str(path):
                        raise
                    raise WorkspaceError(
                        f"{path} cannot be copied", error.strerror or str(error)
                    ) from error
        self._copied[name] = stamp

    def _copy_index(self, path: Path, copy: Path) -> bool:
        """Copy the index with the name of the copy, unless it is damaged."""
        try:
            told = read_bounded(path)
        except FileReadError:
            return False
        if not isinstance(told, dict):
            return False
        write_bounded(copy, {**told, "name": self._name})
        return True
