"""The commands ``attention``, ``lens``, ``paths`` and ``diff``, on the demo that comes along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_studio import cli
from attention_studio.core.attribution_graph import AttributionGraph
from tests.hand_graphs import hand_graph

AGAIN = "stone river apple music stone river apple"
DALLAS = "The capital of the state containing Dallas is"
OAKLAND = "The capital of the state containing Oakland is"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a command says with ``--json``."""
    assert cli.main([*words, "--json", "--quiet"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says to people."""
    assert cli.main([*words, "--quiet"]) == 0
    return capsys.readouterr().out


def of_demo(command: str, prompt: str, *words: str) -> tuple[str, ...]:
    return (command, "--model", "demo", "--prompt", prompt, *words)


# ---- attention -----------------------------------------------------------------------------------


def test_heads_are_listed_by_a_figure_and_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    words = of_demo("attention", AGAIN, "--rank", "induction", "--head", "2.0", "--head", "A2.0")
    found = told(capsys, *words, "--top-k", "6")
    ranks = [head["induction"] for head in found["heads"]]
    assert len(ranks) == 6 and ranks == sorted(ranks, reverse=True)
    own, lorsa = found["patterns"]
    assert (own["head"], lorsa["head"], found["crm"]) == ("2.0", "A2.0", "crm")
    assert lorsa["induction_probe"] is None
    pattern = np.array(own["pattern"])
    np.testing.assert_allclose(pattern.sum(1), 1, atol=1e-5)
    # The demo's head of induction: from the second " apple" to what came behind the first.
    assert pattern[7].argmax() == 4 and found["tokens"][4] == " music"
    assert own["induction"] == pytest.approx(pattern[[5, 6, 7], [2, 3, 4]].mean(), rel=1e-4)
    printed = said(capsys, *words)
    assert "heads on 8 tokens, by Induction" in printed
    assert "from P7 ' apple' to P4 ' music' 90%" in printed


def test_a_figure_that_no_head_has_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    words = of_demo("attention", DALLAS, "--rank", "duplicate")
    assert told(capsys, *words)["heads"] == []
    assert "No head has this figure" in said(capsys, *words)


# ---- lens ----------------------------------------------------------------------------------------


def test_the_lens_is_read_where_it_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, *of_demo("lens", DALLAS, "--position", "-1", "2", "--top-k", "3"))
    assert found["depths"] == ["embedding", "after 0", "after 1", "after 2", "after 3"]
    assert [one["position"] for one in found["positions"]] == [8, 2]
    last = found["positions"][0]
    assert last["end"] == " Austin" and found["patched"] is None
    cells = last["cells"]
    assert [len(cell["tokens"]) for cell in cells] == [3] * 5
    assert cells[-1]["divergence"] == 0 and cells[-1]["tokens"][0]["token"] == " Austin"
    assert all(cell["end_rank"] == 0 for cell in cells[last["settled"] :])
    assert "P8 ' is': the model says ' Austin'" in said(capsys, *of_demo("lens", DALLAS))


def test_cells_are_patched_from_another_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    words = of_demo("lens", DALLAS, "--patch", "0/7=0/7", "--patch-from", OAKLAND)
    found = told(capsys, *words)
    (patch,) = found["patched"]["patches"]
    assert patch == {"source_prompt": OAKLAND, "source": [0, 7], "target": [0, 7]}
    assert found["positions"][0]["end"] == " Sacramento"
    before = max(found["patched"]["tokens"], key=lambda token: token["probability_before"])
    assert before["token"] == " Austin"
    assert np.shape(found["patched"]["change"]) == (5, 9)
    assert found["patched"]["divergence"] == pytest.approx(found["patched"]["change"][-1][-1])
    printed = said(capsys, *words)
    assert "embedding at 7 of" in printed and "moved by" in printed


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (of_demo("attention", AGAIN, "--head", "x"), 1, "names no head"),
        (of_demo("attention", AGAIN, "--head", "9.0"), 2, "no head 9.0"),
        (of_demo("attention", AGAIN, "--rank", "beauty"), 2, "invalid choice"),
        (of_demo("lens", DALLAS, "--patch", "1/2"), 2, "--patch 1/2 makes no sense"),
        (of_demo("lens", DALLAS, "--patch", "1/2=3"), 2, "makes no sense"),
        (of_demo("lens", DALLAS, "--patch", "9/2=1/2"), 1, "no cell at depth 9"),
        (of_demo("lens", DALLAS, "--patch-from", OAKLAND), 2, "without --patch"),
        (of_demo("lens", DALLAS, "--position", "9"), 2, "no position 9"),
    ],
)
def test_what_makes_no_sense_is_said(
    words: tuple[str, ...], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, "--quiet"]) == status
    assert says in capsys.readouterr().err


# ---- paths and diff ------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> list[str]:
    """Two graphs of one prompt, on the disk."""
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for seed, path in enumerate(paths):
        hand_graph(seed=seed).save(path)
    return [str(path) for path in paths]


def test_the_strongest_paths_are_those_of_the_graph(
    stored: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    graph = AttributionGraph.load(Path(stored[0]))
    found = told(capsys, "paths", stored[0], "--top-k", "3")
    target = graph.find(found["target"])
    assert target == int(graph.start.argmax()) and found["sources"] == "tokens"
    (one,) = told(
        capsys, "paths", stored[0], "--from", found["paths"][0]["nodes"][0], "--into",
        found["target"], "--top-k", "1",
    )["paths"]  # fmt: skip
    assert one == found["paths"][0]
    best = graph.strongest_path(graph.find(one["nodes"][0]), target)
    assert best is not None
    assert one["nodes"] == [graph.node_name(node) for node in best]
    assert one["strength"] == pytest.approx(np.prod(np.abs(one["shares"])))
    part = told(capsys, "paths", stored[0], "--pruned", "--node-threshold", "0.3")
    assert part["n_paths"] < found["n_paths"]
    printed = said(capsys, "paths", stored[0])
    assert " -> ".join(one["nodes"]) in printed and "carry" in printed


def test_there_may_be_no_path(stored: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ("paths", stored[0], "--from", "P1/token", "--into", "P1/token")
    assert told(capsys, *words)["paths"][0]["nodes"] == ["P1/token"]
    words = ("paths", stored[0], "--from", "P1/token", "--into", "P2/token")
    assert told(capsys, *words)["paths"] == []
    assert "No path leads" in said(capsys, *words)
    assert cli.main(["paths", stored[0], "--from", "L9/P9/F9", "--quiet"]) == 1
    assert "no node L9/P9/F9" in capsys.readouterr().err


def test_a_graph_differs_from_another_and_not_from_itself(
    stored: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "diff", *stored, "--top-k", "4", "--align", "number")
    assert 0 < found["overlap"] < 1 and len(found["nodes"]) == 4
    apart = [abs(n["influence_second"] - n["influence_first"]) for n in found["nodes"]]
    assert apart == sorted(apart, reverse=True) and apart[0] > 0
    same = told(capsys, "diff", stored[0], stored[0])
    assert same["overlap"] == 1 and same["nodes_first"] == same["nodes_second"] == 0
    printed = said(capsys, "diff", *stored)
    assert "of their influence" in printed and "Nodes whose influence differs most" in printed
    assert cli.main(["diff", stored[0], "nowhere.safetensors", "--quiet"]) == 1
    assert cli.main(["diff", stored[0], "--quiet"]) == 2
