"""The typed tools over the Model Context Protocol, on two streams: other assistants use the studio.

One JSON-RPC message a line, as the protocol says for stdio; no socket. Four methods are all that a
server of tools needs, so they are written here rather than taken from the official SDK: that one
brings a web server, token cryptography and telemetry along, reads lines of any length, and leaves
what is no JSON unanswered. The tests speak to this server with the SDK's client.

Two ways of the protocol are known: with a handshake (``initialize``, 2024-11-05 to 2025-11-25), and
without, each request with its version (2026-07-28). Nothing is remembered of a client but the calls
that run, so both are answered at any time.

Tools run one after the other on the thread that serves; another thread reads, so that a running
call can be cancelled. What a client sends fills in the arguments of tools and nothing else.

Source: https://modelcontextprotocol.io/specification, https://www.jsonrpc.org/specification.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, Optional, Union

from loguru import logger
from pydantic_core import from_json

from attention_studio import __version__
from attention_studio.agents.backends.chat_answer import shown
from attention_studio.agents.backends.records import ToolCall
from attention_studio.agents.tools import Tool, Toolbox
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext

HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-06-18", "2025-11-25")
"""2025-03-26 is left out: it lets clients send many messages as one. Who asks for it is offered the
version before."""
ENVELOPE_VERSIONS: Final = ("2026-07-28",)
MAX_LINE_BYTES = 1 << 20
MAX_CALLS = 64
"""Calls that may wait at once."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND = -32700, -32600, -32601
INVALID_PARAMS, INTERNAL_ERROR, UNSUPPORTED_VERSION = -32602, -32603, -32022
BUSY = -32000

_META = "io.modelcontextprotocol/"
_SECONDS_BETWEEN_PROGRESS = 0.25

RequestId = Union[str, int]


class ProtocolError(Exception):
    """A message that cannot be served, told to the client as a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(message)
        self.error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.error["data"] = data


class McpServer:
    """Serves a box of tools to one client.

    Args:
        tools: what the client may call.
        reading: what the client sends, as bytes.
        writing: what the client reads; nobody else may write there.
        instructions: what a client's model should know of the tools.
    """

    def __init__(
        self, tools: Toolbox, reading: BinaryIO, writing: BinaryIO, instructions: str = ""
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._box = tools
        self._reading, self._writing = reading, writing
        self._instructions = instructions
        self._lock = threading.Lock()
        self._calls: dict[RequestId, _Call] = {}
        self._waiting: queue.SimpleQueue[Optional[_Call]] = queue.SimpleQueue()
        self._write_lock = threading.Lock()

    def serve(self, ctx: Optional[WorkContext] = None) -> None:
        """Serve until the client closes its end, or ``ctx`` is cancelled. What runs then is
        cancelled, too; its answer would have no reader."""
        if ctx is not None:
            ctx.tell_cancel(self._stop)
        try:
            threading.Thread(target=self._read, name="mcp-reader", daemon=True).start()
            while (call := self._waiting.get()) is not None:
                self._carry_out(call)
        finally:
            if ctx is not None:
                ctx.tell_cancel(None)

    # -- the thread that reads ----------------------------------------------------------------

    def _read(self) -> None:
        try:
            while (line := self._line()) is not None:
                self._take(line)
        except (OSError, ValueError) as error:  # ValueError: a stream that was closed
            logger.debug(f"The client is gone: {error}")
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._lock:
            running = list(self._calls.values())
        for call in running:
            call.cancel()
        self._waiting.put(None)

    def _line(self) -> Optional[bytes]:
        """The next line; None at the end. Of one that is too long only the length is kept."""
        line = self._reading.readline(MAX_LINE_BYTES + 1)
        if len(line) <= MAX_LINE_BYTES:
            return line or None
        size = len(line)
        while line and not line.endswith(b"\n"):
            line = self._reading.readline(MAX_LINE_BYTES)
            size += len(line)
        self._refuse(
            None,
            ProtocolError(
                PARSE_ERROR, f"A line of {size:,} bytes; {MAX_LINE_BYTES:,} are the most"
            ),
        )
        return b"\n"

    def _take(self, line: bytes) -> None:
        """Answer one line, or leave its call to the thread that serves."""
        if not line.strip():
            return
        message: dict[str, Any] = {}
        try:
            message = _parsed(line)
            self._obey(message)
        except ProtocolError as error:
            # Notifications are never answered, not even where they are wrong.
            if "id" in message or "method" not in message:
                self._refuse(message.get("id"), error)
        except OSError:
            raise
        except Exception as error:
            # The boundary: whatever a client sends, the next line is read.
            logger.opt(exception=error).error("A message of a client could not be served")
            self._refuse(message.get("id"), ProtocolError(INTERNAL_ERROR, type(error).__name__))

    def _obey(self, message: Mapping[str, Any]) -> None:
        if "method" not in message and ("result" in message or "error" in message):
            return  # an answer, and nothing was asked
        method, params = _method_of(message)
        if "id" not in message:
            self._hear(method, params)
        elif method == "tools/call":
            self._begin(message["id"], params)
        else:
            self._send({"id": message["id"], "result": self._answer(method, params)})

    def _hear(self, method: str, params: Mapping[str, Any]) -> None:
        """A notification. Those that are not known do nothing."""
        if method != "notifications/cancelled":
            return
        request = params.get("requestId")
        if isinstance(request, bool) or not isinstance(request, (str, int)):
            return
        with self._lock:
            call = self._calls.get(request)
        if call is not None:
            call.cancel()

    def _answer(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """What is answered at once.

        Raises:
            ProtocolError: it is not known, or asked in a version that is not.
        """
        enveloped = _is_enveloped(params)
        if method == "initialize":
            offered = _offered(params.get("protocolVersion"))
            return {"protocolVersion": offered, "serverInfo": _SERVER, **self._about()}
        if method == "server/discover":
            known = [*HANDSHAKE_VERSIONS, *ENVELOPE_VERSIONS]
            found = {"supportedVersions": known, "ttlMs": 0, "cacheScope": "private"}
            return _complete({**found, **self._about()}, True)
        if method == "ping":
            return _complete({}, enveloped)
        if method == "tools/list":
            listed: dict[str, Any] = {"tools": [_told(tool) for tool in self._box]}
            if enveloped:
                listed |= {"ttlMs": 0, "cacheScope": "private"}
            return _complete(listed, enveloped)
        raise ProtocolError(METHOD_NOT_FOUND, f"There is no method {shown(method)}")

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = {"capabilities": {"tools": {}}}
        if self._instructions:
            about["instructions"] = self._instructions
        return about

    def _begin(self, request: RequestId, params: Mapping[str, Any]) -> None:
        """Let a call wait for its turn.

        Raises:
            ProtocolError: there is no such tool, or too many calls wait.
        """
        enveloped = _is_enveloped(params)
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str) or name not in self._tools:
            raise ProtocolError(INVALID_PARAMS, f"There is no tool {shown(str(name))}")
        if arguments is not None and not isinstance(arguments, dict):
            raise ProtocolError(INVALID_PARAMS, "The arguments of a tool are an object")
        meta = params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        if not isinstance(token, (str, int)) or isinstance(token, bool):
            token = None
        written = json.dumps(arguments or {}, ensure_ascii=False)
        call = _Call(self, request, name, written, token, enveloped)
        with self._lock:
            if request in self._calls:
                raise ProtocolError(INVALID_REQUEST, "A call with this id is running")
            if len(self._calls) >= MAX_CALLS:
                raise ProtocolError(BUSY, f"{MAX_CALLS} calls are waiting; wait for some of them")
            self._calls[request] = call
        self._waiting.put(call)

    # -- the thread that serves ---------------------------------------------------------------

    def _carry_out(self, call: _Call) -> None:
        try:
            call.check()
            outcome = self._box.call(ToolCall(str(call.id), call.name, call.arguments), call)
            content = [{"type": "text", "text": outcome.text}]
            result = _complete({"content": content, "isError": outcome.failed}, call.enveloped)
            message: dict[str, Any] = {"id": call.id, "result": result}
        except Cancelled:
            stopped = ProtocolError(INTERNAL_ERROR, f"{call.name} was stopped")
            message = {"id": call.id, "error": stopped.error}
        except Exception as error:
            # The boundary: a tool that fails for a reason that nobody foresaw ends alone.
            logger.opt(exception=error).error(f"The tool {call.name} failed")
            told = f"{call.name} failed inside the studio ({type(error).__name__}); see its log"
            message = {"id": call.id, "error": ProtocolError(INTERNAL_ERROR, told).error}
        with self._lock:
            del self._calls[call.id]
        if call.cancelled:
            return  # who has cancelled a call expects no answer to it
        try:
            self._send(message)
        except (OSError, ValueError) as error:
            logger.debug(f"The client is gone: {error}")
            self._stop()

    # -- writing ------------------------------------------------------------------------------

    def _refuse(self, request: Optional[RequestId], error: ProtocolError) -> None:
        self._send({"id": request, "error": error.error})

    def _send(self, message: Mapping[str, Any]) -> None:
        # ASCII, so that no line of a text is taken for the end of the message.
        line = json.dumps({"jsonrpc": "2.0", **message}, allow_nan=False)
        with self._write_lock:
            self._writing.write(line.encode() + b"\n")
            self._writing.flush()

    def tell_progress(self, token: RequestId, number: int, text: str) -> None:
        """Tell the client how far a call is; ``number`` grows from one to the next."""
        params = {"progressToken": token, "progress": number, "message": text}
        self._send({"method": "notifications/progress", "params": params})


class _Call(WorkContext):
    """A call of a tool: what was asked for, and the context that it runs in."""

    def __init__(
        self,
        server: McpServer,
        request: RequestId,
        name: str,
        arguments: str,
        token: Optional[RequestId],
        enveloped: bool,
    ) -> None:
        super().__init__()
        self.id, self.name, self.arguments = request, name, arguments
        self.enveloped = enveloped
        self._server, self._token = server, token
        self._number, self._last = 0, 0.0

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        """Tell the client now and then, if it wants to know."""
        now = time.monotonic()
        if self._token is None or self.cancelled or now - self._last < _SECONDS_BETWEEN_PROGRESS:
            return
        self._last, self._number = now, self._number + 1
        share = f" {100 * done / total:.0f}%" if total else ""
        try:
            self._server.tell_progress(self._token, self._number, f"{text}{share}")
        except (OSError, ValueError):
            self.cancel()  # nobody is there who would hear the result


_SERVER: Final = {"name": "attention-studio", "version": __version__}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        message = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        raise ProtocolError(PARSE_ERROR, f"That is no JSON: {shown(str(error))}") from None
    if not isinstance(message, dict):
        raise ProtocolError(INVALID_REQUEST, "A message is one JSON object")
    found = message.get("id")
    if "id" in message and (isinstance(found, bool) or not isinstance(found, (str, int))):
        raise ProtocolError(INVALID_REQUEST, "An id is a text or a whole number")
    return message


def _method_of(message: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    method, params = message.get("method"), message.get("params")
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise ProtocolError(INVALID_REQUEST, "A message has “jsonrpc”: “2.0” and a method")
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise ProtocolError(INVALID_PARAMS, "Parameters are an object")
    return method, params


def _is_enveloped(params: Mapping[str, Any]) -> bool:
    """Whether a request brings its version along, as those without a handshake do.

    Raises:
        ProtocolError: it is a version that is not known.
    """
    meta = params.get("_meta")
    version = meta.get(f"{_META}protocolVersion") if isinstance(meta, dict) else None
    if version is None:
        return False
    if version not in ENVELOPE_VERSIONS:
        known = [*HANDSHAKE_VERSIONS, *ENVELOPE_VERSIONS]
        asked = shown(str(version))
        raise ProtocolError(
            UNSUPPORTED_VERSION,
            f"Version {asked} of the protocol is not known",
            {"supported": known, "requested": asked},
        )
    return True


def _offered(asked: Any) -> str:
    """The version for a handshake: what is asked for, else the newest of ours that is older. Their
    names are dates."""
    older = [one for one in HANDSHAKE_VERSIONS if isinstance(asked, str) and one <= asked]
    return older[-1] if older else HANDSHAKE_VERSIONS[-1]


def _complete(result: dict[str, Any], enveloped: bool) -> dict[str, Any]:
    """A result as the version wants it."""
    if not enveloped:
        return result
    return {**result, "resultType": "complete", "_meta": {f"{_META}serverInfo": _SERVER}}


def _told(tool: Tool[Any]) -> dict[str, Any]:
    """A tool as the protocol tells it. None of them writes anything: who proposes a change gets it
    back as an edit that a person may apply."""
    spec = tool.spec
    return {
        "name": spec.name,
        "description": spec.help,
        "inputSchema": {"type": "object", **spec.schema},
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    }
