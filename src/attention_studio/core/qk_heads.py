"""Heads that decide where to look, one at a time: the model's own, or a Lorsa's.

With the denominators of the norms frozen, those that some families put on queries and keys too, a
head's query at a position and its key at another are linear in what the attention reads there:

    q_t = x_t @ M_Q(t) + c_Q(t),   k_j = x_j @ M_K(j) + c_K(j),   score = scale * q_t·k_j

The rotation by the position (RoPE, Su et al. 2021) is part of M and c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

import torch
from torch import Tensor

from attention_studio.core.qk_records import AttentionTraceError, HeadName
from attention_studio.core.replacement_model import LocalModel
from attention_studio.core.sites import Site

QKSide = Literal["query", "key"]


@dataclass(frozen=True)
class _Side:
    """What makes the queries (or the keys) of one head: ``weight`` [d, k], ``bias`` [k], and the
    ``gain`` [k] of its norm, or None."""

    weight: Tensor
    bias: Tensor
    gain: Optional[Tensor]


class QKHead:
    """One head on one prompt.

    Attributes:
        name: which.
        site: the attention whose input it reads.
        inputs: [T, d] that input, after the norm.
        score_scale: multiplies q·k; score_cap: cap on scores, or None.
    """

    def __init__(self, local: LocalModel, name: HeadName) -> None:
        """
        Raises:
            AttentionTraceError: the model has no such layer or head, or the layer no Lorsa.
        """
        self.name = name
        lorsas = local.dictionaries.lorsas
        if not 0 <= name.layer < local.adapter.n_layers:
            raise AttentionTraceError(
                f"There is no head {name}",
                f"the model's layers are 0 to {local.adapter.n_layers - 1}",
                "choose one of them",
            )
        if name.kind == "lorsa":
            if name.layer not in lorsas:
                raise AttentionTraceError(
                    f"There is no head {name}",
                    f"no Lorsa stands in for the attention of layer {name.layer}",
                    f"ask for the model's own head {name.layer}.{name.head}",
                )
            lorsa = lorsas[name.layer]
            self._check(lorsa.config.n_qk_heads)
            own = lorsa.query_key(slice(name.head, name.head + 1))
            gains = [None if gain is None else gain[0] for gain in (own.q_gain, own.k_gain)]
            weights = (own.W_Q[0], own.W_K[0], own.b_Q[0], own.b_K[0])
            rules = lorsa.config
            self._inv_freq, self._eps = lorsa.inv_freq, rules.qk_norm_eps
            self._rotary_dim, self._rotary_scaling = rules.rotary_dim, rules.rotary_scaling
            self._window = rules.window
            self.score_scale, self.score_cap = rules.score_scale, rules.score_cap
        else:
            self._check(local.adapter.n_heads)
            found, head = local.adapter.query_key(name.layer), name.head
            gains = [found.q_gain, found.k_gain]
            weights = (found.W_Q[head], found.W_K[head], found.b_Q[head], found.b_K[head])
            self._inv_freq, self._eps = found.inv_freq, found.eps
            self._rotary_dim, self._rotary_scaling = found.rotary_dim, found.rotary_scaling
            self._window = found.window
            self.score_scale, self.score_cap = found.score_scale, found.score_cap
        self._sides: dict[QKSide, _Side] = {
            "query": _Side(weights[0], weights[2], gains[0]),
            "key": _Side(weights[1], weights[3], gains[1]),
        }
        self.site = Site(name.layer, "attention")
        norm, scale = local.norm_at(self.site)
        self.inputs = norm.apply(local.record.resid_pre[name.layer], scale)

    def _check(self, n_heads: int) -> None:
        if not 0 <= self.name.head < n_heads:
            raise AttentionTraceError(
                f"There is no head {self.name}",
                f"the heads of that attention are 0 to {n_heads - 1}",
                "choose one of them",
            )

    def visible(self, query: int) -> range:
        """The positions that it sees from one."""
        first = 0 if self._window is None else max(0, query + 1 - self._window)
        return range(first, query + 1)

    def linear(self, side: QKSide, position: int) -> tuple[Tensor, Tensor]:
        """The frozen map at a position: M [d, k] and c [k]."""
        part = self._sides[side]
        weight, bias = part.weight, part.bias
        if part.gain is not None:
            raw = self.inputs[position] @ weight + bias
            factor = part.gain * torch.rsqrt(raw.square().mean() + self._eps)
            weight, bias = weight * factor, bias * factor
        return self._rotate(weight, position), self._rotate(bias, position)

    def scores(self, query: int) -> Tensor:
        """The scores of all that is visible from a position, before a cap."""
        weight, bias = self.linear("query", query)
        q = self.inputs[query] @ weight + bias
        keys = []
        for key in self.visible(query):
            weight, bias = self.linear("key", key)
            keys.append(self.inputs[key] @ weight + bias)
        return torch.stack(keys) @ q * self.score_scale

    def probabilities(self, scores: Tensor) -> Tensor:
        """The pattern that scores of all visible positions give."""
        if self.score_cap is not None:
            scores = torch.tanh(scores / self.score_cap) * self.score_cap
        return scores.softmax(-1)

    def _rotate(self, x: Tensor, position: int) -> Tensor:
        """Turn the first ``rotary_dim`` coordinates of x [..., k], in halves."""
        if self._inv_freq is None:
            return x
        angle = position * self._inv_freq
        cos = (angle.cos() * self._rotary_scaling).to(x.dtype)
        sin = (angle.sin() * self._rotary_scaling).to(x.dtype)
        half, width = self._rotary_dim // 2, self._rotary_dim
        first, second = x[..., :half], x[..., half:width]
        turned = (first * cos - second * sin, second * cos + first * sin, x[..., width:])
        return torch.cat(turned, dim=-1)
