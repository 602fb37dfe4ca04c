"""Where docks go: the presets of the window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from PySide6.QtCore import Qt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PySide6.QtWidgets import QDockWidget, QMainWindow

Preset = Literal["train", "features", "circuits", "explain"]

_BODY: dict[Preset, tuple[tuple[str, ...], ...]] = {
    # Docks in the middle, from left to right; docks in one tuple share a place as tabs.
    "train": (("train",),),
    "features": (("features", "attention", "lens"), ("graph",)),
    # What a feature means beside the circuit that it is part of.
    "explain": (("features", "attention", "lens"), ("graph", "subgraph", "agents")),
    # The picture wants all the width that there is.
    "circuits": (
        ("graph", "subgraph", "intervene", "paths", "compare", "errors", "features", "agents",
         "train", "figures"),
    ),
}  # fmt: skip
_BOTTOM = ("tasks", "log", "workspace", "nodes", "history", "notes", "console")
_WIDTHS: dict[Preset, tuple[int, ...]] = {
    "train": (1000,),
    "features": (480, 590),
    "explain": (590, 480),
    "circuits": (1070,),
}
_LEFT_WIDTH = 320
_BOTTOM_HEIGHT = 220


def apply_preset(window: QMainWindow, docks: Mapping[str, QDockWidget], preset: Preset) -> None:
    """Put every dock where the preset wants it; docks that it does not name are hidden.

    Args:
        window: has no central widget of its own: docks fill it.
        docks: by the names that the table of docks gives them.
        preset: which arrangement.
    """
    for dock in docks.values():
        dock.setFloating(False)
        window.removeDockWidget(dock)
    left = [docks["model"], docks["prompt"]]
    groups = [[docks[name] for name in group if name in docks] for group in _BODY[preset]]
    bottom = [docks[name] for name in _BOTTOM if name in docks]
    window.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, left[0])
    # First the body beside the left column, then what lies below the body, then the rest of the
    # body: a split divides the place of the dock that it starts from.
    window.splitDockWidget(left[0], groups[0][0], Qt.Orientation.Horizontal)
    window.splitDockWidget(groups[0][0], bottom[0], Qt.Orientation.Vertical)
    previous = groups[0][0]
    for group in groups[1:]:
        window.splitDockWidget(previous, group[0], Qt.Orientation.Horizontal)
        previous = group[0]
    window.splitDockWidget(left[0], left[1], Qt.Orientation.Vertical)
    for other in bottom[1:]:
        window.tabifyDockWidget(bottom[0], other)
    for group in groups:
        for other in group[1:]:
            window.tabifyDockWidget(group[0], other)
    shown = [*left, *(dock for group in groups for dock in group), *bottom]
    for dock in docks.values():
        if dock not in shown:
            # It gets a place too, so that it knows where to appear when it is shown.
            window.tabifyDockWidget(groups[0][0], dock)
        dock.setVisible(dock in shown)
    heads = [group[0] for group in groups]
    for first in [*heads, bottom[0]]:
        first.raise_()
    widths = _WIDTHS[preset]
    window.resizeDocks([left[0], heads[0]], [_LEFT_WIDTH, sum(widths)], Qt.Orientation.Horizontal)
    window.resizeDocks(heads, list(widths), Qt.Orientation.Horizontal)
    window.resizeDocks(left, [400, 420], Qt.Orientation.Vertical)
    window.resizeDocks([heads[0], bottom[0]], [680, _BOTTOM_HEIGHT], Qt.Orientation.Vertical)
