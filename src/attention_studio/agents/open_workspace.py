"""A workspace, a model and dashboards as agents see them without a window: one graph is open at a
time, what is found out is numbered, what is proposed is collected, and nothing is written until a
person says so.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Protocol

import numpy as np
from pydantic import Field

from attention_studio.agents.proposals import GraphProposal, Proposal, proposing_tools
from attention_studio.agents.tools import Tool, ToolArguments, Toolbox, ToolError
from attention_studio.agents.workspace_tools import (
    ONE_RUN,
    NoArguments,
    Workbench,
    in_turn,
    looking_tools,
    measuring_tools,
)
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.intervention_runs import InterventionRun
from attention_studio.core.trace_circumstances import made_by
from attention_studio.core.workspace import Workspace, WorkspaceChanges
from attention_studio.core.workspace_reading import WorkspaceReader
from attention_studio.utils.progress import WorkContext
from attention_studio.utils.turns import Turn

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.workspace_index import WorkspaceIndex

RUNS = "intervention"
"""Kind of the workspace's records that are interventions."""
_SHOWN_GRAPHS, _SHOWN_RUNS, _SHOWN_TOKENS = 100, 50, 5
_MAX_PROMPT = 4_000
_MAX_TRACED = 8
"""Graphs that were traced here and are kept in memory."""

LoadReplacement = Callable[[WorkContext], "CompleteReplacementModel"]


class OpenGraph(ToolArguments):
    """Which graph to look at."""

    graph: str = Field(max_length=20, description="Its key, such as G2")


class OneRun(ToolArguments):
    """Which intervention."""

    run: int = Field(ge=1, description="Its number, as list_runs has it")


class TracePrompt(ToolArguments):
    """What to trace."""

    prompt: str = Field(min_length=1, max_length=_MAX_PROMPT)


class PromptFeatures(TracePrompt):
    """Which features to list."""

    limit: int = Field(default=10, ge=1, le=50)


class Reader(Protocol):
    """Reads a workspace: ``WorkspaceReader`` from its folder, or what a window has in memory."""

    def index(self) -> WorkspaceIndex:
        """What there is."""

    def graph(self, key: str) -> AttributionGraph:
        """A graph that the index names. Raises ``StudioError`` where it cannot be read."""

    def notes(self, key: str) -> GraphNotes:
        """What a person has made of it. Raises ``StudioError`` where that cannot be read."""

    def records(self, kind: str) -> tuple[dict[str, Any], ...]:
        """What was found out, of one kind. Raises ``StudioError`` where it is damaged."""


class OpenWorkspace:
    """What is open. Safe from any thread.

    Args:
        reader: the workspace; None: there is none.
        load: loads the replacement model when it is first needed; None: there is none.
        store: dashboards; None: there are none.
        folder: where proposals can be written to; None: nowhere.
        turn: is held by what runs or loads the model.
    """

    def __init__(
        self,
        reader: Optional[Reader] = None,
        load: Optional[LoadReplacement] = None,
        store: Optional[FeatureStore] = None,
        folder: Optional[Path] = None,
        turn: Turn = ONE_RUN,
    ) -> None:
        self._reader, self._load, self._store = reader, load, store
        self._folder, self._turn = folder, turn
        self._lock = threading.RLock()
        self._replacement: Optional[CompleteReplacementModel] = None
        self._traced: dict[str, AttributionGraph] = {}
        self._n_traced = 0
        self._pruned: Optional[tuple[AttributionGraph, PrunedGraph]] = None
        self._stored_runs = () if reader is None else reader.records(RUNS)
        self._new_runs: list[InterventionRun] = []
        self._proposals: list[GraphProposal] = []
        self._key = self._first_key()

    # -- what is open -------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """Key of the graph that is open; "": none."""
        return self._key

    @property
    def proposals(self) -> tuple[GraphProposal, ...]:
        """What was proposed, in order."""
        with self._lock:
            return tuple(self._proposals)

    @property
    def new_runs(self) -> tuple[InterventionRun, ...]:
        """Interventions that were run here."""
        with self._lock:
            return tuple(self._new_runs)

    def bench(self) -> Workbench:
        """What tools look at."""
        with self._lock:
            graph = self.graph(self._key) if self._key else None
            return Workbench(
                graph,
                None if graph is None else self._prune(graph),
                self._notes(),
                self._replacement,
                self._store,
            )

    def graph(self, key: str) -> AttributionGraph:
        """A graph of the workspace, or one that was traced here.

        Raises:
            StudioError: there is none, or it cannot be read.
        """
        with self._lock:
            traced = self._traced.get(key)
        if traced is not None:
            return traced
        if self._reader is None:
            raise ToolError(f"There is no graph {key[:20]}", "", "Trace a prompt first")
        return self._reader.graph(key)

    def n_runs(self) -> int:
        """How many interventions are known: those of the workspace, then those that were run
        here."""
        with self._lock:
            return len(self._stored_runs) + len(self._new_runs)

    def run(self, number: int) -> InterventionRun:
        """An intervention, counted from 1.

        Raises:
            ToolError: there is none.
            RunFormatError: its record is damaged.
        """
        with self._lock:
            if not 1 <= number <= self.n_runs():
                raise ToolError(f"There is no run {number}", f"there are {self.n_runs()}")
            place = number - 1 - len(self._stored_runs)
            if place >= 0:
                return self._new_runs[place]
        return InterventionRun.from_json(self._stored_runs[number - 1])

    def overview(self) -> dict[str, Any]:
        """What there is, for models and people."""
        told: dict[str, Any] = {"open_graph": self._key, "runs": self.n_runs()}
        if self._reader is not None:
            index = self._reader.index()
            told["workspace"] = index.name
            told["model"] = None if index.model is None else index.model.name
            told["replacement_model"] = None if index.crm is None else index.crm.name
            told["graphs"] = [
                {
                    "graph": entry.key,
                    "title": entry.title,
                    "prompt": entry.prompt,
                    "model": entry.model_name,
                    "nodes": entry.nodes,
                    "pinned": entry.pins,
                }
                for entry in index.graphs[-_SHOWN_GRAPHS:]
            ]
        with self._lock:
            told["traced_here"] = [
                {"graph": key, "prompt": graph.prompt} for key, graph in self._traced.items()
            ]
        told["model_can_be_run"] = self._load is not None
        told["dashboards"] = (
            None if self._store is None else {"features": self._store.about.n_features}
        )
        return told

    # -- tools --------------------------------------------------------------------------------

    def tools(self, proposals: bool = False) -> Toolbox:
        """Everything that can be asked for here: what needs a model or dashboards only where there
        are any, and proposals only if they are allowed."""
        found = [*self._own_tools(), *looking_tools(self.bench)]
        if self._store is None:
            found = [one for one in found if one.name not in ("feature_page", "search_features")]
        if self._load is not None:
            measuring = measuring_tools(self._measured_bench, self._keep_run, self._turn)
            running = (*self._model_tools(), *measuring)
            found += [in_turn(self._after_loading(one), self._turn) for one in running]
        proposing = (*proposing_tools(self.bench, self._propose), self._list_tool())
        return Toolbox((*found, *proposing), proposals)

    def _own_tools(self) -> tuple[Tool[Any], ...]:
        def overview(arguments: NoArguments, ctx: WorkContext) -> Any:
            return self.overview()

        def open_graph(arguments: OpenGraph, ctx: WorkContext) -> Any:
            graph = self.graph(arguments.graph)
            with self._lock:
                self._key = arguments.graph
            return {"open_graph": arguments.graph, **graph.summary()}

        def runs(arguments: NoArguments, ctx: WorkContext) -> Any:
            last = self.n_runs()
            numbers = range(max(1, last - _SHOWN_RUNS + 1), last + 1)
            return [{"run": f"run {n}", **_short(self.run(n))} for n in numbers]

        def run(arguments: OneRun, ctx: WorkContext) -> Any:
            found = self.run(arguments.run)
            return {
                "run": f"run {arguments.run}",
                **_short(found),
                "next_tokens": list(found.next_tokens),
                "moved_most": list(found.moved[:12]),
            }

        return (
            Tool("workspace", "What there is: model, graphs, runs.", NoArguments, overview),
            Tool("open_graph", "Make another graph the open one.", OpenGraph, open_graph),
            Tool("list_runs", "The interventions that were run.", NoArguments, runs),
            Tool("show_run", "One intervention and what came of it.", OneRun, run),
        )

    def _list_tool(self) -> Tool[Any]:
        def listed(arguments: NoArguments, ctx: WorkContext) -> Any:
            return [one.told for one in self.proposals]

        return Tool(
            "list_proposals", "What was proposed so far.", NoArguments, listed, proposing=True
        )

    def _model_tools(self) -> tuple[Tool[Any], ...]:
        def trace(arguments: TracePrompt, ctx: WorkContext) -> Any:
            from attention_studio.core.graph_builder import GraphBuilder

            graph = GraphBuilder(self._the_replacement()).build(arguments.prompt, ctx=ctx)
            key = self._keep_graph(graph)
            return {"open_graph": key, **graph.summary(), "tokens": list(graph.tokens)}

        def features(arguments: PromptFeatures, ctx: WorkContext) -> Any:
            from attention_studio.core.feature_extractor import FeatureExtractor

            extractor = FeatureExtractor(self._the_replacement())
            report = extractor.extract_features(arguments.prompt, arguments.limit, ctx)
            return [
                {
                    "feature": f"{one.site.label}/F{one.index}",
                    "at": f"P{one.position}",
                    "token": report.tokens[one.position],
                    "activation": one.activation,
                    "promotes": [token for token, _ in one.promoted[:_SHOWN_TOKENS]],
                }
                for one in report.overall
            ]

        return (
            Tool(
                "trace_prompt",
                "Trace a prompt through the model; the new graph is open from then on. Takes time.",
                TracePrompt,
                trace,
            ),
            Tool(
                "prompt_features",
                "The features that are strongest on a prompt.",
                PromptFeatures,
                features,
            ),
        )

    # -- writing ------------------------------------------------------------------------------

    def apply(self) -> int:
        """Write the proposals, and the interventions that were run, into the workspace. Proposals
        for graphs that were traced here and are not in it are left out.

        Returns:
            How many proposals were written.

        Raises:
            WorkspaceInUseError: a window has the workspace open.
            StudioError: it cannot be written, or its notes cannot be read.
        """
        if self._folder is None or self._reader is None:
            raise ToolError("There is no workspace to write to", "", "Name one")
        workspace = Workspace(self._folder)
        try:
            contents = workspace.read()
            index = contents.index or self._reader.index()
            notes: dict[str, GraphNotes] = {}
            written = 0
            for one in self.proposals:
                if index.entry(one.graph) is None:
                    continue
                before = notes.get(one.graph) or workspace.load_notes(one.graph)[0]
                notes[one.graph] = one.proposal.applied(before)
                written += 1
            entries = tuple(
                entry
                if (mine := notes.get(entry.key)) is None
                else entry.model_copy(update={"pins": len(mine.pinned), "noted": not mine.empty})
                for entry in index.graphs
            )
            runs = [run.to_json() for run in self.new_runs]
            kept = {RUNS: (*contents.records.get(RUNS, ()), *runs)} if runs else {}
            if notes or runs:
                changed = index.model_copy(update={"graphs": entries})
                workspace.save(WorkspaceChanges(changed, notes=notes, records=kept))
            return written
        finally:
            workspace.close()

    # -- inside -------------------------------------------------------------------------------

    def _first_key(self) -> str:
        if self._reader is None:
            return ""
        index = self._reader.index()
        if index.entry(index.graph) is not None:
            return index.graph
        return index.graphs[-1].key if index.graphs else ""

    def _notes(self) -> GraphNotes:
        """What the person has made of the open graph."""
        if self._reader is None or not self._key or self._key in self._traced:
            return GraphNotes()
        return self._reader.notes(self._key)

    def _prune(self, graph: AttributionGraph) -> PrunedGraph:
        if self._pruned is None or self._pruned[0] is not graph:
            index = None if self._reader is None else self._reader.index()
            thresholds = None if index is None else index.thresholds
            self._pruned = (graph, graph.prune(*(thresholds or ())))
        return self._pruned[1]

    def _keep_graph(self, graph: AttributionGraph) -> str:
        """Keep a graph that was traced here, and open it. The oldest one goes where there are too
        many; its key is not given away again."""
        with self._lock:
            self._n_traced += 1
            self._key = f"T{self._n_traced}"
            if len(self._traced) == _MAX_TRACED:
                del self._traced[next(iter(self._traced))]
            self._traced[self._key] = graph
            return self._key

    def _keep_run(self, run: InterventionRun) -> None:
        with self._lock:
            self._new_runs.append(run)

    def _propose(self, proposal: Proposal) -> None:
        with self._lock:
            self._proposals.append(GraphProposal(self._key, proposal))

    def _the_replacement(self) -> CompleteReplacementModel:
        return self.bench().the_replacement()

    def _measured_bench(self) -> Workbench:
        """What measuring tools look at: the model has to be the one of the open graph."""
        bench = self.bench()
        if bench.graph is not None and not made_by(bench.graph, bench.the_replacement()):
            raise ToolError(
                "The open graph was traced with another model",
                "what is measured in this one would say nothing about it",
                "Trace the prompt again, or open another graph",
            )
        return bench

    def _after_loading(self, tool: Tool[Any]) -> Tool[Any]:
        """A tool that loads the model first, so that reading tools never wait for it."""

        def run(arguments: Any, ctx: WorkContext) -> Any:
            # Whoever runs this holds the turn: nobody loads it a second time meanwhile.
            if self._replacement is None and self._load is not None:
                self._replacement = self._load(ctx)
            return tool.run(arguments, ctx)

        return dataclasses.replace(tool, run=run)


def open_folder(
    workspace: Optional[Path],
    load: Optional[LoadReplacement] = None,
    store: Optional[Path] = None,
) -> OpenWorkspace:
    """What lies in folders, opened for agents.

    Raises:
        StudioError: a folder holds something else.
    """
    from attention_studio.core.feature_store import FeatureStore

    reader = None if workspace is None else WorkspaceReader(workspace)
    dashboards = None if store is None else FeatureStore.open(store)
    return OpenWorkspace(reader, load, dashboards, None if reader is None else reader.folder)


def _short(run: InterventionRun) -> dict[str, Any]:
    before, after = run.top(False, 1), run.top(True, 1)
    return {
        "done": str(run.plan),
        "prompt": run.plan.prompt,
        "likeliest_before": before[0].token if before else "",
        "likeliest_after": after[0].token if after else "",
        "divergence": float(np.float32(run.divergence)),
    }
