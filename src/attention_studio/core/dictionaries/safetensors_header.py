"""What a safetensors file says that it holds, read without trust and without reading a tensor.

Format: https://github.com/huggingface/safetensors (eight bytes of length, a JSON table, the data).
"""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any, NamedTuple, Optional

from attention_studio.utils.errors import StudioError

MAX_HEADER_BYTES = 1 << 20

_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


class TensorFileError(StudioError):
    """A file is no sound safetensors file; names file and tensor."""


class TensorHeader(NamedTuple):
    """One tensor of a file: ``dtype`` as the format names it (``F32``), and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_safetensors_header(path: Path) -> dict[str, TensorHeader]:
    """Every tensor of a file, once it is certain that they fill the file and nothing else does.

    Only the header is read, and never more of it than a sane one has.

    Raises:
        TensorFileError: it cannot be read, or its header is not sound.
    """

    def refuse(what: str, why: str = "") -> TensorFileError:
        return TensorFileError(f"{path}: {what}", why, "Restore the file")

    try:
        facts = path.stat()
        size = facts.st_size
        if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for somebody to write
            raise refuse("is no file")
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise refuse("is not a safetensors file", f"it declares a header of {length} bytes")
            header = json.loads(stream.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise refuse("cannot be read", error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise refuse("its header is not valid JSON", str(error)) from error
    if not isinstance(header, dict):
        raise refuse("its header is not a table of tensors")
    header.pop("__metadata__", None)
    found: dict[str, TensorHeader] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        entry = entry if isinstance(entry, dict) else {}
        dtype, shape, span = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or dtype not in _BYTES:
            raise refuse(f"{name} has type {dtype!r}", "safetensors knows no such type")
        extents, edges = _counts(shape), _counts(span)
        if extents is None:
            raise refuse(f"{name} has shape {shape!r}", "a list of sizes is expected")
        if edges is None or len(edges) != 2:
            raise refuse(f"the data_offsets of {name} are not a pair of numbers")
        found[name] = TensorHeader(dtype, extents)
        spans.append((edges[0], edges[1], name))
    position = 0
    for start, stop, name in sorted(spans):
        tensor = found[name]
        if start != position or stop - start != _BYTES[tensor.dtype] * math.prod(tensor.shape):
            raise refuse(f"the data_offsets of {name} do not fit its shape")
        position = stop
    if 8 + length + position != size:
        raise refuse(
            "is cut short or has something appended",
            f"it has {size:,} bytes and {8 + length + position:,} are expected",
        )
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _counts(value: Any) -> Optional[tuple[int, ...]]:
    """The numbers of a list of sizes, or None if it is none."""
    if not isinstance(value, list):
        return None
    sound = all(type(item) is int and item >= 0 for item in value)
    return tuple(value) if sound else None
