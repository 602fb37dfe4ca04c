"""The lens as a table: depths as rows, the end on top; tokens as columns; cells can be dragged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QPoint,
    QPointF,
    QRectF,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtGui import (
    QColor,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from attention_studio.core.lens_records import Cell, LensTable, PatchOutcome, depth_name
from attention_studio.ui.head_scene import STEPS, scale_colours
from attention_studio.ui.lens_measures import MEASURES, cell_sentence
from attention_studio.ui.text import visible_token
from attention_studio.ui.tokens import ink_on
from attention_studio.ui.widgets.columns_model import ROOT, Index
from attention_studio.ui.widgets.controls import named, plain_tip

if TYPE_CHECKING:
    from attention_studio.ui.figures.look import Look
    from attention_studio.ui.theme import Theme

SHARE_ROLE = int(Qt.ItemDataRole.UserRole) + 1
MARK_ROLE = int(Qt.ItemDataRole.UserRole) + 2
AGREES_ROLE = int(Qt.ItemDataRole.UserRole) + 3
TAKEN, PATCHED, DROP = "taken", "patched", "drop"
"""How cells can be marked."""


class LensModel(QAbstractTableModel):
    """A ``LensTable`` for views. Row 0 is the end; the bottom row the embedding."""

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._table: Optional[LensTable] = None
        self._shares: Optional[np.ndarray[Any, np.dtype[np.float32]]] = None
        self._marks: dict[Cell, str] = {}

    @property
    def table(self) -> Optional[LensTable]:
        """What is shown."""
        return self._table

    def show(self, table: Optional[LensTable], outcome: Optional[PatchOutcome], name: str) -> None:
        """Show a table, coloured by a measure."""
        reset = (
            table is None
            or self._table is None
            or table.top_ids.shape[:2] != self._table.top_ids.shape[:2]
        )
        if reset:
            self.beginResetModel()
        self._table = table
        self._shares = None if table is None else MEASURES[name].shares(table, outcome)
        if reset:
            self.endResetModel()
        else:
            self._all_changed()
            self.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, self.columnCount() - 1)

    def mark(self, marks: dict[Cell, str]) -> None:
        """Mark cells as taken, patched or about to be dropped on."""
        if marks != self._marks:
            self._marks = marks
            self._all_changed()

    def _all_changed(self) -> None:
        if self.rowCount() and self.columnCount():
            last = self.index(self.rowCount() - 1, self.columnCount() - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def cell(self, index: Index) -> Optional[Cell]:
        """The cell at an index."""
        if self._table is None or not index.isValid():
            return None
        return Cell(self._table.n_depths - 1 - index.row(), index.column())

    def index_of(self, cell: Cell) -> QModelIndex:
        """The index of a cell; an invalid one where there is none."""
        if self._table is None or not self._table.has(cell):
            return QModelIndex()
        return self.index(self._table.n_depths - 1 - cell.depth, cell.position)

    def rowCount(self, parent: Index = ROOT) -> int:
        """Depths."""
        return 0 if parent.isValid() or self._table is None else self._table.n_depths

    def columnCount(self, parent: Index = ROOT) -> int:
        """Tokens."""
        return 0 if parent.isValid() or self._table is None else self._table.n_tokens

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """The word that a cell finds likeliest, and how to draw it."""
        cell, table, shares = self.cell(index), self._table, self._shares
        if cell is None or table is None or shares is None:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return visible_token(table.top_word(cell), spaces=False)
        if role == SHARE_ROLE:
            return float(shares[cell])
        if role == MARK_ROLE:
            return self._marks.get(cell)
        if role == AGREES_ROLE:
            return int(table.end_rank[cell]) == 0
        if role == Qt.ItemDataRole.ToolTipRole:
            return plain_tip(cell_sentence(table, cell))
        if role == Qt.ItemDataRole.AccessibleTextRole:
            mark = self._marks.get(cell)
            return cell_sentence(table, cell) + (f"; {mark}" if mark else "")
        return None

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Tokens above, depths at the left."""
        if self._table is None:
            return None
        if orientation == Qt.Orientation.Vertical:
            depth = self._table.n_depths - 1 - section
            if role == Qt.ItemDataRole.DisplayRole:
                return depth_name(depth)
            if role == Qt.ItemDataRole.ToolTipRole:
                return "What the model reads its prediction from" if section == 0 else None
            return None
        token = visible_token(self._table.tokens[section], spaces=False)
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{section} {token}"
        return plain_tip(f"Position {section}") if role == Qt.ItemDataRole.ToolTipRole else None


def paint_lens_cell(
    painter: QPainter,
    look: Look,
    box: QRectF,
    text: str,
    share: float,
    agrees: bool,
    mark: Optional[str] = None,
    current: bool = False,
) -> None:
    """Paint one cell: ground and bar by a share in [0, 1], its word bold where it is the end's."""
    t = look.tokens
    ground = scale_colours(t, False)[round(share**0.5 * 0.8 * (STEPS - 1))]
    ink = QColor(ink_on(ground))
    painter.fillRect(box, QColor(ground))
    painter.fillRect(QRectF(box.left() + 3, box.bottom() - 3, (box.width() - 6) * share, 2), ink)
    font = look.font(0.88, bold=agrees)
    painter.setFont(font)
    painter.setPen(ink)
    inner = box.adjusted(6, 0, -6 if mark is None else -14, -2)
    shown = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, int(inner.width()))
    painter.drawText(inner, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), shown)
    painter.setPen(QPen(QColor(t.canvas), 1))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.drawRect(box.adjusted(-0.5, -0.5, -0.5, -0.5))
    if mark == PATCHED:
        middle = QPointF(box.right() - 8, box.center().y() - 1)
        diamond = [QPointF(0, -4.5), QPointF(4.5, 0), QPointF(0, 4.5), QPointF(-4.5, 0)]
        painter.setBrush(QColor(t.negative))
        painter.setPen(QPen(QColor(t.canvas), 1))
        painter.drawPolygon(QPolygonF([middle + corner for corner in diamond]))
        painter.setBrush(Qt.BrushStyle.NoBrush)
    for wanted, colour, style in (
        (current, t.text, Qt.PenStyle.SolidLine),
        (mark == TAKEN, t.negative, Qt.PenStyle.DashLine),
        (mark == DROP, t.negative, Qt.PenStyle.SolidLine),
    ):
        if wanted:
            painter.setPen(QPen(QColor(t.canvas), 4))
            painter.drawRect(box.adjusted(1.5, 1.5, -2.5, -2.5))
            painter.setPen(QPen(QColor(colour), 2, style))
            painter.drawRect(box.adjusted(1.5, 1.5, -2.5, -2.5))


class _CellDelegate(QStyledItemDelegate):
    """Paints cells with ``paint_lens_cell``."""

    def __init__(self, theme: Theme, view: QTableView) -> None:
        super().__init__(view)
        self._theme = theme
        self._view = view

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: Union[QModelIndex, QPersistentModelIndex],
    ) -> None:
        """Paint one cell."""
        share = index.data(SHARE_ROLE)
        if share is None:
            return
        painter.save()
        paint_lens_cell(
            painter, self._theme, QRectF(option.rect), str(index.data()), float(share),
            bool(index.data(AGREES_ROLE)), index.data(MARK_ROLE),
            index == self._view.currentIndex(),
        )  # fmt: skip
        painter.restore()


class LensGrid(QTableView):
    """The table.

    A cell can be dragged: ``dragged`` carries the cell and the point on the screen while the
    pointer moves (and None, None when it is given up), ``dropped`` where it is let go. Space says
    ``taken``, Enter ``put``, Delete ``removed``, each with the current cell; ``moved`` says that
    another cell is the current one.
    """

    dragged = Signal(object, object)
    dropped = Signal(object, object)
    taken = Signal(object)
    put = Signal(object)
    removed = Signal(object)
    moved = Signal()

    def __init__(
        self, theme: Theme, name: str, accessible: str, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self.lens = LensModel(self)
        self.setModel(self.lens)
        named(self, name, accessible,
              "What each depth would predict; drag a cell onto another one to patch, or take one "
              "with Space and put it with Enter")  # fmt: skip
        self.setToolTip("")
        self.setItemDelegate(_CellDelegate(theme, self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setWordWrap(False)
        self.setCornerButtonEnabled(False)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        for header in (self.horizontalHeader(), self.verticalHeader()):
            header.setHighlightSections(False)
            header.setSectionsClickable(False)
            header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.horizontalHeader().setDefaultAlignment(
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        )
        self._pressed: Optional[tuple[Cell, QPoint]] = None
        self._drag: Optional[tuple[Cell, QPoint]] = None
        theme.changed.connect(self.size_cells)
        self.size_cells()

    # -- what is shown ------------------------------------------------------------------------

    @property
    def cell(self) -> Optional[Cell]:
        """The current cell."""
        return self.lens.cell(self.currentIndex())

    def go_to(self, cell: Cell) -> None:
        """Make a cell the current one and bring it into view."""
        self.setCurrentIndex(self.lens.index_of(cell))

    def cell_at(self, point: QPoint) -> Optional[Cell]:
        """The cell at a point of the viewport."""
        if not self.viewport().rect().contains(point):
            return None
        return self.lens.cell(self.indexAt(point))

    def cell_on_screen(self, point: QPoint) -> Optional[Cell]:
        """The cell at a point of the screen."""
        if not self.isVisible():
            return None
        return self.cell_at(self.viewport().mapFromGlobal(point))

    @Slot()
    def size_cells(self) -> None:
        """Make cells fit the text."""
        metrics = self.fontMetrics()
        self.horizontalHeader().setDefaultSectionSize(metrics.horizontalAdvance("containing") + 24)
        self.verticalHeader().setDefaultSectionSize(metrics.height() + 10)
        self.viewport().update()

    # -- hands --------------------------------------------------------------------------------

    def currentChanged(self, current: Index, previous: Index) -> None:
        """Say that another cell is the current one."""
        super().currentChanged(current, previous)
        self.viewport().update()
        self.moved.emit()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Make the cell the current one; a drag may begin."""
        super().mousePressEvent(event)
        cell = self.cell_at(event.position().toPoint())
        if event.button() == Qt.MouseButton.LeftButton and cell is not None:
            self._pressed = (cell, event.position().toPoint())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag the pressed cell."""
        point = event.position().toPoint()
        if self._pressed is None:
            super().mouseMoveEvent(event)
            return
        cell, start = self._pressed
        far = (point - start).manhattanLength() >= QApplication.startDragDistance()
        if self._drag is None and far:
            self.viewport().setCursor(Qt.CursorShape.ClosedHandCursor)
        if self._drag is not None or far:
            self._drag = (cell, point)
            self.dragged.emit(cell, event.globalPosition().toPoint())
            self.viewport().update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Drop what was dragged."""
        super().mouseReleaseEvent(event)
        drag = self._drag
        self._end_drag()
        if drag is not None and event.button() == Qt.MouseButton.LeftButton:
            self.dropped.emit(drag[0], event.globalPosition().toPoint())

    def _end_drag(self) -> None:
        if self._drag is not None:
            self.dragged.emit(None, None)
            self.viewport().unsetCursor()
        self._pressed = self._drag = None
        self.viewport().update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Take, put and remove; Escape gives up a drag."""
        key, cell = event.key(), self.cell
        if key == Qt.Key.Key_Escape and self._drag is not None:
            self._end_drag()
        elif cell is not None and key == Qt.Key.Key_Space:
            self.taken.emit(cell)
        elif cell is not None and key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.put.emit(cell)
        elif cell is not None and key in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.removed.emit(cell)
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The cells, and an arrow from the dragged one to the pointer."""
        super().paintEvent(event)
        if self._drag is None:
            return
        cell, point = self._drag
        start = QPointF(self.visualRect(self.lens.index_of(cell)).center())
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for colour, width in ((self._theme.colour("canvas"), 5.0),
                              (self._theme.colour("negative"), 2.0)):  # fmt: skip
            painter.setPen(QPen(colour, width, Qt.PenStyle.DashLine))
            painter.drawLine(start, QPointF(point))
        painter.setBrush(self._theme.colour("negative"))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawEllipse(QPointF(point), 4.0, 4.0)
        painter.end()
