"""The Compare dock: the graph beside another one, of another prompt, checkpoint or model, or of the
same prompt traced again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QBoxLayout,
    QHBoxLayout,
    QLineEdit,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui import work, work_comparing
from attention_studio.ui.difference_highlight import difference_highlight
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.text import count
from attention_studio.ui.widgets.compare_pages import ComparePages
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
from attention_studio.ui.widgets.dialogs import ask_choice, ask_file
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message, Offer
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.work_comparing import Alignment, Compared, Origin, SecondGraph

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.position_map import PositionMap
    from attention_studio.core.workspace import Workspace
    from attention_studio.ui.figures.figure import Figure, FigureOffer
    from attention_studio.ui.jobs import Job
    from attention_studio.ui.work_workspace import KeptGraph

RECORD = "comparison"
_COMPARE_KEY = "compare.compare"
SECOND_KEY = "compare.second"
_MOST_LETTERS = 80
_PROMPT_LETTERS = 24
"""Room that the prompt needs beside the buttons."""
_ORIGINS: dict[Origin, str] = {
    "traced": "traced now",
    "opened": "from a file",
    "kept": "kept",
    "workspace": "of the workspace",
    "re-run": "traced again",
}
_FILES = ["Attribution graphs (*.safetensors *.json)", "All files (*)"]


class CompareDock(StudioDock):
    """Two graphs side by side: the session's is the first.

    ``message`` carries a ``Message`` for the message bar, ``graph_asked`` the key of a graph of the
    workspace, to be brought by a job that ``await_kept`` gets.
    """

    NAME = "compareDock"
    TITLE = "Compare"
    ICON = "compare"
    LAZY = True
    WATCHES = frozenset(
        (
            SessionPart.GRAPH,
            SessionPart.PRUNED,
            SessionPart.THRESHOLDS,
            SessionPart.NOTES,
            SessionPart.LABELS,
            SessionPart.RECORDS,
        )
    )

    message = Signal(object)
    graph_asked = Signal(str)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self.second: Optional[SecondGraph] = None
        self.compared: Optional[Compared] = None
        self._home: Optional[Workspace] = None
        """The workspace in which the second graph that is on its way was asked for."""
        self._positions: Optional[PositionMap] = None
        """As a person has set them; None: as the preset says."""
        self._records_it = self._shows_it = False
        """Whether the comparison that runs is to be recorded, and to be shown in the graph."""
        self.strip = JobStrip(self.runner, "compare.job")
        self.pages = ComparePages(self.theme)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(self._make_sources())
        layout.addLayout(self._make_names())
        layout.addWidget(line())
        hint = label(
            "Trace another prompt, open a saved graph, or keep this graph and trace again with "
            "another checkpoint or model: the two are put side by side, feature by feature. "
            "Re-run traces this prompt once more and says whether the same comes out.",
            "muted", wrap=True, name="compare.hint",
        )  # fmt: skip
        hint.setAlignment(Qt.AlignmentFlag.AlignTop)
        hint.setContentsMargins(12, 12, 12, 12)
        self._body = QStackedWidget()
        self._body.addWidget(hint)
        self._body.addWidget(self.pages)
        layout.addWidget(self._body, 1)
        layout.addWidget(self.strip)
        self.set_content(body)
        self.set_empty(
            "No graph to compare",
            "Two graphs side by side: what is in one of them alone, and what weighs more in which. "
            "Of two prompts, two checkpoints, two models, or one prompt traced again.",
            CommandButton(self.commands, "graph.build", look="primary", text="Trace the prompt"),
        )
        self.prompt.returnPressed.connect(self.trace_second)
        self.pages.node_chosen.connect(self._on_node)
        self.pages.aligned.connect(self._on_aligned)
        self.pages.paired.connect(self._on_paired)
        self.pages.listed.connect(self._on_listed)

    # -- building -----------------------------------------------------------------------------

    def _make_sources(self) -> QBoxLayout:
        self.prompt = QLineEdit()
        named(self.prompt, "compare.prompt", "Prompt to compare with",
              "A prompt to trace and put beside the graph; Enter traces it")  # fmt: skip
        self.prompt.setPlaceholderText("Another prompt to compare with")
        self.prompt.setClearButtonEnabled(True)
        # One row, or two where the dock is narrow: the prompt needs the room.
        self._sources = sources = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        sources.setContentsMargins(12, 8, 10, 4)
        sources.setSpacing(6)
        sources.addWidget(self.prompt, 1)
        trace = CommandButton(self.commands, "compare.trace", look="primary", text="Trace")
        others = (
            CommandButton(self.commands, command_id, text=text, icon=False)
            for command_id, text in (
                ("compare.open", "Open…"),
                ("compare.pick", "Workspace…"),
                ("compare.keep", "Keep this"),
                ("compare.rerun", "Re-run"),
            )
        )
        self._buttons = row(trace, *others, spacing=6)
        sources.addLayout(self._buttons)
        return sources

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the buttons below the prompt where the dock is narrow."""
        super().resizeEvent(event)
        if self._made:
            prompt = _PROMPT_LETTERS * self.fontMetrics().averageCharWidth()
            narrow = event.size().width() < self._buttons.sizeHint().width() + prompt
            stack(self._sources, narrow)

    def _make_names(self) -> QHBoxLayout:
        self._first_name = ElidedLabel(role="caption")
        named(self._first_name, "compare.first", "First graph")
        self._second_name = ElidedLabel(role="caption")
        named(self._second_name, "compare.second", "Second graph")
        names = QHBoxLayout()
        names.setContentsMargins(12, 0, 10, 5)
        names.setSpacing(6)
        names.addWidget(self._first_name, 1)
        names.addWidget(self._second_name, 1)
        self._tools = QWidget()
        buttons = QHBoxLayout(self._tools)
        buttons.setContentsMargins(0, 0, 0, 0)
        buttons.setSpacing(0)
        for command_id in ("compare.swap", "compare.show", "compare.close"):
            buttons.addWidget(CommandTool(self.commands, command_id, f"{command_id}.tool"))
        names.addWidget(self._tools)
        return names

    # -- commands: where the second graph comes from --------------------------------------------

    @Slot()
    def trace_second(self) -> None:
        """Trace the prompt that is typed, with the settings of the graph, and compare."""
        graph, crm, prompt = self.session.graph, self.session.crm, self.prompt.text()
        if graph is None or crm is None:
            return
        # Now, and not when it is done: by then somebody may be busy elsewhere.
        self.go_there()
        if not prompt.strip():
            self.prompt.setFocus(Qt.FocusReason.ShortcutFocusReason)
            self.message.emit(
                Message("info", "Type a prompt to compare with", "", "then press Enter")
            )
            return
        job = self.runner.submit(
            work.build_graph, crm, prompt, graph.settings, self.session.thresholds,
            title="Trace the second prompt", key=SECOND_KEY,
        )  # fmt: skip
        self._await(job, self._on_traced)

    @Slot()
    def open_second(self) -> None:
        """Choose a saved graph to compare with."""
        ask_file(self, "Open a graph to compare with", self.open_second_file, _FILES)

    @Slot(str)
    def open_second_file(self, file: str) -> None:
        """Open a saved graph, and compare."""
        self.go_there()
        path = Path(file)
        job = self.runner.submit(
            work.load_graph, path, self.session.thresholds,
            title=f"Open {path.name}", lane="quick", key=SECOND_KEY,
        )  # fmt: skip
        self._await(job, self._on_opened)

    @Slot()
    def pick_second(self) -> None:
        """Choose a graph of the workspace to compare with."""
        self.go_there()
        ask_choice(
            self, "Compare with a graph of the workspace", "Graph:", self.pick_named,
            list(self._others()), "Compare",
        )  # fmt: skip

    @Slot(str)
    def pick_named(self, name: str) -> None:
        """Compare with the graph of the workspace that is called so in the list of choices."""
        key = self._others().get(name)
        if key is not None:
            self.graph_asked.emit(key)

    def _others(self) -> dict[str, str]:
        """Keys of the workspace's other graphs by what they are called, the newest first."""
        view = self.session.workspace
        if view is None:
            return {}
        others = (entry for entry in reversed(view.graphs) if entry.key != view.current)
        # Graphs of one prompt are called the same.
        return {f"{entry.key}  {entry.title[:_MOST_LETTERS]}": entry.key for entry in others}

    def await_kept(self, job: Job) -> None:
        """Compare with the graph that a job brings from the workspace."""
        self._await(job, self._on_kept)

    @Slot()
    def keep(self) -> None:
        """Keep the session's graph as the second, for the next one to be compared with."""
        kept = self._mine("kept")
        if kept is None:
            return
        self._take(kept)
        self.message.emit(
            Message(
                "info",
                "The graph is kept to compare with",
                "",
                "Trace another prompt, or open another replacement model and trace again",
            )
        )

    @Slot()
    def rerun(self) -> None:
        """Trace the graph's prompt once more, and compare edge by edge."""
        graph, info = self.session.graph, self.session.model_info
        if graph is None or info is None or self.session.crm is None:
            return
        self.go_there()
        if graph.model_hash and graph.model_hash != info.weights_hash:
            self.message.emit(
                Message(
                    "warning",
                    f"The graph is of {graph.model_name}, and {info.name} is loaded",
                    "their weights differ, so other edges are to be expected",
                    "Load the model that it was traced on",
                    offer=Offer("Run it on this model", self._rerun_on_other),
                )
            )
            return
        self._rerun(other_model=False)

    def _rerun_on_other(self) -> None:
        self._rerun(other_model=True)

    def _rerun(self, other_model: bool) -> None:
        graph, crm = self.session.graph, self.session.crm
        if graph is None or crm is None:
            return
        job = self.runner.submit(
            work_comparing.rerun, graph, crm, other_model, self.session.thresholds,
            title="Re-run and compare", key=SECOND_KEY,
        )  # fmt: skip
        self._await(job, self._on_second)

    def _mine(self, origin: Origin) -> Optional[SecondGraph]:
        """The session's graph, with what a person has made of it."""
        graph = self.session.graph
        if graph is None:
            return None
        return SecondGraph(
            graph, self.session.pruned, origin, self.session.graph_key, self.session.notes
        )

    def _await(self, job: Job, arrived: Callable[..., None]) -> None:
        self._home = self.session.home
        job.finished.connect(arrived)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    @Slot(object)
    def _on_traced(self, traced: work.TracedGraph) -> None:
        self._on_second(SecondGraph(traced.graph, traced.pruned, "traced"))

    @Slot(object)
    def _on_opened(self, traced: work.TracedGraph) -> None:
        self._on_second(SecondGraph(traced.graph, traced.pruned, "opened"))

    @Slot(object)
    def _on_kept(self, kept: KeptGraph) -> None:
        traced = kept.traced
        self._on_second(SecondGraph(traced.graph, traced.pruned, "workspace", kept.key, kept.notes))

    @Slot(object)
    def _on_second(self, second: SecondGraph) -> None:
        if self.session.is_home(self._home):
            self._take(second)
            return
        self.message.emit(
            Message(
                "info",
                f"The graph of “{second.graph.prompt}” is there, to compare with one of another "
                "workspace",
                "that was left meanwhile",
                offer=Offer("Compare with the graph here", partial(self._take, second)),
            )
        )

    def _take(self, second: SecondGraph) -> None:
        self.second, self._positions = second, None
        self._compare(record=True, show=True)

    # -- commands: what to do with the two --------------------------------------------------------

    @Slot()
    def swap(self) -> None:
        """Make the second graph the one that is shown, and compare it with the first."""
        second, mine = self.second, self._mine("kept")
        if second is None or mine is None or second.graph is mine.graph:
            self._say_none()
            return
        if self._positions is not None:
            self._positions = self._positions.inverse
        self.second = mine
        # Without its key: what was noted of it since, or a graph of that key in another workspace,
        # must not be written over. The workspace gives it a place of its own.
        self.session.set_graph(second.graph, second.pruned, self, notes=second.notes)
        self._compare(show=True)

    @Slot()
    def close_second(self) -> None:
        """Let the second graph go."""
        self.second = self.compared = self._positions = None
        self.runner.cancel_key(_COMPARE_KEY)
        self._show()

    @Slot()
    def show_differences(self) -> None:
        """Emphasise in the graph what differs."""
        shown = self.compared
        if shown is None or shown.first is not self.session.graph:
            self._say_none()
            return
        highlight = difference_highlight(shown, self.pages.nodes.state, self.pages.edges.state)
        self.session.set_highlight(highlight, self)

    def _say_none(self) -> None:
        self.message.emit(
            Message(
                "info",
                "There is no second graph yet",
                "",
                "Trace another prompt in the Compare dock, open a graph there, or keep this one",
            )
        )

    # -- comparing ----------------------------------------------------------------------------

    def _compare(self, record: bool = False, show: bool = False) -> None:
        graph, second = self.session.graph, self.second
        if graph is None or second is None or graph is second.graph:
            self.compared = None
            self._show()
            return
        fits = self._positions is not None and (
            self._positions.n_first, self._positions.n_second
        ) == (len(graph.tokens), len(second.graph.tokens))  # fmt: skip
        if not fits:
            self._positions = None
        self._records_it, self._shows_it = record, show
        before = self.compared
        same = before is not None and before.first is graph and before.second is second
        known = before.comparison if same and before is not None else None
        # Edge by edge it may take long, and a hand may be on the thresholds.
        long = known is None and work_comparing.edge_by_edge(graph, second)
        job = self.runner.submit(
            work_comparing.compare, graph, self.session.pruned, second, self._positions,
            self.pages.alignment, self.session.thresholds, known,
            title="Compare the graphs", lane="compute" if long else "quick", key=_COMPARE_KEY,
            quiet=not record,
        )  # fmt: skip
        job.finished.connect(self._on_compared)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    @Slot(object)
    def _on_compared(self, compared: Compared) -> None:
        if compared.first is not self.session.graph or compared.second is not self.second:
            return
        self.compared = compared
        if self._records_it:
            self.session.add_record(RECORD, compared.record, self)
            self.pages.open_first(report=compared.second.origin == "re-run")
        self._show()
        if self._shows_it:
            self.show_differences()
        self._records_it = self._shows_it = False

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- from the person ----------------------------------------------------------------------

    @Slot(int)
    def _on_node(self, row: int) -> None:
        """Select a node; one that is in the second graph alone has no place in the first."""
        shown = self.compared
        if shown is None or shown.first is not self.session.graph:
            return
        node = int(shown.difference.nodes.first[row])
        if node >= 0:
            self.session.set_selection(shown.first.node_name(node), self)

    @Slot(str)
    def _on_aligned(self, _how: Alignment) -> None:
        self._positions = None
        self._compare(show=True)

    @Slot(int, int)
    def _on_paired(self, first: int, second: int) -> None:
        if self.compared is not None:
            self._positions = self.compared.difference.positions.paired(first, second)
            self.pages.set_by_hand()
            self._compare(show=True)

    @Slot()
    def _on_listed(self) -> None:
        """Another tolerance, or other rows."""
        self._tell()
        self.show_differences()

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        graph = self.session.graph
        self.show_empty(graph is None)
        if SessionPart.GRAPH in parts and self._outlived(graph):
            # What was traced again was traced to be compared with a graph that is gone.
            self.second = None
        if graph is None:
            self.compared = None
            self._show()
            return
        stale = self.compared is None or self.compared.first is not graph
        if self.second is not None and (
            stale or parts & {SessionPart.PRUNED, SessionPart.THRESHOLDS}
        ):
            self._compare()
        elif parts - {SessionPart.RECORDS}:
            self._show()
        if SessionPart.RECORDS in parts:
            self._show_history()

    def _outlived(self, graph: Optional[AttributionGraph]) -> bool:
        compared = self.compared
        return (
            self.second is not None
            and self.second.origin == "re-run"
            and compared is not None
            and compared.first is not graph
        )

    def _show(self) -> None:
        graph, second, shown = self.session.graph, self.second, self.compared
        self._first_name.set_whole("" if graph is None else f"1  “{graph.prompt}”")
        self._second_name.set_whole(
            "" if second is None else f"2  “{second.graph.prompt}” ({_ORIGINS[second.origin]})"
        )
        self._tools.setVisible(second is not None)
        self.pages.show_compared(shown, self.session.named_notes)
        self._body.setCurrentIndex(0 if shown is None and not self._records() else 1)
        self._show_history()
        self._tell()

    def _records(self) -> tuple[dict[str, Any], ...]:
        return self.session.records.get(RECORD, ())

    def _show_history(self) -> None:
        self.pages.show_history(self._records())

    def _tell(self) -> None:
        shown = self.compared
        if shown is None:
            self.pages.tell("")
        elif shown.comparison is not None and shown.comparison.same:
            self.pages.tell(f"{shown.told}.")
        else:
            self.pages.tell(f"{shown.told}. {self._summary(shown)}.")

    def _summary(self, shown: Compared) -> str:
        both, first, second = (shown.difference.count(which) for which in _presences())
        changed = self.pages.n_changed
        return (
            f"{count(first)} nodes only in 1, {count(second)} only in 2, "
            f"{count(changed)} of the {count(both)} in both changed"
        )

    # -- figures ------------------------------------------------------------------------------

    @property
    def preparing(self) -> bool:
        """Whether two graphs are being compared."""
        return self.runner.running(_COMPARE_KEY) is not None

    def figures(self) -> tuple[FigureOffer, ...]:
        """The tables of nodes and of edges, once they are of the graph that is open."""
        if self.compared is None or self.compared.first is not self.session.graph:
            return ()
        from attention_studio.ui.figures.figure import FigureOffer

        return (
            FigureOffer("differing-nodes", "Nodes of two graphs", self._nodes_figure),
            FigureOffer("differing-edges", "Edges of two graphs", self._edges_figure),
        )

    def _nodes_figure(self) -> Optional[Figure]:
        return of_view(self.pages.node_table, "differing-nodes", "Nodes of two graphs",
                       self._caption())  # fmt: skip

    def _edges_figure(self) -> Optional[Figure]:
        return of_view(self.pages.edge_table, "differing-edges", "Edges of two graphs",
                       self._caption())  # fmt: skip

    def _caption(self) -> str:
        shown = self.compared
        if shown is None:
            return ""
        first, second = shown.first, shown.second.graph
        return (
            f"Attribution graphs of “{first.prompt}” ({first.model_name}, {first.crm_name}) and "
            f"“{second.prompt}” ({second.model_name}, {second.crm_name}). {shown.told}. "
            f"{self._summary(shown)}."
        )


def _presences() -> tuple[Any, ...]:
    from attention_studio.core.difference_records import Presence

    return tuple(Presence)
