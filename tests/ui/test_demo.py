"""The first start shows something: the demo's model, its replacement model, a prompt traced."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.core.graph_settings import GraphSettings
from attention_studio.ui import work
from attention_studio.ui.app import Studio
from attention_studio.ui.demo_opener import PROMPT
from attention_studio.ui.widgets import graph_tracer
from attention_studio.ui.window_state import WindowState
from attention_studio.utils.errors import StudioError
from attention_studio.utils.paths import BUILT_IN_CRMS
from tests.ui.demo_window import LONG, traced


def test_one_command_opens_the_demo_and_traces_a_prompt(studio: Studio, qtbot: QtBot) -> None:
    session = studio.session
    assert studio.commands.run("demo.open")
    qtbot.waitUntil(lambda: session.graph is not None, timeout=LONG)
    assert session.model_info is not None
    assert session.model_info.name == "demo"
    assert session.crm_folder == BUILT_IN_CRMS["demo"]
    assert session.prompt == PROMPT
    graph = session.graph
    assert graph is not None
    assert graph.scores.max_identity_error < 1e-4
    assert graph.scores.completeness > 0.8
    qtbot.waitUntil(lambda: session.prompt_view is not None, timeout=LONG)
    view = session.prompt_view
    assert view is not None  # for the type checker
    assert view.candidates[0].token == " Austin"


def test_a_prompt_that_somebody_typed_stays_theirs(studio: Studio, qtbot: QtBot) -> None:
    studio.session.set_prompt("The capital of Texas is")
    assert studio.commands.run("demo.open")
    qtbot.waitUntil(lambda: studio.session.graph is not None, timeout=LONG)
    assert studio.session.prompt == "The capital of Texas is"


class BrokenError(StudioError):
    """Raised in place of a step."""


@pytest.mark.parametrize("broken", ["fetch_model", "load_model", "open_crm"])
def test_a_step_that_fails_ends_it(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """What is opened by hand afterwards is not taken for a step of the demo."""

    def fails(*_: object) -> object:
        raise BrokenError("It broke", "for a test", "try again")

    session, window = studio.session, studio.window
    with monkeypatch.context() as patch:
        patch.setattr(work, broken, fails)
        assert studio.commands.run("demo.open")
        qtbot.waitUntil(lambda: window.messages.current is not None, timeout=LONG)
        qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    current = window.messages.current
    assert current is not None and current.what == "It broke"
    assert session.crm is None and session.graph is None
    if session.model is None:
        assert studio.commands.run("model.load")
        qtbot.waitUntil(lambda: session.model is not None, timeout=LONG)
        qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
        assert session.crm is None, "nobody has opened it"
    window.open_crm_folder(str(BUILT_IN_CRMS["demo"]))
    qtbot.waitUntil(lambda: session.crm is not None, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert session.graph is None and not session.prompt, "nobody has asked for a graph"
    assert studio.commands.run("demo.open")
    qtbot.waitUntil(lambda: session.graph is not None, timeout=LONG)


def test_only_a_start_that_remembers_nothing_is_the_first(studio: Studio) -> None:
    state = WindowState(studio.settings.state_dir)
    assert state.is_new
    studio.window.save_state()
    assert not WindowState(studio.settings.state_dir).is_new


def test_the_graph_follows_a_prompt_that_is_edited(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_tracer, "LIVE_SECONDS", 60.0)  # this machine may be busy
    session, first = studio.session, traced(studio, qtbot)
    elsewhere = "P0/token"
    session.set_selection(elsewhere)
    box = studio.window.prompt_dock.text
    box.setFocus()
    box.selectAll()
    qtbot.keyClicks(box, "Tom wanted the hat red and the cup blue. So Mary painted the cup")
    qtbot.waitUntil(lambda: session.graph is not None and session.graph is not first, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert session.graph is not None
    assert session.graph.prompt == box.toPlainText()
    # What the new graph has too stays chosen.
    assert session.selection == elsewhere
    # One that somebody has made something of is not replaced while they type.
    followed = session.graph
    session.set_pinned((elsewhere,))
    qtbot.keyClicks(box, " and")
    qtbot.waitUntil(lambda: session.prompt == box.toPlainText(), timeout=LONG)
    qtbot.wait(600)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert session.graph is followed and session.pinned == (elsewhere,)


def test_the_graph_stays_where_tracing_takes_long(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_tracer, "LIVE_SECONDS", 0.0)
    session, first = studio.session, traced(studio, qtbot)
    studio.window.prompt_dock.set_text("The capital of Texas is")
    view = session.prompt_view
    qtbot.waitUntil(lambda: session.prompt_view is not view, timeout=LONG)
    qtbot.wait(200)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert session.graph is first


def test_a_graph_that_is_too_large_comes_with_an_offer(studio: Studio, qtbot: QtBot) -> None:
    first = traced(studio, qtbot)
    tight = 4 * (first.edges.layout.size // 2) / 1e9
    studio.window.graph_dock.build_with(GraphSettings(max_gigabytes=tight))
    bar = studio.window.messages
    qtbot.waitUntil(lambda: bar.current is not None and bar.current.offer is not None, timeout=LONG)
    button = bar.findChild(QPushButton, "messageBar.offer")
    assert isinstance(button, QPushButton)
    assert button.text().startswith("Trace ") and button.isVisible()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: studio.session.graph is not first, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    graph = studio.session.graph
    assert graph is not None and 0 < graph.untraced.sum() < graph.n_features
    assert 4 * graph.edges.layout.size <= 1e9 * tight
