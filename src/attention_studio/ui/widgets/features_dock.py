"""The Features dock: what is active on the prompt, as a table, and one feature in detail."""

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
    QSplitter,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui import work
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.text import count, duration
from attention_studio.ui.widgets.bar_delegate import BarDelegate
from attention_studio.ui.widgets.controls import CommandButton, ElidedLabel, named
from attention_studio.ui.widgets.feature_detail import FeatureDetail
from attention_studio.ui.widgets.features_model import Column, FeaturesModel, feature_parts
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.token_views import visible_token

if TYPE_CHECKING:
    from attention_studio.core.feature_extractor import FeatureRecord, FeatureReport
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme

TOP_K = 20
_KEY = "features.extract"
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


class FeaturesDock(StudioDock):
    """The features of a prompt.

    ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "featuresDock"
    TITLE = "Features"
    ICON = "features"
    WATCHES = frozenset(
        (
            SessionPart.CRM,
            SessionPart.PROMPT,
            SessionPart.FEATURES,
            SessionPart.SELECTION,
            SessionPart.PINNED,
        )
    )

    message = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        theme: Theme,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(session, runner, commands, theme, parent)
        self._shown: Optional[FeatureReport] = None
        # True while the table is made to follow the session, rather than the other way.
        self._syncing = False
        self.model = FeaturesModel(self)
        self.detail = FeatureDetail(theme)
        self.strip = JobStrip(runner, "features.job")
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_FILTER_MS)
        self._typing.timeout.connect(self._apply_filter)
        self._make_controls()
        self._make_table()
        self._set_up()
        self.filter.textChanged.connect(self._on_filter_text)
        self.which.currentIndexChanged.connect(self._on_which)
        self.table.selectionModel().currentRowChanged.connect(self._on_row)
        self.detail.pin.clicked.connect(self._on_pin)
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
        self._again = CommandButton(
            self.commands, "features.extract", look="quiet", text="Extract for the new prompt"
        )
        self._again.setObjectName("features.again")

    def _make_table(self) -> None:
        self.table = FeaturesTable()
        named(
            self.table,
            "features.table",
            "Features of the prompt",
            "Features by strength; choosing one shows where it fires",
        )
        self.table.setModel(self.model)
        self.table.setItemDelegateForColumn(Column.ACTIVATION, BarDelegate(self.theme, self.table))
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

    def _set_up(self) -> None:
        controls = QHBoxLayout()
        controls.setContentsMargins(10, 8, 10, 2)
        controls.setSpacing(8)
        controls.addWidget(self.which)
        controls.addWidget(self.filter, 1)
        facts = QHBoxLayout()
        facts.setContentsMargins(12, 0, 10, 4)
        facts.addWidget(self._count, 1)
        facts.addWidget(self._again)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.setObjectName("features.splitter")
        splitter.addWidget(self.table)
        splitter.addWidget(self.detail)
        splitter.setStretchFactor(0, 1)
        splitter.setSizes([420, 290])
        splitter.setChildrenCollapsible(False)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(controls)
        layout.addLayout(facts)
        layout.addWidget(splitter, 1)
        layout.addWidget(self.strip)
        self.set_content(body)
        empty = self.set_empty(
            "No features yet",
            "Features are the concepts that the replacement model reads in each layer. Here they "
            "are listed by how strongly they fire on the prompt, with the words that they promote.",
            CommandButton(
                self.commands, "features.extract", look="primary", text="Extract features"
            ),
        )
        self._waiting = JobStrip(self.runner, "features.job.first")
        empty_layout = empty.layout()
        assert isinstance(empty_layout, QVBoxLayout)
        empty_layout.insertWidget(empty_layout.count() - 1, self._waiting)

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

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def extract(self) -> None:
        """Find the features of the session's prompt."""
        crm, prompt = self.session.crm, self.session.prompt
        if crm is None or not prompt.strip():
            return
        job = self.runner.submit(
            work.extract_features, crm, prompt, TOP_K, title="Extract features", key=_KEY
        )
        job.finished.connect(self._on_report)
        job.failed.connect(self._on_failed)
        (self._waiting if self.empty else self.strip).follow(job)

    @Slot(object)
    def _on_report(self, report: FeatureReport) -> None:
        self.session.set_features(report)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- from the person ----------------------------------------------------------------------

    @Slot(str)
    def _on_filter_text(self, _text: str) -> None:
        self._typing.start()

    @Slot()
    def _apply_filter(self) -> None:
        self.model.set_filter(self.filter.text())
        self._show_selection()
        self._show_count()

    @Slot(int)
    def _on_which(self, _index: int) -> None:
        self._fill()

    @Slot(QModelIndex, QModelIndex)
    def _on_row(self, current: QModelIndex, _previous: QModelIndex) -> None:
        if current.isValid() and not self._syncing:
            self.session.set_selection(self.model.name(current.row()), initiator=self)
            self._show_detail()

    @Slot()
    def _on_pin(self) -> None:
        if self.session.selection is not None:
            self.session.toggle_pin(self.session.selection)

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        report = self.session.features
        if report is not self._shown:
            self._shown = report
            self._list_positions()
            self._fill()
        elif SessionPart.SELECTION in parts:
            self._show_selection()
        if SessionPart.PINNED in parts:
            self._show_detail()
        self.show_empty(report is None)
        stale = report is not None and report.prompt.strip() != self.session.prompt.strip()
        self._again.setVisible(stale and self.session.crm is not None)

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
        self.model.show(self._shown, self._records(_OVERALL if which is None else which))
        self.table.scrollToTop()
        self._show_selection()
        self._show_count()

    def _show_count(self) -> None:
        if self._shown is None:
            return
        listed = self.model.rowCount()
        text = f"{count(listed)} listed"
        if listed != self.model.n_records:
            text = f"{count(listed)} of {count(self.model.n_records)} listed"
        self._count.set_whole(
            f"{text} · {count(self._shown.n_active)} active · {duration(self._shown.seconds)}"
        )

    def _show_selection(self) -> None:
        """Put the table on the row of what the session has selected, if it lists it."""
        name = self.session.selection
        row = self.model.find(name) if name is not None else None
        self._syncing = True
        if row is None:
            self.table.clearSelection()
            self.table.setCurrentIndex(QModelIndex())
        else:
            self.table.selectRow(row)
            self.table.scrollTo(self.model.index(row, 0))
        self._syncing = False
        self._show_detail()

    def _show_detail(self) -> None:
        name = self.session.selection
        pinned = name is not None and name in self.session.pinned
        self.detail.show_record(self._shown, self._selected_record(), pinned)

    def _selected_record(self) -> Optional[FeatureRecord]:
        """Return the record of the selection, listed or not."""
        name = self.session.selection
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
