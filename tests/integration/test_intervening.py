"""``intervene`` and ``validate`` as a person would type them, on the demo that comes along."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from attention_studio.cli import main
from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.validation_report import ValidationReport

pytestmark = pytest.mark.integration

DALLAS = "The capital of the state containing Dallas is"
OAKLAND = "The capital of the state containing Oakland is"
EIGHT = "A0/8/375,A0/8/325,A0/8/188,A0/8/134,A0/8/110,A0/8/343,A0/8/154,A0/8/295"
"""What the first attention gathers at “is”: the features that differ most between the two."""

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with ``--json`` on the demo; give its status and what it printed."""

    def call(command: str, *words: str, prompt: str = DALLAS) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        line = [command, "--model", "demo", "--crm", "demo", "--prompt", prompt, *words]
        status = main([*line, "--json", "--quiet", "--device", "cpu"])
        out = capsys.readouterr().out
        return status, json.loads(out) if out else {}

    return call


def test_eight_features_swapped_make_dallas_oakland(run: Run) -> None:
    status, found = run(
        *("intervene", "--swap", EIGHT, "--swap-from", OAKLAND, "--generate", "2"),
        *("--token", " Austin", "--token", " Sacramento"),
    )
    assert status == 0
    before, after = (
        max(found["next_tokens"], key=lambda token: token[f"logit_{when}"])
        for when in ("before", "after")
    )
    assert (before["token"], after["token"]) == (" Austin", " Sacramento")
    assert before["probability_before"] > 0.99 and after["probability_after"] > 0.9
    assert found["logit_difference"]["before"] > 5 > -2 > found["logit_difference"]["after"]
    generated = found["generation"]
    assert generated["original"]["text"].split()[0].startswith("Austin")
    assert generated["changed"]["text"].split()[0].startswith("Sacramento")
    assert generated["first_difference"] == 0
    assert {row["feature"] for row in found["edited"]} == {
        f"A0/P8/F{spec.split('/')[2]}" for spec in EIGHT.split(",")
    }
    ids = {token["token"]: token["token_id"] for token in found["next_tokens"]}
    status, linear = run(
        *("intervene", "--swap", EIGHT, "--swap-from", OAKLAND, "--freeze", "all"),
        *("--token", f"#{ids[' Austin']}", "--token", " Sacramento"),
    )
    assert status == 0
    # The graph's own prediction has the sign right, and too little of it.
    gaps = [shown["logit_difference"] for shown in (found, linear)]
    falls = [gap["before"] - gap["after"] for gap in gaps]
    assert falls[0] > falls[1] > 5


def test_attention_features_swapped_give_the_drink_to_john(run: Run) -> None:
    prompt = "When Mary and John went to the store, John gave a drink to"
    other = prompt.replace(", John", ", Mary")
    status, found = run(
        *("intervene", "--swap", "A2/14/*", "A3/14/*", "--swap-from", other), prompt=prompt
    )
    assert status == 0
    first = max(found["next_tokens"], key=lambda token: token["logit_before"])
    assert first["token"] == " Mary"
    assert found["next_tokens"][0]["token"] == " John"
    assert found["next_tokens"][0]["probability_after"] > 0.9


def test_later_words_win_whatever_their_kind(run: Run) -> None:
    status, found = run("intervene", "--set", "L1/5/3=2", "--ablate", "L1/5/3")
    assert status == 0
    (row,) = found["edited"]
    assert row["activation_after"] == 0.0
    status, found = run("intervene", "--ablate", "L1/5/3", "--set", "L1/5/3=2")
    assert found["edited"][0]["activation_after"] == 2.0
    assert found["edits"] == ["ablate L1/P5/F3", "set L1/P5/F3 = 2"]


@pytest.mark.parametrize("freeze", ["none", "attention", "all"])
def test_it_is_said_to_people_too(freeze: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["intervene", "--model", "demo", "--crm", "demo", "--prompt", DALLAS, "--quiet"]
    words = ["--scale", "A0/*/375=-2", "--add", "L1/P5/F3=1.5", "--freeze", freeze]
    assert main([*line, *words]) == 0
    printed = capsys.readouterr().out
    assert "scale A0/*/F375 = -2" in printed and "add L1/P5/F3 = 1.5" in printed
    assert "' Austin'" in printed and "divergence" in printed
    assert ("active only now" in printed) == (freeze != "all")


def test_a_validation_is_a_table_a_file_and_a_picture(run: Run, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    status, found = run(
        *("validate", "--samples", "6", "--group", f"capital={EIGHT}", "--plot", str(plot))
    )
    assert status == 0
    assert found["n_samples"] == 6 and found["largest_freeze_gap"] < 1e-4
    (group,) = found["groups"]
    assert (group["name"], len(group["features"])) == ("capital", 8)
    assert ValidationReport.from_json(found).n_samples == 6
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ((), 2, "Nothing is to be changed"),
        (("--set", "L1/5/3"), 1, "says no value"),
        (("--set", "L1/5/3=nan"), 1, "no value"),
        (("--set", "L9/5/3=1"), 1, "no layer 9"),
        (("--set", "L1/99/3=1"), 1, "at position 99"),
        (("--set", "L1/5/9999=1"), 1, "no feature 9999"),
        (("--set", "somewhere=1"), 1, "names no feature"),
        (("--swap", "L1/5/3"), 2, "belong together"),
        (("--ablate", "L1/5/3", "--swap-from", OAKLAND), 2, "belong together"),
        (("--ablate", "L1/5/3", "--freeze-from", "2"), 2, "--freeze attention"),
        (("--ablate", "L1/5/3", "--features-stay"), 2, "--freeze all"),
        (("--ablate", "L1/5/3", "--freeze", "all", "--generate", "3"), 1, "everything frozen"),
        (("--ablate", "L1/5/3", "--generate", "1000"), 1, "at most"),
        (("--ablate", "L1/5/3", "--token", "Austin Dallas"), 1, "not one token"),
        (("--ablate", "L1/5/3", "--top-k", "0"), 1, "one or more"),
    ],
)
def test_bad_input_gets_one_clear_line(
    run: Run, words: tuple[str, ...], status: int, says: str
) -> None:
    got, found = run("intervene", *words)
    assert got == status
    assert says in found["error"]


def test_bad_groups_and_plots_are_refused(run: Run) -> None:
    for words, says in (
        (("--group", "L1/5/3"), "no group"),
        (("--plot", "plot.png"), ".svg"),
    ):
        status, found = run("validate", *words)
        assert status == 2
        assert says in found["error"]


def test_a_stored_graph_keeps_what_its_validation_found(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    assert run("attribute", "--out", str(path))[0] == 0
    assert AttributionGraph.load(path).validation is None
    status, found = run("validate", "--samples", "4", "--graph", str(path))
    assert status == 0
    kept = AttributionGraph.load(path).validation
    assert kept is not None and kept.n_samples == 4
    assert kept.to_json() == ValidationReport.from_json(found).to_json()
    before = path.read_bytes()
    assert run("validate", "--graph", str(path), prompt=OAKLAND)[0] == 2
    status, found = run("validate", "--graph", str(path), "--crm", "demo-clt")
    assert status == 2 and "not of this CRM" in found["error"]
    assert path.read_bytes() == before
