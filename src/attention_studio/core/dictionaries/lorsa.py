"""Lorsa, low-rank sparse attention: a sparse, readable stand-in for one attention block.

Many rank-one OV heads, a few full-rank QK heads that they share (He et al. 2025, *Towards
Understanding the Nature of Attention with Low-Rank Sparse Decomposition*, arXiv 2504.20938). It
reads the attention's input x (after the norm before the attention) and predicts what the block
adds to the residual stream:

    A_g = softmax_causal(q·kᵀ·scale)      one pattern per QK head g, by the model's own rules
    m_g = A_g·x                           what head g sees at every position
    z̃_i = m_g(i)·w_V,i + b_V,i            the rows of A sum to 1, so a bias goes through unchanged
    ŷ   = σ(z̃)·W_O + b_D

Given its patterns, a Lorsa is a transcoder whose latents read one of the m_g each.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from attention_studio.core.dictionaries.lorsa_config import LorsaConfig
from attention_studio.core.dictionaries.sparse_dictionary import SparseDictionary, fixed
from attention_studio.core.dictionaries.transcoder import SparseLatents, bag_offsets, bag_rows

__all__ = ["Lorsa", "LorsaConfig", "QueryKeyTensors"]


class QueryKeyTensors(NamedTuple):
    """What decides where n QK heads look: ``W_Q, W_K [n, d, d_qk]``, ``b_Q, b_K [n, d_qk]``, and
    the gains ``[n, d_qk]`` of their norms, or None without norms."""

    W_Q: Tensor
    W_K: Tensor
    b_Q: Tensor  # noqa: N815
    b_K: Tensor  # noqa: N815
    q_gain: Optional[Tensor]
    k_gain: Optional[Tensor]


class Lorsa(SparseDictionary):
    """A low-rank sparse attention block.

    Latent i (an OV head of rank one) looks where QK head ``i // config.group_size`` looks.

    Attributes:
        W_Q, W_K: ``[g, d, d_qk]``; b_Q, b_K: ``[g, d_qk]``.
        q_gain, k_gain: ``[g, d_qk]`` or None, gains of the norms of queries and keys.
        inv_freq: ``[rotary_dim / 2]`` or None, radians per position.
        W_V: ``[s, d]``, what a latent reads; b_V: ``[s]``.
        W_O: ``[s, d]``, what a latent writes; b_D: ``[d]``.
        threshold, input_scale, output_scale: as in ``SparseDictionary``.

    A new Lorsa has zero weights and gains of one; ``core.lorsa_init`` gives it a start.
    """

    config: LorsaConfig
    q_gain: Optional[nn.Parameter]
    k_gain: Optional[nn.Parameter]
    inv_freq: Optional[Tensor]

    def __init__(self, config: LorsaConfig) -> None:
        super().__init__()
        self.config = config
        s, d = config.d_latent, config.d_model
        heads, width = config.n_qk_heads, config.d_qk
        self.W_Q = fixed(torch.zeros(heads, d, width))
        self.W_K = fixed(torch.zeros(heads, d, width))
        self.b_Q = fixed(torch.zeros(heads, width))
        self.b_K = fixed(torch.zeros(heads, width))
        self.q_gain = fixed(torch.ones(heads, width)) if config.qk_norm else None
        self.k_gain = fixed(torch.ones(heads, width)) if config.qk_norm else None
        self.W_V = fixed(torch.zeros(s, d))
        self.b_V = fixed(torch.zeros(s))
        self.W_O = fixed(torch.zeros(s, d))
        self.b_D = fixed(torch.zeros(d))
        if config.rotary_dim:
            self.register_buffer("inv_freq", torch.zeros(config.rotary_dim // 2))
        else:
            self.inv_freq = None
        self._start_threshold_and_scales()

    @property
    def decoder(self) -> Tensor:
        """``W_O``."""
        return self.W_O

    # --- where it looks --------------------------------------------------------------------

    def query_key(self, heads: slice = slice(None)) -> QueryKeyTensors:
        """What decides where some of the QK heads look, as views."""
        found = QueryKeyTensors(
            self.W_Q[heads], self.W_K[heads], self.b_Q[heads], self.b_K[heads], None, None
        )
        if self.q_gain is None or self.k_gain is None:
            return found
        return found._replace(q_gain=self.q_gain[heads], k_gain=self.k_gain[heads])

    def queries_and_keys(
        self, x: Tensor, weights: Optional[QueryKeyTensors] = None
    ) -> tuple[Tensor, Tensor]:
        """``x [..., T, d]`` → queries and keys ``[..., g, T, d_qk]``, normed and rotated.

        ``weights`` stand in for its own: some of the heads, or tensors that autograd follows.
        """
        w = self.query_key() if weights is None else weights
        x = x * self.input_scale
        q, k = _project(x, w.W_Q, w.b_Q), _project(x, w.W_K, w.b_K)
        if w.q_gain is not None and w.k_gain is not None:
            q = self._norm(q) * w.q_gain.unsqueeze(-2)
            k = self._norm(k) * w.k_gain.unsqueeze(-2)
        if self.inv_freq is not None:
            cos, sin = self._rotation(x.shape[-2], self.inv_freq)
            q, k = self._rotate(q, cos, sin), self._rotate(k, cos, sin)
        return q, k

    def pattern(self, x: Tensor, weights: Optional[QueryKeyTensors] = None) -> Tensor:
        """``x [..., T, d]``, the whole sequence from its first position → ``A [..., g, T, T]``.

        ``A[g, t, j]`` is the share of position j in what head g sees at t; each row sums to 1.
        ``weights`` as in ``queries_and_keys``.
        """
        q, k = self.queries_and_keys(x, weights)
        scores = (q @ k.transpose(-1, -2)) * self.config.score_scale
        cap = self.config.score_cap
        if cap is not None:
            scores = torch.tanh(scores / cap) * cap
        return scores.masked_fill(self._hidden(x.shape[-2], x.device), -torch.inf).softmax(-1)

    def mixed(self, x: Tensor, pattern: Tensor) -> Tensor:
        """What each QK head sees: ``A_g @ x``, raw as ``x`` is, ``[..., g, T, d]``."""
        seen: Tensor = (pattern.flatten(-3, -2) @ x).view(*pattern.shape[:-1], x.shape[-1])
        return seen

    def z_pattern(self, x: Tensor, latent: int, pattern: Tensor) -> Tensor:
        """Where a latent's pre-activation comes from, for one sequence ``x [T, d]``.

        Args:
            latent: which one.
            pattern: ``[g, T, T]``, of the same sequence.

        Returns:
            ``P[t, j] = A[t, j]·(x_j·w_V + b_V)``, ``[T, T]``; row t sums to the latent's
            pre-activation at t.
        """
        value = (x * self.input_scale) @ self.W_V[latent] + self.b_V[latent]
        return pattern[latent // self.config.group_size] * value

    # --- what it reads and writes ------------------------------------------------------------

    def values(self, x: Tensor) -> Tensor:
        """``x [..., T, d]`` → ``x·w_V + b_V`` [..., T, s], what latents find at each position."""
        found: Tensor = (x * self.input_scale) @ self.W_V.t() + self.b_V
        return found

    def pre_activations(
        self, x: Tensor, pattern: Optional[Tensor] = None, values: Optional[Tensor] = None
    ) -> Tensor:
        """``x [..., T, d]`` → ``z̃ [..., T, s]``. ``pattern`` and ``values`` save working them out
        again."""
        if pattern is None:
            pattern = self.pattern(x)
        groups, heads = self.config.group_size, self.config.n_qk_heads
        # x·W_V first: s numbers per position to be mixed instead of g·d, and s/g < d in most.
        if values is None:
            values = self.values(x)
        values = values.view(*values.shape[:-1], heads, groups).transpose(-2, -3)
        mixed: Tensor = (pattern @ values).transpose(-2, -3).flatten(-2)
        return mixed

    def encode(self, x: Tensor, pattern: Optional[Tensor] = None) -> Tensor:
        """``x [..., T, d]`` → activations ``z [..., T, s]``."""
        return self.activate(self.pre_activations(x, pattern))

    def encode_sparse(self, x: Tensor, pattern: Optional[Tensor] = None) -> SparseLatents:
        """The active latents of one sequence ``x [T, d]``."""
        return SparseLatents.of(self.encode(x, pattern))

    def decode_sparse(self, latents: SparseLatents, n: int) -> Tensor:
        """As ``decode``, from the active latents of ``n`` tokens: only their rows are read."""
        rows = bag_rows(self.W_O, latents.latent, bag_offsets(latents.token, n), latents.value)
        return (rows + self.b_D) / self.output_scale

    def decode(self, z: Tensor) -> Tensor:
        """Activations ``z [..., T, s]`` → prediction ``[..., T, d]``."""
        return (z @ self.W_O + self.b_D) / self.output_scale

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., T, d]`` → prediction of the attention's output, ``[..., T, d]``."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def fold(self) -> None:
        """Absorb the training scales into the weights.

        With ``x·a`` and ``y·c`` seen in training: ``W_Q, W_K, W_V ← a·W``, ``W_O ← W_O/c``,
        ``b_D ← b_D/c``. Scores and pre-activations stay what they were, so all biases before them
        and the thresholds stay right as they are. Folding twice changes nothing.
        """
        for weight in (self.W_Q, self.W_K, self.W_V):
            weight.mul_(self.input_scale)
        self._fold_outputs()

    # --- parts -------------------------------------------------------------------------------

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config.qk_norm_eps)

    def _rotation(self, length: int, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine ``[T, rotary_dim / 2]`` (Su et al. 2021, arXiv 2104.09864)."""
        position = torch.arange(length, device=inv_freq.device, dtype=inv_freq.dtype)
        angle = position.unsqueeze(1) * inv_freq
        scaling = self.config.rotary_scaling
        return angle.cos() * scaling, angle.sin() * scaling

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        width = self.config.rotary_dim
        first, second = x[..., : width // 2], x[..., width // 2 : width]
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        turned = (first * cos - second * sin, second * cos + first * sin, x[..., width:])
        return torch.cat(turned, dim=-1)

    def _hidden(self, length: int, device: torch.device) -> Tensor:
        """True where a query (row) does not see a key (column)."""
        position = torch.arange(length, device=device)
        distance = position.unsqueeze(1) - position
        hidden = distance < 0
        if self.config.window is not None:
            hidden = hidden | (distance >= self.config.window)
        return hidden


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x [..., T, d]`` through ``weight [g, d, k]``, ``bias [g, k]`` → ``[..., g, T, k]``."""
    heads, d, width = weight.shape
    # One product for all heads: several times faster than one for each head and sequence.
    flat = x @ weight.transpose(0, 1).reshape(d, heads * width) + bias.flatten()
    return flat.view(*x.shape[:-1], heads, width).transpose(-2, -3)
