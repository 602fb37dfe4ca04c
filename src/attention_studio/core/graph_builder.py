"""From a prompt to an attribution graph."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

import numpy as np

from attention_studio.core.attribution_graph import (
    AttributionGraph,
    GraphError,
    GraphNodes,
    GraphSettings,
    NodeEdges,
    NodeKind,
    PrunedGraph,
)
from attention_studio.core.graph_pruning import GraphScores
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from torch import Tensor

    from attention_studio.core.attribution import Sources, Targets
    from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel

__all__ = [
    "AttributionGraph",
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


class GraphBuilder:
    """Traces prompts through a complete replacement model.

    Per-layer transcoders replace MLPs; attention is the model's own, with its pattern frozen.
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
            GraphError: the smallest useful graph would not fit the memory bound.
            Cancelled: ``ctx`` was cancelled.
        """
        import torch

        from attention_studio.core.attribution import (
            Targets,
            edges_into,
            sources_of,
            target_batches,
            target_values,
        )

        settings = settings or GraphSettings()
        ctx = ctx or WorkContext()
        started = time.perf_counter()
        loaded = self.replacement.loaded
        ids = loaded.encode(prompt)
        ctx.progress(0, None, "Running the model")
        local = self.replacement.localize(ids)
        ctx.check()
        sources = sources_of(local)

        tokens, probabilities = _salient_logits(local, settings)
        directions, direction_bias = local.logit_directions(tokens)
        logits = Targets(
            directions=directions,
            direction_bias=direction_bias,
            positions=torch.full((len(tokens),), len(ids) - 1, device=directions.device),
            features=torch.zeros(0, dtype=torch.long, device=directions.device),
        )
        chosen = _traced_features(local, logits, probabilities, settings, ctx)
        batches = [
            logits,
            *(
                Targets(directions[:0], direction_bias[:0], logits.positions[:0], features)
                for features in target_batches(local, chosen, settings.batch)
            ),
        ]
        n_targets = len(tokens) + len(chosen)
        n_sources = len(sources)
        weights = np.empty((n_targets, n_sources), dtype=np.float32)
        targets = np.empty(n_targets, dtype=np.int64)
        biases, values = np.empty((2, n_targets), dtype=np.float32)
        row = 0
        for batch in batches:
            ctx.check()
            ctx.progress(row, n_targets, "Tracing")
            here = slice(row, row + len(batch))
            edges = edges_into(local, batch)
            weights[here] = edges.weights.cpu().numpy()
            biases[here] = edges.biases.cpu().numpy()
            values[here] = target_values(local, batch).cpu().numpy()
            targets[here] = (
                n_sources + np.arange(len(tokens))
                if len(batch.directions)
                else batch.features.cpu().numpy()
            )
            row += len(batch)
        ctx.progress(n_targets, n_targets, "Scoring")
        token_text = loaded.token_strings([*ids, *tokens])
        first = sources.embeddings.start
        graph = AttributionGraph(
            prompt=prompt,
            tokens=tuple(token_text[: len(ids)]),
            token_ids=tuple(ids),
            model_name=loaded.info.name,
            model_hash=loaded.info.weights_hash,
            crm_name=self.replacement.name,
            n_layers=local.adapter.n_layers,
            nodes=_nodes(local, sources, tokens, probabilities, values[: len(tokens)]),
            node_tokens={first + i: text for i, text in enumerate(token_text)},
            weights=weights,
            targets=targets,
            biases=biases,
            values=values,
            settings=settings,
            seconds=0.0,
        )
        captions = self._captions(local, graph)
        graph = _finished(graph, captions, time.perf_counter() - started)
        ctx.check()
        return graph

    def _captions(self, local: LocalModel, graph: AttributionGraph) -> dict[int, str]:
        """What the features of the default picture promote, in a few tokens each."""
        import torch

        from attention_studio.core.feature_extractor import promoted_tokens

        ids = graph.prune().node_ids
        shown = ids[graph.nodes.kind[ids] == NodeKind.FEATURE]
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
    for name in ("matrix", "influence"):
        finished.__dict__[name] = getattr(graph, name)
    return finished


def _salient_logits(local: LocalModel, settings: GraphSettings) -> tuple[list[int], list[float]]:
    """The fewest most probable next tokens that reach ``logit_mass``, at most ``max_logits``."""
    probabilities = local.record.logits[-1].float().softmax(-1)
    top = probabilities.topk(min(settings.max_logits, len(probabilities)))
    before = top.values.cumsum(0) - top.values
    keep = before < settings.logit_mass
    return top.indices[keep].tolist(), top.values[keep].tolist()


def _traced_features(
    local: LocalModel,
    logits: Targets,
    probabilities: list[float],
    settings: GraphSettings,
    ctx: WorkContext,
) -> Tensor:
    """Which active features get a row: all, or those with the largest total effect."""
    import torch

    from attention_studio.core.attribution import sources_of, total_effects

    n = len(local.features)
    row_bytes = 4 * len(sources_of(local))
    affordable = int(settings.max_gigabytes * 1e9 / row_bytes) - len(probabilities)
    if affordable < 0:
        raise GraphError(
            "This prompt is too long to trace",
            f"even the rows of its {len(probabilities)} output tokens would take more than "
            f"{settings.max_gigabytes} GB",
            "shorten the prompt or allow more memory",
        )
    limit = min(n, affordable if settings.max_features is None else settings.max_features)
    limit = min(limit, affordable)
    device = local.adapter.device
    if limit == n:
        return torch.arange(n, device=device)
    effects = total_effects(local, logits, ctx)
    weight = torch.tensor(probabilities, device=device)
    ranked = torch.argsort(weight @ effects.abs(), descending=True, stable=True)
    return ranked[:limit].sort().values


def _nodes(
    local: LocalModel,
    sources: Sources,
    tokens: list[int],
    probabilities: list[float],
    logit_values: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> GraphNodes:
    features, length, n_layers = local.features, len(local.ids), local.adapter.n_layers
    n_errors, k = sources.n_errors, len(tokens)
    grid_layer, grid_position = np.divmod(np.arange(n_errors), length)
    positions = np.arange(length)
    return GraphNodes(
        kind=np.repeat(
            np.array(list(NodeKind), dtype=np.int8), [len(features), n_errors, length, k]
        ),
        layer=np.concatenate(
            [features.layer.cpu(), grid_layer, np.full(length, -1), np.full(k, n_layers)]
        ).astype(np.int16),
        position=np.concatenate(
            [features.position.cpu(), grid_position, positions, np.full(k, length - 1)]
        ).astype(np.int32),
        index=np.concatenate(
            [features.index.cpu(), np.full(n_errors, -1), local.ids, tokens]
        ).astype(np.int64),
        activation=np.concatenate(
            [
                features.activation.cpu(),
                local.errors.norm(dim=-1).flatten().cpu(),
                local.record.embedding.norm(dim=-1).cpu(),
                logit_values,
            ]
        ).astype(np.float32),
        probability=np.concatenate([np.zeros(len(sources)), np.asarray(probabilities)]).astype(
            np.float32
        ),
    )
