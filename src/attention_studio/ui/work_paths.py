"""What lanes run for the Paths dock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.path_search import PathsFound
    from attention_studio.utils.progress import WorkContext

ANY_TOKEN = "*/token"
"""What stands for all tokens of the prompt where a path may begin."""


@dataclass(frozen=True)
class PathQuery:
    """What is looked for.

    Attributes:
        source: name of the node where paths begin, or ``ANY_TOKEN``.
        target: name of the node where they end.
        k: at most so many.
        shown: only along the edges that are shown.
    """

    source: str
    target: str
    k: int = 10
    shown: bool = False


@dataclass(frozen=True)
class PathAnswer:
    """What was found, in which graph."""

    graph: AttributionGraph
    query: PathQuery
    found: PathsFound


def find_paths(
    ctx: WorkContext,
    graph: AttributionGraph,
    pruned: Optional[PrunedGraph],
    query: PathQuery,
) -> PathAnswer:
    """Look for the strongest paths.

    Raises:
        GraphError: the graph has no node of such a name.
        Cancelled: through ``ctx``.
    """
    import numpy as np

    from attention_studio.core.attribution_graph import NodeKind

    if query.source == ANY_TOKEN:
        sources = np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING).tolist()
    else:
        sources = [graph.find(query.source)]
    target = graph.find(query.target)
    part = pruned if query.shown else None
    return PathAnswer(graph, query, graph.strongest_paths(sources, target, query.k, part, ctx))
