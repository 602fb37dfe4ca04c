"""All features of a store as a table that is read page by page while one scrolls."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, Qt, Signal

from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import plain_tip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attention_studio.core.feature_store import Order
    from attention_studio.core.sites import Site
    from attention_studio.ui.work_features import ListedFeature

PAGE = 128
"""Rows that are read at once."""
_MOST_PAGES = 64
FEATURE, DENSITY, MAX, LABEL, PROMOTES, NOTE = range(6)
_SAID = frozenset(
    int(role)
    for role in (
        Qt.ItemDataRole.DisplayRole,
        Qt.ItemDataRole.AccessibleTextRole,
        Qt.ItemDataRole.ToolTipRole,
    )
)
_ALIGNMENT = int(Qt.ItemDataRole.TextAlignmentRole)
_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
_ORDERS: dict[int, Order] = {FEATURE: "index", DENSITY: "density", MAX: "max"}


class StoreModel(ColumnsModel):
    """A table of a known number of rows, of which it holds some.

    ``wanted`` carries the number of a page that somebody looks at and that is not there yet;
    ``reordered`` says that other rows come first now.
    """

    HEADS = ("Feature", "Density", "Max", "Label", "Promotes", "Note")
    TIPS = (
        "Module and number; A before it: it stands in for the attention there",
        "At what share of the text's tokens it fires",
        "Its largest activation",
        "What somebody called it",
        "Tokens whose logit it raises most by its direct path",
        "What you noted about it",
    )

    wanted = Signal(int)
    reordered = Signal()

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._n_rows = 0
        self._pages: OrderedDict[int, tuple[ListedFeature, ...]] = OrderedDict()
        # By page, which feature stands where on it.
        self._places: dict[int, dict[tuple[Site, int], int]] = {}
        self._asked: set[int] = set()
        self._notes: Mapping[str, str] = {}
        self.order: Order = "index"

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return self._n_rows

    def show(self, n_rows: int, first: tuple[ListedFeature, ...]) -> None:
        """Show another list, of which these are the first rows."""
        self.beginResetModel()
        self._n_rows = n_rows
        self._pages, self._places = OrderedDict(), {}
        self._asked = set()
        for number in range(0, len(first), PAGE):
            self._hold(number // PAGE, first[number : number + PAGE])
        self.endResetModel()

    def _hold(self, page: int, rows: tuple[ListedFeature, ...]) -> None:
        self._pages[page] = rows
        self._places[page] = {(one.site, one.index): place for place, one in enumerate(rows)}

    def put(self, page: int, rows: tuple[ListedFeature, ...]) -> None:
        """Take over a page that was read."""
        self._asked.discard(page)
        self._hold(page, rows)
        while len(self._pages) > _MOST_PAGES:
            del self._places[self._pages.popitem(last=False)[0]]
        if rows:
            top = page * PAGE
            last = self.index(min(self._n_rows, top + len(rows)) - 1, len(self.HEADS) - 1)
            self.dataChanged.emit(self.index(top, 0), last)

    def forget(self, site: Site, index: int) -> None:
        """Have the page of a feature read anew, where it is held: something was written."""
        for page, places in self._places.items():
            if (site, index) in places:
                self._asked.add(page)
                self.wanted.emit(page)

    def set_notes(self, notes: Mapping[str, str]) -> None:
        """Say what was noted, by names of features without position."""
        if dict(notes) != dict(self._notes):
            self._notes = dict(notes)
            if self._n_rows:
                self.dataChanged.emit(self.index(0, NOTE), self.index(self._n_rows - 1, NOTE))

    def feature(self, row: int) -> Optional[ListedFeature]:
        """The feature of a row; None: it is not read yet, and asked for now."""
        page = row // PAGE
        rows = self._pages.get(page)
        if rows is None:
            if page not in self._asked:
                self._asked.add(page)
                self.wanted.emit(page)
            return None
        self._pages.move_to_end(page)
        place = row % PAGE
        return rows[place] if place < len(rows) else None

    def row_of(self, site: Site, index: int) -> Optional[int]:
        """The row of a feature among those that are held."""
        for page, places in self._places.items():
            place = places.get((site, index))
            if place is not None:
                return page * PAGE + place
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Have the store put the rows in another order."""
        wanted = _ORDERS.get(column, "index")
        if order == Qt.SortOrder.DescendingOrder and wanted != "index":
            wanted = "-density" if wanted == "density" else "-max"
        if wanted != self.order:
            self.order = wanted
            self.reordered.emit()

    def _text(self, one: ListedFeature, column: int) -> str:
        if column == FEATURE:
            return one.name
        if column == DENSITY:
            return "dead" if one.dead else percent(one.density)
        if column == MAX:
            known = not one.dead and one.max_activation == one.max_activation
            return f"{one.max_activation:.2f}" if known else ""
        if column == LABEL:
            return one.label
        if column == NOTE:
            return " ".join(self._notes.get(one.feature, "").split())
        return ", ".join(visible_token(token, spaces=False) for token in one.promotes)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says; an ellipsis where its page is not read yet."""
        # Most of what a painted cell is asked for, fonts and colours, it does not say.
        if role not in _SAID:
            right = role == _ALIGNMENT and index.column() in (DENSITY, MAX)
            return _RIGHT if right else None
        if not index.isValid():
            return None
        column = index.column()
        one = self.feature(index.row())
        if one is None:
            return "…" if role == Qt.ItemDataRole.DisplayRole and column == FEATURE else None
        text = self._text(one, column)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self.HEADS[column]} {text}"
        if role == Qt.ItemDataRole.ToolTipRole:
            who = f", by {one.label_by}" if column == LABEL and one.label_by else ""
            return plain_tip(text + who) if column >= LABEL and text else None
        return text
