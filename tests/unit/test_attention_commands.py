"""The commands ``qk`` and ``heads``, on the demo that comes along."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attention_studio import cli

PROMPT = "stone river apple music stone river apple"
DEMO = ("--model", "demo", "--crm", "demo", "--prompt", PROMPT, "--quiet")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main([*words, *DEMO, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_head_is_traced(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "qk", "--head", "A2.0", "--top-k", "5")
    assert found["tokens"][found["query"]] == " apple"
    assert found["head"] == "A2.0"
    assert found["identity_error"] < 1e-5
    assert len(found["keys"]) == 3
    best = found["keys"][0]
    assert found["tokens"][best["key"]] == " music"
    assert best["explained"] == pytest.approx(best["score"] - best["baseline"], abs=1e-3)
    assert len(best["pairs"]) == len(best["by_query"]) == len(best["by_key"]) == 5
    assert sum(seen["probability"] for seen in found["visible"]) == pytest.approx(1)
    scores = [seen["score"] for seen in found["visible"]]
    assert best["baseline"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_a_feature_is_traced_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    head = run(capsys, "qk", "--head", "A2.0", "--keys", "4", "--top-k", "3")
    name = head["keys"][0]["by_key"][0]["source"]
    found = run(capsys, "qk", "--feature", name, "--words", "--baseline", "2")
    assert found["feature"]["name"] == name
    assert found["feature"]["activation"] == pytest.approx(
        sum(found["feature"]["z_pattern"]), rel=1e-4
    )
    assert (found["baseline"], found["words"]) == ("P2", True)
    assert found["query"] == 4
    for key in found["keys"]:
        assert not any("/F" in source["source"] for source in key["by_query"] + key["by_key"])


def test_both_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["qk", "--head", "2.0", "--keys", "4", "--top-k", "3", *DEMO]) == 0
    printed = capsys.readouterr().out
    assert "Head 2.0 at P7 ' apple'" in printed
    assert "-> P4 ' music': 90.2%" in printed
    assert "' music' from P3 ' apple'" in printed
    assert cli.main(["heads", "--from", "P4/token", *DEMO]) == 0
    assert "Every attention below is replaced" in capsys.readouterr().out


def test_an_edge_is_asked_of_its_heads(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "heads", "--from", "P7/token")
    assert found["source"] == "P7/token"
    assert found["target"].startswith("P7/logit/")
    assert found["layers"] == found["crossings"] == []
    assert found["stayed"] == pytest.approx(found["value"], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--feature", "A1/P4/F39", "--query", "3"), 2, "--query does not go with --feature"),
        (("--head", "2.0", "--baseline", "most"), 2, "--baseline most"),
        (("--head", "x"), 1, "names no head"),
        (("--head", "2.9"), 1, "no head 2.9"),
        (("--feature", "L0/P7/F190"), 1, "no active feature of a Lorsa"),
        (("--head", "2.0", "--query", "9"), 1, "no position 9"),
    ],
)
def test_what_makes_no_sense_is_said(
    words: tuple[str, ...], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["qk", *words, *DEMO]) == status
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [(), ("--head", "2.0", "--feature", "A1/P4/F39"), ("--head", "2.0", "--top-k", "0")]
)
def test_wrong_usage_is_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["qk", *words, *DEMO]) == 2
    assert "usage" in capsys.readouterr().err
