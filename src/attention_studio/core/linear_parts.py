"""The parts of an attention block that are linear once what is not linear has been frozen.

``core.model_adapter`` fills these records with the weights of a model, in one layout for every
family. Names as in the papers on attention heads: the QK circuit says where a head looks, the OV
circuit what it moves (Elhage et al. 2021, *A Mathematical Framework for Transformer Circuits*).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrozenNorm:
    """An RMSNorm or LayerNorm whose denominator is given, which makes it an affine map.

    ``gain`` [d]; ``bias`` [d] or None; ``centred`` is True for LayerNorm, which takes the mean out.
    """

    gain: Tensor
    bias: Optional[Tensor]
    centred: bool
    eps: float

    def scale(self, x: Tensor) -> Tensor:
        """The inverse denominator for inputs ``x`` [..., d], shape [...]."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return torch.rsqrt(x.pow(2).mean(-1) + self.eps)

    def apply(self, x: Tensor, scale: Tensor) -> Tensor:
        """The norm's output [..., d] for ``x`` [..., d] under the inverse denominator [...]."""
        y = self.push(x, scale)
        return y if self.bias is None else y + self.bias

    def push(self, x: Tensor, scale: Tensor) -> Tensor:
        """The linear part of ``apply``: what a change ``x`` of the input does to the output."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return x * scale.unsqueeze(-1) * self.gain

    def pull(self, gradient: Tensor, scale: Tensor) -> Tensor:
        """The transpose of ``push``: from a gradient at the output to one at the input."""
        gradient = gradient * self.gain
        if self.centred:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        return gradient * scale.unsqueeze(-1)


@dataclass(frozen=True)
class ValueOutputWeights:
    """The linear part of an attention block once its pattern is frozen.

    ``value`` [d, n_kv * d_head] and ``value_bias`` take the normed input to the values; ``output``
    [n_heads * d_head, d] and ``output_bias`` take the mixed values to the block's output. Query
    head h uses key/value head ``h // (n_heads / n_kv)``.
    """

    value: Tensor
    value_bias: Optional[Tensor]
    output: Tensor
    output_bias: Optional[Tensor]
    n_heads: int
    n_kv_heads: int

    @property
    def d_head(self) -> int:
        """Width of one head's value."""
        return self.output.shape[0] // self.n_heads

    def push(self, x: Tensor, pattern: Tensor) -> Tensor:
        """Output change [..., T, d] for a change ``x`` [..., T, d] of the normed input.

        ``pattern`` [n_heads, T, T] is held fixed; biases play no part in a change.
        """
        return self._mix(x @ self.value, pattern)

    def apply(self, x: Tensor, pattern: Tensor) -> Tensor:
        """The block's output [..., T, d] for the normed input ``x`` [..., T, d]."""
        values = x @ self.value
        if self.value_bias is not None:
            values = values + self.value_bias
        mixed = self._mix(values, pattern)
        return mixed if self.output_bias is None else mixed + self.output_bias

    def _mix(self, values: Tensor, pattern: Tensor) -> Tensor:
        heads = values.view(*values.shape[:-1], self.n_kv_heads, self.d_head)
        heads = heads.repeat_interleave(self.n_heads // self.n_kv_heads, dim=-2)
        mixed = torch.einsum("hts,...shd->...thd", pattern, heads)
        return mixed.flatten(-2) @ self.output


@dataclass(frozen=True)
class QueryKeyWeights:
    """How an attention block decides where each of its heads looks.

    Everything reads the normed input x [T, d]; one entry per query head h, a key head that several
    query heads share is repeated for each of them:

        q = x @ W_Q[h] + b_Q[h],   k = x @ W_K[h] + b_K[h]
        q, k ← RMSNorm over d_head with the gains, where there are gains
        q, k ← their first ``rotary_dim`` coordinates rotated by the position (RoPE, Su et al. 2021)
        score = cap·tanh(q·k·score_scale / cap)

    and the softmax runs over the keys at most ``window - 1`` positions back.

    Attributes:
        W_Q, W_K: ``[n_heads, d, d_head]``.
        b_Q, b_K: ``[n_heads, d_head]``, zero where the model has none.
        q_gain, k_gain: ``[d_head]`` or None. The factor as it acts, so Gemma's is 1 + weight.
        eps: of both norms; 0 without norms.
        rotary_dim: even; 0 where positions are part of x (GPT-2).
        inv_freq: ``[rotary_dim / 2]``, radians per position, float32; None without rotation.
        rotary_scaling: multiplies cosine and sine (YaRN); 1 for most.
        score_scale: multiplies q·k.
        score_cap: Gemma 2's cap on scores, or None.
        window: length of the sliding window, the query's own position included, or None.
    """

    W_Q: Tensor
    W_K: Tensor
    b_Q: Tensor  # noqa: N815
    b_K: Tensor  # noqa: N815
    q_gain: Optional[Tensor]
    k_gain: Optional[Tensor]
    eps: float
    rotary_dim: int
    inv_freq: Optional[Tensor]
    rotary_scaling: float
    score_scale: float
    score_cap: Optional[float]
    window: Optional[int]
