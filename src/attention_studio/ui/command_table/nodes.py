"""Commands: nodes asked for, chosen together, and written about."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    can_measure_density,
    has_chosen,
    has_graph,
    has_graph_node,
    has_target_nodes,
)

_NODES = "Circuits/Nodes"
_NOTES = "Circuits/Notes"

NODES: tuple[Command, ...] = (
    Command("nodes.query", "Find nodes…", "Ask for nodes of the graph, such as layer>10 or "
            "label~city", "nodes.focus_query", _NODES, "Ctrl+F", has_graph, "search",
            separator=True),
    Command("nodes.pin", "Pin chosen nodes", "Pin all nodes that are chosen together", "chosen.pin",
            _NODES, "Shift+P", has_target_nodes, "pin"),
    Command("nodes.unpin", "Unpin chosen nodes", "Let the chosen nodes go that are pinned",
            "chosen.unpin", _NODES, "Shift+U", has_target_nodes, "unpin"),
    Command("nodes.inputs", "Choose inputs", "Choose what feeds the chosen nodes, instead of them",
            "chosen.choose_inputs", _NODES, "Ctrl+Alt+Down", has_target_nodes, "inputs"),
    Command("nodes.outputs", "Choose outputs",
            "Choose what the chosen nodes feed, instead of them", "chosen.choose_outputs",
            _NODES, "Ctrl+Alt+Up", has_target_nodes, "outputs"),
    Command("nodes.choose_none", "Choose no nodes", "Let go of what is chosen together",
            "chosen.choose_none", _NODES, "", has_chosen),
    Command("nodes.copy", "Copy nodes as a table",
            "Copy the chosen nodes, or all that are listed, for a spreadsheet", "nodes.copy",
            _NODES, "", has_graph, "copy"),
    Command("nodes.highlight", "Show found nodes in graph",
            "Have the graph show the nodes that the query finds, or leave it alone",
            "nodes.toggle_highlight", _NODES, "", has_graph, "eye", checkable=True),
    Command("nodes.save_query", "Keep the query", "Keep the query that is typed, with the graph",
            "nodes.save_query", _NODES, "", has_graph, "bookmark"),
    Command("nodes.measure_density", "Measure density",
            "Count how often each feature is active on text that the model writes",
            "nodes.measure_density", _NODES, "", can_measure_density),
    Command("notes.label", "Label the selected feature",
            "Say what you call the selected feature", "notes.edit_label", _NOTES, "L",
            has_graph_node, "note", separator=True),
    Command("notes.remark", "Write a remark",
            "Write about the selected node, or about the graph", "notes.edit_remark", _NOTES,
            "R", has_graph, "note"),
)  # fmt: skip
