"""Whether a model fits, judged before anything is loaded, and where it should go."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch

from attention_studio.core.host_memory import GIB, available_ram
from attention_studio.core.model_records import MemoryEstimate, ModelConfig
from attention_studio.utils.config import Settings
from attention_studio.utils.errors import StudioError

SPREAD = "spread"
ESTIMATE_TOKENS = 512

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# float32 first: attribution adds up exactly only there. float16 overflows in some families (Gemma)
# and is slow on CPUs, so it is never chosen unasked.
_AUTO_DTYPES = ("float32", "bfloat16")

_HOST_OVERHEAD = 64 << 20
_GPU_OVERHEAD = 512 << 20  # CUDA context, kernels and library workspaces
# Layers are placed whole, so a model spread over devices cannot use the last bit of each.
_SPREAD_SHARE = 0.9


class DeviceError(StudioError):
    """The device or dtype asked for does not exist here."""


class ModelMemoryError(StudioError):
    """The model would need more memory than there is. ``estimate`` has the numbers."""

    def __init__(
        self, what: str, why: str = "", todo: str = "", estimate: Optional[MemoryEstimate] = None
    ) -> None:
        super().__init__(what, why, todo)
        self.estimate = estimate


@dataclass(frozen=True)
class ModelShape:
    """The numbers that decide how much memory a model needs."""

    n_parameters: int
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    vocab_size: int
    context_length: int


def shape_of(config: Any, n_parameters: int) -> ModelShape:
    """The shape of a transformers configuration with ``n_parameters`` parameters."""
    d_model = int(config.hidden_size)
    d_mlp = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return ModelShape(
        n_parameters=n_parameters,
        n_layers=int(config.num_hidden_layers),
        d_model=d_model,
        d_mlp=int(d_mlp or 4 * d_model),
        n_heads=int(config.num_attention_heads),
        vocab_size=int(config.vocab_size),
        context_length=int(config.max_position_embeddings),
    )


def dtype_of(name: str) -> torch.dtype:
    """The torch type of ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        DeviceError: another name.
    """
    if name not in DTYPES:
        raise DeviceError(f"There is no dtype '{name}'", "", f"Choose auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def device_budgets(settings: Settings) -> dict[str, int]:
    """Bytes that may still be used on each device, the fastest device first.

    ``MAX_VRAM_GB`` and ``max_ram_gb`` limit what the studio itself uses, on top of what it has.
    """
    budgets: dict[str, int] = {}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free = int(torch.cuda.mem_get_info(index)[0])
            # What torch has cached but does not use can be used again.
            free += torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
            if settings.max_vram_gb is not None:
                left = int(settings.max_vram_gb * GIB) - torch.cuda.memory_allocated(index)
                free = min(free, left)
            budgets[f"cuda:{index}"] = max(0, free)
    if torch.backends.mps.is_available():
        left = int(torch.mps.recommended_max_memory()) - int(torch.mps.current_allocated_memory())
        if settings.max_vram_gb is not None:
            used = int(torch.mps.current_allocated_memory())
            left = min(left, int(settings.max_vram_gb * GIB) - used)
        # One memory for both: what the system lacks, the GPU lacks.
        budgets["mps"] = max(0, min(left, available_ram(None)))
    budgets["cpu"] = available_ram(settings.max_ram_gb)
    return budgets


def working_bytes(shape: ModelShape, n_tokens: int, value_bytes: int) -> int:
    """Bytes that one forward pass over ``n_tokens`` tokens needs beside the weights.

    Counts what is alive at the widest point of a layer (residual stream and norms, the MLP's inner
    values, attention scores and pattern) and the logits in the model's type and in float32.
    """
    residual = 8 * n_tokens * shape.d_model * value_bytes
    mlp = 3 * n_tokens * shape.d_mlp * value_bytes
    attention = 2 * shape.n_heads * n_tokens * n_tokens * value_bytes
    logits = n_tokens * shape.vocab_size * (value_bytes + 4)
    return residual + mlp + attention + logits


def estimate_memory(
    shape: ModelShape, config: ModelConfig, budgets: Mapping[str, int]
) -> MemoryEstimate:
    """Judge ``config``; where it says ``auto``, choose.

    Devices are tried in the order of ``budgets``, each with float32 and then bfloat16; if no single
    device has room, all GPUs and main memory together.

    Raises:
        DeviceError: the device or dtype does not exist here.
    """
    devices = _devices(config.device, budgets)
    dtypes = _AUTO_DTYPES if config.dtype == "auto" else (config.dtype,)
    judged = [_judge(shape, device, dtype, budgets) for device in devices for dtype in dtypes]
    chosen = next((estimate for estimate in judged if estimate.fits), None)
    if chosen is not None:
        return chosen
    # Nothing that was asked for fits: report the thriftiest of it, and what would fit instead.
    closest = min(judged, key=lambda estimate: estimate.total - estimate.available)
    return replace(closest, cheaper=_cheaper(shape, config, budgets))


def refuse(name: str, estimate: MemoryEstimate) -> ModelMemoryError:
    """The error for an estimate that does not fit; it lists the settings that would."""
    options = ", ".join(f"device={c.device} dtype={c.dtype}" for c in estimate.cheaper)
    todo = (
        f"These settings would fit: {options}"
        if options
        else (
            "Nothing here has room for it: close other programs, raise MAX_VRAM_GB if it is "
            "set, or choose a smaller model"
        )
    )
    return ModelMemoryError(
        f"{name} does not fit into memory",
        f"with device={estimate.device} dtype={estimate.dtype} it needs {_gib(estimate.total)} "
        f"({_gib(estimate.weights_bytes)} of weights) and {_gib(estimate.available)} are free",
        todo,
        estimate,
    )


def max_memory(budgets: Mapping[str, int]) -> dict[Any, int]:
    """What ``device_map="auto"`` may use of each device, in its own keys and bytes."""
    limits: dict[Any, int] = {}
    for device, budget in budgets.items():
        if device.startswith("cuda:"):
            limits[int(device.partition(":")[2])] = int(
                max(0, budget - _GPU_OVERHEAD) * _SPREAD_SHARE
            )
        elif device == "cpu":
            limits["cpu"] = int(budget * _SPREAD_SHARE)
    return limits


def _devices(wanted: str, budgets: Mapping[str, int]) -> list[str]:
    has_gpu = any(device.startswith("cuda") for device in budgets)
    if wanted == "auto":
        return [*budgets, *([SPREAD] if has_gpu else [])]
    if wanted == "cuda" and has_gpu:
        return [device for device in budgets if device.startswith("cuda")]
    if wanted in budgets or (wanted == SPREAD and has_gpu):
        return [wanted]
    here = ", ".join(["auto", *budgets, *([SPREAD] if has_gpu else [])])
    raise DeviceError(f"There is no device '{wanted}' here", "", f"Choose one of: {here}")


def _judge(
    shape: ModelShape, device: str, dtype: str, budgets: Mapping[str, int]
) -> MemoryEstimate:
    size = dtype_of(dtype).itemsize
    overhead = _HOST_OVERHEAD if device == "cpu" else _GPU_OVERHEAD
    tokens = min(ESTIMATE_TOKENS, shape.context_length)
    weights = shape.n_parameters * size
    working = working_bytes(shape, tokens, size) + overhead
    available = sum(max_memory(budgets).values()) if device == SPREAD else budgets[device]
    return MemoryEstimate(
        weights_bytes=weights,
        working_bytes=working,
        available=available,
        device=device,
        dtype=dtype,
        fits=weights + working <= available,
        cheaper=(),
    )


def _cheaper(
    shape: ModelShape, config: ModelConfig, budgets: Mapping[str, int]
) -> tuple[ModelConfig, ...]:
    return tuple(
        replace(config, device=device, dtype=dtype)
        for device in _devices("auto", budgets)
        for dtype in DTYPES
        if not (dtype == "float16" and device == "cpu")
        and _judge(shape, device, dtype, budgets).fits
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def give_back_weights(model: Any) -> None:
    """Free a model's weights one after the other; the model is of no use afterwards.

    Memory is given back under the interpreter's lock, a tenth of a second for half a gigabyte. In
    between other threads, the window's among them, get their turn.
    """
    for parameter in model.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
        time.sleep(0)
