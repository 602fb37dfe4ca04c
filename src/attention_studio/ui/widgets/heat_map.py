"""A matrix of cells coloured by value, with names for rows and columns and a cursor.

Everything is painted by hand, the cells as one picture; nothing is an item of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import (
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QToolTip, QWidget

from attention_studio.ui.widgets.controls import plain_tip
from attention_studio.ui.widgets.heat_map_painter import (
    Cells,
    CellsLayout,
    cells_image,
    lay_out_cells,
    paint_column_names,
    paint_grid,
    paint_row_names,
)

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

_MOVES = {
    Qt.Key.Key_Left: (0, -1),
    Qt.Key.Key_Right: (0, 1),
    Qt.Key.Key_Up: (1, 0),
    Qt.Key.Key_Down: (-1, 0),
}


class HeatMap(QAbstractScrollArea):
    """The matrix. Arrow keys move the cursor, Enter or a click chooses its cell.

    ``chosen`` carries row and column of a cell, ``moved`` those of the cursor. ``describe`` is
    asked for what a cell's tooltip and a screen reader say.
    """

    chosen = Signal(int, int)
    moved = Signal(int, int)

    def __init__(
        self,
        theme: Theme,
        describe: Callable[[int, int], str],
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self._describe = describe
        self._cells: Optional[Cells] = None
        self._picture: Optional[QImage] = None
        self._cursor: Optional[tuple[int, int]] = None
        self._marked: frozenset[int] = frozenset()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setFrameShape(QAbstractScrollArea.Shape.NoFrame)
        self.viewport().setMouseTracking(True)
        theme.changed.connect(self._on_theme)

    # -- what is shown ------------------------------------------------------------------------

    def show_cells(self, cells: Optional[Cells]) -> None:
        """Show these cells, or nothing. The cursor stays where there still is a cell."""
        self._cells = cells
        if self._cursor is not None and not self._is_cell(*self._cursor):
            self._cursor = None
        self._relayout()

    @property
    def cells(self) -> Optional[Cells]:
        """What is shown."""
        return self._cells

    @property
    def marked(self) -> frozenset[int]:
        """The rows that are marked."""
        return self._marked

    @property
    def cursor_cell(self) -> Optional[tuple[int, int]]:
        """Row and column of the cursor."""
        return self._cursor

    def set_cursor_cell(self, cell: Optional[tuple[int, int]]) -> None:
        """Put the cursor on a cell, or nowhere."""
        if cell is not None and not self._is_cell(*cell):
            cell = None
        if cell != self._cursor:
            self._cursor = cell
            self._tell()
            self.viewport().update()

    def mark_rows(self, rows: Sequence[int]) -> None:
        """Mark rows with a bar at their names."""
        self._marked = frozenset(rows)
        self.viewport().update()

    def cell_point(self, row: int, column: int) -> QPointF:
        """The middle of a cell on the viewport."""
        cells, layout = self._cells, self._layout()
        if cells is None or layout is None:
            return QPointF()
        return layout.cell(cells, row, column).center()

    def sizeHint(self) -> QSize:
        """Room for a prompt of some tokens and a small model."""
        return QSize(420, 300)

    # -- geometry -----------------------------------------------------------------------------

    def _layout(self) -> Optional[CellsLayout]:
        """Where what is on the viewport; None where there is no cell."""
        cells = self._cells
        if cells is None or not cells.rows or not cells.columns:
            return None
        room = self.maximumViewportSize()
        layout = lay_out_cells(cells, self._theme, room.width(), room.height())
        return replace(
            layout,
            left=layout.left - self.horizontalScrollBar().value(),
            top=layout.top - self.verticalScrollBar().value(),
        )

    def _relayout(self) -> None:
        self._picture = None
        cells, layout = self._cells, self._layout()
        across, upright = self.horizontalScrollBar(), self.verticalScrollBar()
        if cells is None or layout is None:
            across.setRange(0, 0)
            upright.setRange(0, 0)
        else:
            room, box = self.maximumViewportSize(), layout.whole(cells)
            whole = layout.gutter + box.width() + 6, layout.head + box.height() + 6
            # A bar takes room from the other direction.
            bar = across.sizeHint().height()
            wide, high = whole[0] > room.width() + 1, whole[1] > room.height() + 1
            across.setRange(0, max(0, round(whole[0] - room.width() + (bar if high else 0))))
            upright.setRange(0, max(0, round(whole[1] - room.height() + (bar if wide else 0))))
            if not wide and not high:
                across.setRange(0, 0)
                upright.setRange(0, 0)
            across.setPageStep(room.width())
            upright.setPageStep(room.height())
        self.viewport().update()

    def _is_cell(self, row: int, column: int) -> bool:
        cells = self._cells
        if cells is None or not (0 <= row < len(cells.rows) and 0 <= column < len(cells.columns)):
            return False
        return bool(cells.there[row, column])

    def _cell_at(self, at: QPointF) -> Optional[tuple[int, int]]:
        cells, layout = self._cells, self._layout()
        if cells is None or layout is None or at.x() < layout.gutter or at.y() < layout.head:
            return None
        column = int((at.x() - layout.left) // layout.width)
        row = len(cells.rows) - 1 - int((at.y() - layout.top) // layout.height)
        return (row, column) if self._is_cell(row, column) else None

    # -- painting -----------------------------------------------------------------------------

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Cells, names, cursor."""
        theme = self._theme
        painter = QPainter(self.viewport())
        painter.fillRect(self.viewport().rect(), theme.colour("canvas"))
        cells, layout = self._cells, self._layout()
        if cells is None or layout is None:
            painter.end()
            return
        if self._picture is None:
            self._picture = cells_image(cells, theme)
        gutter, head = layout.gutter, layout.head
        painter.setClipRect(QRectF(gutter, head, self.width(), self.height()))
        painter.drawImage(layout.whole(cells), self._picture)
        paint_grid(painter, theme, cells, layout)
        self._paint_cursor(painter, cells, layout)
        painter.setClipRect(QRectF(0, head, gutter, self.height()))
        paint_row_names(painter, theme, cells, layout, self._marked)
        painter.setClipRect(QRectF(gutter, 0, self.width(), head))
        paint_column_names(painter, theme, cells, layout)
        painter.end()

    def _paint_cursor(self, painter: QPainter, cells: Cells, layout: CellsLayout) -> None:
        if self._cursor is None:
            return
        box = layout.cell(cells, *self._cursor)
        painter.setPen(QPen(self._theme.colour("canvas"), 3))
        painter.drawRect(box.adjusted(0.5, 0.5, -0.5, -0.5))
        painter.setPen(QPen(self._theme.colour("text"), 1.6))
        painter.drawRect(box.adjusted(0.5, 0.5, -0.5, -0.5))

    # -- hands --------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose the cell under the pointer."""
        cell = self._cell_at(event.position())
        if cell is not None and event.button() == Qt.MouseButton.LeftButton:
            self.set_cursor_cell(cell)
            self.chosen.emit(*cell)

    def viewportEvent(self, event: QEvent) -> bool:
        """Say what a cell is, beside the pointer."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            cell = self._cell_at(QPointF(event.pos()))
            told = "" if cell is None else plain_tip(self._describe(*cell))
            QToolTip.showText(event.globalPos(), told, self.viewport())
            return True
        return super().viewportEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move the cursor, or choose its cell."""
        cells = self._cells
        move = _MOVES.get(Qt.Key(event.key()))
        if cells is None or not cells.there.any():
            super().keyPressEvent(event)
        elif move is not None:
            self._step(cells, *move)
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            if self._cursor is not None:
                self.chosen.emit(*self._cursor)
        else:
            super().keyPressEvent(event)

    def _step(self, cells: Cells, up: int, right: int) -> None:
        if self._cursor is None:
            self.set_cursor_cell(divmod(int(cells.values.argmax()), len(cells.columns)))
        else:
            row, column = self._cursor[0] + up, self._cursor[1] + right
            while 0 <= row < len(cells.rows) and 0 <= column < len(cells.columns):
                if cells.there[row, column]:
                    self.set_cursor_cell((row, column))
                    break
                row, column = row + up, column + right
        self._reveal()

    def _reveal(self) -> None:
        layout = self._layout()
        if self._cursor is None or layout is None:
            return
        at = self.cell_point(*self._cursor)
        gutter, head, width, height = layout.gutter, layout.head, layout.width, layout.height
        view = self.viewport().size()
        across, upright = self.horizontalScrollBar(), self.verticalScrollBar()
        if at.x() - width / 2 < gutter:
            across.setValue(round(across.value() + at.x() - width / 2 - gutter))
        elif at.x() + width / 2 > view.width():
            across.setValue(round(across.value() + at.x() + width / 2 - view.width()))
        if at.y() - height / 2 < head:
            upright.setValue(round(upright.value() + at.y() - height / 2 - head))
        elif at.y() + height / 2 > view.height():
            upright.setValue(round(upright.value() + at.y() + height / 2 - view.height()))

    def _tell(self) -> None:
        if self._cursor is not None:
            self.setAccessibleDescription(self._describe(*self._cursor))
            self.moved.emit(*self._cursor)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit anew."""
        super().resizeEvent(event)
        self._relayout()

    def scrollContentsBy(self, _dx: int, _dy: int) -> None:
        """Names stay, cells move: everything is painted anew."""
        self.viewport().update()

    @Slot()
    def _on_theme(self) -> None:
        self._relayout()
