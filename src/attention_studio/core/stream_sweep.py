"""What any reading of the residual stream owes to each source, by one sweep downwards.

``core.attribution`` finds the edges into nodes of a graph. Here what is read may be anything that
is linear in what one module sees: a coordinate of a query, or of a key at some position. Sources,
freezes and order are those of an edge, so that both agree: what a source writes reaches the
reading through the residual stream, the skips of transcoders and the frozen patterns of attention
that was kept; other features keep their activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.attribution import Sources, sources_of
from attention_studio.core.attribution_sweep import KeptAttentions
from attention_studio.core.linear_parts import FrozenNorm
from attention_studio.core.replacement_model import LocalModel
from attention_studio.core.sites import Site

_WORKING_BYTES = 1 << 27
"""Of the gradients of a piece of a sweep; a few such are held at once."""

KeptAttention = Callable[[int, Tensor, Tensor], None]
"""Told the layer of a kept attention, positions [p], and the gradient [n, p, d] at its output."""


@dataclass(frozen=True)
class Reading:
    """n numbers that are linear in what a module reads.

    Attributes:
        site: the module; None: what the unembedding reads.
        positions: [p] where it reads.
        rows: [n, p, d] by what its (normed) input is multiplied there.
    """

    site: Optional[Site]
    positions: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Owed:
    """What n readings owe: ``weights`` [n, n_sources], the value of each source times its
    derivative; ``biases`` [n], what biases add. Both together are what is read."""

    weights: Tensor
    biases: Tensor

    @property
    def with_bias(self) -> Tensor:
        """[n, n_sources + 1], the biases as the last source."""
        return torch.cat([self.weights, self.biases.unsqueeze(1)], 1)


def source_names(local: LocalModel) -> list[str]:
    """The names of all sources, as ``AttributionGraph.node_name`` gives them."""
    features = local.features
    length = range(len(local.ids))
    columns = (features.site.tolist(), features.position.tolist(), features.index.tolist())
    return [
        *(f"{Site.of_number(s).label}/P{p}/F{i}" for s, p, i in zip(*columns, strict=True)),
        *(f"{site.label}/P{p}/error" for site in local.errors for p in length),
        *(f"P{p}/token" for p in length),
    ]


@torch.no_grad()
def owed_to_sources(
    local: LocalModel,
    reading: Reading,
    follow_features: bool = False,
    stop_at: Optional[KeptAttention] = None,
    attentions: Optional[KeptAttentions] = None,
) -> Owed:
    """Split a reading into what it owes to every source.

    Args:
        local: the prompt.
        reading: what is read.
        follow_features: active features are no sources: what they write is followed down to what
            they read, their biases count among the biases, and all is owed to tokens and errors.
        stop_at: if given, nothing is followed through attention that was kept: what the reading
            owes to it is left out, and this is told the gradient there.
        attentions: those that were kept, where they are used several times.

    Cost: per row, ``d`` multiplications for each source at a position that is reached, and for
    each kept attention about ``T * 4 d^2``.
    """
    attentions = attentions or KeptAttentions(local)
    n, _, d = reading.rows.shape
    row_bytes = 4 * d * len(local.ids)
    size = n if stop_at is not None else max(1, _WORKING_BYTES // row_bytes)
    parts = []
    for start in range(0, n, size):
        rows = reading.rows[start : start + size]
        part = Reading(reading.site, reading.positions, rows)
        sweep = _Sweep(local, part, attentions, follow_features, stop_at)
        parts.append(sweep.run())
    if len(parts) == 1:
        return parts[0]
    return Owed(
        torch.cat([part.weights for part in parts]), torch.cat([part.biases for part in parts])
    )


class _Sweep:
    """One sweep: gradients [n, p, d] at ``positions`` [p], and what was read off so far."""

    def __init__(
        self,
        local: LocalModel,
        reading: Reading,
        attentions: KeptAttentions,
        follow_features: bool,
        stop_at: Optional[KeptAttention],
    ) -> None:
        self.local, self.attentions = local, attentions
        self.follow_features, self.stop_at = follow_features, stop_at
        self.sources: Sources = sources_of(local)
        self.positions = reading.positions
        n = len(reading.rows)
        self.weights = reading.rows.new_zeros(n, len(self.sources))
        self.biases = reading.rows.new_zeros(n)
        self.site = reading.site
        norm, scale = self._norm(reading.site)
        self.gradient = self._pull(norm, scale, reading.rows)

    def run(self) -> Owed:
        """All layers below the reading, top first."""
        adapter, site = self.local.adapter, self.site
        top = adapter.n_layers if site is None else site.layer
        if site is not None and site.kind == "mlp" and not adapter.parallel:
            self._attention(top)
        for layer in reversed(range(top)):
            mlp = Site(layer, "mlp")
            self._writers(mlp)
            read = self._read_by(mlp)
            before = self.positions
            # In a model with parallel residual the MLP reads what the attention read.
            if adapter.parallel:
                self._attention(layer)
                # Positions that attention has added come in order from the first.
                same = len(before) == len(self.positions)
                places = torch.arange(len(before), device=before.device) if same else before
                self.gradient = self.gradient.index_add(1, places, read)
            else:
                self.gradient = self.gradient + read
                self._attention(layer)
        embeddings = self.sources.embeddings.start + self.positions
        self.weights[:, embeddings] += self._products(self.local.record.embedding)
        self.weights[:, : len(self.local.features)] *= self.local.features.activation
        return Owed(self.weights, self.biases)

    def _attention(self, layer: int) -> None:
        """Go past the attention of a layer."""
        site = Site(layer, "attention")
        self._writers(site)
        if self.local.keeps_attention(layer):
            self._through(layer)
        elif self.follow_features:
            self._widen()
            self.gradient = self.gradient + self._read_by(site)

    def _writers(self, site: Site) -> None:
        """What is owed to what is written at a module."""
        local = self.local
        for write in local.features.writes.get(site, ()):
            for place, position in enumerate(self.positions.tolist()):
                first, last = write.bounds[position : position + 2]
                if first == last:
                    continue
                columns = slice(write.features.start + first, write.features.start + last)
                # Added up: a feature of a cross-layer transcoder writes in several places.
                self.weights[:, columns] += self.gradient[:, place] @ write.rows[first:last].T
        if site in local.errors:
            columns_of_errors = self.sources.errors(site).start + self.positions
            self.weights[:, columns_of_errors] += self._products(local.errors[site])
        bias = local.bias_at(site)
        if bias is not None:
            self.biases += (self.gradient @ bias) @ local.on[self.positions]

    def _read_by(self, site: Site) -> Tensor:
        """The gradient [n, p, d] that goes on through what a dictionary reads: by the skip of a
        transcoder, and by its features where these are followed."""
        local, inputs = self.local, torch.zeros_like(self.gradient)
        skip = local.skip_at(site)
        if skip is not None:
            inputs += (self.gradient @ skip.T) * local.on[self.positions].unsqueeze(-1)
        features, here = local.features, local.features.of(site)
        if self.follow_features and here.start < here.stop:
            unit, encoder = self.weights[:, here], features.encoder[here]
            reading = local.reading_weights(site, here)
            for place, position in enumerate(self.positions.tolist()):
                which = torch.nonzero(reading[:, position]).squeeze(1)
                inputs[:, place] += (unit[:, which] * reading[which, position]) @ encoder[which]
            self.biases += unit @ features.encoder_bias[here]
            self.weights[:, here] = 0
        elif skip is None:
            return inputs
        return self._pull(*self._norm(site), inputs)

    def _through(self, layer: int) -> None:
        """Through an attention that was kept, to all positions that it looks at."""
        if self.stop_at is not None:
            self.stop_at(layer, self.positions, self.gradient)
            return
        self._widen()
        attention = self.attentions.at(layer)
        if attention.bias is not None:
            scale = attention.bias_scale[: len(self.positions)]
            self.biases += (self.gradient @ attention.bias) @ scale
        pulled = attention.pull(self.gradient.transpose(0, 1))
        self.gradient = self.gradient + pulled.transpose(0, 1)

    def _widen(self) -> None:
        """From the positions that are read to all up to the last of them."""
        length = int(self.positions.max()) + 1
        if len(self.positions) == length:
            return
        n, _, d = self.gradient.shape
        wide = self.gradient.new_zeros(n, length, d)
        self.gradient = wide.index_copy_(1, self.positions, self.gradient)
        self.positions = torch.arange(length, device=self.positions.device)

    def _products(self, vectors: Tensor) -> Tensor:
        """The gradient at each position times the vector there [T, d]: [n, p]."""
        return torch.einsum("npd,pd->np", self.gradient, vectors[self.positions])

    def _norm(self, site: Optional[Site]) -> tuple[FrozenNorm, Tensor]:
        """The norm before a module (None: the unembedding) and its scales [T]."""
        if site is None:
            return self.local.adapter.final_norm(), self.local.record.final_scale
        return self.local.norm_at(site)

    def _pull(self, norm: FrozenNorm, scale: Tensor, gradient: Tensor) -> Tensor:
        """From a gradient at a norm's output to one at its input; notes what its bias adds."""
        if norm.bias is not None:
            self.biases += gradient.sum(1) @ norm.bias
        return norm.pull(gradient, scale[self.positions])
