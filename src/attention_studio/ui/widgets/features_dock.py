"""The Features dock: lists of features (of the prompt, of a store), one in detail, two compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QSplitter, QTabWidget, QVBoxLayout, QWidget

from attention_studio.ui import work
from attention_studio.ui.feature_labels import FeatureLabelling, feature_notes
from attention_studio.ui.figures.feature_figure import FeatureFigure
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart, feature_id
from attention_studio.ui.widgets.controls import (
    CommandButton,
    CommandTool,
    label,
    named,
)
from attention_studio.ui.widgets.dashboard_builder import DashboardBuilder
from attention_studio.ui.widgets.feature_detail import FeatureDetail
from attention_studio.ui.widgets.feature_lookup import FeatureLookup
from attention_studio.ui.widgets.features_model import feature_parts
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.prompt_features import PromptFeatures
from attention_studio.ui.widgets.store_list import StoreList
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from attention_studio.core.feature_extractor import FeatureReport
    from attention_studio.core.sites import Site

TOP_K = 20
_KEY = "features.extract"
_BESIDE = 74
"""Letters across from which on the detail stands beside the list, not below it."""
_TOOLS = ("features.previous", "features.next", "features.random", "features.compare")


class FeaturesDock(StudioDock):
    """Features: those of the prompt, those of a store, and what is known of one or two of them.

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
            SessionPart.FEATURE,
            SessionPart.STORE,
            SessionPart.LABELS,
            SessionPart.SELECTION,
            SessionPart.PINNED,
            SessionPart.NOTES,
            SessionPart.RECORDS,
        )
    )

    message = Signal(object)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._kept: Optional[tuple[Site, int]] = None
        self.strip = JobStrip(self.runner, "features.job")
        self._again = CommandButton(
            self.commands, "features.extract", look="quiet", text="Extract for the new prompt"
        )
        self._again.setObjectName("features.again")
        self.prompt = PromptFeatures(self.theme, self._again)
        self.list = StoreList(self.runner, self._store_tools())
        self.builder = DashboardBuilder(self.session, self.runner, self.commands, self.theme)
        self.detail = FeatureDetail(
            self.theme,
            foot=CommandButton(self.commands, "features.build", text="Build dashboards"),
        )
        for command_id in _TOOLS:
            self.detail.add_tool(CommandTool(self.commands, command_id, f"{command_id}.tool"))
        self.lookup = FeatureLookup(self.session, self.runner, self.detail, "features", self)
        self.beside = FeatureDetail(self.theme, "features.beside")
        self.beside.add_tool(
            CommandTool(self.commands, "features.compare_none", "features.compare_none.tool")
        )
        self.beside.pin.hide()
        self.beside.hide()
        self.beside_lookup = FeatureLookup(
            self.session, self.runner, self.beside, "features.beside", self
        )
        # What tests and figures know the list of the prompt by.
        self.model, self.table = self.prompt.model, self.prompt.table
        self.which, self.filter = self.prompt.which, self.prompt.filter
        self._typing = self.prompt._typing
        self._set_up()
        self._connect()

    # -- building -----------------------------------------------------------------------------

    def _set_up(self) -> None:
        self.pages = QTabWidget()
        named(self.pages, "features.pages", "Which features are listed")
        self.pages.setDocumentMode(True)
        for page, text, tip in (
            (self.prompt, "On the prompt", "What is active on the prompt"),
            (self.list, "All features", "Every feature, from dashboards over a text"),
            (self.builder, "Build", "Build dashboards: pages about every feature, from a text"),
        ):
            self.pages.setTabToolTip(self.pages.addTab(page, text), tip)
        self._nothing = label(
            "Extract the features of the prompt to list them here.", "muted", wrap=True,
            name="features.nothing",
        )  # fmt: skip
        self._extract = CommandButton(self.commands, "features.extract", text="Extract features")
        self._extract.setObjectName("features.extract.here")
        layout = self.prompt.layout()
        assert isinstance(layout, QVBoxLayout)
        hint = QWidget()
        inside = QVBoxLayout(hint)
        inside.setContentsMargins(12, 4, 12, 8)
        inside.addWidget(self._nothing)
        inside.addWidget(self._extract, 0, Qt.AlignmentFlag.AlignLeft)
        self._hint = hint
        layout.insertWidget(1, hint)
        self._details = QSplitter(Qt.Orientation.Horizontal)
        self._details.setObjectName("features.details")
        self._details.addWidget(self.detail)
        self._details.addWidget(self.beside)
        self._details.setChildrenCollapsible(False)
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.setObjectName("features.splitter")
        self.splitter.addWidget(self.pages)
        self.splitter.addWidget(self._details)
        self.splitter.setStretchFactor(0, 1)
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([420, 430])
        self.splitter.setChildrenCollapsible(False)
        body = QWidget()
        body.setObjectName("formBody")
        whole = QVBoxLayout(body)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(2)
        whole.addWidget(self.splitter, 1)
        whole.addWidget(self.strip)
        self.set_content(body)
        self.set_empty(
            "No features yet",
            "Features are the concepts that the replacement model reads in each layer. Here they "
            "are listed by how strongly they fire on the prompt, with the words that they promote; "
            "dashboards list all of them, with the texts on which they fire.",
            self._make_ways(),
        )

    def _make_ways(self) -> QWidget:
        """How the empty dock can be filled."""
        ways = QWidget()
        column = QVBoxLayout(ways)
        column.setContentsMargins(0, 0, 0, 0)
        extract = CommandButton(
            self.commands, "features.extract", look="primary", text="Extract features"
        )
        column.addWidget(extract, 0, Qt.AlignmentFlag.AlignHCenter)
        more = QHBoxLayout()
        more.addStretch(1)
        for command_id, text in (
            ("features.build", "Build dashboards"),
            ("features.open_store", "Open dashboards"),
        ):
            button = CommandButton(self.commands, command_id, look="quiet", text=text)
            button.setObjectName(f"{command_id}.empty")
            more.addWidget(button)
        more.addStretch(1)
        column.addLayout(more)
        self._waiting = JobStrip(self.runner, "features.job.first")
        column.addWidget(self._waiting)
        return ways

    def _store_tools(self) -> tuple[QWidget, ...]:
        """What one does with dashboards, beside their list."""
        made = []
        for command_id, text in (("features.build", "Build"), ("features.open_store", "Open")):
            button = CommandButton(self.commands, command_id, look="quiet", text=text)
            button.setObjectName(f"{command_id}.list")
            made.append(button)
        return tuple(made)

    def _connect(self) -> None:
        self.prompt.chosen.connect(self._on_name)
        self.list.chosen.connect(self._on_chosen)
        self.list.failed.connect(self._on_failed)
        for lookup in (self.lookup, self.beside_lookup):
            lookup.failed.connect(self._on_failed)
            lookup.went.connect(self._on_chosen)
        # Where the list is scrolled to is less urgent than the page, and takes as long to paint.
        self.lookup.shown.connect(self.list.seek)
        self.detail.pin.clicked.connect(self._on_pin)
        self.builder.message.connect(self.message)
        self.pages.currentChanged.connect(self._on_page)
        labelling = FeatureLabelling.of(self.session, self.runner)
        labelling.written.connect(self.list.forget)
        labelling.failed.connect(self._on_failed)
        self.theme.changed.connect(self.list.fit)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the detail beside the list where there is room, else below it."""
        super().resizeEvent(event)
        if not self.made:
            return
        letters = event.size().width() / max(1, self.fontMetrics().averageCharWidth())
        wide = letters >= _BESIDE
        way = Qt.Orientation.Horizontal if wide else Qt.Orientation.Vertical
        if self.splitter.orientation() != way:
            self.splitter.setOrientation(way)
            self.splitter.setSizes([440, 560] if wide else [420, 430])

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

    def _show_details(self) -> None:
        """Bring the detail into sight, whatever the dock shows."""
        self.show()
        self.raise_()
        if self.pages.currentWidget() is self.builder:
            listed = self.session.store is not None
            self.pages.setCurrentWidget(self.list if listed else self.prompt)

    @Slot()
    def go_next(self) -> None:
        """Show the next feature of the list."""
        self.list.step(self.session.feature, 1)

    @Slot()
    def go_previous(self) -> None:
        """Show the feature before this one in the list."""
        self.list.step(self.session.feature, -1)

    @Slot()
    def go_random(self) -> None:
        """Show any feature of the list."""
        self.list.step(self.session.feature, 0)

    @Slot(object, int, int, int)
    def show_example(self, site: Site, index: int, sequence: int, at: int) -> None:
        """Show a feature's page at the example of row ``sequence`` of the text that has position
        ``at``, as soon as it is read; where the page has none, the page alone."""
        self.go_there()
        self._show_details()
        self.detail.await_example(site, index, sequence, at)
        self._on_chosen(site, index)

    @Slot()
    def focus_search(self) -> None:
        """Go to the search among all features."""
        self.show()
        self.raise_()
        self.pages.setCurrentIndex(1)
        self.show_empty(False)
        self.list.search.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.list.search.selectAll()

    @Slot()
    def show_builder(self) -> None:
        """Go to where dashboards are built."""
        self.show()
        self.raise_()
        self.show_empty(False)
        self.pages.setCurrentWidget(self.builder)
        self.builder.tokens.setFocus(Qt.FocusReason.ShortcutFocusReason)

    @Slot()
    def compare(self) -> None:
        """Keep the feature that is shown beside the ones that are looked at from now on."""
        feature = self.session.feature
        if feature is not None:
            self._show_details()
            self._kept = feature
            self.beside.show()
            self.beside_lookup.look_at(feature, report=self.session.features)
            self._details.setSizes([1, 1])

    @Slot()
    def compare_none(self) -> None:
        """Show one feature again."""
        self._kept = None
        self.beside.hide()
        self.beside_lookup.look_at(None)

    @Slot()
    def edit_label(self) -> None:
        """Go to the label of the feature that is shown."""
        self._show_details()
        self.detail.label_edit.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.detail.label_edit.selectAll()

    @Slot()
    def try_text(self) -> None:
        """Go to the box for a text of one's own."""
        self._show_details()
        self.detail.text.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.detail.ensureWidgetVisible(self.detail.text)

    @Slot(object)
    def _on_report(self, report: FeatureReport) -> None:
        self.session.set_features(report)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- from the person ----------------------------------------------------------------------

    @Slot(str)
    def _on_name(self, name: str) -> None:
        self.session.set_selection(name, initiator=self)
        self._show_feature()

    @Slot(object, int)
    def _on_chosen(self, site: Site, index: int) -> None:
        """Look at a feature; where it fires on the prompt it is selected there too."""
        report = self.session.features
        if report is not None and self.session.feature != (site, index):
            values = report.activations(site, index)
            name = feature_id(site, int(values.argmax()), index)
            if values.any() and self.prompt.record_of(name) is not None:
                self.session.set_selection(name, initiator=self)
        self.session.set_feature((site, index), initiator=self)
        self._show_feature()

    @Slot(int)
    def _on_page(self, _page: int) -> None:
        building = self.pages.currentWidget() is self.builder
        self._details.setVisible(not building)
        if building:
            self.builder.begin()

    @Slot()
    def _on_pin(self) -> None:
        view = self.detail.view
        if view is not None and view.node is not None:
            self.session.toggle_pin(view.node)

    # -- figures --------------------------------------------------------------------------------

    def figures(self) -> tuple[FigureOffer, ...]:
        """The page of the feature, and the list that is shown."""
        offers = []
        if self.detail.view is not None and not self.empty:
            title = f"Feature {self.detail.view.name}"
            offers.append(FigureOffer("feature", title, self._page_figure))
        if self.prompt.report is not None:
            offers.append(FigureOffer("features", "Features", self._figure))
        return tuple(offers)

    def _page_figure(self) -> Optional[Figure]:
        view = self.detail.view
        if view is None:
            return None
        about = self.session.store.about if self.session.store is not None else None
        text = (
            ""
            if about is None or view.page is None or not about.counted
            else (f" Over {about.n_tokens:,} tokens of text in {about.model_name}.")
        )
        caption = f"Feature {view.name} of {self._where()}.{text}"
        return FeatureFigure("feature", f"Feature {view.name}", caption, view)

    def _figure(self) -> Optional[Figure]:
        report = self.prompt.report
        if report is None:
            return None
        caption = f"The strongest features on “{report.prompt}” in {self._where()}."
        return of_view(self.table, "features", "Features", caption)

    def _where(self) -> str:
        info, crm = self.session.model_info, self.session.crm
        names = [info.name if info is not None else "", crm.name if crm is not None else ""]
        return ", replaced by ".join(name for name in names if name)

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        session, report = self.session, self.session.features
        if SessionPart.STORE in parts:
            self._show_store()
        if report is not self.prompt.report:
            self.lookup.forget()
            self.beside_lookup.forget()
        listed = report is not None and self.prompt.report is None
        self.prompt.show_report(report)
        if parts & {SessionPart.NOTES, SessionPart.LABELS}:
            self.prompt.show_labels(session.labels)
        if parts & {SessionPart.RECORDS, SessionPart.CRM, SessionPart.STORE}:
            self.list.show_notes(feature_notes(session))
        if listed:
            self.pages.setCurrentIndex(0)
        self._show_feature()
        building = self.pages.currentWidget() is self.builder and not self.empty
        if not building:
            self.show_empty(report is None and session.store is None)
        self._hint.setVisible(report is None)
        stale = report is not None and report.prompt.strip() != session.prompt.strip()
        self._again.setVisible(stale and session.crm is not None)

    def _show_store(self) -> None:
        store = self.session.store
        self.list.show_store(store)
        for part in (self.list.search, self.list.states, self.list.sites, self.list.table):
            part.setEnabled(store is not None)
        building = self.pages.currentWidget() is self.builder
        if store is not None and (building or self.prompt.report is None):
            self.pages.setCurrentWidget(self.list)

    def _show_feature(self) -> None:
        """Show what is looked at in the lists and in the details."""
        session, report = self.session, self.session.features
        feature, selection = session.feature, session.selection
        parts = feature_parts(selection) if selection is not None else None
        of_node = parts is not None and feature == (parts[0], parts[2])
        self.prompt.show_selected(selection)
        self.list.show_feature(feature, later=True)
        if parts is not None and of_node:
            record = self.prompt.record_of(selection)
            self.lookup.look_at(feature, selection, parts[1], report, record)
        else:
            self.lookup.look_at(feature, report=report)
        if self._kept is not None:
            self.beside_lookup.look_at(self._kept, report=report)
