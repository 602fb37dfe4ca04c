"""The docks of the window, in one table: the window makes them in this order, and every one has a
command that shows or hides it and one that goes there."""

from __future__ import annotations

from dataclasses import dataclass

from attention_studio.ui.widgets.agents_dock import AgentsDock
from attention_studio.ui.widgets.attention_dock import AttentionDock
from attention_studio.ui.widgets.compare_dock import CompareDock
from attention_studio.ui.widgets.console_dock import ConsoleDock
from attention_studio.ui.widgets.errors_dock import ErrorsDock
from attention_studio.ui.widgets.features_dock import FeaturesDock
from attention_studio.ui.widgets.figures_dock import FiguresDock
from attention_studio.ui.widgets.graph_dock import GraphDock
from attention_studio.ui.widgets.history_dock import HistoryDock
from attention_studio.ui.widgets.intervene_dock import InterveneDock
from attention_studio.ui.widgets.lens_dock import LensDock
from attention_studio.ui.widgets.log_dock import LogDock
from attention_studio.ui.widgets.model_dock import ModelDock
from attention_studio.ui.widgets.nodes_dock import NodesDock
from attention_studio.ui.widgets.notes_dock import NotesDock
from attention_studio.ui.widgets.paths_dock import PathsDock
from attention_studio.ui.widgets.prompt_dock import PromptDock
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.subgraph_dock import SubgraphDock
from attention_studio.ui.widgets.tasks_dock import TasksDock
from attention_studio.ui.widgets.train_dock import TrainDock
from attention_studio.ui.widgets.workspace_dock import WorkspaceDock


@dataclass(frozen=True)
class DockEntry:
    """One dock.

    Attributes:
        name: by which commands, layouts and tests know it.
        kind: its class, which has title and icon.
        shortcut: keys that go there, such as ``"Alt+1"``, or "".
    """

    name: str
    kind: type[StudioDock]
    shortcut: str = ""


DOCKS: tuple[DockEntry, ...] = (
    DockEntry("model", ModelDock, "Alt+1"),
    DockEntry("prompt", PromptDock, "Alt+2"),
    DockEntry("train", TrainDock, "Alt+3"),
    DockEntry("features", FeaturesDock, "Alt+4"),
    DockEntry("graph", GraphDock, "Alt+5"),
    DockEntry("subgraph", SubgraphDock, "Alt+6"),
    DockEntry("agents", AgentsDock, "Alt+X"),
    DockEntry("attention", AttentionDock, "Alt+O"),
    DockEntry("lens", LensDock, "Alt+L"),
    DockEntry("paths", PathsDock, "Alt+8"),
    DockEntry("compare", CompareDock, "Alt+9"),
    DockEntry("errors", ErrorsDock, "Alt+0"),
    DockEntry("workspace", WorkspaceDock, "Alt+W"),
    DockEntry("intervene", InterveneDock, "Alt+7"),
    DockEntry("tasks", TasksDock, "Alt+K"),
    DockEntry("log", LogDock, "Alt+J"),
    DockEntry("nodes", NodesDock, "Alt+Q"),
    DockEntry("history", HistoryDock, "Alt+Y"),
    DockEntry("notes", NotesDock, "Alt+N"),
    DockEntry("figures", FiguresDock, "Alt+I"),
    DockEntry("console", ConsoleDock, "F8"),
)
