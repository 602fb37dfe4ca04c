from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attention_studio.core.downloads import (
    Downloader,
    DownloadError,
    HttpStatusError,
    NetworkError,
    RemoteFile,
)
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.files import FileWriteError
from attention_studio.utils.progress import WorkContext
from tests.hub_server import HubServer, serve_hub

CONTENT = bytes(range(256)) * 8192  # 2 MiB
NAME = "model.safetensors"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve_hub() as server:
        server.repos["a/b"] = {NAME: CONTENT, "config.json": b"{}"}
        yield server


def remote(hub: HubServer, **changes: Any) -> RemoteFile:
    values: dict[str, Any] = {
        "name": NAME,
        "url": f"{hub.url}/a/b/resolve/main/{NAME}",
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    return RemoteFile(**{**values, **changes})


def test_fetch_reports_bytes(hub: HubServer, tmp_path: Path) -> None:
    seen: list[int] = []
    target = tmp_path / "new" / NAME
    digest = Downloader().fetch(remote(hub), target, WorkContext(), seen.append)
    assert target.read_bytes() == CONTENT
    assert digest == hashlib.sha256(CONTENT).hexdigest()
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)
    assert len(seen) > 3
    assert [p.name for p in target.parent.iterdir()] == [NAME]


def test_broken_line_is_picked_up(hub: HubServer, tmp_path: Path) -> None:
    hub.cut_after = 700_000
    Downloader().fetch(remote(hub), tmp_path / NAME, WorkContext())
    assert (tmp_path / NAME).read_bytes() == CONTENT
    ranges = [headers.get("Range") for _, headers in hub.requests]
    assert ranges[0] is None
    assert ranges[1] == "bytes=700000-"


def test_line_that_never_gets_further(hub: HubServer, tmp_path: Path) -> None:
    target = tmp_path / NAME
    target.with_name(NAME + ".partial").write_bytes(CONTENT[:1000])
    hub.cut_after = 0
    with pytest.raises(NetworkError, match="1,000 of 2,097,152"):
        Downloader().fetch(remote(hub), target, WorkContext())
    assert not target.exists()
    assert len(hub.requests) == 3


def test_server_that_ignores_ranges(hub: HubServer, tmp_path: Path) -> None:
    hub.ignore_range = True
    target = tmp_path / NAME
    target.with_name(NAME + ".partial").write_bytes(CONTENT[:1000])
    Downloader().fetch(remote(hub), target, WorkContext())
    assert target.read_bytes() == CONTENT


def test_tampered_file_is_deleted(hub: HubServer, tmp_path: Path) -> None:
    hub.tamper = True
    with pytest.raises(DownloadError, match="SHA-256"):
        Downloader().fetch(remote(hub), tmp_path / NAME, WorkContext())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [len(CONTENT) - 5, len(CONTENT) + 5])
def test_wrong_size(size: int, hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises((DownloadError, HttpStatusError, NetworkError)):
        Downloader().fetch(remote(hub, size=size, sha256=None), tmp_path / NAME, WorkContext())
    assert not (tmp_path / NAME).exists()


def test_cancel_while_the_server_is_silent(hub: HubServer, tmp_path: Path) -> None:
    hub.stall_after = 1_000_000
    ctx = WorkContext()
    arrived = threading.Event()

    def cancel() -> None:
        arrived.wait(5)
        ctx.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()

    def on_bytes(done: int) -> None:
        if done == 1_000_000:
            arrived.set()

    started = time.monotonic()
    with pytest.raises(Cancelled):
        Downloader(timeout=30).fetch(remote(hub), tmp_path / NAME, ctx, on_bytes)
    thread.join()
    assert time.monotonic() - started < 3
    assert [p.name for p in tmp_path.iterdir()] == [NAME + ".partial"]
    # What arrived is kept, and the next try asks for the rest only.
    hub.stall_after = None
    Downloader().fetch(remote(hub), tmp_path / NAME, WorkContext())
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert hub.requests[-1][1]["Range"] == "bytes=1000000-"


def test_silent_server_counts_as_gone(hub: HubServer, tmp_path: Path) -> None:
    hub.stall_after = 0
    started = time.monotonic()
    with pytest.raises(NetworkError, match="cannot be reached"):
        Downloader(timeout=0.3).fetch(remote(hub), tmp_path / NAME, WorkContext())
    assert time.monotonic() - started < 4


def test_refused_connection_fails_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(NetworkError, match="cannot be reached"):
        Downloader().get_json("http://127.0.0.1:9/x", WorkContext())
    assert time.monotonic() - started < 3


def test_offline_opens_no_connection(hub: HubServer) -> None:
    with pytest.raises(NetworkError, match="offline"):
        Downloader(offline=True).get_json(f"{hub.url}/api/models/a/b", WorkContext())
    assert hub.requests == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_overloaded_server_counts_as_network(status: int, hub: HubServer) -> None:
    hub.status = status
    with pytest.raises(NetworkError, match=str(status)):
        Downloader().get_json(f"{hub.url}/api/models/a/b", WorkContext())


def test_missing_page_keeps_signatures_out_of_the_error(hub: HubServer) -> None:
    with pytest.raises(HttpStatusError) as caught:
        Downloader().get_json(f"{hub.url}/a/b/resolve/main/none?signature=xyz", WorkContext())
    assert caught.value.status == 404
    assert "xyz" not in str(caught.value)


def test_login_page_instead_of_json(hub: HubServer) -> None:
    with pytest.raises(DownloadError, match="not send valid JSON"):
        Downloader().get_json(f"{hub.url}/a/b/resolve/main/{NAME}", WorkContext())
    with pytest.raises(DownloadError, match="more than expected"):
        url = f"{hub.url}/a/b/resolve/main/{NAME}"
        Downloader().get_json(url, WorkContext(), max_bytes=100)


def test_token_goes_to_its_host_only(hub: HubServer) -> None:
    host = hub.url.removeprefix("http://")
    url = f"{hub.url}/api/models/a/b"
    Downloader(token="t0ken", token_host=host).get_json(url, WorkContext())
    Downloader(token="t0ken", token_host="other.example").get_json(url, WorkContext())
    sent = [headers.get("Authorization") for _, headers in hub.requests]
    assert sent == ["Bearer t0ken", None]


def test_token_does_not_follow_a_redirect(hub: HubServer, tmp_path: Path) -> None:
    host = hub.url.removeprefix("http://")
    hub.redirect_to = hub.url.replace("127.0.0.1", "localhost")
    downloader = Downloader(token="t0ken", token_host=host)
    downloader.fetch(remote(hub), tmp_path / NAME, WorkContext())
    sent = [(headers["Host"], headers.get("Authorization")) for _, headers in hub.requests]
    assert sent == [(host, "Bearer t0ken"), (host.replace("127.0.0.1", "localhost"), None)]


@pytest.mark.parametrize("fail_at", ["open", "write"])
def test_disk_full(
    fail_at: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullFile:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> FullFile:
            return self

        def __exit__(self, *args: object) -> None:
            self.stream.close()

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = Path.open

    def open_full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "ab":
            if fail_at == "open":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return FullFile(real(self, mode, *args, **kwargs))
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(FileWriteError, match="disk is full"):
        Downloader().fetch(remote(hub), tmp_path / NAME, WorkContext())
    assert not (tmp_path / NAME).exists()
