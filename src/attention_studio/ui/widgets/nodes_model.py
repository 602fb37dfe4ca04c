"""The nodes that fit a query, as a table: quick to sort and draw with tens of thousands of rows."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QFont, QIcon

from attention_studio.core.graph_notes import feature_of
from attention_studio.core.node_query import NodeView
from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.bar_delegate import BAR_ROLE
from attention_studio.ui.widgets.columns_model import Index
from attention_studio.ui.widgets.controls import plain_tip
from attention_studio.ui.widgets.ordered_model import OrderedModel

Ints = NDArray[np.int64]


class Column(IntEnum):
    """The columns of the table."""

    NODE = 0
    TOKEN = 1
    LABEL = 2
    REMARK = 3
    ACTIVATION = 4
    INFLUENCE = 5
    DENSITY = 6


class NodesModel(OrderedModel):
    """Nodes of a graph.

    ``edited`` carries the name of a node, a ``Column`` (label or remark) and what was typed there.
    """

    HEADS = ("Node", "Token", "Label", "Remark", "Activation", "Influence", "Density")
    TIPS = (
        "What it is: a feature by its module and number, with what it promotes",
        "Position in the prompt, and the token there",
        "What you call the feature; Enter edits it, Delete empties it",
        "What you wrote about the node; Enter edits it, Delete empties it",
        "How strongly the feature fires",
        "Influence on the outputs of the graph",
        "Share of tokens at which the feature is active over a text",
    )
    NUMBERS_FROM = Column.ACTIVATION

    edited = Signal(str, object, str)

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._view: Optional[NodeView] = None
        self._rows: Ints = np.zeros(0, dtype=np.int64)
        self._row_of_node: Ints = np.zeros(0, dtype=np.int64)
        self._most = 1.0
        self._density: NDArray[np.float64] = np.zeros(0)
        self._selected: Optional[str] = None
        self._pinned: frozenset[str] = frozenset()
        self.pin_icon = QIcon()
        self.strong_font = QFont()

    # -- what is in it ------------------------------------------------------------------------

    def show(self, view: Optional[NodeView], rows: Ints) -> None:
        """List these rows of a view's table, in this order unless a head sorts them."""
        same = (
            view is not None
            and self._view is not None
            and view.table is self._view.table
            and np.array_equal(rows, self._rows)
            and self._sorting is None
        )
        self._view, self._rows = view, rows
        if view is not None:
            unknown = np.full(len(view.table), np.nan)
            self._density = unknown if view.density is None else view.density
        self._pinned = frozenset(view.notes.pinned) if view is not None else frozenset()
        if same:
            # The same nodes with other notes: whoever is at a row stays there.
            self._tell_all()
            return
        influence = view.table.influence[rows] if view is not None else np.zeros(0)
        self._most = float(influence.max(initial=0.0)) or 1.0
        self.reload()

    def set_selected(self, name: Optional[str]) -> None:
        """Say which node is the selected one; its name is written strong."""
        if name != self._selected:
            self._selected = name
            self._tell_all()

    @property
    def view(self) -> Optional[NodeView]:
        """What the rows are of."""
        return self._view

    def node(self, row: int) -> int:
        """The row of the view's table that a row of this one shows."""
        return int(self._rows[self.record_at(row)])

    def name(self, row: int) -> str:
        """The name of the node that a row shows."""
        assert self._view is not None
        return self._view.table.names[self.node(row)]

    def rows_of(self, names: tuple[str, ...]) -> Ints:
        """The rows that show these nodes, in order; those that are not listed are left out."""
        if self._view is None:
            return np.zeros(0, dtype=np.int64)
        rows = self._row_of_node[self._view.table.rows(names)]
        return np.unique(rows[rows >= 0])

    # -- order ----------------------------------------------------------------------------------

    @property
    def n_records(self) -> int:
        """How many nodes are listed."""
        return len(self._rows)

    def keys(self, column: int) -> NDArray[Any]:
        """By what a column sorts; what is not known counts least."""
        assert self._view is not None
        table, rows = self._view.table, self._rows
        if column == Column.NODE:
            return table.rank[rows]
        if column in (Column.LABEL, Column.REMARK):
            texts = self._view.labels if column == Column.LABEL else self._view.remarks
            # Most are empty, and go last.
            place = {text: at for at, text in enumerate(sorted({*texts}, key=str.casefold))}
            place[""] = len(place)
            return np.array([place[texts[row]] for row in rows.tolist()], dtype=np.int64)
        if column == Column.TOKEN:
            return table.position[rows]
        values = {
            Column.ACTIVATION: table.activation,
            Column.INFLUENCE: table.influence,
            Column.DENSITY: self._density,
        }[Column(column)]
        return np.nan_to_num(values[rows], nan=-np.inf)

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; column −1 puts the most influential first.

        Said as a new start: a selection of many thousand rows would be followed row by row, which
        takes seconds. Whoever shows the table selects anew.
        """
        self._sorting = (column, order == Qt.SortOrder.DescendingOrder) if column >= 0 else None
        self.reload()

    def _arrange(self) -> None:
        super()._arrange()
        length = 0 if self._view is None else len(self._view.table)
        self._row_of_node = np.full(length, -1, dtype=np.int64)
        self._row_of_node[self._rows[self._order]] = np.arange(len(self._order))

    # -- cells ----------------------------------------------------------------------------------

    def cell(self, record: int, column: int, role: int) -> Any:
        """What a node shows in a column."""
        view = self._view
        if view is None:
            return None
        node = int(self._rows[record])
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return self._text(view, node, column)
        if role == BAR_ROLE and column == Column.INFLUENCE:
            return float(view.table.influence[node]) / self._most
        if column == Column.NODE:
            if role == Qt.ItemDataRole.DecorationRole:
                return self.pin_icon if view.table.names[node] in self._pinned else None
            if role == Qt.ItemDataRole.FontRole:
                return self.strong_font if view.table.names[node] == self._selected else None
        if role == Qt.ItemDataRole.ToolTipRole:
            shown = self._text(view, node, column)
            tip = f"{view.table.titles[node]} ({view.table.names[node]})"
            wordy = column in (Column.LABEL, Column.REMARK) and shown
            return plain_tip(shown if wordy else tip)
        return None

    def _text(self, view: NodeView, node: int, column: int) -> str:
        table = view.table
        if column == Column.NODE:
            # The space before a word of the prompt says nothing here.
            return visible_token(table.titles[node].replace("“ ", "“"), spaces=False)
        if column == Column.TOKEN:
            position = int(table.position[node])
            return f"{position}  {visible_token(table.tokens[position], spaces=False)}"
        if column == Column.LABEL:
            return view.labels[node]
        if column == Column.REMARK:
            return " ".join(view.remarks[node].split())
        if column == Column.ACTIVATION:
            value = float(table.activation[node])
            return "" if np.isnan(value) else f"{value:.2f}"
        if column == Column.INFLUENCE:
            return percent(float(table.influence[node]))
        density = float(self._density[node])
        return "" if np.isnan(density) else percent(density)

    # -- editing --------------------------------------------------------------------------------

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Labels of features and remarks can be edited."""
        flags = super().flags(index)
        if not index.isValid():
            return flags
        label = index.column() == Column.LABEL and feature_of(self.name(index.row())) is not None
        if label or index.column() == Column.REMARK:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Say what was typed; the session keeps it, and it comes back with the next view."""
        editable = bool(self.flags(index) & Qt.ItemFlag.ItemIsEditable)
        if role != Qt.ItemDataRole.EditRole or not editable:
            return False
        if str(value).strip() != self.data(index):
            self.edited.emit(self.name(index.row()), Column(index.column()), str(value).strip())
        return True

    def _tell_all(self) -> None:
        if self.n_rows:
            last = self.index(self.n_rows - 1, len(self.HEADS) - 1)
            self.dataChanged.emit(self.index(0, 0), last)
