"""The Agents dock in the real window with the demo: without a model, and with an endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.agents.circuit_story import story_from
from attention_studio.agents.explanations import read_verdict
from attention_studio.agents.transcript import read_record
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.sites import Site
from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.agents_dock import AgentsDock
from attention_studio.ui.widgets.intervene_dock import InterveneDock
from attention_studio.ui.work_talking import RUN
from tests.chat_server import ChatServer, says
from tests.ui.demo_window import LONG, traced
from tests.ui.online import online, server
from tests.ui.stage import unnamed_controls

__all__ = ["online", "server"]

SAID = {"label": "<b>Texas</b> & cities", "sentence": "Fires on 'Dallas' and on 'Austin'."}


def opened(studio: Studio, qtbot: QtBot, tokens: int = 6_000) -> AgentsDock:
    """The dock, with a feature of the demo's graph that fires on words of its text chosen."""
    graph = traced(studio, qtbot)
    studio.commands.run("go.agents")
    dock = studio.window.docks["agents"]
    assert isinstance(dock, AgentsDock)
    dock.catch_up()
    dock.form.text_tokens.setValue(tokens)
    names = (FeatureName.read(graph.node_name(n)) for n in range(len(graph.nodes.layer)))
    node = next(
        str(name) for name in names
        if name is not None and name.site == Site(0, "mlp") and isinstance(name.latent, int)
    )  # fmt: skip
    studio.session.set_selection(node)
    assert studio.session.feature is not None
    return dock


def until(qtbot: QtBot, condition: Callable[[], bool]) -> None:
    qtbot.waitUntil(condition, timeout=LONG)


def runs(studio: Studio) -> tuple[dict[str, Any], ...]:
    return studio.session.records.get(RUN, ())


def test_a_feature_is_explained_scored_and_labelled_without_a_model(
    studio: Studio, qtbot: QtBot
) -> None:
    dock = opened(studio, qtbot)
    result = dock.explaining.result
    assert dock.explaining.cost.text() == "Costs nothing but time."
    assert unnamed_controls(dock) == []
    button = dock.findChild(QPushButton, "button.agents.explain")
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    until(qtbot, lambda: len(runs(studio)) == 1)
    verdict = read_verdict(runs(studio)[0]["verdict"])
    said = verdict.chosen.explanation
    assert said.author == "deterministic" and said.label
    assert result.title.text() == said.label
    assert result.sentence.text() == said.sentence
    assert any(line.startswith("detection · ") and "known cases" in line
               for line in result.lines)  # fmt: skip
    assert sum("Withstood" in line or "Refuted" in line for line in result.lines) == len(
        [one for one in verdict.chosen.attacks if one.activation is not None]
    )
    assert dock.transcript.words.toPlainText() == "No model was asked in this run."

    # Used as a label, and taken back.
    feature = runs(studio)[0]["feature"]
    studio.commands.run("agents.use_label")
    assert studio.session.notes.labels[feature] == said.label
    studio.session.undo_stack.undo()
    assert feature not in studio.session.notes.labels

    # One's own words, typed and entered; beside them what counting reaches.
    qtbot.keyClicks(dock.explaining.typed, "fires on 'nothing at all'")
    qtbot.keyClick(dock.explaining.typed, Qt.Key.Key_Return)
    until(qtbot, lambda: len(runs(studio)) == 2)
    typed = read_verdict(runs(studio)[1]["verdict"])
    assert typed.chosen.explanation.words == "fires on 'nothing at all'"
    assert typed.baseline.explanation.label == said.label
    assert any(line.startswith("Deterministic, mean score") for line in result.lines)
    worse, better = typed.chosen.score("detection"), typed.baseline.score("detection")
    assert worse is not None and better is not None
    assert worse.value is None or better.value is None or worse.value < better.value

    # The list of runs goes back; a run can be deleted and comes back.
    dock.runs.setCurrentIndex(1)
    dock.runs.activated.emit(1)
    assert result.title.text() == said.label
    studio.commands.run("agents.delete_run")
    assert len(runs(studio)) == 1
    studio.session.undo_stack.undo()
    assert len(runs(studio)) == 2

    # What was said of a feature of another replacement model is not said of the one of that name.
    session, mine = studio.session, studio.session.records
    elsewhere = tuple({**record, "crm": "another"} for record in runs(studio))
    session.set_records({**mine, RUN: elsewhere})
    until(qtbot, lambda: result.title.text() == "")
    dock.runs.activated.emit(1)
    assert result.title.text() == said.label or result.sentence.text()
    studio.commands.run("agents.use_label")
    assert feature not in session.notes.labels
    session.set_records(mine)

    # As a script it says the same.
    studio.window.scripts.copy("agents.explain")
    scope: dict[str, Any] = {}
    exec(compile(QGuiApplication.clipboard().text(), "script", "exec"), scope)
    again = scope["verdict"].chosen.explanation
    assert (again.label, again.sentence) == (said.label, said.sentence)


def test_a_circuit_is_described_and_its_links_lead_somewhere(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    session, commands = studio.session, studio.commands
    commands.run("agents.describe")
    dock = studio.window.docks["agents"]
    assert isinstance(dock, AgentsDock)
    until(qtbot, lambda: len(runs(studio)) == 1)
    story = story_from(runs(studio)[0]["story"])
    assert story.prompt == graph.prompt and story.sentences and story.runs
    for sentence in story.sentences:
        assert sentence.text in dock.explaining.result.lines
    for one in story.struck:
        assert f"Struck: {one.reason}" in dock.explaining.result.lines
    assert unnamed_controls(dock) == []

    # Every kind of link leads to what it names.
    links = {link.kind: link.reference for one in story.sentences for link in one.evidence}
    assert {"node", "run"} <= set(links)
    dock.explaining.result.went.emit(("node", links["node"]))
    assert session.selection == links["node"]
    group = story.supernodes[0]
    dock.explaining.result.went.emit(("supernode", group.key))
    assert set(session.chosen) == set(group.nodes) or session.selection in group.nodes
    dock.explaining.result.went.emit(("run", links["run"]))
    intervene = studio.window.docks["intervene"]
    assert isinstance(intervene, InterveneDock)
    until(qtbot, lambda: intervene.result.run is not None)
    run = story.run(links["run"])
    shown = intervene.result.run
    assert run is not None and shown is not None and shown.to_json() == run.run.to_json()

    # Its supernodes become the person's own, in one step that can be undone.
    before = session.notes
    commands.run("go.agents")
    commands.run("agents.use_supernodes")
    assert {one.name for one in story.supernodes} <= {one.name for one in session.notes.supernodes}
    session.undo_stack.undo()
    assert session.notes == before


def answers(body: Any) -> str:
    """What a model would say that explains by two words and judges by them."""
    asked = body["messages"][-1]["content"]
    system = body["messages"][0]["content"]
    if "You judge" in system:
        n = asked.count("<text>")
        if "numbered" in asked:
            return json.dumps({"fires": []})
        return json.dumps({"answers": [False] * n})
    if "refute" in system:
        return json.dumps({"should_fire": ["in Dallas"], "should_not_fire": ["in Rome"]})
    return json.dumps(SAID)


def test_an_endpoint_is_asked_within_its_budget(
    online: Studio, server: ChatServer, qtbot: QtBot, tmp_path: Path
) -> None:
    server.turns = [_turn] * 400
    dock = opened(online, qtbot)
    dock.form.who_field.setCurrentIndex(dock.form.who_field.findData("endpoint"))
    assert "127.0.0.1 is asked" in dock.form.about.text()
    assert "at most 0.4 in money" in dock.explaining.cost.text()
    # What it takes is counted before, and nobody is asked for that.
    online.commands.run("agents.estimate")
    until(qtbot, lambda: "This feature takes about" in dock.explaining.cost.text())
    assert server.requests == []
    online.commands.run("agents.explain")
    until(qtbot, lambda: len(runs(online)) == 1)
    record = runs(online)[0]
    verdict = read_verdict(record["verdict"])
    # It says less than counting does, so it does not stand; its words are shown as they are.
    assert verdict.chosen.explanation.author == "deterministic"
    assert any("<b>Texas</b> & cities" in line for line in dock.explaining.result.lines)
    for made in dock.findChildren(QLabel):
        assert made.textFormat() == Qt.TextFormat.PlainText or not made.text(), made.text()
    assert record["spent"]["questions"] == len(server.requests) > 0
    assert "You explain features" in dock.transcript.words.toPlainText()
    path = tmp_path / "said.json"
    dock.save_to(str(path))
    until(qtbot, path.exists)
    assert len(read_record(path).exchanges) == len(server.requests)

    # A budget of one question ends the run; what was said stays.
    dock.form.calls.setValue(1)
    online.commands.run("agents.explain")
    until(qtbot, lambda: len(runs(online)) == 2)
    assert "budget of 1 questions is used up" in dock.explaining.result.author.text()


def test_a_stop_keeps_what_was_said(online: Studio, server: ChatServer, qtbot: QtBot) -> None:
    def silent(to: Any, body: Any) -> None:
        server.released.wait(30)

    server.turns = [_turn, silent]
    dock = opened(online, qtbot)
    dock.form.who_field.setCurrentIndex(dock.form.who_field.findData("endpoint"))
    online.commands.run("agents.explain")
    until(qtbot, lambda: len(server.requests) == 2)
    online.commands.run("agents.stop")
    until(qtbot, lambda: len(runs(online)) == 1)
    server.released.set()
    assert runs(online)[0]["verdict"] is None
    assert len(runs(online)[0]["transcript"]["exchanges"]) == 2
    assert dock.explaining.result.author.text().startswith("Stopped before")
    assert not dock.explaining.result.title.isVisible()


def test_what_is_missing_is_said(studio: Studio, qtbot: QtBot) -> None:
    dock = opened(studio, qtbot)
    dock.form.who_field.setCurrentIndex(dock.form.who_field.findData("endpoint"))
    assert dock.explaining.cost.text() == "It cannot be asked: see Settings"
    assert "ATTENTION_STUDIO_AGENT_URL" in dock.form.about.text()
    assert "ATTENTION_STUDIO_AGENT_MODEL" in dock.form.about.text()
    studio.commands.run("agents.explain")
    assert not studio.runner.busy and runs(studio) == ()
    shown = studio.window.messages.current
    assert shown is not None and "No endpoint can be asked" in shown.what
    assert dock.pages.currentWidget() is dock.form


def _turn(to: Any, body: Any) -> None:
    says(answers(body))(to, body)
