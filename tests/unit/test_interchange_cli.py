"""Graphs in and out on the command line, traced again and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import networkx as nx
import pytest

from attention_studio.cli import main
from attention_studio.core.attribution_graph import AttributionGraph
from tests.foreign_graphs import circuit_tracer_value, neuronpedia_value
from tests.hand_graphs import hand_graph


class Command(Protocol):
    """Runs a command; gives its status and what it printed."""

    def __call__(self, *words: object) -> tuple[int, dict[str, Any]]: ...


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: object) -> tuple[int, dict[str, Any]]:
        status = main([*map(str, words), "--json", "--quiet"])
        return status, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "graph.safetensors"
    hand_graph().save(path)
    return path


def test_a_foreign_graph_is_imported(command: Command, tmp_path: Path) -> None:
    source, out = tmp_path / "theirs.json", tmp_path / "ours.safetensors"
    source.write_text(json.dumps(circuit_tracer_value()))
    status, found = command("import", source, "--out", out)
    assert status == 0
    assert found["dialect"] == "circuit-tracer"
    assert (found["n_nodes"], found["n_edges"]) == (8, 7)
    assert any("model's weights" in note for note in found["notes"])
    assert AttributionGraph.load(out).n_edges == 7
    status, found = command("import", source, "--out", tmp_path / "crm")
    assert status == 2
    assert ".safetensors" in found["error"]
    source.write_text("{}")
    status, found = command("import", source, "--out", out)
    assert status == 1
    assert "theirs.json cannot be read as a graph" in found["error"]
    status, found = command("import", tmp_path, "--out", out)
    assert status == 2
    assert "--model" in found["error"]


@pytest.mark.parametrize("tool", ["circuit-tracer", "neuronpedia", "llamascopium"])
def test_a_graph_goes_out_and_compares_as_the_same(
    command: Command, stored: Path, tmp_path: Path, tool: str
) -> None:
    out = tmp_path / "out.json"
    whole = ("--node-threshold", 1, "--edge-threshold", 1)
    status, found = command("export", "--graph", stored, "--tool", tool, "--out", out, *whole)
    assert status == 0
    assert found["out"] == [str(out)]
    status, found = command("compare", stored, out)
    assert status == 0
    assert (found["edges_moved"], found["edges_after"], found["nodes_after"]) == (0, 0, 0)
    assert found["largest_change"] == 0.0
    assert found["scores_after"]["max_identity_error"] is None
    assert found["scores_before"]["max_identity_error"] < 1e-4
    status, found = command("compare", out, out)
    assert found["same"]


def test_a_foreign_graph_goes_from_tool_to_tool(command: Command, tmp_path: Path) -> None:
    source, out = tmp_path / "theirs.json", tmp_path / "out.json"
    value = neuronpedia_value()
    value["nodes"][1]["odd"] = [1, 2]
    source.write_text(json.dumps(value))
    status, _ = command("export", "--graph", source, "--tool", "neuronpedia", "--out", out)
    assert status == 0
    assert json.loads(out.read_text()) == value
    status, _ = command("export", "--graph", source, "--tool", "llamascopium", "--out", out)
    assert status == 0
    assert [node["odd"] for node in json.loads(out.read_text())["nodes"] if "odd" in node] == [
        [1, 2]
    ]
    status, found = command("compare", source, out)
    assert found["same"]


def test_a_folder_for_the_viewer(command: Command, stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "viewer"
    words = ("export", "--graph", stored, "--tool", "circuit-tracer", "--out", out)
    status, found = command(*words)
    assert status == 0
    assert found["out"] == [str(out / "the-cat.json")]
    status, _ = command(*words, "--slug", "again", "--scan", "mine")
    assert json.loads((out / "again.json").read_text())["metadata"]["scan"] == "mine"
    assert {path.name for path in out.iterdir()} == {
        "the-cat.json",
        "again.json",
        "graph-metadata.json",
    }


def test_what_was_pinned_goes_along_to_the_viewer(command: Command, tmp_path: Path) -> None:
    source, out = tmp_path / "theirs.json", tmp_path / "viewer"
    value = neuronpedia_value()
    value["qParams"] = {"pinnedIds": ["1_lor_9_1"], "supernodes": [["two", "0_cro_4_1", "E_11_0"]]}
    source.write_text(json.dumps(value))
    words = ("export", "--graph", source, "--tool", "circuit-tracer", "--out", out)
    status, found = command(*words)
    assert status == 0
    view = json.loads(Path(found["out"][0]).read_text())["qParams"]
    assert view["pinnedIds"] == ["2_9_1"]
    assert view["supernodes"] == [["two", "1_4_1", "E_11_0"]]


def test_tables(command: Command, stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.graphml"
    status, found = command("export", "--graph", stored, "--tool", "graphml", "--out", out)
    assert status == 0
    assert nx.read_graphml(out).number_of_nodes() == found["n_nodes"]
    out = tmp_path / "g.csv"
    status, found = command("export", "--graph", stored, "--tool", "csv", "--out", out)
    assert status == 0
    for path, rows in zip(found["out"], (found["n_nodes"], found["n_edges"]), strict=True):
        assert len(Path(path).read_text("utf-8").splitlines()) >= rows + 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tool", "saelens", "--graph", "STORED", "--out", "x"), "holds no graphs"),
        (("--tool", "neuronpedia", "--crm", "demo", "--out", "x"), "no dictionaries"),
        (("--tool", "circuit-tracer", "--out", "x"), "nothing to export"),
        (
            ("--tool", "csv", "--graph", "STORED", "--out", "x", "--dashboards", "y"),
            "circuit-tracer's",
        ),
        (
            ("--tool", "llamascopium", "--graph", "STORED", "--out", "x.json", "--dashboards", "y"),
            "circuit-tracer's",
        ),
        (
            tuple("--tool circuit-tracer --graph STORED --out x.json --dashboards y".split()),
            "need a folder",
        ),
    ],
)
def test_words_that_do_not_fit_together(
    command: Command, stored: Path, words: tuple[str, ...], says: str
) -> None:
    status, found = command("export", *[str(stored) if w == "STORED" else w for w in words])
    assert status == 2
    assert says in found["error"]


def test_the_demo_is_traced_again_and_shown_with_pages(command: Command, tmp_path: Path) -> None:
    """The whole way: trace, store, trace again, and a folder with pages about the features."""
    demo = ("--model", "demo", "--crm", "demo", "--device", "cpu")
    graph, text = tmp_path / "g.safetensors", tmp_path / "text.txt"
    prompt = "The capital of the state containing Dallas is"
    status, _ = command("attribute", *demo, "--prompt", prompt, "--out", graph)
    assert status == 0
    again = tmp_path / "again.json"
    status, found = command("rerun", graph, *demo, "--out", again)
    assert status == 0
    assert found["same"]
    assert found["differences"] == []
    assert found["largest_change"] == 0.0
    status, found = command("rerun", again, *demo)  # what was pruned is all found again
    assert status == 0
    assert (found["edges_before"], found["edges_moved"], found["nodes_before"]) == (0, 0, 0)
    text.write_text(f"{prompt} Austin. " * 12)
    out, store = tmp_path / "viewer", tmp_path / "store"
    status, _ = command("dashboards", "build", *demo, "--text", text, "--out", store)
    assert status == 0
    words = ("export", "--graph", graph, "--tool", "circuit-tracer", "--out", out)
    status, found = command(*words, "--dashboards", store, "--slug", "dallas")
    assert status == 0
    value = json.loads((out / "dallas.json").read_text())
    numbers = {
        node["feature"]
        for node in value["nodes"]
        if node["feature_type"] == "cross layer transcoder"
    }
    pages = {int(path.stem): path for path in (out / "features" / "dallas").iterdir()}
    assert set(pages) == numbers
    shown = [json.loads(path.read_text()) for path in pages.values()]
    assert all(0 <= page["activation_frequency"] <= 1 for page in shown)
    # The text is the prompt over and over, so most of its features are active somewhere in it.
    assert sum(page["activation_frequency"] > 0 for page in shown) > len(shown) / 2
