"""The Graph dock has prompts traced: on demand, live, and what becomes of late results."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton

from attention_studio.core.graph_settings import GraphBudgetError, GraphError, GraphSettings
from attention_studio.ui import work
from attention_studio.ui.jobs import LaneContext
from attention_studio.ui.widgets import graph_dock
from attention_studio.ui.widgets.graph_dock import GraphDock
from attention_studio.ui.widgets.message_bar import Message
from tests.ui.graph_docks import GRAPH, as_model, put_graph, scene_of
from tests.ui.stage import Stage
from tests.ui.synthetic import synthetic_graph


@pytest.fixture
def dock(stage: Stage) -> GraphDock:
    return put_graph(stage)


def test_another_prompt_offers_to_trace_again(stage: Stage, dock: GraphDock) -> None:
    assert not dock.facts.again.isVisible()
    stage.session.set_prompt("Something else")
    assert not dock.facts.again.isVisible(), "there is nothing to trace with"
    assert "Eiffel" in dock.facts.prompt.whole(), "the picture still says for which prompt it is"


def test_the_build_command_traces_on_a_lane(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def traced(_ctx: object, crm: object, prompt: str, settings: object, at: object) -> object:
        asked.append((crm, prompt, settings, at))
        return work.TracedGraph(GRAPH, GRAPH.prune(0.8, 0.98))

    monkeypatch.setattr(work, "build_graph", traced)
    dock = stage.put(GraphDock)
    stage.commands.bind("graph", dock)
    crm = as_model(GRAPH.crm_name)
    stage.session.set_crm(crm, None)
    stage.session.set_prompt(GRAPH.prompt)
    button = dock.findChild(graph_dock.CommandButton, "button.graph.build")
    assert button is not None
    assert button.isEnabled()
    stage.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    stage.until(lambda: dock.scene is not None)
    assert asked == [(crm, GRAPH.prompt, None, (0.8, 0.98))]
    assert stage.session.graph is GRAPH
    assert not dock.empty


def test_a_failure_is_said_in_the_message_bar(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> object:
        raise GraphError("It broke", "for a test", "try again")

    monkeypatch.setattr(work, "build_graph", fails)
    dock = stage.put(GraphDock)
    stage.session.set_crm(as_model("any"), None)
    stage.session.set_prompt("A prompt")
    with stage.qtbot.waitSignal(dock.message) as said:
        dock.build()
    message = said.args[0]
    assert isinstance(message, Message)
    assert (message.level, message.what) == ("error", "It broke")
    stage.settle()
    assert not dock.strip.isVisible()


@pytest.mark.parametrize("meanwhile", ["nothing", "opened", "closed", "edited"])
def test_a_live_trace_takes_the_place_of_what_it_followed_alone(
    stage: Stage, dock: GraphDock, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    prompt, go_on = "Something else", threading.Event()
    followed, opened = synthetic_graph(seed=7), synthetic_graph(seed=8)
    followed, opened = (replace(graph, prompt=prompt) for graph in (followed, opened))

    def traced(_ctx: object, _crm: object, asked: str, *_: object) -> object:
        assert asked == prompt and go_on.wait(10)
        return work.TracedGraph(followed, followed.prune(0.8, 0.98))

    monkeypatch.setattr(work, "build_graph", traced)
    session = stage.session
    session.set_model(as_model("model"))
    session.set_crm(as_model(GRAPH.crm_name), None)
    session.set_graph(replace(GRAPH, seconds=0.1), None)
    session.set_prompt(prompt)
    session.set_prompt_view(object())  # type: ignore[arg-type]
    stage.until(lambda: stage.runner.running("graph.live") is not None)
    expected = {"nothing": followed, "opened": opened, "closed": None, "edited": session.graph}
    if meanwhile == "opened":
        session.set_graph(opened, None)
    elif meanwhile == "closed":
        session.set_model(None)
    elif meanwhile == "edited":
        session.set_prompt("Something else again")
    go_on.set()
    stage.settle()
    assert session.graph is expected[meanwhile]


def test_a_trace_of_a_model_that_went_is_dropped(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def traced(*_: object) -> object:
        assert go_on.wait(10)
        return work.TracedGraph(GRAPH, GRAPH.prune(0.8, 0.98))

    monkeypatch.setattr(work, "build_graph", traced)
    dock = stage.put(GraphDock)
    stage.session.set_crm(as_model("first"), None)
    stage.session.set_prompt(GRAPH.prompt)
    dock.build()
    stage.session.set_crm(as_model("second"), None)
    go_on.set()
    stage.settle()
    assert stage.session.graph is None


def test_what_was_offered_for_one_prompt_is_not_done_to_another(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller, asked = GraphSettings(max_features=7), []

    def fails(_ctx: object, _crm: object, prompt: str, settings: object, _at: object) -> object:
        asked.append((prompt, settings))
        raise GraphBudgetError("Too large", "for a test", "trace less", smaller)

    monkeypatch.setattr(work, "build_graph", fails)
    dock = stage.put(GraphDock)
    stage.session.set_crm(as_model("first"), None)
    stage.session.set_prompt("One")
    said: list[Message] = []
    dock.message.connect(said.append)
    dock.build()
    stage.until(lambda: len(said) == 1)
    assert said[0].offer is not None and said[0].offer.text == "Trace 7 features"
    said[0].offer.run()
    stage.until(lambda: len(said) == 2)
    assert said[1] == said[0], "it is known to be the same message"
    stage.session.set_prompt("Another")
    said[0].offer.run()
    stage.until(lambda: len(said) == 3)
    assert asked == [("One", None), ("One", smaller), ("Another", None)]


def test_a_slider_leaves_the_strip_to_the_trace(
    stage: Stage, dock: GraphDock, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def build(ctx: LaneContext, *_: object) -> None:
        while not over.wait(0.01):
            ctx.check()

    monkeypatch.setattr(work, "build_graph", build)
    stage.session._values["crm"] = as_model("any")
    dock.build()
    before = scene_of(dock)
    stage.qtbot.keyClick(dock.controls.node_slider.slider, Qt.Key.Key_PageDown)
    stage.until(lambda: scene_of(dock) is not before)
    stage.until(dock.strip.isVisible)
    stop = dock.strip.findChild(QPushButton, "graph.job.stop")
    assert isinstance(stop, QPushButton)
    assert stage.runner.jobs[0].title == "Trace the prompt"
    stage.qtbot.mouseClick(stop, Qt.MouseButton.LeftButton)
    stage.settle()
    over.set()
    assert dock.strip.isHidden()
