"""What the window shows, as an agent sees it: no other than what lies in the workspace's folder."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from attention_studio.agents.ask_agent import AskAgent
from attention_studio.agents.backends.scripted import ScriptedBackend, calling
from attention_studio.agents.open_workspace import RUNS, open_folder
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.workspace_reading import WorkspaceReader
from attention_studio.ui.session_desk import UNKEPT, SessionView
from attention_studio.utils.turns import Turn
from tests.asked import everything_in, write_workspace
from tests.hand_graphs import hand_graph


def shown(folder: Path) -> SessionView:
    reader = WorkspaceReader(folder)
    index = reader.index()
    return SessionView(
        index.name, folder, "G1", reader.graph("G1"), reader.notes("G1"), index.graphs,
        index.thresholds or (0.8, 0.98), MappingProxyType({RUNS: reader.records(RUNS)}), None, None,
    )  # fmt: skip


def test_the_window_shows_what_lies_in_its_folder(tmp_path: Path) -> None:
    write_workspace(tmp_path / "work")
    before = everything_in(tmp_path)
    view = shown(tmp_path / "work")
    desk, same = view.desk(Turn()), open_folder(tmp_path / "work")
    assert [tool.name for tool in desk.tools(True)] == [tool.name for tool in same.tools(True)]
    mine, theirs = desk.overview(), same.overview()
    for part in ("workspace", "graphs", "open_graph", "runs", "traced_here", "dashboards"):
        assert mine[part] == theirs[part], part
    node = desk.graph("G2").node_name(0)
    answer = AskAgent(
        ScriptedBackend(
            [
                [calling("open_graph", graph="G2"), calling("open_graph", 1, graph="G3")],
                [calling("propose_pin", nodes=[node]), calling("show_run", 1, run=1)],
                f"So it is [{node}], see [run 1].",
            ]
        ),
        desk,
        propose=True,
    ).ask("What?")
    assert [tool.failed for tool in answer.tools] == [False, True, False, False]
    assert [one.graph for one in answer.proposals] == ["G2"] and not answer.struck
    assert desk.key == "G2" and everything_in(tmp_path) == before


def test_a_graph_that_no_workspace_has_can_be_asked_about() -> None:
    graph = hand_graph()
    view = SessionView(
        "", None, UNKEPT, graph, GraphNotes(), (), (0.8, 0.98), MappingProxyType({}), None, None
    )
    desk = view.desk(Turn())
    assert desk.graph(UNKEPT) is graph and desk.bench().graph is graph
    told = AskAgent(
        ScriptedBackend([[calling("workspace"), calling("open_graph", 1, graph="G2")], "No."]), desk
    ).ask("What?")
    assert [tool.failed for tool in told.tools] == [False, True]
