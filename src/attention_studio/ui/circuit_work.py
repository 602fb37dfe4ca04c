"""What the lanes run for the features and graph docks.

Each function gets the lane's context first, imports the core when it is called (the core brings
torch) and touches no widget.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attention_studio.ui.widgets.graph_scene import GraphScene, build_scene

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_extractor import FeatureReport
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.utils.progress import WorkContext


@dataclass(frozen=True)
class PruneRequest:
    """How a graph is to be shown: node and edge threshold, and whether errors are drawn."""

    node_threshold: float
    edge_threshold: float
    show_errors: bool


@dataclass(frozen=True)
class PreparedGraph:
    """A graph, the part that is shown, and how it is arranged."""

    graph: AttributionGraph
    pruned: PrunedGraph
    scene: GraphScene
    request: PruneRequest


def extract_features(
    ctx: WorkContext, crm: CompleteReplacementModel, prompt: str, top_k: int
) -> FeatureReport:
    """Find the strongest features of a prompt."""
    from attention_studio.core.feature_extractor import FeatureExtractor

    return FeatureExtractor(crm).extract_features(prompt, top_k, ctx)


def build_graph(
    ctx: WorkContext, crm: CompleteReplacementModel, prompt: str, request: PruneRequest
) -> PreparedGraph:
    """Trace a prompt and prepare the graph for showing."""
    from attention_studio.core.graph_builder import GraphBuilder

    graph = GraphBuilder(crm).build(prompt, ctx=ctx)
    return prepare_graph(ctx, graph, request)


def open_graph(ctx: WorkContext, path: Path, request: PruneRequest) -> PreparedGraph:
    """Read a stored graph and prepare it for showing."""
    from attention_studio.core.attribution_graph import AttributionGraph

    ctx.progress(0, None, f"Reading {path.name}")
    return prepare_graph(ctx, AttributionGraph.load(path), request)


def save_graph(
    ctx: WorkContext, graph: AttributionGraph, pruned: PrunedGraph, path: Path
) -> Path:
    """Write a graph: whole to .safetensors, pruned to .json."""
    ctx.progress(0, None, f"Writing {path.name}")
    graph.save(path, pruned)
    return path


def prepare_graph(
    ctx: WorkContext, graph: AttributionGraph, request: PruneRequest
) -> PreparedGraph:
    """Prune and arrange a graph. Its scores are computed here too, once, off the main thread."""
    ctx.progress(0, None, "Pruning")
    pruned = graph.prune(request.node_threshold, request.edge_threshold)
    ctx.check()
    _ = graph.scores
    ctx.check()
    return PreparedGraph(graph, pruned, build_scene(graph, pruned, request.show_errors), request)
