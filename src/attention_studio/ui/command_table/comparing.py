"""Commands: paths through the graph, and two graphs side by side."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import can_pick, can_retrace, has_graph, has_graph_node

_PATHS = "Circuits/Paths"
_COMPARE = "Circuits/Compare"

PATHS: tuple[Command, ...] = (
    Command("paths.find", "Find strongest paths",
            "Look for the strongest paths between the nodes that are chosen in the Paths dock",
            "paths.find_paths", _PATHS, "Ctrl+Alt+P", has_graph, "path", separator=True),
    Command("paths.from_selected", "Paths from the selected node",
            "Let paths begin at the selected node, and look for the strongest ones",
            "paths.from_selected", _PATHS, "Ctrl+[", has_graph_node, "path-from"),
    Command("paths.to_selected", "Paths to the selected node",
            "Let paths end at the selected node, and look for the strongest ones",
            "paths.to_selected", _PATHS, "Ctrl+]", has_graph_node, "path-to"),
    Command("paths.pin", "Pin the nodes on the paths",
            "Pin the nodes of the chosen paths, or of all that were found", "paths.pin",
            _PATHS, "", has_graph, "pin"),
    Command("paths.choose", "Choose the nodes on the paths",
            "Choose the nodes of the chosen paths, or of all that were found, to group or query "
            "them", "paths.choose", _PATHS, "", has_graph),
    Command("paths.show", "Show paths in the graph",
            "Emphasise the chosen paths, or all that were found, in the graph", "paths.show_paths",
            _PATHS, "", has_graph, "graph"),
)  # fmt: skip

COMPARING: tuple[Command, ...] = (
    Command("compare.trace", "Trace another prompt and compare",
            "Trace the prompt that is typed in the Compare dock, and put its graph beside this one",
            "compare.trace_second", _COMPARE, "Ctrl+Alt+G", can_retrace, "compare",
            separator=True),
    Command("compare.open", "Open a graph to compare with…",
            "Open a saved graph and put it beside this one", "compare.open_second", _COMPARE, "",
            has_graph, "open"),
    Command("compare.pick", "Compare with a graph of the workspace…",
            "Choose another graph of the workspace by its name and put it beside this one",
            "compare.pick_second", _COMPARE, "", can_pick, "folder"),
    Command("compare.keep", "Keep this graph to compare with",
            "Keep this graph, so that the next one that is traced or opened is put beside it",
            "compare.keep", _COMPARE, "", has_graph, "pin"),
    Command("compare.rerun", "Re-run and compare",
            "Trace the prompt of this graph once more with the same settings, and say which edges "
            "differ", "compare.rerun", _COMPARE, "Ctrl+Alt+R", can_retrace, "refresh"),
    Command("compare.swap", "Swap the two graphs",
            "Show the second graph, with the first one beside it", "compare.swap", _COMPARE, "",
            has_graph, "swap"),
    Command("compare.show", "Show differences in the graph",
            "Emphasise what is only in this graph, or weighs more in one of the two",
            "compare.show_differences", _COMPARE, "", has_graph, "graph"),
    Command("compare.close", "Compare with nothing", "Let the second graph go",
            "compare.close_second", _COMPARE, "", has_graph, "close"),
)  # fmt: skip
