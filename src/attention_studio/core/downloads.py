"""Getting files over HTTP: progress in bytes, resume, checksums, and a cancel that works at once.

The blocking socket calls run on a helper thread that feeds a short queue. The calling thread only
waits on that queue, so a cancel or a dead network is noticed within a tenth of a second even while
a name lookup or a read hangs.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import queue
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import urlsplit

from loguru import logger

from attention_studio import __version__
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import explain_write_errors
from attention_studio.utils.outgoing import log_request, public_address
from attention_studio.utils.progress import WorkContext

_CHUNK = 256 << 10
_POLL_SECONDS = 0.1
_RETRY_SECONDS = 0.3
_ATTEMPTS = 3


class NetworkError(StudioError):
    """The network or the server cannot be reached, or stopped answering."""


class DownloadError(StudioError):
    """What arrived is not what was published: cut short, damaged or tampered with."""


class HttpStatusError(StudioError):
    """The server answered with an error status.

    Args:
        url: the address without its query.
        status: the HTTP status.
        code: the hub's own error code from the answer's headers, or an empty string.
    """

    def __init__(self, url: str, status: int, code: str = "") -> None:
        self.url, self.status, self.code = url, status, code
        super().__init__(f"{url} answered with HTTP status {status}", code)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (type(self), (self.url, self.status, self.code))


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch: its name, address and, where published, its size and SHA-256."""

    name: str
    url: str
    size: Optional[int] = None
    sha256: Optional[str] = None


@dataclass(frozen=True)
class _Head:
    status: int
    length: Optional[int]


_Item = Union[_Head, bytes, Exception, None]


class Downloader:
    """Fetches JSON and files.

    Args:
        timeout: seconds without a byte after which the network counts as gone.
        token: sent as a bearer token to ``token_host`` only, never along a redirect.
        token_host: the host that may see the token.
        offline: refuse to open any connection.
    """

    def __init__(
        self,
        timeout: float = 10.0,
        token: Optional[str] = None,
        token_host: str = "",
        offline: bool = False,
    ) -> None:
        self._timeout = timeout
        self._token = token
        self._token_host = token_host
        self._offline = offline

    def get_json(self, url: str, ctx: WorkContext, max_bytes: int = 32 << 20) -> Any:
        """Fetch and parse a JSON document.

        Raises:
            NetworkError, HttpStatusError: it cannot be fetched.
            DownloadError: it is too large or not JSON.
            Cancelled: through ``ctx``.
        """
        body = bytearray()
        with closing(self._stream(url, 0, ctx)) as items:
            for item in items:
                if isinstance(item, bytes):
                    body += item
                    if len(body) > max_bytes:
                        raise DownloadError(f"{public_address(url)} sent far more than expected")
        try:
            return json.loads(bytes(body).decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise DownloadError(
                f"{public_address(url)} did not send valid JSON",
                str(error),
                "A proxy or a login page may stand in between; check the network",
            ) from error

    def fetch(
        self,
        file: RemoteFile,
        target: Path,
        ctx: WorkContext,
        on_bytes: Callable[[int], None] = lambda done: None,
    ) -> str:
        """Fetch ``file`` to ``target``, going on where an earlier try stopped.

        Bytes gather in ``target`` with ``.partial`` added; a cancel or a dead network leaves them
        there for the next try. ``on_bytes`` hears how many bytes of the file are there.

        Returns:
            The SHA-256 of the whole file.

        Raises:
            NetworkError, HttpStatusError: it cannot be fetched.
            DownloadError: size or SHA-256 differ from what was published; the bytes are deleted.
            FileWriteError: it cannot be written, for example because the disk is full.
            Cancelled: through ``ctx``.
        """
        partial = target.with_name(target.name + ".partial")
        with explain_write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
        digest, done = _digest_so_far(partial, ctx)
        if file.size is None or done > file.size:
            # Without a published size nobody can tell a finished file from an unfinished one.
            digest, done = _restart(partial)
        attempts = 0
        while file.size is None or done < file.size:
            before = done
            try:
                digest, done = self._append(file, partial, digest, done, ctx, on_bytes)
                break
            except NetworkError as error:
                digest, done = _digest_so_far(partial, ctx)
                # Progress earns new attempts, so that a long download survives many hiccups.
                attempts = 1 if done > before else attempts + 1
                if done == 0 or attempts >= _ATTEMPTS:
                    raise
                logger.warning(f"{error} Going on from byte {done:,}.")
                time.sleep(_RETRY_SECONDS)
        found = digest.hexdigest()
        problem = _difference(file, done, found)
        if problem:
            partial.unlink(missing_ok=True)
            raise DownloadError(
                f"The download of {file.name} is damaged",
                problem,
                "It was deleted. Try again; if it happens again, do not trust the source",
            )
        with explain_write_errors(target):
            partial.replace(target)
        return found

    def _append(
        self,
        file: RemoteFile,
        partial: Path,
        digest: hashlib._Hash,
        done: int,
        ctx: WorkContext,
        on_bytes: Callable[[int], None],
    ) -> tuple[hashlib._Hash, int]:
        expected: Optional[int] = None
        with (
            closing(self._stream(file.url, done, ctx)) as items,
            explain_write_errors(partial),
            partial.open("ab") as out,
        ):
            for item in items:
                if isinstance(item, _Head):
                    if done and item.status != http.client.PARTIAL_CONTENT:
                        # The server starts from the beginning, and so must we.
                        out.truncate(0)
                        digest, done = hashlib.sha256(), 0
                    expected = None if item.length is None else done + item.length
                else:
                    out.write(item)
                    digest.update(item)
                    done += len(item)
                    on_bytes(done)
        if expected is not None and done < expected:
            raise NetworkError(
                f"The download of {file.name} broke off",
                f"{done:,} of {expected:,} bytes arrived",
                "Check the network and try again; what is there is kept",
            )
        return digest, done

    def _stream(
        self, url: str, start: int, ctx: WorkContext
    ) -> Generator[Union[_Head, bytes], None, None]:
        """Yield the answer's head, then its bytes from ``start`` on."""
        if self._offline:
            raise NetworkError(
                f"{public_address(url)} was not asked",
                "the studio is set to work offline",
                "Set ATTENTION_STUDIO_OFFLINE=false to allow it",
            )
        log_request("GET", url, f"from byte {start:,}" if start else "whole")
        items: queue.Queue[_Item] = queue.Queue(maxsize=8)
        left = threading.Event()
        request = self._request(url, start)
        threading.Thread(
            target=_read,
            args=(request, self._timeout, items, left),
            name="download",
            daemon=True,  # it may hang in a name lookup, which nothing can interrupt
        ).start()
        last = time.monotonic()
        try:
            while True:
                ctx.check()
                try:
                    item = items.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    if time.monotonic() - last > self._timeout + 1.0:
                        raise _unreachable(url, f"no answer for {self._timeout:g} s") from None
                    continue
                last = time.monotonic()
                if item is None:
                    return
                if isinstance(item, urllib.error.HTTPError):
                    if item.code == 429 or item.code >= 500:
                        raise _unreachable(url, f"the server answered HTTP {item.code}") from None
                    code = item.headers.get("X-Error-Code", "") if item.headers else ""
                    raise HttpStatusError(public_address(url), item.code, code) from None
                if isinstance(item, Exception):
                    reason = getattr(item, "reason", None) or item
                    raise _unreachable(url, str(reason)) from item
                yield item
        finally:
            left.set()

    def _request(self, url: str, start: int) -> urllib.request.Request:
        request = urllib.request.Request(url)
        request.add_header("User-Agent", f"attention-studio/{__version__}")
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self._token and urlsplit(url).netloc == self._token_host:
            # Unredirected: the hub forwards downloads to other hosts, which must not see it.
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        return request


def _read(
    request: urllib.request.Request,
    timeout: float,
    items: queue.Queue[_Item],
    left: threading.Event,
) -> None:
    def put(item: _Item) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                items.put(item, timeout=_POLL_SECONDS)
                return

    try:
        with _opener().open(request, timeout=timeout) as response:
            if response.geturl() != request.full_url:
                log_request("GET", response.geturl(), "sent on there")
            length = response.headers.get("Content-Length")
            put(_Head(response.status, int(length) if length else None))
            while not left.is_set():
                chunk = response.read1(_CHUNK)
                if not chunk:
                    break
                put(chunk)
        put(None)
    except (OSError, http.client.HTTPException, ValueError) as error:
        put(error)


def _opener() -> urllib.request.OpenerDirector:
    # Python from python.org finds no system certificates on macOS; certifi, where something else
    # brought it, adds its own to whatever the system has.
    context = ssl.create_default_context()
    try:
        import certifi

        context.load_verify_locations(certifi.where())
    except (ImportError, OSError) as error:
        logger.debug(f"Only the system's certificates are used: {error}")
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))


def _digest_so_far(partial: Path, ctx: WorkContext) -> tuple[hashlib._Hash, int]:
    digest, done = hashlib.sha256(), 0
    with partial.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            ctx.check()
    return digest, done


def _restart(partial: Path) -> tuple[hashlib._Hash, int]:
    with explain_write_errors(partial):
        partial.write_bytes(b"")
    return hashlib.sha256(), 0


def _difference(file: RemoteFile, size: int, sha256: str) -> str:
    if file.size is not None and size != file.size:
        return f"it has {size:,} bytes where {file.size:,} were published"
    if file.sha256 is not None and sha256 != file.sha256:
        return f"its SHA-256 is {sha256} where {file.sha256} was published"
    return ""


def _unreachable(url: str, reason: str) -> NetworkError:
    return NetworkError(
        f"{urlsplit(url).hostname} cannot be reached",
        reason,
        "Check the network, or use a model that is already here (attention-studio models list)",
    )
