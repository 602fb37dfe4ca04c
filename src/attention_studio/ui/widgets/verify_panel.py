"""Edges of the graph, tested in the model: which, how, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import numpy as np
from PySide6.QtCore import QModelIndex, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QHBoxLayout,
    QHeaderView,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.edge_checks import Reach, Scope, Verdict
from attention_studio.ui.figures.chart import ChartFigure, Panel, Series
from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.text import count, duration
from attention_studio.ui.widgets.agreement_plot import AgreementPlot, MarkLook, MarkShape, PlotPairs
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    EmptyState,
    label,
    named,
)
from attention_studio.ui.widgets.edges_table import EdgeColumn, EdgesTable
from attention_studio.ui.widgets.form_fields import combo, spin
from attention_studio.ui.widgets.giving_table import (
    GivingTable,
    dress_table,
    size_columns,
)
from attention_studio.ui.widgets.job_strip import JobStrip

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.core.edge_checks import EdgeReport
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.theme import Theme

FIRST_FEATURES = 64
MAX_FEATURES = 2_000
CONTROLS = 3
_LOOKS = {
    Verdict.CONFIRMED: MarkLook(MarkShape.DOT, "success"),
    Verdict.REFUTED: MarkLook(MarkShape.CROSS, "error"),
    Verdict.UNCLEAR: MarkLook(MarkShape.RING, "neutral"),
}


class VerifyPanel(QWidget):
    """Which edges are verified and how, and the report.

    Says ``settings_changed`` when other edges are meant, ``tolerance_changed`` when the same ones
    are judged otherwise, and ``node_chosen`` with the name of a node.
    """

    settings_changed = Signal()
    tolerance_changed = Signal()
    node_chosen = Signal(str)

    def __init__(
        self, theme: Theme, commands: Commands, runner: JobRunner, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("formBody")
        self._theme = theme
        self._make_controls(commands)
        self.strip = JobStrip(runner, "verify.job")
        self.table = GivingTable({EdgeColumn.CONTROL: 88, EdgeColumn.WEIGHT: 76})
        named(self.table, "verify.table", "Verified edges",
              "Edges with what was predicted and measured; choosing one selects its source in the "
              "graph")  # fmt: skip
        dress_table(self.table)
        self.edges = EdgesTable(self)
        self.table.setModel(self.edges)
        header = self.table.horizontalHeader()
        for column in (EdgeColumn.SOURCE, EdgeColumn.TARGET):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.table.setSortingEnabled(True)
        self.plot = AgreementPlot(
            theme, "verify.plot",
            "One mark for each edge: right as much as predicted, up as much as measured",
            "No edges were verified",
        )  # fmt: skip
        self._lay_out(commands)
        self.scope.currentIndexChanged.connect(self._on_settings)
        self.reach.currentIndexChanged.connect(self._on_settings)
        self.limit.valueChanged.connect(self._on_settings)
        self.tolerance.valueChanged.connect(self._on_tolerance)
        self.table.selectionModel().currentRowChanged.connect(self._on_row)
        self.plot.chosen.connect(self._on_mark)
        theme.changed.connect(self._size)
        self._size()

    def _make_controls(self, commands: Commands) -> None:
        self.scope = combo(
            "verify.scope", "Which edges", "Which edges are verified",
            [("Edges that are shown", "shown"), ("Between pinned nodes", "pinned"),
             ("At the selected node", "selected")],
        )  # fmt: skip
        self.reach = combo(
            "verify.reach", "What is measured",
            "What comes by the edge itself, with all other modules held as they were, or all that "
            "follows when the feature is taken out",
            [("The edge alone", "direct"), ("All that follows", "total")],
        )  # fmt: skip
        self.limit = spin(
            "verify.limit", "Most features", FIRST_FEATURES, 1, MAX_FEATURES, 16,
            "At most so many features are taken out, those whose edges carry most influence",
        )  # fmt: skip
        self.tolerance = spin(
            "verify.tolerance", "Tolerance", 50, 1, 100, 5,
            "By how much of the prediction a measurement may miss it and still confirm it",
        )  # fmt: skip
        self.tolerance.setPrefix("± ")
        self.tolerance.setSuffix(" %")
        for field in (self.scope, self.reach):
            field.setMinimumContentsLength(14)
        self.run = CommandButton(commands, "intervene.verify", look="primary")
        self.cost = named(ElidedLabel(role="caption"), "verify.cost", "What verifying will take")
        self.summary = named(ElidedLabel(role="text"), "verify.summary", "What verifying found")

    def _lay_out(self, commands: Commands) -> None:
        controls = QHBoxLayout()
        controls.setContentsMargins(12, 8, 12, 0)
        controls.setSpacing(8)
        controls.addWidget(self.scope)
        controls.addWidget(self.reach)
        controls.addWidget(label("at most", "caption"))
        controls.addWidget(self.limit)
        controls.addWidget(label("features,", "caption"))
        controls.addWidget(self.tolerance)
        controls.addStretch(1)
        controls.addWidget(self.run)
        facts = QHBoxLayout()
        facts.setContentsMargins(12, 0, 12, 2)
        facts.setSpacing(8)
        words = QVBoxLayout()
        words.setSpacing(1)
        words.addWidget(self.cost)
        words.addWidget(self.summary)
        facts.addLayout(words, 1)
        self.show_in_graph = CommandButton(
            commands, "intervene.show_edges", look="quiet", text="Show in graph"
        )
        facts.addWidget(self.show_in_graph)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setObjectName("verify.splitter")
        splitter.addWidget(self.table)
        splitter.addWidget(self.plot)
        splitter.setChildrenCollapsible(False)
        splitter.setStretchFactor(0, 3)
        splitter.setStretchFactor(1, 2)
        splitter.setSizes([620, 380])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(controls)
        layout.addLayout(facts)
        layout.addWidget(self.strip)
        self._body = QStackedWidget()
        self._body.addWidget(
            EmptyState(
                self._theme, "verify", "Does the graph say what happens?",
                "An edge predicts what changes when the feature that it starts at is taken away. "
                "Verify edges to take features out of the model, one at a time, and measure it: "
                "the graph then shows which edges are confirmed and which refuted.",
            )
        )  # fmt: skip
        self._body.addWidget(splitter)
        layout.addWidget(self._body, 1)
        self.show_in_graph.hide()

    @Slot()
    def _size(self) -> None:
        size_columns(
            self.table,
            {EdgeColumn.VERDICT: "✓ confirmed", EdgeColumn.WEIGHT: "+00.000",
             EdgeColumn.PREDICTED: "Predicted", EdgeColumn.MEASURED: "Measured",
             EdgeColumn.CONTROL: "Random"},
        )  # fmt: skip

    # -- what is asked for --------------------------------------------------------------------

    @property
    def asked_scope(self) -> Scope:
        """Which edges are meant."""
        scope: Scope = self.scope.currentData()
        return scope

    @property
    def asked_reach(self) -> Reach:
        """What is measured."""
        reach: Reach = self.reach.currentData()
        return reach

    @property
    def share(self) -> float:
        """The tolerance, as a share of the prediction."""
        return self.tolerance.value() / 100

    # -- showing ------------------------------------------------------------------------------

    @property
    def report(self) -> Optional[EdgeReport]:
        """What is shown."""
        return self.edges.report

    def show_report(self, report: Optional[EdgeReport], words: Callable[[str], str]) -> None:
        """Show what verifying found; ``words`` says what a node is called."""
        self._body.setCurrentIndex(0 if report is None else 1)
        self.show_in_graph.setVisible(report is not None)
        self.edges.show(report, self.share, words)
        self._show_judged()

    def _show_judged(self) -> None:
        report = self.report
        pairs = None if report is None else _pairs(report, self.edges.verdicts)
        self.plot.show_pairs(pairs, self.share)
        self.summary.set_whole("" if report is None else report_words(report, self.edges.verdicts))

    # -- figures ------------------------------------------------------------------------------

    def _caption(self) -> str:
        report = self.report
        if report is None:
            return ""
        how = "all that follows" if report.reach == "total" else "the edge alone"
        return f"“{report.prompt}”, {how}: {self.summary.whole()}"

    def table_figure(self) -> Optional[Figure]:
        """The table, for paper."""
        return of_view(self.table, "verified_edges", "Verified edges", self._caption())

    def plot_figure(self) -> Optional[Figure]:
        """Predicted against measured, for paper."""
        report, verdicts = self.report, self.edges.verdicts
        if report is None:
            return None
        reach = np.abs(np.concatenate([report.predicted, report.measured]))
        limit = float(reach.max(initial=0.0)) or 1.0
        line = np.array([-limit, limit])
        series = [Series("as predicted", line, line, "dots", 7)]
        for colour, verdict in enumerate(Verdict):
            mine = np.array([found is verdict for found in verdicts], dtype=bool)
            x, y = (c[mine].astype(np.float64) for c in (report.predicted, report.measured))
            series.append(Series(verdict.value, x, y, "points", colour))
        panel = Panel("", "predicted change", "measured change", tuple(series))
        return ChartFigure(
            "verified_edges_plot", "Predicted against measured", self._caption(), (panel,), 1
        )

    # -- from the person ----------------------------------------------------------------------

    @Slot()
    def _on_settings(self) -> None:
        self.settings_changed.emit()

    @Slot(int)
    def _on_tolerance(self, _value: int) -> None:
        self.edges.judge(self.share)
        self._show_judged()
        self.tolerance_changed.emit()

    @Slot(QModelIndex, QModelIndex)
    def _on_row(self, current: QModelIndex, _previous: QModelIndex) -> None:
        if not current.isValid() or self.report is None:
            self.plot.mark(None)
            return
        edge = self.edges.record_at(current.row())
        self.plot.mark(edge)
        self.node_chosen.emit(self.report.source[edge])

    @Slot(int)
    def _on_mark(self, edge: int) -> None:
        row = self.edges.row_of(edge)
        self.table.selectRow(row)
        self.table.scrollTo(self.edges.index(row, 0))


def _pairs(report: EdgeReport, verdicts: tuple[Verdict, ...]) -> PlotPairs:
    """The edges as marks."""

    def words(edge: int) -> str:
        return (
            f"{report.source[edge]} to {report.target[edge]}: predicted "
            f"{report.predicted[edge]:+.3f}, measured {report.measured[edge]:+.3f}, "
            f"{verdicts[edge].value}"
        )

    found = report.agreement
    told = (
        f"{len(report):,} edges, correlation {found.correlation:.2f}, slope {found.slope:.2f}, "
        f"error {found.relative_error:.2f}"
    )
    looks = tuple(_LOOKS[verdict] for verdict in verdicts)
    return PlotPairs(report.predicted, report.measured, looks, words, told)


def report_words(report: EdgeReport, verdicts: tuple[Verdict, ...]) -> str:
    """What verifying found, in one line."""
    parts = [
        f"{count(sum(found is verdict for found in verdicts))} {verdict.value}"
        for verdict in (Verdict.CONFIRMED, Verdict.REFUTED, Verdict.UNCLEAR)
    ]
    found = report.agreement
    return (
        f"{', '.join(parts)} · r {found.correlation:.2f}, slope {found.slope:.2f}, error "
        f"{found.relative_error:.2f} · {duration(report.seconds)}"
    )
