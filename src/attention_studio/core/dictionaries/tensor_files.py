"""Reading dictionaries' tensors from safetensors files that nobody has reason to trust.

Headers are checked against what is expected before any tensor is read, files against their hashes,
and tensors before they are used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.safetensors_header import (
    TensorFileError,
    read_safetensors_header,
)
from attention_studio.core.dictionaries.transcoder import UnfoldedDictionaryError
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileReadError, sha256_file
from attention_studio.utils.progress import WorkContext

_TYPES = ("F32", "F16", "BF16")
_FileState = tuple[int, int, int, int, int]
_KNOWN_HASHES: dict[tuple[Path, _FileState], str] = {}
"""What this process has hashed: tens of GiB take a minute. A state belongs to one content."""
_SETTLED_NS = 2_000_000_000
"""Clocks of file systems are coarse: a file younger than this may change and keep its time."""


class CRMFormatError(StudioError):
    """A CRM folder is incomplete or holds something other than it should; names file and field."""


def check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that a dictionary's tensors are folded and finite, and its thresholds and norms not
    negative.

    Raises:
        UnfoldedDictionaryError: a training scale is left.
        CRMFormatError: names the file and the tensor.
    """
    for name in ("input_scale", "output_scale"):
        if tensors[name].item() != 1.0:
            raise UnfoldedDictionaryError(
                f"{path} is not folded",
                f"its {name} is {tensors[name].item():g}, so its weights do not fit raw "
                "activations",
                "Fold it (Transcoder.fold) and save it again",
            )
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CRMFormatError(
                f"{path}: {name} holds values that are not finite",
                "",
                "Train again, with a lower learning rate if training diverged",
            )
    for name in ("threshold", "selection_norm"):
        if name in tensors and bool((tensors[name] < 0).any()):
            raise CRMFormatError(f"{path}: {name} holds negative values", "", "Train again")


def check_hash(path: Path, sha256: str, ctx: Optional[WorkContext] = None) -> None:
    """Check that a file is the one whose SHA-256 the manifest has. A file that did not change
    since this process last hashed it is not read again.

    Raises:
        CRMFormatError: it is another one, or cannot be read.
        Cancelled: through ``ctx``.
    """
    try:
        state = _state(path)
        found = _KNOWN_HASHES.get((path, state))
        if found is None:
            found = sha256_file(path, ctx)
            if _state(path) == state and time.time_ns() - max(state[3:]) > _SETTLED_NS:
                _KNOWN_HASHES[path, state] = found
    except (OSError, FileReadError) as error:
        raise CRMFormatError(f"{path} cannot be read", str(error)) from error
    if found != sha256:
        raise CRMFormatError(
            f"{path} is not the file that was saved",
            "its sha256 differs from the manifest's",
            "Restore the file or train again",
        )


def _state(path: Path) -> _FileState:
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def check_safetensors_header(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a file's header declares exactly ``shapes``, in a type that float32 holds
    exactly, filling the file.

    Raises:
        CRMFormatError: names the file and the tensor.
    """

    def refuse(what: str, why: str = "") -> CRMFormatError:
        return CRMFormatError(f"{path}: {what}", why, "Restore the file or train again")

    try:
        header = read_safetensors_header(path)
    except TensorFileError as error:
        raise CRMFormatError(error.what, error.why, "Restore the file or train again") from error
    for name in shapes:
        if name not in header:
            raise refuse(f"tensor {name} is missing")
    extra = sorted(set(header) - set(shapes))
    if extra:
        raise refuse(f"tensor {extra[0]!r} does not belong there")
    for name, shape in shapes.items():
        if header[name].dtype not in _TYPES:
            raise refuse(f"{name} has type {header[name].dtype!r}", f"{_TYPES} are read")
        if header[name].shape != shape:
            raise refuse(
                f"{name} has shape {list(header[name].shape)}", f"{list(shape)} is expected"
            )
