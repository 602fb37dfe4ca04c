"""The features that are active on the prompt, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QModelIndex, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.text import count, duration, visible_token
from attention_studio.ui.widgets.bar_delegate import BarDelegate
from attention_studio.ui.widgets.controls import ElidedLabel, named
from attention_studio.ui.widgets.features_model import Column, FeaturesModel, feature_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attention_studio.core.feature_extractor import FeatureRecord, FeatureReport
    from attention_studio.ui.theme import Theme

_FILTER_MS = 80
# Entries of the choice of rows that are no positions.
_OVERALL, _EVERYWHERE = -1, -2


class FeaturesTable(QTableView):
    """The table, which leaves out what is suppressed where there is no room for it."""

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as many columns as can be read."""
        super().resizeEvent(event)
        narrow = event.size().width() < self.fontMetrics().averageCharWidth() * 78
        self.setColumnHidden(Column.SUPPRESSED, narrow)


class PromptFeatures(QWidget):
    """The strongest features of the prompt or of one position of it, to sort, filter and choose.

    ``chosen`` carries the name of the feature that a person goes to.
    """

    chosen = Signal(str)

    def __init__(self, theme: Theme, again: QWidget, parent: Optional[QWidget] = None) -> None:
        """``again``: a button that is shown beside the count, where the prompt is another now."""
        super().__init__(parent)
        self._theme, self._again = theme, again
        self._shown: Optional[FeatureReport] = None
        # True while the table is made to follow the session, rather than the other way.
        self._syncing = False
        self._selected: Optional[str] = None
        self.model = FeaturesModel(self)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_FILTER_MS)
        self._typing.timeout.connect(self._apply_filter)
        self._make_controls()
        self._make_table()
        self._lay_out()
        self.filter.textChanged.connect(self._on_filter_text)
        self.which.currentIndexChanged.connect(self._on_which)
        self.table.selectionModel().currentRowChanged.connect(self._on_row)
        theme.changed.connect(self._size_columns)

    # -- building -----------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.which = QComboBox()
        named(self.which, "features.which", "Which features are listed",
              "The strongest of the whole prompt, or of one position")  # fmt: skip
        self.filter = QLineEdit()
        named(self.filter, "features.filter", "Filter",
              "Words that a row must hold; layer:12, layer:3-8, pos:5 and #1043 narrow further",
        )  # fmt: skip
        self.filter.setPlaceholderText("Filter: words, layer:12, pos:5, #1043")
        self.filter.setClearButtonEnabled(True)
        self._count = ElidedLabel(role="caption")
        named(self._count, "features.count", "How many features are listed")

    def _make_table(self) -> None:
        self.table = FeaturesTable()
        named(
            self.table,
            "features.table",
            "Features of the prompt",
            "Features by strength; choosing one shows where it fires",
        )
        self.table.setModel(self.model)
        self.table.setItemDelegateForColumn(Column.ACTIVATION, BarDelegate(self._theme, self.table))
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.setTabKeyNavigation(False)
        self.table.verticalHeader().hide()
        header = self.table.horizontalHeader()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setHighlightSections(False)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        for column in (Column.PROMOTED, Column.SUPPRESSED):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        self.table.setSortingEnabled(True)
        self._size_columns()

    def _lay_out(self) -> None:
        controls = QHBoxLayout()
        controls.setContentsMargins(10, 6, 10, 2)
        controls.setSpacing(8)
        controls.addWidget(self.which)
        controls.addWidget(self.filter, 1)
        facts = QHBoxLayout()
        facts.setContentsMargins(12, 0, 10, 4)
        facts.addWidget(self._count, 1)
        facts.addWidget(self._again)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(controls)
        layout.addLayout(facts)
        layout.addWidget(self.table, 1)

    @Slot()
    def _size_columns(self) -> None:
        metrics = self.table.fontMetrics()
        for column, sample in (
            (Column.LAYER, "Layer,"),
            (Column.POSITION, "00  Tower,"),
            (Column.INDEX, "Feature,"),
            (Column.ACTIVATION, "Activation,"),
        ):
            self.table.setColumnWidth(column, metrics.horizontalAdvance(sample) + 12)
        self.table.verticalHeader().setDefaultSectionSize(metrics.height() + 9)

    # -- what is shown --------------------------------------------------------------------------

    @property
    def report(self) -> Optional[FeatureReport]:
        """What is listed."""
        return self._shown

    def show_report(self, report: Optional[FeatureReport]) -> None:
        """List the features of another prompt, or none."""
        if report is not self._shown:
            self._shown = report
            self._list_positions()
            self._fill()

    def show_labels(self, labels: Mapping[str, str]) -> None:
        """Say what features are called."""
        self.model.set_labels(labels)

    def show_selected(self, name: Optional[str]) -> None:
        """Mark the row of a feature, if it is listed."""
        self._selected = name
        row = self.model.find(name) if name is not None else None
        self._syncing = True
        if row is None:
            self.table.clearSelection()
            self.table.setCurrentIndex(QModelIndex())
        else:
            self.table.selectRow(row)
            self.table.scrollTo(self.model.index(row, 0))
        self._syncing = False

    def record_of(self, name: Optional[str]) -> Optional[FeatureRecord]:
        """The record of a feature in the report, listed or not."""
        if name is None or self._shown is None:
            return None
        row = self.model.find(name)
        if row is not None:
            return self.model.record(row)
        parts = feature_parts(name)
        if parts is None or parts[1] >= len(self._shown.by_position):
            return None
        for record in self._shown.by_position[parts[1]]:
            if name == self.model.name_of(record):
                return record
        return None

    def _list_positions(self) -> None:
        blocked = self.which.blockSignals(True)
        self.which.clear()
        self.which.addItem("Whole prompt", _OVERALL)
        self.which.addItem("Every position", _EVERYWHERE)
        for position, token in enumerate(self._shown.tokens if self._shown is not None else ()):
            self.which.addItem(f"{position}  {visible_token(token)}", position)
        self.which.setCurrentIndex(0)
        self.which.blockSignals(blocked)

    def _records(self, which: int) -> tuple[FeatureRecord, ...]:
        report = self._shown
        if report is None:
            return ()
        if which == _OVERALL:
            return report.overall
        if which == _EVERYWHERE:
            return tuple(record for records in report.by_position for record in records)
        return report.by_position[which]

    def _fill(self) -> None:
        which = self.which.currentData()
        self._syncing = True
        self.model.show(self._shown, self._records(_OVERALL if which is None else which))
        self._syncing = False
        self.table.scrollToTop()
        self.show_selected(self._selected)
        self._show_count()

    def _show_count(self) -> None:
        if self._shown is None:
            self._count.set_whole("")
            return
        listed = self.model.rowCount()
        text = f"{count(listed)} listed"
        if listed != self.model.n_records:
            text = f"{count(listed)} of {count(self.model.n_records)} listed"
        self._count.set_whole(
            f"{text} · {count(self._shown.n_active)} active · {duration(self._shown.seconds)}"
        )

    # -- from the person ------------------------------------------------------------------------

    @Slot(str)
    def _on_filter_text(self, _text: str) -> None:
        self._typing.start()

    @Slot()
    def _apply_filter(self) -> None:
        self._syncing = True
        self.model.set_filter(self.filter.text())
        self._syncing = False
        self.show_selected(self._selected)
        self._show_count()

    @Slot(int)
    def _on_which(self, _index: int) -> None:
        self._fill()

    @Slot(QModelIndex, QModelIndex)
    def _on_row(self, current: QModelIndex, _previous: QModelIndex) -> None:
        if current.isValid() and not self._syncing:
            self._selected = self.model.name(current.row())
            self.chosen.emit(self._selected)
