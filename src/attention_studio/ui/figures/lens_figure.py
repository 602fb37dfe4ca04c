"""The logit lens as a figure: the whole table, however it is scrolled on the screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF

from attention_studio.core.lens_records import Cell, LensTable, depth_name
from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.lens_table import PATCHED, paint_lens_cell

if TYPE_CHECKING:
    from PySide6.QtGui import QPainter

    from attention_studio.ui.figures.look import Look

_LEAST_COLUMN = 52.0
"""Columns are not made narrower than this; the table is made smaller instead."""


@dataclass(frozen=True)
class LensFigure(Figure):
    """A lens table.

    Attributes:
        table: what is shown; shares: [R, T] in [0, 1], how strong the colours are.
        patched: the cells with a mark.
    """

    table: LensTable
    shares: NDArray[np.float32]
    patched: frozenset[Cell]

    def _sizes(self, look: Look, width: float) -> tuple[float, float, float, float]:
        """Width of the names of rows, of a column, height of a row, and the zoom."""
        metrics = QFontMetricsF(look.font(0.82))
        names = (depth_name(depth) for depth in range(self.table.n_depths))
        gutter = max(metrics.horizontalAdvance(name) for name in names) + 10.0
        column = max(_LEAST_COLUMN, (width - gutter) / self.table.n_tokens)
        whole = gutter + column * self.table.n_tokens
        return gutter, column, metrics.height() + 8.0, min(1.0, width / whole)

    def height(self, look: Look, width: float) -> float:
        """All depths and the tokens."""
        _, _, pitch, zoom = self._sizes(look, width)
        return (self.table.n_depths + 1) * pitch * zoom

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Paint tokens, depths and cells."""
        table, t = self.table, look.tokens
        gutter, column, pitch, zoom = self._sizes(look, width)
        painter.scale(zoom, zoom)
        middle = Qt.AlignmentFlag.AlignVCenter
        for position, token in enumerate(table.tokens):
            painter.setFont(look.font(0.82))
            painter.setPen(QColor(t.muted))
            box = QRectF(gutter + position * column + 4, 0, column - 6, pitch)
            word = f"{position} {visible_token(token, spaces=False)}"
            painter.drawText(
                box,
                int(middle),
                QFontMetricsF(painter.font()).elidedText(
                    word, Qt.TextElideMode.ElideRight, box.width()
                ),
            )
        for depth in range(table.n_depths):
            y = (table.n_depths - depth) * pitch
            painter.setFont(look.font(0.82))
            painter.setPen(QColor(t.muted))
            painter.drawText(
                QRectF(0, y, gutter - 6, pitch),
                int(middle | Qt.AlignmentFlag.AlignRight),
                depth_name(depth),
            )
            for position in range(table.n_tokens):
                cell = Cell(depth, position)
                paint_lens_cell(
                    painter, look, QRectF(gutter + position * column, y, column, pitch),
                    visible_token(table.top_word(cell), spaces=False), float(self.shares[cell]),
                    int(table.end_rank[cell]) == 0, PATCHED if cell in self.patched else None,
                )  # fmt: skip
