"""Tools of agents: what reaches them, what does not, and what comes back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from attention_studio.agents.backends.records import ToolCall
from attention_studio.agents.tools import (
    MAX_ARGUMENT_CHARS,
    MAX_RESULT_CHARS,
    Tool,
    ToolArguments,
    Toolbox,
    ToolError,
    as_text,
)
from attention_studio.utils.errors import Cancelled, StudioError
from attention_studio.utils.progress import WorkContext


class Place(ToolArguments):
    layer: int = Field(ge=0, lt=30, description="Which layer.")
    name: str = Field(default="x", max_length=20)


def tool(run: Any = None, **more: Any) -> Tool[Place]:
    return Tool("look", "Looks.", Place, run or (lambda args, ctx: [args.layer, args.name]), **more)


def call(box: Toolbox, arguments: str, name: str = "look") -> tuple[str, bool]:
    outcome = box.call(ToolCall("1", name, arguments), WorkContext())
    return outcome.text, outcome.failed


def test_the_schema_says_what_there_is_to_say() -> None:
    spec = tool().spec
    assert (spec.name, spec.help) == ("look", "Looks.")
    assert spec.schema["additionalProperties"] is False
    assert spec.schema["required"] == ["layer"]
    assert spec.schema["properties"]["layer"]["description"] == "Which layer."


def test_a_good_call() -> None:
    assert call(Toolbox([tool()]), ' {"layer": 3} ') == ('[3, "x"]', False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "layer: Field required"),
        ("{}", "layer: Field required"),
        ("not json", "Invalid JSON"),
        ("[" * 50_000, "Invalid JSON"),
        ("[3]", "arguments: Input should be an object"),
        ('{"layer": 30}', "less than 30"),
        ('{"layer": NaN}', "layer"),
        ('{"layer": "__import__(1)"}', "layer"),
        ('{"layer": 3, "path": "/etc/passwd"}', "path: Extra inputs are not permitted"),
        ('{"layer": 3, "name": "' + "x" * 21 + '"}', "at most 20"),
        ('{"layer": 3, "name": "' + "x" * MAX_ARGUMENT_CHARS + '"}', "too long"),
    ],
)
def test_bad_arguments_never_reach_the_tool_and_are_explained(arguments: str, words: str) -> None:
    reached: list[Place] = []
    text, failed = call(Toolbox([tool(lambda args, ctx: reached.append(args))]), arguments)
    assert failed and words in text
    assert len(text) < 2000
    assert reached == []


def test_many_problems_are_counted() -> None:
    with pytest.raises(ToolError, match="and 13 more"):
        tool().parse(json.dumps({f"field{i}": 1 for i in range(20)}))


def test_unknown_tools_and_proposals_lead_nowhere() -> None:
    done: list[int] = []
    proposing = Tool("write", "Writes.", Place, lambda a, c: done.append(a.layer), proposing=True)
    box = Toolbox([tool(), proposing])
    assert "write" not in box and len(box) == 1
    assert [spec.name for spec in box.specs] == ["look"]
    for name in ("write", "os.system", "", "look\nwrite", "LOOK"):
        text, failed = call(box, '{"layer": 1}', name)
        assert failed and text == "There is no tool of this name. Tools: look."
    assert done == []
    assert call(Toolbox([proposing], proposals=True), '{"layer": 1}', "write") == ("null", False)
    assert done == [1]


def test_names_are_names_of_one_tool() -> None:
    with pytest.raises(ValueError, match="two tools"):
        Toolbox([tool(), tool()])


def test_errors_of_tools_are_told_and_surprises_are_not_hidden() -> None:
    def refuse(_args: Place, _ctx: WorkContext) -> None:
        raise StudioError("There is no such feature", "layer 3 has 10", "Ask for another")

    assert call(Toolbox([tool(refuse)]), '{"layer": 3}') == (
        "There is no such feature: layer 3 has 10. Ask for another.",
        True,
    )

    def fail(_args: Place, _ctx: WorkContext) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(Toolbox([tool(fail)]), '{"layer": 3}')

    def stop(_args: Place, _ctx: WorkContext) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        call(Toolbox([tool(stop)]), '{"layer": 3}')


def test_results_are_bounded_and_whole_characters() -> None:
    text, failed = call(Toolbox([tool(lambda a, c: "y" * 100_000)]), '{"layer": 3}')
    assert not failed
    assert len(text) < MAX_RESULT_CHARS + 100
    assert "76,000 more characters were left out" in text
    text, _ = call(Toolbox([tool(lambda a, c: "half \ud83d")]), '{"layer": 3}')
    assert text.encode() == b"half ?"


def test_results_as_text() -> None:
    @dataclass(frozen=True)
    class Row:
        name: str
        values: Any

    rows = [Row("a", np.float32(0.5)), Row("b", np.arange(2)), Place(layer=1), {3, 1}]
    assert json.loads(as_text(rows)) == [
        {"name": "a", "values": 0.5},
        {"name": "b", "values": [0, 1]},
        {"layer": 1, "name": "x"},
        [1, 3],
    ]
    assert as_text("Åse, 大阪") == "Åse, 大阪"
