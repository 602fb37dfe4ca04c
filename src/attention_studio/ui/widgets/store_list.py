"""The list of all features of a store: searching, filtering, scrolling, going on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QModelIndex, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QDoubleSpinBox,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.feature_names import FeatureName
from attention_studio.ui import work_features
from attention_studio.ui.text import count
from attention_studio.ui.widgets.controls import ElidedLabel, label, named
from attention_studio.ui.widgets.form_fields import combo, share_spin
from attention_studio.ui.widgets.store_model import (
    DENSITY,
    FEATURE,
    LABEL,
    MAX,
    NOTE,
    PAGE,
    PROMOTES,
    StoreModel,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attention_studio.core.feature_store import FeatureFilter, FeatureStore
    from attention_studio.core.sites import Site
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.work_features import (
        ListedPage,
        ListRequest,
        Neighbouring,
        PlacedFeature,
    )

_TYPING_MS = 150
_LIST_KEY, _STEP_KEY, _ROW_KEY = "features.list", "features.step", "features.row"
_ALL = "all"
_STATES = (
    ("All", _ALL),
    ("Alive", "alive"),
    ("Dead", "dead"),
    ("With a label", "labelled"),
    ("Without a label", "unlabelled"),
    ("With a note", "noted"),
)


class _StoreTable(QTableView):
    """The table, which leaves out what there is no room for."""

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as many columns as can be read."""
        super().resizeEvent(event)
        letters = event.size().width() / max(1, self.fontMetrics().averageCharWidth())
        self.setColumnHidden(NOTE, letters < 88)
        self.setColumnHidden(MAX, letters < 52)
        self.setColumnHidden(LABEL, letters < 62)


class StoreList(QWidget):
    """Features of a store by page, as controls and headings ask for them.

    ``chosen`` carries module and index of the feature that a person goes to, ``failed`` a
    ``JobFailure``.
    """

    chosen = Signal(object, int)
    failed = Signal(object)

    def __init__(
        self, runner: JobRunner, tools: tuple[QWidget, ...] = (), parent: Optional[QWidget] = None
    ) -> None:
        """``tools``: buttons that stand beside the count."""
        super().__init__(parent)
        self._runner = runner
        self._store: Optional[FeatureStore] = None
        self._request: Optional[ListRequest] = None
        self._feature: Optional[tuple[Site, int]] = None
        self._notes: Mapping[str, str] = {}
        self._syncing = False
        self._awaited = -1
        """The row that a person went to before it was read."""
        self._awaits_row = False
        """Whether nobody knows yet which row is that of the feature."""
        self.model = StoreModel(self)
        self._make_controls()
        self._make_table()
        self._lay_out(*tools)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_TYPING_MS)
        self._typing.timeout.connect(self.renew)
        # Pages are asked for while cells are painted: once for all of them, afterwards.
        self._pages: list[int] = []
        self._asking = QTimer(self)
        self._asking.setSingleShot(True)
        self._asking.setInterval(0)
        self._asking.timeout.connect(self._ask_pages)
        # A row that is not held is looked for in the next turn, when the page is painted.
        self._seeking = QTimer(self)
        self._seeking.setSingleShot(True)
        self._seeking.setInterval(0)
        self._seeking.timeout.connect(self._seek)
        self.search.textChanged.connect(self._on_typed)
        self.sites.currentIndexChanged.connect(self._on_changed)
        self.states.currentIndexChanged.connect(self._on_changed)
        self.least.valueChanged.connect(self._on_changed)
        self.most.valueChanged.connect(self._on_changed)
        self.model.reordered.connect(self.renew)
        self.model.wanted.connect(self._on_page_wanted)
        self.table.selectionModel().currentRowChanged.connect(self._on_row)

    # -- building -----------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.search = QLineEdit()
        named(self.search, "features.search", "Search features",
              "Words of labels, promoted tokens and texts as they stand; or a feature: L12 #1043",
        )  # fmt: skip
        self.search.setPlaceholderText("Search labels, tokens and examples")
        self.search.setClearButtonEnabled(True)
        self.sites = combo("features.module", "Module", "Only features of one module", ())
        self.states = combo(
            "features.state", "Which features",
            "All, or those that fire, are dead, have a label or a note", _STATES,
        )  # fmt: skip
        tip = "Only features that fire at no less than this percentage of tokens"
        self.least = share_spin("features.least", "Least density", 0.0, 100.0, 0.1, 2, tip)
        tip = "Only features that fire at no more than this percentage of tokens"
        self.most = share_spin("features.most", "Most density", 100.0, 100.0, 0.1, 2, tip)
        for spin in (self.least, self.most):
            spin.setSuffix(" %")
            spin.setKeyboardTracking(False)
            spin.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self._count = ElidedLabel(role="caption")
        named(self._count, "features.all.count", "How many features are listed")

    def _make_table(self) -> None:
        self.table = _StoreTable()
        named(self.table, "features.all", "All features",
              "Every feature of the store; choosing one shows its page")  # fmt: skip
        self.table.setToolTip("")
        self.table.setModel(self.model)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.setTabKeyNavigation(False)
        self.table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerItem)
        self.table.verticalHeader().hide()
        # Rows of one height: none has to be measured.
        self.table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header = self.table.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        for column in (LABEL, PROMOTES, NOTE):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        header.setSortIndicator(FEATURE, Qt.SortOrder.AscendingOrder)
        self.table.setSortingEnabled(True)
        self.fit()

    def _lay_out(self, *tools: QWidget) -> None:
        head = QHBoxLayout()
        head.setContentsMargins(12, 4, 6, 0)
        head.setSpacing(4)
        head.addWidget(self._count, 1)
        for tool in tools:
            head.addWidget(tool)
        find = QHBoxLayout()
        find.setContentsMargins(10, 0, 10, 0)
        find.setSpacing(8)
        find.addWidget(self.search, 3)
        find.addWidget(self.states, 2)
        narrow = QHBoxLayout()
        narrow.setContentsMargins(10, 2, 10, 4)
        narrow.setSpacing(6)
        narrow.addWidget(self.sites, 3)
        narrow.addWidget(label("fires at", "caption"))
        narrow.addWidget(self.least, 2)
        narrow.addWidget(label("to", "caption"))
        narrow.addWidget(self.most, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addLayout(find)
        layout.addLayout(narrow)
        layout.addWidget(self.table, 1)

    @Slot()
    def fit(self) -> None:
        """Give rows and narrow columns the room that today's font needs."""
        metrics = self.table.fontMetrics()
        for column, sample in ((FEATURE, "A29 #16383,"), (DENSITY, "0.0022%,"), (MAX, "000.00,")):
            self.table.setColumnWidth(column, metrics.horizontalAdvance(sample) + 14)
        self.table.verticalHeader().setDefaultSectionSize(metrics.height() + 9)

    # -- what is shown --------------------------------------------------------------------------

    def show_store(self, store: Optional[FeatureStore]) -> None:
        """List the features of another store, or none."""
        self._store = store
        blocked = self.sites.blockSignals(True)
        self.sites.clear()
        self.sites.addItem("All modules", "")
        for size in store.about.sites if store is not None else ():
            self.sites.addItem(f"{size.site.label} · {size.site}", size.site.label)
        self.sites.blockSignals(blocked)
        if store is None:
            self._request = None
            self.model.show(0, ())
            self._count.set_whole("No dashboards are open")
        else:
            self.renew()

    def show_notes(self, notes: Mapping[str, str]) -> None:
        """Say what was noted, by names of features without position."""
        self._notes = notes
        self.model.set_notes(notes)
        if self.states.currentData() == "noted":
            self.renew()

    def show_feature(self, feature: Optional[tuple[Site, int]], later: bool = False) -> None:
        """Mark the row of the feature that is looked at; where its page is not held, the store says
        which row it is. With ``later`` it is asked in ``seek`` only. Until it has answered, the row
        that was marked stays so."""
        self._feature = feature
        self._seeking.stop()
        request = self._request
        row = None if feature is None else self.model.row_of(*feature)
        by_number = request is not None and not request.picked and request.order == "index"
        self._awaits_row = feature is not None and row is None and by_number
        if not self._awaits_row:
            self._mark(row)
        elif not later:
            self.seek()

    @property
    def awaits_row(self) -> bool:
        """Whether the row of the feature that is looked at is still to be looked for."""
        return self._awaits_row

    @Slot()
    def seek(self) -> None:
        """Look for the row of the feature that is looked at, where it is not known yet, after what
        waits to be painted."""
        if self._awaits_row:
            self._seeking.start()

    @Slot()
    def _seek(self) -> None:
        request, feature = self._request, self._feature
        if not self._awaits_row or request is None or feature is None:
            return
        self._awaits_row = False
        job = self._runner.submit(
            work_features.find_row, request, feature,
            title="Find a feature in the list", lane="quick", key=_ROW_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_row_found)
        job.failed.connect(self.failed)

    @Slot(object)
    def _on_row_found(self, found: PlacedFeature) -> None:
        if found.request is self._request and found.feature == self._feature:
            there = found.row is not None and found.row < self.model.n_rows
            self._mark(found.row if there else None)

    def _mark(self, row: Optional[int]) -> None:
        current = self.table.currentIndex()
        if row is not None and current.isValid() and current.row() == row:
            return
        self._syncing = True
        if row is None:
            self.table.clearSelection()
            self.table.setCurrentIndex(QModelIndex())
        else:
            self.table.selectRow(row)
            self.table.scrollTo(self.model.index(row, 0))
        self._syncing = False

    def forget(self, site: Site, index: int) -> None:
        """Read what is said of a feature anew."""
        self.model.forget(site, index)

    @property
    def request(self) -> Optional[ListRequest]:
        """What is asked of the store now; None: there is no store."""
        store = self._store
        if store is None:
            return None
        state = self.states.currentData()
        among = None
        if state == "noted":
            names = (FeatureName.read(feature) for feature in self._notes)
            among = tuple(
                (name.site, name.latent)
                for name in names if name is not None and isinstance(name.latent, int)
            )  # fmt: skip
        return work_features.ListRequest(
            store, self._filter(state), self.model.order, self.search.text(), among
        )

    def _filter(self, state: str) -> FeatureFilter:
        from attention_studio.core.feature_store import FeatureFilter

        name = self.sites.currentData()
        sites = tuple(
            size.site
            for size in (self._store.about.sites if self._store is not None else ())
            if size.site.label == name
        )
        return FeatureFilter(
            sites=sites or None,
            least_density=self.least.value() / 100 or None,
            most_density=self.most.value() / 100 if self.most.value() < 100 else None,
            dead={"dead": True, "alive": False}.get(state),
            labelled={"labelled": True, "unlabelled": False}.get(state),
        )

    # -- reading --------------------------------------------------------------------------------

    @Slot()
    def renew(self) -> None:
        """Read the list anew, as the controls say."""
        self._typing.stop()
        request = self.request
        if request is None:
            return
        self._request = request
        self._pages = []
        job = self._runner.submit(
            work_features.list_features, request, 0, PAGE,
            title="List features", lane="quick", key=_LIST_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_listed)
        job.failed.connect(self.failed)

    @Slot(object)
    def _on_listed(self, found: ListedPage) -> None:
        if found.request is not self._request:
            return
        self._syncing = True
        self.model.show(found.total, found.rows)
        self._syncing = False
        about = found.request.store.about
        best = found.request.picked and found.total >= work_features.MOST_FOUND
        self._count.set_whole(
            f"{'The best ' if best else ''}{found.total:,} of {about.n_features:,} features · "
            + (f"{count(about.n_tokens)} tokens of text" if about.counted else about.origin)
        )
        self.show_feature(self._feature)

    @Slot(int)
    def _on_page_wanted(self, page: int) -> None:
        if page not in self._pages:
            self._pages.append(page)
        self._asking.start()

    @Slot()
    def _ask_pages(self) -> None:
        request, pages = self._request, self._pages
        self._pages = []
        if request is None:
            return
        # What was scrolled past meanwhile is asked for last.
        for page in pages[::-1]:
            job = self._runner.submit(
                work_features.list_features, request, page * PAGE, PAGE, self.model.n_rows,
                title="List features", lane="quick", quiet=True,
            )  # fmt: skip
            job.finished.connect(self._on_page)
            job.failed.connect(self.failed)

    @Slot(object)
    def _on_page(self, found: ListedPage) -> None:
        if found.request is self._request:
            if found.request.picked:
                self._on_listed(found)
            else:
                self.model.put(found.offset // PAGE, found.rows)
                row, self._awaited = self._awaited, -1
                if row >= 0 and row == self.table.currentIndex().row():
                    self._on_row(self.table.currentIndex(), QModelIndex())

    # -- from the person --------------------------------------------------------------------------

    @Slot()
    def _on_typed(self) -> None:
        self._typing.start()

    @Slot()
    def _on_changed(self) -> None:
        self._typing.start()

    @Slot(QModelIndex, QModelIndex)
    def _on_row(self, current: QModelIndex, _previous: QModelIndex) -> None:
        if current.isValid() and not self._syncing:
            one = self.model.feature(current.row())
            self._awaited = current.row() if one is None else -1
            if one is not None:
                self._feature = (one.site, one.index)
                self.chosen.emit(one.site, one.index)

    def step(self, feature: Optional[tuple[Site, int]], by: int) -> None:
        """Go to the next (1) or previous (−1) feature of those that the filter lets through, or to
        one by chance (0). Where features are picked one by one, that is the row below or above."""
        request = self.request
        if request is None:
            return
        if request.picked and by and self.model.n_rows:
            row = self.table.currentIndex().row() + by
            if 0 <= row < self.model.n_rows:
                self.table.selectRow(row)
            return
        job = self._runner.submit(
            work_features.step, request, feature, by,
            title="Go to another feature", lane="quick", key=_STEP_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_stepped)
        job.failed.connect(self.failed)

    @Slot(object)
    def _on_stepped(self, found: Neighbouring) -> None:
        if found.feature is not None and found.request.store is self._store:
            self.chosen.emit(*found.feature)
