"""How a matrix of cells is painted, on the screen and on paper: colours, grid, names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QImage, QPen

from attention_studio.ui.text import visible_token

if TYPE_CHECKING:
    from collections.abc import Collection

    from PySide6.QtGui import QPainter

    from attention_studio.ui.figures.look import Look

Floats = NDArray[np.float64]

_LEAST_CELL = 13.0
_MOST_WIDTH, _MOST_HEIGHT = 72.0, 46.0
_MOST_HEAD = 96.0
_STEPS = 64
_TEXT = 0.82


@dataclass(frozen=True, eq=False)
class Cells:
    """What is shown.

    Attributes:
        rows: names of the rows, the lowest first.
        columns: names of the columns.
        values: [rows, columns], not negative; the largest gets the full colour.
        there: [rows, columns] which cells there are; the others stay empty.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Floats
    there: NDArray[np.bool_]

    @property
    def names(self) -> list[str]:
        """The names of the columns as they are written."""
        return [visible_token(name, spaces=False) for name in self.columns]


@dataclass(frozen=True)
class CellsLayout:
    """Where what is.

    Attributes:
        gutter: width of the names of rows; ``head``: height of the names of columns.
        width, height: of a cell.
        left, top: corner of the cells, beyond gutter and head unless they are scrolled.
    """

    gutter: float
    head: float
    width: float
    height: float
    left: float
    top: float

    def cell(self, cells: Cells, row: int, column: int) -> QRectF:
        """The box of a cell."""
        upright = len(cells.rows) - 1 - row
        return QRectF(
            self.left + column * self.width, self.top + upright * self.height,
            self.width, self.height,
        )  # fmt: skip

    def whole(self, cells: Cells) -> QRectF:
        """The box of all cells."""
        wide, high = self.width * len(cells.columns), self.height * len(cells.rows)
        return QRectF(self.left, self.top, wide, high)


def lay_out_cells(cells: Cells, look: Look, width: float, height: float) -> CellsLayout:
    """Fit the cells into ``width`` by ``height``, as far as they stay large enough to be seen."""
    metrics = QFontMetricsF(look.font(_TEXT))
    wide = max((metrics.horizontalAdvance(name) for name in cells.rows), default=0.0)
    high = max((metrics.horizontalAdvance(name) for name in cells.names), default=0.0)
    gutter, head = wide + 14.0, min(_MOST_HEAD, high) + 10.0
    least = max(_LEAST_CELL, metrics.height() + 1)
    across = (width - gutter - 6) / max(1, len(cells.columns))
    upright = (height - head - 6) / max(1, len(cells.rows))
    return CellsLayout(
        gutter, head,
        min(_MOST_WIDTH, max(least, across)), min(_MOST_HEIGHT, max(least, upright)),
        gutter, head,
    )  # fmt: skip


def cells_image(cells: Cells, look: Look) -> QImage:
    """The cells as a picture of one dot each, the lowest row at the bottom."""
    canvas, full = _rgb(look.tokens.canvas), _rgb(look.tokens.accent)
    ramp = np.linspace(0.06, 1.0, _STEPS)[:, None]
    colours = (canvas + (full - canvas) * ramp).astype(np.uint8)
    most = float(cells.values[cells.there].max(initial=0.0))
    step = np.zeros(cells.values.shape, dtype=np.int64)
    if most > 0:
        step = np.clip(cells.values / most * (_STEPS - 1), 0, _STEPS - 1).astype(np.int64)
    rgb = colours[step]
    rgb[~cells.there] = _rgb(look.tokens.sunken)
    # The lowest row is painted last.
    upright = np.ascontiguousarray(rgb[::-1])
    n_rows, n_columns = cells.values.shape
    image = QImage(upright.tobytes(), n_columns, n_rows, 3 * n_columns, QImage.Format.Format_RGB888)
    return image.copy()


def fill_cells(painter: QPainter, cells: Cells, layout: CellsLayout, image: QImage) -> None:
    """Fill the cells one by one with the dots of their picture: whatever shows a document may blur
    a picture that it enlarges."""
    n_rows = len(cells.rows)
    for row in range(n_rows):
        for column in range(len(cells.columns)):
            colour = image.pixelColor(column, n_rows - 1 - row)
            painter.fillRect(layout.cell(cells, row, column), colour)


def paint_grid(painter: QPainter, look: Look, cells: Cells, layout: CellsLayout) -> None:
    """Paint lines between the cells."""
    whole = layout.whole(cells)
    painter.setPen(QPen(QColor(look.tokens.canvas), 1))
    for column in range(len(cells.columns) + 1):
        x = whole.left() + column * layout.width
        painter.drawLine(QPointF(x, whole.top()), QPointF(x, whole.bottom()))
    for row in range(len(cells.rows) + 1):
        y = whole.top() + row * layout.height
        painter.drawLine(QPointF(whole.left(), y), QPointF(whole.right(), y))


def paint_row_names(
    painter: QPainter, look: Look, cells: Cells, layout: CellsLayout, marked: Collection[int]
) -> None:
    """Paint the names of rows left of the cells; ``marked`` ones get a bar."""
    painter.setFont(look.font(_TEXT))
    painter.setPen(QColor(look.tokens.muted))
    middle = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    for row, name in enumerate(cells.rows):
        y = layout.cell(cells, row, 0).top()
        if row in marked:
            bar = QRectF(layout.gutter - 5, y + 1, 3, layout.height - 2)
            painter.fillRect(bar, QColor(look.tokens.warning))
        painter.drawText(QRectF(0, y, layout.gutter - 8, layout.height), middle, name)


def paint_column_names(painter: QPainter, look: Look, cells: Cells, layout: CellsLayout) -> None:
    """Paint the names of columns above the cells, from the bottom up."""
    font = look.font(_TEXT)
    metrics = QFontMetricsF(font)
    painter.setFont(font)
    painter.setPen(QColor(look.tokens.muted))
    for column, name in enumerate(cells.names):
        painter.save()
        painter.translate(layout.left + (column + 0.5) * layout.width, layout.head - 6)
        painter.rotate(-90)
        shown = metrics.elidedText(name, Qt.TextElideMode.ElideRight, layout.head - 8)
        painter.drawText(QPointF(0, metrics.ascent() / 2 - 1), shown)
        painter.restore()


def _rgb(colour: str) -> Floats:
    """Red, green and blue, 0 to 255."""
    found = QColor(colour)
    return np.array([found.red(), found.green(), found.blue()], dtype=np.float64)
