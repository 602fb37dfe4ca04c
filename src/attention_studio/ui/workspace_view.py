"""What there is to see of the open workspace, for docks, commands and the title of the window."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from datetime import datetime

    from attention_studio.core.workspace import Workspace
    from attention_studio.core.workspace_index import GraphEntry


class SaveState(Enum):
    """Whether what the person made is on the disk."""

    SAVED = "saved"
    SAVING = "saving"
    FAILED = "failed"


@dataclass(frozen=True)
class WorkspaceView:
    """The open workspace.

    Attributes:
        name: what it is called.
        folder: where it lies.
        graphs: its graphs, in the order in which they came.
        current: key of the one that is shown; "": none.
        state: whether all is saved.
        saved_at: when it last was.
        problem: why it is not saved, for ``SaveState.FAILED``.
        home: the workspace itself, to tell it from another one.
    """

    name: str
    folder: Path
    graphs: tuple[GraphEntry, ...] = ()
    current: str = ""
    state: SaveState = SaveState.SAVED
    saved_at: Optional[datetime] = None
    problem: str = ""
    home: Optional[Workspace] = None
