"""What the window has open, for an agent that is asked about it: the same tools as over a folder.

What is shown is taken down on the main thread, as frozen records and handles; a lane reads the rest
(other graphs) from the workspace's folder. Nothing is changed. Knows no Qt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.core.graph_notes import GraphNotes

if TYPE_CHECKING:
    from attention_studio.agents.open_workspace import OpenWorkspace
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.workspace_index import GraphEntry, WorkspaceIndex
    from attention_studio.core.workspace_reading import WorkspaceReader
    from attention_studio.ui.session import Session
    from attention_studio.utils.turns import Turn

UNKEPT = "G1"
"""What the shown graph is called where no workspace has it."""


@dataclass(frozen=True)
class SessionView:
    """What the window showed at a moment.

    Attributes:
        name: of the workspace; folder: of the same, None: there is none.
        key: of the graph that is shown; "": none is.
        thresholds: what it is pruned to.
        records: what was found out, by kind.
    """

    name: str
    folder: Optional[Path]
    key: str
    graph: Optional[AttributionGraph]
    notes: GraphNotes
    entries: tuple[GraphEntry, ...]
    thresholds: tuple[float, float]
    records: Mapping[str, tuple[dict[str, Any], ...]]
    crm: Optional[CompleteReplacementModel] = field(repr=False)
    store: Optional[FeatureStore] = field(repr=False)

    @classmethod
    def of(cls, session: Session) -> SessionView:
        """What a session has now. Called on the main thread."""
        workspace = session.workspace
        return cls(
            "" if workspace is None else workspace.name,
            None if workspace is None else workspace.folder,
            graph_key(session),
            session.graph,
            session.notes,
            () if workspace is None else workspace.graphs,
            session.thresholds,
            session.records,
            session.crm,
            session.store,
        )

    def desk(self, turn: Turn) -> OpenWorkspace:
        """The same as an agent sees it. What runs the model holds ``turn``."""
        from attention_studio.agents.open_workspace import OpenWorkspace

        crm = self.crm
        load = None if crm is None else lambda _ctx: crm
        return OpenWorkspace(_ViewReader(self), load, self.store, turn=turn)


def graph_key(session: Session) -> str:
    """By which key an agent knows the graph that is shown; "": none is."""
    return "" if session.graph is None else session.graph_key or UNKEPT


class _ViewReader:
    """Reads a view as ``WorkspaceReader`` reads a folder."""

    def __init__(self, view: SessionView) -> None:
        self._view = view
        self._rest: Optional[WorkspaceReader] = None
        self._index: Optional[WorkspaceIndex] = None

    def index(self) -> WorkspaceIndex:
        """What there is."""
        if self._index is None:
            from attention_studio.core.workspace_index import (
                GraphEntry,
                WorkspaceCRM,
                WorkspaceIndex,
                WorkspaceModel,
            )

            view, crm = self._view, self._view.crm
            entries = view.entries
            if view.graph is not None and all(one.key != view.key for one in entries):
                entries = (*entries, GraphEntry.of(view.key, view.graph))
            info = None if crm is None else crm.loaded.info
            told = {
                "model": None if info is None else WorkspaceModel.of(info, None),
                "crm": None if crm is None else WorkspaceCRM(folder="", name=crm.name),
                "thresholds": view.thresholds,
                "graph": view.key,
                "graphs": entries,
            }
            self._index = WorkspaceIndex.new(view.name).model_copy(update=told)
        return self._index

    def graph(self, key: str) -> AttributionGraph:
        """The graph that is shown, or another one of the workspace."""
        view = self._view
        return view.graph if view.graph is not None and key == view.key else self._others.graph(key)

    def notes(self, key: str) -> GraphNotes:
        """What the person has made of it."""
        return self._view.notes if key == self._view.key else self._others.notes(key)

    def records(self, kind: str) -> tuple[dict[str, Any], ...]:
        """What was found out."""
        return self._view.records.get(kind, ())

    @property
    def _others(self) -> WorkspaceReader:
        from attention_studio.agents.tools import ToolError
        from attention_studio.core.workspace_reading import WorkspaceReader

        if self._rest is None:
            if self._view.folder is None:
                raise ToolError("There is no other graph", "no workspace is open", "")
            self._rest = WorkspaceReader(self._view.folder)
        return self._rest
