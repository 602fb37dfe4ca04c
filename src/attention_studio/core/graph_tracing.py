"""Which features of a prompt get a row in its graph, and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_studio.core.attribution import TracedEdges, target_values, total_effects, trace
from attention_studio.core.attribution_cost import TraceEstimate, estimate_trace
from attention_studio.core.attribution_graph import GraphNodes, NodeKind
from attention_studio.core.attribution_plan import SourceOrder, Sources, Targets, plan_trace
from attention_studio.core.graph_edges import EdgeBlock, EdgeLayout, GraphEdges, merged
from attention_studio.core.graph_outputs import Outputs
from attention_studio.core.graph_pruning import input_totals, node_influence
from attention_studio.core.graph_settings import GraphBudgetError, GraphError, GraphSettings
from attention_studio.core.replacement_model import LocalModel
from attention_studio.utils.progress import WorkContext

Floats = NDArray[np.float32]

_FIRST_SHARE = 0.5
"""Share of the absolute total effects whose features are traced before influence is counted."""
_FEWEST = 256
"""Features that are traced at least in a round: fewer leave a processor waiting."""


@dataclass(frozen=True)
class FoundGraph:
    """What was traced: see ``AttributionGraph`` for its parts."""

    sources: Sources
    nodes: GraphNodes
    edges: GraphEdges
    biases: Floats
    values: Floats
    output_weights: Floats


def trace_graph(
    local: LocalModel, outputs: Outputs, settings: GraphSettings, ctx: WorkContext
) -> FoundGraph:
    """Trace the outputs, and of the features those that the settings ask for.

    Raises:
        GraphBudgetError: the edges take more than ``max_gigabytes``.
    """
    order = SourceOrder(local)
    nodes = _nodes(local, order.sources, outputs)
    start = _output_weights(order.sources, outputs)
    if settings.influence is None:
        features = _features_to_trace(local, outputs, settings, ctx)
        parts = [_trace(local, order, outputs.targets, features, settings, ctx)]
    else:
        parts = _trace_to_share(local, order, outputs, nodes, start, settings, ctx)
    edges = parts[0].edges
    if len(parts) > 1:
        edges = merged([part.edges for part in parts], nodes.depth)
    by_node = np.zeros((2, len(nodes)), dtype=np.float32)
    for part in parts:
        by_node[0, part.edges.targets] = part.biases.cpu().numpy()
        by_node[1, part.edges.targets] = part.values.cpu().numpy()
    biases, values = by_node[:, edges.targets]
    return FoundGraph(order.sources, nodes, edges, biases, values, start)


def estimate_graph(
    local: LocalModel, outputs: Outputs, settings: GraphSettings, ctx: WorkContext
) -> TraceEstimate:
    """What ``trace_graph`` takes at most. With ``max_features`` the features are ranked for it."""
    features = _features_to_trace(local, outputs, settings, ctx)
    targets = _together(outputs.targets, features)
    return estimate_trace(local, plan_trace(local, targets), settings.precision)


def _trace(
    local: LocalModel,
    order: SourceOrder,
    outputs: Targets,
    features: Tensor,
    settings: GraphSettings,
    ctx: WorkContext,
    before: Sequence[EdgeLayout] = (),
) -> TracedEdges:
    """Trace outputs and features, beside edges ``before`` that are there already."""
    targets = _together(outputs, features)
    plan = plan_trace(local, targets, order)
    _check_budget(plan.layout, before, settings)
    told = estimate_trace(local, plan, settings.precision)
    ctx.progress(0, len(targets), f"Tracing {told}")
    return trace(local, targets, settings.precision, settings.batch, ctx, plan)


def _together(outputs: Targets, features: Tensor) -> Targets:
    """Outputs and features as targets, none twice."""
    every = torch.unique(torch.cat([outputs.features, features]))
    return replace(outputs, features=every)


def _features_to_trace(
    local: LocalModel, outputs: Outputs, settings: GraphSettings, ctx: WorkContext
) -> Tensor:
    """All features that can have a part in the outputs, or those with the largest total effect."""
    candidates = _candidates(local, outputs.targets)
    limit = settings.max_features
    if limit is None or limit >= len(candidates):
        return candidates
    strength = _strength(local, outputs, ctx)[candidates]
    ranked = torch.argsort(strength, descending=True, stable=True)
    return candidates[ranked[:limit]].sort().values


def _candidates(local: LocalModel, targets: Targets) -> Tensor:
    """Features below the highest output, at positions that an output can see."""
    features = local.features
    places = torch.cat([targets.positions, features.position[targets.features]])
    seen = features.position <= places.max()
    if not len(targets.directions):
        seen &= features.site < features.site[targets.features].max()
    return torch.nonzero(seen).squeeze(-1)


def _strength(local: LocalModel, outputs: Outputs, ctx: WorkContext) -> Tensor:
    """[n_features] absolute total effect on the outputs, by their weight."""
    ctx.progress(0, None, "Ranking the features")
    effects = total_effects(local, outputs.targets, ctx)
    strength = outputs.weight.to(effects.device) @ effects.abs()
    if not bool(strength.isfinite().all()):
        raise GraphError(
            "The features cannot be ranked by their effect on the outputs",
            "over all paths it grows beyond what numbers hold, as with dictionaries that explain "
            "little",
            "trace all features (no max_features, no influence), or train the CRM for longer",
        )
    return strength


def _trace_to_share(
    local: LocalModel,
    order: SourceOrder,
    outputs: Outputs,
    nodes: GraphNodes,
    start: Floats,
    settings: GraphSettings,
    ctx: WorkContext,
) -> list[TracedEdges]:
    """Trace features, those of the greatest influence first, until they hold the share of it.

    A feature's influence is known as far as what reads it has been traced, so the first ones are
    chosen by their total effect, and each round looks again.
    """
    assert settings.influence is not None
    candidates = _candidates(local, outputs.targets)
    strength = _strength(local, outputs, ctx)[candidates]
    chosen = candidates[_holding(strength, _FIRST_SHARE)]
    limit = len(candidates) if settings.max_features is None else settings.max_features
    parts: list[TracedEdges] = []
    traced = np.zeros(len(nodes), dtype=bool)
    targets = outputs.targets
    while True:
        chosen = chosen[: max(0, limit - int(traced[: len(local.features)].sum()))]
        before = [part.edges.layout for part in parts]
        part = _trace(local, order, targets, chosen, settings, ctx, before)
        parts.append(part)
        traced[part.edges.targets] = True
        targets = outputs.targets.of_features(chosen[:0])
        of_features = traced[: len(local.features)]
        influence = _influence(parts, nodes, start)[: len(local.features)]
        missing = np.where(of_features, 0.0, influence)
        allowed = (1.0 - settings.influence) * float(influence.sum())
        # So asked that edges too large for numbers, whose shares are none, end it too.
        if not missing.sum() > allowed or of_features.sum() >= limit:
            return parts
        ctx.check()
        ranked = np.argsort(-missing, kind="stable")
        left = missing.sum() - np.cumsum(missing[ranked])
        number = max(_FEWEST, int(np.searchsorted(-left, -allowed)) + 1)
        ranked = ranked[: min(number, int((missing > 0).sum()))]
        chosen = torch.as_tensor(ranked, device=candidates.device)


def _holding(strength: Tensor, share: float) -> Tensor:
    """The fewest that hold a share of the sum, the strongest first."""
    ranked = torch.argsort(strength, descending=True, stable=True)
    held = strength[ranked].cumsum(0)
    number = int((held < share * held[-1:]).sum()) + 1
    return ranked[: max(_FEWEST, number)]


def _influence(parts: list[TracedEdges], nodes: GraphNodes, start: Floats) -> Floats:
    blocks = _sorted_blocks(parts, nodes)
    return node_influence(blocks, input_totals(blocks, len(nodes)), start)


def _sorted_blocks(parts: list[TracedEdges], nodes: GraphNodes) -> list[EdgeBlock]:
    depth = nodes.depth
    blocks = [block for part in parts for block in part.edges.blocks()]
    return sorted(blocks, key=lambda block: -int(depth[block.targets[0]]))


def _check_budget(
    layout: EdgeLayout, before: Sequence[EdgeLayout], settings: GraphSettings
) -> None:
    """Refuse edges that take too much room beside those that were traced ``before``."""
    allowed = settings.max_gigabytes * 1e9 / 4
    layouts = [*before, layout]
    size = sum(part.size for part in layouts)
    if size <= allowed:
        return
    # What the largest rows leave room for, any rows do. Those of outputs are among the largest.
    each = [np.repeat(part.widths, np.diff(part.row_bounds)) for part in layouts]
    widths = np.sort(np.concatenate(each))[::-1]
    n_fitting = int((np.cumsum(widths) <= allowed).sum())
    n_outputs = sum(int((part.targets >= part.n_sources).sum()) for part in layouts)
    number = n_fitting - n_outputs - len(settings.features)
    needed = 4 * size / 1e9
    what = f"The edges of this graph would take {needed:.2g} GB"
    why = (
        f"{len(widths):,} targets have {size:,} possible edges, and "
        f"{settings.max_gigabytes:.3g} GB are allowed"
    )
    if number <= 0:
        raise GraphBudgetError(
            what, why, "shorten the prompt or allow more memory (max_gigabytes)", None
        )
    raise GraphBudgetError(
        what,
        why,
        f"trace the inputs of {number:,} features only (max_features), the strongest ones, or "
        "allow more memory (max_gigabytes)",
        replace(settings, max_features=number, influence=None),
    )


def _output_weights(sources: Sources, outputs: Outputs) -> Floats:
    """[N] what the outputs weigh."""
    k = len(outputs.index)
    weights = np.zeros(len(sources) + k, dtype=np.float32)
    weights[len(sources) :] = outputs.weight[:k]
    np.add.at(weights, outputs.targets.features.cpu().numpy(), outputs.weight[k:].numpy())
    return weights


def _nodes(local: LocalModel, sources: Sources, outputs: Outputs) -> GraphNodes:
    features, length, n_layers = local.features, len(local.ids), local.adapter.n_layers
    n_errors, k = sources.n_errors, len(outputs.index)
    error_sites = np.repeat([site.number for site in sources.error_sites], length)
    positions = np.arange(length)
    every_position = np.tile(positions, len(sources.error_sites))
    logits = outputs.targets.of_logits()
    return GraphNodes(
        kind=np.repeat(
            np.array(list(NodeKind), dtype=np.int8), [len(features), n_errors, length, k]
        ),
        site_kind=np.concatenate(
            [features.kind.cpu(), error_sites % 2, np.full(length + k, -1)]
        ).astype(np.int8),
        layer=np.concatenate(
            [features.layer.cpu(), error_sites // 2, np.full(length, -1), np.full(k, n_layers)]
        ).astype(np.int16),
        position=np.concatenate(
            [features.position.cpu(), every_position, positions, logits.positions.cpu()]
        ).astype(np.int32),
        index=np.concatenate(
            [features.index.cpu(), np.full(n_errors, -1), local.ids, outputs.index]
        ).astype(np.int64),
        activation=np.concatenate(
            [
                features.activation.cpu(),
                *(error.norm(dim=-1).cpu() for error in local.errors.values()),
                local.record.embedding.norm(dim=-1).cpu(),
                target_values(local, logits).cpu(),
            ]
        ).astype(np.float32),
        probability=np.concatenate([np.zeros(len(sources)), outputs.probability]).astype(
            np.float32
        ),
    )
