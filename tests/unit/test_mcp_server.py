"""The server of tools: what it answers, and what hostile lines do to it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Optional

import pytest
from pydantic import Field

from attention_studio.agents import mcp_server
from attention_studio.agents.mcp_server import MAX_CALLS, MAX_LINE_BYTES, McpServer
from attention_studio.agents.tools import Tool, ToolArguments, Toolbox
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext


class Add(ToolArguments):
    a: int = Field(ge=0)
    b: int = 0


class Nothing(ToolArguments):
    pass


class World:
    """Tools that add, wait until they are stopped, fail, and propose."""

    def __init__(self) -> None:
        self.began, self.stopped = threading.Event(), threading.Event()
        self.proposed = 0

    def add(self, args: Add, _ctx: WorkContext) -> Any:
        return {"sum": args.a + args.b, "text": "line\nbreak \u2028 \x85 “ü”"}

    def wait(self, _args: Nothing, ctx: WorkContext) -> Any:
        gate = threading.Event()
        ctx.tell_cancel(gate.set)
        ctx.progress(1, 4, "Waiting")
        self.began.set()
        if gate.wait(30):
            self.stopped.set()
        ctx.check()
        return "never"

    def fail(self, _args: Nothing, _ctx: WorkContext) -> Any:
        raise StudioError("It did not work", "it never does", "Do not")

    def surprise(self, _args: Nothing, _ctx: WorkContext) -> Any:
        raise ZeroDivisionError("secret details")

    def propose(self, _args: Nothing, _ctx: WorkContext) -> Any:
        self.proposed += 1
        return "ok"

    def box(self, proposals: bool = False) -> Toolbox:
        return Toolbox(
            [
                Tool("add", "Adds.", Add, self.add),
                Tool("wait", "Waits.", Nothing, self.wait),
                Tool("fail", "Fails.", Nothing, self.fail),
                Tool("surprise", "Surprises.", Nothing, self.surprise),
                Tool("propose", "Proposes.", Nothing, self.propose, proposing=True),
            ],
            proposals,
        )


class Client:
    """Lines to a server, and what comes back."""

    def __init__(self, reading: BinaryIO, writing: BinaryIO) -> None:
        self._reading, self._writing = reading, writing

    def raw(self, line: bytes) -> None:
        self._writing.write(line + b"\n")
        self._writing.flush()

    def send(self, **message: Any) -> None:
        self.raw(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def hear(self) -> dict[str, Any]:
        line = self._reading.readline()
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        message: dict[str, Any] = json.loads(line)
        assert message.pop("jsonrpc") == "2.0"
        return message

    def ask(self, method: str, number: Any = 1, **params: Any) -> dict[str, Any]:
        self.send(id=number, method=method, params=params)
        answer = self.hear()
        assert answer.pop("id") == number
        return answer

    def call(self, name: str, number: Any = 1, **arguments: Any) -> dict[str, Any]:
        return self.ask("tools/call", number, name=name, arguments=arguments)

    def close(self) -> None:
        self._writing.close()


@contextmanager
def served(
    world: Optional[World] = None, proposals: bool = False, ctx: Optional[WorkContext] = None
) -> Iterator[Client]:
    """A client of a server in this process. It must end by itself when the client is gone."""
    to_server, from_client = os.pipe()
    to_client, from_server = os.pipe()
    with os.fdopen(to_server, "rb") as reading, os.fdopen(from_server, "wb") as writing:
        box = (world or World()).box(proposals)
        server = McpServer(box, reading, writing, "Look, do not touch.")
        thread = threading.Thread(target=server.serve, args=(ctx,))
        thread.start()
        with os.fdopen(to_client, "rb") as hearing:
            client = Client(hearing, os.fdopen(from_client, "wb"))
            try:
                yield client
            finally:
                client.close()
                thread.join(20)
                assert not thread.is_alive()


# ---- what it answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "offered"),
    [
        ("2025-11-25", "2025-11-25"),
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2024-11-05"),
        ("2031-01-01", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
        (None, "2025-11-25"),
        ({"a": 1}, "2025-11-25"),
    ],
)
def test_the_handshake_offers_a_version_that_both_know(asked: Any, offered: str) -> None:
    with served() as client:
        result = client.ask("initialize", protocolVersion=asked, capabilities={})["result"]
        client.send(method="notifications/initialized")
        assert result["protocolVersion"] == offered
        assert result["capabilities"] == {"tools": {}}
        assert result["instructions"] == "Look, do not touch."
        assert client.ask("ping", "p")["result"] == {}


def test_tools_are_told_and_called() -> None:
    with served() as client:
        tools = client.ask("tools/list")["result"]["tools"]
        assert [tool["name"] for tool in tools] == ["add", "wait", "fail", "surprise"]
        assert tools[0]["inputSchema"]["required"] == ["a"]
        assert tools[0]["inputSchema"]["type"] == "object"
        assert tools[0]["annotations"]["readOnlyHint"] is True
        result = client.call("add", a=2, b=3)["result"]
        assert result["isError"] is False
        assert json.loads(result["content"][0]["text"]) == {
            "sum": 5,
            "text": "line\nbreak \u2028 \x85 “ü”",
        }


def test_mistakes_of_arguments_are_results_that_a_model_can_read() -> None:
    with served() as client:
        for arguments in ({}, {"a": -1}, {"a": 1, "c": 2}, {"a": "../../etc/passwd"}):
            result = client.call("add", **arguments)["result"]
            assert result["isError"] is True
            assert "The arguments of add cannot be used" in result["content"][0]["text"]
        failed = client.call("fail")["result"]
        assert failed["isError"] is True and "It did not work" in failed["content"][0]["text"]


def test_a_surprise_ends_one_call_and_tells_nothing_of_the_inside() -> None:
    with served() as client:
        error = client.call("surprise")["error"]
        assert error["code"] == mcp_server.INTERNAL_ERROR
        assert "secret details" not in error["message"]
        assert client.call("add", a=1)["result"]["isError"] is False


def test_proposing_tools_are_there_only_where_they_may_be() -> None:
    world = World()
    with served(world) as client:
        assert client.call("propose")["error"]["code"] == mcp_server.INVALID_PARAMS
    assert world.proposed == 0
    with served(world, proposals=True) as client:
        assert client.call("propose")["result"]["isError"] is False
    assert world.proposed == 1


def test_the_way_without_handshake() -> None:
    envelope = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    with served() as client:
        found = client.ask("server/discover", _meta=envelope)["result"]
        assert "2026-07-28" in found["supportedVersions"]
        assert found["resultType"] == "complete"
        listed = client.ask("tools/list", _meta=envelope)["result"]
        assert (listed["resultType"], listed["cacheScope"]) == ("complete", "private")
        result = client.ask("tools/call", name="add", arguments={"a": 1}, _meta=envelope)["result"]
        assert result["resultType"] == "complete" and result["isError"] is False
        unknown = {"io.modelcontextprotocol/protocolVersion": "2099-01-01"}
        error = client.ask("tools/list", _meta=unknown)["error"]
        assert error["code"] == mcp_server.UNSUPPORTED_VERSION
        assert "2026-07-28" in error["data"]["supported"]


# ---- calls that take long ----------------------------------------------------------------------


def test_a_running_call_is_cancelled_and_gets_no_answer() -> None:
    world = World()
    with served(world) as client:
        meta = {"progressToken": "t"}
        client.send(id=7, method="tools/call", params={"name": "wait", "_meta": meta})
        progress = client.hear()
        assert progress["method"] == "notifications/progress"
        assert progress["params"] == {"progressToken": "t", "progress": 1, "message": "Waiting 25%"}
        assert client.ask("ping", 8)["result"] == {}  # the server listens meanwhile
        client.send(method="notifications/cancelled", params={"requestId": 7})
        assert client.call("add", 9, a=1)["result"]["isError"] is False  # and nothing of 7
    assert world.stopped.is_set()


def test_a_waiting_call_is_cancelled_before_it_begins() -> None:
    world = World()
    with served(world, proposals=True) as client:
        client.send(id=1, method="tools/call", params={"name": "wait"})
        assert world.began.wait(20)
        client.send(id=2, method="tools/call", params={"name": "propose"})
        client.send(method="notifications/cancelled", params={"requestId": 2})
        client.send(method="notifications/cancelled", params={"requestId": 1})
        assert client.call("add", 3, a=1)["result"]["isError"] is False
    assert world.proposed == 0


def test_who_leaves_stops_what_runs() -> None:
    world = World()
    with served(world) as client:
        client.send(id=1, method="tools/call", params={"name": "wait"})
        assert world.began.wait(20)
    assert world.stopped.is_set()


def test_ctrl_c_stops_the_server() -> None:
    world, ctx = World(), WorkContext()
    with served(world, ctx=ctx) as client:
        client.send(id=1, method="tools/call", params={"name": "wait"})
        assert world.began.wait(20)
        ctx.cancel()
        assert world.stopped.wait(20)


def test_calls_that_wait_are_bounded_and_ids_are_used_once_at_a_time() -> None:
    world = World()
    with served(world) as client:
        client.send(id=0, method="tools/call", params={"name": "wait"})
        assert world.began.wait(20)
        again = client.call("add", 0, a=1)["error"]
        assert again["code"] == mcp_server.INVALID_REQUEST
        for number in range(1, MAX_CALLS):
            client.send(id=number, method="tools/call", params={"name": "wait"})
        assert client.call("add", "more", a=1)["error"]["code"] == mcp_server.BUSY


# ---- hostile lines -----------------------------------------------------------------------------

PARSE, INVALID = mcp_server.PARSE_ERROR, mcp_server.INVALID_REQUEST
METHOD, PARAMS = mcp_server.METHOD_NOT_FOUND, mcp_server.INVALID_PARAMS


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"junk", PARSE),
        (b"\xff\xfe\x00", PARSE),
        (b"GET / HTTP/1.1", PARSE),
        (b"[" * 200_000, PARSE),
        (b'{"a":' * 100_000, PARSE),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": NaN}}', PARSE),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "\\ud800"}', PARSE),
        (b"x" * (MAX_LINE_BYTES + 1), PARSE),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "' + b"x" * (3 * MAX_LINE_BYTES), PARSE),
        (b"[]", INVALID),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', INVALID),
        (b"null", INVALID),
        (b"7", INVALID),
        (b"{}", INVALID),
        (b'{"id": 1, "method": "ping"}', INVALID),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', INVALID),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', INVALID),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', INVALID),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}', INVALID),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', INVALID),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "no/such"}', METHOD),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "resources/read"}', METHOD),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "__init__"}', METHOD),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}', PARAMS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call"}', PARAMS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": []}}', PARAMS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "no"}}', PARAMS),
        (
            b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": '
            b'{"name": "add", "arguments": [1]}}',
            PARAMS,
        ),
    ],
)
def test_a_hostile_line_is_refused_and_the_next_one_answered(line: bytes, code: int) -> None:
    with served() as client:
        client.raw(line)
        answer = client.hear()
        assert answer["error"]["code"] == code
        assert len(answer["error"]["message"]) < 500
        assert client.ask("ping", 2)["result"] == {}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   \r",
        b'{"jsonrpc": "2.0", "method": "no/such"}',
        b'{"jsonrpc": "2.0", "method": "ping", "params": [1]}',
        b'{"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "fail"}}',
        b'{"jsonrpc": "2.0", "method": "notifications/cancelled"}',
        b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": []}}',
        b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}',
        b'{"jsonrpc": "2.0", "id": 1, "result": {}}',
        b'{"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}',
    ],
)
def test_what_wants_no_answer_gets_none(line: bytes) -> None:
    with served() as client:
        client.raw(line)
        assert client.ask("ping", 2)["result"] == {}


def test_arguments_of_any_size_reach_the_tool_s_own_check() -> None:
    with served() as client:
        result = client.call("add", a=1, b="x" * 100_000)["result"]
        assert result["isError"] is True
        assert "are too long" in result["content"][0]["text"]
        huge = b'{"name": "add", "arguments": {"a": ' + b"9" * 5000 + b"}}"
        client.raw(b'{"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": ' + huge + b"}")
        answer = client.hear()
        assert "error" in answer or answer["result"]["isError"] is True
        assert client.ask("ping", 4)["result"] == {}
