"""Where the gathering of global weights stopped: its sums as they are, beside the file to come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from attention_studio.core.dictionaries.safetensors_header import (
    TensorFileError,
    read_safetensors_header,
)
from attention_studio.core.global_files import damaged, read_manifest
from attention_studio.core.global_weights import GlobalWeightsError, TextFacts
from attention_studio.utils.files import atomic_write

_FORMAT = "attention-studio-global-weights-checkpoint"
_VERSION = 1


def checkpoint_path(out: Path) -> Path:
    """Where the checkpoint of a run that writes to ``out`` lies."""
    return out.with_name(f"{out.stem}.checkpoint.safetensors")


def write_checkpoint(
    out: Path, about: TextFacts, rows_done: int, state: Mapping[str, Tensor]
) -> None:
    """Write where a run stands after so many rows of its text.

    Raises:
        FileWriteError: it cannot be written.
    """
    manifest = {
        "format": _FORMAT,
        "version": _VERSION,
        "about": asdict(about),
        "rows_done": rows_done,
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    with atomic_write(checkpoint_path(out)) as temporary:
        save_file(tensors, temporary, {"manifest": json.dumps(manifest, sort_keys=True)})


def read_checkpoint(out: Path, about: TextFacts, state: Mapping[str, Tensor]) -> int:
    """Put the sums of a checkpoint into ``state``; the rows that are done. 0: there is none.

    Raises:
        GlobalWeightsError: it is damaged, or of another model, other dictionaries, another text or
            other settings.
    """
    path = checkpoint_path(out)
    if not path.is_file():
        return 0
    manifest = read_manifest(path, _FORMAT, _VERSION)
    mine, stored = json.loads(json.dumps(asdict(about))), manifest.get("about")
    stored = stored if isinstance(stored, dict) else {}
    for name, value in mine.items():
        if stored.get(name) != value:
            raise GlobalWeightsError(
                f"The run in {path.name} cannot be taken up",
                f"its {name} is {stored.get(name)!r}, here it is {value!r}",
                "give it what it was begun with, or begin again without resuming",
            )
    rows = manifest.get("rows_done")
    if type(rows) is not int or not 0 < rows <= about.n_rows:
        raise damaged(path, f"it says that {rows!r} rows are done")
    try:
        header = read_safetensors_header(path)
        if {name: entry.shape for name, entry in header.items()} != {
            name: tuple(tensor.shape) for name, tensor in state.items()
        }:
            raise damaged(path, "its tensors are not those of this run")
        tensors = load_file(path)
    except (SafetensorError, OSError, TensorFileError) as error:
        raise damaged(path, str(error)) from error
    for name, tensor in state.items():
        if tensors[name].dtype != tensor.dtype:
            raise damaged(path, f"{name} is of another type")
        tensor.copy_(tensors[name])
    return rows


def remove_checkpoint(out: Path) -> None:
    """Remove what a finished run left."""
    checkpoint_path(out).unlink(missing_ok=True)
