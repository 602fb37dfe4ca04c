"""The story of the demo's best known prompt, headless, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attention_studio.agents.circuit_story import read_story
from attention_studio.agents.story_checks import check_story
from attention_studio.cli import main
from attention_studio.core.attribution_graph import AttributionGraph

pytestmark = pytest.mark.integration
DALLAS = "The capital of the state containing Dallas is"
MODEL = ["--model", "demo", "--device", "cpu", "--quiet"]


def test_dallas_is_told_over_texas_to_austin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, out = tmp_path / "graph.safetensors", tmp_path / "story.json"
    assert main(["attribute", *MODEL, "--prompt", DALLAS, "--out", str(graph)]) == 0
    capsys.readouterr()
    words = ["describe", *MODEL, "--graph", str(graph), "--out", str(out), "--json"]
    assert main([*words, "--backend", "none"]) == 0
    printed = json.loads(capsys.readouterr().out)
    story = read_story(out)
    assert printed["story"]["answer_text"] == story.answer_text == " Austin"
    # Both tokens that decide it are spoken of, at their places.
    subjects = {claim.subject for one in story.sentences for claim in one.claims}
    assert {"P2/token", "P7/token"} <= subjects
    # The region, which no token says, stands in what a supernode writes.
    written = [
        {claim.object for claim in one.claims if claim.kind == "writes"} for one in story.sentences
    ]
    texas = {" bluebonnet", " pecan", " Brazos", " mockingbird", " Texas"}
    assert max(len(texas & words) for words in written) >= 2
    # Taking out what comes from "capital" moves the answer, and the figures are the run's own.
    effects = [one for one in story.sentences if one.support == "measured"]
    assert any(story.answer in (claim.object for claim in one.claims) for one in effects)
    whole = AttributionGraph.load(graph)
    again = check_story(story, whole)
    assert (again.sentences, again.struck) == (story.sentences, story.struck)
    lying = [one for one in effects if "falls" in one.text]
    turned = json.loads(json.dumps(printed["story"]))
    assert lying
    for one in turned["sentences"]:
        one["text"] = one["text"].replace("falls", "rises").replace("raises", "lowers")
    path = tmp_path / "lies.json"
    path.write_text(json.dumps(turned), encoding="utf-8")
    kept = check_story(read_story(path), whole).sentences
    assert {one.key for one in kept}.isdisjoint(one.key for one in lying)


def test_what_to_describe_has_to_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *MODEL]) == 2
    assert "--prompt or --graph" in capsys.readouterr().err
