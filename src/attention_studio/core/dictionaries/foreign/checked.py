"""Reading other tools' configurations and tensors as if somebody had tampered with them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional, TypeVar, Union

import safetensors
import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from attention_studio.core.dictionaries.safetensors_header import (
    TensorFileError,
    TensorHeader,
    read_safetensors_header,
)
from attention_studio.core.dictionaries.transcoder_config import MAX_D_LATENT, MAX_D_MODEL
from attention_studio.core.host_memory import GIB, available_ram
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileReadError, read_json, read_text

MAX_CONFIG_BYTES = 1 << 20
MAX_YAML_BYTES = 1 << 16
"""YAML is read slowly, and has numbers in base 60 that take a time quadratic in their length."""

MAX_ELEMENTS = 1 << 36
"""Of one tensor. The largest that exist have a fortieth of this."""

_FLOATS = {"F16", "BF16", "F32", "F64"}
_Model = TypeVar("_Model", bound=BaseModel)


class ForeignFormatError(StudioError):
    """Another tool's folder is damaged or is not what it says; names the file and the field."""


class UnsupportedDictionaryError(StudioError):
    """A sound dictionary of a kind that this program, or the tool it is meant for, cannot hold."""


class ToolConfig(BaseModel):
    """What matters here of a tool's configuration: types are not converted, the rest is ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml comes without types
    """YAML without references: a few hundred bytes of them unfold to gigabytes."""

    def compose_node(
        self, parent: Optional[yaml.Node], index: Union[yaml.Node, int, None]
    ) -> Optional[yaml.Node]:
        """The next node, unless it refers to an earlier one."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "references (*) are not read", mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Nothing is merged into ``node``."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merges (<<) are not read", key.start_mark
                )


def read_json_table(path: Path) -> dict[str, Any]:
    """A JSON file that holds a table.

    Raises:
        ForeignFormatError: it cannot be read, or holds something else.
    """
    try:
        return _table(path, read_json(path, MAX_CONFIG_BYTES))
    except FileReadError as error:
        raise ForeignFormatError(error.what, error.why, error.todo) from error


def read_yaml_table(path: Path) -> dict[str, Any]:
    """A YAML file that holds a table of plain values, without references and merges.

    Raises:
        ForeignFormatError: it cannot be read, or holds something else.
    """
    try:
        text = read_text(path, MAX_YAML_BYTES)
        # A SafeLoader: it makes plain values only.
        return _table(path, yaml.load(text, Loader=_PlainLoader))
    except FileReadError as error:
        raise ForeignFormatError(error.what, error.why, error.todo) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ForeignFormatError(f"{path} is not valid YAML", str(error)[:300]) from error


def checked_config(kind: type[_Model], path: Path, content: dict[str, Any]) -> _Model:
    """A tool's configuration from the file ``path``, with every field of the right type.

    Raises:
        ForeignFormatError: names the file and the field.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "its values"
        raise ForeignFormatError(f"{path}: {field}: {first['msg']}") from error


class TensorFile:
    """A safetensors file whose header is sound. Tensors are read one by one, and only when asked.

    Raises:
        ForeignFormatError: it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._header = read_safetensors_header(path)
        except TensorFileError as error:
            raise ForeignFormatError(error.what, error.why, error.todo) from error

    def __contains__(self, name: str) -> bool:
        return name in self._header

    def only(self, names: Iterable[str], ignored: Iterable[str] = ()) -> None:
        """Check that the file holds ``names``, and nothing else but what starts with ``ignored``.

        Raises:
            ForeignFormatError: a tensor is missing, or does not belong there.
        """
        wanted, prefixes = set(names), tuple(ignored)
        for name in sorted(wanted - set(self._header)):
            raise ForeignFormatError(f"{self.path}: tensor {name} is missing")
        for name in sorted(set(self._header) - wanted):
            if not (prefixes and name.startswith(prefixes)):
                raise ForeignFormatError(f"{self.path}: tensor {name!r} does not belong there")

    def size(self, name: str, limit: int) -> int:
        """The length of the vector ``name``.

        Raises:
            ForeignFormatError: it is missing, no vector, empty, or longer than ``limit``.
        """
        shape = self._entry(name).shape
        if len(shape) != 1 or not 1 <= shape[0] <= limit:
            raise ForeignFormatError(
                f"{self.path}: {name} has shape {list(shape)}",
                f"a vector of 1 … {limit:,} numbers is expected",
            )
        return shape[0]

    def sizes(self, encoder_bias: str, decoder_bias: str) -> tuple[int, int]:
        """``(d_latent, d_model)`` from the two biases, which cannot be transposed.

        Raises:
            ForeignFormatError: as ``size``.
        """
        return self.size(encoder_bias, MAX_D_LATENT), self.size(decoder_bias, MAX_D_MODEL)

    def numbers(self) -> list[int]:
        """How many numbers each tensor has, of those that can be weights."""
        return [math.prod(e.shape) for e in self._header.values() if e.dtype in _FLOATS]

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Check the shape of a tensor, without reading it.

        Raises:
            ForeignFormatError: it is missing, or of another shape.
        """
        entry = self._entry(name)
        if entry.shape != shape:
            transposed = len(shape) > 1 and entry.shape == shape[::-1]
            raise ForeignFormatError(
                f"{self.path}: {name} has shape {list(entry.shape)}",
                f"{list(shape)} is expected" + ("; it is transposed" if transposed else ""),
            )

    def read(self, name: str, shape: tuple[int, ...], finite: bool = True) -> Tensor:
        """One tensor in float32, once its shape, type and values are right.

        Args:
            name: the tensor.
            shape: what its shape must be.
            finite: whether to check that all of it is (otherwise: that nothing is NaN).

        Raises:
            ForeignFormatError: it is missing, or one of them is not right.
        """
        self.expect(name, shape)
        entry = self._entry(name)
        if entry.dtype not in _FLOATS:
            raise ForeignFormatError(
                f"{self.path}: {name} has type {entry.dtype}",
                "numbers with a fraction (F16, BF16, F32, F64) are expected",
            )
        if math.prod(shape) > MAX_ELEMENTS:
            raise ForeignFormatError(f"{self.path}: {name} is too large", f"it is {list(shape)}")
        try:
            with safetensors.safe_open(self.path, framework="pt") as stream:
                tensor: Tensor = stream.get_tensor(name).to(torch.float32)
        except (safetensors.SafetensorError, OSError) as error:
            raise ForeignFormatError(f"{self.path} cannot be read", str(error)) from error
        sound = tensor.isfinite() if finite else ~tensor.isnan()
        if not bool(sound.all()):
            raise ForeignFormatError(
                f"{self.path}: {name} holds values that are not finite",
                "they were not when it was saved, or are too large for float32",
            )
        return tensor

    def scalar(self, name: str) -> float:
        """One number.

        Raises:
            ForeignFormatError: it is missing, no single number, or not finite.
        """
        return self.read(name, ()).item()

    def _entry(self, name: str) -> TensorHeader:
        if name not in self._header:
            raise ForeignFormatError(f"{self.path}: tensor {name} is missing")
        return self._header[name]


def check_memory(path: Path, files: Iterable[TensorFile]) -> None:
    """Check that memory has room for a dictionary, before its weights are read.

    They are kept in float32 whatever the files have, and while a tensor is converted and turned
    around there are two more of it.

    Args:
        path: of the dictionary, for messages.
        files: all that it is in.

    Raises:
        UnsupportedDictionaryError: it has not.
    """
    numbers = [n for file in files for n in file.numbers()]
    needed = 4 * (sum(numbers) + 2 * max(numbers, default=0))
    free = available_ram()
    if needed > free:
        raise UnsupportedDictionaryError(
            f"{path} is too large for the memory of this machine",
            f"reading it takes about {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free",
            "Close other programs, or read it on a machine with more memory",
        )


def check_thresholds(path: Path, name: str, threshold: Tensor) -> Tensor:
    """``threshold`` itself, if none is negative.

    Raises:
        ForeignFormatError: names the file and the tensor.
    """
    if bool((threshold < 0).any()):
        raise ForeignFormatError(
            f"{path}: {name} holds negative thresholds", "activations would be negative too"
        )
    return threshold


def _table(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ForeignFormatError(f"{path} holds no table of settings")
    return content
