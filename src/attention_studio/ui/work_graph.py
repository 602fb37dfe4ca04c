"""What lanes run for the graph explorer beside pruning, see ``ui.work``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.graph_pruning import GraphScores
    from attention_studio.core.qk_records import FeatureTrace
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.utils.progress import WorkContext


def trace_queries_and_keys(
    ctx: WorkContext, crm: CompleteReplacementModel, graph: AttributionGraph, name: str
) -> FeatureTrace:
    """Where an attention feature of a graph took its activation from, and why it looked there."""
    from attention_studio.core.qk_tracing import trace_feature

    ctx.progress(0, None, "Asking why the head looks there")
    local = crm.localize(graph.token_ids)
    ctx.check()
    return trace_feature(local, name, ctx=ctx)


def pinned_scores(ctx: WorkContext, graph: AttributionGraph, names: tuple[str, ...]) -> GraphScores:
    """The scores of what some nodes of a graph explain alone."""
    ctx.check()
    return graph.subgraph_scores([graph.find(name) for name in names if graph.has(name)])
