"""The Paths dock: the strongest ways from one node of the graph to another, and what they carry."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QItemSelectionModel, QModelIndex, Qt, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QBoxLayout,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QSpinBox,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui import node_text, work_paths
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.text import count, percent
from attention_studio.ui.widgets.bar_delegate import BarDelegate
from attention_studio.ui.widgets.controls import (
    CommandButton,
    CommandTool,
    ElidedLabel,
    label,
    line,
    named,
    row,
    stack,
)
from attention_studio.ui.widgets.form_fields import inset
from attention_studio.ui.widgets.giving_table import GivingTable
from attention_studio.ui.widgets.graph_scene import EMBEDDING, FEATURE, LOGIT
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.node_choice import NodeChoice
from attention_studio.ui.widgets.paths_model import ARROW, PathsModel, StepsModel, signed
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.work_paths import ANY_TOKEN, PathAnswer, PathQuery

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.path_search import Path
    from attention_studio.ui.figures.figure import Figure, FigureOffer

AT_FIRST, MOST = 10, 500
_OFFERED = 250
_ENDS_LETTERS = 56
"""So wide the names of both ends should be."""
_ROW = QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows
_KEY = "paths.find"
_NAMES = frozenset((SessionPart.NOTES, SessionPart.LABELS))


class PathsDock(StudioDock):
    """The strongest paths between two nodes.

    ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "pathsDock"
    TITLE = "Paths"
    ICON = "path"
    LAZY = True
    WATCHES = _NAMES | {SessionPart.GRAPH, SessionPart.PRUNED, SessionPart.SELECTION}

    message = Signal(object)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self.answer: Optional[PathAnswer] = None
        self._listed: Optional[PathAnswer] = None
        self._source, self._target = ANY_TOKEN, ""
        self._highlights = False
        """Whether what is looked for now is to be shown in the graph when it is found."""
        self.strip = JobStrip(self.runner, "paths.job")
        self.model, self.steps = PathsModel(self), StepsModel(self)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(self._make_controls())
        layout.addLayout(self._make_facts())
        layout.addWidget(line())
        layout.addWidget(self._make_tables(), 1)
        layout.addWidget(self.strip)
        self.set_content(body)
        self.set_empty(
            "No graph to look for paths in",
            "Between two nodes there are thousands of paths. Here the strongest are listed, with "
            "the share of the influence that they carry, and shown in the graph.",
            CommandButton(self.commands, "graph.build", look="primary", text="Trace the prompt"),
        )
        self._connect()

    # -- building -----------------------------------------------------------------------------

    def _make_controls(self) -> QBoxLayout:
        self.source = NodeChoice(
            "paths.from", "Where paths begin",
            "Choose a node, or type a part of its name, its tokens or your label; Ctrl+[ takes the "
            "node that is selected in the graph",
        )  # fmt: skip
        self.target = NodeChoice(
            "paths.to", "Where paths end",
            "Choose a node, or type a part of its name, its tokens or your label; Ctrl+] takes the "
            "node that is selected in the graph",
        )  # fmt: skip
        self.number = inset(QSpinBox())
        named(self.number, "paths.number", "How many paths", "At most so many paths are listed")
        self.number.setRange(1, MOST)
        self.number.setValue(AT_FIRST)
        self.number.setKeyboardTracking(False)
        self.number.setSuffix(" paths")
        self.among = QComboBox()
        named(self.among, "paths.among", "Which edges paths may take",
              "All edges of the graph, or only those that the picture shows")  # fmt: skip
        self.among.addItem("All edges", False)
        self.among.addItem("Shown edges", True)
        ends = QHBoxLayout()
        ends.setSpacing(6)
        ends.addWidget(label("From", "caption"))
        ends.addWidget(self.source, 1)
        ends.addWidget(CommandTool(self.commands, "paths.from_selected", "paths.takeFrom"))
        ends.addSpacing(4)
        ends.addWidget(label("to", "caption"))
        ends.addWidget(self.target, 1)
        ends.addWidget(CommandTool(self.commands, "paths.to_selected", "paths.takeTo"))
        find = CommandButton(self.commands, "paths.find", look="primary", text="Find")
        self._asked = row(self.number, self.among, find, spacing=6)
        # One row, or two where the dock is narrow: names of nodes need the room.
        self._controls = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._controls.setContentsMargins(12, 8, 10, 4)
        self._controls.setSpacing(6)
        self._controls.addLayout(ends, 1)
        self._controls.addLayout(self._asked)
        return self._controls

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the number of paths below their ends where the dock is narrow."""
        super().resizeEvent(event)
        if self._made:
            ends = _ENDS_LETTERS * self.fontMetrics().averageCharWidth()
            stack(self._controls, event.size().width() < self._asked.sizeHint().width() + ends)

    def _make_facts(self) -> QHBoxLayout:
        self._told = ElidedLabel(role="caption")
        named(self._told, "paths.told", "What the paths carry")
        facts = QHBoxLayout()
        facts.setContentsMargins(12, 0, 10, 5)
        facts.setSpacing(2)
        facts.addWidget(self._told, 1)
        for command_id in ("paths.show", "paths.pin"):
            facts.addWidget(CommandTool(self.commands, command_id, f"{command_id}.tool"))
        return facts

    def _make_tables(self) -> QSplitter:
        self.table = named(
            GivingTable({PathsModel.STEPS: 72, PathsModel.EFFECT: 64, PathsModel.TOGETHER: 56}),
            "paths.table", "Strongest paths",
            "The strongest first; choose one or several to show them alone in the graph",
        )  # fmt: skip
        self.table.setModel(self.model)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.table.setItemDelegateForColumn(PathsModel.SHARE, BarDelegate(self.theme, self.table))
        self.table.horizontalHeader().setSortIndicatorClearable(True)
        self.table.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.table.setSortingEnabled(True)
        self.step_table = named(
            GivingTable({1: 58, 3: 48}), "paths.steps", "The path step by step",
            "Enter or click selects the node in the graph",
        )  # fmt: skip
        self.step_table.setModel(self.steps)
        self.step_table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.step_table.setItemDelegateForColumn(2, BarDelegate(self.theme, self.step_table))
        for table in (self.table, self.step_table):
            table.setToolTip("")
            table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
            table.setShowGrid(False)
            table.setWordWrap(False)
            table.setTabKeyNavigation(False)
            table.verticalHeader().hide()
            header = table.horizontalHeader()
            header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
            header.setHighlightSections(False)
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setObjectName("paths.splitter")
        splitter.setChildrenCollapsible(False)
        splitter.addWidget(self.table)
        splitter.addWidget(self.step_table)
        splitter.setStretchFactor(0, 3)
        splitter.setStretchFactor(1, 2)
        splitter.setSizes([600, 400])
        self._size_columns()
        return splitter

    @Slot()
    def _size_columns(self) -> None:
        for table, samples in (
            (self.table, ("Steps..", "Effect..", "100.0%....", "Together..")),
            (self.step_table, ("Tower...", "Of its input..", "So far....")),
        ):
            metrics = table.fontMetrics()
            for column, sample in enumerate(samples, start=1):
                table.setColumnWidth(column, metrics.horizontalAdvance(sample) + 12)
            table.verticalHeader().setDefaultSectionSize(metrics.height() + 9)

    def _connect(self) -> None:
        self.source.chosen.connect(self._on_source)
        self.target.chosen.connect(self._on_target)
        self.number.valueChanged.connect(self._on_changed)
        self.among.currentIndexChanged.connect(self._on_changed)
        self.table.selectionModel().selectionChanged.connect(self._on_chosen)
        self.step_table.clicked.connect(self._on_step)
        self.step_table.activated.connect(self._on_step)
        self.theme.changed.connect(self._size_columns)

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def find_paths(self) -> None:
        """Look for the paths, and show them in the graph."""
        self._find(highlight=True)

    @Slot()
    def from_selected(self) -> None:
        """Begin at the selected node."""
        if self.session.selection is not None:
            self._source = self.session.selection
            self._find(highlight=True)

    @Slot()
    def to_selected(self) -> None:
        """End at the selected node."""
        if self.session.selection is not None:
            self._target = self.session.selection
            self._find(highlight=True)

    @Slot()
    def show_paths(self) -> None:
        """Emphasise the chosen paths, or all, in the graph."""
        if self.answer is None or not self.answer.found.paths:
            self._find(highlight=True)
        else:
            self._show_highlight()

    @Slot()
    def pin(self) -> None:
        """Pin the nodes on the chosen paths, or on all (undoable)."""
        names = self._names()
        if names:
            self.session.set_pinned((*self.session.pinned, *names), text="Pin the nodes on paths")

    @Slot()
    def choose(self) -> None:
        """Choose the nodes on the chosen paths, or on all."""
        names = self._names()
        if names:
            self.session.set_chosen(names)

    def _find(self, highlight: bool) -> None:
        graph = self.session.graph
        if graph is None:
            return
        self._settle_ends(graph)
        query = PathQuery(
            self._source, self._target, self.number.value(), bool(self.among.currentData())
        )
        self._highlights = highlight
        job = self.runner.submit(
            work_paths.find_paths, graph, self.session.pruned, query,
            title="Find the strongest paths", lane="quick", key=_KEY, quiet=not highlight,
        )  # fmt: skip
        job.finished.connect(self._on_found)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    def _settle_ends(self, graph: AttributionGraph) -> None:
        """Let paths begin and end at nodes of this graph where those of another were chosen."""
        if self.answer is not None and self.answer.graph is not graph:
            if not graph.has(self._source):
                self._source = ANY_TOKEN
            if not graph.has(self._target):
                self._target = ""
        if not self._target:
            outputs = (graph.start > 0).nonzero()[0].tolist()
            # What is explained most: the likeliest output.
            best = max(outputs, key=lambda node: float(graph.start[node]), default=None)
            self._target = "" if best is None else graph.node_name(best)
        for box, name in ((self.source, self._source), (self.target, self._target)):
            box.set_name(name, self._words(graph, name))

    # -- from the lane ------------------------------------------------------------------------

    @Slot(object)
    def _on_found(self, answer: PathAnswer) -> None:
        if answer.graph is not self.session.graph:
            return
        self.answer = answer
        self._show_answer()
        if self._highlights:
            self._show_highlight()

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- from the person ----------------------------------------------------------------------

    @Slot(str)
    def _on_source(self, name: str) -> None:
        self._source = name
        self._find(highlight=True)

    @Slot(str)
    def _on_target(self, name: str) -> None:
        self._target = name
        self._find(highlight=True)

    @Slot(int)
    def _on_changed(self, _value: int) -> None:
        self._find(highlight=True)

    @Slot()
    def _on_chosen(self) -> None:
        self._show_steps()
        self._show_highlight()

    @Slot(QModelIndex)
    def _on_step(self, index: QModelIndex) -> None:
        if index.isValid():
            self.session.set_selection(self.steps.name(index.row()), self)

    # -- what is chosen -----------------------------------------------------------------------

    def _ranks(self) -> list[int]:
        """The paths that are chosen in the table, the strongest first."""
        rows = self.table.selectionModel().selectedRows()
        return sorted(self.model.record_at(index.row()) for index in rows)

    def _paths(self) -> tuple[Path, ...]:
        """The paths that are meant: those that are chosen, or all."""
        if self.answer is None:
            return ()
        found = self.answer.found.paths
        return tuple(found[rank] for rank in self._ranks()) or found

    def _names(self) -> tuple[str, ...]:
        if self.answer is None:
            return ()
        from attention_studio.core.path_search import nodes_on

        return tuple(self.answer.graph.node_name(node) for node in nodes_on(self._paths()))

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        graph = self.session.graph
        self.show_empty(graph is None)
        if graph is None:
            self.answer = None
            self._show_answer()
            return
        if parts & {SessionPart.GRAPH, SessionPart.PRUNED, *_NAMES}:
            self._offer(graph)
        stale = self.answer is None or self.answer.graph is not graph
        only_shown = SessionPart.PRUNED in parts and bool(self.among.currentData())
        if stale or only_shown:
            # Nobody asked for it to be shown in the graph: something else may be.
            self._find(highlight=False)
        elif parts & _NAMES:
            self._show_answer()
        if SessionPart.SELECTION in parts:
            self._show_selection()

    def _offer(self, graph: AttributionGraph) -> None:
        """List nodes where paths may begin and end: ends of the graph, pins, strong features."""
        kind, pruned, notes = graph.nodes.kind, self.session.pruned, self.session.notes
        nodes = range(len(graph.nodes)) if pruned is None else pruned.node_ids.tolist()
        outputs = [node for node in nodes if kind[node] == LOGIT]
        tokens = [node for node in nodes if kind[node] == EMBEDDING]
        pinned = [graph.find(name) for name in notes.pinned if graph.has(name)]
        features = sorted(
            (node for node in nodes if kind[node] == FEATURE and node not in pinned),
            key=lambda node: -float(graph.influence[node]),
        )[:_OFFERED]

        words = {
            node: (graph.node_name(node), self._node_words(graph, node))
            for node in (*outputs, *tokens, *pinned, *features)
        }

        def items(*groups: list[int]) -> list[tuple[str, str]]:
            return [words[node] for group in groups for node in group]

        self.source.fill([(ANY_TOKEN, "Any token"), *items(pinned, tokens, features)])
        self.target.fill(items(outputs, pinned, features))

    def _words(self, graph: AttributionGraph, name: str) -> str:
        if name == ANY_TOKEN:
            return "Any token"
        if not graph.has(name):
            return name
        return self._node_words(graph, graph.find(name))

    def _node_words(self, graph: AttributionGraph, node: int) -> str:
        words = node_text.title(graph, node, self.session.named_notes)
        if graph.nodes.kind[node] in (EMBEDDING, LOGIT):
            return words
        return f"{words}  at {node_text.place(graph, node)}"

    def _show_answer(self) -> None:
        same = self.answer is self._listed
        chosen = self._ranks() if same else []
        self._listed = self.answer
        selection = self.table.selectionModel()
        blocked = selection.blockSignals(True)
        self.model.show(self.answer, self.session.named_notes)
        for rank in chosen:
            # Called otherwise perhaps, but the same path.
            selection.select(self.model.index(self.model.row_of(rank), 0), _ROW)
        selection.blockSignals(blocked)
        if not same:
            self.table.scrollToTop()
        self._show_steps()
        self._told.set_whole(self._facts())

    def _facts(self) -> str:
        answer = self.answer
        if answer is None:
            return ""
        found, ends = answer.found, [self._words(answer.graph, name) for name in
                                     (answer.query.source, answer.query.target)]  # fmt: skip
        where = " along the edges that are shown" if answer.query.shown else ""
        if not found.paths:
            return f"No path leads from {ends[0]} to {ends[1]}{where}"
        many = "countless" if found.n_paths > 1e15 else count(found.n_paths)
        return (
            f"{count(len(found.paths))} of {many} paths{where} carry {percent(found.covered)} of "
            f"the influence, which is {percent(found.influence)} of all that flows into "
            f"{ends[1]} ({signed(found.net)} net)"
        )

    def _show_steps(self) -> None:
        ranks = self._ranks()
        found = self.answer is not None and len(self.answer.found.paths) > 0
        rank = ranks[0] if ranks else 0 if found else None
        self.steps.show(self.answer, rank, self.session.named_notes)
        self._show_selection()

    def _show_selection(self) -> None:
        """Mark the step that is selected in the graph."""
        name = self.session.selection
        row = None if name is None else self.steps.row_of(name)
        if row is None:
            self.step_table.clearSelection()
        else:
            self.step_table.selectRow(row)

    def _show_highlight(self) -> None:
        answer, paths = self.answer, self._paths()
        if answer is None or answer.graph is not self.session.graph:
            return
        from attention_studio.core.path_search import edges_on, nodes_on

        names = {node: answer.graph.node_name(node) for node in nodes_on(paths)}
        ends = ARROW.join(
            self._words(answer.graph, name) for name in (answer.query.source, answer.query.target)
        )
        many = "Strongest path" if len(paths) == 1 else f"{len(paths)} strongest paths"
        if self._ranks():
            many = "A path" if len(paths) == 1 else f"{len(paths)} paths"
        highlight = Highlight(
            f"{many}: {ends}",
            MappingProxyType(dict.fromkeys(names.values(), Role.MARKED)),
            MappingProxyType(
                {(names[one], names[other]): Role.MARKED for one, other in edges_on(paths)}
            ),
        )
        self.session.set_highlight(highlight if paths else None, self)

    # -- figures ------------------------------------------------------------------------------

    def figures(self) -> tuple[FigureOffer, ...]:
        """The table of paths, where they are of the graph that is open."""
        if self.answer is None or not self.answer.found.paths:
            return ()
        if self.answer.graph is not self.session.graph:
            return ()
        from attention_studio.ui.figures.figure import FigureOffer

        return (FigureOffer("paths", "Strongest paths", self._figure),)

    def _figure(self) -> Optional[Figure]:
        if self.answer is None:
            return None
        caption = (
            f"Paths in the attribution graph of “{self.answer.graph.prompt}”. {self._facts()}."
        )
        return of_view(self.table, "paths", "Strongest paths", caption)
