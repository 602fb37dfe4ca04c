"""What the painters of the link graph share: colours, fonts, shapes of nodes, the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QPainter,
    QPainterPath,
    QPen,
    QPixmap,
    QPolygonF,
)

from attention_studio.ui.theme import Theme
from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.graph_geometry import Camera, GraphGeometry
from attention_studio.ui.widgets.graph_scene import (
    EMBEDDING,
    ERROR,
    FEATURE,
    FULL_SHARE,
    LOGIT,
    Bools,
    Floats,
    GraphScene,
    LinkMode,
)

# At rest the strongest edges are drawn, faintly: more would be a grey cloud.
MAX_FAINT_EDGES = 700
FAINT_LEVELS = 5
SHARE_LEVELS = 15


class GraphLook:
    """Colours, fonts and prepared pictures of nodes for one theme."""

    def __init__(self, theme: Theme) -> None:
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
        self.metrics = QFontMetricsF(self.font)
        self.bold_metrics = QFontMetricsF(self.bold)
        self.small_metrics = QFontMetricsF(self.small)
        self.title_metrics = QFontMetricsF(self.title)
        self.gutter = self.small_metrics.horizontalAdvance("Logits") + 20.0
        self.header = self.metrics.height() + 30.0
        self.footer = self.metrics.height() + self.small_metrics.height() + 14.0
        self._stamps: dict[tuple[int, int, str, str, float], tuple[QPixmap, float]] = {}

    def share_level(self, share: float) -> int:
        """Return which of the diverging colours stands for a signed share of an input."""
        half = SHARE_LEVELS // 2
        depth = math.sqrt(min(1.0, abs(share) / FULL_SHARE))
        step = max(2, round(depth * half))
        return half + step if share >= 0 else half - step

    def share_colour(self, share: float) -> QColor:
        """Return the colour that stands for a signed share of an input."""
        return QColor(self.shares[self.share_level(share)])

    def stamp(
        self, kind: int, size: int, fill: str, outline: str, ratio: float
    ) -> tuple[QPixmap, float]:
        """Return the picture of a node, ``size`` half pixels in radius, and half its width."""
        key = (kind, size, fill, outline, ratio)
        if key not in self._stamps:
            radius = size / 2.0
            extent = int(np.ceil(radius + 2.5)) * 2
            picture = QPixmap(round(extent * ratio), round(extent * ratio))
            picture.setDevicePixelRatio(ratio)
            picture.fill(Qt.GlobalColor.transparent)
            painter = QPainter(picture)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            middle = QPointF(extent / 2.0, extent / 2.0)
            paint_node(painter, kind, middle, radius, QColor(fill), QColor(outline))
            painter.end()
            self._stamps[key] = picture, extent / 2.0
        return self._stamps[key]


def node_path(kind: int, at: QPointF, radius: float) -> QPainterPath:
    """Return the outline of a node: circle, diamond or square of about the same area."""
    path = QPainterPath()
    if kind == FEATURE:
        path.addEllipse(at, radius, radius)
    elif kind == ERROR:
        r = radius * 1.15
        corners = [QPointF(0, -r), QPointF(r, 0), QPointF(0, r), QPointF(-r, 0)]
        path.addPolygon(QPolygonF([at + corner for corner in corners]))
        path.closeSubpath()
    else:
        r = radius * 0.92
        path.addRoundedRect(QRectF(at.x() - r, at.y() - r, 2 * r, 2 * r), r * 0.3, r * 0.3)
    return path


def paint_node(
    painter: QPainter, kind: int, at: QPointF, radius: float, fill: QColor, outline: QColor
) -> None:
    """Paint one node."""
    painter.setPen(QPen(outline, 1.0))
    painter.setBrush(fill)
    painter.drawPath(node_path(kind, at, radius))


@dataclass(frozen=True)
class Frame:
    """One picture to paint.

    Attributes:
        scene, geometry, camera: what and where.
        size: [width, height] of the whole picture.
        plot: the part of it that the graph moves in.
        selected: local index of the selected node.
        pinned: local indices of pinned nodes.
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
        return np.asarray(self.geometry.radius * min(2.2, self.camera.zoom**0.6) * factor)

    def shown(self, margin: float = 12.0) -> Bools:
        """Return which nodes lie inside the plot."""
        box = self.plot.adjusted(-margin, -margin, margin, margin)
        inside = (self.x >= box.left()) & (self.x <= box.right())
        return np.asarray(inside & (self.y >= box.top()) & (self.y <= box.bottom()))

    def columns(self) -> tuple[Floats, Floats]:
        """Return left edge and width of every column on the screen."""
        zoom = self.camera.zoom
        left = self.geometry.column_left * zoom + self.camera.dx
        return left, self.geometry.column_width * zoom

    def rows(self) -> Floats:
        """Return the middle of every row on the screen."""
        return np.asarray(self.geometry.row_y * self.camera.zoom + self.camera.dy)
