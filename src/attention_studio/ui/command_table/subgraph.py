"""Commands: the subgraph and its supernodes."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    can_group,
    can_rename,
    can_take_out,
    has_focused_group,
    has_graph,
    has_pinned_target,
    has_pins,
    has_places,
)

_MENU = "Circuits/Subgraph"

SUBGRAPH: tuple[Command, ...] = (
    Command("subgraph.begin", "Pin the strongest paths",
            "Begin a subgraph with the nodes of the strongest paths from tokens to the output",
            "subgraph.begin", _MENU, "", has_graph, "subgraph", separator=True),
    Command("subgraph.group", "Group chosen nodes",
            "Make one supernode of the nodes that are chosen together", "subgraph.group",
            _MENU, "G", can_group, "group"),
    Command("subgraph.ungroup", "Ungroup supernode",
            "Dissolve the selected supernode; its nodes stay pinned", "subgraph.ungroup",
            _MENU, "Shift+G", has_focused_group, "ungroup"),
    Command("subgraph.rename", "Name supernode or feature",
            "Say what you call the selected supernode, or the selected feature, in the subgraph",
            "subgraph.rename", _MENU, "F2", can_rename, "pencil"),
    Command("subgraph.take_out", "Take node out of its supernode",
            "Let the selected node stand for itself again; it stays pinned", "subgraph.take_out",
            _MENU, "", can_take_out),
    Command("subgraph.unpin", "Take out of subgraph",
            "Unpin the selected or chosen nodes and supernodes", "subgraph.unpin", _MENU, "",
            has_pinned_target, "unpin"),
    Command("subgraph.release", "Let boxes find their places",
            "Forget where boxes were put by hand: the selected or chosen ones, or all",
            "subgraph.release", _MENU, "", has_places, "arrange"),
    Command("subgraph.suggest", "Suggest supernodes",
            "Look for features that hear, say and write the same, to be grouped",
            "subgraph.suggest", _MENU, "Ctrl+Shift+U", has_graph, "suggest"),
    Command("subgraph.fit", "Fit subgraph to view", "Show the whole subgraph", "subgraph.fit",
            _MENU, "", has_pins, "fit"),
    Command("subgraph.zoom_in", "Zoom into subgraph", "Magnify the subgraph about its middle",
            "subgraph.zoom_in", _MENU, "", has_pins, "zoom-in"),
    Command("subgraph.zoom_out", "Zoom out of subgraph", "Shrink the subgraph about its middle",
            "subgraph.zoom_out", _MENU, "", has_pins, "zoom-out"),
)  # fmt: skip
