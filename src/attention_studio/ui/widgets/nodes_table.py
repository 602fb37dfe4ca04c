"""The table of nodes, with its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QModelIndex, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from attention_studio.ui.widgets.bar_delegate import BarDelegate
from attention_studio.ui.widgets.controls import named
from attention_studio.ui.widgets.nodes_model import Column, NodesModel

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme


class NodesTable(QTableView):
    """Rows that can be chosen together.

    ``emptied`` carries the ``Column`` that Delete was pressed in, ``pin_toggled`` says that Space
    was, ``copied`` Ctrl+C, and ``gone_to`` carries the name of a node that a double click or Enter
    asks to see.
    """

    emptied = Signal(object)
    pin_toggled = Signal()
    copied = Signal()
    gone_to = Signal(str)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        named(
            self, "nodes.table", "Nodes that fit",
            "Rows can be chosen together; Space pins, Enter edits a label or remark and shows the "
            "node elsewhere, Delete empties or unpins, Ctrl+C copies",
        )  # fmt: skip
        self.setToolTip("")
        self._theme = theme
        self.nodes = NodesModel(self)
        self.setModel(self.nodes)
        self.setItemDelegateForColumn(Column.INFLUENCE, BarDelegate(theme, self))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.EditKeyPressed
            | QAbstractItemView.EditTrigger.DoubleClicked
        )
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        # In a low dock with large text the rows give way, rather than what stands above them.
        self.setMinimumHeight(40)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerItem)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setHighlightSections(False)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        for column in (Column.NODE, Column.LABEL, Column.REMARK):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        self.setSortingEnabled(True)
        self.doubleClicked.connect(self._on_double)
        theme.changed.connect(self._on_theme)
        self._on_theme()

    def chosen_rows(self) -> list[int]:
        """The selected rows, in order."""
        rows: set[int] = set()
        selection = self.selectionModel().selection()
        for place in range(selection.count()):
            stretch = selection.at(place)
            rows.update(range(stretch.top(), stretch.bottom() + 1))
        return sorted(rows)

    @Slot()
    def _on_theme(self) -> None:
        self.nodes.pin_icon = self._theme.icon("pin", "accent")
        self.nodes.strong_font = self._theme.font(bold=True)
        metrics = self.fontMetrics()
        for column, sample in (
            (Column.TOKEN, "00  containing,"),
            (Column.ACTIVATION, "Activation,"),
            (Column.INFLUENCE, "Influence 00"),
            (Column.DENSITY, "Density 0,"),
        ):
            self.setColumnWidth(column, metrics.horizontalAdvance(sample) + 12)
        self.verticalHeader().setDefaultSectionSize(metrics.height() + 9)
        self.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as many columns as can be read."""
        super().resizeEvent(event)
        self.leave_out_columns()

    def leave_out_columns(self) -> None:
        """Leave out what has no room beside the names, and densities that nobody measured."""
        letters = self.viewport().width() / self.fontMetrics().averageCharWidth()
        for column, least in (
            (Column.DENSITY, 70),
            (Column.ACTIVATION, 60),
            (Column.REMARK, 84),
            (Column.LABEL, 48),
        ):
            self.setColumnHidden(column, letters < least)
        view = self.nodes.view
        if view is None or view.density is None:
            self.setColumnHidden(Column.DENSITY, True)

    @Slot(QModelIndex)
    def _on_double(self, index: QModelIndex) -> None:
        if index.isValid() and not self.nodes.flags(index) & Qt.ItemFlag.ItemIsEditable:
            self.gone_to.emit(self.nodes.name(index.row()))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Edit, empty, pin, copy."""
        index, key = self.currentIndex(), event.key()
        if self.state() == QAbstractItemView.State.EditingState or not index.isValid():
            super().keyPressEvent(event)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if self.nodes.flags(index) & Qt.ItemFlag.ItemIsEditable:
                self.edit(index)
            else:
                self.gone_to.emit(self.nodes.name(index.row()))
        elif key in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.emptied.emit(Column(index.column()))
        elif key == Qt.Key.Key_Space and not event.modifiers():
            self.pin_toggled.emit()
        elif event.matches(QKeySequence.StandardKey.Copy):
            self.copied.emit()
        else:
            super().keyPressEvent(event)
