"""Where all heads look on one prompt, as plain records: numpy only, so that a window can show them.

Heads are named as in ``core.qk_records``: ``3.1`` is the model's, ``A3.1`` a Lorsa's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.qk_records import HeadName
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import DictionariesId

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

THUMBNAIL_SIDE = 48
"""Pixels across a thumbnail, at most."""


@dataclass(frozen=True)
class LorsaHeads:
    """The QK heads of one layer's Lorsa on a prompt, and the features that look with them.

    Attributes:
        layer: which.
        patterns: [g, T, T] float32.
        group_size: latent i looks with QK head ``i // group_size``.
        latents: [m] the latents that fire strongest on the prompt, the strongest first.
        n_active: how many latents fire at all.
        activations: [m, T] float32, zero where silent.
        values: [m, T] float32, what a position is worth to a latent, ``x_j·w_V + b_V``.
        metrics: by name, [g].
    """

    layer: int
    patterns: Floats
    group_size: int
    latents: Ints
    n_active: int
    activations: Floats
    values: Floats
    metrics: Mapping[str, Floats]

    def of_head(self, head: int) -> Ints:
        """The places in ``latents`` of those that look with a head, the strongest first."""
        found: Ints = np.flatnonzero(self.latents // self.group_size == head).astype(np.int64)
        return found

    def strongest_at(self, place: int) -> int:
        """The position where a listed latent fires most."""
        return int(self.activations[place].argmax())

    def feature(self, place: int) -> FeatureName:
        """A listed latent where it fires most, as the graph names it."""
        site = Site(self.layer, "attention")
        return FeatureName(site, self.strongest_at(place), int(self.latents[place]))

    def z_pattern(self, place: int) -> Floats:
        """``P[t, j] = A[t, j]·(x_j·w_V + b_V)`` of a listed latent, [T, T]; row t sums to its
        pre-activation at t (He et al. 2025, arXiv 2504.20938)."""
        head = int(self.latents[place]) // self.group_size
        share: Floats = self.patterns[head] * self.values[place]
        return share


@dataclass(frozen=True)
class AttentionView:
    """Where all heads look on one prompt of T tokens.

    Attributes:
        model: its name; weights_hash: of its weights.
        crm: of which replacement model Lorsas are shown, or None.
        prompt: as typed.
        token_ids, tokens: [T].
        patterns: [L, H, T, T] float32, the model's own heads.
        metrics: by name of ``head_metrics.METRICS``, [L, H].
        lorsas: by layer.
        thumbnails: [L, H, s, s] uint8, see ``thumbnails_of``; lorsa_thumbnails by layer.
    """

    model: str
    weights_hash: str
    crm: Optional[DictionariesId]
    prompt: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    patterns: Floats
    metrics: Mapping[str, Floats]
    lorsas: Mapping[int, LorsaHeads]
    thumbnails: NDArray[np.uint8]
    lorsa_thumbnails: Mapping[int, NDArray[np.uint8]]

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return int(self.patterns.shape[0])

    @property
    def n_heads(self) -> int:
        """Heads of each of the model's layers."""
        return int(self.patterns.shape[1])

    @cached_property
    def heads(self) -> tuple[HeadName, ...]:
        """All heads, layer by layer, the model's before the Lorsa's."""
        return tuple(head for layer in range(self.n_layers) for head in self.heads_of(layer))

    def heads_of(self, layer: int) -> tuple[HeadName, ...]:
        """The heads of one layer."""
        own = [HeadName("model", layer, head) for head in range(self.n_heads)]
        if layer in self.lorsas:
            n = len(self.lorsas[layer].patterns)
            own += [HeadName("lorsa", layer, head) for head in range(n)]
        return tuple(own)

    def pattern(self, head: HeadName) -> Floats:
        """Where one head looks, [T, T].

        Raises:
            KeyError: there is no such head.
        """
        if head not in self.heads:
            raise KeyError(str(head))
        if head.kind == "lorsa":
            found: Floats = self.lorsas[head.layer].patterns[head.head]
        else:
            found = self.patterns[head.layer, head.head]
        return found

    def metric(self, head: HeadName, name: str) -> float:
        """One figure of one head; NaN where there is none."""
        if head.kind == "lorsa":
            found = self.lorsas[head.layer].metrics.get(name)
            return float("nan") if found is None else float(found[head.head])
        return float(self.metrics[name][head.layer, head.head])

    def largest(self, name: str) -> float:
        """The largest value of a figure over all heads; NaN where no head has one."""
        values = self._values(name)
        known = values[np.isfinite(values)]
        return float(known.max()) if len(known) else float("nan")

    def ranked(self, name: str) -> tuple[HeadName, ...]:
        """The heads that have a figure, the largest value first."""
        values = self._values(name)
        order = np.argsort(-values, kind="stable")  # NaN comes last
        return tuple(self.heads[place] for place in order if np.isfinite(values[place]))

    def _values(self, name: str) -> Floats:
        """One figure of all heads, in their order."""
        parts: list[Floats] = []
        for layer in range(self.n_layers):
            parts.append(self.metrics[name][layer])
            lorsa = self.lorsas.get(layer)
            if lorsa is not None:
                none = np.full(len(lorsa.patterns), np.nan, dtype=np.float32)
                parts.append(lorsa.metrics.get(name, none))
        found: Floats = np.concatenate(parts)
        return found


def thumbnails_of(patterns: Floats, side: int = THUMBNAIL_SIDE) -> NDArray[np.uint8]:
    """Small pictures of patterns ``[..., T, T]`` → ``[..., s, s]`` with s = min(T, side).

    A pixel is the largest share in its block, so that a thin stripe does not fade away with the
    length of the prompt; 255 is a share of 1, on a scale of square roots.
    """
    length = patterns.shape[-1]
    if length > side:
        starts = np.arange(side) * length // side
        patterns = np.maximum.reduceat(patterns, starts, axis=-1)
        patterns = np.maximum.reduceat(patterns, starts, axis=-2)
    small: NDArray[np.uint8] = np.rint(255 * np.sqrt(np.clip(patterns, 0, 1))).astype(np.uint8)
    return small
