"""From a prompt to an attribution graph."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

import numpy as np

from attention_studio.core.attribution_graph import (
    AttributionGraph,
    GraphNodes,
    NodeEdges,
    NodeKind,
    PrunedGraph,
)
from attention_studio.core.graph_pruning import GraphScores
from attention_studio.core.graph_settings import GraphBudgetError, GraphError, GraphSettings
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.attribution_cost import TraceEstimate
    from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel

__all__ = [
    "AttributionGraph",
    "GraphBudgetError",
    "GraphBuilder",
    "GraphError",
    "GraphNodes",
    "GraphScores",
    "GraphSettings",
    "NodeEdges",
    "NodeKind",
    "PrunedGraph",
]

_CAPTION_TOKENS = 3
_MOST_CAPTIONS = 128
"""Features that get words when a graph is traced, by influence: each costs a product with the whole
vocabulary, and the others are asked for when somebody looks at them."""


class GraphBuilder:
    """Traces prompts through a complete replacement model.

    At each layer, in any mix: the MLP is replaced by a transcoder, by its part of a cross-layer
    transcoder, or not; the attention is replaced by a Lorsa, or kept with its pattern frozen.
    """

    def __init__(self, replacement: CompleteReplacementModel) -> None:
        self.replacement = replacement

    def build(
        self,
        prompt: str,
        settings: Optional[GraphSettings] = None,
        ctx: Optional[WorkContext] = None,
    ) -> AttributionGraph:
        """Trace one prompt.

        Raises:
            EmptyPromptError, PromptTooLongError: from the model's ``encode``.
            GraphError: the settings ask for what is not there.
            GraphBudgetError: the edges would not fit the memory bound.
            Cancelled: ``ctx`` was cancelled.
        """
        from attention_studio.core.attribution_cost import matrix_rate
        from attention_studio.core.graph_outputs import find_outputs
        from attention_studio.core.graph_tracing import trace_graph
        from attention_studio.core.trace_circumstances import circumstances

        settings = settings or GraphSettings()
        ctx = ctx or WorkContext()
        loaded = self.replacement.loaded
        # Once for all graphs, and no part of the time that this one takes.
        matrix_rate(self.replacement.adapter.device.type, settings.precision)
        started = time.perf_counter()
        ids = loaded.encode(prompt)
        ctx.progress(0, None, "Running the model")
        local = self.replacement.localize(ids)
        ctx.check()
        outputs = find_outputs(local, loaded, settings)
        found = trace_graph(local, outputs, settings, ctx)
        ctx.progress(1, 1, "Scoring")
        token_text = loaded.token_strings(ids)
        first = found.sources.embeddings.start
        words = {first + i: text for i, text in enumerate((*token_text, *outputs.text))}
        graph = AttributionGraph(
            prompt=prompt,
            tokens=tuple(token_text),
            token_ids=tuple(ids),
            model_name=loaded.info.name,
            model_hash=loaded.info.weights_hash,
            crm_name=self.replacement.name,
            n_layers=local.adapter.n_layers,
            nodes=found.nodes,
            node_tokens=words,
            edges=found.edges,
            biases=found.biases,
            values=found.values,
            settings=settings,
            seconds=0.0,
            output_weights=found.output_weights,
            made_with=circumstances(self.replacement),
        )
        captions = self._captions(local, graph)
        graph = _finished(graph, captions, time.perf_counter() - started)
        ctx.check()
        return graph

    def estimate(
        self,
        prompt: str,
        settings: Optional[GraphSettings] = None,
        ctx: Optional[WorkContext] = None,
    ) -> TraceEstimate:
        """What ``build`` would take, at most: the model runs, and no edge is traced.

        Raises:
            EmptyPromptError, PromptTooLongError, GraphError: as ``build``, but never for memory.
        """
        from attention_studio.core.graph_outputs import find_outputs
        from attention_studio.core.graph_tracing import estimate_graph

        settings = settings or GraphSettings()
        ctx = ctx or WorkContext()
        loaded = self.replacement.loaded
        local = self.replacement.localize(loaded.encode(prompt))
        ctx.check()
        return estimate_graph(local, find_outputs(local, loaded, settings), settings, ctx)

    def _captions(self, local: LocalModel, graph: AttributionGraph) -> dict[int, str]:
        """What the features of the greatest influence promote, in a few tokens each."""
        import torch

        from attention_studio.core.feature_extractor import promoted_tokens

        features = np.flatnonzero(graph.nodes.kind == NodeKind.FEATURE)
        strongest = np.argsort(-graph.influence[features], kind="stable")[:_MOST_CAPTIONS]
        shown = features[np.sort(strongest)]
        shown = shown[graph.influence[shown] > 0]
        if not len(shown):
            return {}
        decoders = local.features.decoder[torch.as_tensor(shown, device=local.adapter.device)]
        promoted = promoted_tokens(local.adapter, decoders, _CAPTION_TOKENS)
        text = self.replacement.loaded.token_strings(promoted.tokens.flatten().tolist())
        return {
            int(node): ", ".join(
                word.strip() or repr(word)
                for word in text[i * _CAPTION_TOKENS : (i + 1) * _CAPTION_TOKENS]
            )
            for i, node in enumerate(shown)
        }


def _finished(
    graph: AttributionGraph, captions: dict[int, str], seconds: float
) -> AttributionGraph:
    from dataclasses import replace

    finished = replace(graph, captions=captions, seconds=seconds)
    # What was computed for the captions holds for the finished graph too.
    for name in ("totals", "influence"):
        finished.__dict__[name] = getattr(graph, name)
    return finished
