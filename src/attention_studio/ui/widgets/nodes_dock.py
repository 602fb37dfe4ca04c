"""The Nodes dock: a line to ask for nodes in, and a table of those that fit."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Optional

import numpy as np
from PySide6.QtCore import (
    QItemSelection,
    QItemSelectionModel,
    QItemSelectionRange,
    QModelIndex,
    Qt,
    QTimer,
    Signal,
    Slot,
)
from PySide6.QtGui import QGuiApplication, QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QComboBox, QVBoxLayout, QWidget

from attention_studio.core.graph_notes import SavedQuery
from attention_studio.core.query_completion import Known
from attention_studio.core.query_language import Flag, Query, QueryError
from attention_studio.core.query_parsing import parse
from attention_studio.ui import work_nodes
from attention_studio.ui.chosen_nodes import ChosenNodes
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.text import count
from attention_studio.ui.widgets.controls import (
    CommandButton,
    CommandTool,
    ElidedLabel,
    named,
    row,
    set_role,
    stack,
)
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.nodes_model import Column
from attention_studio.ui.widgets.nodes_table import NodesTable
from attention_studio.ui.widgets.query_bar import QueryBar
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.feature_density import FeatureDensity
    from attention_studio.core.node_table import NodeTable
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.work_nodes import NodesFound, NodesRequest

_TYPING_MS = 120
_KEY = "nodes.find"
_TITLE_LENGTH = 60
# A dock of fewer letters than this across, and more lines than that, has its controls in two rows.
_NARROW, _LOW = 70, 14


class NodesDock(StudioDock):
    """The nodes of the graph that fit a query.

    The rows that are selected in the table are the session's chosen nodes, and the row that the
    keyboard is on is its selected one. ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "nodesDock"
    TITLE = "Nodes"
    ICON = "filter"
    LAZY = True
    WATCHES = frozenset(
        (
            SessionPart.GRAPH,
            SessionPart.PRUNED,
            SessionPart.NOTES,
            SessionPart.LABELS,
            SessionPart.DENSITY,
            SessionPart.QUERY,
            SessionPart.CHOSEN,
            SessionPart.SELECTION,
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
        # What is done with chosen nodes needs no table, so it is there before the body is.
        self.chosen = ChosenNodes(session, runner, self)
        self.chosen.message.connect(self.message)
        commands.bind("chosen", self.chosen)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._graph: Optional[AttributionGraph] = None
        self._table_of: Optional[NodeTable] = None
        """The columns of ``_graph``, once a lane has made them."""
        self._query = Query("")
        self._found: Optional[NodesFound] = None
        self._mine: Optional[Highlight] = None
        """The highlight that this dock has put into the session."""
        self._asked_anew = False
        self._syncing = False
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_TYPING_MS)
        self._typing.timeout.connect(self.ask)
        self._make_controls()
        self.table = NodesTable(self.theme)
        self.nodes = self.table.nodes
        self.strip = JobStrip(self.runner, "nodes.job")
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        # One row, or two where the dock is narrow: the query needs the room.
        self._controls = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._controls.setContentsMargins(8, 5, 8, 5)
        self._controls.setSpacing(4)
        self._controls.addWidget(self.bar, 5)
        self._controls.addLayout(
            row(self._outcome, self._measure, self.scope, self._shown, stretch=0, spacing=4), 4
        )
        layout.addLayout(self._controls)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.strip)
        self.set_content(body)
        self.set_empty(
            "No graph yet",
            "Here the nodes of a graph are listed, asked for with a query, sorted, chosen "
            "together, labelled, and pinned.",
            CommandButton(self.commands, "graph.build", look="primary", text="Trace the prompt"),
        )
        for name in ("pin", "unpin", "inputs", "outputs", "copy"):
            self.add_title_widget(CommandTool(self.commands, f"nodes.{name}", f"nodes.{name}.tool"))
        self._connect()

    def _make_controls(self) -> None:
        self.bar = QueryBar(self.theme)
        self.edit = self.bar.edit
        self._outcome = ElidedLabel(role="caption")
        named(self._outcome, "nodes.outcome", "How many nodes fit")
        self._measure = CommandButton(
            self.commands, "nodes.measure_density", look="quiet", text="Measure density"
        )
        self._measure.hide()
        self.scope = QComboBox()
        named(self.scope, "nodes.scope", "Which nodes are listed",
              "The nodes and edges that the thresholds leave, or all that were traced")  # fmt: skip
        self.scope.addItem("Shown", False)
        self.scope.addItem("All", True)
        self._shown = CommandTool(self.commands, "nodes.highlight", "nodes.highlight.tool")
        self.commands.set_checked("nodes.highlight", True)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put what was found below the query where the dock is narrow."""
        super().resizeEvent(event)
        if self._made:
            metrics, size = self.fontMetrics(), event.size()
            narrow = size.width() < _NARROW * metrics.averageCharWidth()
            narrow &= size.height() > _LOW * metrics.height()
            stack(self._controls, narrow)

    def _connect(self) -> None:
        self.edit.typed.connect(self._on_typed)
        self.edit.submitted.connect(self._on_submitted)
        self.edit.left.connect(self._to_table)
        self.edit.editingFinished.connect(self._on_done)
        self.bar.taken.connect(self.set_query)
        self.bar.keep_wanted.connect(self.save_query)
        self.scope.currentIndexChanged.connect(self._on_scope)
        self.table.selectionModel().selectionChanged.connect(self._on_rows)
        self.table.selectionModel().currentRowChanged.connect(self._on_current)
        self.nodes.modelReset.connect(self._show_chosen)
        self.nodes.edited.connect(self._on_edited)
        self.table.emptied.connect(self._on_emptied)
        self.table.pin_toggled.connect(self.chosen.toggle_pins)
        self.table.copied.connect(self.copy)
        self.table.gone_to.connect(self._go_to)

    # -- asking ---------------------------------------------------------------------------------

    @Slot(str)
    def set_query(self, text: str) -> None:
        """Ask for nodes as if a person had typed it."""
        self.edit.setText(text)
        self._asked_anew = True
        self.ask()

    @Slot()
    def ask(self) -> None:
        """Find the nodes that the line asks for. What cannot be read is underlined."""
        self._typing.stop()
        graph = self.session.graph
        try:
            self._query = parse(self.edit.text())
        except QueryError as error:
            # Who is still typing need not be told that something is missing at the end.
            unfinished = self.edit.suggesting and error.end >= len(self.edit.text().rstrip())
            self.edit.set_error(None if unfinished else error)
            self._show_outcome()
            return
        self.edit.set_error(None)
        self.session.set_query(self.edit.text(), self)
        if graph is None:
            return
        if graph is not self._graph:
            self._graph, self._table_of = graph, None
            self._asked_anew = True
        job = self.runner.submit(
            work_nodes.find_nodes,
            self._request(graph),
            title="Find nodes",
            lane="quick",
            key=_KEY,
            quiet=True,
        )
        job.finished.connect(self._on_found)
        job.failed.connect(self._on_failed)

    def _request(self, graph: AttributionGraph) -> NodesRequest:
        session = self.session
        table = self._table_of if graph is self._graph else None
        return work_nodes.NodesRequest(
            graph, table, session.pruned, bool(self.scope.currentData()), self._query,
            session.named_notes, session.chosen, session.selection, session.graph_density,
        )  # fmt: skip

    @Slot(object)
    def _on_found(self, found: NodesFound) -> None:
        if found.request.graph is not self.session.graph:
            return
        self._table_of, self._found = found.view.table, found
        self.chosen.known = (found.request.graph, found.view.table)
        notes = found.request.notes
        self.edit.known = Known(
            found.view.table.tokens,
            tuple(dict.fromkeys(label for label in found.view.labels if label)),
            tuple(group.name for group in notes.supernodes),
        )
        current = self.session.selection
        self._syncing = True
        self.nodes.show(found.view, found.rows)
        self._syncing = False
        self.nodes.set_selected(current)
        self.table.leave_out_columns()
        self._show_chosen()
        self._show_highlight()

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    @Slot(str)
    def _on_typed(self, _text: str) -> None:
        self._asked_anew = True
        self._typing.start()

    @Slot()
    def _on_submitted(self) -> None:
        self.ask()
        if self.edit.error is None:
            self._to_table()

    @Slot()
    def _on_done(self) -> None:
        # What was left out while somebody was typing is missing now.
        if self.edit.text() != self._query.text and self.edit.error is None:
            self.ask()

    @Slot()
    def _to_table(self) -> None:
        self.table.setFocus(Qt.FocusReason.TabFocusReason)

    @Slot(int)
    def _on_scope(self, _index: int) -> None:
        self.chosen.whole = bool(self.scope.currentData())
        self.ask()

    def figures(self) -> tuple[FigureOffer, ...]:
        """The table as it is listed, once it is of the graph that is open."""
        found = self._found
        if found is None or found.request.graph is not self.session.graph:
            return ()
        return (FigureOffer("nodes", "Nodes", self._figure),)

    @property
    def preparing(self) -> bool:
        """Whether nodes are being looked for."""
        return self.runner.running(_KEY) is not None

    def _figure(self) -> Optional[Figure]:
        if self._found is None:
            return None
        request = self._found.request
        asked = f" that fit {request.query.text}" if not request.query.everything else ""
        caption = f"Nodes of the attribution graph of “{request.graph.prompt}”{asked}."
        return of_view(self.table, "nodes", "Nodes", caption)

    # -- showing --------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        graph = self.session.graph
        self.show_empty(graph is None)
        self.bar.set_kept(self.session.notes.queries)
        if SessionPart.QUERY in parts and self.edit.text() != self.session.query:
            self.edit.setText(self.session.query)
            self._asked_anew = True
        if graph is None:
            self.runner.cancel_key(_KEY)
            self._graph = self._table_of = self._found = self.chosen.known = None
            self.nodes.show(None, np.zeros(0, dtype=np.int64))
            return
        asked = {part.name for part in self._query.parts() if isinstance(part, Flag)}
        about_choice = bool(asked & {"chosen", "selected"})
        if about_choice or parts - {SessionPart.CHOSEN, SessionPart.SELECTION}:
            self.ask()
        if SessionPart.SELECTION in parts:
            self._show_selected()
        if SessionPart.CHOSEN in parts:
            self._show_chosen()

    def _show_outcome(self) -> None:
        error, found = self.edit.error, self._found
        blind = error is None and self._query.asks("density") and self.session.graph_density is None
        self._measure.setVisible(blind)
        set_role(self._outcome, "error" if error is not None else "caption")
        if error is not None:
            self._outcome.set_whole(f"{error.what} (column {error.column}): {error.todo}")
        elif found is not None:
            chosen = len(self.session.chosen)
            text = f"{count(len(found.rows))} of {count(found.n_listed)} nodes"
            if blind:
                text = "Densities were not measured"
            self._outcome.set_whole(f"{text} · {count(chosen)} chosen" if chosen else text)

    def _show_highlight(self) -> None:
        """Have the graph show what was found, while that is wanted."""
        session, found = self.session, self._found
        mine = session.highlight is not None and session.highlight is self._mine
        wanted = self.commands.action("nodes.highlight").isChecked()
        if found is None or found.request.query.everything or not wanted:
            if mine:
                session.set_highlight(None, self)
            self._mine = None
        elif mine or self._asked_anew:
            names = found.view.table.names
            text = found.request.query.text
            if len(text) > _TITLE_LENGTH:
                text = f"{text[:_TITLE_LENGTH]}…"
            fitting = {names[node]: Role.MARKED for node in found.rows.tolist()}
            what = "node fits" if len(fitting) == 1 else "nodes fit"
            self._mine = Highlight(
                f"{count(len(fitting))} {what} {text}", MappingProxyType(fitting)
            )
            session.set_highlight(self._mine, self)
        self._asked_anew = False

    def _show_selected(self) -> None:
        name = self.session.selection
        self.nodes.set_selected(name)
        rows = self.nodes.rows_of(() if name is None else (name,))
        if len(rows):
            self.table.scrollTo(self.nodes.index(int(rows[0]), 0))

    @Slot()
    def _show_chosen(self) -> None:
        """Select the rows of the chosen nodes, in as few stretches as they make."""
        if self._syncing:
            return
        rows = self.nodes.rows_of(self.session.chosen)
        selection = QItemSelection()
        if len(rows):
            breaks = np.flatnonzero(np.diff(rows) != 1)
            first = rows[np.concatenate([[0], breaks + 1])].tolist()
            last = rows[np.concatenate([breaks, [len(rows) - 1]])].tolist()
            width = len(self.nodes.HEADS) - 1
            for top, bottom in zip(first, last, strict=True):
                corners = self.nodes.index(top, 0), self.nodes.index(bottom, width)
                selection.append(QItemSelectionRange(*corners))
        self._syncing = True
        self.table.selectionModel().select(
            selection, QItemSelectionModel.SelectionFlag.ClearAndSelect
        )
        self._syncing = False
        self._show_outcome()

    # -- from the table -------------------------------------------------------------------------

    @Slot(QItemSelection, QItemSelection)
    def _on_rows(self, _now: QItemSelection, _before: QItemSelection) -> None:
        if self._syncing:
            return
        self.session.set_chosen((self.nodes.name(row) for row in self.table.chosen_rows()), self)
        self._show_outcome()

    @Slot(QModelIndex, QModelIndex)
    def _on_current(self, current: QModelIndex, _previous: QModelIndex) -> None:
        if self._syncing or not current.isValid():
            return
        name = self.nodes.name(current.row())
        self.session.set_selection(name, self)
        self.nodes.set_selected(name)

    @Slot(str)
    def _go_to(self, name: str) -> None:
        self.session.set_selection(name, self)
        self.nodes.set_selected(name)
        self.commands.run("go.graph")

    @Slot(str, object, str)
    def _on_edited(self, name: str, column: Column, text: str) -> None:
        self.chosen.write({name: text}, remark=column == Column.REMARK)

    @Slot(object)
    def _on_emptied(self, column: Column) -> None:
        if column in (Column.LABEL, Column.REMARK):
            empty = dict.fromkeys(self.session.chosen, "")
            self.chosen.write(empty, remark=column == Column.REMARK)
        else:
            self.chosen.unpin()

    # -- commands -------------------------------------------------------------------------------

    @Slot()
    def focus_query(self) -> None:
        """Go to the line that nodes are asked for in."""
        self.show()
        self.raise_()
        self.edit.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.edit.selectAll()

    @Slot()
    def copy(self) -> None:
        """Copy the chosen rows, or all that are listed, as a table."""
        view = self.nodes.view
        if view is None:
            return
        rows = self.table.chosen_rows() or list(range(self.nodes.n_rows))
        nodes = tuple(self.nodes.node(row) for row in rows)
        job = self.runner.submit(
            work_nodes.nodes_text, view, nodes, title="Copy nodes", lane="quick", quiet=True
        )
        job.finished.connect(self._on_copied)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_copied(self, text: str) -> None:
        QGuiApplication.clipboard().setText(text)
        n = text.count("\n") - 1
        self.message.emit(Message("success", f"{count(n)} {'row is' if n == 1 else 'rows are'} "
                                  "on the clipboard"))  # fmt: skip

    @Slot()
    def toggle_highlight(self) -> None:
        """Show what fits in the graph, or leave the graph alone."""
        self._asked_anew = True
        self._show_highlight()

    @Slot()
    def measure_density(self) -> None:
        """Measure how often features are active, on text that the model writes."""
        crm = self.session.crm
        if crm is None:
            return
        job = self.runner.submit(
            work_nodes.measure_density, crm, title="Measure densities", key="nodes.density"
        )
        job.finished.connect(self._on_density)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    @Slot(object)
    def _on_density(self, density: FeatureDensity) -> None:
        crm = self.session.crm
        if crm is not None and crm.dictionaries_id.means(density.crm):
            self.session.set_density(density)
            self.message.emit(Message(
                "success", f"Densities are measured on {count(density.n_tokens)} tokens",
                "The model has written them itself",
            ))  # fmt: skip

    @Slot()
    def save_query(self) -> None:
        """Keep the query that is typed, with the graph."""
        text = self.edit.text().strip()
        queries = self.session.notes.queries
        try:
            empty = parse(text).everything
        except QueryError as error:
            self.message.emit(Message.of(error))
            return
        if empty or any(query.text == text for query in queries):
            what = "There is no query to keep" if empty else "This query is kept already"
            self.message.emit(Message("info", what))
            return
        kept = (*queries, SavedQuery(text, text))
        self.session.set_notes(self.session.notes.with_queries(kept), f"Keep the query {text}")
