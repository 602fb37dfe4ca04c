"""The workspace of the window: opening, copying and leaving it, and going from graph to graph.

``WorkspaceBinding`` knows what it has to do with the session, ``WorkspaceSaver`` writes. Nothing is
kept before ``start``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from loguru import logger
from PySide6.QtCore import QObject, QTimer, Signal, Slot

from attention_studio.ui import work_workspace
from attention_studio.ui.demo_opener import ModelOpener
from attention_studio.ui.jobs import Job, JobFailure
from attention_studio.ui.widgets.compare_dock import SECOND_KEY, CompareDock
from attention_studio.ui.widgets.dialogs import ask_folder, ask_new_folder
from attention_studio.ui.widgets.message_bar import Message, Offer
from attention_studio.ui.widgets.workspace_dock import WorkspaceDock
from attention_studio.ui.window_state import RECENT_WORKSPACES
from attention_studio.ui.workspace_binding import WorkspaceBinding
from attention_studio.ui.workspace_post import WorkspacePost
from attention_studio.ui.workspace_view import WorkspaceView

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.core.workspace import Workspace
    from attention_studio.core.workspace_index import GraphEntry
    from attention_studio.ui.main_window import MainWindow

LEAVE_PATIENCE_MS = 10_000
_MOST_PROBLEMS = 5


class WorkspaceKeeper(QObject):
    """Opens and leaves workspaces.

    ``opened`` says that a workspace is open and what it holds is shown, but for models, which take
    longer; it carries whether it held anything.
    """

    opened = Signal(bool)

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._session = window.session
        self._asked: Optional[Path] = None
        self._opening = False
        self._leaving = False
        self._next: Optional[Callable[[], object]] = None
        self._leaving_graphs: dict[str, GraphEntry] = {}
        self._models = ModelOpener(window)
        self._binding = WorkspaceBinding(window.session, window.runner, self)
        self._saver = self._binding.saver
        self._binding.changed.connect(self._publish)
        self._saver.changed.connect(self._publish)
        self._saver.failed.connect(self._on_failed)
        self._saver.settled.connect(self._on_settled)
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.setInterval(LEAVE_PATIENCE_MS)
        self._patience.timeout.connect(self.leave_anyway)
        self._post = WorkspacePost(window.session, window.runner, self)
        self._post.message.connect(window.say)
        dock = window.docks["workspace"]
        assert isinstance(dock, WorkspaceDock)
        dock.graph_asked.connect(self.open_graph)
        dock.remove_asked.connect(self.remove_graph)
        dock.rename_asked.connect(self.rename_graph)
        compare = window.docks["compare"]
        assert isinstance(compare, CompareDock)
        self._compare_dock = compare
        compare.graph_asked.connect(self.compare_with)
        self._show_recent()

    # -- beginning and ending -----------------------------------------------------------------

    def start(self, wanted: Optional[Path] = None) -> None:
        """Open the workspace that is wanted, else the one that was open last, else one that nobody
        has given a place."""
        recent = self._window.state.workspaces
        if wanted is None and recent:
            wanted = Path(recent[0])
        self._opening = True
        job = self._window.runner.submit(
            work_workspace.open_first, self._session.settings, wanted, self._session.thresholds,
            title="Open the workspace", lane="quick", quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_opened)
        job.failed.connect(self._on_open_failed)
        job.cancelled.connect(self._on_open_cancelled)

    def ready_to_leave(self) -> bool:
        """Whether all is saved, so that the window may close. If not, it is closed once it is."""
        if not self._leaving:
            self._session.leaving.emit()
        if self._leaving or self._binding.workspace is None or self._saver.clean:
            return True
        self._patience.start()
        for job in self._window.runner.jobs:
            # Nobody will see what else that lane works at, and saving waits for it.
            if job.lane == "quick" and job is not self._saver.job:
                self._window.runner.cancel(job)
        self._when_saved(self._window.close)
        return False

    @Slot()
    def leave_anyway(self) -> None:
        """Close the window although not everything is saved."""
        logger.warning("the window closes with changes that the workspace has not got")
        self._leaving = True
        self._window.close()

    def close(self) -> None:
        """Let the folder go. What is due is not written any more."""
        self._patience.stop()
        self._binding.let_go()

    # -- what a person does -------------------------------------------------------------------

    @Slot()
    def new_workspace(self) -> None:
        """Name a folder and begin an empty workspace there."""
        ask_new_folder(self._window, "New workspace", self.open_folder, self._beside())

    @Slot()
    def open_workspace(self) -> None:
        """Choose a workspace and open it."""
        ask_folder(self._window, "Open workspace", self.open_folder, self._beside())

    def open_recent(self, number: int) -> None:
        """Open one of the workspaces that were open before this one, counted from 0."""
        others = self._others()
        if number < len(others):
            self.open_folder(others[number])

    @Slot(str)
    def open_folder(self, folder: str) -> None:
        """Open the workspace in a folder, or begin one there."""
        self._when_saved(partial(self._open, Path(folder)))

    @Slot()
    def save_as(self) -> None:
        """Name a folder, copy the workspace there, and go on in the copy."""
        ask_new_folder(self._window, "Save workspace as", self.save_to, self._beside())

    @Slot()
    def duplicate(self) -> None:
        """Name a folder and copy the workspace there."""
        ask_new_folder(self._window, "Duplicate workspace", self.copy_to, self._beside())

    @Slot(str)
    def save_to(self, folder: str) -> None:
        """Copy the workspace to a folder and go on there."""
        # What is not saved yet, perhaps because its disk is full, is saved to the copy.
        self._copy(work_workspace.move, Path(folder), self._on_moved)

    @Slot(str)
    def copy_to(self, folder: str) -> None:
        """Copy the workspace to a folder."""
        self._when_saved(partial(self._copy, work_workspace.copy, Path(folder), self._on_copied))

    @Slot(str)
    def open_graph(self, key: str) -> None:
        """Show a graph of the workspace."""
        job = self._bring(key, "open-graph")
        if job is not None:
            job.finished.connect(self._on_graph)
            job.failed.connect(self._on_failed)

    @Slot(str)
    def compare_with(self, key: str) -> None:
        """Put a graph of the workspace beside the one that is shown."""
        job = self._bring(key, SECOND_KEY)
        if job is not None:
            self._compare_dock.await_kept(job)

    def _bring(self, key: str, job_key: str) -> Optional[Job]:
        """A job that brings a graph of the workspace, from the disk or on its way there."""
        workspace, thresholds = self._binding.workspace, self._session.thresholds
        if workspace is None or self._opening or self._binding.entry(key) is None:
            return None
        submit = partial(self._window.runner.submit, title="Open graph", lane="quick", key=job_key)
        held = self._saver.graph(key)
        if held is not None:
            notes = self._binding.notes(key)
            return submit(work_workspace.prune_kept, key, held, notes, thresholds)
        return submit(work_workspace.load_graph, workspace, key, thresholds)

    def step_graph(self, by: int) -> None:
        """Show the graph that many places further on in the workspace; behind the last comes the
        first."""
        keys = [entry.key for entry in self._binding.entries]
        if keys:
            here = self._session.graph_key
            place = keys.index(here) + by if here in keys else 0 if by > 0 else -1
            self.open_graph(keys[place % len(keys)])

    @Slot(str, str)
    def rename_graph(self, key: str, name: str) -> None:
        """Call a graph something; "" calls it by its prompt again."""
        called = {"name": " ".join(name.split())[:200]}
        self._binding.set_entries(
            tuple(
                entry.model_copy(update=called) if entry.key == key else entry
                for entry in self._binding.entries
            )
        )

    @Slot()
    def remove_current_graph(self) -> None:
        """Take the graph that is shown out of the workspace."""
        self.remove_graph(self._session.graph_key)

    @Slot(str)
    def remove_graph(self, key: str) -> None:
        """Take a graph out of the workspace. Its files are kept, and it can be put back."""
        if self._binding.entry(key) is not None:
            self._when_saved(partial(self._remove, key))

    # -- opening ------------------------------------------------------------------------------

    def _open(self, folder: Path, recover: bool = False) -> None:
        if self._opening or self._is_open(folder):
            return
        self._opening = True
        self._asked = folder
        job = self._window.runner.submit(
            work_workspace.open_workspace, self._session.settings, folder,
            self._session.thresholds, recover, title=f"Open {folder.name}", lane="quick",
        )  # fmt: skip
        job.finished.connect(self._on_opened)
        job.failed.connect(self._on_open_failed)
        job.cancelled.connect(self._on_open_cancelled)

    @Slot(object)
    def _on_opened(self, opened: work_workspace.OpenedWorkspace) -> None:
        self._opening = False
        if not self._saver.clean:
            # Somebody has gone on while the folder was read: that is written first.
            opened.workspace.close()
            self._when_saved(partial(self._open, opened.workspace.folder))
            return
        self._binding.take(opened)
        self._remember(opened.workspace.folder)
        self._tell(opened)
        self._open_models(opened)
        self.opened.emit(opened.contents.index is not None)

    def _open_models(self, opened: work_workspace.OpenedWorkspace) -> None:
        index = opened.contents.index
        if index is None or index.model is None:
            return
        if self._binding.has_loaded(index.model):
            if self._session.crm_folder is None and opened.crm is not None:
                self._models.start(None, opened.crm)
            return
        if opened.model is not None:
            self._models.start(opened.model, opened.crm)
            return
        self._window.say(
            Message(
                "info",
                f"The workspace was made with the model {index.model.name}, which is not here",
                index.model.path or index.model.source,
                "Load it in the Model dock to go on tracing; graphs can be read without",
            )
        )

    def _tell(self, opened: work_workspace.OpenedWorkspace) -> None:
        folder = opened.workspace.folder
        for refused, error in opened.refused:
            self._tell_refused(refused, JobFailure.of(error, "Opening the workspace"))
        if opened.problems:
            more = len(opened.problems) - _MOST_PROBLEMS
            told = "; ".join(opened.problems[:_MOST_PROBLEMS])
            self._window.say(
                Message(
                    "warning",
                    f"Not everything in {folder.name} could be read",
                    told + (f"; and {more} more" if more > 0 else ""),
                    f"What could not be read is still in {folder}",
                )
            )

    def _tell_refused(self, folder: Path, failure: JobFailure) -> None:
        from attention_studio.core.workspace_files import WorkspaceDamagedError

        damaged = isinstance(failure.error, WorkspaceDamagedError)
        offer = Offer("Recover", partial(self._recover, folder)) if damaged else None
        self._window.say(
            Message("error", failure.what, failure.why, failure.todo, failure.details, offer)
        )

    def _recover(self, folder: Path) -> None:
        self._when_saved(partial(self._open, folder, True))

    @Slot(object)
    def _on_open_failed(self, failure: JobFailure) -> None:
        self._opening = False
        if self._asked is None:
            self._window.say(Message.of(failure))
        else:
            self._tell_refused(self._asked, failure)

    @Slot(object)
    def _on_open_cancelled(self, _value: object) -> None:
        self._opening = False

    # -- copies and graphs --------------------------------------------------------------------

    def _copy(self, work: Callable[..., Path], target: Path, done: Callable[[Path], None]) -> None:
        if self._binding.workspace is None:
            return
        job = self._window.runner.submit(
            work, self._binding.workspace, target,
            title=f"Copy the workspace to {target.name}", lane="io",
        )  # fmt: skip
        job.finished.connect(done)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_moved(self, folder: Path) -> None:
        if not self._is_open(folder):
            # Another workspace was opened while this one was copied.
            self._on_copied(folder)
            return
        self._binding.rename(folder.name)
        self._saver.flush()
        self._remember(folder)

    @Slot(object)
    def _on_copied(self, folder: Path) -> None:
        self._window.say(
            Message("success", f"The workspace is copied as {folder.name}", str(folder))
        )

    @Slot(object)
    def _on_graph(self, kept: work_workspace.KeptGraph) -> None:
        if self._binding.entry(kept.key) is None:
            return
        self._binding.show(kept)
        self._window.graph_dock.show()
        self._window.graph_dock.raise_()
        if kept.problems:
            self._window.say(
                Message("warning", "Not everything could be read", "; ".join(kept.problems))
            )

    def _remove(self, key: str) -> None:
        binding = self._binding
        entry = binding.entry(key)
        if binding.workspace is None or entry is None:
            return
        if self._session.graph_key == key:
            self._session.set_graph(None, None, self)
        binding.set_entries(tuple(other for other in binding.entries if other.key != key))
        self._leaving_graphs[key] = entry
        job = self._window.runner.submit(
            work_workspace.remove_graph, binding.workspace, key,
            title="Remove graph", lane="quick", quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_removed)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_removed(self, key: str) -> None:
        entry = self._leaving_graphs.pop(key)
        self._window.say(
            Message(
                "info",
                f"“{entry.title[:80]}” is out of the workspace",
                "Its files are in the folder “removed”",
                offer=Offer("Put it back", partial(self._put_back, self._binding.workspace, entry)),
            )
        )

    def _put_back(self, workspace: Optional[Workspace], entry: GraphEntry) -> None:
        # The offer may outlive its workspace, and the graph may have come back by itself.
        here = workspace is not None and workspace is self._binding.workspace
        if not here or self._opening or self._binding.entry(entry.key) is not None:
            return
        self._leaving_graphs[entry.key] = entry
        job = self._window.runner.submit(
            work_workspace.put_back, self._binding.workspace, entry.key,
            title="Put graph back", lane="quick", quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_put_back)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_put_back(self, key: str) -> None:
        entry = self._leaving_graphs.pop(key)
        if self._binding.entry(key) is not None:
            return
        entries = sorted((*self._binding.entries, entry), key=lambda e: int(e.key[1:]))
        self._binding.set_entries(tuple(entries))
        self.open_graph(key)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self._window.say(Message.of(failure))

    # -- saving -------------------------------------------------------------------------------

    def _when_saved(self, action: Callable[[], object]) -> None:
        """Do something once everything is on the disk, and not if it cannot get there."""
        if self._binding.workspace is None or self._saver.clean:
            action()
            return
        self._next = action
        self._saver.flush()

    @Slot(bool)
    def _on_settled(self, clean: bool) -> None:
        if clean:
            # What the window remembers of itself goes along, for the next start after a crash.
            self._window.save_state()
        elif self._next is not None and not self._saver.problem:
            # More was made meanwhile.
            self._saver.flush()
            return
        action, self._next = self._next, None
        if action is None:
            return
        if clean:
            action()
            return
        leaving = self._patience.isActive()
        self._patience.stop()
        self._window.say(
            Message(
                "error",
                "The window stays open" if leaving else "That has to wait",
                f"the workspace is not saved: {self._saver.problem}",
                "Mend that; it is tried again by itself",
                offer=Offer("Close without saving", self.leave_anyway) if leaving else None,
            )
        )

    # -- what is shown ------------------------------------------------------------------------

    @Slot()
    def _publish(self) -> None:
        binding, saver = self._binding, self._saver
        view = None
        if binding.workspace is not None:
            folder = binding.workspace.folder
            view = WorkspaceView(
                binding.name or folder.name,
                folder,
                binding.entries,
                self._session.graph_key if self._session.graph is not None else "",
                saver.state,
                None if saver.saved_at is None else saver.saved_at.astimezone(),
                saver.problem,
                binding.workspace,
            )
        self._session.set_workspace(view, self)

    def _others(self) -> tuple[str, ...]:
        recent = self._window.state.workspaces
        return tuple(folder for folder in recent if not self._is_open(Path(folder)))

    def _is_open(self, folder: Path) -> bool:
        workspace = self._binding.workspace
        return workspace is not None and folder.expanduser().absolute() == workspace.folder

    def _show_recent(self) -> None:
        others = self._others()
        for number in range(RECENT_WORKSPACES):
            command = f"workspace.recent{number + 1}"
            if number < len(others):
                name = Path(others[number]).name
                self._window.commands.rename(
                    command, f"Recent: {name}", f"Open the workspace in {others[number]}"
                )
            else:
                self._window.commands.hide(command)

    def _remember(self, folder: Path) -> None:
        """The workspace that is open is in that folder from now on."""
        state = self._window.state
        state.workspaces = (str(folder), *state.workspaces)
        state.flush()
        self._show_recent()
        self._publish()

    def _beside(self) -> Optional[Path]:
        """Where a dialog begins: beside the workspace that is open."""
        workspace = self._binding.workspace
        return None if workspace is None else workspace.folder.parent
