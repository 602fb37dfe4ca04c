"""Exact edges of a local linear model.

An edge is ``value(source) * d input(target) / d value(source)``, direct paths only: other features
keep their activation. Biases are summed per target, so that edges + bias = the target's input.

There are two ways to the same edges. Where no attention is kept, ``attribution_closed`` has them as
products of what is written with what is read. Elsewhere ``attribution_sweep`` carries gradients
from the top layer down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Optional

import numpy as np
import torch
from torch import Tensor

from attention_studio.core.active_features import N_LEFT_OUT
from attention_studio.core.attribution_closed import has_closed_form, trace_closed
from attention_studio.core.attribution_plan import (
    Group,
    SourceOrder,
    Sources,
    Targets,
    TracePlan,
    plan_trace,
    sources_of,
)
from attention_studio.core.attribution_sweep import KeptAttentions, Rows, Sweep, Writers
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.replacement_model import LocalModel, StreamChange
from attention_studio.core.sites import Site
from attention_studio.utils.progress import WorkContext

__all__ = [
    "EdgeBatch",
    "Precision",
    "SourceOrder",
    "Sources",
    "Targets",
    "TracedEdges",
    "edges_into",
    "sources_of",
    "starts_apart",
    "sweep_batches",
    "target_values",
    "total_effects",
    "trace",
]

Precision = Literal["float32", "bfloat16"]

_FEW_ROWS = 256
"""Positions are traced together until they have so many targets: products of fewer rows leave a
processor waiting, more positions than needed make gradients longer than needed."""
_SWEEP_BYTES = 1 << 29
"""Bound on the gradients of one sweep."""


@dataclass(frozen=True)
class EdgeBatch:
    """Edges into some targets: ``weights`` [n, n_sources] and ``biases`` [n]."""

    weights: Tensor
    biases: Tensor


@dataclass(frozen=True)
class TracedEdges:
    """Edges into some targets.

    Attributes:
        edges: their weights. Logit directions are numbered from ``n_sources`` on.
        target: [n] of each row its place in ``Targets``: logit directions, then features.
        biases: [n] what biases add to it.
        values: [n] what it reads in the model's own pass.
    """

    edges: GraphEdges
    target: Tensor
    biases: Tensor
    values: Tensor


def target_values(local: LocalModel, targets: Targets) -> Tensor:
    """What each target reads in the model's own forward pass [n]: pre-activations and logits."""
    record = local.record
    normed = local.adapter.final_norm().apply(record.resid_final, record.final_scale)
    logits = (normed[targets.positions] * targets.directions).sum(-1) + targets.direction_bias
    return torch.cat([logits, local.features.activation[targets.features]])


@torch.no_grad()
def trace(
    local: LocalModel,
    targets: Targets,
    precision: Precision = "float32",
    batch: Optional[int] = None,
    ctx: Optional[WorkContext] = None,
    plan: Optional[TracePlan] = None,
) -> TracedEdges:
    """All edges into some targets.

    Args:
        local: the prompt.
        targets: what is traced.
        precision: of the products. With bfloat16 sums are still taken in float32, and an edge is
            off by some thousandths of what it is made of.
        batch: at most so many targets in one sweep; None: as many as are fast. Changes no number
            but in its rounding.
        ctx: cancellation and progress.
        plan: of these targets, if it is there already.
    """
    ctx = ctx or WorkContext()
    plan = plan or plan_trace(local, targets)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    data = torch.from_numpy(np.empty(plan.layout.size, dtype=np.float32))
    biases = local.on.new_empty(len(targets))
    if has_closed_form(local):
        on_device = data if local.on.device.type == "cpu" else data.to(local.on.device)
        trace_closed(local, targets, plan, on_device, biases, dtype, ctx)
        if on_device is not data:
            data.copy_(on_device)
    else:
        attentions, writers = KeptAttentions(local, dtype), Writers(local, plan.order)
        start = _from_the_start(local, targets, plan, attentions) if starts_apart(plan) else None
        first, done = 0 if start is None else N_LEFT_OUT, 0
        for part in sweep_batches(local, plan, batch):
            ctx.check()
            ctx.progress(done, len(targets), "Tracing")
            rows = [_rows(targets, plan, group) for _, group in part]
            sweep = Sweep(local, plan.order, attentions, writers, rows, first).run()
            if start is not None:
                mine = torch.cat([plan.target[group.rows] for _, group in part])
                sweep.weights[:, : start.weights.shape[1]] = start.weights[mine]
                sweep.biases += start.biases[mine]
            _store(plan, part, sweep, data, biases)
            done += sum(map(len, rows))
    values = target_values(local, targets)[plan.target]
    return TracedEdges(GraphEdges(plan.layout, data.numpy()), plan.target, biases, values)


@torch.no_grad()
def edges_into(local: LocalModel, targets: Targets) -> EdgeBatch:
    """All edges into a few targets as one matrix, columns as in ``Sources``."""
    traced = trace(local, targets)
    order = torch.argsort(traced.target)
    dense = torch.from_numpy(traced.edges.dense()).to(local.on.device)
    return EdgeBatch(dense[order], traced.biases[order])


@torch.no_grad()
def total_effects(local: LocalModel, targets: Targets, ctx: WorkContext) -> Tensor:
    """Total effect [n, n_features] of each active feature on each target, all paths.

    The same sweep, except that a feature's own input is reached through it: at each module the
    effect of what its features write is carried on to what they read. This is the transpose of
    ``LocalModel.push(features_respond=True)``. Effects are per feature, so already times its
    activation.
    """
    plan = plan_trace(local, targets)
    attentions, writers = KeptAttentions(local), Writers(local, plan.order)
    found = local.on.new_zeros(len(targets), len(plan.order.sources))
    for part in sweep_batches(local, plan, None):
        ctx.check()
        rows = [_rows(targets, plan, group) for _, group in part]
        sweep = Sweep(local, plan.order, attentions, writers, rows).run(features_respond=True)
        seen = torch.as_tensor(plan.order.order[: sweep.weights.shape[1]], device=found.device)
        mine = torch.cat([plan.target[group.rows] for _, group in part])
        found[mine.unsqueeze(1), seen] = sweep.weights
    return found[:, : len(local.features)]


def starts_apart(plan: TracePlan) -> bool:
    """Whether what the first positions write is pushed forwards instead of being swept for.

    No feature is active there, so their sources are few, and as cases of a forward push cheaper
    than as one more position of the gradients of many targets.
    """
    order = plan.order
    n_cases = int(order.start[N_LEFT_OUT]) + 1
    return 2 * n_cases * (len(order.start) - 1) < len(plan.target)


def _from_the_start(
    local: LocalModel, targets: Targets, plan: TracePlan, attentions: KeptAttentions
) -> EdgeBatch:
    """Edges into all targets from the sources at the positions that dictionaries leave out, in the
    order of ``SourceOrder``, and what biases of attention add from there."""
    order, sources = plan.order, plan.order.sources
    n = int(order.start[N_LEFT_OUT])
    place = torch.as_tensor(order.place, device=local.on.device)
    positions = torch.arange(N_LEFT_OUT, device=local.on.device)
    written: list[tuple[Optional[Site], Tensor, Tensor]] = [
        (None, place[sources.embeddings][positions], local.record.embedding[positions])
    ]
    for site, error in local.errors.items():
        written.append((site, place[sources.errors(site)][positions], error[positions]))
    for layer in range(local.adapter.n_layers):
        attention = attentions.at(layer) if local.keeps_attention(layer) else None
        if attention is not None and attention.bias is not None:
            rows = attention.bias_scale[positions].unsqueeze(-1) * attention.bias
            case = torch.full_like(positions, n)  # all biases together
            written.append((Site(layer, "attention"), case, rows))
    changes = [StreamChange(site, case, positions, rows) for site, case, rows in written]
    found = local.push(n + 1, changes, features_respond=False)
    normed = local.adapter.final_norm().push(found.resid_final, local.record.final_scale)
    logits = torch.einsum("nkd,kd->kn", normed[:, targets.positions], targets.directions)
    every = torch.cat([logits, found.features[:, targets.features].T])
    return EdgeBatch(every[:, :n], every[:, n])


def _rows(targets: Targets, plan: TracePlan, group: Group) -> Rows:
    chosen, n_logits = plan.target[group.rows], len(targets.directions)
    logits, features = chosen[chosen < n_logits], chosen[chosen >= n_logits] - n_logits
    return Rows(
        site=group.site,
        position=group.position,
        features=targets.features[features],
        directions=targets.directions[logits],
        direction_bias=targets.direction_bias[logits],
    )


Batch = Sequence[tuple[int, Group]]
"""Groups that are traced together, each with its number in the plan."""


def sweep_batches(local: LocalModel, plan: TracePlan, batch: Optional[int]) -> Iterator[Batch]:
    """Divide a plan into sweeps of about ``batch`` targets: groups at neighbouring positions,
    sorted by depth. Lorsa's features, which look at all positions from the start, come apart."""
    numbered = list(enumerate(plan.groups))
    for looking in (False, True):
        left = [
            item
            for item in numbered
            if (item[1].site is not None and item[1].site.kind == "attention") == looking
        ]
        left.sort(key=lambda item: (item[1].position, item[1].depth))
        while left:
            length = left[-1][1].position + 1
            affordable = _SWEEP_BYTES // (16 * length * local.adapter.d_model)
            most = max(1, affordable if batch is None else min(batch, affordable))
            taken = [left.pop()]
            n = _size(taken[0])
            while left and n + _size(left[-1]) <= most:
                if left[-1][1].position < taken[-1][1].position and n >= _FEW_ROWS:
                    break
                taken.append(left.pop())
                n += _size(taken[-1])
            yield sorted(taken, key=lambda item: (-item[1].depth, -item[1].position))


def _size(item: tuple[int, Group]) -> int:
    return int(item[1].rows.stop) - int(item[1].rows.start)


def _store(
    plan: TracePlan,
    part: Batch,
    sweep: Sweep,
    data: Tensor,
    biases: Tensor,
) -> None:
    """Put what one sweep has found where it belongs."""
    weights, layout, row = sweep.weights.cpu(), plan.layout, 0
    for number, group in part:
        here = slice(row, row + group.rows.stop - group.rows.start)
        row = here.stop
        biases[group.rows] = sweep.biases[here]
        block = data[layout.offsets[number] : layout.offsets[number + 1]]
        block = block.view(-1, int(layout.widths[number]))
        column = 0
        ranges = layout.ranges[layout.range_bounds[number] : layout.range_bounds[number + 1]]
        for begin, end in ranges.tolist():
            block[:, column : column + end - begin] = weights[here, begin:end]
            column += end - begin
