"""The whole link graph, small, in a corner while only a part of it is in view."""

from __future__ import annotations

from typing import Optional

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPen, QPixmap

from attention_studio.ui.widgets.graph_geometry import GraphGeometry
from attention_studio.ui.widgets.graph_look import Frame, GraphLook
from attention_studio.ui.widgets.graph_scene import GraphScene

# The most room that it takes, and the least plot that it is shown in.
MAX_WIDTH, MAX_HEIGHT = 176.0, 108.0
LEAST_PLOT = 380.0
MARGIN = 10.0
PAD = 4.0


class Minimap:
    """Prepared picture of a scene, and where it lies in a frame."""

    def __init__(self) -> None:
        self._picture: Optional[QPixmap] = None
        self._of: Optional[tuple[GraphScene, GraphGeometry, GraphLook, float]] = None

    @staticmethod
    def box(frame: Frame) -> Optional[QRectF]:
        """Where it lies in the viewport; None where all is in view, or there is no room."""
        plot = frame.plot
        width = frame.geometry.width * frame.camera.zoom_x
        height = frame.geometry.height * frame.camera.zoom_y
        all_seen = width <= plot.width() + 2 and height <= plot.height() + 2
        if all_seen or plot.width() < LEAST_PLOT or plot.height() < 2 * MAX_HEIGHT:
            return None
        # Long prompts are very wide: what is too flat to be read is made higher.
        scale = min(MAX_WIDTH / frame.geometry.width, MAX_HEIGHT / frame.geometry.height)
        wide = max(frame.geometry.width * scale, 0.6 * MAX_WIDTH)
        high = max(frame.geometry.height * scale, 0.5 * MAX_HEIGHT)
        return QRectF(
            plot.left() + MARGIN, plot.bottom() - MARGIN - high - 2 * PAD,
            wide + 2 * PAD, high + 2 * PAD,
        )  # fmt: skip

    @staticmethod
    def world(frame: Frame, box: QRectF, at: QPointF) -> tuple[float, float]:
        """The point of the graph, in world coordinates, that a point of the small picture shows."""
        inner = box.adjusted(PAD, PAD, -PAD, -PAD)
        across = min(1.0, max(0.0, (at.x() - inner.left()) / inner.width()))
        down = min(1.0, max(0.0, (at.y() - inner.top()) / inner.height()))
        return across * frame.geometry.width, down * frame.geometry.height

    def paint(self, painter: QPainter, frame: Frame, look: GraphLook) -> None:
        """Paint it, with a frame around what is in view, unless all is."""
        box = self.box(frame)
        if box is None:
            return
        inner = box.adjusted(PAD, PAD, -PAD, -PAD)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        painter.setPen(QPen(look.border, 1))
        painter.setBrush(look.raised)
        painter.drawRoundedRect(box, 5, 5)
        painter.drawPixmap(inner.topLeft(), self._drawn(frame, look, inner))
        seen = self._seen(frame, inner)
        painter.setPen(QPen(look.accent, 1.5))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(seen, 2, 2)

    @staticmethod
    def _seen(frame: Frame, inner: QRectF) -> QRectF:
        """The part of the small picture that is in view."""
        camera, plot, geometry = frame.camera, frame.plot, frame.geometry
        left = max(0.0, (plot.left() - camera.dx) / camera.zoom_x / geometry.width)
        right = min(1.0, (plot.right() - camera.dx) / camera.zoom_x / geometry.width)
        top = max(0.0, (plot.top() - camera.dy) / camera.zoom_y / geometry.height)
        bottom = min(1.0, (plot.bottom() - camera.dy) / camera.zoom_y / geometry.height)
        return QRectF(
            inner.left() + left * inner.width(), inner.top() + top * inner.height(),
            max(3.0, (right - left) * inner.width()), max(3.0, (bottom - top) * inner.height()),
        )  # fmt: skip

    def _drawn(self, frame: Frame, look: GraphLook, inner: QRectF) -> QPixmap:
        key = (frame.scene, frame.geometry, look, frame.ratio)
        same = self._of is not None and all(
            one is other for one, other in zip(self._of[:3], key[:3], strict=True)
        )
        if self._picture is None or not same or self._of is None or self._of[3] != frame.ratio:
            self._picture, self._of = _dots(frame, look, inner), key
        return self._picture


def _dots(frame: Frame, look: GraphLook, inner: QRectF) -> QPixmap:
    """All nodes as dots in the colours of their kinds, written into memory at once."""
    ratio = frame.ratio
    width = max(1, round(inner.width() * ratio))
    height = max(1, round(inner.height() * ratio))
    pixels = np.full((height, width), QColor(look.tokens.raised).rgb(), dtype=np.uint32)
    kinds = np.array([QColor(look.kinds[kind]).rgb() for kind in range(4)], dtype=np.uint32)
    geometry, scene = frame.geometry, frame.scene
    x = np.clip(geometry.x / geometry.width * width, 0, width - 2).astype(np.int64)
    y = np.clip(geometry.y / geometry.height * height, 0, height - 2).astype(np.int64)
    order = np.argsort(scene.influence, kind="stable")
    x, y, colours = x[order], y[order], kinds[scene.kind[order]]
    for right in (0, 1):
        for down in (0, 1):
            pixels[y + down, x + right] = colours
    image = QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGB32)
    picture = QPixmap.fromImage(image.copy())
    picture.setDevicePixelRatio(ratio)
    return picture
