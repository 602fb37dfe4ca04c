"""What a training run will cost, before it is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from attention_studio.core.model_records import ModelInfo
from attention_studio.core.training_config import TrainConfig

_FLOAT = 4
_LOGITS_BYTES = 3 * (1 << 26) * _FLOAT  # original, spliced and a softmax between (see evaluation)
# Shares of a processor's peak that were measured for SmolLM2 on two cores.
_SPARSE_STEP_OVERHEAD = 1.7
_DENSE_STEP_OVERHEAD = 1.2
_FORWARD_EFFICIENCY = 0.7
_BFLOAT16_GAIN = 2.0


@dataclass(frozen=True)
class TrainEstimate:
    """Cost of a run.

    Attributes:
        parameters: of all dictionaries together.
        memory_bytes: main memory at the peak, beyond the loaded model.
        block_bytes: the part of it that is proportional to ``block_tokens``.
        disk_bytes: at the peak, while one checkpoint replaces another.
        seconds: None if the machine's speed was not given.
    """

    parameters: int
    memory_bytes: int
    block_bytes: int
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
    shapes = config.transcoder(info.d_model).tensor_shapes().values()
    one = sum(_size(shape) for shape in shapes)
    layers = len(config.layers)
    parameters = one * layers
    half = bfloat16_harvest and config.harvest_dtype != "float32"
    number = 2 if half else _FLOAT
    # Inputs and outputs of two blocks: one in use, one being filled.
    blocks = 2 * 2 * layers * config.block_tokens * info.d_model * number
    dense = config.activation in ("relu", "jumprelu")
    rows = 2 * config.batch_tokens if dense else config.chunk_tokens
    scratch = one + rows * config.d_latent + 2 * config.batch_tokens * info.d_model
    # Dead latents' auxiliary activations and gradients, should all of them die.
    scratch += 2 * config.batch_tokens * config.d_latent if config.auxk_coefficient else 0
    forward = config.harvest_batch * config.seq_len * info.d_model * 2 * layers * number
    memory = (3 * parameters + scratch) * _FLOAT + blocks + forward
    if half and info.dtype == "float32":
        memory += info.n_parameters * 2
    if config.downstream_tokens:
        memory += _LOGITS_BYTES
    # A checkpoint has weights and two moments; the old one goes when the new one is complete.
    disk = 2 * 3 * parameters * _FLOAT
    seconds = None
    if flops_per_second:
        seconds = _operations(info, config, dense, half) / flops_per_second
    return TrainEstimate(parameters, memory, blocks, disk, seconds)


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
    d, s, layers = info.d_model, config.d_latent, len(config.layers)
    step = 5 * 2 * d * s * _DENSE_STEP_OVERHEAD if dense else 2 * d * s * _SPARSE_STEP_OVERHEAD
    attention = 2 * d * info.d_head * (info.n_heads + info.n_kv_heads)
    forward = 2 * (attention + 3 * d * info.d_mlp) * (config.layers[-1] + 1) / _FORWARD_EFFICIENCY
    harvest = forward / (_BFLOAT16_GAIN if half else 1.0)
    whole = forward * info.n_layers / (config.layers[-1] + 1)
    whole += 2 * d * info.vocab_size / _FORWARD_EFFICIENCY
    evaluations = config.total_steps // config.evaluation_interval + 1
    measured = config.heldout_tokens * (harvest + layers * 2 * d * s)
    measured += config.downstream_tokens * whole * (layers + 2)
    zeros = config.downstream_tokens * whole * (layers + 1)
    return config.tokens * (harvest + layers * step) + evaluations * measured + zeros


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
