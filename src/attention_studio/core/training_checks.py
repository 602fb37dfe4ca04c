"""What a training run refuses, before it starts and on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

import torch
from loguru import logger

from attention_studio.core.corpus import CorpusError, TokenCorpus
from attention_studio.core.distributed import DistributedError, Peers
from attention_studio.core.host_memory import GIB, available_ram
from attention_studio.core.sites import Site
from attention_studio.core.training_config import TrainConfig, TrainSettingsError
from attention_studio.core.training_estimate import TrainEstimate
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel


class ExistingRunError(StudioError):
    """The folder already holds a run, which a new one would destroy."""


class TrainingMemoryError(StudioError):
    """The run would need more memory than there is."""


class TrainingDivergedError(StudioError):
    """The loss is no longer a number."""


def diverged(site: Site, step: int, what: str, value: float) -> TrainingDivergedError:
    """The error for a ``what`` (loss, FVU) of a module that is not a number any more."""
    return TrainingDivergedError(
        f"Training of {site} diverged at step {step}",
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
    last = config.sites[-1].layer
    if last >= n_layers:
        raise TrainSettingsError(
            f"{loaded.info.name} has no layer {last}",
            f"its layers are 0 to {n_layers - 1}",
            "Choose among them",
        )
    heads = config.qk_heads or loaded.info.n_heads
    if config.attention_layers and config.attention_latents % heads:
        raise TrainSettingsError(
            f"{config.attention_latents} latents cannot be shared among {heads} QK heads",
            "every QK head of a Lorsa has the same number of latents",
            f"Choose attention_latents = {heads * max(1, config.attention_latents // heads)}",
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


def check_peers(
    peers: Peers, settings: Mapping[str, Any], sources: Mapping[str, Any], step: int
) -> None:
    """Refuse a run that is not the same for all its processes.

    Args:
        settings, sources: of the run's identity.
        step: where it begins.

    Raises:
        DistributedError: says what differs.
    """
    mine = {"settings": dict(settings), "sources": dict(sources), "step": step}
    for rank, theirs in enumerate(peers.gather(mine)):
        differs = [name for name in mine if mine[name] != theirs[name]]
        if differs:
            raise DistributedError(
                f"Process {rank} has another {differs[0]} than process {peers.rank}",
                "all processes of a run must see the same text, model and folder",
                "Start all of them with the same command, on files that they share",
            )


def buffer_on_disk(
    estimate: TrainEstimate, config: TrainConfig, max_ram_gb: Optional[float]
) -> bool:
    """Whether harvested blocks are kept on disk: as the settings say, or where they would take
    more than half of the free memory (``max_ram_gb`` GiB, None: what the machine has) or more than
    the rest of the run leaves of it."""
    if config.buffer == "auto":
        available = available_ram(max_ram_gb)
        return 2 * estimate.block_bytes > available or estimate.memory_bytes > available
    return config.buffer == "disk"


def clt_on_disk(estimate: TrainEstimate, config: TrainConfig, max_ram_gb: Optional[float]) -> bool:
    """Whether a cross-layer transcoder's decoders are kept on disk: as the settings say, or where
    they would take more than half of the free memory."""
    if config.mlp != "clt" or not config.layers:
        return False
    if config.clt_store == "auto":
        return 2 * estimate.decoder_bytes > available_ram(max_ram_gb)
    return config.clt_store == "disk"


def check_memory(estimate: TrainEstimate, config: TrainConfig, max_ram_gb: Optional[float]) -> None:
    """Refuse a run that would not fit into memory (``max_ram_gb`` GiB, None: what is free).

    Raises:
        TrainingMemoryError: says what would fit.
    """
    available = available_ram(max_ram_gb)
    needed = estimate.memory_bytes
    if buffer_on_disk(estimate, config, max_ram_gb):
        needed -= estimate.block_bytes
    if clt_on_disk(estimate, config, max_ram_gb):
        needed -= estimate.decoder_bytes
    if needed <= available:
        return
    if estimate.memory_bytes - estimate.block_bytes - estimate.decoder_bytes <= available:
        todo = "Choose buffer = auto and clt_store = auto, which use the disk"
    else:
        todo = "Choose fewer layers or latents"
    raise TrainingMemoryError(
        f"Training would need {needed / GIB:.1f} GiB of memory",
        f"{available / GIB:.1f} GiB are free",
        todo,
    )
