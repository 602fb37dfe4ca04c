"""Which token of a second prompt stands for which of the first, in a table that can be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Union

from PySide6.QtCore import (
    QAbstractItemModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import named

if TYPE_CHECKING:
    from attention_studio.core.position_map import PositionMap

_AnyIndex = Union[QModelIndex, QPersistentModelIndex]
NOTHING = "(nothing)"


class PositionsModel(ColumnsModel):
    """One position of the first prompt per row; the last column can be changed.

    ``paired`` carries a position of the first and one of the second (-1: none).
    """

    HEADS = ("Position", "In the first", "", "In the second")
    TIPS = (
        "Position in the first prompt",
        "Token of the first prompt",
        "= where the tokens are the same, ≠ where one stands for another",
        "Token of the second prompt that plays its part; Enter or a double click changes it",
    )
    FIRST, SIGN, SECOND = 1, 2, 3

    paired = Signal(int, int)

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._first: tuple[str, ...] = ()
        self._second: tuple[str, ...] = ()
        self._places: tuple[int, ...] = ()

    def show(
        self,
        first: tuple[str, ...],
        second: tuple[str, ...],
        positions: Optional[PositionMap],
    ) -> None:
        """Show other prompts, or another alignment of them."""
        self.beginResetModel()
        self._first, self._second = first, second
        self._places = () if positions is None else positions.second
        self.endResetModel()

    def choices(self) -> list[tuple[int, str]]:
        """What a position of the first may stand for: none, or a position of the second."""
        tokens = (
            (place, f"{place}  {visible_token(token)}") for place, token in enumerate(self._second)
        )
        return [(-1, NOTHING), *tokens]

    @property
    def n_rows(self) -> int:
        """Positions of the first prompt."""
        return len(self._places)

    def flags(self, index: Index) -> Qt.ItemFlag:
        """The last column can be changed."""
        flags = super().flags(index)
        if index.column() == self.SECOND:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says."""
        if not index.isValid():
            return None
        row, column = index.row(), index.column()
        if role == Qt.ItemDataRole.EditRole:
            return self._places[row] if column == self.SECOND else None
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self.HEADS[column]} {self._cell(row, column)}"
        if role == Qt.ItemDataRole.TextAlignmentRole and column == self.SIGN:
            return int(Qt.AlignmentFlag.AlignCenter)
        return self._cell(row, column) if role == Qt.ItemDataRole.DisplayRole else None

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Let another position stand for that of a row."""
        if role != Qt.ItemDataRole.EditRole or index.column() != self.SECOND:
            return False
        if int(value) != self._places[index.row()]:
            self.paired.emit(index.row(), int(value))
        return True

    def _cell(self, row: int, column: int) -> str:
        place = self._places[row]
        if column == 0:
            return str(row)
        if column == self.FIRST:
            return visible_token(self._first[row])
        if column == self.SIGN:
            return "" if place < 0 else "=" if self._first[row] == self._second[place] else "≠"
        return NOTHING if place < 0 else f"{place}  {visible_token(self._second[place])}"


class _Choice(QStyledItemDelegate):
    """Edits a cell by a list of positions."""

    def createEditor(
        self, parent: QWidget, _option: QStyleOptionViewItem, index: _AnyIndex
    ) -> QWidget:
        """Make the list."""
        box = named(
            QComboBox(parent), "compare.position", "Position in the second prompt",
            "Which token of the second prompt plays the part of this one",
        )  # fmt: skip
        model = index.model()
        assert isinstance(model, PositionsModel)
        for place, text in model.choices():
            box.addItem(text, place)
        box.activated.connect(self._on_activated)
        return box

    @Slot(int)
    def _on_activated(self, _place: int) -> None:
        # Choosing is all that there is to do: nobody should have to press Enter besides.
        box = self.sender()
        if isinstance(box, QComboBox):
            self.commitData.emit(box)
            self.closeEditor.emit(box)

    def setEditorData(self, editor: QWidget, index: _AnyIndex) -> None:
        """Show what stands there now."""
        assert isinstance(editor, QComboBox)
        editor.setCurrentIndex(editor.findData(index.data(Qt.ItemDataRole.EditRole)))

    def setModelData(self, editor: QWidget, model: QAbstractItemModel, index: _AnyIndex) -> None:
        """Take what was chosen."""
        assert isinstance(editor, QComboBox)
        model.setData(index, editor.currentData())


class PositionsTable(QTableView):
    """The table, in which Enter opens the list of a position."""

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.positions = PositionsModel(self)
        named(
            self, "compare.positions", "Which tokens stand for each other",
            "Enter or a double click on the right changes what a token stands for",
        )  # fmt: skip
        self.setToolTip("")
        self.setModel(self.positions)
        self.setItemDelegateForColumn(PositionsModel.SECOND, _Choice(self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked
            | QAbstractItemView.EditTrigger.EditKeyPressed
            | QAbstractItemView.EditTrigger.SelectedClicked
        )
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for column in (PositionsModel.FIRST, PositionsModel.SECOND):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        self.activated.connect(self._on_activated)

    @Slot(QModelIndex)
    def _on_activated(self, index: QModelIndex) -> None:
        if index.isValid() and self.state() != QAbstractItemView.State.EditingState:
            self.edit(self.positions.index(index.row(), PositionsModel.SECOND))
