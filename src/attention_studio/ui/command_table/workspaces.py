"""Commands: the workspace and its graphs."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    always,
    has_workspace,
    has_workspace_graph,
    has_workspace_graphs,
    training_hinders,
)
from attention_studio.ui.window_state import RECENT_WORKSPACES

_RECENT = "File/Recent workspaces"

WORKSPACES: tuple[Command, ...] = (
    Command("workspace.new", "New workspace…",
            "Begin an empty workspace in a folder of its own; the models stay open",
            "keeper.new_workspace", "File", "Ctrl+N", always, "plus", separator=True),
    Command("workspace.open", "Open workspace…",
            "Open a folder with everything as it was left: prompt, graphs, notes and results",
            "keeper.open_workspace", "File", "Ctrl+Alt+O", always, "folder",
            hindered=training_hinders),
    *(
        Command(f"workspace.recent{number + 1}", f"Recent workspace {number + 1}",
                "Open a workspace that was open before", "keeper.open_recent", _RECENT,
                icon="folder", hindered=training_hinders, argument=number, shown=False)
        for number in range(RECENT_WORKSPACES)
    ),
    Command("workspace.save_as", "Save workspace as…",
            "Copy the workspace to another folder and go on there", "keeper.save_as", "File",
            "Ctrl+Shift+S", has_workspace, "save", hindered=training_hinders),
    Command("workspace.duplicate", "Duplicate workspace…",
            "Copy the workspace to another folder and go on here", "keeper.duplicate", "File",
            "", has_workspace, "copy"),
    Command("workspace.next_graph", "Next graph of the workspace",
            "Show the graph that came into the workspace after this one", "keeper.step_graph",
            "Go", "Ctrl+PgDown", has_workspace_graphs, "chevron-down", argument=1,
            separator=True),
    Command("workspace.previous_graph", "Previous graph of the workspace",
            "Show the graph that came into the workspace before this one", "keeper.step_graph",
            "Go", "Ctrl+PgUp", has_workspace_graphs, "chevron-up", argument=-1),
    Command("workspace.remove_graph", "Remove graph from the workspace",
            "Take the graph that is shown out of the workspace; its files are kept",
            "keeper.remove_current_graph", "Circuits", "", has_workspace_graph, "trash"),
)  # fmt: skip
