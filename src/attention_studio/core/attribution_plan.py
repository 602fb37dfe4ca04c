"""Who can feed whom on one prompt, worked out before anything is computed.

From it follow the room that the edges take and the work that they are, and it is the layout that
they are stored in.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_studio.core.graph_edges import EdgeLayout
from attention_studio.core.replacement_model import LocalModel
from attention_studio.core.sites import Site

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sources:
    """The columns of an edge matrix: features, then errors, then token embeddings.

    Errors come module by module (``error_sites``), position by position; embeddings position by
    position.
    """

    n_features: int
    error_sites: tuple[Site, ...]
    length: int

    @property
    def n_errors(self) -> int:
        """One error node for each position of the modules that have them."""
        return len(self.error_sites) * self.length

    def __len__(self) -> int:
        return self.n_features + self.n_errors + self.length

    def errors(self, site: Site) -> slice:
        """Columns of one module's errors."""
        start = self.n_features + self.error_sites.index(site) * self.length
        return slice(start, start + self.length)

    @property
    def embeddings(self) -> slice:
        """Columns of the token embeddings."""
        return slice(self.n_features + self.n_errors, len(self))


@dataclass(frozen=True)
class Targets:
    """Rows of an edge matrix: logit directions at positions, then features (by their number).

    ``directions`` [k, d] are read after the final norm, ``direction_bias`` [k], ``positions`` [k].
    ``features`` [m] are indices into the local model's active features.
    """

    directions: Tensor
    direction_bias: Tensor
    positions: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.directions) + len(self.features)

    def of_features(self, features: Tensor) -> Targets:
        """Other features as targets, and no logit directions."""
        none = slice(0, 0)
        return Targets(
            self.directions[none], self.direction_bias[none], self.positions[none], features
        )

    def of_logits(self) -> Targets:
        """The logit directions alone."""
        return Targets(self.directions, self.direction_bias, self.positions, self.features[:0])


def sources_of(local: LocalModel) -> Sources:
    """The columns that every edge matrix of this local model has."""
    return Sources(len(local.features), tuple(local.errors), len(local.ids))


class SourceOrder:
    """Sources in order of position and, within a position, of depth.

    Attributes:
        sources: what they are.
        order: [n_sources] their numbers in this order; ``place`` [n_sources] is its inverse.
        start: [T + 1] those at position p are ``start[p]:start[p + 1]``.
    """

    def __init__(self, local: LocalModel) -> None:
        self.sources = sources_of(local)
        features, length = local.features, len(local.ids)
        error_level = np.repeat([site.number for site in self.sources.error_sites], length)
        positions = np.arange(length)
        level = np.concatenate([features.site.cpu(), error_level, np.full(length, -1)])
        position = np.concatenate(
            [
                features.position.cpu(),
                np.tile(positions, len(self.sources.error_sites)),
                positions,
            ]
        )
        self._base = 2 * local.adapter.n_layers + 1
        key = (position * self._base + level + 1).astype(np.int64)
        self.order: Ints = np.argsort(key, kind="stable").astype(np.int64)
        self.place: Ints = np.empty_like(self.order)
        self.place[self.order] = np.arange(len(self.order))
        self._keys = key[self.order]
        self.start: Ints = np.searchsorted(self._keys, np.arange(length + 1) * self._base)

    def below(self, depth: int) -> Ints:
        """[T] how many sources of each position lie below a module's number.

        They are the first ones of their position.
        """
        length = len(self.start) - 1
        ends = np.searchsorted(self._keys, np.arange(length) * self._base + depth + 1)
        counts: Ints = ends - self.start[:-1]
        return counts


@dataclass(frozen=True)
class Group:
    """Targets that can be reached from the same sources.

    Attributes:
        depth: ``Site.number`` of where they read; two for each layer of the model for logits.
        site: None for logits.
        position: theirs.
        rows: of them in ``TracePlan``.
        widths: [position + 1] how many sources of each position they can be reached from.
    """

    depth: int
    site: Optional[Site]
    position: int
    rows: slice
    widths: Ints


@dataclass(frozen=True)
class TracePlan:
    """What is to be traced, in the order in which it will be stored.

    Attributes:
        order: the sources.
        groups: the targets, those of the greatest depth first.
        target: [n] of each row its place in ``Targets``: logit directions, then features.
        layout: where the edges go.
    """

    order: SourceOrder
    groups: tuple[Group, ...]
    target: Tensor
    layout: EdgeLayout


def reads_below(local: LocalModel, site: Optional[Site]) -> int:
    """The number below which a site must lie for what it writes to be read here (None: at the
    end). In models with parallel residual an MLP reads nothing of its layer's attention."""
    if site is None:
        return 2 * local.adapter.n_layers
    return 2 * site.layer if local.adapter.parallel else site.number


def plan_trace(
    local: LocalModel, targets: Targets, order: Optional[SourceOrder] = None
) -> TracePlan:
    """Sort targets into groups, and say what can reach each of them."""
    order = order or SourceOrder(local)
    n_layers, n_logits = local.adapter.n_layers, len(targets.directions)
    features = local.features
    depth = np.concatenate(
        [np.full(n_logits, 2 * n_layers), features.site[targets.features].cpu().numpy()]
    )
    position = np.concatenate(
        [
            targets.positions.cpu().numpy(),
            features.position[targets.features].cpu().numpy(),
        ]
    )
    rank = np.lexsort((np.arange(len(depth)), -position, -depth))
    depth, position = depth[rank], position[rank]
    changes = (np.diff(depth, prepend=-1) != 0) | (np.diff(position, prepend=-1) != 0)
    firsts = [*np.flatnonzero(changes).tolist(), len(rank)]
    widths = {number: _widths(local, order, number) for number in set(depth.tolist())}

    groups, ranges, range_bounds = [], [], [0]
    for first, last in pairwise(firsts):
        number, at = int(depth[first]), int(position[first])
        everywhere, only_here = widths[number]
        width = everywhere[: at + 1].copy()
        width[at] = only_here[at]
        site = None if number == 2 * n_layers else Site.of_number(number)
        groups.append(Group(number, site, at, slice(first, last), width))
        begin = order.start[: at + 1]
        seen = width > 0
        found = np.stack([begin[seen], (begin + width)[seen]], 1)
        ranges.append(found)
        range_bounds.append(range_bounds[-1] + len(found))

    numbers = np.concatenate(
        [len(order.sources) + np.arange(n_logits), targets.features.cpu().numpy()]
    )
    layout = EdgeLayout(
        order=order.order,
        targets=numbers[rank].astype(np.int64),
        row_bounds=np.array(firsts if groups else [0], dtype=np.int64),
        ranges=np.concatenate([np.zeros((0, 2), dtype=np.int64), *ranges]).astype(np.int64),
        range_bounds=np.array(range_bounds, dtype=np.int64),
    )
    return TracePlan(
        order, tuple(groups), torch.as_tensor(rank, device=features.site.device), layout
    )


def _widths(local: LocalModel, order: SourceOrder, depth: int) -> tuple[Ints, Ints]:
    """How many sources of each position reach a target there from before its position, and how
    many at its own."""
    n_layers = local.adapter.n_layers
    site = None if depth == 2 * n_layers else Site.of_number(depth)
    limit = reads_below(local, site)
    own = order.below(limit)
    if site is not None and site.kind == "attention":
        return own, own  # a Lorsa looks at what lies below it at any position
    kept = [
        layer for layer in range(n_layers) if local.keeps_attention(layer) and 2 * layer < limit
    ]
    # From other positions only what an attention has moved here, which read below itself.
    return (order.below(2 * kept[-1]) if kept else np.zeros_like(own)), own
