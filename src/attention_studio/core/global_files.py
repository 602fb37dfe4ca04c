"""Global weights on disk: one safetensors file of columns, and what they are of in its metadata.

    metadata   manifest: JSON; sites, model, dictionaries, text
    tensors    the columns of ``GlobalWeights``; words as UTF-8, one after the other

Whoever made a file is not trusted: its header is checked before anything is read, and everything
before it is used.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

import attention_studio
from attention_studio.core.dictionaries.safetensors_header import (
    TensorFileError,
    read_safetensors_header,
)
from attention_studio.core.global_weights import (
    N_PROMOTED,
    GlobalWeights,
    GlobalWeightsError,
    LatentTable,
    TextFacts,
)
from attention_studio.core.sites import Site
from attention_studio.utils.files import atomic_write

FORMAT = "attention-studio-global-weights"
FORMAT_VERSION = 1
MAX_BYTES = 32 << 30
MAX_WORD_BYTES = 64 << 20
_MAX_LAYER = 9999
_MAX_COUNT = 1 << 53
"""Larger ones are no float64."""

_TYPES: dict[str, str] = {
    "bounds": "I64",
    "source": "I32",
    "virtual": "F32",
    "total": "F32",
    "weighted": "F32",
    "count": "F32",
    "followed": "BOOL",
    "times": "I64",
    "activation": "F64",
    "peak": "F32",
    "reads": "F64",
    "slack": "F32",
    "promoted": "I32",
    "word_ids": "I64",
    "word_bounds": "I64",
    "word_text": "U8",
}
_PAIRS = ("source", "virtual", "total", "weighted", "count", "followed")
_LATENTS = ("times", "activation", "peak", "reads", "slack")
_WORDS = ("word_ids", "word_bounds", "word_text")


def save_global_weights(found: GlobalWeights, path: Path) -> None:
    """Write global weights. The same statistics give the same bytes.

    Raises:
        FileWriteError: the file cannot be written.
    """
    columns: dict[str, NDArray[Any]] = {
        name: getattr(found, name) for name in _TYPES if name not in _WORDS
    }
    texts = [text.encode("utf-8") for _, text in sorted(found.words.items())]
    columns["word_ids"] = np.array(sorted(found.words), dtype=np.int64)
    columns["word_bounds"] = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    columns["word_text"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "studio": attention_studio.__version__,
        "sites": [[site.layer, site.kind] for site in found.table.sites],
        "offsets": list(found.table.offsets),
        "parallel": found.table.parallel,
        "about": asdict(found.about),
    }
    # One entry only: several are written in an order of chance.
    header = {"manifest": json.dumps(manifest, sort_keys=True)}
    with atomic_write(path) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in columns.items()}, temporary, header)


def load_global_weights(path: Path) -> GlobalWeights:
    """Read what ``save_global_weights`` wrote.

    Raises:
        GlobalWeightsError: the file is missing, too large, damaged or something else.
    """
    if not path.is_file():
        raise GlobalWeightsError(
            f"There are no global weights at {path}", "", "make them with attention-studio atlas"
        )
    if path.stat().st_size > MAX_BYTES:
        raise damaged(path, f"it is larger than {MAX_BYTES >> 30} GiB")
    manifest = read_manifest(path, FORMAT, FORMAT_VERSION)
    try:
        header = read_safetensors_header(path)
        if {name: entry.dtype for name, entry in header.items()} != _TYPES:
            raise damaged(path, "its tensors are not those of global weights")
        columns = load_file(path)
        table, about = _table(manifest), _about(manifest)
    except (SafetensorError, OSError, TensorFileError) as error:
        raise damaged(path, str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise damaged(path, f"its manifest is not what it should be ({error})") from error
    _check(path, table, columns)
    words = _words(path, *(columns.pop(name) for name in _WORDS))
    return GlobalWeights(table=table, about=about, words=words, **columns)


def read_manifest(path: Path, expected: str, version: int) -> dict[str, Any]:
    """The manifest in a file's metadata, of a format in a version.

    Raises:
        GlobalWeightsError: it is another file, damaged, or of another version.
    """
    try:
        read_safetensors_header(path)  # bounds what is read next
        with safe_open(path, framework="numpy") as file:
            manifest = json.loads((file.metadata() or {}).get("manifest", "null"))
    except (SafetensorError, OSError, TensorFileError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != expected:
        raise damaged(path, "it holds something else")
    if manifest.get("version") != version:
        raise GlobalWeightsError(
            f"{path.name} cannot be opened",
            f"it has format version {manifest.get('version')}, this studio reads {version}",
            "open it with the version that wrote it",
        )
    return manifest


def damaged(path: Path, why: str) -> GlobalWeightsError:
    """What is raised where a file is not what it should be."""
    return GlobalWeightsError(
        f"{path.name} cannot be opened as global weights", why, "gather them again"
    )


def _about(manifest: dict[str, Any]) -> TextFacts:
    about = TypeAdapter(TextFacts).validate_python(manifest["about"])
    counts = (about.n_rows, about.seq_len, about.n_tokens, about.keep, about.strongest)
    if not all(0 <= count < _MAX_COUNT for count in counts):
        raise ValueError("a count is none")
    return about


def _table(manifest: dict[str, Any]) -> LatentTable:
    sites = TypeAdapter(list[Site]).validate_python(manifest["sites"])
    offsets = TypeAdapter(list[int]).validate_python(manifest["offsets"])
    if sites != sorted(set(sites)) or any(not 0 <= site.layer <= _MAX_LAYER for site in sites):
        raise ValueError("sites are not in order")
    if len(offsets) != len(sites) + 1 or offsets[0] != 0 or offsets[-1] >= 1 << 31:
        raise ValueError("offsets do not fit the sites")
    if any(b <= a for a, b in pairwise(offsets)):
        raise ValueError("a site has no latents")
    return LatentTable(tuple(sites), tuple(offsets), bool(manifest["parallel"]))


def _check(path: Path, table: LatentTable, columns: dict[str, NDArray[Any]]) -> None:
    """Refuse columns that do not fit together, before anything indexes with them."""
    n, m = len(table), columns["source"].size
    shapes: dict[str, tuple[int, ...]] = {"bounds": (n + 1,), "promoted": (n, N_PROMOTED)}
    shapes |= dict.fromkeys(_PAIRS, (m,)) | dict.fromkeys(_LATENTS, (n,))
    for name, shape in shapes.items():
        if columns[name].shape != shape:
            raise damaged(path, f"{name} does not fit the rest")
        if columns[name].dtype.kind == "f":
            if not bool(np.isfinite(columns[name]).all()):
                raise damaged(path, f"{name} holds values that are not finite")
            if name != "virtual" and bool((columns[name] < 0).any()):
                raise damaged(path, f"{name} holds negative values")
    bounds, source = columns["bounds"], columns["source"].astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != m or bool((np.diff(bounds) < 0).any()):
        raise damaged(path, "bounds are not those of the pairs")
    target = np.repeat(np.arange(n), np.diff(bounds))
    limit = np.repeat([table.n_sources(s) for s in table.sites], np.diff(table.offsets))
    ascending = (np.diff(source) > 0) | (np.diff(target) > 0)
    if bool((source < 0).any()) or bool((source >= limit[target]).any()) or not ascending.all():
        raise damaged(path, "source holds latents that the targets do not read")
    if bool((columns["times"] < 0).any()):
        raise damaged(path, "times holds negative values")


def _words(
    path: Path, ids: NDArray[Any], bounds: NDArray[Any], text: NDArray[Any]
) -> dict[int, str]:
    fits = ids.ndim == bounds.ndim == text.ndim == 1 and len(bounds) == len(ids) + 1
    if fits and text.size <= MAX_WORD_BYTES:
        fits = bounds[0] == 0 and bounds[-1] == text.size and not (np.diff(bounds) < 0).any()
        if fits:
            blob = text.tobytes()
            return {
                int(token): blob[bounds[i] : bounds[i + 1]].decode("utf-8", "replace")
                for i, token in enumerate(ids)
            }
    raise damaged(path, "its words do not fit together")
