"""A small model hub on this machine: real sockets, real files, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """What the hub serves and how it misbehaves. ``requests`` records (path, headers)."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    url: str = ""
    cut_after: Optional[int] = None  # bytes of a weight file after which the line breaks
    stall_after: Optional[int] = None  # bytes after which nothing more is sent
    tamper: bool = False  # flips a byte of weight files, leaving the published hash as it is
    ignore_range: bool = False
    status: Optional[int] = None  # answer everything with this
    redirect_to: Optional[str] = None  # send requests for files on to this other address
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def add_folder(self, repo_id: str, folder: Path) -> None:
        """Publish the files of ``folder``."""
        self.repos[repo_id] = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    def paths(self) -> list[str]:
        """The paths that were asked for."""
        return [path for path, _ in self.requests]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        hub = self.hub
        path = self.path.partition("?")[0]
        hub.requests.append((path, dict(self.headers)))
        if hub.status is not None:
            return self._error(hub.status, "")
        if path.startswith("/api/models/"):
            return self._listing(path.removeprefix("/api/models/"))
        if hub.redirect_to is not None and self.headers["Host"] not in hub.redirect_to:
            self.send_response(302)
            self.send_header("Location", hub.redirect_to + path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        repo_id, _, rest = path.strip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        content = hub.repos.get(repo_id, {}).get(name)
        if content is None:
            return self._error(404, "EntryNotFound")
        return self._file(name, content)

    def _listing(self, repo_id: str) -> None:
        if repo_id in self.hub.gated:
            return self._error(401, "GatedRepo")
        files = self.hub.repos.get(repo_id)
        if files is None:
            return self._error(401, "RepoNotFound")
        siblings = []
        for name, content in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest()}
            siblings.append(entry)
        body = json.dumps({"id": repo_id, "sha": REVISION, "siblings": siblings}).encode()
        self._head(200, len(body))
        self.wfile.write(body)
        return None

    def _file(self, name: str, content: bytes) -> None:
        hub, start = self.hub, 0
        wanted = self.headers.get("Range")
        if wanted and not hub.ignore_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if hub.tamper and name.endswith(".safetensors"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        body = content[start:]
        self._head(206 if start else 200, len(body))
        if name.endswith(".safetensors"):
            if hub.cut_after is not None:
                self.wfile.write(body[: hub.cut_after])
                self.close_connection = True
                return
            if hub.stall_after is not None:
                self.wfile.write(body[: hub.stall_after])
                self.wfile.flush()
                hub.released.wait(30)
                return
        self.wfile.write(body)

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Run a hub until the block ends."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
