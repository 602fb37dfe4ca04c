"""Looks for supernodes on a lane, lists what was found, and does what a person decides."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.ui import work_subgraph
from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.node_text import title
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.supernode_panel import SupernodePanel

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.supernode_suggestions import Suggestions, SupernodeSuggestion
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.widgets.job_strip import JobStrip

_KEY = "subgraph.suggest"


class SupernodeSuggester(QObject):
    """The suggestions of one graph, and their panel.

    ``message`` carries a ``Message`` for the message bar.
    """

    message = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        theme: Theme,
        strip: JobStrip,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._session = session
        self._runner = runner
        self._strip = strip
        self._graph: Optional[AttributionGraph] = None
        """The graph that the suggestions are of."""
        self._rejected: list[frozenset[str]] = []
        self._highlight: Optional[Highlight] = None
        self.panel = SupernodePanel(theme, commands)
        self.panel.accepted.connect(self._on_accepted)
        self.panel.rejected.connect(self._on_rejected)
        self.panel.shown.connect(self._on_shown)
        self.panel.closed.connect(self._on_closed)

    @Slot()
    def look(self) -> None:
        """Look for supernodes in the graph as it is shown and pinned now."""
        session, graph = self._session, self._session.graph
        if graph is None:
            return
        self._graph = graph
        self.panel.say("Comparing features…")
        job = self._runner.submit(
            work_subgraph.suggest, graph, session.pruned, session.named_notes, session.crm,
            self.panel.config, tuple(self._rejected), session.thresholds,
            title="Look for supernodes", key=_KEY,
        )  # fmt: skip
        job.finished.connect(self._on_found)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)
        self._strip.follow(job)

    def renew(self) -> None:
        """Score the suggestions anew after pins or supernodes have changed; those of another graph
        go."""
        if self._graph is None:
            return
        if self._session.graph is not self._graph:
            self._graph = None
            self._runner.cancel_key(_KEY)
            self.panel.show_suggestions(None, {})
            self.panel.hide()
        elif self.panel.found:
            job = self._runner.submit(
                work_subgraph.rescore, self._graph, self._session.named_notes, self.panel.found,
                title="Score the suggestions", lane="quick", key=_KEY, quiet=True,
            )  # fmt: skip
            job.finished.connect(self._on_found)
            job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_found(self, suggestions: Suggestions) -> None:
        graph, notes = self._graph, self._session.named_notes
        if graph is None or graph is not self._session.graph:
            return
        titles = {
            name: title(graph, graph.find(name), notes)
            for suggestion in suggestions.found
            for name in suggestion.nodes
        }
        self.panel.show_suggestions(suggestions, titles)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.panel.say("")
        self.message.emit(Message.of(failure))

    @Slot(object)
    def _on_cancelled(self, _nothing: object) -> None:
        self.panel.say("")

    @Slot(object)
    def _on_accepted(self, suggestion: SupernodeSuggestion) -> None:
        notes, group = self._session.notes.grouped(suggestion.nodes, suggestion.name)
        self._forget_highlight()
        self._session.set_notes(notes, f"Accept supernode “{suggestion.name}”")
        self._session.set_chosen(())
        self._session.set_selection(group.key)

    @Slot(object)
    def _on_rejected(self, suggestion: SupernodeSuggestion) -> None:
        self._rejected.append(frozenset(suggestion.nodes))
        self._forget_highlight()
        from attention_studio.core.supernode_suggestions import Suggestions

        left = tuple(other for other in self.panel.found if other is not suggestion)
        subgraph_now = self.panel.now
        if subgraph_now is not None:
            self._on_found(Suggestions(subgraph_now, left))

    @Slot(object)
    def _on_shown(self, suggestion: SupernodeSuggestion) -> None:
        self._highlight = Highlight(
            f"Suggested supernode “{suggestion.name}”",
            MappingProxyType(dict.fromkeys(suggestion.nodes, Role.MARKED)),
        )
        self._session.set_highlight(self._highlight)

    @Slot()
    def _on_closed(self) -> None:
        self._forget_highlight()
        self.panel.hide()

    def _forget_highlight(self) -> None:
        """Take away what was emphasised here, unless another view has emphasised something."""
        if self._highlight is not None and self._session.highlight is self._highlight:
            self._session.set_highlight(None)
        self._highlight = None
