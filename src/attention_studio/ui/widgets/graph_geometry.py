"""Pixels of the link graph: how wide columns are, how high rows, and who is under the pointer.

Knows numpy and no Qt. *World* coordinates are pixels at zoom 1 inside the plot, y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from attention_studio.ui.widgets.graph_scene import Bools, Floats, GraphScene

# Width of one slot (the room of one node), what a column adds to its slots, and height of a row, in
# pixels: from as tight as stays readable to as wide as looks good.
MIN_SLOT, MAX_SLOT = 9.5, 30.0
MIN_PAD, MAX_PAD = 6.0, 14.0
MIN_ROW, MAX_ROW = 10.5, 34.0
# A column is never narrower; where there is room its label fits too.
MIN_COLUMN = 27.0
# How wide columns are when the picture scrolls: enough for the labels.
SCROLL_EASE = 0.24
EDGE_PAD = 10.0
HIT_RADIUS = 30.0


@dataclass(frozen=True)
class GraphGeometry:
    """Where everything lies at zoom 1.

    Attributes:
        x, y: [n] centre of every node.
        column_left, column_width: [T] of every column.
        row_y: [R] middle of every row, row 0 (the embedding) lowest.
        width, height: of the whole picture.
        radius: of a node of middling influence.
    """

    x: Floats
    y: Floats
    column_left: Floats
    column_width: Floats
    row_y: Floats
    width: float
    height: float
    radius: float


@dataclass(frozen=True)
class Camera:
    """From world to screen: ``screen = world · (zoom_x, zoom_y) + (dx, dy)``.

    The axes are scaled apart, so that a long prompt can be seen whole without flattening the
    layers. Only places are scaled: nodes and text have a size of their own.
    """

    zoom_x: float
    zoom_y: float
    dx: float
    dy: float

    def screen(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return where world points lie on the screen."""
        return x * self.zoom_x + self.dx, y * self.zoom_y + self.dy


def measure(
    scene: GraphScene, width: float, height: float, label_widths: Sequence[float]
) -> GraphGeometry:
    """Fit a scene into a plot, or, where it is too large, into as little more as stays readable.

    Args:
        scene: what to draw.
        width, height: of the plot.
        label_widths: [T] what the label of each column would like to have.
    """
    slots = scene.layout.column_slots.astype(np.float64)
    labels = np.asarray(label_widths, dtype=np.float64)
    ease = _fit_ease(slots, labels, width - 2 * EDGE_PAD)
    slot, column_width = _columns(slots, labels, ease)
    spare = width - 2 * EDGE_PAD - column_width.sum()
    if spare > 0 and len(column_width):
        column_width += spare / len(column_width)
    column_left = EDGE_PAD + np.cumsum(column_width) - column_width
    # The embedding and the logits stand half a row apart from the layers.
    units = scene.n_rows + 1.0
    pitch = float(np.clip((height - 2 * EDGE_PAD) / units, MIN_ROW, MAX_ROW))
    steps = np.arange(scene.n_rows, dtype=np.float64)
    steps[1:] += 0.5
    steps[-1] += 0.5
    picture_height = max(pitch * units + 2 * EDGE_PAD, height)
    bottom = (picture_height + pitch * (units - 1.0)) / 2.0
    row_y = bottom - steps * pitch
    centre = column_left + column_width / 2.0
    return GraphGeometry(
        x=np.asarray(centre[scene.column] + scene.layout.offset * slot),
        y=np.asarray(row_y[scene.row]),
        column_left=column_left,
        column_width=column_width,
        row_y=row_y,
        width=float(column_width.sum() + 2 * EDGE_PAD),
        height=picture_height,
        radius=float(np.clip(0.35 * min(slot, pitch), 3.2, 6.5)),
    )


def _columns(slots: Floats, labels: Floats, ease: float) -> tuple[float, Floats]:
    """Return the width of a slot and of every column, from tight (ease 0) to wide (ease 1)."""
    slot = MIN_SLOT + (MAX_SLOT - MIN_SLOT) * ease
    pad = MIN_PAD + (MAX_PAD - MIN_PAD) * min(1.0, 3.0 * ease)
    # Labels give way first: a shortened word is read on hover, a cramped node is not hit.
    floor = np.maximum(labels * min(1.0, 0.3 + 3.0 * ease), MIN_COLUMN)
    return slot, np.maximum(slots * slot + pad, floor)


def _fit_ease(slots: Floats, labels: Floats, width: float) -> float:
    """Return the largest ease with which the columns fit ``width``.

    Where they never do, one has to scroll, and then they need not be cramped.
    """
    low, high = 0.0, 1.0
    if _columns(slots, labels, high)[1].sum() <= width:
        return high
    if _columns(slots, labels, low)[1].sum() > width:
        return SCROLL_EASE
    for _ in range(24):
        middle = (low + high) / 2.0
        if _columns(slots, labels, middle)[1].sum() <= width:
            low = middle
        else:
            high = middle
    return low


def nearest(
    x: Floats, y: Floats, at_x: float, at_y: float, among: Optional[Bools] = None
) -> Optional[int]:
    """Return the node nearest to a screen point within ``HIT_RADIUS``, or None.

    Args:
        x, y: [n] screen positions.
        at_x, at_y: the point.
        among: [n] which nodes may be hit; all if None.
    """
    if not len(x):
        return None
    squared = (x - at_x) ** 2 + (y - at_y) ** 2
    if among is not None:
        squared = np.where(among, squared, np.inf)
    best = int(np.argmin(squared))
    return best if squared[best] <= HIT_RADIUS**2 else None


def room_beside_bars(
    picture: tuple[float, float], plot: tuple[float, float], bars: tuple[float, float]
) -> tuple[float, float]:
    """Return the width and height that are left for a picture beside the scroll bars it needs.

    Args:
        picture: width and height of the picture.
        plot: width and height without scroll bars.
        bars: width of the upright bar, height of the other.
    """
    room = plot
    # One bar takes room from the other direction, and may so make the other bar necessary.
    for _ in range(2):
        wide, high = picture[0] > room[0] + 1, picture[1] > room[1] + 1
        room = plot[0] - (bars[0] if high else 0), plot[1] - (bars[1] if wide else 0)
    return room
