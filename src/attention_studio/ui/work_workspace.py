"""What lanes run for the workspace: opening, saving, copying, and getting a graph from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.ui.work import TracedGraph
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.model_records import ModelConfig
    from attention_studio.core.workspace import (
        Workspace,
        WorkspaceChanges,
        WorkspaceContents,
    )
    from attention_studio.core.workspace_index import WorkspaceIndex, WorkspaceModel
    from attention_studio.ui.stray_record import StrayRecord
    from attention_studio.utils.config import Settings
    from attention_studio.utils.progress import WorkContext

DEFAULT_NAME = "Workspace"
_MOST_DEFAULTS = 100


@dataclass(frozen=True)
class KeptGraph:
    """A graph from a workspace, pruned, with its notes and what could not be read of them."""

    key: str
    traced: TracedGraph
    notes: GraphNotes
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenedWorkspace:
    """A workspace, held, and what it holds.

    Attributes:
        graph: the graph that was shown; None: none, or it cannot be read.
        model: what to load, where the model is on this machine; ``crm`` likewise.
        problems: what could not be read.
        refused: the folders that were to be opened before this one, and why they were not.
    """

    workspace: Workspace
    contents: WorkspaceContents
    graph: Optional[KeptGraph]
    model: Optional[ModelConfig]
    crm: Optional[Path]
    problems: tuple[str, ...] = ()
    refused: tuple[tuple[Path, StudioError], ...] = ()


@dataclass(frozen=True)
class Delivery:
    """What became of a record that was put into another workspace.

    Attributes:
        refused: why it could not be; "": it is there.
        problems: what could not be read of that workspace.
    """

    stray: StrayRecord
    refused: str = ""
    problems: tuple[str, ...] = ()


def default_folder(settings: Settings) -> Path:
    """Where workspaces lie that nobody has given a place."""
    return settings.state_dir / "workspaces"


def open_workspace(
    ctx: WorkContext,
    settings: Settings,
    folder: Path,
    thresholds: tuple[float, float],
    recover: bool = False,
) -> OpenedWorkspace:
    """Open a workspace and the graph that was shown.

    Args:
        thresholds: for one that does not say.
        recover: make the index anew from what lies there.
    """
    from attention_studio.core.workspace import Workspace

    ctx.progress(0, None, f"Opening {folder.name}")
    workspace = Workspace(folder)
    try:
        contents = workspace.recover(ctx) if recover else workspace.read(ctx)
        index = contents.index
        problems = contents.problems
        graph: Optional[KeptGraph] = None
        if index is not None and index.entry(index.graph) is not None:
            try:
                graph = load_graph(ctx, workspace, index.graph, index.thresholds or thresholds)
                problems = (*problems, *graph.problems)
            except StudioError as error:
                problems = (*problems, f"{error.what} ({error.why})")
        model = None if index is None or index.model is None else index.model
        crm = None if index is None or index.crm is None else Path(index.crm.folder)
        return OpenedWorkspace(
            workspace,
            contents,
            graph,
            _model_here(ctx, settings, model),
            crm if crm is not None and _here(str(crm)) and _has_manifest(crm) else None,
            problems,
        )
    except BaseException:
        # Whoever hears of it has no workspace to close.
        workspace.close()
        raise


def open_first(
    ctx: WorkContext,
    settings: Settings,
    wanted: Optional[Path],
    thresholds: tuple[float, float],
) -> OpenedWorkspace:
    """Open the workspace that is wanted, or where it cannot be opened, a default one that no other
    window holds.

    Raises:
        StudioError: no default workspace can be opened or made either.
    """
    refused: list[tuple[Path, StudioError]] = []
    defaults = (
        default_folder(settings) / (DEFAULT_NAME if n == 1 else f"{DEFAULT_NAME} {n}")
        for n in range(1, _MOST_DEFAULTS + 1)
    )
    error: Optional[StudioError] = None
    for folder in (*(() if wanted is None else (wanted,)), *defaults):
        try:
            opened = open_workspace(ctx, settings, folder, thresholds)
        except StudioError as problem:
            error = problem
            # That another window has a default one is how two windows get one each.
            if folder == wanted or not _held(problem):
                refused.append((folder, problem))
            if len(refused) > 3:
                break
            continue
        return replace(opened, refused=tuple(refused))
    assert error is not None
    raise error


def load_graph(
    ctx: WorkContext, workspace: Workspace, key: str, thresholds: tuple[float, float]
) -> KeptGraph:
    """Read a graph of the workspace and its notes."""
    ctx.progress(0, None, "Reading the graph")
    graph = workspace.load_graph(key)
    notes, problems = workspace.load_notes(key)
    ctx.check()
    return KeptGraph(key, TracedGraph(graph, graph.prune(*thresholds)), notes, problems)


def prune_kept(
    ctx: WorkContext,
    key: str,
    graph: AttributionGraph,
    notes: GraphNotes,
    thresholds: tuple[float, float],
) -> KeptGraph:
    """A graph of the workspace that is still in memory, pruned as graphs are shown now."""
    ctx.check()
    return KeptGraph(key, TracedGraph(graph, graph.prune(*thresholds)), notes)


def save(ctx: WorkContext, workspace: Workspace, changes: WorkspaceChanges) -> WorkspaceIndex:
    """Write what has changed. Returns the index as it was written."""
    return workspace.save(changes, ctx)


def move(ctx: WorkContext, workspace: Workspace, target: Path) -> Path:
    """Copy a workspace and go on in the copy. Returns its folder."""
    return workspace.move_to(target, ctx)


def deliver(ctx: WorkContext, stray: StrayRecord) -> Delivery:
    """Put a record into the workspace in which it was asked for, which is not open here."""
    from attention_studio.core.workspace import Workspace, WorkspaceChanges, is_workspace

    try:
        if not is_workspace(stray.folder):
            return Delivery(stray, "the workspace is no longer there")
        workspace = Workspace(stray.folder)
        try:
            contents = workspace.read(ctx)
            if contents.index is None:
                return Delivery(stray, "the workspace is no longer there")
            records = stray.among(contents.records.get(stray.kind, ()), stray.record)
            workspace.save(WorkspaceChanges(contents.index, records={stray.kind: records}), ctx)
        finally:
            workspace.close()
    except StudioError as error:
        return Delivery(stray, error.what)
    return Delivery(stray, "", contents.problems)


def copy(ctx: WorkContext, workspace: Workspace, target: Path) -> Path:
    """Copy a workspace. Returns the folder of the copy."""
    return workspace.copy_to(target, ctx)


def remove_graph(_ctx: WorkContext, workspace: Workspace, key: str) -> str:
    """Take the files of a graph out of the workspace. Returns its key."""
    workspace.remove_graph(key)
    return key


def put_back(_ctx: WorkContext, workspace: Workspace, key: str) -> str:
    """Take a graph in again that was removed. Returns its key."""
    workspace.put_back(key)
    return key


def _held(problem: StudioError) -> bool:
    from attention_studio.core.workspace import WorkspaceInUseError

    return isinstance(problem, WorkspaceInUseError)


def _here(path: str) -> bool:
    """Whether a path from a file lies on this machine: to look at one that names a server would
    tell the server who looks."""
    return not path.startswith(("\\\\", "//"))


def _has_manifest(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def _model_here(
    ctx: WorkContext, settings: Settings, note: Optional[WorkspaceModel]
) -> Optional[ModelConfig]:
    """How to load the model of a workspace; None where it would have to be fetched first, which
    nobody has asked for. Code that comes with a model is not run because a file says so."""
    if note is None or not _here(note.path or note.name):
        return None
    from attention_studio.core.model_records import ModelConfig
    from attention_studio.core.model_sources import ModelSources

    path = None if note.path is None else Path(note.path)
    config = ModelConfig(note.name, path, note.device, note.dtype)
    sources = ModelSources(settings.cache_dir, settings)
    try:
        found = sources.find(sources.resolve(config), ctx)
    except StudioError:
        return None
    return None if found is None else config
