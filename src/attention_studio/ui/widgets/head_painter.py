"""Paints one head large: as a matrix of queries and keys, or as lines between tokens.

Painting needs a ``Look`` alone, so the window and a figure on paper show the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Optional

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QImage, QPainter, QPainterPath, QPen

from attention_studio.ui.head_scene import (
    STEPS,
    HeadScene,
    Spot,
    scale_colours,
)
from attention_studio.ui.tokens import ink_on, mix

if TYPE_CHECKING:
    from attention_studio.ui.figures.look import Look

Manner = Literal["matrix", "lines"]

_LEAST_CELL, _MOST_CELL = 11.0, 44.0
_MOST_NAME = 92.0
_FIGURES_FROM = 30.0
"""Cells at least so wide have their value written in them."""
_LINE_GAP, _MOST_GAP = 90.0, 260.0
_WIDEST = 5.0
_BANDS = 8


@dataclass(frozen=True)
class HeadLayout:
    """Where the parts of a picture lie, from the picture's top left corner.

    Attributes:
        gutter: width of the names of queries; head: height of the names of keys, or of the titles.
        cell: side of a cell, or height of a row of tokens.
        right: left end of the names of keys, where they stand at the right (lines).
        width, height: of the whole.
    """

    manner: Manner
    gutter: float
    head: float
    cell: float
    right: float
    width: float
    height: float

    def spot_at(self, scene: HeadScene, at: QPointF) -> Optional[Spot]:
        """What lies at a point; None: nothing."""
        row = int((at.y() - self.head) // self.cell) if at.y() >= self.head else -1
        if self.manner == "lines":
            if not 0 <= row < scene.length:
                return None
            if at.x() < self.gutter:
                return Spot(query=row)
            return Spot(key=row) if self.right <= at.x() < self.width else None
        column = int((at.x() - self.gutter) // self.cell) if at.x() >= self.gutter else -1
        if 0 <= row < scene.length and 0 <= column <= row:
            return Spot(row, column)
        if 0 <= row < scene.length and column < 0:
            return Spot(query=row)
        if row < 0 and 0 <= column < scene.length:
            return Spot(key=column)
        return None

    def middle(self, spot: Spot) -> QPointF:
        """The middle of what a spot names."""
        if self.manner == "lines":
            if spot.query is not None:
                return QPointF(self.gutter / 2, self.head + (spot.query + 0.5) * self.cell)
            row = 0 if spot.key is None else spot.key
            x = (self.right + self.width) / 2
            return QPointF(x, self.head + (row + 0.5) * self.cell)
        x = self.gutter / 2 if spot.key is None else self.gutter + (spot.key + 0.5) * self.cell
        y = self.head / 2 if spot.query is None else self.head + (spot.query + 0.5) * self.cell
        return QPointF(x, y)


def lay_out(
    scene: HeadScene, look: Look, manner: Manner, width: float, height: float
) -> HeadLayout:
    """Fit a picture into a room; it becomes larger than the room rather than unreadable."""
    metrics = QFontMetricsF(look.font(0.86))
    # The position stands before the token.
    widest = max((metrics.horizontalAdvance(text) for text in _names(scene)), default=0.0)
    name = min(max(_MOST_NAME, metrics.horizontalAdvance("00 containing")), widest) + 12.0
    least = max(_LEAST_CELL, metrics.height() + 1.0)
    n = max(1, scene.length)
    if manner == "matrix":
        # Names that stand upright give way where there is little height.
        head = min(name, max(metrics.horizontalAdvance("00 token") + 10.0, 0.3 * height))
        room = min(width - name - 4.0, height - head - 4.0) / n
        cell = float(np.clip(room, least, max(least, _MOST_CELL)))
        return HeadLayout(
            manner, name, head, cell, 0.0, name + cell * n + 3.0, head + cell * n + 3.0
        )
    title = metrics.height() + 8.0
    cell = float(np.clip((height - title - 4.0) / n, least + 1.0, 1.5 * metrics.height() + 4.0))
    figures = metrics.horizontalAdvance("+00.00 ") + 6.0
    gap = float(np.clip(width - 2 * name - figures, _LINE_GAP, _MOST_GAP))
    # Behind the names of keys there is room for figures.
    whole = 2 * name + gap + figures
    return HeadLayout(manner, name, title, cell, name + gap, whole, title + cell * n + 3.0)


def head_image(scene: HeadScene, look: Look) -> QImage:
    """The cells of a matrix, a pixel each."""
    t = look.tokens
    colours = [QColor(c).rgb() for c in (*scale_colours(t, scene.signed), t.sunken)]
    # Step −1, above the diagonal, is the last.
    rgb = np.array(colours, dtype=np.uint32)[scene.steps()]
    n = scene.length
    return QImage(rgb.data, n, n, 4 * n, QImage.Format.Format_RGB32).copy()


def paint_head(
    painter: QPainter,
    look: Look,
    scene: HeadScene,
    layout: HeadLayout,
    image: QImage,
    spot: Spot,
    exposed: Optional[QRectF] = None,
) -> None:
    """Paint a picture with its top left corner at the origin; ``image`` is ``head_image``'s. Names
    outside of ``exposed`` are left out."""
    shown = QRectF(0, 0, layout.width, layout.height) if exposed is None else exposed
    if layout.manner == "matrix":
        _paint_matrix(painter, look, scene, layout, image, spot, shown)
    else:
        _paint_lines(painter, look, scene, layout, spot, shown)


def _within(start: float, cell: float, n: int, low: float, high: float) -> range:
    """Which of n cells in a row, the first beginning at ``start``, lie between two ends."""
    return range(max(0, int((low - start) // cell)), min(n, int((high - start) // cell) + 1))


# -- matrix ------------------------------------------------------------------------------------


def _paint_matrix(
    painter: QPainter,
    look: Look,
    scene: HeadScene,
    layout: HeadLayout,
    image: QImage,
    spot: Spot,
    shown: QRectF,
) -> None:
    t, n, cell = look.tokens, scene.length, layout.cell
    left, top = layout.gutter, layout.head
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
    painter.drawImage(QRectF(left, top, n * cell, n * cell), image)
    painter.setPen(QPen(QColor(t.canvas), 1))
    for i in _within(left, cell, n + 1, shown.left(), shown.right()):
        x = left + i * cell
        painter.drawLine(QPointF(x, top + max(0, i - 1) * cell), QPointF(x, top + n * cell))
    for i in _within(top, cell, n + 1, shown.top(), shown.bottom()):
        y = top + i * cell
        painter.drawLine(QPointF(left, y), QPointF(left + min(n, i + 1) * cell, y))
    if cell >= max(_FIGURES_FROM, QFontMetricsF(look.font(0.74)).horizontalAdvance("+0.00") + 3):
        _paint_figures(painter, look, scene, layout)
    if spot.query is not None:
        box = QRectF(left, top + spot.query * cell, (spot.query + 1) * cell, cell)
        _frame(painter, look, box, QColor(t.border_strong))
    if spot.key is not None:
        box = QRectF(left + spot.key * cell, top + spot.key * cell, cell, (n - spot.key) * cell)
        _frame(painter, look, box, QColor(t.border_strong))
    if spot.query is not None and spot.key is not None:
        box = QRectF(left + spot.key * cell, top + spot.query * cell, cell, cell)
        _frame(painter, look, box, QColor(t.text))
    _paint_axis(painter, look, scene, layout, spot, shown)


def _paint_figures(painter: QPainter, look: Look, scene: HeadScene, layout: HeadLayout) -> None:
    t, cell = look.tokens, layout.cell
    inks = [QColor(ink_on(colour)) for colour in scale_colours(t, scene.signed)]
    steps = scene.steps()
    painter.setFont(look.font(0.74))
    query, key = np.nonzero((np.abs(scene.shares) >= 0.005) & (steps >= 0))
    for q, k in zip(query.tolist(), key.tolist(), strict=True):
        painter.setPen(inks[steps[q, k]])
        value = float(scene.values[q, k])
        text = f"{value:+.2f}" if scene.signed else f"{100 * value:.0f}"
        box = QRectF(layout.gutter + k * cell, layout.head + q * cell, cell, cell)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), text)


def _paint_axis(
    painter: QPainter,
    look: Look,
    scene: HeadScene,
    layout: HeadLayout,
    spot: Spot,
    shown: QRectF,
) -> None:
    t, cell, n, names = look.tokens, layout.cell, scene.length, _names(scene)
    for place in _within(layout.head, cell, n, shown.top(), shown.bottom()):
        name, here = names[place], place == spot.query
        font = look.font(0.86, bold=here)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        painter.setPen(QColor(t.text if here else t.muted))
        box = QRectF(0, layout.head + place * cell, layout.gutter - 6, cell)
        text = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, box.width())
        painter.drawText(
            box, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), text
        )
    for place in _within(layout.gutter, cell, n, shown.left(), shown.right()):
        name, here = names[place], place == spot.key
        font = look.font(0.86, bold=here)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        painter.setPen(QColor(t.text if here else t.muted))
        painter.save()
        painter.translate(layout.gutter + (place + 0.5) * cell, layout.head - 6)
        painter.rotate(-90)
        text = metrics.elidedText(name, Qt.TextElideMode.ElideRight, layout.head - 8)
        painter.drawText(QPointF(0, metrics.ascent() / 2 - 1), text)
        painter.restore()


def _frame(painter: QPainter, look: Look, box: QRectF, colour: QColor) -> None:
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(QColor(look.tokens.canvas), 3))
    painter.drawRect(box)
    painter.setPen(QPen(colour, 1.6))
    painter.drawRect(box)


# -- lines -------------------------------------------------------------------------------------


def _paint_lines(
    painter: QPainter,
    look: Look,
    scene: HeadScene,
    layout: HeadLayout,
    spot: Spot,
    shown: QRectF,
) -> None:
    t, cell = look.tokens, layout.cell
    left, right = layout.gutter, layout.right
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    font = look.font(0.8)
    metrics = QFontMetricsF(font)
    painter.setFont(font)
    painter.setPen(QColor(t.muted))
    flags = int(Qt.AlignmentFlag.AlignVCenter)
    head = QRectF(0, 0, left - 6, layout.head)
    painter.drawText(head, flags | int(Qt.AlignmentFlag.AlignRight), "from")
    painter.drawText(QRectF(right + 6, 0, left, layout.head), flags, "to")
    query, key, share = scene.lines(spot)
    alone = spot.query is not None or spot.key is not None
    for q, k, s in zip(query.tolist(), key.tolist(), share.tolist(), strict=True):
        # Bands of opaque colours, blended beforehand: translucent pens are dear to paint.
        band = max(1, round(abs(s) * _BANDS)) / _BANDS
        full = (t.positive if s >= 0 else t.negative) if scene.signed else t.accent
        pen = QPen(QColor(mix(t.canvas, full, 0.25 + 0.75 * band)))
        pen.setWidthF(0.7 + _WIDEST * abs(s))
        pen.setCapStyle(Qt.PenCapStyle.FlatCap)
        if scene.signed and s < 0:
            pen.setStyle(Qt.PenStyle.DashLine)
        painter.setPen(pen)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        start = QPointF(left + 2, layout.head + (q + 0.5) * cell)
        end = QPointF(right - 2, layout.head + (k + 0.5) * cell)
        bend = (end.x() - start.x()) * 0.45
        path = QPainterPath(start)
        path.cubicTo(start + QPointF(bend, 0), end - QPointF(bend, 0), end)
        painter.drawPath(path)
    known = {(int(q), int(k)): float(s) for q, k, s in zip(query, key, share, strict=True) if alone}
    _paint_tokens(painter, look, scene, layout, spot, known, shown)
    if not len(query):
        painter.setPen(QColor(t.muted))
        box = QRectF(left, layout.head, right - left, metrics.height() * 2)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), "no line")


def _paint_tokens(
    painter: QPainter,
    look: Look,
    scene: HeadScene,
    layout: HeadLayout,
    spot: Spot,
    known: dict[tuple[int, int], float],
    shown: QRectF,
) -> None:
    t, cell, names = look.tokens, layout.cell, _names(scene)
    rows = _within(layout.head, cell, scene.length, shown.top(), shown.bottom())
    colours = scale_colours(t, scene.signed)
    for side in ("query", "key"):
        pointed = spot.query if side == "query" else spot.key
        for place in rows:
            x = 0.0 if side == "query" else layout.right
            width = layout.gutter if side == "query" else layout.width - layout.right
            box = QRectF(x, layout.head + place * cell, width, cell)
            ink = t.muted
            query, key = (place, spot.key) if side == "query" else (spot.query, place)
            share = None if query is None or key is None else known.get((query, key))
            if share is not None:
                step = (share + 1) / 2 if scene.signed else abs(share) ** 0.5
                ground = colours[min(STEPS - 1, max(0, round(step * (STEPS - 1))))]
                painter.fillRect(box.adjusted(1, 1, -1, -1), QColor(ground))
                ink = ink_on(ground)
            here = place == pointed
            font = look.font(0.86, bold=here)
            painter.setFont(font)
            painter.setPen(QColor(t.text if here and share is None else ink))
            if here:
                _frame(painter, look, box.adjusted(1.5, 1, -1.5, -1), QColor(t.text))
                painter.setPen(QColor(t.text if share is None else ink))
            text = QFontMetricsF(font).elidedText(
                names[place], Qt.TextElideMode.ElideMiddle, layout.gutter - 10
            )
            align = Qt.AlignmentFlag.AlignRight if side == "query" else Qt.AlignmentFlag.AlignLeft
            painter.drawText(
                box.adjusted(5, 0, -5, 0), int(align | Qt.AlignmentFlag.AlignVCenter), text
            )
            if share is not None and side == "key" and spot.query is not None:
                painter.drawText(
                    box.adjusted(5, 0, -5, 0),
                    int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter),
                    scene.value_text(spot.query, place),
                )


def _names(scene: HeadScene) -> list[str]:
    return [f"{place} {word}" for place, word in enumerate(scene.words)]
