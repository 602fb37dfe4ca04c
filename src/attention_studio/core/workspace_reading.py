"""Reading a workspace that a window may have open at the same time.

``Workspace`` holds its folder and sets aside what is damaged. This does neither: every file is
replaced whole by whoever writes, so each can be read at any moment, and nothing is changed. Knows
neither Qt nor torch.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, Optional

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_files import load_graph
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.workspace import is_workspace
from attention_studio.core.workspace_files import (
    GRAPHS,
    RECORDS,
    WorkspaceError,
    explain_read_errors,
    read_bounded,
)
from attention_studio.core.workspace_index import WorkspaceIndex, read_index
from attention_studio.utils.files import FileReadError

_KIND = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class WorkspaceReader:
    """Reads a workspace. Safe from any thread.

    The graph that was asked for last is kept, and read again once its file is another.

    Args:
        folder: of the workspace.

    Raises:
        WorkspaceError: none lies there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        if not is_workspace(self.folder):
            raise WorkspaceError(
                f"There is no workspace in {self.folder}",
                "",
                "Name the folder of one that the window has saved",
            )
        self._lock = threading.Lock()
        self._graph: Optional[tuple[str, tuple[int, int], AttributionGraph]] = None

    def index(self) -> WorkspaceIndex:
        """The index as it is now.

        Raises:
            WorkspaceError: it is damaged, cannot be read, or is of a later version.
        """
        return read_index(self.folder)

    def graph(self, key: str) -> AttributionGraph:
        """A graph that the index names.

        Raises:
            WorkspaceError: it names none of that key.
            GraphError: it is missing or damaged.
        """
        path = self._path(key, "safetensors")
        with self._lock:
            with explain_read_errors(path):
                found = path.stat() if path.exists() else None
            stamp = (0, 0) if found is None else (found.st_mtime_ns, found.st_size)
            if self._graph is None or self._graph[:2] != (key, stamp):
                self._graph = None  # never two at once: they may be large
                self._graph = (key, stamp, load_graph(path))
            return self._graph[2]

    def notes(self, key: str) -> GraphNotes:
        """What a person has made of a graph; without any notes, empty ones.

        Raises:
            WorkspaceError: the index names no graph of that key.
            FileReadError, NotesError: they are damaged.
        """
        path = self._path(key, "notes.json")
        return GraphNotes.from_json(read_bounded(path)) if path.exists() else GraphNotes()

    def records(self, kind: str) -> tuple[dict[str, Any], ...]:
        """What was found out, of one kind, oldest first.

        Raises:
            FileReadError: it is damaged.
        """
        path = self.folder / RECORDS / f"{kind}.json"
        if not _KIND.fullmatch(kind) or not path.exists():
            return ()
        found = read_bounded(path)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise FileReadError(f"{path.name} cannot be read", "it is no list of records")
        return tuple(found)

    def _path(self, key: str, suffix: str) -> Path:
        if self.index().entry(key) is None:  # whose pattern no path into elsewhere fits
            raise WorkspaceError(
                "There is no such graph in the workspace", "", "Choose one that it lists"
            )
        return self.folder / GRAPHS / f"{key}.{suffix}"
