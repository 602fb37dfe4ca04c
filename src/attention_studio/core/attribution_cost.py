"""What a trace will take, from the sizes alone: multiplications, memory, and so time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from attention_studio.core.active_features import N_LEFT_OUT
from attention_studio.core.attribution import Batch, Precision, starts_apart, sweep_batches
from attention_studio.core.attribution_closed import has_closed_form
from attention_studio.core.attribution_plan import TracePlan, reads_below
from attention_studio.core.replacement_model import LocalModel

_SIDE = 1024
_REPEATS = 3


@dataclass(frozen=True)
class TraceEstimate:
    """What tracing will take.

    Attributes:
        n_targets: rows, outputs among them.
        n_edges: pairs that can have an edge.
        operations: floating point operations of the matrix products, two for a multiplication.
        gigabytes: of the edges and of what is needed on the way.
        seconds: at the rate at which this machine multiplies matrices now. Products of few rows
            are slower than that, so a trace of a short prompt may take twice as long.
    """

    n_targets: int
    n_edges: int
    operations: float
    gigabytes: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.n_targets:,} targets, {self.n_edges:,} edges, {self.gigabytes:.2g} GB, "
            f"about {self.seconds:.2g} s"
        )


def estimate_trace(
    local: LocalModel, plan: TracePlan, precision: Precision = "float32"
) -> TraceEstimate:
    """What ``attribution.trace`` will take for a plan."""
    operations = trace_operations(local, plan)
    d_model, size = local.adapter.d_model, plan.layout.size
    working = 4 * d_model * len(plan.order.sources)
    if not has_closed_form(local):
        batches = sweep_batches(local, plan, None)
        largest = max(
            (_rows(part) * (1 + max(group.position for _, group in part)) for part in batches),
            default=0,
        )
        working += 16 * d_model * largest
    rate = matrix_rate(local.on.device.type, precision)
    return TraceEstimate(
        n_targets=len(plan.target),
        n_edges=size,
        operations=operations,
        gigabytes=(4 * size + working) / 1e9,
        seconds=operations / rate + size / 1e9,
    )


def trace_operations(local: LocalModel, plan: TracePlan) -> float:
    """Floating point operations of the matrix products of ``attribution.trace``.

    An edge is a product of two vectors: ``2 d``. In a sweep each target that has joined above a
    kept attention goes through it at every position of its batch: with ``h`` heads of width
    ``d_h``, ``g`` of keys and values, and P positions, ``2 d (h + g) d_h`` for the two maps and
    ``2 P h d_h`` for the pattern. At the first attention below it, it has but one position to come
    from. What a cross-layer transcoder's features write is counted at one place only.
    """
    d_model = local.adapter.d_model
    edges = 2.0 * d_model * plan.layout.size
    if has_closed_form(local):
        return edges
    through = 0.0
    layers = [n for n in range(local.adapter.n_layers) if local.keeps_attention(n)]
    sizes = {
        layer: (weights.n_heads * weights.d_head, weights.n_kv_heads * weights.d_head)
        for layer in layers
        for weights in [local.adapter.value_output(layer)]
    }
    apart = starts_apart(plan)
    for part in sweep_batches(local, plan, None):
        positions = 1 + max(group.position for _, group in part) - apart * N_LEFT_OUT
        above = layers[-1] + 1 if layers else 0
        for layer in reversed(layers):
            narrow, wide = (
                sum(
                    group.rows.stop - group.rows.start
                    for _, group in part
                    if reads_below(local, group.site) > 2 * layer
                    and (reads_below(local, group.site) > 2 * above) == earlier
                )
                for earlier in (False, True)
            )
            width, key_width = sizes[layer]
            through += wide * positions * (2 * d_model * width + 2 * positions * width)
            through += narrow * (2 * d_model * width + 2 * positions * width)
            through += (wide + narrow) * positions * 2 * d_model * key_width
            above = layer
    if apart:
        cases = int(plan.order.start[N_LEFT_OUT]) + 1
        length = len(plan.order.start) - 1
        per_entry = sum(2 * d_model * sum(size) + 2 * length * size[0] for size in sizes.values())
        through += float(cases * length * per_entry)
    return edges + through


def _rows(part: Batch) -> int:
    return sum(group.rows.stop - group.rows.start for _, group in part)


@lru_cache(maxsize=8)
def matrix_rate(device: str, precision: Precision) -> float:
    """Floating point operations a second of a large matrix product, measured once."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        float((left @ left)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2.0 * _SIDE**3 / min(seconds)
