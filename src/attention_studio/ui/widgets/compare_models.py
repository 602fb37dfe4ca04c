"""Two graphs side by side, as tables: their nodes, their edges, what else is known of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.ui.difference_highlight import (
    ONLY_FIRST,
    ONLY_SECOND,
    ROLES,
    WORDS,
    Which,
    listed,
    states,
)
from attention_studio.ui.highlight import Role
from attention_studio.ui.node_text import place, short_title, title
from attention_studio.ui.text import percent
from attention_studio.ui.widgets.bar_delegate import BAR_ROLE
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import plain_tip
from attention_studio.ui.widgets.graph_scene import EMBEDDING
from attention_studio.ui.widgets.ordered_model import OrderedModel
from attention_studio.ui.widgets.paths_model import signed
from attention_studio.ui.widgets.role_look import role_colour

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.work_comparing import Compared


class _Table(OrderedModel):
    """Rows that are in the first graph, in the second, or in both."""

    WHERE = 0
    NUMBERS_FROM = 3
    SIGNED = False

    def __init__(self, theme: Theme, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._shown: Optional[Compared] = None
        self._notes = GraphNotes()
        self.state: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._records: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._values: NDArray[np.float64] = np.zeros((0, 2))
        self._most = 1.0
        self._called: dict[int, tuple[str, str]] = {}

    def _take(
        self,
        shown: Optional[Compared],
        notes: GraphNotes,
        presence: NDArray[np.int8],
        values: NDArray[np.float64],
        which: Which,
        tolerance: float,
    ) -> None:
        self._shown, self._notes, self._values = shown, notes, values
        self._called = {}
        self.state = states(presence, values, tolerance)
        self._records = listed(self.state, which)
        self._most = max(float(np.abs(values).max(initial=0.0)), 1e-12)
        self.reload()

    @property
    def n_records(self) -> int:
        """How many rows are listed."""
        return len(self._records)

    def thing(self, row: int) -> int:
        """The node or edge in a row, as a row of the difference."""
        return int(self._records[self.record_at(row)])

    def keys(self, column: int) -> NDArray[Any]:
        """By what a column sorts."""
        if column == self.WHERE:
            return self.state[self._records]
        if column < self.NUMBERS_FROM:
            return np.array([self._text(int(thing), column) for thing in self._records])
        values = self._values[self._records]
        place_of = column - self.NUMBERS_FROM
        return values[:, place_of] if place_of < 2 else values[:, 1] - values[:, 0]

    def cell(self, record: int, column: int, role: int) -> Any:
        """What a row shows in a column."""
        thing = int(self._records[record])
        if role == Qt.ItemDataRole.ForegroundRole and column == self.WHERE:
            meant = ROLES[int(self.state[thing])]
            return None if meant is None else role_colour(self._theme.tokens, meant)
        if column >= self.NUMBERS_FROM:
            return self._number(thing, column - self.NUMBERS_FROM, role)
        if role == Qt.ItemDataRole.ToolTipRole and column > self.WHERE:
            return plain_tip(self._text(thing, column))
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        return WORDS[int(self.state[thing])] if column == self.WHERE else self._text(thing, column)

    def _number(self, thing: int, which: int, role: int) -> Any:
        first, second = (float(value) for value in self._values[thing])
        value = (first, second, second - first)[which]
        absent = which < 2 and self.state[thing] == (ONLY_SECOND, ONLY_FIRST)[which]
        if role == BAR_ROLE:
            return None if absent else value / self._most
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if absent:
            return "-"
        return signed(value) if which == 2 or self.SIGNED else percent(value)

    @abstractmethod
    def _text(self, thing: int, column: int) -> str:
        """What stands in one of the columns of words."""

    def _node(self, row: int, whole: bool) -> tuple[str, str]:
        """What a node is called and where it stands, in the first graph if it is there."""
        if row not in self._called:
            self._called[row] = self._call(row, whole)
        return self._called[row]

    def _call(self, row: int, whole: bool) -> tuple[str, str]:
        shown = self._shown
        if shown is None:
            return "", ""
        nodes, words = shown.difference.nodes, title if whole else short_title
        first, second = int(nodes.first[row]), int(nodes.second[row])
        there = place(shown.second.graph, second) if second >= 0 else ""
        if first < 0:
            return words(shown.second.graph, second, self._notes), there
        here, called = place(shown.first, first), words(shown.first, first, self._notes)
        if second >= 0 and shown.first.nodes.kind[first] == EMBEDDING and here != there:
            called = f"{called} | {short_title(shown.second.graph, second, self._notes)}"
        return called, here if there in ("", here) else f"{here} | {there}"


class NodesTable(_Table):
    """One node per row."""

    HEADS = ("Where", "Node", "At", "First", "Second", "Change")
    TIPS = (
        "In which graph the node is, or has more influence",
        "A node of either graph",
        "Token at which it stands; where the two differ, in the first and in the second",
        "Influence on the output in the first graph",
        "Influence on the output in the second graph",
        "Influence in the second graph less that in the first",
    )

    def show(
        self, shown: Optional[Compared], notes: GraphNotes, which: Which, tolerance: float
    ) -> None:
        """List the nodes of another comparison."""
        nodes = None if shown is None else shown.difference.nodes
        presence = np.zeros(0, dtype=np.int8) if nodes is None else nodes.presence
        values = np.zeros((0, 2)) if nodes is None else nodes.influence
        self._take(shown, notes, presence, values, which, tolerance)

    def _text(self, thing: int, column: int) -> str:
        return self._node(thing, whole=True)[column - 1]


class EdgesTable(_Table):
    """One edge per row."""

    HEADS = ("Where", "From", "To", "First", "Second", "Change")
    TIPS = (
        "In which graph the edge is, or is stronger",
        "Where the edge begins",
        "Where it ends",
        "Signed share of the target's whole input in the first graph",
        "Signed share of the target's whole input in the second graph",
        "The share in the second graph less that in the first",
    )
    SIGNED = True

    def show(
        self, shown: Optional[Compared], notes: GraphNotes, which: Which, tolerance: float
    ) -> None:
        """List the edges of another comparison."""
        edges = None if shown is None else shown.difference.edges
        presence = np.zeros(0, dtype=np.int8) if edges is None else edges.presence
        values = np.zeros((0, 2)) if edges is None else edges.share
        self._take(shown, notes, presence, values, which, tolerance)

    def _text(self, thing: int, column: int) -> str:
        if self._shown is None:
            return ""
        edges = self._shown.difference.edges
        words, at = self._node(int((edges.source, edges.target)[column - 1][thing]), whole=False)
        return words if words.startswith("“") else f"{words} at {at}"


class FactsTable(ColumnsModel):
    """What is known of two graphs, what differs first of all marked."""

    HEADS = ("What", "First", "Second")
    TIPS = ("≠ marks what is not the same", "The graph that is shown", "The other graph")

    def __init__(self, theme: Theme, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._rows: list[tuple[str, str, str]] = []

    def show(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """List other facts, as (name, of the first, of the second)."""
        self.beginResetModel()
        self._rows = list(rows)
        self.endResetModel()

    @property
    def n_rows(self) -> int:
        """How many facts there are."""
        return len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says."""
        if not index.isValid():
            return None
        name, first, second = self._rows[index.row()]
        differs = first != second
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            head = f"≠ {name}" if differs else name
            return " ".join((head, first, second)[index.column()].split())
        if role == Qt.ItemDataRole.ToolTipRole:
            return plain_tip((name, first, second)[index.column()])
        if role == Qt.ItemDataRole.ForegroundRole and differs and index.column() == 0:
            return role_colour(self._theme.tokens, Role.MARKED)
        return None


class HistoryTable(ColumnsModel):
    """Comparisons that were made, the newest first."""

    HEADS = ("When", "First", "Second", "What came of it")
    TIPS = ("When it was made", "Prompt of the first graph", "Prompt of the second graph", "")

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._records: list[dict[str, Any]] = []

    def show(self, records: Sequence[dict[str, Any]]) -> None:
        """List other records."""
        self.beginResetModel()
        self._records = list(records)[::-1]
        self.endResetModel()

    def record(self, row: int) -> dict[str, Any]:
        """A record by its row."""
        return self._records[row]

    @property
    def n_rows(self) -> int:
        """How many comparisons were made."""
        return len(self._records)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says."""
        if not index.isValid():
            return None
        if role not in (
            Qt.ItemDataRole.DisplayRole,
            Qt.ItemDataRole.AccessibleTextRole,
            Qt.ItemDataRole.ToolTipRole,
        ):
            return None
        record = self._records[index.row()]
        prompts = next((row[1:] for row in facts_of(record) if row[0] == "Prompt"), ("", ""))
        shown = (when_of(record), *prompts, str(record.get("told", "")))[index.column()]
        return plain_tip(shown) if role == Qt.ItemDataRole.ToolTipRole else shown


def when_of(record: dict[str, Any]) -> str:
    """When a record was made, in the time of this place; "" where it does not tell."""
    try:
        made = datetime.fromisoformat(str(record.get("when", "")))
    except ValueError:
        return ""
    return made.astimezone().strftime("%Y-%m-%d %H:%M")


def facts_of(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The facts of a record, which may come from a file: what does not fit is left out."""
    rows = record.get("facts", [])
    if not isinstance(rows, list):
        return []
    return [
        (str(row[0]), str(row[1]), str(row[2]))
        for row in rows
        if isinstance(row, (list, tuple)) and len(row) == 3
    ]
