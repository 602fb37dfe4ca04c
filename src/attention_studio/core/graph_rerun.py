"""Tracing a stored graph's prompt once more, and comparing with what was stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_comparison import TOLERANCE, GraphComparison, compare_graphs
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.replacement_model import CompleteReplacementModel


class RerunError(StudioError):
    """A stored graph cannot be traced again with what is at hand."""


@dataclass(frozen=True)
class Rerun:
    """A graph traced again: the new one, and how it differs from the stored one (``before``)."""

    graph: AttributionGraph
    comparison: GraphComparison


def rerun_graph(
    stored: AttributionGraph,
    replacement: CompleteReplacementModel,
    other_model: bool = False,
    tolerance: float = TOLERANCE,
    ctx: Optional[WorkContext] = None,
) -> Rerun:
    """Trace a stored graph's prompt with its settings, and report which edges moved.

    Args:
        stored, replacement, other_model, ctx: as for ``retrace``.
        tolerance: share of a target's input below which a change is none.

    Raises:
        RerunError, GraphError, PromptTooLongError, EmptyPromptError, Cancelled: as ``retrace``.
    """
    graph = retrace(stored, replacement, other_model, ctx)
    return Rerun(graph, compare_graphs(stored, graph, tolerance, ctx=ctx))


def retrace(
    stored: AttributionGraph,
    replacement: CompleteReplacementModel,
    other_model: bool = False,
    ctx: Optional[WorkContext] = None,
) -> AttributionGraph:
    """Trace a stored graph's prompt once more, with its settings.

    Args:
        stored: the graph.
        replacement: the model and CRM that it is to be traced with. A CRM of another name is used
            all the same, and a comparison's ``differences`` say so.
        other_model: go on where the model's weights are not the stored graph's.
        ctx: progress, and a way to cancel.

    Raises:
        RerunError: the graph is of other weights, or the model reads the prompt as other tokens.
        GraphError, PromptTooLongError, EmptyPromptError: from tracing.
        Cancelled: through ``ctx``.
    """
    from attention_studio.core.graph_builder import GraphBuilder

    loaded = replacement.loaded
    if stored.model_hash and stored.model_hash != loaded.info.weights_hash and not other_model:
        raise RerunError(
            f"The graph is of {stored.model_name}, and this is {loaded.info.name}",
            f"their weights differ ({stored.model_hash[:12]} and {loaded.info.weights_hash[:12]})",
            "load the model that it was traced on, or ask for another model (--other-model)",
        )
    ids = loaded.encode(stored.prompt)
    known = [(old, new) for old, new in zip(stored.token_ids, ids, strict=False) if old >= 0]
    if len(ids) != len(stored.token_ids) or any(old != new for old, new in known):
        raise RerunError(
            f"{loaded.info.name} reads the prompt as other tokens than the graph has",
            f"{len(ids)} tokens here and {len(stored.token_ids)} there, or others",
            "load the model that it was traced on",
        )
    return GraphBuilder(replacement).build(stored.prompt, stored.settings, ctx)
