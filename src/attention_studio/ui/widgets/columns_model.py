"""What the studio's tables have in common: named columns with help, and rows without children."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Union

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt

Index = Union[QModelIndex, QPersistentModelIndex]
ROOT = QModelIndex()
"""The parent of every row of a table."""


class ColumnsModel(QAbstractTableModel):
    """A table whose columns are known beforehand.

    A subclass sets ``HEADS`` (the names of the columns), ``TIPS`` (what each means, or nothing) and
    ``NUMBERS_FROM`` (the first of the columns at the right that hold numbers), and answers
    ``n_rows`` and ``data``.
    """

    HEADS: tuple[str, ...] = ()
    TIPS: tuple[str, ...] = ()
    NUMBERS_FROM = 1_000

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """How many rows there are."""

    def rowCount(self, parent: Index = ROOT) -> int:
        """How many rows there are; none below another row."""
        return 0 if parent.isValid() else self.n_rows

    def columnCount(self, parent: Index = ROOT) -> int:
        """As many as have a name."""
        return 0 if parent.isValid() else len(self.HEADS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Names of the columns and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self.HEADS[section]
        if role == Qt.ItemDataRole.TextAlignmentRole and section >= self.NUMBERS_FROM:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return self.TIPS[section] if role == Qt.ItemDataRole.ToolTipRole and self.TIPS else None
