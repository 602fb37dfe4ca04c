"""Writing files so that a reader never meets half of one, and reading them with a limit.

Everything is first written beside its destination, flushed to the disk, and then renamed into
place. A crash, a kill or a full disk leaves the old version, or nothing, but never a torn file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

from safetensors import SafetensorError

from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

_TEMP_MARK = ".part-"
_CHUNK = 1 << 20
_OS_ERROR = re.compile(r"\(os error (\d{1,6})\)")


class FileWriteError(StudioError):
    """A file or folder could not be written; the previous version, if any, is untouched."""


class FileReadError(StudioError):
    """A file could not be read, is too large, or does not hold what it should."""


class FileAccessError(FileReadError):
    """The system does not give a file out; what is in it may be as it should."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success flush it and rename it into place.

    The block writes the temporary file however it likes. If the block raises, the temporary file
    is removed and ``path`` stays as it was.

    Raises:
        FileWriteError: the disk is full, the folder is read-only, and the like.
    """
    temporary = _beside(path)
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside ``path``; on success rename it into place, whole.

    An existing folder at ``path`` is replaced. If the block raises, the new folder is removed and
    the old one stays.

    Raises:
        FileWriteError: the disk is full, the folder is read-only, and the like.
    """
    temporary = _beside(path)
    try:
        with explain_write_errors(path):
            temporary.mkdir(parents=True)
            yield temporary
            publish_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def passing_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give an empty folder in ``parent`` that goes again with all that is in it; what a killed
    process leaves of it ``remove_leftovers`` takes away.

    Raises:
        FileWriteError: it cannot be made.
    """
    temporary = _beside(parent / name)
    with explain_write_errors(temporary):
        temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(staging: Path, path: Path) -> None:
    """Flush a finished folder and rename it to ``path``, replacing what was there.

    Both must lie on the same file system.

    Raises:
        FileWriteError: it cannot be flushed or renamed.
    """
    with explain_write_errors(path):
        flush_files(staging)
        path.parent.mkdir(parents=True, exist_ok=True)
        _swap_folder(staging, path)
        _flush_folder(path.parent)


def flush_files(folder: Path) -> None:
    """Have all files of a folder lie on the disk.

    Raises:
        OSError: one cannot be flushed.
    """
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            _flush(file)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn the ``OSError`` of a failed write into a ``FileWriteError`` that names ``path``.

    What safetensors raises instead tells the system's error in its text, as "(os error 28)".
    """
    try:
        yield
    except OSError as error:
        raise _write_error(path, error) from error
    except SafetensorError as error:
        found = _OS_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise _write_error(path, OSError(number, os.strerror(number))) from error


def write_json_atomic(path: Path, value: Any, max_bytes: Optional[int] = None) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically.

    Args:
        max_bytes: what ``read_json`` will be told of the same file.

    Raises:
        FileWriteError: it cannot be written, or has more bytes than that.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    written = text.encode("utf-8")
    if max_bytes is not None and len(written) > max_bytes:
        raise FileWriteError(
            f"{path} would become too large",
            f"it would have {len(written):,} bytes and may have {max_bytes:,}",
            "Throw away some of what it holds",
        )
    with atomic_write(path) as temporary:
        temporary.write_bytes(written)


def read_text(path: Path, max_bytes: int = 64 << 20) -> str:
    """Read a UTF-8 file of at most ``max_bytes`` bytes.

    Raises:
        FileAccessError: it is missing, may not be read, and the like.
        FileReadError: it is too large, or not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise FileReadError(
                f"{path} is too large",
                f"it has {size:,} bytes and at most {max_bytes:,} are expected",
                "Check that it is the right file",
            )
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise FileAccessError(f"{path} cannot be read", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise FileReadError(
            f"{path} is not UTF-8 text", str(error), "Restore the file or make it anew"
        ) from error


def read_json(path: Path, max_bytes: int = 64 << 20) -> Any:
    """Read a JSON file of at most ``max_bytes`` bytes.

    Raises:
        FileAccessError: it is missing, may not be read, and the like.
        FileReadError: it is too large, not UTF-8, or not JSON.
    """
    text = read_text(path, max_bytes)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError alone: thousands of digits
        raise FileReadError(
            f"{path} is not valid JSON", str(error), "Restore the file or make it anew"
        ) from error


def sha256_file(path: Path, ctx: Optional[WorkContext] = None) -> str:
    """The SHA-256 of a file, as 64 hex digits, read in pieces.

    Raises:
        FileReadError: it cannot be read.
        Cancelled: through ``ctx``, between two pieces.
    """
    return sha256_files([path], ctx)


def sha256_files(paths: list[Path], ctx: Optional[WorkContext] = None) -> str:
    """The SHA-256 of the files' contents one after the other (as ``cat FILES | sha256sum``).

    Raises:
        FileReadError: one cannot be read.
        Cancelled: through ``ctx``, between two pieces.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    if ctx is not None:
                        ctx.check()
        except OSError as error:
            raise FileReadError(f"{path} cannot be read", error.strerror or str(error)) from error
    return digest.hexdigest()


def remove_leftovers(folder: Path, older_than_seconds: float = 24 * 3600) -> int:
    """Delete what killed processes left half-written in ``folder``; return how many entries.

    Only entries that this module made and that nobody touched for a day: a younger one may belong
    to a process that is still writing.
    """
    removed = 0
    if not folder.is_dir():
        return 0
    for entry in folder.glob(f".*{_TEMP_MARK}*"):
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime < older_than_seconds:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            removed += 1
    return removed


def _beside(path: Path) -> Path:
    # Same folder, so that the rename stays within one file system and is atomic. The suffix is
    # kept because some writers choose the format by it.
    return path.with_name(f".{path.stem}{_TEMP_MARK}{uuid.uuid4().hex[:12]}{path.suffix}")


def _flush(path: Path) -> None:
    # "r+b": Windows flushes only handles that may write.
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    # Makes the rename itself durable. Windows cannot open folders, and needs no flush.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def _swap_folder(new: Path, path: Path) -> None:
    # A folder with content cannot be replaced in one step, so the old one steps aside first and
    # comes back if the second rename fails.
    if not path.exists():
        new.replace(path)
        return
    old = _beside(path)
    path.replace(old)
    try:
        new.replace(path)
    except OSError:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_error(path: Path, error: OSError) -> FileWriteError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why, todo = "the disk is full", f"Free some space on the disk that holds {path.parent}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why, todo = "writing there is not allowed", "Choose another folder or change its rights"
    else:
        why, todo = error.strerror or str(error), "Choose another place and try again"
    return FileWriteError(f"{path} could not be written", why, todo)
