"""Edges in closed form: what a graph of a complete replacement model needs.

Where a Lorsa stands in for the attention of every layer, nothing moves between positions but what
its own features read and write. An edge is then a product of what is written with what is read
there, under the frozen norm, and all edges are a few matrix products over active features (He et
al. 2025, *Bridging the Attention Gap: Complete Replacement Models*): no gradient goes through any
layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from attention_studio.core.attribution_plan import Group, SourceOrder, Targets, TracePlan
from attention_studio.core.half_products import spare_rows, with_neighbours
from attention_studio.core.replacement_model import LocalModel
from attention_studio.core.sites import Site
from attention_studio.utils.progress import WorkContext


def has_closed_form(local: LocalModel) -> bool:
    """Whether no attention is kept, and nothing leads around a transcoder's latents."""
    layers = range(local.adapter.n_layers)
    return not any(
        local.keeps_attention(layer) or local.skip_at(Site(layer, "mlp")) is not None
        for layer in layers
    )


class Stream:
    """What has been written to the residual stream so far, source by source.

    Attributes:
        rows: [n_sources, d] in the order of ``SourceOrder``, at the source's own activation; and
            some spare ones behind.
        bias: [T, d] what biases have written.
    """

    def __init__(self, local: LocalModel, order: SourceOrder, dtype: torch.dtype) -> None:
        self._local = local
        self._place = torch.as_tensor(order.place, device=local.on.device)
        self._sources = order.sources
        d = local.adapter.d_model
        n_rows = len(order.place) + spare_rows()
        self.rows = torch.zeros(n_rows, d, dtype=dtype, device=local.on.device)
        self.bias = local.on.new_zeros(len(local.ids), d)
        self.rows[self._place[order.sources.embeddings]] = local.record.embedding.to(dtype)

    def write(self, site: Site) -> None:
        """Add what is written at a module."""
        local = self._local
        for write in local.features.writes.get(site, ()):
            values = write.rows * local.features.activation[write.features].unsqueeze(-1)
            # Added up: a feature of a cross-layer transcoder writes in several places.
            self.rows.index_add_(0, self._place[write.features], values.to(self.rows.dtype))
        if site in local.errors:
            where = self._place[self._sources.errors(site)]
            self.rows[where] = local.errors[site].to(self.rows.dtype)
        bias = local.bias_at(site)
        if bias is not None:
            self.bias += local.on.unsqueeze(-1) * bias


def trace_closed(
    local: LocalModel,
    targets: Targets,
    plan: TracePlan,
    data: Tensor,
    biases: Tensor,
    dtype: torch.dtype,
    ctx: WorkContext,
) -> None:
    """Fill in all edges of a plan.

    Args:
        local: the prompt; ``has_closed_form`` must hold.
        targets, plan: what is traced.
        data: [plan.layout.size] where the weights go; biases: [n] likewise.
        dtype: of the products.
        ctx: cancellation and progress.
    """
    stream = Stream(local, plan.order, dtype)
    waiting = {
        depth: list(part)
        for depth, part in groupby(enumerate(plan.groups), key=lambda item: item[1].depth)
    }
    done = 0
    # From below: what a target reads is what has been written when it is reached.
    for place, reads in _passage(local):
        if not reads:
            assert place is not None  # nothing is written at the end
            stream.write(place)
            continue
        depth = 2 * local.adapter.n_layers if place is None else place.number
        here = waiting.get(depth, [])
        if not here:
            continue
        ctx.check()
        ctx.progress(done, len(plan.target), "Tracing")
        rows = slice(here[0][1].rows.start, here[-1][1].rows.stop)
        reading = _reading(local, targets, place, plan.target[rows])
        biases[rows] = reading.bias + _weighted(reading, stream.bias)
        _fill(plan, here, reading, stream, data)
        done += rows.stop - rows.start


class _Reading(NamedTuple):
    """What targets of one site read: ``weights`` [m, T] times ``vectors`` [m, d] of each position
    of the stream, plus ``bias`` [m]."""

    vectors: Tensor
    weights: Tensor
    bias: Tensor


def _reading(local: LocalModel, targets: Targets, site: Optional[Site], rows: Tensor) -> _Reading:
    one = local.on.new_ones(())
    if site is None:
        norm, scale = local.adapter.final_norm(), local.record.final_scale
        directions, bias = targets.directions[rows], targets.direction_bias[rows]
        weights = local.on.new_zeros(len(rows), len(scale))
        weights.scatter_(1, targets.positions[rows].unsqueeze(1), 1.0)
    else:
        norm, scale = local.norm_at(site)
        chosen = targets.features[rows - len(targets.directions)]
        directions, bias = local.features.encoder[chosen], local.features.encoder_bias[chosen]
        weights = local.reading_weights(site, chosen)
    if norm.bias is not None:
        bias = bias + (directions @ norm.bias) * weights.sum(1)
    return _Reading(norm.pull(directions, one), weights * scale, bias)


def _weighted(reading: _Reading, rows: Tensor) -> Tensor:
    """What targets read [m] of one row [T, d] at each position."""
    seen = reading.weights.count_nonzero(1)
    if int(seen.max()) > 1:
        return (reading.weights * (reading.vectors @ rows.T)).sum(1)
    # An MLP's feature sees its own position alone.
    position = reading.weights.abs().argmax(1)
    own = (reading.vectors * rows[position]).sum(1)
    return own * reading.weights.gather(1, position.unsqueeze(1)).squeeze(1)


def _fill(
    plan: TracePlan,
    groups: list[tuple[int, Group]],
    reading: _Reading,
    stream: Stream,
    data: Tensor,
) -> None:
    """Products for the groups of one site, those at the last position first."""
    offsets, first_row = plan.layout.offsets, groups[0][1].rows.start
    vectors = reading.vectors.to(stream.rows.dtype)
    blocks = [
        data[offsets[number] : offsets[number + 1]].view(-1, int(group.widths.sum()))
        for number, group in groups
    ]
    begins = [np.concatenate([[0], np.cumsum(group.widths)]) for _, group in groups]
    for position in range(groups[0][1].position + 1):
        # Groups that see this position, which are neighbours.
        seeing = [
            i
            for i, (_, group) in enumerate(groups)
            if group.position >= position and group.widths[position]
        ]
        if not seeing:
            continue
        rows = slice(
            groups[seeing[0]][1].rows.start - first_row, groups[seeing[-1]][1].rows.stop - first_row
        )
        width = int(groups[seeing[0]][1].widths[position])
        start = int(plan.order.start[position])
        if vectors.dtype == torch.bfloat16:
            products = with_neighbours(vectors[rows], stream.rows, start, width)
        else:
            products = vectors[rows] @ stream.rows[start : start + width].T
        factor = reading.weights[rows, position].unsqueeze(1)
        for i in seeing:
            mine = groups[i][1].rows
            part = slice(mine.start - first_row - rows.start, mine.stop - first_row - rows.start)
            begin = int(begins[i][position])
            into = blocks[i][:, begin : begin + width]
            torch.mul(products[part], factor[part], out=into)


def _passage(local: LocalModel) -> Iterator[tuple[Optional[Site], bool]]:
    """The modules from below, each when it reads (True) and when it writes; at last the logits."""
    for layer in range(local.adapter.n_layers):
        attention, mlp = Site(layer, "attention"), Site(layer, "mlp")
        yield attention, True
        if local.adapter.parallel:
            yield mlp, True
        yield attention, False
        if not local.adapter.parallel:
            yield mlp, True
        yield mlp, False
    yield None, True
