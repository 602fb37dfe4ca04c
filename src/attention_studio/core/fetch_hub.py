"""Models from the hub: which files a model needs, and fetching them with their checksums.

Only configuration, tokenizer and safetensors files are taken. Pickled weights are never fetched,
and Python files only when the person allowed a model's own code.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote, urlsplit

from attention_studio.core.downloads import (
    Downloader,
    DownloadError,
    HttpStatusError,
    RemoteFile,
)
from attention_studio.core.model_files import SINGLE_WEIGHTS, WEIGHTS_INDEX, ModelFileError
from attention_studio.utils.config import Settings
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileWriteError, explain_write_errors
from attention_studio.utils.logging import register_secret
from attention_studio.utils.progress import WorkContext

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_SHARD = re.compile(r"^model-\d{5}-of-\d{5}\.safetensors$")
_SMALL_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    }
)


class UnknownModelError(StudioError):
    """No model of that name is known here or on the hub."""


class GatedModelError(StudioError):
    """The model exists, but its owner wants to know who uses it."""


@dataclass(frozen=True)
class HubListing:
    """The files of one model at one revision (a commit hash)."""

    repo_id: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def total_bytes(self) -> int:
        """The size of all files whose size is published."""
        return sum(file.size or 0 for file in self.files)


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form of a hub id: ``owner/name``, or ``name`` for a few old ones."""
    return bool(_HUB_ID.match(name)) and ".." not in name and "--" not in name and len(name) <= 96


class HubClient:
    """Talks to the hub that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._endpoint = settings.hf_endpoint
        self._downloader = Downloader(
            timeout=settings.network_timeout,
            token=_token(settings),
            token_host=urlsplit(settings.hf_endpoint).netloc,
            offline=settings.offline,
        )

    def list_files(
        self, repo_id: str, ctx: WorkContext, allow_remote_code: bool = False
    ) -> HubListing:
        """The files that loading ``repo_id`` needs, with sizes and checksums.

        Raises:
            UnknownModelError, GatedModelError: the hub does not hand it out.
            ModelFileError: it has no safetensors.
            NetworkError, DownloadError: the hub cannot be reached or answers nonsense.
            Cancelled: through ``ctx``.
        """
        url = f"{self._endpoint}/api/models/{quote(repo_id)}?blobs=true"
        try:
            answer = self._downloader.get_json(url, ctx)
        except HttpStatusError as error:
            raise self._refusal(repo_id, error) from error
        try:
            revision = str(answer["sha"])
            siblings = {str(entry["rfilename"]): entry for entry in answer["siblings"]}
        except (KeyError, TypeError) as error:
            raise DownloadError(
                f"The hub's answer about {repo_id} cannot be understood", repr(error)
            ) from error
        names = select_files(siblings, allow_remote_code)
        if not any(name.endswith(".safetensors") for name in names):
            raise ModelFileError(
                f"{repo_id} has no safetensors weights",
                "other formats are not fetched: a pickle runs whatever code is inside",
                "Choose another model, or a local folder or .gguf file",
            )
        files = tuple(self._remote_file(repo_id, revision, name, siblings[name]) for name in names)
        return HubListing(repo_id, revision, files)

    def read_config(self, repo_id: str, ctx: WorkContext) -> dict[str, Any]:
        """The model's ``config.json``, without fetching anything else.

        Raises:
            As ``list_files``.
        """
        url = f"{self._endpoint}/{quote(repo_id)}/resolve/main/config.json"
        try:
            config = self._downloader.get_json(url, ctx)
        except HttpStatusError as error:
            raise self._refusal(repo_id, error) from error
        if not isinstance(config, dict):
            raise DownloadError(f"The hub's config.json of {repo_id} cannot be understood")
        return config

    def fetch(self, listing: HubListing, folder: Path, ctx: WorkContext) -> None:
        """Fetch all files of ``listing`` into ``folder``; what is there already is kept.

        Raises:
            FileWriteError: the disk is full, or would be.
            NetworkError, DownloadError: the network broke, or a file is damaged.
            Cancelled: through ``ctx``; what is there stays for the next try.
        """
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        total = listing.total_bytes
        present = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
        check_disk_space(folder, total - present)
        done = 0
        for file in listing.files:
            target = folder / file.name
            if target.is_file() and target.stat().st_size == file.size:
                done += target.stat().st_size  # its checksum was tested before it got this name
                continue

            def report(here: int, before: int = done, name: str = file.name) -> None:
                ctx.progress(before + here, total, f"Fetching {listing.repo_id}: {name}")

            try:
                self._downloader.fetch(file, target, ctx, report)
            except HttpStatusError as error:
                raise self._refusal(listing.repo_id, error) from error
            done += target.stat().st_size
        ctx.progress(done, total, f"Fetched {listing.repo_id}")

    def _remote_file(
        self, repo_id: str, revision: str, name: str, entry: dict[str, Any]
    ) -> RemoteFile:
        lfs = entry.get("lfs") or {}
        size, sha256 = entry.get("size", lfs.get("size")), lfs.get("sha256")
        return RemoteFile(
            name=name,
            url=f"{self._endpoint}/{quote(repo_id)}/resolve/{quote(revision)}/{quote(name)}",
            size=size if isinstance(size, int) else None,
            sha256=sha256 if isinstance(sha256, str) else None,
        )

    def _refusal(self, repo_id: str, error: HttpStatusError) -> StudioError:
        if error.code == "GatedRepo":
            return GatedModelError(
                f"{repo_id} is gated",
                "its owner asks for a login and for its licence to be accepted",
                f"Accept the licence at {self._endpoint}/{repo_id} and set HF_TOKEN",
            )
        return UnknownModelError(
            f"The hub hands out no model '{repo_id}'",
            f"HTTP {error.status} {error.code}".strip(),
            "Check the spelling (owner/name); for a private model set HF_TOKEN",
        )


def select_files(names: Iterable[str], allow_remote_code: bool = False) -> list[str]:
    """The files out of ``names`` that loading needs, small ones first.

    Of several sets of weights exactly one is taken: the plain single file, else the plain shards.
    Variants (``model.fp16.safetensors``, ``consolidated.safetensors``) and folders are left alone.
    """
    at_root = sorted(name for name in names if "/" not in name and not name.startswith("."))
    small = [
        name
        for name in at_root
        if name in _SMALL_FILES or (allow_remote_code and name.endswith(".py"))
    ]
    if SINGLE_WEIGHTS in at_root:
        return [*small, SINGLE_WEIGHTS]
    shards = [name for name in at_root if _SHARD.match(name)]
    if shards and WEIGHTS_INDEX in at_root:
        return [*small, WEIGHTS_INDEX, *shards]
    return small


def check_disk_space(folder: Path, needed: int) -> None:
    """Refuse early what the disk cannot hold.

    Raises:
        FileWriteError: fewer than ``needed`` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FileWriteError(
            f"{folder} has no room for the model",
            f"{needed / 2**30:.2f} GiB are needed and {free / 2**30:.2f} GiB are free",
            "Free some space, or set ATTENTION_STUDIO_CACHE_DIR to another disk",
        )


def find_in_hub_cache(repo_id: str, hub_cache: Path) -> Optional[Path]:
    """The snapshot of ``repo_id`` that other tools left in the hub's own cache, if there is one."""
    repo = hub_cache / f"models--{repo_id.replace('/', '--')}"
    try:
        revision = (repo / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = repo / "snapshots" / revision
    return snapshot if snapshot.is_dir() else None


def _token(settings: Settings) -> Optional[str]:
    if settings.hf_token is not None:
        token: Optional[str] = settings.hf_token.get_secret_value()
    else:
        from huggingface_hub import get_token

        token = get_token()  # of an earlier `hf auth login`
    if token:
        register_secret(token)
    return token or None
