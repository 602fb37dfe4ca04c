"""The pages of the Compare dock: nodes, edges, which tokens stand for each other, a report, and
what was compared before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QSpinBox,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.ui.difference_highlight import MORE_FIRST, MORE_SECOND, Which
from attention_studio.ui.widgets.bar_delegate import BarDelegate
from attention_studio.ui.widgets.compare_models import (
    EdgesTable,
    FactsTable,
    HistoryTable,
    NodesTable,
    facts_of,
    when_of,
)
from attention_studio.ui.widgets.controls import ElidedLabel, label, named, row
from attention_studio.ui.widgets.form_fields import inset
from attention_studio.ui.widgets.giving_table import GivingTable
from attention_studio.ui.widgets.positions_table import PositionsTable

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.work_comparing import Alignment, Compared

TOLERANCE_PERCENT = 20
_WHICH = (
    ("All that differs", Which.DIFFERENT),
    ("Only in the first", Which.FIRST),
    ("Only in the second", Which.SECOND),
    ("In both, changed", Which.CHANGED),
    ("Everything", Which.ALL),
)
_ALIGNMENTS: tuple[tuple[str, Alignment], ...] = (
    ("By their tokens", "tokens"),
    ("By number from the start", "number"),
    ("By number from the end", "end"),
    ("By hand", "hand"),
)


class ComparePages(QWidget):
    """Two graphs side by side.

    ``node_chosen`` carries a row of the compared nodes, ``aligned`` a way to align positions,
    ``paired`` a position of the first and one of the second; ``listed`` says that other rows, or
    another tolerance, were chosen.
    """

    node_chosen = Signal(int)
    aligned = Signal(str)
    paired = Signal(int, int)
    listed = Signal()

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._shown: Optional[Compared] = None
        self._notes = GraphNotes()
        self.nodes, self.edges = NodesTable(theme, self), EdgesTable(theme, self)
        self.facts, self.history = FactsTable(theme, self), HistoryTable(self)
        self.node_table = self._table(
            self.nodes, "compare.nodes", "Nodes of both graphs",
            "Enter or click selects the node in the graph, where it is in the first",
        )  # fmt: skip
        self.edge_table = self._table(
            self.edges, "compare.edges", "Edges of both graphs",
            "Enter or click selects the edge's target in the graph",
        )  # fmt: skip
        self.fact_table = self._table(
            self.facts, "compare.facts", "What the two were made of and with",
            "What is not the same is marked",
        )  # fmt: skip
        self.history_table = self._table(
            self.history, "compare.history", "Earlier comparisons",
            "Enter or click shows its report",
        )  # fmt: skip
        self.position_table = PositionsTable()
        self._make_controls()
        self.tabs = QTabWidget()
        named(self.tabs, "compare.tabs", "Pages of the comparison")
        self.tabs.setDocumentMode(True)
        for text, page in (
            ("Nodes", _page(self.node_table)),
            ("Edges", _page(self.edge_table)),
            ("Positions", self._make_positions()),
            ("Report", self._make_report()),
            ("Earlier", _page(self.history_table)),
        ):
            self.tabs.addTab(page, text)
        self._told = ElidedLabel(role="caption")
        named(self._told, "compare.told", "What came of the comparison")
        head = row(self._told, self.which, self.tolerance, stretch=0)
        head.setContentsMargins(12, 6, 10, 4)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(head)
        layout.addWidget(self.tabs, 1)
        self._size()
        self._connect()

    # -- building -----------------------------------------------------------------------------

    def _table(
        self, model: QAbstractTableModel, name: str, accessible: str, tip: str
    ) -> QTableView:
        gives = {2: 88, 5: 66} if isinstance(model, NodesTable) else {}
        table = named(GivingTable(gives), name, accessible, tip)
        table.setToolTip("")
        table.setModel(model)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setTabKeyNavigation(False)
        table.verticalHeader().hide()
        header = table.horizontalHeader()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setHighlightSections(False)
        if isinstance(model, (NodesTable, EdgesTable)):
            header.setSortIndicatorClearable(True)
            header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
            table.setSortingEnabled(True)
            for column in range(model.NUMBERS_FROM, len(model.HEADS)):
                table.setItemDelegateForColumn(column, BarDelegate(self._theme, table))
            header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
            if isinstance(model, EdgesTable):
                header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        else:
            for column in (1, 2):
                header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
            if isinstance(model, HistoryTable):
                header.setSectionResizeMode(3, QHeaderView.ResizeMode.Stretch)
        return table

    def _make_controls(self) -> None:
        self.which = QComboBox()
        named(self.which, "compare.which", "Which nodes and edges are listed",
              "Only what differs, or only some of it")  # fmt: skip
        for text, which in _WHICH:
            self.which.addItem(text, which)
        self.tolerance = inset(QSpinBox())
        named(self.tolerance, "compare.tolerance", "From when on something has changed",
              "What is in both counts as changed where it differs by more than this share of the "
              "larger one")  # fmt: skip
        self.tolerance.setRange(0, 99)
        self.tolerance.setValue(TOLERANCE_PERCENT)
        self.tolerance.setPrefix("changed by over ")
        self.tolerance.setSuffix("%")
        self.tolerance.setSingleStep(5)

    def _make_positions(self) -> QWidget:
        self.how = QComboBox()
        named(self.how, "compare.how", "How positions are aligned",
              "How to find out which token of the second prompt plays the part of which of the "
              "first; the table below can be changed by hand")  # fmt: skip
        for text, how in _ALIGNMENTS:
            self.how.addItem(text, how)
        self._pairs = ElidedLabel(role="caption")
        named(self._pairs, "compare.pairs", "How many positions are aligned")
        page = QWidget()
        page.setObjectName("formBody")
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        head = QHBoxLayout()
        head.setContentsMargins(12, 6, 10, 4)
        head.setSpacing(8)
        head.addWidget(label("Align positions", "caption"))
        head.addWidget(self.how)
        head.addWidget(self._pairs, 1)
        layout.addLayout(head)
        layout.addWidget(self.position_table, 1)
        return page

    def _make_report(self) -> QWidget:
        self._report = label("", "text", wrap=True, selectable=True, name="compare.report")
        self._report.setContentsMargins(12, 8, 12, 6)
        page = QWidget()
        page.setObjectName("formBody")
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._report)
        layout.addWidget(self.fact_table, 1)
        return page

    @Slot()
    def _size(self) -> None:
        for table, samples in (
            (self.node_table, {0: "more in 2....", 2: "Dallas | Oakland", 3: "100.0%....",
                               4: "100.0%....", 5: "-100.0%..."}),
            (self.edge_table, {0: "more in 2....", 3: "-100.0%...", 4: "-100.0%...",
                               5: "-100.0%..."}),
            (self.fact_table, {0: "Hash of the dictionaries...."}),
            (self.history_table, {0: "2000-00-00 00:00..."}),
            (self.position_table, {}),
        ):  # fmt: skip
            metrics = table.fontMetrics()
            for column, sample in samples.items():
                table.setColumnWidth(column, metrics.horizontalAdvance(sample) + 12)
            table.verticalHeader().setDefaultSectionSize(metrics.height() + 9)

    def _connect(self) -> None:
        for table, slot in (
            (self.node_table, self._on_node),
            (self.edge_table, self._on_edge),
            (self.history_table, self._on_record),
        ):
            table.clicked.connect(slot)
            table.activated.connect(slot)
        self.which.currentIndexChanged.connect(self._on_listed)
        self.tolerance.valueChanged.connect(self._on_listed)
        self.how.activated.connect(self._on_how)
        self.position_table.positions.paired.connect(self.paired)
        self._theme.changed.connect(self._size)

    # -- what is set --------------------------------------------------------------------------

    @property
    def alignment(self) -> Alignment:
        """How positions are to be aligned."""
        how: Alignment = self.how.currentData()
        return how

    @property
    def n_changed(self) -> int:
        """How many nodes that are in both graphs have changed."""
        state = self.nodes.state
        return int(((state == MORE_FIRST) | (state == MORE_SECOND)).sum())

    def set_by_hand(self) -> None:
        """Positions are those that a person has set."""
        self.how.setCurrentIndex(self.how.findData("hand"))

    def open_first(self, report: bool) -> None:
        """Turn to the page that answers what was asked: the report, or the nodes."""
        self.tabs.setCurrentIndex(3 if report else 0)

    # -- showing ------------------------------------------------------------------------------

    def show_compared(self, shown: Optional[Compared], notes: GraphNotes) -> None:
        """Show another comparison."""
        self._shown, self._notes = shown, notes
        self._list()
        if shown is None:
            self.position_table.positions.show((), (), None)
            self._pairs.set_whole("")
            self._tell_report("", [])
            return
        positions = shown.difference.positions
        self.position_table.positions.show(shown.first.tokens, shown.second.graph.tokens, positions)
        self._pairs.set_whole(
            f"{positions.n_pairs} of {positions.n_first} and {positions.n_second} positions stand "
            "for each other"
        )
        self._tell_report(
            ". ".join([shown.told, *shown.difference.differences]) + ".",
            [(fact.name, fact.first, fact.second) for fact in shown.facts],
        )

    def show_history(self, records: Sequence[dict[str, Any]]) -> None:
        """List the comparisons that were made."""
        self.history.show(records)

    def tell(self, text: str) -> None:
        """Say what came of the comparison."""
        self._told.set_whole(text)

    def _tell_report(self, text: str, rows: list[tuple[str, str, str]]) -> None:
        self._report.setText(text)
        self._report.setVisible(bool(text))
        # What differs comes first.
        self.facts.show(sorted(rows, key=lambda fact: fact[1] == fact[2]))

    def _list(self) -> None:
        which, tolerance = self.which.currentData(), self.tolerance.value() / 100.0
        self.nodes.show(self._shown, self._notes, which, tolerance)
        self.edges.show(self._shown, self._notes, which, tolerance)

    # -- from the person ----------------------------------------------------------------------

    @Slot()
    def _on_listed(self) -> None:
        self._list()
        self.listed.emit()

    @Slot(int)
    def _on_how(self, place: int) -> None:
        how = str(self.how.itemData(place))
        if how != "hand":
            self.aligned.emit(how)

    @Slot(QModelIndex)
    def _on_node(self, index: QModelIndex) -> None:
        if index.isValid():
            self.node_chosen.emit(self.nodes.thing(index.row()))

    @Slot(QModelIndex)
    def _on_edge(self, index: QModelIndex) -> None:
        if index.isValid() and self._shown is not None:
            target = self._shown.difference.edges.target[self.edges.thing(index.row())]
            self.node_chosen.emit(int(target))

    @Slot(QModelIndex)
    def _on_record(self, index: QModelIndex) -> None:
        """Show the report of an earlier comparison."""
        if not index.isValid():
            return
        record = self.history.record(index.row())
        self._tell_report(f"{when_of(record)}: {record.get('told', '')}.", facts_of(record))
        self.tabs.setCurrentIndex(3)


def _page(table: QTableView) -> QWidget:
    page = QWidget()
    page.setObjectName("formBody")
    layout = QVBoxLayout(page)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(table)
    return page
