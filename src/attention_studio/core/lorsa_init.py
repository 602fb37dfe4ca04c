"""Where the training of a Lorsa starts: at the model's own attention.

QK heads begin as copies of the model's, so that a Lorsa looks where the model looks from the first
step on. Each latent reads a direction of its head's values. A direction drawn from all of the
residual stream mostly misses the small space that a head moves, and its latent dies (He et al.
2025, *Attention Layers Add Into Low-Dimensional Residual Subspaces*, arXiv 2508.16929). They draw
in the space that the head's outputs really span on text, found by an SVD. Here directions are drawn
evenly in all of the head's value space, each scaled by how far it varies on text: on SmolLM2's
layer 12 that left less of the output unexplained than the whitened subspace did (an FVU of 0.449
against 0.482 after 60 steps), with 4.4% of the latents dead against 1.5%, and against 48 to 53% for
directions drawn from the whole stream.

With m what head h sees at a position, latent i of the head gets a unit vector g_i in the d_head
dimensions of its values u = m·W_V[h], and with s_i the deviation of u·g_i over text

    w_V,i = W_V[h]·g_i / s_i       so that every pre-activation starts with variance one, and
    w_O,i = γ·s_i·g_i·W_O[h]       what the head writes along that direction.

The g_i of a head are random orthogonal frames, each followed by its mirror image: after the ReLU a
frame and its mirror together carry all of u, so a Lorsa with room for every head's frame and
without sparsity *is* the attention block, with γ = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.linear_parts import QueryKeyWeights, ValueOutputWeights
from attention_studio.core.training_init import LayerStatistics

_SAMPLE_TOKENS = 4096


def lorsa_config(
    query_key: QueryKeyWeights,
    d_latent: int,
    activation: ActivationKind = "topk",
    k: int = 32,
    norm_aware: bool = False,
    n_qk_heads: Optional[int] = None,
) -> LorsaConfig:
    """The configuration of a Lorsa that attends by a model's rules.

    Args:
        query_key: the model's attention block.
        n_qk_heads: None: as many as the model has.
    """
    heads, d_model, width = query_key.W_Q.shape
    return LorsaConfig(
        d_model=d_model,
        d_latent=d_latent,
        n_qk_heads=n_qk_heads or heads,
        d_qk=width,
        activation=activation,
        k=k,
        norm_aware=norm_aware,
        rotary_dim=query_key.rotary_dim,
        rotary_scaling=query_key.rotary_scaling,
        qk_norm=query_key.q_gain is not None,
        qk_norm_eps=query_key.eps,
        score_scale=query_key.score_scale,
        score_cap=query_key.score_cap,
        window=query_key.window,
    )


@dataclass(frozen=True)
class AttentionBlock:
    """A model's attention block as far as a Lorsa's start depends on it.

    Attributes:
        query_key, value_output: its weights.
        output_gain: ``[d]``, of a norm between the block and the residual stream, or None.
    """

    query_key: QueryKeyWeights
    value_output: ValueOutputWeights
    output_gain: Optional[Tensor] = None

    def head_values(self, head: int) -> Tensor:
        """``[d, d_head]``, from the normed input to the values that query head ``head`` moves."""
        weights = self.value_output
        shared = head // (weights.n_heads // weights.n_kv_heads)
        return weights.value[:, shared * weights.d_head : (shared + 1) * weights.d_head].float()

    def head_output(self, head: int) -> Tensor:
        """``[d_head, d]``, from the mixed values of head ``head`` to the residual stream, up to
        the scale of a norm in between."""
        width = self.value_output.d_head
        output = self.value_output.output[head * width : (head + 1) * width].float()
        return output if self.output_gain is None else output * self.output_gain.float()


def initial_lorsa(
    config: LorsaConfig,
    block: AttentionBlock,
    statistics: LayerStatistics,
    inputs: Tensor,
    outputs: Tensor,
    kept: Tensor,
    init: Literal["zero", "response"],
    seed: int,
    layer: int,
    directions: Literal["head", "random"] = "head",
) -> Lorsa:
    """An unfolded Lorsa, ready to be trained.

    ``b_V`` starts every latent at the middle of what it sees, ``b_D`` is the outputs' centre.
    JumpReLU thresholds let each latent fire on the share k/s of the tokens. With fewer QK heads
    than the model has, they are copies of the heads whose values vary most; with more, heads are
    repeated. ``init`` says whether the decoder is zero or as above, with the γ that leaves the
    least error.

    Args:
        inputs, outputs: raw activations ``[B, T, d]`` of whole sequences that ``statistics`` are
            of (kept positions only).
        kept: bool ``[B, T]``, positions that count.
        seed, layer: decide the directions.
        directions: ``random`` draws w_V from the whole residual stream instead, as a transcoder's
            encoder is drawn; w_O is its image through the head.
    """
    lorsa = Lorsa(config).to(inputs.device)
    lorsa.input_scale.fill_(statistics.input_scale)
    lorsa.output_scale.fill_(statistics.output_scale)
    sequences = max(1, _SAMPLE_TOKENS // inputs.shape[1])
    x, kept = inputs[:sequences].float(), kept[:sequences]
    y = outputs[:sequences][kept].float()
    heads = _heads(config.n_qk_heads, block, x, kept)
    _copy_queries_and_keys(lorsa, block.query_key, heads)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
    seen = lorsa.mixed(x, lorsa.pattern(x)).transpose(1, 2)[kept]
    for group, head in enumerate(heads):
        rows = slice(group * config.group_size, (group + 1) * config.group_size)
        draw = _head_directions if directions == "head" else _random_directions
        reads, writes = draw(block, head, seen[:, group], config.group_size, generator)
        lorsa.W_V[rows] = reads / statistics.input_scale
        lorsa.W_O[rows] = writes * statistics.output_scale
        lorsa.b_V[rows] = -(reads @ seen[:, group].mean(0))
    lorsa.b_D.copy_(statistics.output_centre * statistics.output_scale)
    pre = lorsa.pre_activations(x)[kept]
    if config.activation == "jumprelu":
        assert lorsa.threshold is not None  # JumpReLU is built with one
        rank = max(1, round(min(config.k / config.d_latent, 1.0) * pre.shape[0]))
        lorsa.threshold.copy_(torch.topk(pre, rank, dim=0).values[-1].clamp_min(0.0))
    if init == "zero":
        lorsa.W_O.zero_()
    else:
        _scale_response(lorsa, pre, y * statistics.output_scale)
    return lorsa


def _heads(wanted: int, block: AttentionBlock, x: Tensor, kept: Tensor) -> list[int]:
    """The model's head that each QK head is a copy of, ascending."""
    n = block.query_key.W_Q.shape[0]
    if wanted >= n:
        return [group * n // wanted for group in range(wanted)]
    probe = Lorsa(lorsa_config(block.query_key, n, k=1)).to(x.device)
    _copy_queries_and_keys(probe, block.query_key, list(range(n)))
    seen = probe.mixed(x, probe.pattern(x)).transpose(1, 2)[kept]
    written = [
        (seen[:, head] @ block.head_values(head) @ block.head_output(head)).var(0).sum()
        for head in range(n)
    ]
    return sorted(torch.stack(written).topk(wanted).indices.tolist())


def _copy_queries_and_keys(lorsa: Lorsa, weights: QueryKeyWeights, heads: list[int]) -> None:
    # The Lorsa reads scaled inputs, and its scores are to be those of the raw ones.
    lorsa.W_Q.copy_(weights.W_Q[heads].float() / lorsa.input_scale)
    lorsa.W_K.copy_(weights.W_K[heads].float() / lorsa.input_scale)
    for name in ("b_Q", "b_K"):
        getattr(lorsa, name).copy_(getattr(weights, name)[heads])
    for name in ("q_gain", "k_gain", "inv_freq"):
        if getattr(weights, name) is not None:
            getattr(lorsa, name).copy_(getattr(weights, name))


def _head_directions(
    block: AttentionBlock, head: int, seen: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What ``count`` latents of a head read and write, ``[count, d]`` each, on raw activations."""
    values = block.head_values(head)
    g = _frames(count, values.shape[1], generator).to(seen.device)
    along = (seen @ values) @ g.t()
    deviation = along.std(0, correction=0).clamp_min(1e-12).unsqueeze(1)
    return g @ values.t() / deviation, g @ block.head_output(head) * deviation


def _random_directions(
    block: AttentionBlock, head: int, seen: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    reads = torch.randn(count, seen.shape[1], generator=generator).to(seen.device)
    reads /= torch.linalg.vector_norm(reads, dim=1, keepdim=True)
    writes = reads @ block.head_values(head) @ block.head_output(head)
    return reads, writes


def _frames(count: int, width: int, generator: torch.Generator) -> Tensor:
    """``count`` unit vectors of ``width``: random orthogonal frames, each with its mirror image."""
    frames: list[Tensor] = []
    while sum(len(frame) for frame in frames) < count:
        frame = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        frames += [frame, -frame]
    return torch.cat(frames)[:count]


def _scale_response(lorsa: Lorsa, pre: Tensor, y: Tensor) -> None:
    response = lorsa.activate(pre) @ lorsa.W_O
    mean = response.mean(0)
    centred = response - mean
    gamma = (centred * (y - y.mean(0))).sum() / centred.square().sum().clamp_min(1e-30)
    lorsa.W_O.mul_(gamma)
    lorsa.b_D.sub_(gamma * mean)
