"""The tools over what is open: a graph and its notes, a replacement model, dashboards.

They call the functions that the window calls. Two sorts, apart from each other and from those that
propose changes (``proposals``):

- ``looking_tools`` read what is there;
- ``measuring_tools`` run the real model; they take time and change nothing either.

What comes back is data, cut to what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Optional

import numpy as np
from pydantic import Field

from attention_studio.agents.tools import Tool, ToolArguments, ToolError
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.intervention_specs import Edit, FeatureAt, Freeze, Intervention
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import dictionaries_of
from attention_studio.utils.progress import WorkContext
from attention_studio.utils.turns import Turn

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, NodeEdges, PrunedGraph
    from attention_studio.core.feature_records import FeaturePage
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.intervention_runs import InterventionRun
    from attention_studio.core.replacement_model import CompleteReplacementModel

MAX_NAME = 200
MAX_NODES = 64
_MAX_SOURCES = 32
_SHOWN_EXAMPLES, _EXAMPLE_TOKENS = 6, 32
_KEPT = 12
"""Features of a run that a model is told of."""

ONE_RUN = Turn()
"""Hooks on a model are shared: one run at a time in a process without a window, which has a turn of
its own."""


@dataclass(frozen=True)
class Workbench:
    """What is open at a moment; None: nothing of the kind."""

    graph: Optional[AttributionGraph] = None
    pruned: Optional[PrunedGraph] = None
    notes: GraphNotes = field(default_factory=GraphNotes)
    replacement: Optional[CompleteReplacementModel] = None
    store: Optional[FeatureStore] = None

    def the_graph(self) -> AttributionGraph:
        """The open graph.

        Raises:
            ToolError: there is none.
        """
        if self.graph is None:
            raise ToolError("No graph is open", "", "Say that a prompt has to be traced first")
        return self.graph

    def the_replacement(self) -> CompleteReplacementModel:
        """The open replacement model.

        Raises:
            ToolError: there is none.
        """
        if self.replacement is None:
            raise ToolError("No replacement model is open", "", "Say that one has to be opened")
        return self.replacement

    def the_store(self) -> FeatureStore:
        """The open dashboards.

        Raises:
            ToolError: there are none, or they are of other features than the open graph or
                replacement model.
        """
        if self.store is None:
            raise ToolError("No feature dashboards are open", "", "Say that they have to be built")
        about, graph, crm = self.store.about, self.graph, self.replacement
        if graph is not None:
            fits = about.fits(graph.model_hash, dictionaries_of(graph))
        else:
            fits = crm is None or about.fits(crm.loaded.info.weights_hash, crm.dictionaries_id)
        if not fits:
            raise ToolError(
                "The dashboards are of another replacement model than what is open",
                f"they are of {about.crm_name} for {about.model_name}",
                "Say that dashboards of this one have to be opened",
            )
        return self.store


GetBench = Callable[[], Workbench]


# ---- looking -----------------------------------------------------------------------------------


class NoArguments(ToolArguments):
    """Nothing to say."""


class FindNodes(ToolArguments):
    """Nodes by a query."""

    query: str = Field(
        max_length=1000,
        description="Parts side by side all hold; or, not and brackets work: kind=feature (error, "
        'token, output), layer>1, layer=2..5, pos="Dallas" or pos=5 (-1 is the last), '
        "influence>1%, activation>0.5, label~city, pinned, L3 (a module), #1043 (a feature's "
        "number), in(QUERY) what feeds these nodes, out(QUERY) what they feed, upstream(QUERY), "
        "downstream(QUERY); any other word: text about the node",
    )
    limit: int = Field(default=20, ge=1, le=100)


class AtNode(ToolArguments):
    """One node."""

    node: str = Field(max_length=MAX_NAME, description="Its name, such as L12/P5/F1043, P4/token")
    limit: int = Field(default=10, ge=1, le=50)


class BetweenNodes(ToolArguments):
    """Paths between nodes."""

    sources: list[str] = Field(
        default=[], max_length=_MAX_SOURCES, description="Names of nodes; none: the tokens"
    )
    target: str = Field(
        default="", max_length=MAX_NAME, description="A node; none: the likeliest output"
    )
    limit: int = Field(default=5, ge=1, le=20)


class OneFeature(ToolArguments):
    """A feature, wherever it is."""

    feature: str = Field(max_length=MAX_NAME, description="Such as L12/F1043 or A3/F7")


class SearchFeatures(ToolArguments):
    """Words to look for."""

    text: str = Field(max_length=500, description="Words of labels, promoted tokens or examples")
    limit: int = Field(default=10, ge=1, le=50)


def looking_tools(get: GetBench) -> tuple[Tool[Any], ...]:
    """Tools that read what is open."""

    def summary(arguments: NoArguments, ctx: WorkContext) -> Any:
        graph = get().the_graph()
        return {**graph.summary(), "tokens": list(graph.tokens)}

    def find(arguments: FindNodes, ctx: WorkContext) -> Any:
        from attention_studio.core.node_query import find_nodes

        bench = get()
        graph = bench.the_graph()
        names = find_nodes(graph, arguments.query, bench.pruned, bench.notes)
        shown = names[: arguments.limit]
        return {"found": len(names), "nodes": [_node(bench, graph.find(name)) for name in shown]}

    def inputs(arguments: AtNode, ctx: WorkContext) -> Any:
        bench = get()
        graph = bench.the_graph()
        return _edges(bench, graph.inputs(graph.find(arguments.node)), arguments.limit)

    def outputs(arguments: AtNode, ctx: WorkContext) -> Any:
        bench = get()
        graph = bench.the_graph()
        return _edges(bench, graph.outputs(graph.find(arguments.node)), arguments.limit)

    def paths(arguments: BetweenNodes, ctx: WorkContext) -> Any:
        from attention_studio.core.attribution_graph import NodeKind

        graph = get().the_graph()
        sources = [graph.find(name) for name in arguments.sources]
        if not sources:
            sources = np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING).tolist()
        target = graph.find(arguments.target) if arguments.target else int(graph.start.argmax())
        found = graph.strongest_paths(sources, target, arguments.limit, ctx=ctx)
        return {
            "target": graph.node_name(target),
            "influence": found.influence,
            "carried_by_these": found.covered,
            "paths": [
                {
                    "nodes": [graph.node_name(node) for node in path.nodes],
                    "strength": path.strength,
                    "raises": path.sign > 0,
                }
                for path in found.paths
            ],
        }

    def supernodes(arguments: NoArguments, ctx: WorkContext) -> Any:
        bench = get()
        return {
            "pinned": list(bench.notes.pinned),
            "supernodes": [
                {"key": one.key, "name": one.name, "nodes": list(one.nodes)}
                for one in bench.notes.supernodes
            ],
        }

    def suggest(arguments: NoArguments, ctx: WorkContext) -> Any:
        from attention_studio.core.supernode_suggestions import suggest_supernodes

        bench = get()
        graph = bench.the_graph()
        pruned = graph.prune() if bench.pruned is None else bench.pruned
        found = suggest_supernodes(graph, pruned, bench.notes, bench.replacement, ctx=ctx)
        return [
            {
                "name": one.name,
                "nodes": list(one.nodes),
                "likeness": one.likeness,
                "influence": one.influence,
            }
            for one in found.found
        ]

    def page(arguments: OneFeature, ctx: WorkContext) -> Any:
        site, index = _feature(arguments.feature)
        return _page(get().the_store().page(site, index))

    def search(arguments: SearchFeatures, ctx: WorkContext) -> Any:
        store = get().the_store()
        return [
            {
                "feature": str(FeatureName(one.site, None, one.index)),
                "label": one.label,
                "promotes": list(one.promotes),
            }
            for one in store.search(arguments.text, arguments.limit)
        ]

    return (
        Tool("graph_summary", "What the open graph is of, and its scores.", NoArguments, summary),
        Tool("find_nodes", "Nodes of the graph that fit a query.", FindNodes, find),
        Tool("node_inputs", "What a node reads: strongest edges into it.", AtNode, inputs),
        Tool("node_outputs", "What a node feeds: strongest edges out of it.", AtNode, outputs),
        Tool(
            "strongest_paths",
            "The strongest paths through the graph, from tokens to the answer unless told else.",
            BetweenNodes,
            paths,
        ),
        Tool("supernodes", "What the person has pinned and grouped.", NoArguments, supernodes),
        Tool("suggest_supernodes", "Features that do one thing together.", NoArguments, suggest),
        Tool(
            "feature_page",
            "What a feature fires on in a corpus, and which next tokens it promotes.",
            OneFeature,
            page,
        ),
        Tool("search_features", "Features by words.", SearchFeatures, search),
    )


# ---- measuring ---------------------------------------------------------------------------------


class RunIntervention(ToolArguments):
    """A change to features of the graph's prompt."""

    features: list[str] = Field(
        min_length=1, max_length=MAX_NODES, description="Names such as L12/P5/F1043; together"
    )
    action: Literal["ablate", "scale", "set", "add"] = "ablate"
    value: float = Field(default=0.0, description="For scale, set and add")
    freeze: Literal["none", "attention", "all"] = Field(
        default="none", description="none: what the model really does"
    )


class VerifyEdges(ToolArguments):
    """Edges to test in the model."""

    nodes: list[str] = Field(
        min_length=2, max_length=MAX_NODES, description="All edges between these are tested"
    )


def measuring_tools(
    get: GetBench,
    on_run: Optional[Callable[[InterventionRun], None]] = None,
    turn: Turn = ONE_RUN,
) -> tuple[Tool[Any], ...]:
    """Tools that run the real model, each while it holds the ``turn``. ``on_run`` hears of every
    intervention."""

    def intervene(arguments: RunIntervention, ctx: WorkContext) -> Any:
        from attention_studio.core.intervention_running import run_plan
        from attention_studio.core.intervention_runs import InterventionPlan

        bench = get()
        features = tuple(FeatureAt.parse(name) for name in arguments.features)
        edit = Edit(features, arguments.action, arguments.value)
        plan = InterventionPlan(bench.the_graph().prompt, (edit,), Freeze(arguments.freeze))
        run = run_plan(bench.the_replacement(), plan, ctx=ctx)
        if on_run is not None:
            on_run(run)
        return {
            "done": str(Intervention(plan.edits)),
            "next_tokens": list(run.next_tokens),
            "divergence": run.divergence,
            "moved_most": [
                {"feature": one.feature, "from": one.activation_before, "to": one.activation_after}
                for one in run.moved[:_KEPT]
            ],
        }

    def verify(arguments: VerifyEdges, ctx: WorkContext) -> Any:
        from attention_studio.core.edge_choice import choose_edges
        from attention_studio.core.edge_verification import verify_edges

        bench = get()
        graph = bench.the_graph()
        pruned = graph.prune() if bench.pruned is None else bench.pruned
        names = [graph.node_name(graph.find(name)) for name in arguments.nodes]
        choice = choose_edges(graph, pruned, "pinned", names)
        report = verify_edges(bench.the_replacement(), graph, choice, ctx=ctx)
        rows = zip(
            report.source,
            report.target,
            report.predicted.tolist(),
            report.measured.tolist(),
            report.verdicts(),
            strict=True,
        )
        return [
            {"from": a, "to": b, "predicted": p, "measured": m, "verdict": verdict.value}
            for a, b, p, m, verdict in rows
        ]

    found: tuple[Tool[Any], ...] = (
        Tool(
            "run_intervention",
            "Change features in the real model and see what becomes of the next token.",
            RunIntervention,
            intervene,
        ),
        Tool(
            "verify_edges",
            "Test edges: take out what they start at, and compare with what the graph predicts.",
            VerifyEdges,
            verify,
        ),
    )
    return tuple(in_turn(tool, turn) for tool in found)


def in_turn(tool: Tool[Any], turn: Turn) -> Tool[Any]:
    """A tool that holds the turn while it runs, and waits for it before."""

    def run(arguments: Any, ctx: WorkContext) -> Any:
        with turn.held(ctx):
            return tool.run(arguments, ctx)

    return replace(tool, run=run)


# ---- what is told ------------------------------------------------------------------------------


def _feature(text: str) -> tuple[Site, int]:
    name = FeatureName.read(text)
    if name is None or not isinstance(name.latent, int):
        raise ToolError("That names no feature", "", "Write it like L12/F1043 or A3/F7")
    return name.site, name.latent


def _node(bench: Workbench, node: int) -> dict[str, Any]:
    graph = bench.the_graph()
    name = graph.node_name(node)
    return {
        "node": name,
        "words": graph.label(node),
        "at": graph.tokens[int(graph.nodes.position[node])],
        "influence": float(graph.influence[node]),
        "label": bench.notes.label_of(name),
    }


def _edges(bench: Workbench, edges: NodeEdges, limit: int) -> Any:
    rows = zip(edges.nodes[:limit].tolist(), edges.shares[:limit].tolist(), strict=True)
    return {
        "edges": len(edges.nodes),
        "strongest": [{**_node(bench, node), "share": share} for node, share in rows],
    }


def _page(page: FeaturePage) -> dict[str, Any]:
    examples = [one for group in page.groups for one in group.examples][:_SHOWN_EXAMPLES]
    told = []
    for one in examples:
        first = max(0, one.peak - _EXAMPLE_TOKENS // 2)
        told.append(
            {
                "example": f"text {one.sequence}:{one.start + one.peak}",
                "text": "".join(one.tokens[first : first + _EXAMPLE_TOKENS]),
                "fires_at": one.tokens[one.peak],
                "activation": one.value,
            }
        )
    return {
        "feature": str(FeatureName(page.site, None, page.index)),
        "label": page.label.text if page.label is not None else "",
        "density": page.density if page.n_fired >= 0 else None,
        "dead": page.dead,
        "promotes": [token for token, _ in page.promoted],
        "suppresses": [token for token, _ in page.suppressed],
        "examples": told,
    }
