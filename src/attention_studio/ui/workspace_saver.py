"""Writes what a person makes to the workspace as they go, off the main thread.

Whoever knows of a change says so; what is due is collected for a moment and written by one job of
the ``quick`` lane at a time, always the newest of each part. What could not be written stays due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from attention_studio.ui import work_workspace
from attention_studio.ui.jobs import Job, JobFailure, JobRunner, JobState
from attention_studio.ui.workspace_view import SaveState

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.core.workspace import Workspace, WorkspaceChanges
    from attention_studio.core.workspace_index import WorkspaceIndex

DELAY_MS = 400
RETRY_MS = 15_000


class WorkspaceSaver(QObject):
    """Keeps one workspace written.

    ``changed`` says that ``state`` has; ``failed`` carries the ``JobFailure`` of a save, once until
    one works again; ``settled`` says after each save whether nothing is due any more.

    Args:
        describe: gives the index as it is now.
    """

    changed = Signal()
    failed = Signal(object)
    settled = Signal(bool)

    def __init__(
        self, runner: JobRunner, describe: Callable[[], WorkspaceIndex], parent: QObject
    ) -> None:
        super().__init__(parent)
        self._runner = runner
        self._describe = describe
        self._workspace: Optional[Workspace] = None
        self._graphs: dict[str, AttributionGraph] = {}
        self._notes: dict[str, GraphNotes] = {}
        self._records: dict[str, tuple[dict[str, Any], ...]] = {}
        self._index_due = False
        self._in_flight: Optional[WorkspaceChanges] = None
        self._job: Optional[Job] = None
        self.problem = ""
        self.saved_at: Optional[datetime] = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.flush)

    # -- what is asked of it ------------------------------------------------------------------

    def begin(self, workspace: Workspace, saved_at: Optional[datetime]) -> None:
        """Write to this workspace from now on; nothing is due."""
        self.end()
        self._workspace, self.saved_at = workspace, saved_at

    def end(self) -> None:
        """Write nothing more. What is due is let go: ``flush`` first."""
        self._timer.stop()
        self._workspace = None
        self._graphs, self._notes, self._records = {}, {}, {}
        self._index_due, self._in_flight, self.problem = False, None, ""
        self._job = None

    @property
    def clean(self) -> bool:
        """Whether everything is on the disk."""
        due = self._index_due or self._graphs or self._notes or self._records
        return not due and self._in_flight is None

    @property
    def state(self) -> SaveState:
        """Whether everything is on the disk, on its way there, or cannot get there."""
        if self.problem:
            return SaveState.FAILED
        return SaveState.SAVED if self.clean else SaveState.SAVING

    @property
    def job(self) -> Optional[Job]:
        """The save that is under way."""
        return self._job if self._in_flight is not None else None

    def graph(self, key: str) -> Optional[AttributionGraph]:
        """A graph that is not yet on the disk."""
        flying = None if self._in_flight is None else self._in_flight.graphs.get(key)
        return self._graphs.get(key, flying)

    # -- what has changed ---------------------------------------------------------------------

    def note_index(self) -> None:
        """The index is not as it was."""
        self._index_due = True
        self._begin_soon()

    def note_graph(self, key: str, graph: AttributionGraph) -> None:
        """A graph is new, or was traced anew."""
        self._graphs[key] = graph
        self.note_index()

    def note_notes(self, key: str, notes: GraphNotes) -> None:
        """The person has made something of a graph."""
        self._notes[key] = notes
        self.note_index()

    def note_records(self, kind: str, records: tuple[dict[str, Any], ...]) -> None:
        """There are other records of a kind."""
        self._records[kind] = records
        self.note_index()

    @Slot()
    def flush(self) -> None:
        """Write now what is due, unless a save is under way: then the rest follows that."""
        self._timer.stop()
        if self._workspace is None or self._in_flight is not None or self.clean:
            return
        from attention_studio.core.workspace import WorkspaceChanges

        changes = WorkspaceChanges(self._describe(), self._graphs, self._notes, self._records)
        self._graphs, self._notes, self._records = {}, {}, {}
        self._index_due = False
        self._in_flight = changes
        job = self._runner.submit(
            work_workspace.save, self._workspace, changes,
            title="Save the workspace", lane="quick", quiet=True,
        )  # fmt: skip
        if job.state is JobState.CANCELLED:
            self._take_back()
            return
        self._job = job
        job.finished.connect(self._on_saved)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)
        self.changed.emit()

    # -- inside -------------------------------------------------------------------------------

    def _begin_soon(self) -> None:
        # Not put off by what comes meanwhile, so that somebody who never pauses is saved too.
        if self._workspace is not None and not self._timer.isActive():
            self._timer.start(DELAY_MS)
            self.changed.emit()

    def _take_back(self) -> None:
        """What was on its way is due again, but for what is newer already."""
        changes, self._in_flight = self._in_flight, None
        if changes is not None:
            self._graphs = {**changes.graphs, **self._graphs}
            self._notes = {**changes.notes, **self._notes}
            self._records = {**changes.records, **self._records}
            self._index_due = True

    def _is_ours(self) -> bool:
        # A save of a workspace that was left meanwhile says nothing of this one.
        return self._job is not None and self.sender() is self._job

    @Slot(object)
    def _on_saved(self, index: WorkspaceIndex) -> None:
        if not self._is_ours():
            return
        self._in_flight = None
        self.problem = ""
        self.saved_at = index.saved
        if not self.clean:
            self._timer.start(DELAY_MS)
        self.changed.emit()
        self.settled.emit(self.clean)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        if not self._is_ours():
            return
        self._take_back()
        first, self.problem = not self.problem, failure.what
        self._timer.start(RETRY_MS)
        self.changed.emit()
        if first:
            self.failed.emit(failure)
        self.settled.emit(False)

    @Slot(object)
    def _on_cancelled(self, _value: object) -> None:
        if not self._is_ours():
            return
        self._take_back()
        self._timer.start(RETRY_MS)
        self.changed.emit()
        self.settled.emit(False)
