"""What the Graph dock has lanes work out about nodes: features, queries, keys, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.trace_circumstances import made_by
from attention_studio.ui import work_graph
from attention_studio.ui.widgets.feature_lookup import FeatureLookup

if TYPE_CHECKING:
    from attention_studio.core.graph_pruning import GraphScores
    from attention_studio.core.qk_records import FeatureTrace
    from attention_studio.core.sites import Site
    from attention_studio.ui.jobs import JobFailure, JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.widgets.connections_panel import ConnectionsPanel
    from attention_studio.ui.widgets.graph_facts import GraphFacts

_QK_KEY = "graph.qk"
_SCORES_KEY = "graph.pinned_scores"


class GraphQuestions(QObject):
    """Asks lanes, and hands what they answer to the widgets that show it.

    ``failed`` carries a ``JobFailure`` for the message bar.
    """

    failed = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        panel: ConnectionsPanel,
        facts: GraphFacts,
        parent: Optional[QObject] = None,
    ) -> None:
        super().__init__(parent)
        self._session = session
        self._runner = runner
        self._qk = panel.qk
        self._feature = panel.feature
        self._facts = facts
        self.lookup = FeatureLookup(session, runner, panel.feature.detail, "graph.feature", self)
        self.lookup.failed.connect(self.failed)
        self.lookup.went.connect(self.go_to_feature)
        panel.qk.wanted.connect(self.ask_queries_and_keys)
        panel.feature.wanted.connect(self.look_feature_up)

    @Slot(str)
    def ask_queries_and_keys(self, name: str) -> None:
        """Have the queries and keys of an attention feature traced."""
        graph, crm = self._session.graph, self._session.crm
        refusal = self._refusal()
        if refusal or graph is None or crm is None:
            self._qk.show_refusal(refusal)
            return
        job = self._runner.submit(
            work_graph.trace_queries_and_keys, crm, graph, name,
            title="Trace queries and keys", key=_QK_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_queries_and_keys)
        job.failed.connect(self._on_qk_failed)

    @Slot(str)
    def look_feature_up(self, name: str) -> None:
        """Show what is known of the feature of a node; "": of none."""
        found = FeatureName.read(name)
        if found is None or not isinstance(found.latent, int):
            self.lookup.look_at(None)
            return
        position = found.position if isinstance(found.position, int) else None
        self.lookup.look_at((found.site, found.latent), name, position)

    @Slot(object, int)
    def go_to_feature(self, site: Site, index: int) -> None:
        """Select a feature at the position of the selected node, where the graph has it; look at
        it without a node where it has not."""
        graph, selected = self._session.graph, self._session.selection
        if graph is None or selected is None:
            return
        name = f"{site.label}/{selected.split('/')[1]}/F{index}"
        if graph.has(name):
            self._session.set_selection(name)
        else:
            self.lookup.look_at((site, index))
            self._session.set_feature((site, index))

    def _refusal(self) -> str:
        """Why the model cannot be asked about the graph; "" where it can."""
        graph, crm = self._session.graph, self._session.crm
        if graph is None or crm is None:
            return "This needs the replacement model that the graph is of."
        if made_by(graph, crm):
            return ""
        if graph.crm_name == crm.name:
            return f"The graph is of another {crm.name} than the open one: open that to see this."
        return f"The graph is of {graph.crm_name}: open that replacement model to see this."

    def ask_pinned_scores(self) -> None:
        """Have the pinned nodes scored on their own."""
        graph, pinned = self._session.graph, self._session.pinned
        if graph is None or not pinned:
            self._runner.cancel_key(_SCORES_KEY)
            self._facts.show_pinned_scores(None)
            return
        job = self._runner.submit(
            work_graph.pinned_scores, graph, pinned,
            title="Score the pinned nodes", lane="quick", key=_SCORES_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_pinned_scores)

    @Slot(object)
    def _on_queries_and_keys(self, trace: FeatureTrace) -> None:
        self._qk.show_trace(trace.look.name, trace)

    @Slot(object)
    def _on_qk_failed(self, failure: JobFailure) -> None:
        parts = (failure.what, failure.why)
        self._qk.show_refusal(". ".join(part for part in parts if part))

    @Slot(object)
    def _on_pinned_scores(self, scores: GraphScores) -> None:
        self._facts.show_pinned_scores(scores if self._session.pinned else None)
