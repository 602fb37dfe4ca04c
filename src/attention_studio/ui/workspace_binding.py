"""What a workspace and the session have to do with each other: one is filled from the other, and
what changes in the session is noted as due to be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.trace_circumstances import DictionariesId
from attention_studio.ui.session import Session, SessionPart
from attention_studio.ui.workspace_saver import WorkspaceSaver

if TYPE_CHECKING:
    from attention_studio.core.workspace import Workspace
    from attention_studio.core.workspace_index import (
        GraphEntry,
        WorkspaceCRM,
        WorkspaceIndex,
        WorkspaceModel,
    )
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.work_workspace import KeptGraph, OpenedWorkspace

_DESCRIBED = frozenset(
    (
        SessionPart.PROMPT, SessionPart.THRESHOLDS, SessionPart.SELECTION, SessionPart.CHOSEN,
        SessionPart.MODEL, SessionPart.CRM, SessionPart.GRAPH,
    )
)  # fmt: skip


class WorkspaceBinding(QObject):
    """Binds the session to one workspace at a time.

    ``changed`` says that there are other graphs, or that another one is shown. ``saver`` writes
    what is due.
    """

    changed = Signal()

    def __init__(self, session: Session, runner: JobRunner, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self.workspace: Optional[Workspace] = None
        self._index: Optional[WorkspaceIndex] = None
        self._model: Optional[WorkspaceModel] = None
        self._crm: Optional[WorkspaceCRM] = None
        # What was read or made of graphs since the workspace was opened: newer than the disk.
        self._notes: dict[str, GraphNotes] = {}
        self._records: dict[str, tuple[dict[str, Any], ...]] = {}
        self._listening = True
        self.saver = WorkspaceSaver(runner, self._describe, self)
        session.changed.connect(self._on_session_changed)

    # -- one workspace after another ----------------------------------------------------------

    def take(self, opened: OpenedWorkspace) -> None:
        """Show what a workspace holds, and note changes for it from now on. The one before is let
        go; whoever needs its changes has had them written."""
        from attention_studio.core.workspace_index import WorkspaceIndex

        self.let_go()
        self._session.undo_stack.clear()
        contents, index = opened.contents, opened.contents.index
        self._notes, self._records = {}, dict(contents.records)
        with self._without_noting():
            if index is not None:
                self._fill(opened, index)
            else:
                # A new page: the models and the prompt that one is at, and nothing else.
                self._session.set_graph(None, None, self)
            self._session.set_records(contents.records, self)
        self.workspace = opened.workspace
        self._index = index or WorkspaceIndex.new(opened.workspace.folder.name)
        self._model, self._crm = self._index.model, self._index.crm
        self.saver.begin(opened.workspace, None if index is None else index.saved)
        if index is None:
            self._note_models()
            self.saver.note_index()

    def let_go(self) -> None:
        """Note nothing more, and let another window have the folder."""
        self.saver.end()
        if self.workspace is not None:
            self.workspace.close()
            self.workspace = None

    def _fill(self, opened: OpenedWorkspace, index: WorkspaceIndex) -> None:
        """Show what the workspace holds. Of models that are open, those stay that it names."""
        session = self._session
        if not (self.has_loaded(index.model) and self._has_open(index.crm)):
            session.set_crm(None, None, None, self)
        session.set_graph(None, None, self)
        session.set_prompt(index.prompt, self)
        session.restore_thresholds(*(index.thresholds or session.thresholds), self)
        if opened.graph is not None:
            self._set_graph(opened.graph)
            session.set_selection(index.selection, self)
            session.set_chosen(index.chosen, self)

    def has_loaded(self, model: Optional[WorkspaceModel]) -> bool:
        """Whether that model is the loaded one."""
        info = self._session.model_info
        return model is not None and info is not None and info.weights_hash == model.weights_hash

    def _has_open(self, crm: Optional[WorkspaceCRM]) -> bool:
        """Whether that replacement model is the open one."""
        session = self._session
        if crm is None or session.crm is None or session.crm_folder is None:
            return False
        # Where its fingerprint is not known only the folder is left, more than what it is called.
        mine = DictionariesId(str(session.crm_folder.absolute()), session.crm.fingerprint)
        return mine.means(DictionariesId(crm.folder, crm.fingerprint))

    # -- its graphs ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the workspace is called."""
        return "" if self._index is None else self._index.name

    @property
    def entries(self) -> tuple[GraphEntry, ...]:
        """Its graphs, in the order in which they came."""
        return () if self._index is None else self._index.graphs

    def entry(self, key: str) -> Optional[GraphEntry]:
        """The graph of that key."""
        return None if self._index is None else self._index.entry(key)

    def set_entries(self, entries: tuple[GraphEntry, ...]) -> None:
        """Let the workspace have exactly these graphs."""
        if self._index is not None:
            self._index = self._index.model_copy(update={"graphs": entries})
            self.saver.note_index()
            self.changed.emit()

    def rename(self, name: str) -> None:
        """Call the workspace something."""
        if self._index is not None:
            self._index = self._index.model_copy(update={"name": name})
            self.saver.note_index()

    def notes(self, key: str) -> GraphNotes:
        """The notes of a graph that is not yet on the disk."""
        return self._notes.get(key, GraphNotes())

    def show(self, kept: KeptGraph) -> None:
        """Show a graph of the workspace. A prompt that was not touched goes along with it."""
        session = self._session
        untouched = session.graph is None or session.prompt == session.graph.prompt
        with self._without_noting():
            self._set_graph(kept)
            if untouched:
                session.set_prompt(kept.traced.graph.prompt, self)
        self.saver.note_index()
        self.changed.emit()

    def _set_graph(self, kept: KeptGraph) -> None:
        notes = self._notes.setdefault(kept.key, kept.notes)
        traced = kept.traced
        self._session.set_graph(traced.graph, traced.pruned, self, key=kept.key, notes=notes)

    # -- what has changed ---------------------------------------------------------------------

    @contextmanager
    def _without_noting(self) -> Iterator[None]:
        self._listening = False
        try:
            yield
        finally:
            self._listening = True

    @Slot(object, object)
    def _on_session_changed(self, part: SessionPart, _initiator: object) -> None:
        session = self._session
        if self.workspace is None or not self._listening:
            return
        if part is SessionPart.GRAPH:
            self._on_graph()
        elif part is SessionPart.NOTES:
            # While a graph leaves its notes leave first: they are nobody's then.
            if session.graph_key:
                self._notes[session.graph_key] = session.notes
                self.saver.note_notes(session.graph_key, session.notes)
        elif part is SessionPart.RECORDS:
            for kind in {*session.records, *self._records}:
                records = session.records.get(kind, ())
                if records is not self._records.get(kind, ()):
                    self.saver.note_records(kind, records)
            self._records = dict(session.records)
        elif part in (SessionPart.MODEL, SessionPart.CRM):
            self._note_models()
        if part in _DESCRIBED:
            self.saver.note_index()

    def _on_graph(self) -> None:
        """A graph that the workspace has not got comes in; one that was traced anew is written
        anew."""
        from attention_studio.core.workspace_index import GraphEntry

        session, workspace, index = self._session, self.workspace, self._index
        assert workspace is not None and index is not None
        if session.graph is None:
            self.changed.emit()
            return
        key = session.graph_key
        if not key:
            # The same question again takes the place of an answer that nothing was made of.
            asked = GraphEntry.of(workspace.free_key(index), session.graph)
            free = (entry for entry in index.graphs if not (self._is_noted(entry) or entry.name))
            same = (entry.key for entry in free if entry.answers_the_same(asked))
            key = next(same, asked.key)
            session.name_graph(key)
            self._notes[key] = session.notes
        entry = GraphEntry.of(key, session.graph)
        known = self.entry(key)
        if known is not None:
            entry = entry.model_copy(update={"name": known.name})
            entries = tuple(entry if e.key == key else e for e in index.graphs)
        else:
            entries = (*index.graphs, entry)
        self.saver.note_graph(key, session.graph)
        self.set_entries(entries)

    def _is_noted(self, entry: GraphEntry) -> bool:
        notes = self._notes.get(entry.key)
        return entry.noted if notes is None else not notes.empty

    def _note_models(self) -> None:
        """Which models are open. One that is let go stays the one that the workspace was made
        with."""
        from attention_studio.core.workspace_index import WorkspaceCRM, WorkspaceModel

        session = self._session
        if session.model is None:
            return
        if not self.has_loaded(self._model):
            self._crm = None
        self._model = WorkspaceModel.of(session.model.info, session.model_config)
        if session.crm is not None and session.crm_folder is not None:
            about = session.crm_info
            self._crm = WorkspaceCRM(
                folder=str(session.crm_folder.absolute()),
                name=session.crm.name,
                fingerprint="" if about is None else about.fingerprint,
                seed=None if about is None else about.training.seed,
            )

    def _describe(self) -> WorkspaceIndex:
        """The index as it is now."""
        session, index = self._session, self._index
        assert index is not None, "what is not open is not saved"
        entries = []
        for entry in index.graphs:
            notes = self._notes.get(entry.key)
            if notes is not None:
                told = {"pins": len(notes.pinned), "noted": not notes.empty}
                entry = entry.model_copy(update=told)
            entries.append(entry)
        self._index = index.model_copy(
            update={
                "model": self._model,
                "crm": self._crm,
                "prompt": session.prompt,
                "thresholds": session.thresholds,
                "graph": session.graph_key if session.graph is not None else "",
                "selection": session.selection,
                "chosen": session.chosen,
                "graphs": tuple(entries),
            }
        )
        return self._index
