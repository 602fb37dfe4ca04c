"""A table as a figure: heads, rows of text, thin lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen
from PySide6.QtWidgets import QTableView

from attention_studio.ui.figures.figure import Figure

if TYPE_CHECKING:
    from PySide6.QtGui import QFont

    from attention_studio.ui.figures.look import Look

MAX_ROWS = 60
"""More fit no page; what is left out is said."""
_GAP = 14.0


@dataclass(frozen=True)
class TableFigure(Figure):
    """A table.

    Attributes:
        heads: names of the columns.
        rows: the text of every cell, at most ``MAX_ROWS`` of them are painted.
        right: of every column, whether it stands at the right, as numbers do.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[bool, ...]
    n_rows: int
    """How many rows the table has in all."""

    def height(self, look: Look, width: float) -> float:
        """Head, rows, and a line for what is left out."""
        left_out = 1 if self.n_rows > len(self.rows[:MAX_ROWS]) else 0
        return self._pitch(look) * (1 + len(self.rows[:MAX_ROWS]) + left_out) + 4.0

    @staticmethod
    def _pitch(look: Look) -> float:
        return QFontMetricsF(look.font(0.92)).height() * 1.35

    def _widths(self, look: Look, width: float) -> list[float]:
        """Widths of the columns: as the text asks for, the widest give way where that is much."""
        plain, bold = QFontMetricsF(look.font(0.92)), QFontMetricsF(look.font(0.92, bold=True))
        wanted = [
            max(
                bold.horizontalAdvance(head),
                *(plain.horizontalAdvance(row[place]) for row in self.rows[:MAX_ROWS]),
                0.0,
            )
            for place, head in enumerate(self.heads)
        ]
        room = width - _GAP * (len(wanted) - 1)
        if sum(wanted) <= room:
            # The rest goes to the columns of text, so that the table is as wide as the page.
            texts = [place for place, right in enumerate(self.right) if not right] or [0]
            for place in texts:
                wanted[place] += (room - sum(wanted)) / len(texts)
            return wanted
        low, high = 0.0, max(wanted)
        for _ in range(40):
            limit = (low + high) / 2.0
            if sum(min(one, limit) for one in wanted) <= room:
                low = limit
            else:
                high = limit
        return [min(one, low) for one in wanted]

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Paint heads, rows and lines."""
        t, pitch, widths = look.tokens, self._pitch(look), self._widths(look, width)
        plain, bold = look.font(0.92), look.font(0.92, bold=True)
        painter.setPen(QPen(QColor(t.text), 1.2))
        painter.drawLine(QPointF(0, 0.6), QPointF(width, 0.6))
        self._row(painter, self.heads, widths, 0.0, pitch, bold, t.text)
        painter.setPen(QPen(QColor(t.text), 0.7))
        painter.drawLine(QPointF(0, pitch), QPointF(width, pitch))
        y = pitch
        for row in self.rows[:MAX_ROWS]:
            self._row(painter, row, widths, y, pitch, plain, t.text)
            y += pitch
        left_out = self.n_rows - len(self.rows[:MAX_ROWS])
        if left_out > 0:
            painter.setFont(plain)
            painter.setPen(QColor(t.muted))
            painter.drawText(
                QRectF(0, y, width, pitch), Qt.AlignmentFlag.AlignVCenter,
                f"and {left_out:,} more rows",
            )  # fmt: skip
            y += pitch
        painter.setPen(QPen(QColor(t.text), 1.2))
        painter.drawLine(QPointF(0, y + 0.6), QPointF(width, y + 0.6))

    def _row(
        self, painter: QPainter, cells: tuple[str, ...], widths: list[float], y: float,
        pitch: float, font: QFont, colour: str,
    ) -> None:  # fmt: skip
        painter.setFont(font)
        painter.setPen(QColor(colour))
        metrics = QFontMetricsF(font)
        x = 0.0
        for cell, width, right in zip(cells, widths, self.right, strict=True):
            side = Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft
            shown = metrics.elidedText(cell, Qt.TextElideMode.ElideRight, width + 1.0)
            painter.drawText(
                QRectF(x, y, width + 1.0, pitch), side | Qt.AlignmentFlag.AlignVCenter, shown
            )
            x += width + _GAP


def of_view(view: QTableView, name: str, title: str, caption: str = "") -> TableFigure:
    """Take down what a table shows, in its order, without hidden columns. On the main thread."""
    model: Any = view.model()
    header = view.horizontalHeader()
    shown = [
        place
        for place in (header.logicalIndex(at) for at in range(model.columnCount()))
        if not view.isColumnHidden(place)
    ]
    across = Qt.Orientation.Horizontal
    rows = min(MAX_ROWS, model.rowCount())
    right = int(Qt.AlignmentFlag.AlignRight)
    return TableFigure(
        name,
        title,
        caption,
        tuple(str(model.headerData(place, across) or "") for place in shown),
        tuple(
            tuple(_plain(model.index(row, place).data()) for place in shown) for row in range(rows)
        ),
        tuple(
            bool(
                int(model.headerData(place, across, Qt.ItemDataRole.TextAlignmentRole) or 0) & right
            )
            for place in shown
        ),
        model.rowCount(),
    )


def _plain(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
