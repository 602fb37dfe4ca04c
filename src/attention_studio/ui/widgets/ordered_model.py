"""Tables over records that are sorted by numpy: quick with many thousand rows."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt

from attention_studio.ui.widgets.columns_model import ColumnsModel, Index


class OrderedModel(ColumnsModel):
    """A table whose rows are records in an order that the heads choose.

    A subclass answers ``n_records``, ``keys`` and ``cell``, and calls ``reload`` when its records
    change.
    """

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._order: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._sorting: Optional[tuple[int, bool]] = None

    @property
    @abstractmethod
    def n_records(self) -> int:
        """How many records there are."""

    @abstractmethod
    def keys(self, column: int) -> NDArray[Any]:
        """[n_records] by what a column sorts."""

    @abstractmethod
    def cell(self, record: int, column: int, role: int) -> Any:
        """What a record shows in a column."""

    def reload(self) -> None:
        """The records are others now."""
        self.beginResetModel()
        self._arrange()
        self.endResetModel()

    def record_at(self, row: int) -> int:
        """The record that a row shows."""
        return int(self._order[row])

    def row_of(self, record: int) -> int:
        """The row that shows a record."""
        return int(np.flatnonzero(self._order == record)[0])

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self._order)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says."""
        if not index.isValid():
            return None
        column = index.column()
        if role == Qt.ItemDataRole.TextAlignmentRole and column >= self.NUMBERS_FROM:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            shown = self.cell(self.record_at(index.row()), column, Qt.ItemDataRole.DisplayRole)
            return f"{self.HEADS[column]} {shown}"
        return self.cell(self.record_at(index.row()), column, role)

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; column −1 restores the records' own order."""
        descending = order == Qt.SortOrder.DescendingOrder
        self._sorting = (column, descending) if column >= 0 else None
        self.layoutAboutToBeChanged.emit()
        old = self.persistentIndexList()
        kept = [self.record_at(index.row()) for index in old]
        self._arrange()
        place = {int(record): row for row, record in enumerate(self._order)} if old else {}
        new = [
            self.index(place[record], index.column())
            for record, index in zip(kept, old, strict=True)
        ]
        self.changePersistentIndexList(old, new)
        self.layoutChanged.emit()

    def _arrange(self) -> None:
        order = np.arange(self.n_records, dtype=np.int64)
        if self._sorting is not None and len(order):
            column, descending = self._sorting
            order = np.argsort(self.keys(column), kind="stable").astype(np.int64)
            order = order[::-1] if descending else order
        self._order = order
