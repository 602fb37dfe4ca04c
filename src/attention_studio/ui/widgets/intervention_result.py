"""What came of an intervention: both outputs side by side, and what happened to features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QModelIndex, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QSplitter,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.text import duration
from attention_studio.ui.widgets.bar_delegate import BarDelegate
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    label,
    named,
)
from attention_studio.ui.widgets.effects_table import EffectColumn, EffectsTable
from attention_studio.ui.widgets.giving_table import GivingTable, dress_table, size_columns
from attention_studio.ui.widgets.steps_table import StepColumn, StepsTable
from attention_studio.ui.widgets.token_views import ProbabilityBars

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.core.intervention_runs import InterventionRun
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme

FREEZE_WORDS = {
    "none": "nothing frozen",
    "attention": "attention and norms frozen",
    "all": "everything frozen",
}


class InterventionResult(QWidget):
    """Shows one ``InterventionRun``; says ``feature_chosen`` with the name of a feature."""

    feature_chosen = Signal(str)

    def __init__(self, theme: Theme, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("formBody")
        self._theme = theme
        self.run: Optional[InterventionRun] = None
        self.title = named(ElidedLabel(role="title"), "intervene.title", "What was done")
        self.facts = named(
            ElidedLabel(role="caption"), "intervene.facts", "How it was done and how much moved"
        )
        self.show_in_graph = CommandButton(
            commands, "intervene.show_effects", look="quiet", text="Show in graph"
        )
        self.tabs = QTabWidget()
        named(self.tabs, "intervene.results", "Results", "Outputs, and what features did")
        self.tabs.setDocumentMode(True)
        self.tabs.addTab(self._make_output(), "Output")
        self.tabs.addTab(self._make_effects(), "Features")
        head = QHBoxLayout()
        head.setContentsMargins(12, 8, 8, 0)
        words = QVBoxLayout()
        words.setSpacing(1)
        words.addWidget(self.title)
        words.addWidget(self.facts)
        head.addLayout(words, 1)
        head.addWidget(self.show_in_graph)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.tabs, 1)
        theme.changed.connect(self._size)
        self._size()

    def _make_output(self) -> QWidget:
        self.whole = [
            label("", "mono", name="intervene.text.original", wrap=True, selectable=True),
            label("", "mono", name="intervene.text.changed", wrap=True, selectable=True),
        ]
        self.bars = [
            ProbabilityBars(
                self._theme, name=f"intervene.top.{side}", accessible=f"{side} next token",
                tip="The likeliest tokens at the place that is marked in the table",
            )
            for side in ("original", "changed")
        ]  # fmt: skip
        self.steps = StepsTable(self)
        self.steps_table = QTableView()
        named(self.steps_table, "intervene.steps", "Tokens side by side",
              "Every generated token, original and changed; the marked one's alternatives above",
        )  # fmt: skip
        dress_table(self.steps_table)
        self.steps_table.setModel(self.steps)
        header = self.steps_table.horizontalHeader()
        for column in (StepColumn.ORIGINAL, StepColumn.CHANGED):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        self.steps_table.selectionModel().currentRowChanged.connect(self._on_step)
        self._place = label("", "section", name="intervene.place")
        self.parting = named(
            ElidedLabel(role="caption"), "intervene.parting", "Where the texts part"
        )
        sides = QGridLayout()
        sides.setHorizontalSpacing(24)
        sides.setVerticalSpacing(4)
        for side, caption in enumerate(("Original", "Changed")):
            sides.addWidget(label(caption, "section"), 0, side)
            sides.addWidget(self.whole[side], 1, side, Qt.AlignmentFlag.AlignTop)
            sides.addWidget(self.bars[side], 4, side, Qt.AlignmentFlag.AlignTop)
            sides.setColumnStretch(side, 1)
        sides.addWidget(self.parting, 2, 0, 1, 2)
        sides.addWidget(self._place, 3, 0, 1, 2)
        top = QWidget()
        top.setObjectName("formBody")
        inner = QVBoxLayout(top)
        inner.setContentsMargins(12, 8, 12, 6)
        inner.addLayout(sides)
        inner.addStretch(1)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.setObjectName("intervene.output")
        splitter.addWidget(top)
        splitter.addWidget(self.steps_table)
        splitter.setChildrenCollapsible(False)
        splitter.setStretchFactor(1, 1)
        return splitter

    def _make_effects(self) -> QTableView:
        self.effects = EffectsTable(self)
        self.effects_table = GivingTable({EffectColumn.TOKEN: 86, EffectColumn.BEFORE: 72})
        named(self.effects_table, "intervene.effects", "What features did",
              "Features that were changed, that moved most, and that are active only now; "
              "choosing one selects it in the graph")  # fmt: skip
        dress_table(self.effects_table)
        self.effects_table.setModel(self.effects)
        self.effects_table.setItemDelegateForColumn(
            EffectColumn.CHANGE, BarDelegate(self._theme, self.effects_table)
        )
        header = self.effects_table.horizontalHeader()
        header.setSectionResizeMode(EffectColumn.LABEL, QHeaderView.ResizeMode.Stretch)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.effects_table.setSortingEnabled(True)
        self.effects_table.selectionModel().currentRowChanged.connect(self._on_feature)
        return self.effects_table

    @Slot()
    def _size(self) -> None:
        size_columns(
            self.steps_table,
            {StepColumn.NUMBER: "20 / 20 ≠", StepColumn.ORIGINAL_SHARE: "00.0%",
             StepColumn.CHANGED_SHARE: "00.0%"},
        )  # fmt: skip
        size_columns(
            self.effects_table,
            {EffectColumn.HOW: "changed", EffectColumn.FEATURE: "A00/P00/F0000",
             EffectColumn.TOKEN: "containing", EffectColumn.BEFORE: "-00.000",
             EffectColumn.AFTER: "-00.000", EffectColumn.CHANGE: "-00.000  bar"},
        )  # fmt: skip

    # -- showing ------------------------------------------------------------------------------

    def show_run(self, run: Optional[InterventionRun], name: Callable[[str], str]) -> None:
        """Show what a run gave; ``name`` says what a feature is called."""
        self.run = run
        self.steps.show(run)
        self.effects.show(run, name)
        if run is None:
            self.title.set_whole("")
            self.facts.set_whole("")
            return
        self.title.set_whole(str(run.plan))
        self.facts.set_whole(
            f"{FREEZE_WORDS[run.plan.freeze.mode]} · next token moved by {run.divergence:.3f} nats"
            f" · {run.n_moved:,} features moved · {duration(run.seconds)} · “{run.plan.prompt}”"
        )
        found = run.generation
        texts = ("", "") if found is None else (found.original.text, found.changed[0].text)
        for shown, text in zip(self.whole, texts, strict=True):
            shown.setText(text)
            shown.setVisible(found is not None)
        self.parting.set_whole(self.steps.parting())
        # Where the texts part is what the run is looked at for.
        first = self.steps.first or 0
        self.steps_table.selectRow(first)
        self.steps_table.scrollTo(self.steps.index(first, 0))

    @Slot(QModelIndex, QModelIndex)
    def _on_step(self, current: QModelIndex, _previous: QModelIndex) -> None:
        row = current.row() if current.isValid() else 0
        for bars, candidates in zip(self.bars, self.steps.tops(row), strict=True):
            bars.set_candidates(candidates)
        self._place.setText(self.steps.place(row))

    @Slot(QModelIndex, QModelIndex)
    def _on_feature(self, current: QModelIndex, _previous: QModelIndex) -> None:
        if current.isValid():
            self.feature_chosen.emit(self.effects.name(current.row()))

    def effects_figure(self) -> Optional[Figure]:
        """What features did, for paper."""
        caption = "" if self.run is None else f"{self.run.plan}, on “{self.run.plan.prompt}”"
        return of_view(self.effects_table, "effects", "What features did", caption)
