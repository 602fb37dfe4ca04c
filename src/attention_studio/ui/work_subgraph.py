"""What lanes run for the subgraph: making it, arranging it, suggesting supernodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.graph_layout import GraphLayout
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.subgraph import Subgraph
    from attention_studio.core.supernode_suggestions import (
        SuggestionConfig,
        Suggestions,
        SupernodeSuggestion,
    )
    from attention_studio.utils.progress import WorkContext


def make_subgraph(ctx: WorkContext, graph: AttributionGraph, notes: GraphNotes) -> Subgraph:
    """The boxes of what is pinned, the edges between them and their scores."""
    from attention_studio.core.subgraph import build_subgraph

    return build_subgraph(graph, notes, ctx)


def find_beginning(ctx: WorkContext, graph: AttributionGraph, count: int) -> tuple[str, ...]:
    """Names of nodes that a subgraph begins with."""
    from attention_studio.core.subgraph import strongest_to_pin

    return strongest_to_pin(graph, count, ctx)


def arrange(
    ctx: WorkContext, search: Iterator[GraphLayout], steps: int
) -> tuple[Optional[GraphLayout], bool]:
    """Go on with a search for a better layout.

    The lane is shared with whoever has a hand on a slider, so a search goes in short pieces: the
    dock asks for the next when this one is done.

    Args:
        ctx: asked between steps.
        search: what ``optimize_incremental`` returned; only one lane goes on with it.
        steps: of the search at most.

    Returns:
        The best layout known, None where the search was over before; and whether it is over.
    """
    best: Optional[GraphLayout] = None
    for _ in range(steps):
        ctx.check()
        better = next(search, None)
        if better is None:
            return best, True
        best = better
    return best, False


def suggest(
    ctx: WorkContext,
    graph: AttributionGraph,
    pruned: Optional[PrunedGraph],
    notes: GraphNotes,
    crm: Optional[CompleteReplacementModel],
    config: SuggestionConfig,
    rejected: Sequence[frozenset[str]],
    thresholds: tuple[float, float],
) -> Suggestions:
    """Supernodes that might be, with the scores that would follow."""
    from attention_studio.core.supernode_suggestions import suggest_supernodes

    part = graph.prune(*thresholds) if pruned is None else pruned
    return suggest_supernodes(graph, part, notes, crm, config, rejected, ctx)


def rescore(
    ctx: WorkContext,
    graph: AttributionGraph,
    notes: GraphNotes,
    suggestions: Sequence[SupernodeSuggestion],
) -> Suggestions:
    """The same suggestions with the scores that would follow now."""
    from attention_studio.core.supernode_suggestions import rescored

    return rescored(graph, notes, suggestions, ctx)
