"""Edges by one sweep from the top layer down: what a graph with kept attention needs.

The sweep carries, for a batch of targets, the gradient of each target's input with respect to the
residual stream at the positions that it reaches. At every module it reads off the edges from what
is written there and adds the targets that read there; where attention is kept it goes on through
the frozen pattern. No autograd is involved: under the freezes every step is a matrix product
(Ameisen et al. 2025, section "Attribution graphs"; Dunefsky et al. 2024 for the transcoder edges).

Gradients lie in memory by position, [P, n, d]. Targets are sorted by depth, so those that have
joined are always the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.attribution_plan import SourceOrder
from attention_studio.core.replacement_model import LocalModel
from attention_studio.core.sites import Site

_STEP = 128
"""Targets that go through an attention in bfloat16 are filled up to a multiple of this."""


@dataclass(frozen=True)
class Rows:
    """Targets at one place: active features of a site, or logits.

    Attributes:
        site: None for logits.
        position: theirs.
        features: [r] numbers of active features; of logits none.
        directions, direction_bias: of logits, [r, d] and [r]; of features none.
    """

    site: Optional[Site]
    position: int
    features: Tensor
    directions: Tensor
    direction_bias: Tensor

    def __len__(self) -> int:
        return len(self.features) + len(self.directions)


@dataclass(frozen=True)
class _Attention:
    """A kept attention as three products, with all that is frozen multiplied into them.

    Gradients at its output, [P, n, d], go through ``output`` [d, h * d_head]; per key head through
    ``mix`` [g, T, q, T], from later positions, of its q query heads, to earlier ones; and through
    ``value`` [g * d_head, d]. What biases add is the products with ``bias`` [d], times
    ``bias_scale`` [T].
    """

    output: Tensor
    mix: Tensor
    value: Tensor
    bias: Optional[Tensor]
    bias_scale: Tensor

    def pull(self, gradient: Tensor) -> Tensor:
        """From gradients after the attention [P, n, d] to what they add before it."""
        return self.to_values(gradient, 0) @ self.value

    def to_values(self, gradient: Tensor, first: int) -> Tensor:
        """From gradients after it at positions from ``first`` on, [P, n, d], to those of its
        values there [P, n, g * d_head]."""
        length, n, _ = gradient.shape
        groups, _, queries, _ = self.mix.shape
        heads = (gradient @ self.output).view(length, n, groups, queries, -1)
        d_head = heads.shape[-1]
        # One product for all query heads of a key head: their sum is taken on the way.
        heads = heads.permute(2, 3, 0, 1, 4).reshape(groups, queries * length, n * d_head)
        here = slice(first, first + length)
        mix = self.mix[:, here, :, here].reshape(groups, length, queries * length)
        mixed = torch.bmm(mix, heads).view(groups, length, n, d_head)
        return mixed.permute(1, 2, 0, 3).reshape(length, n, -1)

    def one_to_values(self, gradient: Tensor, position: int, first: int) -> Tensor:
        """The same for gradients at one position alone, [n, d]: to the positions from ``first`` to
        it."""
        n, length = len(gradient), position + 1 - first
        groups, _, queries, _ = self.mix.shape
        heads = (gradient @ self.output).view(n, groups, queries, -1)
        heads = heads.permute(1, 2, 0, 3).reshape(groups, queries, -1)
        mix = self.mix[:, first : position + 1, :, position]
        mixed = torch.bmm(mix, heads).view(groups, length, n, -1)
        return mixed.permute(1, 2, 0, 3).reshape(length, n, -1)


class KeptAttentions:
    """The kept attentions of a local model, prepared when a sweep first comes to them.

    Args:
        local: the prompt.
        dtype: of the products. In bfloat16 sums are still taken in float32.
    """

    def __init__(self, local: LocalModel, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self._local = local
        self._made: dict[int, _Attention] = {}

    def at(self, layer: int) -> _Attention:
        """The attention of one layer."""
        if layer not in self._made:
            self._made[layer] = self._make(layer)
        return self._made[layer]

    def _make(self, layer: int) -> _Attention:
        local, adapter = self._local, self._local.adapter
        weights = adapter.value_output(layer)
        norm, scale = local.norm_at(Site(layer, "attention"))
        post = adapter.attention_post_norm(layer)
        post_scale = local.record.attention_post_scale[layer]
        group = weights.n_heads // weights.n_kv_heads
        one = scale.new_ones(())

        # The rows of a pattern sum to one, so a bias of the values comes out as it went in.
        of_values = weights.value_bias
        if norm.bias is not None:
            through = norm.bias @ weights.value
            of_values = through if of_values is None else of_values + through
        bias = weights.output_bias
        if of_values is not None:
            by_head = of_values.view(weights.n_kv_heads, -1).repeat_interleave(group, 0)
            written = by_head.flatten() @ weights.output
            bias = written if bias is None else bias + written
        output = weights.output
        if post is not None:
            output = post.push(output, one)
            bias = None if bias is None else post.push(bias, one)
        pattern = local.record.patterns[layer] * post_scale[:, None] * scale
        by_key_head = pattern.view(weights.n_kv_heads, group, *pattern.shape[1:])
        return _Attention(
            output=output.T.contiguous().to(self.dtype),
            mix=by_key_head.permute(0, 3, 1, 2).contiguous().to(self.dtype),
            value=norm.pull(weights.value.T, one).to(self.dtype),
            bias=bias,
            bias_scale=post_scale,
        )


class Writers:
    """What sources write, ready to be multiplied with gradients. Shared by the sweeps of a prompt.

    A piece is neighbouring sources in ``SourceOrder``, at one position: where they begin and what
    they write [m, d], at their own activation.
    """

    def __init__(self, local: LocalModel, order: SourceOrder) -> None:
        self._local, self._order = local, order
        self._made: dict[Optional[Site], list[list[tuple[int, Tensor]]]] = {}

    def at(self, site: Optional[Site]) -> list[list[tuple[int, Tensor]]]:
        """The pieces that are written at a module, by position; None: the token embeddings."""
        if site not in self._made:
            self._made[site] = self._make(site)
        return self._made[site]

    def _make(self, site: Optional[Site]) -> list[list[tuple[int, Tensor]]]:
        features, sources = self._local.features, self._order.sources
        pieces: list[list[tuple[int, Tensor]]] = [[] for _ in range(sources.length)]
        alone = self._local.record.embedding if site is None else self._local.errors.get(site)
        if alone is not None:
            begin = sources.embeddings.start if site is None else sources.errors(site).start
            for position in range(sources.length):
                place = int(self._order.place[begin + position])
                pieces[position].append((place, alone[position : position + 1]))
        for write in () if site is None else features.writes.get(site, ()):
            rows = write.rows * features.activation[write.features].unsqueeze(-1)
            for position in range(sources.length):
                first, last = write.bounds[position : position + 2]
                if first == last:
                    continue
                place = int(self._order.place[write.features.start + first])
                found, part = pieces[position], rows[first:last]
                if found and found[-1][0] == place + last - first:
                    # The error of the same module comes right behind its own features.
                    found[-1] = (place, torch.cat([part, found[-1][1]]))
                else:
                    found.insert(0, (place, part))
        return pieces


class Sweep:
    """One sweep for a batch of targets.

    Args:
        local: the prompt.
        order: its sources.
        attentions, writers: of the prompt, shared by its sweeps.
        rows: the targets, those of the greatest depth first.
        first: gradients come to no position before this one, so sources there are left out, and
            biases that attention has written there.

    Attributes:
        weights: [n, m] edges from the first m sources in ``order``, those at the positions that the
            targets can see.
        biases: [n] what biases add.
    """

    def __init__(
        self,
        local: LocalModel,
        order: SourceOrder,
        attentions: KeptAttentions,
        writers: Writers,
        rows: Sequence[Rows],
        first: int = 0,
    ) -> None:
        self._local, self._order = local, order
        self._attentions, self._writers = attentions, writers
        self._rows = list(rows)
        self._begin = first
        self._end = max(first, 1 + max((row.position for row in rows), default=0))
        self._length = self._end - first
        n = sum(map(len, rows))
        self.weights = local.on.new_zeros(n, int(order.start[self._end]))
        self.biases = local.on.new_zeros(n)
        self._gradient = local.on.new_zeros(self._length, n, local.adapter.d_model)
        self._held = torch.zeros_like(self._gradient) if local.adapter.parallel else None
        """What parallel MLPs read of the stream before their layer's attention has written."""
        self._joined = 0
        self._waiting = 0
        """Targets that have their gradient in ``_held``, behind those that have joined."""
        self._narrow: list[tuple[int, int]] = []
        """Of the targets that joined last, and have it at one position alone: how many, and
        where."""
        self._reached = self._end
        """No gradient has come to positions before this one."""

    def run(self, features_respond: bool = False) -> Sweep:
        """Find the edges; with ``features_respond`` the total effects by all paths instead."""
        local = self._local
        self._join(None)
        top = local.adapter.n_layers - 1
        if not self._joined and self._rows:
            highest = self._rows[0].site
            assert highest is not None  # logits have joined
            top = highest.layer
        for layer in reversed(range(top + 1)):
            for site in (Site(layer, "mlp"), Site(layer, "attention")):
                self._read_writers(site)
                if features_respond:
                    self._respond(site)
                self._join(site)
            if self._joined and self._length and local.keeps_attention(layer):
                self._through_attention(layer)
            self._release()
        self._read(None)
        return self

    # ---- targets -------------------------------------------------------------------------------

    def _join(self, site: Optional[Site]) -> None:
        """Add the targets that read at a site (None: at the end)."""
        while self._rows and self._rows[0].site == site:
            rows = self._rows.pop(0)
            here = slice(self._joined + self._waiting, self._joined + self._waiting + len(rows))
            if site is None:
                self._join_logits(rows, here)
            else:
                self._join_features(site, rows, here)
            if site is None or site.kind == "mlp":
                self._narrow.append((len(rows), rows.position))
            else:
                self._narrow.clear()
            if self._held is not None and site is not None and site.kind == "mlp":
                self._waiting += len(rows)
            else:
                self._joined += len(rows)

    def _join_logits(self, rows: Rows, here: slice) -> None:
        norm, position = self._local.adapter.final_norm(), rows.position
        self.biases[here] = rows.direction_bias
        if norm.bias is not None:
            self.biases[here] += rows.directions @ norm.bias
        if position >= self._begin:
            scale = self._local.record.final_scale[position]
            self._gradient[position - self._begin, here] = norm.pull(rows.directions, scale)
            self._reached = min(self._reached, position)

    def _join_features(self, site: Site, rows: Rows, here: slice) -> None:
        features = self._local.features
        encoder = features.encoder[rows.features]
        reading = self._local.reading_weights(site, rows.features)[:, : self._end]
        norm, scale = self._local.norm_at(site)
        self.biases[here] += features.encoder_bias[rows.features]
        if norm.bias is not None:
            self.biases[here] += (encoder @ norm.bias) * reading.sum(1)
        reading = reading[:, self._begin :]
        positions = torch.nonzero(reading.any(0)).squeeze(-1)
        if not len(positions):
            return
        into = self._gradient
        if self._held is not None and site.kind == "mlp":
            into = self._held
        pulled = norm.pull(encoder, scale.new_ones(()))
        weight = reading[:, positions] * scale[positions + self._begin]
        into[positions, here] += weight.T.unsqueeze(-1) * pulled
        self._reached = min(self._reached, self._begin + int(positions.min()))

    def _release(self) -> None:
        """Go on to the stream before a layer."""
        if self._held is not None:
            self._joined += self._waiting
            self._waiting = 0
            live = slice(0, self._joined)
            self._gradient[:, live] += self._held[:, live]
            self._held[:, live] = 0

    # ---- what is read off ----------------------------------------------------------------------

    def _read_writers(self, site: Site) -> None:
        """Edges from what is written at a module: features, errors, decoder bias, skip."""
        if not self._joined:
            return
        self._read(site)
        local, live = self._local, slice(0, self._joined)
        bias, skip = local.bias_at(site), local.skip_at(site)
        on = local.on[self._begin : self._end]
        if bias is not None:
            self.biases[live] += on @ (self._gradient[:, live] @ bias)
        if skip is not None:
            inputs = (self._gradient[:, live] @ skip.T) * on[:, None, None]
            self._add_input(site, inputs)

    def _read(self, site: Optional[Site]) -> None:
        pieces, live = self._writers.at(site), slice(0, self._joined)
        for position in range(self._reached, self._end):
            gradient = self._gradient[position - self._begin, live]
            for place, rows in pieces[position]:
                # Added up: a feature of a cross-layer transcoder writes in several places.
                self.weights[live, place : place + len(rows)].addmm_(gradient, rows.T)

    # ---- what is passed on ---------------------------------------------------------------------

    def _respond(self, site: Site) -> None:
        """Carry the effects of what a module's features write on to what they read."""
        features, here = self._local.features, self._local.features.of(site)
        if here.start == here.stop or not self._joined:
            return
        live = slice(0, self._joined)
        seen = torch.nonzero(features.position[here] < self._end).squeeze(-1)
        places = torch.as_tensor(self._order.place[here])[seen.cpu()]
        unit = self.weights[live, places] / features.activation[here][seen]
        encoder = features.encoder[here][seen]
        reading = self._local.reading_weights(site, here)[seen, self._begin : self._end]
        inputs = torch.zeros_like(self._gradient[:, live])
        for position in range(self._length):
            which = torch.nonzero(reading[:, position]).squeeze(-1)
            inputs[position] = (unit[:, which] * reading[which, position]) @ encoder[which]
        self._reached = self._begin
        self._narrow.clear()
        self._add_input(site, inputs)

    def _add_input(self, site: Site, inputs: Tensor) -> None:
        """Carry gradients at a module's (normed) input [P, joined, d] on to the stream."""
        live = slice(0, self._joined)
        norm, scale = self._local.norm_at(site)
        if norm.bias is not None:
            self.biases[live] += (inputs @ norm.bias).sum(0)
        into = self._gradient
        if self._held is not None and site.kind == "mlp":
            into = self._held
        into[:, live] += norm.pull(inputs, scale[self._begin : self._end, None])

    def _through_attention(self, layer: int) -> None:
        """Carry the gradients through the frozen attention of a layer."""
        attention, dtype = self._attentions.at(layer), self._attentions.dtype
        gradient = self._gradient[:, : self._joined]
        if attention.bias is not None:
            scale = attention.bias_scale[self._begin : self._end]
            self.biases[: self._joined] += scale @ (gradient @ attention.bias)
        # Those that wait read what is before the attention, and come after all others.
        narrow = self._narrow[: len(self._narrow) - self._n_waiting_groups()]
        wide = self._joined - sum(number for number, _ in narrow)
        width = attention.value.shape[0]
        shape = (len(gradient), self._filled(self._joined), width)
        values = gradient.new_zeros(shape, dtype=dtype)
        if wide:
            filled = self._gradient[:, : self._filled(wide)].to(dtype)
            through = attention.to_values(filled, self._begin)
            values[:, :wide] = through[:, :wide]
        done = wide
        for number, position in narrow:
            mine, at = slice(done, done + number), position - self._begin
            if at >= 0:
                own = gradient[at, mine].to(dtype)
                values[: at + 1, mine] = attention.one_to_values(own, position, self._begin)
            done += number
        for at in range(len(gradient)):
            if dtype == gradient.dtype:  # in place: nothing is written twice
                gradient[at].addmm_(values[at, : self._joined], attention.value)
            else:
                gradient[at] += (values[at] @ attention.value)[: self._joined]
        self._narrow = self._narrow[len(narrow) :]
        self._reached = self._begin

    def _filled(self, number: int) -> int:
        """How many targets go through an attention, so that so many do."""
        if self._attentions.dtype == self._gradient.dtype:
            return number
        # Kernels for bfloat16 are made anew for each shape that they meet, so there are few.
        return min(-(-number // _STEP) * _STEP, self._gradient.shape[1])

    def _n_waiting_groups(self) -> int:
        waiting, groups = self._waiting, 0
        while waiting:
            groups += 1
            waiting -= self._narrow[-groups][0]
        return groups
