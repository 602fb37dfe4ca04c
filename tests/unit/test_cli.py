"""The command line's own small parts; what commands do is tested in tests/integration."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from attention_studio import cli
from attention_studio.cli import dictionaries
from attention_studio.utils.config import Settings
from attention_studio.utils.errors import Cancelled, StudioError


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0-2", (0, 1, 2)),
        ("3,0", (0, 3)),
        ("1-2,2", (1, 2)),
        ("all", (0, 1, 2, 3)),
        ("none", ()),
    ],
)
def test_layers_are_read_as_ranges_and_lists(text: Any, layers: tuple[int, ...]) -> None:
    assert dictionaries._layers(text, 4) == layers


@pytest.mark.parametrize("text", ["4", "x", "1-", "-1", "2-1", ""])
def test_layers_that_make_no_sense_are_usage_errors(text: str) -> None:
    with pytest.raises(cli.UsageError):
        dictionaries._layers(text, 4)


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (StudioError("It broke", "of age", "buy another"), 1, "It broke: of age. Buy another."),
        (cli.UsageError("Not so"), 2, "Not so."),
        (Cancelled(), 1, "Stopped"),
        (ZeroDivisionError("by zero"), 1, "Something went wrong inside"),
    ],
)
def test_every_failure_is_one_line_and_a_status(
    error: Exception,
    status: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> cli.Report:
        raise error

    monkeypatch.setattr(cli, "doctor", fail)
    fail.__doc__ = "Fails."
    assert cli.main(["doctor", "--json"]) == status
    printed = capsys.readouterr()
    assert says in json.loads(printed.out)["error"]
    lines = [line for line in printed.err.splitlines() if line.startswith("attention-studio:")]
    assert len(lines) == 1


def test_what_json_cannot_say_is_a_failure_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*_: object) -> cli.Report:
        """Measures."""
        return cli.Report({"fvu": float("nan")}, ["fvu nan"])

    monkeypatch.setattr(cli, "doctor", measure)
    assert cli.main(["doctor", "--json"]) == 1
    assert "error" in json.loads(capsys.readouterr().out)
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == "fvu nan\n"


@pytest.mark.parametrize(
    "words", [("--tokens", "0"), ("--tokens", "-5"), ("--downstream-tokens", "-1")]
)
def test_evaluating_on_no_tokens_is_wrong_usage(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", "--model", "m", "--crm", "c", "--text", "t", *words]
    assert cli.main(line) == 2
    assert words[0] in capsys.readouterr().err


def test_a_bad_setting_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTENTION_STUDIO_THREADS", "many")
    assert cli.main(["doctor"]) == 1
    assert "ATTENTION_STUDIO_THREADS" in capsys.readouterr().err


def test_headless_commands_use_every_core_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def look(_: argparse.Namespace, settings: Settings, __: cli.ConsoleContext) -> cli.Report:
        """Looks."""
        seen.append(settings.threads)
        return cli.Report({}, [])

    monkeypatch.setattr(cli, "doctor", look)
    monkeypatch.setattr(cli, "usable_cores", lambda: 7)
    cli.main(["doctor"])
    monkeypatch.setenv("ATTENTION_STUDIO_THREADS", "3")
    cli.main(["doctor"])
    assert seen == [7, 3]


@pytest.mark.parametrize(
    ("set_to", "said"),
    [
        ({}, "smollm2-135m, in this process"),
        ({"URL": "http://h:1/v1", "MODEL": "m"}, "m at http://h:1/v1, without key"),
        (
            {"URL": "http://h:1/v1", "MODEL": "m", "KEY": "sk-verysecret"},
            "m at http://h:1/v1, with a key",
        ),
        (
            {"URL": "http://h:1/v1"},
            "nobody: http://h:1/v1 is set, and ATTENTION_STUDIO_AGENT_MODEL is not",
        ),
    ],
)
def test_the_doctor_says_whom_agents_ask(
    set_to: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in set_to.items():
        monkeypatch.setenv(f"ATTENTION_STUDIO_AGENT_{name}", value)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"Agents     ask {said}" in out
    assert "verysecret" not in out


def test_the_first_cancel_may_end_work_in_good_order() -> None:
    ctx = cli.ConsoleContext(quiet=True)
    asked: list[str] = []
    ctx.on_cancel = lambda: asked.append("stop")
    ctx.cancel()
    assert asked == ["stop"]
    ctx.check()
    ctx.cancel()
    with pytest.raises(Cancelled):
        ctx.check()


@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--json"), ("attribute", "--help")])
def test_a_reader_that_has_seen_enough_is_no_failure(words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `| head -1` leaves it, only sooner
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "attention_studio", *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


def test_progress_that_nobody_reads_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        ctx = cli.ConsoleContext(quiet=False)
        ctx.progress(0, 10, "Working")
        ctx.progress(1, 10, "Going on")


@pytest.mark.parametrize(
    ("what", "why", "todo", "line"),
    [
        ("It broke", "it is old", "buy another", "It broke: it is old. Buy another."),
        ("It broke", "Is a directory", "", "It broke. Is a directory."),
        ("It broke", "", "k_latents = 3 would do", "It broke. k_latents = 3 would do."),
    ],
)
def test_an_error_reads_as_sentences(what: str, why: str, todo: str, line: str) -> None:
    assert str(StudioError(what, why, todo)) == line


def test_a_second_ctrl_c_ends_at_once_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from attention_studio import __main__

    def interrupted(*_: object) -> cli.Report:
        """Is interrupted."""
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "doctor", interrupted)
    assert __main__.main(["doctor"]) == 130
    assert "Stopped at once" in capsys.readouterr().err
