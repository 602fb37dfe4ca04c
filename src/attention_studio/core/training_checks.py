"""What a training run refuses, before it starts and on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import torch
from loguru import logger

from attention_studio.core.corpus import CorpusError, TokenCorpus
from attention_studio.core.host_memory import GIB, available_ram
from attention_studio.core.training_config import TrainConfig
from attention_studio.core.training_estimate import TrainEstimate
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel


class TrainSettingsError(StudioError):
    """Settings that do not fit the model or the text."""


class ExistingRunError(StudioError):
    """The folder already holds a run, which a new one would destroy."""


class TrainingMemoryError(StudioError):
    """The run would need more memory than there is."""


class TrainingDivergedError(StudioError):
    """The loss is no longer a number."""


def diverged(layer: int, step: int, what: str, value: float) -> TrainingDivergedError:
    """The error for a ``what`` (loss, FVU) of ``layer`` that is not a number any more."""
    return TrainingDivergedError(
        f"Training of layer {layer} diverged at step {step}",
        f"its {what} is {value}",
        "Start again with a lower learning rate",
    )


def training_device(wanted: str, model_device: torch.device) -> torch.device:
    """Where to train: ``wanted``, or the model's device, but never MPS."""
    device = model_device if wanted == "auto" else torch.device(wanted)
    if device.type == "mps":
        logger.warning("Training runs on the CPU in float32: it is not reliable on MPS")
        return torch.device("cpu")
    return device


def check_fit(
    loaded: LoadedModel, corpus: TokenCorpus, heldout: TokenCorpus, config: TrainConfig
) -> None:
    """Refuse settings and texts that do not fit the model or each other.

    Raises:
        TrainSettingsError, CorpusError
    """
    n_layers = loaded.info.n_layers
    if config.layers[-1] >= n_layers:
        raise TrainSettingsError(
            f"{loaded.info.name} has no layer {config.layers[-1]}",
            f"its layers are 0 to {n_layers - 1}",
            "Choose among them",
        )
    for name, text in (("training", corpus), ("held-out", heldout)):
        if text.seq_len != config.seq_len:
            raise TrainSettingsError(
                f"The {name} text has rows of {text.seq_len} tokens",
                f"seq_len is {config.seq_len}",
                "Build it with the same sequence length",
            )
    if corpus.n_kept < config.batch_tokens:
        raise CorpusError(
            "There is too little text to train on",
            f"it has {corpus.n_kept:,} tokens and one batch takes {config.batch_tokens:,}",
            "Give more text or choose smaller batches",
        )
    if not heldout.n_kept:
        raise CorpusError("The held-out text is too short to measure anything on")


def check_memory(estimate: TrainEstimate, config: TrainConfig, max_ram_gb: Optional[float]) -> None:
    """Refuse a run that would not fit into memory (``max_ram_gb`` GiB, None: what is free).

    Raises:
        TrainingMemoryError: says what would fit.
    """
    available = available_ram(max_ram_gb)
    if estimate.memory_bytes <= available:
        return
    needed = estimate.memory_bytes - estimate.block_bytes
    fitting = int(config.block_tokens * (available - needed) / max(estimate.block_bytes, 1))
    fitting -= fitting % config.batch_tokens
    raise TrainingMemoryError(
        f"Training would need {estimate.memory_bytes / GIB:.1f} GiB of memory",
        f"{available / GIB:.1f} GiB are free",
        f"Choose block_tokens = {fitting}"
        if fitting >= config.batch_tokens
        else "Choose fewer layers or latents",
    )
