"""What lanes run for the Compare dock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, Optional

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.difference_records import GraphDifference
    from attention_studio.core.graph_comparison import GraphComparison
    from attention_studio.core.graph_facts import Fact
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.core.position_map import PositionMap
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.utils.progress import WorkContext

Origin = Literal["traced", "opened", "kept", "workspace", "re-run"]
Alignment = Literal["tokens", "number", "end", "hand"]


@dataclass(frozen=True)
class SecondGraph:
    """A graph to compare the session's with.

    ``origin``: where it came from; ``key`` and ``notes``: what the session knew it by and what a
    person had made of it, where it was the session's own.
    """

    graph: AttributionGraph
    pruned: Optional[PrunedGraph]
    origin: Origin
    key: str = ""
    notes: Optional[GraphNotes] = None


@dataclass(frozen=True)
class Compared:
    """Two graphs side by side.

    Attributes:
        first, second: the graphs.
        difference: their nodes and edges.
        comparison: all edges one by one; None for graphs of different tokens.
        facts: what else there is to say about them.
        told: what came of it, in a sentence.
        record: all that as JSON values.
    """

    first: AttributionGraph
    second: SecondGraph
    difference: GraphDifference
    comparison: Optional[GraphComparison]
    facts: tuple[Fact, ...]
    told: str
    record: dict[str, Any]


def align(how: Alignment, first: AttributionGraph, second: AttributionGraph) -> PositionMap:
    """Positions that stand for each other, as a preset has it ("hand" begins with the tokens)."""
    from attention_studio.core.position_map import PositionMap

    return PositionMap.by_rule("tokens" if how == "hand" else how, first.tokens, second.tokens)


def edge_by_edge(first: AttributionGraph, second: SecondGraph) -> bool:
    """Whether all edges of two graphs are to be compared, which takes seconds for large ones."""
    return first.tokens == second.graph.tokens


def compare(
    ctx: WorkContext,
    first: AttributionGraph,
    pruned: Optional[PrunedGraph],
    second: SecondGraph,
    positions: Optional[PositionMap],
    how: Alignment,
    thresholds: tuple[float, float],
    known: Optional[GraphComparison] = None,
) -> Compared:
    """Put two graphs side by side.

    Args:
        pruned: of the first, at the thresholds; None: it is pruned here.
        positions: set by hand; None: as ``how`` says.
        known: all edges one by one, where they were compared before.

    Raises:
        AlignmentError: the positions are those of other prompts.
        Cancelled: through ``ctx``.
    """
    from attention_studio.core.graph_comparison import compare_graphs
    from attention_studio.core.graph_difference import difference_of
    from attention_studio.core.graph_facts import facts, verdict

    if positions is None:
        positions = align(how, first, second.graph)
    parts = tuple(
        part
        if part is not None and (part.node_threshold, part.edge_threshold) == thresholds
        else None
        for part in (pruned, second.pruned)
    )
    difference = difference_of(
        first, second.graph, positions, thresholds, (parts[0], parts[1]), ctx
    )
    comparison = None
    if known is not None and positions.plain:
        comparison = known
    elif positions.plain and edge_by_edge(first, second):
        comparison = compare_graphs(first, second.graph, positions=positions, ctx=ctx)
    if second.origin == "re-run" and comparison is not None:
        told = verdict(comparison)
    else:
        told = f"The two share {100 * difference.overlap:.0f}% of their influence"
    described = facts(first, second.graph, comparison)
    record = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "origin": second.origin,
        "told": told,
        "facts": [[fact.name, fact.first, fact.second] for fact in described],
        "difference": difference.to_json(first, second.graph),
        "comparison": None if comparison is None else comparison.to_json(),
    }
    return Compared(first, second, difference, comparison, described, told, record)


def rerun(
    ctx: WorkContext,
    stored: AttributionGraph,
    crm: CompleteReplacementModel,
    other_model: bool,
    thresholds: tuple[float, float],
) -> SecondGraph:
    """Trace a graph's prompt once more, with its settings.

    Raises:
        RerunError: the graph is of other weights, or the model reads the prompt as other tokens.
        GraphError, PromptTooLongError, EmptyPromptError: from tracing.
        Cancelled: through ``ctx``.
    """
    from attention_studio.core.graph_rerun import retrace

    graph = retrace(stored, crm, other_model, ctx)
    return SecondGraph(graph, graph.prune(*thresholds), "re-run")
