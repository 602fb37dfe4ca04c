"""A workspace: a folder that keeps what a person has made, readable without the studio.

    workspace.json              the model, the prompt, the thresholds, and which graphs there are
    graphs/G1.safetensors       a graph, whole
    graphs/G1.notes.json        what the person has made of it: pins, groups, labels, remarks, ...
    records/intervention.json   what was found out, by kind
    removed/                    graphs that were taken out of the workspace
    workspace.lock              while a window holds the folder

Every file is replaced whole or not at all, graphs before the index that names them, so a process
may be killed at any moment. What cannot be read is set aside under another name and never written
over. A workspace may come from somebody else: sizes are bounded, and nothing in it names a file
outside of the folder but the model and the replacement model, which the caller judges.

Knows neither Qt nor torch.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Optional

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_files import load_graph, save_graph
from attention_studio.core.graph_notes import GraphNotes, NotesError
from attention_studio.core.graph_settings import GraphError
from attention_studio.core.trace_circumstances import versions
from attention_studio.core.workspace_copy import FolderCopy
from attention_studio.core.workspace_files import (
    GRAPHS,
    INDEX_NAME,
    LOCK_NAME,
    RECORDS,
    REMOVED,
    WorkspaceDamagedError,
    WorkspaceError,
    explain_read_errors,
    names_in,
    read_bounded,
    set_aside,
    write_bounded,
)
from attention_studio.core.workspace_index import (
    MAX_GRAPHS,
    GraphEntry,
    WorkspaceIndex,
    now,
    read_index,
)
from attention_studio.core.workspace_records import Records, read_records, write_records
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileReadError,
    atomic_folder,
    explain_write_errors,
    remove_leftovers,
)
from attention_studio.utils.locks import FolderHeldError, FolderLock
from attention_studio.utils.progress import WorkContext

MAX_KEY = 99_999_999
_KEY = re.compile(r"G[1-9][0-9]{0,7}")


class WorkspaceInUseError(WorkspaceError):
    """Another window holds the workspace."""


@dataclass(frozen=True)
class WorkspaceContents:
    """What a workspace holds, but for the graphs themselves.

    Attributes:
        index: None in a folder that was empty.
        records: by kind, oldest first.
        problems: what could not be read, a sentence each; it was set aside, or waits as it is.
    """

    index: Optional[WorkspaceIndex]
    records: Records = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkspaceChanges:
    """What is to be written.

    Attributes:
        index: how the workspace is to be described.
        graphs: by key, those that are new or were traced anew.
        notes: by key, those that have changed.
        records: by kind, those that have changed; an empty kind is deleted.
    """

    index: WorkspaceIndex
    graphs: Mapping[str, AttributionGraph] = field(default_factory=lambda: MappingProxyType({}))
    notes: Mapping[str, GraphNotes] = field(default_factory=lambda: MappingProxyType({}))
    records: Records = field(default_factory=lambda: MappingProxyType({}))


class Workspace:
    """A folder, held by this process from now until ``close``.

    Its methods may be called from several threads: what they write does not come between.

    Attributes:
        folder: where it lies; another one after ``move_to``.

    Args:
        folder: an existing workspace, an empty folder, or one that is made here.

    Raises:
        WorkspaceInUseError: another window, of this process or another one, holds it.
        WorkspaceError: the folder holds something else.
        FileWriteError: it cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        _refuse_other_folders(self.folder)
        self._lock = _hold(self.folder)
        # Reentrant: one who writes calls others who do.
        self._writing = threading.RLock()
        # Held for moments only, so that closing never waits for a disk.
        self._holding = threading.Lock()
        self._copies = 0
        self._closed = False

    def close(self) -> None:
        """Let another window have the folder, once a copy that is being made of it is. Any thread
        may call this, and more than once."""
        with self._holding:
            self._closed = True
            if not self._copies:
                self._lock.release()

    # -- reading ------------------------------------------------------------------------------

    def read(self, ctx: Optional[WorkContext] = None) -> WorkspaceContents:
        """Read everything but the graphs.

        A graph that lies there and is not in the index, as a process leaves it that was killed
        between the two, is taken in, and one that was removed is left out.

        Raises:
            WorkspaceDamagedError: the index is damaged, or is missing among graphs.
            WorkspaceUnreadableError: the system does not give a file out, which stays as it is.
            WorkspaceError: a later version of the studio wrote it.
            FileWriteError: what is damaged cannot be set aside.
        """
        for part in (self.folder, self.folder / GRAPHS, self.folder / RECORDS):
            remove_leftovers(part)
        graphs, removed = self._keys_in(GRAPHS), self._keys_in(REMOVED)
        if INDEX_NAME not in names_in(self.folder):
            if graphs:
                raise WorkspaceDamagedError.of(self.folder, f"{INDEX_NAME} is missing")
            return WorkspaceContents(None, *read_records(self.folder, ctx))
        index = read_index(self.folder)
        records, problems = read_records(self.folder, ctx)
        known = {entry.key for entry in index.graphs}
        lost, unread = self._take_in([key for key in graphs if key not in known], ctx)
        gone = {key for key in removed if key not in graphs}
        entries = tuple(entry for entry in index.graphs if entry.key not in gone)
        missing = [f"{_titled(e)} is missing" for e in entries if e.key not in graphs]
        index = index.model_copy(update={"graphs": (*entries, *lost)})
        return WorkspaceContents(index, records, (*missing, *unread, *problems))

    def recover(self, ctx: Optional[WorkContext] = None) -> WorkspaceContents:
        """Make the index anew from the graphs that lie there; the old one is set aside.

        Raises:
            WorkspaceUnreadableError: the system does not give a file out; nothing was changed.
            FileWriteError: the folder cannot be written to.
        """
        entries, unread = self._take_in(list(self._keys_in(GRAPHS)), ctx)
        records, problems = read_records(self.folder, ctx)
        if INDEX_NAME in names_in(self.folder):
            set_aside(self.folder / INDEX_NAME)
        index = WorkspaceIndex.new(self.folder.name).model_copy(
            update={
                "graphs": tuple(entries),
                "graph": entries[-1].key if entries else "",
                "prompt": entries[-1].prompt if entries else "",
            }
        )
        self.save(WorkspaceChanges(index), ctx)
        return WorkspaceContents(index, records, (*unread, *problems))

    def load_graph(self, key: str) -> AttributionGraph:
        """Read a graph.

        Raises:
            GraphError: it is not there, or damaged.
        """
        return load_graph(self._graph_path(key))

    def load_notes(self, key: str) -> tuple[GraphNotes, tuple[str, ...]]:
        """Read the notes of a graph; without any, or where they are damaged, empty ones.

        Returns:
            The notes, and what could not be read.

        Raises:
            WorkspaceUnreadableError: the system does not give them out; they stay as they are.
            FileWriteError: damaged notes cannot be set aside.
        """
        path = self._notes_path(key)
        with self._writing:
            if path.name not in names_in(path.parent):
                return GraphNotes(), ()
            try:
                return GraphNotes.from_json(read_bounded(path)), ()
            except (FileReadError, NotesError) as error:
                kept = set_aside(path).name
                why = f"The notes of {key} cannot be read ({error.why}); they are kept as {kept}"
                return GraphNotes(), (why,)

    # -- writing ------------------------------------------------------------------------------

    def save(self, changes: WorkspaceChanges, ctx: Optional[WorkContext] = None) -> WorkspaceIndex:
        """Write what has changed. What can be written is, even where something else cannot.

        Returns:
            The index as it was written.

        Raises:
            FileWriteError: something could not be written; its old version is untouched.
            WorkspaceError: a record holds what JSON cannot say, or is of a kind with no plain name.
        """
        if len(changes.index.graphs) > MAX_GRAPHS:
            raise WorkspaceError(
                "The workspace cannot be saved",
                f"it has {len(changes.index.graphs):,} graphs and may have {MAX_GRAPHS:,}",
                "Remove some of them, or begin another workspace",
            )
        with self._writing:
            return self._save(changes, ctx)

    def _save(self, changes: WorkspaceChanges, ctx: Optional[WorkContext]) -> WorkspaceIndex:
        problems: list[StudioError] = []
        for key, graph in changes.graphs.items():
            if ctx is not None:
                ctx.progress(0, None, f"Saving {key}")
            with _collect(problems):
                save_graph(graph, self._graph_path(key))
        for key, notes in changes.notes.items():
            with _collect(problems):
                write_bounded(self._notes_path(key), notes.to_json())
        for kind, records in changes.records.items():
            with _collect(problems):
                write_records(self.folder, kind, records)
        index = changes.index.model_copy(update={"saved": now(), "versions": dict(versions())})
        with _collect(problems):
            write_bounded(self.folder / INDEX_NAME, index.model_dump(mode="json"))
        if problems:
            raise problems[0]
        return index

    def free_key(self, index: WorkspaceIndex) -> str:
        """A key that no graph has, neither in the index nor on the disk, kept or removed.

        Nor has any other file there such a name, in letters of any case: to some disks ``g7`` and
        ``G7`` are one.

        Raises:
            WorkspaceUnreadableError: the system does not say what is there.
        """
        names = [entry.key for entry in index.graphs]
        for part in (GRAPHS, REMOVED):
            names.extend(name.split(".")[0] for name in names_in(self.folder / part))
        taken = {int(name[1:]) for name in names if _KEY.fullmatch(name.upper())}
        last = max(taken, default=0)
        if last < MAX_KEY:
            return f"G{last + 1}"
        # Somebody has put a file there that has the last one: a gap is left, there are few graphs.
        return next(key for n in range(1, MAX_KEY) if n not in taken and (key := f"G{n}"))

    def remove_graph(self, key: str) -> None:
        """Put the files of a graph into ``removed``, from where ``put_back`` gets them.

        Raises:
            FileWriteError: they cannot be moved.
        """
        self._move(key, GRAPHS, REMOVED)

    def put_back(self, key: str) -> None:
        """Take a graph that was removed in again.

        Raises:
            FileWriteError: its files cannot be moved.
        """
        self._move(key, REMOVED, GRAPHS)

    def copy_to(self, target: Path, ctx: Optional[WorkContext] = None) -> Path:
        """Copy the whole workspace into a folder that is new or empty, as it is at one moment.
        Saving may go on meanwhile.

        Returns:
            The folder.

        Raises:
            WorkspaceError: there is something in the folder, or it lies in the workspace.
            FileWriteError: it cannot be written; nothing of it is left.
            Cancelled: through ``ctx``, between two files.
        """
        with self._held():
            return self._copy(target, ctx)[0]

    def move_to(self, target: Path, ctx: Optional[WorkContext] = None) -> Path:
        """Copy the whole workspace into a folder that is new or empty, and go on there: what is
        saved from then on is saved to the copy, and another window may have the old folder.

        One that was closed meanwhile does not move; the copy is made all the same.

        Returns:
            The folder of the copy.

        Raises:
            WorkspaceError: there is something in the folder, or it lies in the workspace.
            WorkspaceInUseError: another window has taken the copy; this one stays where it is.
            FileWriteError: it cannot be written; this one stays where it is.
            Cancelled: through ``ctx``, between two files.
        """
        with self._held():
            target, copy = self._copy(target, ctx)
            lock = _hold(target)
            try:
                with self._writing:
                    # What was saved since the copy was finished.
                    copy.bring_up_to_date(target)
                    with self._holding:
                        if not self._closed:
                            self._lock, lock = lock, self._lock
                            self.folder = target
            finally:
                lock.release()
        return target

    # -- inside -------------------------------------------------------------------------------

    def _graph_path(self, key: str) -> Path:
        return self.folder / GRAPHS / f"{_checked(key)}.safetensors"

    def _notes_path(self, key: str) -> Path:
        return self.folder / GRAPHS / f"{_checked(key)}.notes.json"

    def _keys_in(self, part: str) -> tuple[str, ...]:
        """Keys of the graphs that lie there, the oldest first."""
        folder = self.folder / part
        with explain_read_errors(folder):
            paths = [folder / name for name in names_in(folder) if name.endswith(".safetensors")]
            keys = [path.stem for path in paths if _KEY.fullmatch(path.stem) and path.is_file()]
        return tuple(sorted(keys, key=lambda key: int(key[1:])))

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep the folder until a copy is made, even where the workspace is closed meanwhile."""
        with self._holding:
            self._copies += 1
        try:
            yield
        finally:
            with self._holding:
                self._copies -= 1
                if self._closed and not self._copies:
                    self._lock.release()

    def _copy(self, target: Path, ctx: Optional[WorkContext]) -> tuple[Path, FolderCopy]:
        target = target.expanduser().absolute()
        if target == self.folder or self.folder in target.parents:
            raise WorkspaceError(
                "A workspace cannot be copied into itself", "", "Choose another folder"
            )
        # Hidden files, too: the copy takes the folder's place.
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise WorkspaceError(
                f"{target} is not empty", "a copy needs a folder of its own", "Choose a new folder"
            )
        copy = FolderCopy(self.folder, target.name, self._writing)
        with atomic_folder(target) as made:
            copy.bring_up_to_date(made, ctx)
            with self._writing:
                copy.bring_up_to_date(made, ctx)
        return target, copy

    def _take_in(
        self, keys: list[str], ctx: Optional[WorkContext]
    ) -> tuple[list[GraphEntry], list[str]]:
        """Entries for graphs that no index names, and what of them cannot be read."""
        entries, problems = [], []
        for key in keys:
            if ctx is not None:
                ctx.check()
                ctx.progress(0, None, f"Reading {key}")
            try:
                entries.append(GraphEntry.of(key, self.load_graph(key)))
            except GraphError as error:
                problems.append(f"{key} cannot be read ({error.why or error.what})")
        return entries, problems

    def _move(self, key: str, source: str, target: str) -> None:
        _checked(key)
        names = (f"{key}.safetensors", f"{key}.notes.json")
        with self._writing, explain_write_errors(self.folder / target):
            (self.folder / target).mkdir(exist_ok=True)
            for name in names:
                path = self.folder / source / name
                if path.exists():
                    path.replace(self.folder / target / name)


def is_workspace(folder: Path) -> bool:
    """Whether a workspace lies there."""
    return (folder / INDEX_NAME).is_file()


def _hold(folder: Path) -> FolderLock:
    try:
        return FolderLock(folder, LOCK_NAME)
    except FolderHeldError as error:
        raise WorkspaceInUseError(
            f"The workspace {folder.name} is open in another window{error.holder}",
            "two windows would write over each other's work",
            "Close it there, or open another workspace",
        ) from None


def _refuse_other_folders(folder: Path) -> None:
    """Raise where a folder holds something that is not a workspace."""
    try:
        if folder.exists() and not folder.is_dir():
            raise WorkspaceError(f"{folder} is no folder", "", "Choose a folder")
        known = is_workspace(folder) or any((folder / GRAPHS).glob("G*.safetensors"))
        if folder.is_dir() and not known and not _is_empty(folder):
            raise WorkspaceError(
                f"{folder} is not a workspace",
                "there are other files in it",
                "Choose a folder that is new or empty, or one that holds a workspace",
            )
    except OSError as error:
        raise WorkspaceError(f"{folder} cannot be read", error.strerror or str(error)) from error


def _is_empty(folder: Path) -> bool:
    """Whether nothing but what a window leaves that was killed at once lies in a folder."""
    ours = {LOCK_NAME, GRAPHS, RECORDS}
    return all(path.name in ours or path.name.startswith(".") for path in folder.iterdir())


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise WorkspaceError("There is no such graph in the workspace", f"“{key[:40]}” is no key")
    return key


def _titled(entry: GraphEntry) -> str:
    return f"The graph “{entry.title[:60]}” ({entry.key})"


@contextmanager
def _collect(problems: list[StudioError]) -> Iterator[None]:
    """Keep an error of ours for later, so that what comes next is done all the same."""
    try:
        yield
    except StudioError as error:
        problems.append(error)
