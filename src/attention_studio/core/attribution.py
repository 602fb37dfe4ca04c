"""Exact edges of a local linear model, by one sweep from the top layer down.

The sweep carries, for a batch of targets, the gradient of each target's input with respect to the
residual stream (rows, [n, T, d]). At every layer it reads off the edges from the writers there,
adds the rows of the targets that read there, and goes on through the frozen attention. No autograd
is involved: under the freezes every step is a matrix product (Ameisen et al. 2025, section
"Attribution graphs"; Dunefsky et al. 2024 for the transcoder edges).

An edge is ``value(source) * d input(target) / d value(source)``, direct paths only: other features
keep their activation. Biases are summed per target, so that edges + bias = the target's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_studio.core.replacement_model import LocalModel
from attention_studio.utils.progress import WorkContext


@dataclass(frozen=True)
class Sources:
    """The columns of an edge matrix: features, then errors, then token embeddings.

    Errors come layer by layer, position by position; embeddings position by position.
    """

    n_features: int
    n_layers: int
    length: int

    @property
    def n_errors(self) -> int:
        """One error node for each layer and position."""
        return self.n_layers * self.length

    def __len__(self) -> int:
        return self.n_features + self.n_errors + self.length

    def errors(self, layer: int) -> slice:
        """Columns of one layer's errors."""
        start = self.n_features + layer * self.length
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


@dataclass(frozen=True)
class EdgeBatch:
    """Edges into a batch of targets: ``weights`` [n, n_sources] and ``biases`` [n]."""

    weights: Tensor
    biases: Tensor


def sources_of(local: LocalModel) -> Sources:
    """The columns that every edge matrix of this local model has."""
    return Sources(len(local.features), local.adapter.n_layers, len(local.ids))


def target_values(local: LocalModel, targets: Targets) -> Tensor:
    """What each target reads in the model's own forward pass [n]: pre-activations and logits."""
    record = local.record
    normed = local.adapter.final_norm().apply(record.resid_final, record.final_scale)
    logits = (normed[targets.positions] * targets.directions).sum(-1) + targets.direction_bias
    return torch.cat([logits, local.features.activation[targets.features]])


@torch.no_grad()
def edges_into(local: LocalModel, targets: Targets) -> EdgeBatch:
    """All edges into a batch of targets.

    Cost: for each layer below the highest target, about ``n * T * (4 d^2)`` multiplications for the
    attention's value and output maps, plus ``n * d`` for each writer.
    """
    sweep = _Sweep(local, targets)
    for layer in reversed(range(sweep.top + 1)):
        sweep.read_mlp_writers(layer)
        sweep.add_targets(layer)
        sweep.through_attention(layer)
    sweep.read_embeddings()
    return EdgeBatch(sweep.weights, sweep.biases)


@torch.no_grad()
def total_effects(local: LocalModel, targets: Targets, ctx: WorkContext) -> Tensor:
    """Total effect [n, n_features] of each active feature on each logit direction, all paths.

    The same sweep, except that a feature's own input is reached through it: at each layer the
    effect of its write is carried on to what it reads. This is the transpose of
    ``LocalModel.push(features_respond=True)``. Effects are per feature, so already times its
    activation; ``targets`` must hold logit directions only.
    """
    sweep = _Sweep(local, targets)
    features = local.features
    for layer in reversed(range(local.adapter.n_layers)):
        ctx.check()
        sweep.read_mlp_writers(layer)
        here = features.of_layer(layer)
        unit = sweep.weights[:, here] / features.activation[here]
        inputs = torch.zeros_like(sweep.rows)
        inputs.index_add_(
            1, features.position[here], unit.unsqueeze(-1) * features.encoder[here].unsqueeze(0)
        )
        sweep.add_mlp_input(layer, inputs)
        sweep.through_attention(layer)
    return sweep.weights[:, : len(features)]


def target_batches(local: LocalModel, features: Tensor, size: int) -> Sequence[Tensor]:
    """Split feature targets into batches of about ``size``, high layers and late positions first.

    Neighbours in this order stop at similar layers and positions, so a batch wastes little.
    """
    order = torch.argsort(
        local.features.layer[features] * len(local.ids) + local.features.position[features],
        descending=True,
        stable=True,
    )
    return torch.split(features[order], size)


class _Sweep:
    """The state of one sweep: gradient rows, and what has been read off so far."""

    def __init__(self, local: LocalModel, targets: Targets) -> None:
        self.local = local
        self.adapter = local.adapter
        self.record = local.record
        self.targets = targets
        self.sources = sources_of(local)
        n_logits, features = len(targets.directions), local.features
        self.target_layer = features.layer[targets.features]
        self.target_position = features.position[targets.features]
        last = [0, *targets.positions.tolist(), *self.target_position.tolist()]
        self.length = max(last) + 1
        """A target reads nothing later than its own position."""
        any_logit = n_logits > 0
        highest = int(self.target_layer.max()) if len(targets.features) else -1
        self.top = self.adapter.n_layers - 1 if any_logit else highest
        d = self.adapter.d_model
        self.rows = local.errors.new_zeros(len(targets), self.length, d)
        self.weights = local.errors.new_zeros(len(targets), len(self.sources))
        self.biases = local.errors.new_zeros(len(targets))
        self._parallel_rows = None if not self.adapter.parallel else torch.zeros_like(self.rows)
        if any_logit:
            norm = self.adapter.final_norm()
            scale = self.record.final_scale[targets.positions]
            self.rows[torch.arange(n_logits), targets.positions] = norm.pull(
                targets.directions, scale
            )
            self.biases[:n_logits] = targets.direction_bias
            if norm.bias is not None:
                self.biases[:n_logits] += targets.directions @ norm.bias

    def read_mlp_writers(self, layer: int) -> None:
        """Edges from what the MLP of ``layer`` writes: features, error, decoder bias, skip."""
        local, features, length = self.local, self.local.features, self.length
        here = features.of_layer(layer)
        positions = features.position[here]
        writes = features.decoder[here] * features.activation[here].unsqueeze(-1)
        counts = torch.bincount(positions, minlength=length).tolist()
        start = 0
        for position, count in enumerate(counts[:length]):
            if count:
                column = here.start + start
                self.weights[:, column : column + count] = (
                    self.rows[:, position] @ writes[start : start + count].T
                )
            start += count
        error = local.errors[layer, :length]
        columns = self.sources.errors(layer)
        self.weights[:, columns.start : columns.start + length] = torch.einsum(
            "ntd,td->nt", self.rows, error
        )
        transcoder = local.transcoders.get(layer)
        if transcoder is None:
            return
        replaced = local.replaced[layer, :length].to(self.rows.dtype)
        self.biases += torch.einsum("ntd,t,d->n", self.rows, replaced, transcoder.b_D)
        if transcoder.W_skip is not None:
            inputs = (self.rows @ transcoder.W_skip.T) * replaced.unsqueeze(-1)
            self.add_mlp_input(layer, inputs)

    def add_mlp_input(self, layer: int, gradient: Tensor) -> None:
        """Carry a gradient at the MLP's (normed) input [n, length, d] on to the residual stream."""
        norm = self.adapter.mlp_norm(layer)
        if norm.bias is not None:
            self.biases += torch.einsum("ntd,d->n", gradient, norm.bias)
        pulled = norm.pull(gradient, self.record.mlp_scale[layer, : self.length])
        if self._parallel_rows is None:
            self.rows = self.rows + pulled
        else:
            # A parallel MLP reads the stream before this layer's attention has written.
            self._parallel_rows = self._parallel_rows + pulled

    def add_targets(self, layer: int) -> None:
        """The rows of the feature targets that read at ``layer``."""
        which = torch.nonzero(self.target_layer == layer).squeeze(-1)
        if not len(which):
            return
        features = self.local.features
        chosen = self.targets.features[which]
        row = which + len(self.targets.directions)
        inputs = torch.zeros_like(self.rows)
        inputs[row, self.target_position[which]] = features.encoder[chosen]
        self.add_mlp_input(layer, inputs)
        self.biases[row] += features.encoder_bias[chosen]

    def through_attention(self, layer: int) -> None:
        """Carry the rows through the frozen attention of ``layer``."""
        length = self.length
        out = self.rows
        post = self.adapter.attention_post_norm(layer)
        if post is not None:
            out = post.pull(out, self.record.attention_post_scale[layer, :length])
        weights = self.adapter.value_output(layer)
        if weights.output_bias is not None:
            self.biases += torch.einsum("ntd,d->n", out, weights.output_bias)
        pattern = self.record.patterns[layer, :, :length, :length]
        values = weights.pull_to_values(out, pattern)
        if weights.value_bias is not None:
            self.biases += torch.einsum("ntd,d->n", values, weights.value_bias)
        inputs = values @ weights.value.T
        norm = self.adapter.attention_norm(layer)
        if norm.bias is not None:
            self.biases += torch.einsum("ntd,d->n", inputs, norm.bias)
        self.rows = self.rows + norm.pull(inputs, self.record.attention_scale[layer, :length])
        if self._parallel_rows is not None:
            self.rows = self.rows + self._parallel_rows
            self._parallel_rows = torch.zeros_like(self.rows)

    def read_embeddings(self) -> None:
        """Edges from the token embeddings (with learned positions, where the family has them)."""
        columns = self.sources.embeddings
        self.weights[:, columns.start : columns.start + self.length] = torch.einsum(
            "ntd,td->nt", self.rows, self.record.embedding[: self.length]
        )
