"""What the painters of the link graph share: colours, fonts, shapes of nodes, the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Optional

import numpy as np
from PySide6.QtCore import QPointF, QRectF
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QPainter,
    QPainterPath,
    QPen,
    QPolygonF,
)

from attention_studio.ui.figures.look import Look
from attention_studio.ui.text import visible_token
from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.graph_emphasis import Emphasis
from attention_studio.ui.widgets.graph_geometry import Camera, GraphGeometry
from attention_studio.ui.widgets.graph_scene import (
    ATTENTION_SHAPE,
    EMBEDDING,
    ERROR,
    FEATURE,
    FULL_SHARE,
    LOGIT,
    Bools,
    Floats,
    GraphScene,
    Ints,
    LinkMode,
)
from attention_studio.ui.widgets.stamp_sheet import StampSheet

# At rest the strongest edges are drawn, faintly: more would be a grey cloud.
MAX_FAINT_EDGES = 700
FAINT_LEVELS = 5
SHARE_LEVELS = 15
MAX_LABEL_WIDTH = 92.0
# Pixels across the largest picture of a node: see ``Frame.radii``.
MAX_STAMP = 56
HALO = 4.0
"""By how many pixels the disc behind a chosen node is larger than the node."""


class GraphLook:
    """Colours, fonts and prepared pictures of nodes for one look, the window's or a figure's."""

    def __init__(self, theme: Look) -> None:
        t = theme.tokens
        self.tokens = t
        self.canvas = QColor(t.canvas)
        self.band = QColor(mix(t.canvas, t.neutral, 0.045))
        self.chosen_band = QColor(mix(t.canvas, t.accent, 0.07))
        self.line = QColor(mix(t.canvas, t.grid, 0.8))
        self.axis = QColor(t.border)
        self.text = QColor(t.text)
        self.muted = QColor(t.muted)
        self.accent = QColor(t.accent)
        self.raised = QColor(t.raised)
        self.border = QColor(t.border_strong)
        self.focus = QColor(t.focus)
        self.kinds = {
            FEATURE: t.node_feature,
            ERROR: t.node_error,
            EMBEDDING: t.node_embedding,
            LOGIT: t.node_logit,
        }
        self.shares = theme.diverging(SHARE_LEVELS)
        self.faint = [
            [mix(t.canvas, end, 0.09 + 0.41 * (level / (FAINT_LEVELS - 1)) ** 1.6) for end in ends]
            for level in range(FAINT_LEVELS)
            for ends in [(t.negative, t.positive)]
        ]
        self.faintest = mix(t.canvas, t.neutral, 0.14)
        self.font = theme.font(0.9)
        self.bold = theme.font(0.9, bold=True)
        self.small = theme.font(0.8)
        self.title = theme.font(1.0, bold=True)
        self.sign = theme.font(0.72, bold=True)
        self.metrics = QFontMetricsF(self.font)
        self.bold_metrics = QFontMetricsF(self.bold)
        self.small_metrics = QFontMetricsF(self.small)
        self.title_metrics = QFontMetricsF(self.title)
        self.gutter = self.small_metrics.horizontalAdvance("Logits") + 20.0
        self.header = self.metrics.height() + 30.0
        self.footer = self.metrics.height() + self.small_metrics.height() + 14.0
        self._sheets: dict[float, StampSheet] = {}

    def share_level(self, share: float) -> int:
        """Return which of the diverging colours stands for a signed share of an input."""
        half = SHARE_LEVELS // 2
        depth = math.sqrt(min(1.0, abs(share) / FULL_SHARE))
        step = max(2, round(depth * half))
        return half + step if share >= 0 else half - step

    def share_colour(self, share: float) -> QColor:
        """Return the colour that stands for a signed share of an input."""
        return QColor(self.shares[self.share_level(share)])

    def sheet(self, ratio: float) -> StampSheet:
        """The prepared pictures of nodes for a ratio of device pixels."""
        if ratio not in self._sheets:
            self._sheets[ratio] = StampSheet(MAX_STAMP, ratio)
        return self._sheets[ratio]

    def paint_halo(self, painter: QPainter, at: QPointF, radius: float) -> None:
        """Paint what lies behind one chosen node: a disc with a dotted rim, so that it is told from
        the rings of pins without colour."""
        pen = QPen(self.accent, 1.4)
        pen.setDashPattern([1.4, 1.6])
        painter.setPen(pen)
        painter.setBrush(QColor(self.tokens.accent_soft))
        painter.drawEllipse(at, radius + HALO, radius + HALO)


def label_widths(scene: GraphScene, look: GraphLook) -> list[float]:
    """Return the width that the label of each column would like to have."""
    return [
        min(
            MAX_LABEL_WIDTH,
            look.bold_metrics.horizontalAdvance(visible_token(token, spaces=False)) + 12,
        )
        for token in scene.tokens
    ]


def node_path(shape: int, at: QPointF, radius: float) -> QPainterPath:
    """Return the outline of a node: circle, triangle, diamond or square of about the same area."""
    path = QPainterPath()
    if shape == FEATURE:
        path.addEllipse(at, radius, radius)
    elif shape == ATTENTION_SHAPE:
        r = radius * 1.26
        corners = [QPointF(0, -r), QPointF(0.94 * r, 0.68 * r), QPointF(-0.94 * r, 0.68 * r)]
        path.addPolygon(QPolygonF([at + corner for corner in corners]))
        path.closeSubpath()
    elif shape == ERROR:
        r = radius * 1.15
        corners = [QPointF(0, -r), QPointF(r, 0), QPointF(0, r), QPointF(-r, 0)]
        path.addPolygon(QPolygonF([at + corner for corner in corners]))
        path.closeSubpath()
    else:
        r = radius * 0.92
        path.addRoundedRect(QRectF(at.x() - r, at.y() - r, 2 * r, 2 * r), r * 0.3, r * 0.3)
    return path


def paint_node(
    painter: QPainter, shape: int, at: QPointF, radius: float, fill: QColor, outline: QColor
) -> None:
    """Paint one node."""
    painter.setPen(QPen(outline, 1.0))
    painter.setBrush(fill)
    painter.drawPath(node_path(shape, at, radius))


@dataclass(frozen=True)
class Frame:
    """One picture to paint.

    Attributes:
        scene, geometry, camera: what and where.
        size: [width, height] of the whole picture.
        plot: the part of it that the graph moves in.
        selected: local index of the selected node.
        pinned, chosen: local indices of pinned and of chosen nodes.
        emphasis: what a view wants to be seen.
        mode: which edges of the selected node are drawn.
        ratio: device pixels per pixel.
        vector: draw shapes instead of stamping pictures (for SVG and print).
        smooth: antialias edges.
    """

    scene: GraphScene
    geometry: GraphGeometry
    camera: Camera
    size: tuple[float, float]
    plot: QRectF
    selected: Optional[int] = None
    pinned: tuple[int, ...] = ()
    chosen: tuple[int, ...] = ()
    emphasis: Optional[Emphasis] = None
    mode: LinkMode = LinkMode.EITHER
    ratio: float = 1.0
    vector: bool = False
    smooth: bool = True
    max_faint: int = MAX_FAINT_EDGES
    x: Floats = field(init=False, repr=False)
    y: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        x, y = self.camera.screen(self.geometry.x, self.geometry.y)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    @cached_property
    def coloured(self) -> Optional[Ints]:
        """Local indices of the edges that are drawn in colour, weakest first: those of the selected
        node, or those among the pinned; None where there is nothing to show them of."""
        if self.mode is LinkMode.PINNED:
            marked = [*self.pinned, *([] if self.selected is None else [self.selected])]
            return self.scene.edges_among(np.array(marked, dtype=np.int64)) if marked else None
        return None if self.selected is None else self.scene.edges_of(self.selected, self.mode)

    def at(self, local: int) -> QPointF:
        """Return where a node lies on the screen."""
        return QPointF(float(self.x[local]), float(self.y[local]))

    def radii(self) -> Floats:
        """Return the radius of every node on the screen: the more influence, the larger."""
        influence = np.maximum(self.scene.influence, 0.0)
        inner = np.isin(self.scene.kind, (FEATURE, ERROR))
        most = influence[inner].max() if inner.any() else 0.0
        relative = np.sqrt(np.clip(influence / most, 0.0, 1.0)) if most > 0 else influence * 0.0
        factor = np.where(inner, 0.72 + 0.75 * relative, 1.0)
        zoom = max(self.camera.zoom_x, self.camera.zoom_y)
        return np.asarray(self.geometry.radius * min(2.2, max(1.0, zoom**0.6)) * factor)

    def shown(self, margin: float = 12.0) -> Bools:
        """Return which nodes lie inside the plot."""
        box = self.plot.adjusted(-margin, -margin, margin, margin)
        inside = (self.x >= box.left()) & (self.x <= box.right())
        return np.asarray(inside & (self.y >= box.top()) & (self.y <= box.bottom()))

    def columns(self) -> tuple[Floats, Floats]:
        """Return left edge and width of every column on the screen."""
        zoom = self.camera.zoom_x
        left = self.geometry.column_left * zoom + self.camera.dx
        return left, self.geometry.column_width * zoom

    def rows(self) -> Floats:
        """Return the middle of every row on the screen."""
        return np.asarray(self.geometry.row_y * self.camera.zoom_y + self.camera.dy)
