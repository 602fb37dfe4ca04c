"""Charts as figures: panels with curves, points or bars on two axes, and a legend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen, QPolygonF

from attention_studio.core.validation_plot import ticks
from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.text import count

if TYPE_CHECKING:
    from attention_studio.ui.figures.look import Look

Floats = NDArray[np.float64]
Marks = Literal["line", "points", "line and points", "dots", "bars"]
_DASHES = (
    Qt.PenStyle.SolidLine,
    Qt.PenStyle.DashLine,
    Qt.PenStyle.DotLine,
    Qt.PenStyle.DashDotLine,
)
_ASPECT = 0.62


@dataclass(frozen=True)
class Series:
    """Values that are drawn alike.

    Attributes:
        text: what the legend calls them; "" for none.
        x, y: [n]; what is no number is left out. For bars, ``x`` [n + 1] has their edges.
        marks: how they are drawn; "dots" is a thin dotted line, as of a range.
        colour: place in the palette's list of curves; its dash goes by it too.
    """

    text: str
    x: Floats
    y: Floats
    marks: Marks = "line"
    colour: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``zero``: the upright axis begins at 0."""

    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    zero: bool = False
    powers: bool = False
    """Whether ``x`` are exponents of ten."""


@dataclass(frozen=True)
class ChartFigure(Figure):
    """Panels in a grid; panels of the same curves share one legend below."""

    panels: tuple[Panel, ...]
    columns: int = 2

    def _across(self, width: float) -> int:
        """How many panels stand side by side: fewer where they would be too narrow to read."""
        return max(1, min(self.columns, len(self.panels), int(width // 230.0)))

    def _size(self, look: Look, width: float) -> tuple[int, float, float]:
        across = self._across(width)
        wide = (width - 18.0 * (across - 1)) / across
        return across, wide, wide * _ASPECT + 3.2 * QFontMetricsF(look.font(0.85)).height()

    def height(self, look: Look, width: float) -> float:
        """All rows of panels, and the legend."""
        across, _, high = self._size(look, width)
        rows = math.ceil(len(self.panels) / across)
        return rows * high + (rows - 1) * 12.0 + self._legend_height(look)

    def _legend(self) -> dict[str, Series]:
        return {one.text: one for panel in self.panels for one in panel.series if one.text}

    def _legend_height(self, look: Look) -> float:
        return QFontMetricsF(look.font(0.85)).height() + 10.0 if self._legend() else 0.0

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Paint every panel and the legend."""
        across, wide, high = self._size(look, width)
        for place, panel in enumerate(self.panels):
            painter.save()
            painter.translate((place % across) * (wide + 18.0), (place // across) * (high + 12.0))
            _Axes(panel, look, wide, high).paint(painter)
            painter.restore()
        self._paint_legend(painter, look, height - self._legend_height(look))

    def _paint_legend(self, painter: QPainter, look: Look, top: float) -> None:
        font = look.font(0.85)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        x, middle = 0.0, top + 10.0 + metrics.height() / 2.0
        for one in self._legend().values():
            _sample(painter, look, one, QPointF(x, middle))
            painter.setPen(QColor(look.tokens.text))
            wide = metrics.horizontalAdvance(one.text) + 2.0
            painter.drawText(
                QRectF(x + 28.0, middle - metrics.height(), wide, 2 * metrics.height()),
                Qt.AlignmentFlag.AlignVCenter, one.text,
            )  # fmt: skip
            x += 28.0 + wide + 18.0


class _Axes:
    """One panel on its room: where its numbers lie."""

    def __init__(self, panel: Panel, look: Look, width: float, height: float) -> None:
        self._panel, self._look = panel, look
        self._font = look.font(0.85)
        self._metrics = QFontMetricsF(self._font)
        line = self._metrics.height()
        self._x, self._y = self._range("x"), self._range("y")
        self._y_ticks = [(at, _number(at)) for at in ticks(*self._y)]
        gutter = max(
            (self._metrics.horizontalAdvance(text) for _, text in self._y_ticks), default=0
        )
        left = gutter + 8.0 + (line + 4.0 if panel.y_title else 0.0)
        below = 2.0 * line + 10.0 if panel.x_title else line + 8.0
        self.box = QRectF(left, line + 8.0, width - left - 4.0, height - below - line - 8.0)
        self._width = width

    def _range(self, axis: Literal["x", "y"]) -> tuple[float, float]:
        parts = [np.asarray(getattr(one, axis), dtype=float) for one in self._panel.series]
        values = np.concatenate([*parts, np.zeros(0)])
        values = values[np.isfinite(values)]
        if axis == "y" and self._panel.zero:
            values = np.append(values, 0.0)
        if not len(values):
            return 0.0, 1.0
        low, high = float(values.min()), float(values.max())
        room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
        if axis == "y":
            return (low if self._panel.zero and low >= 0 else low - room), high + room
        return (low, high) if high > low else (low - room, high + room)

    def point(self, x: float, y: float) -> QPointF:
        """Where a pair of numbers lies."""
        (low_x, high_x), (low_y, high_y) = self._x, self._y
        return QPointF(
            self.box.left() + self.box.width() * (x - low_x) / (high_x - low_x),
            self.box.bottom() - self.box.height() * (y - low_y) / (high_y - low_y),
        )

    def paint(self, painter: QPainter) -> None:
        """Paint title, grid, numbers, what is drawn, and the frame."""
        t, box, line = self._look.tokens, self.box, self._metrics.height()
        painter.setFont(self._look.font(0.92, bold=True))
        painter.setPen(QColor(t.text))
        painter.drawText(
            QRectF(box.left(), 0, box.width(), line + 4.0),
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, self._panel.title,
        )  # fmt: skip
        painter.setFont(self._font)
        grid = QPen(QColor(t.grid), 0.8)
        for at, text in self._y_ticks:
            spot = self.point(self._x[0], at)
            painter.setPen(grid)
            painter.drawLine(spot, QPointF(box.right(), spot.y()))
            painter.setPen(QColor(t.muted))
            painter.drawText(
                QRectF(0, spot.y() - line, box.left() - 6.0, 2 * line),
                Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, text,
            )  # fmt: skip
        self._paint_x(painter, grid)
        painter.save()
        painter.setClipRect(box.adjusted(-4, -4, 4, 4))
        for one in self._panel.series:
            self._paint_series(painter, one)
        painter.restore()
        painter.setPen(QPen(QColor(t.border_strong), 1.0))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(box)
        self._paint_titles(painter)

    def _paint_x(self, painter: QPainter, grid: QPen) -> None:
        box, line = self.box, self._metrics.height()
        free = -math.inf
        for at in ticks(*self._x, about=max(2, int(box.width() // 60.0))):
            if self._panel.powers and at != round(at):
                continue
            text = (
                _number(10.0**at) if self._panel.powers else count(at) if at >= 1e3 else _number(at)
            )
            spot, wide = self.point(at, self._y[0]), self._metrics.horizontalAdvance(text) + 6.0
            painter.setPen(grid)
            painter.drawLine(spot, QPointF(spot.x(), box.top()))
            left = min(spot.x() - wide / 2.0, self._width - wide)
            if left < free:
                continue
            free = left + wide
            painter.setPen(QColor(self._look.tokens.muted))
            painter.drawText(
                QRectF(left, box.bottom() + 3.0, wide, line), Qt.AlignmentFlag.AlignCenter, text
            )

    def _paint_titles(self, painter: QPainter) -> None:
        box, line, panel = self.box, self._metrics.height(), self._panel
        painter.setPen(QColor(self._look.tokens.text))
        if panel.x_title:
            painter.drawText(
                QRectF(box.left(), box.bottom() + 5.0 + line, box.width(), line + 2.0),
                Qt.AlignmentFlag.AlignCenter, panel.x_title,
            )  # fmt: skip
        if panel.y_title:
            painter.save()
            painter.translate(line / 2.0, box.center().y())
            painter.rotate(-90.0)
            painter.drawText(
                QRectF(-box.height() / 2.0, -line, box.height(), 2 * line),
                Qt.AlignmentFlag.AlignCenter, panel.y_title,
            )  # fmt: skip
            painter.restore()

    def _paint_series(self, painter: QPainter, one: Series) -> None:
        colour = QColor(self._look.series_colour(one.colour))
        if one.marks == "bars":
            painter.setPen(QPen(QColor(self._look.tokens.canvas), 0.6))
            painter.setBrush(colour)
            for left, right, y in zip(one.x[:-1], one.x[1:], one.y, strict=True):
                top, base = self.point(float(left), float(y)), self.point(float(right), 0.0)
                painter.drawRect(QRectF(top, base).normalized())
            return
        known = np.isfinite(one.x) & np.isfinite(one.y)
        points = [
            self.point(float(x), float(y)) for x, y in zip(one.x[known], one.y[known], strict=True)
        ]
        painter.setBrush(Qt.BrushStyle.NoBrush)
        if one.marks != "points" and len(points) > 1:
            painter.setPen(_pen(self._look, one))
            painter.drawPolyline(QPolygonF(points))
        if "points" in one.marks:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            for at in points:
                painter.drawEllipse(at, 2.6, 2.6)


def _pen(look: Look, one: Series) -> QPen:
    if one.marks == "dots":
        return QPen(QColor(look.tokens.neutral), 1.0, Qt.PenStyle.DotLine)
    pen = QPen(QColor(look.series_colour(one.colour)), 1.5)
    # Colour is never the only sign.
    pen.setStyle(_DASHES[one.colour % len(_DASHES)])
    return pen


def _sample(painter: QPainter, look: Look, one: Series, at: QPointF) -> None:
    """What a series looks like, for the legend."""
    colour = QColor(look.series_colour(one.colour))
    if one.marks == "bars":
        painter.fillRect(QRectF(at.x() + 4.0, at.y() - 5.0, 14.0, 10.0), colour)
        return
    if one.marks != "points":
        painter.setPen(_pen(look, one))
        painter.drawLine(at, QPointF(at.x() + 22.0, at.y()))
    if "points" in one.marks:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.drawEllipse(QPointF(at.x() + 11.0, at.y()), 2.6, 2.6)


def _number(value: float) -> str:
    """A number on an axis."""
    return f"{value:.6g}".replace("-", "\u2212")


def known_series(
    text: str, x: Floats, y: Floats, marks: Marks = "line", colour: int = 0
) -> Optional[Series]:
    """Return a series of the values that are numbers, or None where there are none."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return None
    return Series(text, x[known], y[known], marks, colour)
