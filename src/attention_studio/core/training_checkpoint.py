"""Checkpoints of a training run: written whole or not at all, and checked before they are used.

    checkpoints/step_00000050/state.json             settings, position, history, hashes
    checkpoints/step_00000050/layer_00.safetensors   weights, Adam's moments, silence counters

There is no generator to save: every random draw of a run is a function of the seed and of a
counter (the layer, the pass over the text, the block), so the position says it all.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import safetensors
import safetensors.torch
import torch

from attention_studio.core.dictionaries.crm_folder import layer_file
from attention_studio.core.training_config import RESULT_FREE_FIELDS
from attention_studio.core.training_events import LayerMetrics
from attention_studio.core.training_step import LayerState
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileReadError,
    atomic_folder,
    read_json,
    remove_leftovers,
    sha256_file,
    write_json_atomic,
)
from attention_studio.utils.progress import WorkContext

CHECKPOINT_FOLDER = "checkpoints"
_STATE_NAME = "state.json"
_FORMAT_VERSION = 1
_NAME = re.compile(r"step_(\d{8,})")
_MAX_STATE_BYTES = 256 << 20


class CheckpointError(StudioError):
    """A checkpoint is damaged; names the file and what is wrong with it."""


class ResumeMismatchError(StudioError):
    """A run would be resumed with other settings, another text or another model."""


@dataclass
class Progress:
    """How far a run is, apart from its weights.

    Attributes:
        step: batches done.
        tokens: activations trained on, per layer.
        block, batch: the next batch to train on: index of its block, and its place in there.
        affine_fvu: held-out FVU of the best affine map, by layer.
        history: a row per layer and evaluation.
        overall: of the last evaluation, with all layers spliced in: loss recovered and KL.
    """

    step: int = 0
    tokens: int = 0
    block: int = 0
    batch: int = 0
    affine_fvu: dict[int, float] = field(default_factory=dict)
    history: list[LayerMetrics] = field(default_factory=list)
    overall: dict[str, Optional[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunIdentity:
    """What a run is of. A resumed run must have the same.

    ``settings`` are the JSON form of the ``TrainConfig``; ``sources`` name everything else that
    decides the weights (hashes of texts and model, the harvest's type, the device).
    """

    settings: Mapping[str, Any]
    sources: Mapping[str, str]

    def check_same(self, settings: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
        """Compare with what a checkpoint or a manifest says.

        Raises:
            ResumeMismatchError: names the first field that differs.
        """
        ours = {k: v for k, v in self.settings.items() if k not in RESULT_FREE_FIELDS}
        for what, mine, theirs in (
            ("settings", ours, settings),
            ("sources", self.sources, sources),
        ):
            for name, value in mine.items():
                if name not in theirs or theirs[name] != value:
                    raise ResumeMismatchError(
                        f"The run cannot be resumed: {_readable(name)} differs",
                        f"the run was started with {theirs.get(name)!r}, now it is {value!r}",
                        f"Resume with the {what} of the start, or train into another folder",
                    )


def write_checkpoint(
    out_dir: Path,
    identity: RunIdentity,
    progress: Progress,
    states: Mapping[int, LayerState],
    ctx: Optional[WorkContext] = None,
) -> Path:
    """Write a checkpoint; the older ones go once it is complete.

    Raises:
        FileWriteError: the disk is full, the folder is read-only, and the like; the older
            checkpoint is still there.
        Cancelled: through ``ctx``, between two layers.
    """
    folder = out_dir / CHECKPOINT_FOLDER
    remove_leftovers(folder, older_than_seconds=0)
    path = folder / f"step_{progress.step:08d}"
    with atomic_folder(path) as temporary:
        files: dict[str, str] = {}
        for i, (layer, state) in enumerate(sorted(states.items())):
            if ctx is not None:
                ctx.check()
                ctx.progress(i, len(states), "Writing a checkpoint")
            file = temporary / layer_file(layer)
            tensors = {name: t.contiguous().cpu() for name, t in state.tensors().items()}
            safetensors.torch.save_file(tensors, file)
            files[layer_file(layer)] = sha256_file(file)
        write_json_atomic(
            temporary / _STATE_NAME,
            {
                "format_version": _FORMAT_VERSION,
                "settings": dict(identity.settings),
                "sources": dict(identity.sources),
                "optimizer_steps": {str(layer): s.steps for layer, s in states.items()},
                "files": files,
                "progress": asdict(progress),
            },
        )
    for old in _checkpoints(out_dir):
        if old != path:
            shutil.rmtree(old, ignore_errors=True)
    return path


def latest_checkpoint(out_dir: Path) -> Optional[Path]:
    """The newest complete checkpoint of a run, or None."""
    found = _checkpoints(out_dir)
    return found[-1] if found else None


def remove_checkpoints(out_dir: Path) -> None:
    """Delete all checkpoints of a run."""
    shutil.rmtree(out_dir / CHECKPOINT_FOLDER, ignore_errors=True)


def read_progress(path: Path, identity: RunIdentity) -> Progress:
    """Read how far a checkpoint is, after checking that it belongs to this run.

    Raises:
        CheckpointError: it is damaged.
        ResumeMismatchError: it is of another run.
    """
    state = _read_state(path)
    identity.check_same(state["settings"], state["sources"])
    content = state["progress"]
    try:
        return Progress(
            step=int(content["step"]),
            tokens=int(content["tokens"]),
            block=int(content["block"]),
            batch=int(content["batch"]),
            affine_fvu={int(layer): float(fvu) for layer, fvu in content["affine_fvu"].items()},
            history=[
                LayerMetrics(**{**row, "density": tuple(row["density"])})
                for row in content["history"]
            ],
            overall=dict(content["overall"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path / _STATE_NAME, f"progress: {error}") from error


def read_states(
    path: Path, states: Mapping[int, LayerState], ctx: Optional[WorkContext] = None
) -> None:
    """Copy a checkpoint's tensors into ``states``.

    Raises:
        CheckpointError: it is damaged.
        Cancelled: through ``ctx``, between two layers.
    """
    described = _read_state(path)
    for i, (layer, state) in enumerate(sorted(states.items())):
        if ctx is not None:
            ctx.check()
            ctx.progress(i, len(states), "Reading the checkpoint")
        file = path / layer_file(layer)
        if not file.is_file():
            raise _damaged(file, "it is missing")
        if sha256_file(file) != described["files"].get(file.name):
            raise _damaged(file, "it is not the file that was saved")
        try:
            tensors = safetensors.torch.load_file(file)
        except (safetensors.SafetensorError, OSError) as error:
            raise _damaged(file, str(error)) from error
        for name, target in state.tensors().items():
            source = tensors.get(name)
            if source is None or source.shape != target.shape or source.dtype != target.dtype:
                raise _damaged(file, f"tensor {name} is missing or of another shape")
            with torch.no_grad():
                target.copy_(source)
        steps = described["optimizer_steps"].get(str(layer))
        if not isinstance(steps, int):
            raise _damaged(path / _STATE_NAME, f"optimizer_steps has no layer {layer}")
        state.steps = steps


def _checkpoints(out_dir: Path) -> list[Path]:
    folder = out_dir / CHECKPOINT_FOLDER
    if not folder.is_dir():
        return []
    found = [
        (int(match.group(1)), entry)
        for entry in folder.iterdir()
        if (match := _NAME.fullmatch(entry.name)) and entry.is_dir()
    ]
    return [entry for _, entry in sorted(found)]


def _read_state(path: Path) -> dict[str, Any]:
    file = path / _STATE_NAME
    try:
        state = read_json(file, _MAX_STATE_BYTES)
    except FileReadError as error:
        raise CheckpointError(error.what, error.why, "Delete it and start over") from error
    if not isinstance(state, dict) or state.get("format_version") != _FORMAT_VERSION:
        raise _damaged(file, "it has no format_version that this program reads")
    for name in ("settings", "sources", "optimizer_steps", "files", "progress"):
        if not isinstance(state.get(name), dict):
            raise _damaged(file, f"{name} is missing")
    return state


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint file {file} cannot be used",
        why,
        "Delete the checkpoints folder to start the run over",
    )


def _readable(name: str) -> str:
    return f"the {name.replace('_', ' ')} ({name})"
