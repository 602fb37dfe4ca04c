"""The whole graph held against the model: what it predicts for drawn features, and what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from PySide6.QtCore import QModelIndex, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QHeaderView,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.intervention_specs import Edit, Intervention, features_named
from attention_studio.ui import work_interventions as work
from attention_studio.ui.figures.chart import ChartFigure, Panel, Series
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.intervention_costs import validation_cost
from attention_studio.ui.intervention_marks import latest_report, with_report
from attention_studio.ui.session import SessionPart
from attention_studio.ui.when import can_verify
from attention_studio.ui.widgets.agreement_plot import (
    AgreementPlot,
    MarkLook,
    MarkShape,
    PlotPairs,
)
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    EmptyState,
    named,
    row,
)
from attention_studio.ui.widgets.form_fields import combo, spin
from attention_studio.ui.widgets.giving_table import GivingTable, dress_table, size_columns
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.validation_table import (
    AgreementColumn,
    AgreementTable,
    CheckColumn,
    ChecksTable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.validation_report import Pairs, ValidationReport
    from attention_studio.core.workspace import Workspace
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobFailure, JobRunner
    from attention_studio.ui.pass_timer import PassTimer
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme

VALIDATE_KEY = "intervene.validate"
KIND = "validation"
"""Of the records that are kept."""
FIRST_FEATURES, MAX_FEATURES, MAX_SEED = 32, 2_000, 999_999
_READ_KEY = "intervene.validation"
_MEASURED = MarkLook(MarkShape.DOT, "accent")
_CONTROL = MarkLook(MarkShape.RING, "neutral")
_GROUP = MarkLook(MarkShape.SQUARE, "warning")
_PARTS = frozenset((SessionPart.GRAPH, SessionPart.CRM, SessionPart.RECORDS))


class ValidatePanel(QWidget):
    """Draws features, takes each out of the model, and shows predicted beside measured.

    Says ``node_chosen`` with the name of a node, and ``message`` with a ``Message``.

    Args:
        theme, commands, runner: the window's.
        session: holds the graph, and keeps what was found.
        timer: knows how long a pass over the graph's prompt takes.
        words: what a node is called.
    """

    node_chosen = Signal(str)
    message = Signal(object)

    def __init__(
        self,
        theme: Theme,
        commands: Commands,
        runner: JobRunner,
        session: Session,
        timer: PassTimer,
        words: Callable[[str], str],
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("formBody")
        self._theme, self._runner, self._session = theme, runner, session
        self._timer, self._words = timer, words
        self._graph: Optional[AttributionGraph] = None
        self._record: Optional[dict[str, Any]] = None
        self._fresh: Optional[work.KeptValidation] = None
        self._home: Optional[Workspace] = None
        self.report: Optional[ValidationReport] = None
        self._samples: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._make_controls(commands)
        self._make_tables()
        self.strip = JobStrip(runner, "validate.job")
        self._lay_out()
        timer.known.connect(self._show_cost)
        theme.changed.connect(self._size)
        self._size()

    # -- building -----------------------------------------------------------------------------

    def _make_controls(self, commands: Commands) -> None:
        self.samples = spin(
            "validate.samples", "Features", FIRST_FEATURES, 1, MAX_FEATURES, 16,
            "So many features are drawn, in proportion to the effect that the graph predicts for "
            "the likeliest token, and taken out of the model one at a time",
        )  # fmt: skip
        self.samples.setSuffix(" features")
        self.seed = spin(
            "validate.seed", "Seed", 0, 0, MAX_SEED, 1,
            "Which features are drawn, and the random directions that they are held against",
        )  # fmt: skip
        self.seed.setPrefix("seed ")
        self.with_groups = named(
            QCheckBox("Supernodes"), "validate.groups", "Supernodes too",
            "Take each supernode of the graph out as a whole, too",
        )  # fmt: skip
        self.with_groups.setChecked(True)
        self.run = CommandButton(commands, "intervene.validate", look="primary", text="Validate")
        self.cost = named(ElidedLabel(role="caption"), "validate.cost", "What validating will take")
        self.summary = named(ElidedLabel(role="text"), "validate.summary", "What validating found")
        self.view = combo(
            "validate.view", "Table", "Which figures the table has",
            [("By module", "modules"), ("By feature", "features")], whole=True,
        )  # fmt: skip
        self.plotted = combo(
            "validate.plotted", "Plotted", "Which changes are plotted",
            [("Logits", "logits"), ("Features downstream", "features")], whole=True,
        )  # fmt: skip
        self.samples.valueChanged.connect(self._show_cost)
        self.with_groups.toggled.connect(self._show_cost)
        self.view.currentIndexChanged.connect(self._on_view)
        self.plotted.currentIndexChanged.connect(self._show_plot)

    def _make_tables(self) -> None:
        self.agreements = AgreementTable(self)
        self.modules = GivingTable({AgreementColumn.PAIRS: 48, AgreementColumn.ERROR: 36})
        named(self.modules, "validate.modules", "Agreement by module",
              "How measured changes agree with predicted ones, over all and module by module",
        )  # fmt: skip
        self.modules.setModel(self.agreements)
        self.checks = ChecksTable(self)
        self.features = GivingTable({CheckColumn.CONTROL: 60, CheckColumn.TOKEN: 48})
        named(self.features, "validate.features", "Features that were taken out",
              "What each did to the token that it should move most; choosing one selects it in the "
              "graph")  # fmt: skip
        self.features.setModel(self.checks)
        for table, whole in (
            (self.modules, AgreementColumn.WHAT),
            (self.features, CheckColumn.WHAT),
        ):
            dress_table(table)
            header = table.horizontalHeader()
            header.setSectionResizeMode(whole, QHeaderView.ResizeMode.Stretch)
            header.setSortIndicatorClearable(True)
            header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
            table.setSortingEnabled(True)
        self.features.selectionModel().currentRowChanged.connect(self._on_row)
        self.plot = AgreementPlot(
            self._theme, "validate.plot",
            "Right as much as predicted, up as much as measured: a dot for each feature that was "
            "taken out and each thing that it moves, a square for supernodes, a ring for random "
            "directions", "Nothing was validated",
        )  # fmt: skip
        self.plot.chosen.connect(self._on_mark)

    def _lay_out(self) -> None:
        controls = QHBoxLayout()
        controls.setContentsMargins(12, 8, 12, 0)
        controls.setSpacing(8)
        for field in (self.samples, self.seed, self.with_groups):
            controls.addWidget(field)
        controls.addStretch(1)
        controls.addWidget(self.run)
        words = QVBoxLayout()
        words.setContentsMargins(12, 0, 12, 2)
        words.setSpacing(1)
        words.addWidget(self.cost)
        words.addWidget(self.summary)
        self._tables = QStackedWidget()
        self._tables.addWidget(self.modules)
        self._tables.addWidget(self.features)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setObjectName("validate.splitter")
        splitter.addWidget(_below(self.view, self._tables))
        splitter.addWidget(_below(self.plotted, self.plot))
        splitter.setChildrenCollapsible(False)
        splitter.setStretchFactor(0, 3)
        splitter.setStretchFactor(1, 2)
        splitter.setSizes([600, 400])
        self._body = QStackedWidget()
        self._body.addWidget(
            EmptyState(
                self._theme, "verify", "Can the graph be believed?",
                "Validate it: features are drawn and taken out of the model one at a time, with "
                "nothing frozen, and what happens to the next tokens and to all features "
                "downstream is held against what the graph predicts, beside random directions of "
                "the same size.",
            )
        )  # fmt: skip
        self._body.addWidget(splitter)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(controls)
        layout.addLayout(words)
        layout.addWidget(self.strip)
        layout.addWidget(self._body, 1)

    @Slot()
    def _size(self) -> None:
        size_columns(
            self.modules,
            {AgreementColumn.CORRELATION: "-0.00", AgreementColumn.SLOPE: "Slope",
             AgreementColumn.ERROR: "Error", AgreementColumn.PAIRS: "100,000"},
        )  # fmt: skip
        size_columns(
            self.features,
            {CheckColumn.TOKEN: "information", CheckColumn.PREDICTED: "Predicted",
             CheckColumn.MEASURED: "Measured", CheckColumn.CONTROL: "Random"},
        )  # fmt: skip

    # -- what is asked for --------------------------------------------------------------------

    def groups(self) -> tuple[Intervention, ...]:
        """The supernodes that are taken out as a whole."""
        if not self.with_groups.isChecked():
            return ()
        groups = self._session.notes.supernodes
        return tuple(
            Intervention((Edit(members, "ablate"),), group.name)
            for group in groups
            if (members := features_named(group.nodes))
        )

    def start(self) -> None:
        """Validate the graph."""
        crm, graph = self._session.crm, self._session.graph
        if crm is None or graph is None:
            return
        self._home = self._session.home
        job = self._runner.submit(
            work.validate_graph, crm, graph.prompt, self.samples.value(), self.seed.value(),
            self.groups(), title="Validate graph", key=VALIDATE_KEY,
        )  # fmt: skip
        job.finished.connect(self._on_validated)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    @Slot(object)
    def _on_validated(self, kept: work.KeptValidation) -> None:
        # Another graph may have taken its place; what was found is kept all the same.
        self._fresh = kept
        self._session.add_record(KIND, kept.record, home=self._home, among=with_report)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    @Slot()
    def _show_cost(self) -> None:
        if not can_verify(self._session):
            self.cost.set_whole("Trace a prompt with the replacement model that is open")
            return
        graph = self._session.graph
        assert graph is not None  # else it could not be verified
        cost = self._timer.cost(self._session.crm, graph.prompt)
        self.cost.set_whole(validation_cost(cost, self.samples.value(), len(self.groups())))

    # -- showing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        if parts & _PARTS:
            self._find()
        self._show_cost()

    def _find(self) -> None:
        """Show what was found of this graph before, if anything was."""
        graph = self._session.graph
        kept = self._session.records.get(KIND, ())
        record = None if graph is None else latest_report(kept, graph)
        if graph is self._graph and record is self._record:
            return
        self._graph, self._record = graph, record
        fresh, self._fresh = self._fresh, None
        if record is None:
            # It may have been validated elsewhere, and bring that along.
            self._runner.cancel_key(_READ_KEY)
            found = None if graph is None else graph.validation
            self.show_report(found if found is not None and found.belongs_to(graph) else None)
        elif fresh is not None and fresh.record is record:
            self.show_report(fresh.report)
        else:
            self.show_report(None)
            job = self._runner.submit(
                work.read_validation, record, title="Open validation", lane="quick",
                key=_READ_KEY, quiet=True,
            )  # fmt: skip
            job.finished.connect(self._on_read)
            job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_read(self, kept: work.KeptValidation) -> None:
        if kept.record is self._record:
            self.show_report(kept.report)

    def show_report(self, report: Optional[ValidationReport]) -> None:
        """Show what a validation found; None: nothing."""
        self.report = report
        self._body.setCurrentIndex(0 if report is None else 1)
        self.agreements.show(report)
        self.checks.show(report, self._words)
        self.summary.set_whole("" if report is None else validation_words(report))
        self._show_plot()

    @Slot()
    def _show_plot(self) -> None:
        report = self.report
        self._samples = np.zeros(0, dtype=np.int64)
        if report is None:
            self.plot.show_pairs(None)
            return
        logits = self.plotted.currentData() == "logits"
        pairs = report.logit_pairs if logits else report.feature_pairs
        agreement = report.logits if logits else report.features
        n = len(pairs)
        self._samples = np.concatenate([pairs.sample, pairs.sample])
        names = [self.checks.name_of(record) for record in range(self.checks.n_records)]

        def words(mark: int) -> str:
            name = names[int(self._samples[mark])]
            predicted = f"predicted {pairs.predicted[mark % n]:+.3f}"
            if mark < n:
                return f"Random direction for {name}: {predicted}, {pairs.control[mark]:+.3f} came"
            return f"Without {name}: {predicted}, measured {pairs.measured[mark - n]:+.3f}"

        looks = [_MEASURED if s < report.n_samples else _GROUP for s in pairs.sample.tolist()]
        told = (
            f"{n:,} changes, correlation {agreement.correlation:.2f}, slope "
            f"{agreement.slope:.2f}, error {agreement.relative_error:.2f}"
        )
        self.plot.show_pairs(
            PlotPairs(
                np.concatenate([pairs.predicted, pairs.predicted]),
                np.concatenate([pairs.control, pairs.measured]),
                (*[_CONTROL] * n, *looks),
                words,
                told,
            )
        )

    # -- from the person ----------------------------------------------------------------------

    @Slot(int)
    def _on_view(self, index: int) -> None:
        self._tables.setCurrentIndex(index)

    @Slot(QModelIndex, QModelIndex)
    def _on_row(self, current: QModelIndex, _previous: QModelIndex) -> None:
        node = (
            self.checks.node_of(self.checks.record_at(current.row())) if current.isValid() else None
        )
        if node is not None:
            self.node_chosen.emit(node)

    @Slot(int)
    def _on_mark(self, mark: int) -> None:
        self.plot.mark(mark)
        self.view.setCurrentIndex(1)
        at = self.checks.row_of(int(self._samples[mark]))
        self.features.selectRow(at)
        self.features.scrollTo(self.checks.index(at, 0))

    # -- figures ------------------------------------------------------------------------------

    def figures(self) -> tuple[FigureOffer, ...]:
        """Figures of what is shown."""
        if self.report is None:
            return ()
        return (
            FigureOffer("validate.plot", "Validation", self.plot_figure),
            FigureOffer("validate.modules", "Agreement by module", self.modules_figure),
        )

    def _caption(self, report: ValidationReport) -> str:
        return f"“{report.prompt}”: {validation_words(report)}"

    def modules_figure(self) -> Optional[Figure]:
        """The figures of every module, for paper."""
        if self.report is None:
            return None
        caption = self._caption(self.report)
        return of_view(self.modules, "validation", "Agreement by module", caption)

    def plot_figure(self) -> Optional[Figure]:
        """Predicted against measured, of logits and of features downstream, for paper."""
        report = self.report
        if report is None:
            return None
        panels = (
            _panel("Logits", report.logit_pairs, report.n_samples),
            _panel("Features downstream", report.feature_pairs, report.n_samples),
        )
        return ChartFigure("validation_plot", "Validation", self._caption(report), panels, 2)


def validation_words(report: ValidationReport) -> str:
    """What a validation found, in one line."""
    logits, features, control = report.logits, report.features, report.control
    return (
        f"Logits: r {logits.correlation:.2f}, slope {logits.slope:.2f}, error "
        f"{logits.relative_error:.2f} · features downstream: r {features.correlation:.2f}, slope "
        f"{features.slope:.2f} · random directions: r {control.correlation:.2f}"
    )


def _below(field: QWidget, content: QWidget) -> QWidget:
    """What a field chooses, below it."""
    box = QWidget()
    layout = QVBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    head = row(field)
    head.setContentsMargins(12, 2, 12, 0)
    layout.addLayout(head)
    layout.addWidget(content, 1)
    return box


def _panel(title: str, pairs: Pairs, n_samples: int) -> Panel:
    columns = (pairs.predicted, pairs.measured, pairs.control)
    limit = max(float(np.abs(column).max(initial=0.0)) for column in columns) or 1.0
    line = np.array([-limit, limit])
    alone = pairs.sample < n_samples
    series = [Series("as predicted", line, line, "dots", 7)]
    for colour, (text, mine, column) in enumerate(
        (
            ("features", alone, pairs.measured),
            ("supernodes", ~alone, pairs.measured),
            ("random directions", alone, pairs.control),
        )
    ):
        if mine.any():
            x, y = (values[mine].astype(np.float64) for values in (pairs.predicted, column))
            series.append(Series(text, x, y, "points", colour))
    return Panel(title, "predicted change", "measured change", tuple(series))
