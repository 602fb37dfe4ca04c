"""Tracing for the Graph dock: on demand, and by itself while a prompt is edited."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.core.trace_circumstances import made_by
from attention_studio.ui import work
from attention_studio.ui.text import count
from attention_studio.ui.widgets.message_bar import Message, Offer

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.graph_settings import GraphSettings
    from attention_studio.core.workspace import Workspace
    from attention_studio.ui.jobs import JobFailure, JobRunner
    from attention_studio.ui.session import Session

# A prompt that is edited is traced again by itself where the last trace took less than this.
LIVE_SECONDS = 0.3
BUILD_KEY = "graph.build"
_LIVE_KEY = "graph.live"


class GraphTracer(QObject):
    """Has prompts traced and puts the graphs into the session.

    ``started`` carries the job of a trace on demand, ``message`` what went wrong.
    """

    started = Signal(object)
    message = Signal(object)

    def __init__(
        self, session: Session, runner: JobRunner, parent: Optional[QObject] = None
    ) -> None:
        super().__init__(parent)
        self._session = session
        self._runner = runner
        self._asked: Optional[tuple[object, str]] = None
        """The replacement model and prompt that were traced last on demand."""
        self._home: Optional[Workspace] = None
        """The workspace that it was traced in."""
        self._followed: Optional[AttributionGraph] = None
        """The graph in whose place a live trace is to come."""

    @property
    def running(self) -> bool:
        """Whether a trace on demand goes on."""
        return self._runner.running(BUILD_KEY) is not None

    def build(self, settings: Optional[GraphSettings] = None) -> None:
        """Trace the session's prompt with these settings (None: the usual ones)."""
        crm, prompt = self._session.crm, self._session.prompt
        if crm is None or not prompt.strip():
            return
        job = self._runner.submit(
            work.build_graph, crm, prompt, settings, self._session.thresholds,
            title="Trace the prompt", key=BUILD_KEY,
        )  # fmt: skip
        self._asked, self._home = (crm, prompt), self._session.home
        job.finished.connect(self._on_built)
        job.failed.connect(self._on_failed)
        self.started.emit(job)

    def follow(self) -> None:
        """Trace a prompt that is being edited, where tracing is quick enough for that."""
        session = self._session
        graph, crm = session.graph, session.crm
        if graph is None or crm is None or session.prompt_view is None:
            return
        # A graph that somebody has made something of is not replaced while they type.
        if not self._session.notes.empty:
            return
        slow = self.running or graph.seconds > LIVE_SECONDS
        if slow or not made_by(graph, crm) or not self.is_stale(graph):
            return
        self._followed = graph
        job = self._runner.submit(
            work.build_graph, crm, session.prompt, graph.settings, session.thresholds,
            title="Trace the prompt", key=_LIVE_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_followed)

    def is_stale(self, graph: AttributionGraph) -> bool:
        """Whether the prompt has changed since a graph was traced."""
        return self._session.prompt.strip() != graph.prompt.strip()

    @Slot(object)
    def _on_built(self, traced: work.TracedGraph) -> None:
        # Results go with the replacement model that they came from.
        if self._asked is None or self._asked[0] is not self._session.crm:
            return
        if self._session.is_home(self._home):
            self._show(traced)
            return
        self.message.emit(
            Message(
                "info",
                f"“{traced.graph.prompt[:80]}” is traced, for another workspace",
                "that was left meanwhile",
                offer=Offer("Put the graph in here", partial(self._show, traced)),
            )
        )

    def _show(self, traced: work.TracedGraph) -> None:
        self._session.set_graph(traced.graph, traced.pruned)

    @Slot(object)
    def _on_followed(self, traced: work.TracedGraph) -> None:
        # Not where the person has gone on, or has had another graph traced or opened: one of
        # another model among them, with which this one went.
        followed, self._followed = self._followed, None
        same = self._session.graph is followed and self._session.notes.empty
        if same and not self.is_stale(traced.graph):
            self._session.set_graph(traced.graph, traced.pruned, keep=True)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        message = Message.of(failure)
        smaller, asked = getattr(failure.error, "smaller", None), self._asked
        if smaller is not None:

            def take() -> None:
                # What would fit another prompt, or another replacement model, is not known.
                same = asked == (self._session.crm, self._session.prompt)
                self.build(smaller if same else None)

            message = replace(
                message, offer=Offer(f"Trace {count(smaller.max_features)} features", take)
            )
        self.message.emit(message)
