"""Features that resemble another one, as a table to go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QModelIndex, QObject, Qt, Signal, Slot
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import named, plain_tip

if TYPE_CHECKING:
    from attention_studio.core.feature_records import Neighbour
    from attention_studio.core.sites import Site
    from attention_studio.ui.theme import Theme

_MOST_ROWS = 6
_PADDING = 20
"""Pixels that a cell has left and right of its words."""


class NearModel(ColumnsModel):
    """Neighbours of a feature, the nearest first."""

    HEADS = ("Feature", "Says", "Alike")
    TIPS = (
        "Which feature",
        "What somebody called it, or the tokens that it promotes most",
        "The cosine of both: of the directions that they write, or of where they fire",
    )
    NUMBERS_FROM = 2

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._near: tuple[Neighbour, ...] = ()

    def show(self, near: tuple[Neighbour, ...]) -> None:
        """List other features."""
        self.beginResetModel()
        self._near = near
        self.endResetModel()

    @property
    def shown(self) -> tuple[Neighbour, ...]:
        """What is listed."""
        return self._near

    @property
    def n_rows(self) -> int:
        """How many are listed."""
        return len(self._near)

    def feature(self, row: int) -> tuple[Site, int]:
        """The feature of a row."""
        return self._near[row].site, self._near[row].index

    def texts(self, column: int) -> set[str]:
        """What the cells of a column say."""
        return {self._text(near, column) for near in self._near}

    def _text(self, near: Neighbour, column: int) -> str:
        if column == 0:
            return f"{near.site.label} #{near.index}"
        if column == 1:
            words = ", ".join(visible_token(word, spaces=False) for word in near.promotes)
            return f"{near.label} · {words}" if near.label and words else near.label or words
        return f"{near.score:.2f}"

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell says."""
        if not index.isValid():
            return None
        near, column = self._near[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(near, column)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self.HEADS[column]} {self._text(near, column)}"
        if role == Qt.ItemDataRole.ToolTipRole and column == 1:
            return plain_tip(self._text(near, column))
        if role == Qt.ItemDataRole.TextAlignmentRole and column == 2:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None


class NearTable(QTableView):
    """The table; ``chosen`` carries module and index of the feature to go to."""

    chosen = Signal(object, int)

    def __init__(
        self, theme: Theme, name: str, accessible: str, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self.near = NearModel(self)
        self.setModel(self.near)
        named(self, name, accessible, "Click a row, or press Enter, to go to that feature")
        self.setToolTip("")
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        # As wide as their words, which ``fit`` measures: Qt would do it at every change of layout,
        # with all that a cell may say.
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.clicked.connect(self._on_chosen)
        self.activated.connect(self._on_chosen)
        theme.changed.connect(self.fit)

    def show_near(self, near: tuple[Neighbour, ...]) -> None:
        """List other features, in as much height as they need."""
        if near == self.near.shown:
            return
        self.near.show(near)
        self.fit()

    @Slot()
    def fit(self) -> None:
        """Take the height of the rows, at most some of them, and give the words their room."""
        metrics, header = self.fontMetrics(), self.horizontalHeader()
        for column in (0, 2):
            widest = max(map(metrics.horizontalAdvance, self.near.texts(column)), default=0)
            wide = max(header.sectionSizeHint(column), widest + _PADDING)
            if wide != self.columnWidth(column):
                self.setColumnWidth(column, wide)
        row = metrics.height() + 9
        self.verticalHeader().setDefaultSectionSize(row)
        rows = min(_MOST_ROWS, self.near.n_rows)
        self.setFixedHeight(row * rows + self.horizontalHeader().sizeHint().height() + 2)

    @Slot(QModelIndex)
    def _on_chosen(self, index: QModelIndex) -> None:
        if index.isValid():
            self.chosen.emit(*self.near.feature(index.row()))
