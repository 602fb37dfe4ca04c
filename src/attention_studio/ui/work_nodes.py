"""What lanes do for the table of nodes: find, follow, copy, and measure how dense features are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.node_export import as_tsv
from attention_studio.core.node_query import NodeView, by_influence, evaluate
from attention_studio.core.node_table import NodeTable
from attention_studio.core.query_language import Query

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_density import FeatureDensity
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.utils.progress import WorkContext

DENSITY_TOKENS = 4_096
"""Tokens on which densities are measured: rarer than one in so many counts as never."""
_SAMPLES = "samples:1000"


@dataclass(frozen=True, eq=False)
class NodesRequest:
    """What is asked of a graph.

    Attributes:
        table: of that graph, where it was made before.
        pruned: what the thresholds leave.
        whole: whether all nodes and edges of the graph take part, or those that are shown.
        query: which nodes are wanted; the other fields are what it may ask about.
    """

    graph: AttributionGraph
    table: Optional[NodeTable]
    pruned: Optional[PrunedGraph]
    whole: bool
    query: Query
    notes: GraphNotes
    chosen: tuple[str, ...] = ()
    selected: Optional[str] = None
    density: Optional[FeatureDensity] = None


@dataclass(frozen=True, eq=False)
class NodesFound:
    """The nodes that fit: ``rows`` of the view's table, the most influential first."""

    request: NodesRequest
    view: NodeView
    rows: NDArray[np.int64]
    n_listed: int
    """How many nodes there are to choose from."""


def node_view(ctx: WorkContext, request: NodesRequest) -> NodeView:
    """The nodes of a graph, and all that a query may ask about them."""
    ctx.check()
    view = NodeView.of(
        request.graph, request.pruned, request.whole, request.notes, request.density, request.table
    )
    ctx.check()
    return replace(view, chosen=request.chosen, selected=request.selected)


def find_nodes(ctx: WorkContext, request: NodesRequest) -> NodesFound:
    """The nodes that a query means."""
    view = node_view(ctx, request)
    listed = np.ones(len(view.table), dtype=bool) if request.whole else view.shown
    ctx.check()
    rows = by_influence(view, evaluate(request.query, view) & listed)
    # Looked up while cells are drawn, so made here.
    _ = view.labels, view.remarks, view.table.row_of, view.table.rank
    return NodesFound(request, view, rows, int(listed.sum()))


@dataclass(frozen=True, eq=False)
class LinkedNodes:
    """The ``names`` of nodes of a ``graph`` to which edges lead."""

    graph: AttributionGraph
    names: tuple[str, ...]


def linked_nodes(ctx: WorkContext, request: NodesRequest, inputs: bool) -> LinkedNodes:
    """What feeds the chosen nodes (or what they feed), the strongest edge first."""
    view = node_view(ctx, request)
    chosen = view.table.mask(request.chosen)
    shares = view.edges.into(chosen) if inputs else view.edges.out_of(chosen)
    order = np.argsort(-shares, kind="stable")
    rows = order[: int((shares > 0).sum())].tolist()
    return LinkedNodes(request.graph, tuple(view.table.names[row] for row in rows))


def nodes_text(ctx: WorkContext, view: NodeView, rows: tuple[int, ...]) -> str:
    """Nodes as a table for the clipboard."""
    ctx.check()
    return as_tsv(view, rows)


def measure_density(ctx: WorkContext, crm: CompleteReplacementModel) -> FeatureDensity:
    """How often each feature is active on text that the model itself writes."""
    from attention_studio.core.corpus import build_corpus
    from attention_studio.core.density_measurement import measure_density as measure

    seq_len = min(128, crm.loaded.info.context_length)
    ctx.progress(0, None, "Having the model write some text")
    corpus = build_corpus(
        crm.loaded,
        (_SAMPLES,),
        seq_len,
        max_tokens=DENSITY_TOKENS + DENSITY_TOKENS // 8 + seq_len,
        ctx=ctx,
    )
    ctx.check()
    return measure(crm, corpus, DENSITY_TOKENS, ctx)
