"""The log of outgoing traffic."""

from __future__ import annotations

from pathlib import Path

import pytest

from attention_studio.core.downloads import Downloader, NetworkError, RemoteFile
from attention_studio.utils.logging import add_sink
from attention_studio.utils.outgoing import public_address
from attention_studio.utils.progress import WorkContext
from tests.hub_server import serve_hub


def test_what_may_be_secret_in_an_address_is_left_out() -> None:
    assert public_address("https://me:word@host:8/a/b?token=1#x") == "https://host:8/a/b"
    assert public_address("http://[::1]:80/v1") == "http://[::1]:80/v1"


def test_downloads_are_logged_and_refused_ones_are_not(tmp_path: Path) -> None:
    lines: list[str] = []
    remove = add_sink(lambda _level, line: lines.append(line))
    try:
        with serve_hub() as hub, serve_hub() as other:
            hub.repos["a/b"] = other.repos["a/b"] = {"notes.txt": b"text"}
            file = RemoteFile("notes.txt", f"{hub.url}/a/b/resolve/main/notes.txt?sign=abc", 4)
            with pytest.raises(NetworkError, match="offline"):
                Downloader(offline=True).fetch(file, tmp_path / "notes.txt", WorkContext())
            assert lines == []
            Downloader().fetch(file, tmp_path / "notes.txt", WorkContext())
            hub.redirect_to = other.url
            Downloader().fetch(file, tmp_path / "again.txt", WorkContext())
    finally:
        remove()
    assert len(lines) == 3
    assert f"Outgoing: GET {hub.url}/a/b/resolve/main/notes.txt (whole)" in lines[0]
    assert f"Outgoing: GET {other.url}/a/b/resolve/main/notes.txt (sent on there)" in lines[2]
    assert not any("abc" in line for line in lines)
