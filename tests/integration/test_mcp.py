"""``attention-studio mcp`` as other assistants use it: a process of its own, on the demo, asked by
the official client of the protocol, and by one that means no good."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from attention_studio.agents.mcp_server import MAX_LINE_BYTES, PARSE_ERROR
from tests.asked import ORDER, everything_in, write_dashboards, write_workspace

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

COMMAND = ("-m", "attention_studio", "mcp")
PROMPT = "The capital of France is"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_workspace(tmp_path / "work")
    write_dashboards(tmp_path / "store")
    return tmp_path


def parameters(*words: str) -> StdioServerParameters:
    env = {"OMP_NUM_THREADS": "1", "ATTENTION_STUDIO_OFFLINE": "true"}
    return StdioServerParameters(command=sys.executable, args=[*COMMAND, *words], env=env)


def text_of(result: Any) -> str:
    assert [part.type for part in result.content] == ["text"]
    return str(result.content[0].text)


def value_of(result: Any) -> Any:
    assert not result.is_error, text_of(result)
    return json.loads(text_of(result))


def server_process() -> psutil.Process:
    (found,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if COMMAND[-1] in child.cmdline() and "attention_studio" in child.cmdline()
    )
    return found


def assert_no_socket(process: psutil.Process) -> None:
    """Neither listening nor connected, of no family; not even one of the machine's own."""
    assert process.net_connections(kind="all") == []
    if sys.platform == "linux":
        files = [path.readlink() for path in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert len(files) >= 4
        assert not [path for path in files if str(path).startswith("socket:")]


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
def test_the_official_client_reads_a_workspace(folder: Path, mode: Any, version: str) -> None:
    before = everything_in(folder)

    async def use() -> None:
        words = ("--workspace", str(folder / "work"), "--store", str(folder / "store"))
        async with Client(parameters(*words), mode=mode) as client:
            assert client.protocol_version == version
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"workspace", "find_nodes", "feature_page", "show_run"} <= names
            assert not {name for name in names if "propos" in name or "intervention" in name}
            told = value_of(await client.call_tool("workspace", {}))
            assert [graph["graph"] for graph in told["graphs"]] == ["G1", "G2"]
            found = value_of(await client.call_tool("find_nodes", {"query": "kind=token"}))
            assert found["found"] == 4 and found["nodes"][0]["node"].endswith("/token")
            page = value_of(await client.call_tool("feature_page", {"feature": "L1/F2"}))
            assert page["label"] == ORDER  # data, as it is
            wrong = await client.call_tool("find_nodes", {"query": "layer>"})
            assert wrong.is_error and text_of(wrong)
            with pytest.raises(Exception, match="no tool"):
                await client.call_tool("propose_pin", {"nodes": ["P1/token"]})
            assert_no_socket(server_process())

    anyio.run(use)
    assert everything_in(folder) == before


def test_the_demo_is_traced_changed_and_asked_and_a_long_call_is_stopped() -> None:
    async def use() -> None:
        heard: list[str] = []
        async with Client(parameters("--model", "demo", "--propose")) as client:
            traced = value_of(await client.call_tool("trace_prompt", {"prompt": PROMPT}))
            assert traced["open_graph"] == "T1" and traced["model"] == "demo"
            found = value_of(await client.call_tool("find_nodes", {"query": "kind=feature"}))
            node = found["nodes"][0]["node"]
            inputs = value_of(await client.call_tool("node_inputs", {"node": node}))
            assert inputs["edges"] > 0
            run = value_of(await client.call_tool("run_intervention", {"features": [node]}))
            assert run["done"] == f"ablate {node}" and run["next_tokens"]
            runs = value_of(await client.call_tool("list_runs", {}))
            assert [one["run"] for one in runs] == ["run 1"]
            proposed = await client.call_tool("propose_label", {"node": node, "text": "France"})
            assert "The person decides" in text_of(proposed)
            listed = value_of(await client.call_tool("list_proposals", {}))
            assert listed[0]["text"] == "France" and listed[0]["graph"] == "T1"

            # A prompt as long as the demo takes: stopped in the middle, by the client itself.
            async def heard_of(_done: float, _total: Any, message: Any) -> None:
                heard.append(str(message))
                scope.cancel()

            with anyio.CancelScope() as scope:
                long = {"prompt": " ".join([PROMPT] * 12)}
                await client.call_tool("trace_prompt", long, progress_callback=heard_of)
            assert scope.cancelled_caught and heard
            told = value_of(await client.call_tool("workspace", {}))
            assert [one["graph"] for one in told["traced_here"]] == ["T1"]
            assert_no_socket(server_process())

    anyio.run(use)


# ---- without the official client ---------------------------------------------------------------


@contextmanager
def raw(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, *COMMAND, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


PING = b'{"jsonrpc": "2.0", "id": "p", "method": "ping"}'


def test_hostile_lines_to_a_real_process_and_nothing_but_the_protocol_on_its_output(
    folder: Path,
) -> None:
    with raw("--workspace", str(folder / "work")) as process:
        for line in (b"junk", b"\x00" * 1000, b"y" * (5 * MAX_LINE_BYTES), b"[" * 100_000):
            say(process, line)
            assert hear(process)["error"]["code"] == PARSE_ERROR
        say(process, PING)
        assert hear(process) == {"jsonrpc": "2.0", "id": "p", "result": {}}
        out, err = process.communicate(timeout=60)  # closes its input
        assert (process.returncode, out) == (0, b"")
        assert b"jsonrpc" not in err and b"Traceback" not in err


def test_whoever_else_prints_prints_elsewhere() -> None:
    code = (
        "import os, subprocess, sys\n"
        "from attention_studio.cli.asking import _protocol_streams\n"
        "with _protocol_streams() as (reading, writing):\n"
        "    print('python'); sys.stdout.flush(); os.write(1, b'below')\n"
        "    subprocess.run([sys.executable, '-c', 'print(repr(input()))'])\n"  # hears nothing
        "    writing.write(reading.readline()); writing.flush()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], input=b"said\n", capture_output=True, timeout=60
    )
    assert found.stdout == b"said\n"
    assert b"python" in found.stderr and b"below" in found.stderr
    assert b"said" not in found.stderr and b"EOFError" in found.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_ends_it_in_good_order(folder: Path) -> None:
    with raw("--workspace", str(folder / "work")) as process:
        say(process, PING)
        assert hear(process)["result"] == {}
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None and b"Fatal" not in process.stderr.read()


def test_what_cannot_be_opened_is_said_on_the_error_stream_alone(tmp_path: Path) -> None:
    for words, status in ((("--workspace", str(tmp_path)), 1), ((), 2), (("--model",), 2)):
        with raw(*words) as process:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out) == (status, b"") and err
