"""A chat endpoint on this machine that speaks the OpenAI protocol: real sockets, faults on demand.

``ChatServer.turns`` says what it does, one turn per request; when they are used up it answers
``answer``. Turns are made by the functions below, or are functions themselves that get the request.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional


@dataclass
class ChatServer:
    """What is answered, and what was asked."""

    url: str = ""
    answer: str = "Fine."
    turns: list[Turn] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)  # the client left early
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    chat: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.chat
        with chat.lock:
            chat.requests.append(body)
            chat.headers.append(dict(self.headers))
            chat.times.append(time.monotonic())
            turn = chat.turns.pop(0) if chat.turns else says(chat.answer)
        if self.path != "/v1/chat/completions":
            turn = fails(404, f"no route {self.path}")
        try:
            turn(self, body)
        except (BrokenPipeError, ConnectionResetError):
            chat.hung_up.set()
            self.close_connection = True

    def head(self, status: int, kind: str, length: Optional[int] = None, **more: str) -> None:
        """The answer's head; without a length the answer ends with the connection."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if length is None:
            self.close_connection = True

    def event(self, value: Any) -> None:
        """One event of a stream."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


Turn = Callable[[Handler, Mapping[str, Any]], None]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def says(text: str, usage: Any = USAGE, finish: str = "stop") -> Turn:
    """A good answer, word by word."""

    def turn(to: Handler, body: Mapping[str, Any]) -> None:
        to.head(200, "text/event-stream; charset=utf-8")
        to.wfile.write(b": a comment, as some endpoints send while they think\n\n")
        to.event(delta({"role": "assistant", "content": ""}))
        for word in pieces(text):
            to.event(delta({"content": word}))
        to.event(delta({}, finish))
        if usage is not None and body.get("stream_options", {}).get("include_usage"):
            to.event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
        to.event("[DONE]")

    return turn


def asks_for(*calls: tuple[str, str], text: str = "") -> Turn:
    """Calls of tools, (name, arguments as JSON text) each, the arguments in pieces."""

    def turn(to: Handler, _body: Mapping[str, Any]) -> None:
        to.head(200, "text/event-stream")
        if text:
            to.event(delta({"content": text}))
        for index, (name, arguments) in enumerate(calls):
            first = {"index": index, "id": f"c{index}", "type": "function"}
            to.event(delta({"tool_calls": [{**first, "function": {"name": name}}]}))
            for piece in (arguments[:5], arguments[5:]):
                more = {"index": index, "function": {"arguments": piece}}
                to.event(delta({"tool_calls": [more]}))
        to.event(delta({}, "tool_calls"))
        to.event("[DONE]")

    return turn


def says_at_once(text: str, **message: Any) -> Turn:
    """A good answer as one document, from an endpoint that does not stream."""
    turn = {"role": "assistant", "content": text, **message}
    document = {"choices": [{"message": turn, "finish_reason": "stop"}], "usage": USAGE}
    return sends(json.dumps(document).encode(), "application/json")


def sends(body: bytes, kind: str, status: int = 200, **headers: str) -> Turn:
    """Any bytes at all."""

    def turn(to: Handler, _body: Mapping[str, Any]) -> None:
        to.head(status, kind, len(body), **headers)
        to.wfile.write(body)

    return turn


def streams(*lines: str) -> Turn:
    """A stream of just these lines."""

    def turn(to: Handler, _body: Mapping[str, Any]) -> None:
        to.head(200, "text/event-stream")
        to.wfile.write("".join(f"{line}\n" for line in lines).encode())

    return turn


def fails(status: int, message: str = "", **headers: str) -> Turn:
    """An error as the protocol has it; headers such as ``Retry_After="1"``."""
    return sends(
        json.dumps({"error": {"message": message}}).encode(), "application/json", status, **headers
    )


def sends_on_to(url: str, status: int = 307) -> Turn:
    """A redirect."""
    return sends(b"", "text/plain", status, Location=url)


def breaks_off_after(text: str) -> Turn:
    """A stream that says this much and is gone."""

    def turn(to: Handler, _body: Mapping[str, Any]) -> None:
        to.head(200, "text/event-stream")
        for word in pieces(text):
            to.event(delta({"content": word}))

    return turn


def hangs_up() -> Turn:
    """No answer: the connection is closed."""

    def turn(to: Handler, _body: Mapping[str, Any]) -> None:
        to.close_connection = True

    return turn


def falls_silent_after(text: str) -> Turn:
    """Says this much (with "" not even a head) and then nothing until the test ends."""

    def turn(to: Handler, _body: Mapping[str, Any]) -> None:
        if text:
            to.head(200, "text/event-stream")
            for word in pieces(text):
                to.event(delta({"content": word}))
        to.chat.released.wait(30)
        to.close_connection = True

    return turn


def never_ends(word: str = "more ", pause: float = 0.01) -> Turn:
    """Goes on until the client leaves."""

    def turn(to: Handler, _body: Mapping[str, Any]) -> None:
        to.head(200, "text/event-stream")
        while not to.chat.released.is_set():
            to.event(delta({"content": word}))
            to.chat.released.wait(pause)

    return turn


def refuses(field_name: str, message: str, then: Turn, status: int = 400) -> Turn:
    """An error as long as the request has this field (dotted for a field within)."""

    def turn(to: Handler, body: Mapping[str, Any]) -> None:
        value: Any = body
        for part in field_name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            then(to, body)
            return
        with to.chat.lock:
            to.chat.turns.insert(0, turn)  # the next request is judged alike
        fails(status, message)(to, body)

    return turn


def delta(turn: Mapping[str, Any], finish: Optional[str] = None) -> dict[str, Any]:
    """An event of a stream."""
    choice = {"index": 0, "delta": turn, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def pieces(text: str) -> Sequence[str]:
    """``text`` in words with their spaces."""
    words = text.split(" ")
    return [word + (" " if number < len(words) - 1 else "") for number, word in enumerate(words)]


@contextmanager
def serve_chat(*turns: Turn) -> Iterator[ChatServer]:
    """Run an endpoint until the block ends."""
    chat = ChatServer(turns=list(turns))
    handler = type("BoundHandler", (Handler,), {"chat": chat})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        chat.released.set()
        server.shutdown()
        with suppress(OSError):
            server.server_close()
        thread.join()
