"""The files of a workspace: JSON of bounded size, read without trust and set aside where it is
damaged.

What is damaged and what the system does not give out are two things: a disk that hiccups, or rights
that somebody took away, say nothing of what is in a file, which then stays as and where it is.
Knows neither Qt nor torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileAccessError,
    FileReadError,
    explain_write_errors,
    read_json,
    write_json_atomic,
)

INDEX_NAME = "workspace.json"
LOCK_NAME = "workspace.lock"
GRAPHS, RECORDS, REMOVED = "graphs", "records", "removed"
MAX_JSON_BYTES = 64 << 20
"""No file of JSON is read that has more bytes, so none is written."""


class WorkspaceError(StudioError):
    """A workspace that cannot be opened or written."""


class WorkspaceDamagedError(WorkspaceError):
    """The index cannot be used, and what lies beside it may be saved by ``Workspace.recover``."""

    @classmethod
    def of(cls, folder: Path, why: str) -> WorkspaceDamagedError:
        """The error of the workspace in that folder."""
        return cls(
            f"The workspace {folder.name} cannot be opened",
            why,
            "What lies beside it can be recovered; nothing has been changed",
        )


class WorkspaceUnreadableError(WorkspaceError):
    """The system does not give out what is in a workspace, which may be as it should."""


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turn the ``OSError`` of a failed read into a ``WorkspaceUnreadableError`` that names
    ``path``."""
    try:
        yield
    except (OSError, FileAccessError) as error:
        why = error.why if isinstance(error, FileAccessError) else error.strerror
        raise WorkspaceUnreadableError(
            f"{path} cannot be read",
            why or str(error),
            "Nothing has been changed. Mend its rights or the disk, and open it again",
        ) from error


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, sorted; nothing where there is none.

    Raises:
        WorkspaceUnreadableError: the system does not say.
    """
    with explain_read_errors(folder):
        try:
            return sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return []


def read_bounded(path: Path) -> Any:
    """Read JSON of at most ``MAX_JSON_BYTES`` from a plain file.

    Raises:
        FileReadError: it is damaged, too large, or no plain file.
        WorkspaceUnreadableError: the system does not give it out.
    """
    with explain_read_errors(path):
        # A pipe has no size and would never end, and a link may lead nowhere.
        if not path.is_file():
            raise FileReadError(f"{path} cannot be read", "it is no plain file")
        return read_json(path, MAX_JSON_BYTES)


def write_bounded(path: Path, value: Any) -> None:
    """Write JSON that ``read_bounded`` will read.

    Raises:
        FileWriteError: it cannot be written, or would be too large to be read again.
    """
    write_json_atomic(path, value, MAX_JSON_BYTES)


def set_aside(path: Path) -> Path:
    """Give a file that is damaged another name, so that nothing is written over it.

    Raises:
        FileWriteError: it cannot be renamed.
    """
    with explain_write_errors(path):
        number = 1
        while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
            number += 1
        return path.rename(aside)
