"""What a training run will cost, before it is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from attention_studio.core.clt_estimate import estimate_clt
from attention_studio.core.model_records import ModelInfo
from attention_studio.core.training_config import TrainConfig

_FLOAT = 4
_LOGITS_BYTES = 3 * (1 << 26) * _FLOAT  # original, spliced and a softmax between (see evaluation)
# Shares of a processor's peak that were measured for SmolLM2 on two cores.
_SPARSE_STEP_OVERHEAD = 1.7
_DENSE_STEP_OVERHEAD = 1.2
_FORWARD_EFFICIENCY = 0.7
_BFLOAT16_GAIN = 2.0
# Adam moves 28 bytes for every number; at 15 GB/s and 171 GFLOP/s that is as long as so many
# operations. Both rates are those of the processor above.
_ADAM_OPERATIONS = 320.0


@dataclass(frozen=True)
class TrainEstimate:
    """Cost of a run.

    Attributes:
        parameters: of all dictionaries together.
        memory_bytes: main memory at the peak, beyond the loaded model, with everything in memory
            that could be on disk.
        block_bytes: the part of it that harvested activations take, proportional to
            ``block_tokens``; may be on disk.
        decoder_bytes: the part of it that a cross-layer transcoder's decoders and their moments
            take; may be on disk.
        disk_bytes: at the peak, while one checkpoint replaces another.
        seconds: None if the machine's speed was not given.
    """

    parameters: int
    memory_bytes: int
    block_bytes: int
    decoder_bytes: int
    disk_bytes: int
    seconds: Optional[float]


def estimate_training(
    info: ModelInfo,
    config: TrainConfig,
    flops_per_second: Optional[float] = None,
    bfloat16_harvest: bool = True,
) -> TrainEstimate:
    """Estimate a run.

    Args:
        info: the model.
        config: the settings.
        flops_per_second: what the machine does in float32 matrix products.
        bfloat16_harvest: whether the model is run in bfloat16 where the setting is ``auto``.
    """
    d, batch = info.d_model, config.batch_tokens
    half = bfloat16_harvest and config.harvest_dtype != "float32"
    number = 2 if half else _FLOAT
    # Inputs and outputs of two blocks: one in use, one being filled.
    blocks = 2 * 2 * len(config.sites) * config.block_tokens * d * number
    dense = config.activation in ("relu", "jumprelu")
    trained, scratch, decoders, parameters = 0, 0, 0, 0
    if config.layers and config.mlp == "transcoder":
        one = sum(_size(shape) for shape in config.transcoder(d).tensor_shapes().values())
        parameters += one * len(config.layers)
        trained += 3 * one * len(config.layers) * _FLOAT
        scratch += _step_floats(config, one, d, config.d_latent, 1, dense) * _FLOAT
    elif config.layers:
        clt = config.clt(d)
        widest = max(config.k, config.k_start or config.k)
        auxk = config.auxk_coefficient > 0
        shape = (clt, batch, config.chunk_tokens)
        everything = estimate_clt(*shape, "memory", widest, auxk)
        without = estimate_clt(*shape, "disk", widest, auxk)
        trained += everything.resident
        decoders = everything.resident - without.resident
        parameters += sum(
            _size(extents)
            for i in range(len(clt.layers))
            for extents in clt.tensor_shapes(i).values()
        )
    if config.attention_layers:
        heads = config.qk_heads or info.n_heads
        # Encoder and decoder rows, queries and keys, and biases.
        one = config.attention_latents * (2 * d + 1) + 2 * heads * (d + 1) * info.d_head + d
        parameters += one * len(config.attention_layers)
        trained += 3 * one * len(config.attention_layers) * _FLOAT
        scratch += _step_floats(config, one, d, config.attention_latents, heads, dense) * _FLOAT
    forward = config.harvest_batch * config.seq_len * d * 2 * len(config.sites) * number
    memory = trained + scratch + blocks + forward
    if half and info.dtype == "float32":
        # The copy that is run ends with the last layer that is read.
        copied = info.vocab_size * d + (config.sites[-1].layer + 1) * _layer_parameters(info)
        memory += min(copied, info.n_parameters) * 2
    if config.downstream_tokens:
        memory += _LOGITS_BYTES
    # A checkpoint has weights and two moments; the old one goes when the new one is complete.
    disk = 2 * 3 * parameters * _FLOAT
    seconds = None
    if flops_per_second:
        seconds = _operations(info, config, dense, half) / flops_per_second
    return TrainEstimate(parameters, memory, blocks, decoders, disk, seconds)


def _step_floats(
    config: TrainConfig, parameters: int, d: int, latents: int, groups: int, dense: bool
) -> int:
    """Numbers in the working memory of a step: gradients, inputs of each group of latents, and
    activations, those of dead latents included, should all of them die."""
    batch = config.batch_tokens
    rows = 2 * batch if dense else config.chunk_tokens
    auxiliary = 2 * batch * latents if config.auxk_coefficient else 0
    return parameters + rows * latents + (groups + 1) * batch * d + auxiliary


def measure_flops() -> float:
    """Floating-point operations per second of float32 matrix products, by a few of them (about
    50 ms). For estimates only: no setting is ever chosen by it."""
    import time  # these two are wanted nowhere else in this torch-free module

    import torch

    a = torch.ones(1024, 1024)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    return float(2 * 1024**3 / best)


def _operations(info: ModelInfo, config: TrainConfig, dense: bool, half: bool) -> float:
    """Float32 operations of a run, or what takes as long."""
    d = info.d_model
    last = config.sites[-1].layer
    per_latent = 5 * 2 * d * _DENSE_STEP_OVERHEAD if dense else 2 * d * _SPARSE_STEP_OVERHEAD
    mlps, attentions = len(config.layers), len(config.attention_layers)
    step = mlps * config.d_latent * per_latent + attentions * config.attention_latents * per_latent
    if config.mlp == "clt":
        # Adam goes over every decoder once in a step; it is bound by memory, here counted as
        # operations that take as long.
        pairs = mlps * (mlps + 1) // 2
        step += pairs * config.d_latent * d * _ADAM_OPERATIONS / config.batch_tokens
    heads = config.qk_heads or info.n_heads
    mixing = 6 * heads * (config.seq_len * d + 2 * d * info.d_head)
    step += attentions * mixing
    read = mlps * 2 * d * config.d_latent + attentions * 2 * d * config.attention_latents
    forward = 2 * _layer_parameters(info) * (last + 1) / _FORWARD_EFFICIENCY
    harvest = forward / (_BFLOAT16_GAIN if half else 1.0)
    whole = forward * info.n_layers / (last + 1)
    whole += 2 * d * info.vocab_size / _FORWARD_EFFICIENCY
    evaluations = config.total_steps // config.evaluation_interval + 1
    measured = config.heldout_tokens * (harvest + read)
    measured += config.downstream_tokens * whole * (len(config.sites) + 2)
    zeros = config.downstream_tokens * whole * (len(config.sites) + 1)
    return config.tokens * (harvest + step) + evaluations * measured + zeros


def _layer_parameters(info: ModelInfo) -> int:
    """Weights of a layer's products, with a gated MLP."""
    attention = 2 * info.d_model * info.d_head * (info.n_heads + info.n_kv_heads)
    return attention + 3 * info.d_model * info.d_mlp


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
