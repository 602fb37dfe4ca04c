"""Predicted against measured, one mark for each pair, painted by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Optional

import numpy as np
from PySide6.QtCore import QEvent, QLineF, QPointF, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QHelpEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from attention_studio.core.validation_plot import ticks
from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.controls import named, plain_tip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attention_studio.ui.theme import Theme

MAX_MARKS = 4_000
"""More marks are one blot, and slow to paint; the largest are painted."""
_NEAR = 9.0
_STAMP = 10.0


class MarkShape(Enum):
    """Shapes tell marks apart where colours do not."""

    DOT = "dot"
    CROSS = "cross"
    RING = "ring"
    SQUARE = "square"


class MarkLook(NamedTuple):
    """How a mark looks: its shape, and the theme's name of its colour."""

    shape: MarkShape
    colour: str


@dataclass(frozen=True)
class PlotPairs:
    """What is plotted.

    Attributes:
        predicted, measured: [n] float32.
        looks: [n] how each looks.
        words: what is said of one of them, by its number.
        told: what is said of all of them together.
    """

    predicted: NDArray[np.float32]
    measured: NDArray[np.float32]
    looks: tuple[MarkLook, ...]
    words: Callable[[int], str]
    told: str


class AgreementPlot(QWidget):
    """Marks at (predicted, measured); on the dashed line both are equal, and a band around it says
    what counts as near. Says ``chosen`` with the number of the pair that was clicked.

    Args:
        theme: its colours and fonts.
        name, tip: what it is known by, and what it tells.
        nothing: what it says where there is nothing to show.
    """

    chosen = Signal(int)

    def __init__(
        self, theme: Theme, name: str, tip: str, nothing: str, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self._theme, self._nothing = theme, nothing
        self._pairs: Optional[PlotPairs] = None
        self._tolerance: Optional[float] = None
        self._marks: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._limit = 1.0
        self._marked: Optional[int] = None
        self._picture: Optional[QPixmap] = None
        named(self, name, "Predicted against measured", tip)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(180, 160)
        theme.changed.connect(self._on_theme)

    def sizeHint(self) -> QSize:
        """A square."""
        return QSize(360, 360)

    # -- what is shown ------------------------------------------------------------------------

    def show_pairs(self, pairs: Optional[PlotPairs], tolerance: Optional[float] = None) -> None:
        """Show these pairs, and a band of this share of the prediction around the line."""
        if pairs is not None and not len(pairs.looks):
            pairs = None
        self._pairs, self._tolerance = pairs, tolerance
        self._marked, self._limit = None, 1.0
        self._marks = np.zeros(0, dtype=np.int64)
        if pairs is not None:
            reach = np.maximum(np.abs(pairs.predicted), np.abs(pairs.measured))
            self._limit = 1.05 * float(reach.max()) or 1.0
            # In their own order: what comes later lies on top.
            self._marks = np.sort(np.argsort(-reach, kind="stable")[:MAX_MARKS])
        self.setAccessibleDescription(self._nothing if pairs is None else pairs.told)
        self._picture = None
        self.update()

    def mark(self, pair: Optional[int]) -> None:
        """Put a ring around one pair's mark."""
        self._marked = pair
        self.update()

    def place_of(self, pair: int) -> QPointF:
        """Where the mark of a pair is."""
        assert self._pairs is not None  # else there are none
        frame = self._frame()
        return self._point(
            frame, float(self._pairs.predicted[pair]), float(self._pairs.measured[pair])
        )

    # -- geometry -----------------------------------------------------------------------------

    def _frame(self) -> QRectF:
        metrics = QFontMetricsF(self._theme.font(0.82))
        left = metrics.horizontalAdvance("-00.0 ") + metrics.height() + 10
        below = 2 * metrics.height() + 12
        side = max(40.0, min(self.width() - left - 12, self.height() - below - 10))
        return QRectF(left, 8, side, side)

    def _point(self, frame: QRectF, predicted: float, measured: float) -> QPointF:
        scale = frame.width() / (2 * self._limit)
        middle = frame.center()
        return QPointF(middle.x() + predicted * scale, middle.y() - measured * scale)

    def _pair_at(self, place: QPointF) -> Optional[int]:
        pairs = self._pairs
        if pairs is None:
            return None
        frame = self._frame()
        scale = frame.width() / (2 * self._limit)
        x = frame.center().x() + pairs.predicted[self._marks] * scale
        y = frame.center().y() - pairs.measured[self._marks] * scale
        distance = np.hypot(x - place.x(), y - place.y())
        nearest = int(distance.argmin())
        return int(self._marks[nearest]) if distance[nearest] <= _NEAR else None

    # -- painting -----------------------------------------------------------------------------

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the plot as it was painted before, and the ring."""
        ratio = self.devicePixelRatioF()
        if self._picture is None or self._picture.size() != self.size() * ratio:
            self._picture = self._painted(ratio)
        painter = QPainter(self)
        painter.drawPixmap(0, 0, self._picture)
        if self._marked is not None and self._pairs is not None:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setClipRect(self._frame())
            painter.setPen(QPen(self._theme.colour("text"), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawEllipse(self.place_of(self._marked), 8, 8)

    def _painted(self, ratio: float) -> QPixmap:
        """Frame, lines and marks."""
        picture = QPixmap(self.size() * ratio)
        picture.setDevicePixelRatio(ratio)
        picture.fill(self._theme.colour("canvas"))
        painter = QPainter(picture)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        frame = self._frame()
        self._paint_axes(painter, frame)
        painter.setClipRect(frame)
        self._paint_lines(painter, frame)
        pairs = self._pairs
        if pairs is not None:
            scale = frame.width() / (2 * self._limit)
            left = frame.center().x() + pairs.predicted[self._marks] * scale - _STAMP / 2
            top = frame.center().y() - pairs.measured[self._marks] * scale - _STAMP / 2
            stamps = {look: self._stamp(look, ratio) for look in set(pairs.looks)}
            kinds = [stamps[pairs.looks[pair]] for pair in self._marks.tolist()]
            for x, y, stamp in zip(left.tolist(), top.tolist(), kinds, strict=True):
                painter.drawPixmap(QPointF(x, y), stamp)
        painter.end()
        return picture

    def _paint_axes(self, painter: QPainter, frame: QRectF) -> None:
        font = self._theme.font(0.82)
        painter.setFont(font)
        metrics = QFontMetricsF(font)
        for tick in ticks(-self._limit, self._limit):
            at = self._point(frame, tick, tick)
            painter.setPen(QPen(self._theme.colour("grid"), 1))
            painter.drawLine(QLineF(at.x(), frame.top(), at.x(), frame.bottom()))
            painter.drawLine(QLineF(frame.left(), at.y(), frame.right(), at.y()))
            painter.setPen(self._theme.colour("muted"))
            text = f"{tick:.4g}".replace("-", "\N{MINUS SIGN}")
            width = metrics.horizontalAdvance(text)
            painter.drawText(QPointF(at.x() - width / 2, frame.bottom() + metrics.height()), text)
            base = at.y() + (metrics.ascent() - metrics.descent()) / 2
            painter.drawText(QPointF(frame.left() - width - 6, base), text)
        painter.setPen(QPen(self._theme.colour("border_strong"), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(frame)
        painter.setPen(self._theme.colour("muted"))
        below = QRectF(
            frame.left(), frame.bottom() + metrics.height() + 4, frame.width(), 2 * metrics.height()
        )
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, "predicted change")
        painter.save()
        painter.translate(metrics.height(), frame.center().y())
        painter.rotate(-90)
        box = QRectF(-frame.height() / 2, -metrics.height(), frame.height(), metrics.height())
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, "measured change")
        painter.restore()

    def _paint_lines(self, painter: QPainter, frame: QRectF) -> None:
        limit = self._limit
        painter.setPen(QPen(self._theme.colour("border_strong"), 1))
        band = self._tolerance
        for slope in () if band is None else (1 - band, 1 + band):
            ends = (self._point(frame, x, slope * x) for x in (-limit, limit))
            painter.drawLine(QLineF(*ends))
        painter.setPen(QPen(self._theme.colour("text"), 1, Qt.PenStyle.DashLine))
        painter.drawLine(
            QLineF(self._point(frame, -limit, -limit), self._point(frame, limit, limit))
        )

    def _stamp(self, look: MarkLook, ratio: float) -> QPixmap:
        """A mark: painted once, put down often."""
        size = math.ceil(_STAMP * ratio)
        stamp = QPixmap(size, size)
        stamp.setDevicePixelRatio(ratio)
        stamp.fill(Qt.GlobalColor.transparent)
        painter = QPainter(stamp)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        t = self._theme.tokens
        colour, at = getattr(t, look.colour), _STAMP / 2
        if look.shape is MarkShape.DOT:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(mix(t.canvas, colour, 0.8)))
            painter.drawEllipse(QPointF(at, at), 3.5, 3.5)
        elif look.shape is MarkShape.SQUARE:
            painter.setPen(QPen(QColor(t.canvas), 1))
            painter.setBrush(QColor(colour))
            painter.drawRect(QRectF(at - 4, at - 4, 8, 8))
        elif look.shape is MarkShape.CROSS:
            painter.setPen(QPen(QColor(colour), 1.8))
            for x in (-3.2, 3.2):
                painter.drawLine(QLineF(at - x, at - 3.2, at + x, at + 3.2))
        else:
            painter.setPen(QPen(QColor(colour), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawEllipse(QPointF(at, at), 2.2, 2.2)
        painter.end()
        return stamp

    # -- pointer ------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose the pair under the pointer."""
        pair = self._pair_at(event.position())
        if pair is not None and event.button() == Qt.MouseButton.LeftButton:
            self.chosen.emit(pair)
        super().mousePressEvent(event)

    def event(self, event: QEvent) -> bool:
        """Say which pair is under the pointer."""
        if isinstance(event, QHelpEvent) and self._pairs is not None:
            pair = self._pair_at(QPointF(event.pos()))
            if pair is None:
                QToolTip.hideText()
            else:
                QToolTip.showText(event.globalPos(), plain_tip(self._pairs.words(pair)), self)
            return True
        return super().event(event)

    @Slot()
    def _on_theme(self) -> None:
        self._picture = None
        self.update()
