"""The tools over what is open: that they give what the window's functions give, and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attention_studio.agents.backends.records import ToolCall
from attention_studio.agents.proposals import Proposal, proposing_tools
from attention_studio.agents.tools import Toolbox
from attention_studio.agents.workspace_tools import Workbench, looking_tools, measuring_tools
from attention_studio.core.feature_store import FeatureStore
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.intervention_runs import InterventionRun
from attention_studio.core.node_query import find_nodes
from attention_studio.core.trace_circumstances import dictionaries_of
from attention_studio.utils.progress import WorkContext
from tests.asked import write_dashboards
from tests.crms import complete
from tests.hand_graphs import hand_graph
from tests.tiny import PROMPT

GRAPH = hand_graph()


def box(bench: Workbench, proposals: bool = False) -> tuple[Toolbox, list[Proposal]]:
    handed: list[Proposal] = []
    tools = (
        *looking_tools(lambda: bench),
        *measuring_tools(lambda: bench),
        *proposing_tools(lambda: bench, handed.append),
    )
    return Toolbox(tools, proposals), handed


def call(tools: Toolbox, tool: str, /, **arguments: Any) -> Any:
    outcome = tools.call(ToolCall("1", tool, json.dumps(arguments)), WorkContext())
    assert not outcome.failed, outcome.text
    return json.loads(outcome.text) if outcome.text[0] in "[{" else outcome.text


def refused(tools: Toolbox, tool: str, /, **arguments: Any) -> str:
    outcome = tools.call(ToolCall("1", tool, json.dumps(arguments)), WorkContext())
    assert outcome.failed
    return outcome.text


def test_dashboards_of_other_dictionaries_say_nothing_of_the_graph(tmp_path: Path) -> None:
    write_dashboards(tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    try:
        assert store.about.fits(GRAPH.model_hash, dictionaries_of(GRAPH))
        assert call(box(Workbench(GRAPH, store=store))[0], "feature_page", feature="L1/F0")
        store.about = replace(store.about, crm_name="another")
        for tool, words in (
            ("feature_page", {"feature": "L1/F0"}),
            ("search_features", {"text": "a"}),
        ):
            told = refused(box(Workbench(GRAPH, store=store))[0], tool, **words)
            assert "of another replacement model" in told
    finally:
        store.close()


def test_looking_gives_what_the_graph_gives() -> None:
    tools, _ = box(Workbench(GRAPH))
    assert call(tools, "graph_summary")["tokens"] == list(GRAPH.tokens)
    found = call(tools, "find_nodes", query="layer>1", limit=3)
    names = find_nodes(GRAPH, "layer>1")
    assert found["found"] == len(names)
    assert [node["node"] for node in found["nodes"]] == list(names[:3])
    node = next(name for name in names if "/F" in name)
    into = GRAPH.inputs(GRAPH.find(node))
    told = call(tools, "node_inputs", node=node, limit=2)
    assert told["edges"] == len(into.nodes)
    assert told["strongest"][0]["node"] == GRAPH.node_name(int(into.nodes[0]))
    assert told["strongest"][0]["share"] == pytest.approx(float(into.shares[0]))
    out = call(tools, "node_outputs", node=node)
    assert out["edges"] == len(GRAPH.outputs(GRAPH.find(node)).nodes)
    paths = call(tools, "strongest_paths", limit=2)
    assert len(paths["paths"]) == 2
    assert paths["paths"][0]["nodes"][-1] == paths["target"] == "P3/logit/7"


def test_groups_are_those_of_the_notes_and_of_the_core() -> None:
    names = tuple(GRAPH.node_name(node) for node in range(2))
    notes, group = GraphNotes().grouped(names, "mine")
    tools, _ = box(Workbench(GRAPH, notes=notes))
    (told,) = call(tools, "supernodes")["supernodes"]
    assert (told["key"], told["name"], told["nodes"]) == (group.key, "mine", list(names))
    assert isinstance(call(tools, "suggest_supernodes"), list)


def test_what_is_not_open_is_said() -> None:
    tools, _ = box(Workbench())
    assert "No graph is open" in refused(tools, "graph_summary")
    assert "No feature dashboards" in refused(tools, "feature_page", feature="L0/F3")
    assert "names no feature" in refused(tools, "feature_page", feature="P3/token")
    assert "There is no node" in refused(box(Workbench(GRAPH))[0], "node_inputs", node="L9/P9/F9")
    assert "No replacement model" in refused(
        box(Workbench(GRAPH))[0], "run_intervention", features=["L0/P1/F3"]
    )


def test_the_real_model_is_run() -> None:
    model = complete()
    graph = GraphBuilder(model).build(PROMPT)
    heard: list[InterventionRun] = []
    bench = Workbench(graph, replacement=model)
    tools = Toolbox(measuring_tools(lambda: bench, heard.append))
    name = graph.node_name(0)
    told = call(tools, "run_intervention", features=[name])
    assert told["done"] == f"ablate {name}"
    assert told["divergence"] == heard[0].divergence
    assert heard[0].edited[0].activation_after == 0.0
    source, target = None, None
    for node in range(graph.n_features):
        edges = graph.outputs(node)
        if len(edges.nodes):
            source, target = graph.node_name(node), graph.node_name(int(edges.nodes[0]))
            break
    assert source is not None
    rows = call(tools, "verify_edges", nodes=[source, target])
    assert (rows[0]["from"], rows[0]["to"]) == (source, target)
    assert rows[0]["verdict"] in ("confirmed", "refuted", "unclear")


def test_proposals_are_handed_in_and_change_nothing() -> None:
    notes = GraphNotes()
    bench = Workbench(GRAPH, notes=notes)
    closed, _ = box(bench)
    assert "There is no tool" in refused(closed, "propose_pin", nodes=[GRAPH.node_name(0)])
    tools, handed = box(bench, proposals=True)
    name = GRAPH.node_name(0)
    call(tools, "propose_pin", nodes=[name])
    call(tools, "propose_supernode", nodes=[name, GRAPH.node_name(1)], name="two\nlines")
    call(tools, "propose_label", node=name, text="a cat")
    call(tools, "propose_remark", node=name, text="seen")
    assert "is no feature" in refused(tools, "propose_label", node="P1/token", text="x")
    assert "There is no node" in refused(tools, "propose_pin", nodes=["L9/P9/F9"])
    assert bench.notes is notes
    assert notes.empty
    for proposal in handed:
        notes = proposal.applied(notes)
    assert [one.kind for one in handed] == ["pin", "group", "label", "remark"]
    assert notes.supernodes[0].name == "two lines"
    assert notes.label_of(name) == "a cat"
    assert notes.remarks[name] == "seen"
    assert name in notes.pinned
