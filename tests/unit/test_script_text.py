"""Values as Python source: reading what was written gives the same value again."""

from __future__ import annotations

import ast
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from attention_studio.core.crm_quality import EvaluationRequest
from attention_studio.core.graph_settings import GraphSettings
from attention_studio.core.model_records import ModelConfig
from attention_studio.core.script_text import (
    MAX_ITEMS,
    WIDTH,
    ScriptError,
    ScriptWriter,
    path_source,
)
from attention_studio.core.sites import Site
from attention_studio.core.training_config import TrainConfig
from attention_studio.core.training_events import MicroStep
from attention_studio.core.training_request import TrainRequest
from attention_studio.utils.config import Settings
from attention_studio.utils.paths import BUILT_IN_CRMS


def read_back(value: Any) -> Any:
    """What a script of its own makes of a value."""
    script = ScriptWriter("A value")
    script.assign("found", script.value(value))
    names: dict[str, Any] = {}
    exec(script.text(), names)
    return names["found"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        0.1 + 0.2,
        float("inf"),
        "a “quoted” 'text'\nwith \\ two lines and \"\"\"",
        (),
        (1,),
        [1, [2.5, "x"]],
        {"a": (1, 2), "b": {}},
        {3, 1, 2},
        frozenset(("a",)),
        Path("/a folder/with ' in it"),
        ModelConfig("demo"),
        ModelConfig("demo", Path("somewhere"), dtype="float32"),
        GraphSettings(),
        GraphSettings(contrast=(" Austin", 17), positions=(-1, 3), influence=0.5),
        Site(3, "attention"),
        EvaluationRequest((Path("a"), Path("b")), ("samples:10",), ("x" * 90, "y")),
        TrainRequest("demo", ("a",), (), (("layers", (0, 1)), ("k", None)), Path("out")),
        TrainConfig(layers=(0, 1), tokens=4096, seed=7),
    ],
)  # fmt: skip
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    found = read_back(value)
    assert found == value and type(found) is type(value)


def test_numbers_of_numpy_and_read_only_mappings_become_plain() -> None:
    assert read_back(np.float32(0.5)) == 0.5
    assert read_back(np.int64(3)) == 3
    assert read_back(MappingProxyType({"a": 1})) == {"a": 1}


def test_not_a_number_is_written_too() -> None:
    assert np.isnan(read_back(float("nan")))


def test_only_what_differs_from_the_defaults_is_written() -> None:
    script = ScriptWriter("Settings")
    assert script.value(GraphSettings(max_logits=3)) == "GraphSettings(max_logits=3)"
    assert script.value(ModelConfig("demo")) == "ModelConfig(name='demo')"


def test_long_values_are_broken_into_lines_that_fit() -> None:
    script = ScriptWriter("Long")
    script.assign("a", script.value(tuple(f"word number {n}" for n in range(40))))
    assert all(len(line) <= WIDTH + 4 for line in script.text().splitlines())
    ast.parse(script.text())


def test_imports_are_gathered_once_and_sorted() -> None:
    script = ScriptWriter("Imports")
    script.line(script.value((ModelConfig("a"), Path("b"), GraphSettings(), ModelConfig("c"))))
    lines = [line for line in script.text().splitlines() if line.startswith("from ")]
    assert lines == [
        "from pathlib import Path",
        "from attention_studio.core.graph_settings import GraphSettings",
        "from attention_studio.core.model_records import ModelConfig",
    ]


def test_the_title_cannot_end_the_docstring() -> None:
    script = ScriptWriter('Say """ and \\')
    script.line("pass")
    ast.parse(script.text())
    assert script.text().startswith('"""Say')


def test_what_has_no_source_form_is_refused() -> None:
    class Own(Enum):
        A = 1

    script = ScriptWriter("Refused")
    for value in (np.zeros(3), object(), Own.A, MicroStep, list(range(MAX_ITEMS + 1))):
        with pytest.raises(ScriptError):
            script.value(value)


def test_the_window_is_not_used_unasked() -> None:
    script = ScriptWriter("Window")
    with pytest.raises(ScriptError, match="belongs to the window"):
        script.use("attention_studio.ui.app", "run")
    assert script.use("attention_studio.ui.app", "run", work=True) == "run"
    assert script.imports == (("attention_studio.ui.app", "run"),)


def test_secrets_are_not_written() -> None:
    with pytest.raises(ScriptError):
        ScriptWriter("Secret").value(Settings(hf_token="hf_secret"))


def test_what_comes_along_is_written_by_name() -> None:
    script = ScriptWriter("Paths")
    assert path_source(script, BUILT_IN_CRMS["demo"]) == "BUILT_IN_CRMS['demo']"
    assert path_source(script, Path("/else/where")) == "Path('/else/where')"
