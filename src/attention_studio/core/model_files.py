"""What a model's folder holds, learned from its files without loading the weights.

Reading goes by the files' headers, so that a broken or incomplete folder is refused at once with
the name of the file at fault, and so that memory can be estimated before anything is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from loguru import logger
from safetensors import SafetensorError, safe_open

from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileReadError,
    FileWriteError,
    read_json,
    sha256_files,
    write_json_atomic,
)
from attention_studio.utils.progress import WorkContext

SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


class ModelFileError(StudioError):
    """A file of a model is missing, damaged, or of a kind that is not opened."""


@dataclass(frozen=True)
class WeightFacts:
    """Number of stored parameters, and the size of their files in bytes."""

    n_parameters: int
    stored_bytes: int


def read_model_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``.

    Raises:
        ModelFileError: missing, not JSON, or without a ``model_type``.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFileError(
            f"{folder} is not a model's folder",
            "it has no config.json",
            "Choose the folder that holds config.json and the .safetensors files",
        )
    try:
        config = read_json(path, max_bytes=16 << 20)
    except FileReadError as error:
        raise ModelFileError(
            f"{path} is damaged", error.why, "Fetch or copy the model again"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelFileError(
            f"{path} does not describe a model",
            "it has no model_type",
            "Fetch or copy the model again",
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files, sorted by name.

    Raises:
        ModelFileError: there are none, a part is missing, or only pickled weights are there.
    """
    single, index = folder / SINGLE_WEIGHTS, folder / WEIGHTS_INDEX
    if single.is_file():
        return [single]
    if index.is_file():
        return _sharded_files(index)
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise ModelFileError(
            f"{folder} holds only pickled weights ({', '.join(pickled[:3])})",
            "loading a pickle runs whatever code is inside",
            "Convert the model to safetensors, or choose another copy of it",
        )
    raise ModelFileError(
        f"{folder} holds no weights",
        f"there is no {SINGLE_WEIGHTS} and no {WEIGHTS_INDEX}",
        "Fetch or copy the model again",
    )


def _sharded_files(index: Path) -> list[Path]:
    try:
        content = read_json(index)
        names = sorted(set(content["weight_map"].values()))
    except (FileReadError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{index} is damaged", str(error), "Fetch or copy the model again"
        ) from error
    files = []
    for name in names:
        # A name from a file is not trusted to stay inside its folder.
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelFileError(f"{index} names a file outside its folder", repr(name))
        if not (index.parent / name).is_file():
            raise ModelFileError(
                f"{index.parent / name} is missing",
                f"{index.name} lists it",
                "Fetch or copy the model again",
            )
        files.append(index.parent / name)
    return files


def weight_facts(files: list[Path]) -> WeightFacts:
    """Count parameters and bytes from the headers of ``files``.

    Raises:
        ModelFileError: a file is truncated or is no safetensors file.
    """
    parameters = stored = 0
    for path in files:
        try:
            with safe_open(str(path), framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    parameters += math.prod(tensors.get_slice(name).get_shape())
            stored += path.stat().st_size
        except (SafetensorError, OSError) as error:
            raise ModelFileError(
                f"{path} is damaged", str(error), "Fetch or copy the model again"
            ) from error
    return WeightFacts(parameters, stored)


class HashCache:
    """Remembers the SHA-256 of weight files, so that gigabytes are read once.

    Entries are keyed by path, size and modification time; a file that changed is read anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def weights_hash(self, files: list[Path], ctx: Optional[WorkContext] = None) -> str:
        """The SHA-256 of the contents of ``files`` one after the other.

        Raises:
            FileReadError: one cannot be read.
            Cancelled: through ``ctx``.
        """
        key = "|".join(_identity(path) for path in files)
        known = self._read()
        found = known.get(key)
        if isinstance(found, str) and len(found) == 64:
            return found
        found = sha256_files(files, ctx)
        known[key] = found
        try:
            write_json_atomic(self._path, known)
        except FileWriteError as error:
            logger.warning(f"The hash of the weights is not remembered. {error}")
        return found

    def _read(self) -> dict[str, Any]:
        if not self._path.is_file():
            return {}
        try:
            known = read_json(self._path)
        except FileReadError as error:
            logger.warning(f"The remembered hashes are made anew. {error}")
            return {}
        return known if isinstance(known, dict) else {}


def _identity(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise FileReadError(f"{path} cannot be read", error.strerror or str(error)) from error
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
