"""Commands: features and attribution graphs."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    can_trace,
    has_graph,
    has_graph_node,
    has_highlight,
    has_pins,
)

CIRCUITS: tuple[Command, ...] = (
    Command("features.extract", "Extract features",
            "Find the features that are active on the prompt", "features.extract", "Circuits",
            "Ctrl+R", can_trace, "features", True, separator=True),
    Command("graph.build", "Build attribution graph",
            "Trace how the prompt becomes the next token", "graph.build", "Circuits", "Ctrl+G",
            can_trace, "graph", True),
    Command("graph.fit", "Fit graph to view", "Show the whole graph", "graph.fit", "Circuits",
            "Ctrl+Shift+F", has_graph, "fit", separator=True),
    Command("graph.zoom_in", "Zoom into graph", "Magnify the graph about its middle",
            "graph.zoom_in", "Circuits", "Ctrl+Alt+=", has_graph, "zoom-in"),
    Command("graph.zoom_out", "Zoom out of graph", "Shrink the graph about its middle",
            "graph.zoom_out", "Circuits", "Ctrl+Alt+-", has_graph, "zoom-out"),
    Command("graph.panel", "Connections beside graph",
            "Show the connections of the selected node beside the graph, or hide them",
            "graph.toggle_panel", "Circuits", "", has_graph, "features", checkable=True),
    Command("graph.minimap", "Overview while zoomed",
            "Show the whole graph, small, in a corner while only a part of it is in view",
            "graph.toggle_minimap", "Circuits", "", has_graph, checkable=True),
    Command("graph.full_screen", "Graph on the full screen",
            "Give the graph the whole screen, or put it back into the window",
            "graph.toggle_full_screen", "Circuits", "F11", has_graph, "full-screen",
            checkable=True),
    Command("graph.pin", "Pin or unpin the selected node",
            "Keep the selected node at hand, or let it go", "graph.pin_selected", "Circuits", "P",
            has_graph_node, "pin", separator=True),
    Command("graph.unpin_all", "Unpin all nodes", "Let all pinned nodes go", "graph.unpin_all",
            "Circuits", "", has_pins),
    Command("graph.clear_selection", "Clear selection", "Select no node",
            "graph.clear_selection", "Circuits", "Escape", has_graph_node),
    Command("graph.clear_highlight", "Emphasise nothing",
            "Let the graph look as usual again, whatever a view has emphasised in it",
            "graph.clear_highlight", "Circuits", "Ctrl+Shift+H", has_highlight),
    Command("graph.contrast", "Trace why one token and not another",
            "Trace what speaks for one next token against another, as chosen in the Prompt dock",
            "prompt.trace_contrast", "Circuits", "Ctrl+Shift+G", can_trace, "graph"),
)  # fmt: skip
