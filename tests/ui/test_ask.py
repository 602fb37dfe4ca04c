"""Questions in the real window with the demo: asked, stopped, answered, followed, and accepted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.core.trace_circumstances import made_by
from attention_studio.core.workspace_reading import WorkspaceReader
from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.agents_dock import AgentsDock
from attention_studio.ui.widgets.intervene_dock import InterveneDock
from attention_studio.ui.work_talking import RUN
from tests.chat_server import ChatServer, asks_for, falls_silent_after, never_ends, says
from tests.ui.demo_window import LONG, traced
from tests.ui.online import online, server
from tests.ui.stage import unnamed_controls

__all__ = ["online", "server"]


def until(qtbot: QtBot, condition: Callable[[], bool]) -> None:
    qtbot.waitUntil(condition, timeout=LONG)


def runs(studio: Studio) -> tuple[dict[str, Any], ...]:
    return studio.session.records.get(RUN, ())


def opened(studio: Studio, qtbot: QtBot, who: str) -> AgentsDock:
    studio.window.keeper.start()
    until(qtbot, lambda: studio.session.workspace is not None)
    traced(studio, qtbot)
    assert studio.commands.run("agents.ask")  # nothing is typed: it goes to the field
    dock = studio.window.docks["agents"]
    assert isinstance(dock, AgentsDock) and dock.pages.currentWidget() is dock.asking
    dock.form.who_field.setCurrentIndex(dock.form.who_field.findData(who))
    return dock


def asked(qtbot: QtBot, dock: AgentsDock, question: str) -> None:
    qtbot.keyClicks(dock.asking.question, question)
    qtbot.keyClick(dock.asking.question, Qt.Key.Key_Return)


def click_link(qtbot: QtBot, dock: AgentsDock, number: int) -> None:
    """Click on the middle of a link of the answer, where it is drawn."""
    view = dock.asking.answer
    place = view.toPlainText().index(view.links[number].text) + len(view.links[number].text) // 2
    cursor = view.textCursor()
    cursor.setPosition(place)
    view.setTextCursor(cursor)
    view.ensureCursorVisible()
    box = view.cursorRect(cursor)
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=box.center() + QPoint(1, 0))


def test_a_question_is_answered_and_its_links_lead_on(
    online: Studio, server: ChatServer, qtbot: QtBot
) -> None:
    dock = opened(online, qtbot, "endpoint")
    session, asking = online.session, dock.asking
    graph, key = session.graph, session.graph_key
    assert graph is not None and session.crm is not None and made_by(graph, session.crm)
    assert "127.0.0.1 answers" in asking.who.text() and "200,000 tokens" in asking.who.text()
    assert unnamed_controls(dock) == []
    name = next(
        node for node in map(graph.node_name, range(len(graph.nodes.layer))) if "/F" in node
    )
    site, _, number = name.split("/")

    # Without leave nothing can be proposed, whatever is asked for; what leads nowhere is struck.
    bold = "<b>Bold</b>, and nothing shows it."
    server.turns = [
        asks_for(
            ("run_intervention", f'{{"features": ["{name}"]}}'),
            ("propose_pin", f'{{"nodes": ["{name}"]}}'),
            ("show_run", '{"run": 1}'),
            text="Let me look.",
        ),
        says(f"It fires [{name}], as was tested [run 1]. {bold} Bad [L9/P9/F9]."),
        says(f"It fires [{name}], as was tested [run 1]. {bold} Bad [L9/P9/F9]."),
    ]
    notes = session.notes
    asked(qtbot, dock, "What is it?")
    until(qtbot, lambda: len(runs(online)) == 1)
    record = runs(online)[0]
    assert [tool["failed"] for tool in record["answer"]["tools"]] == [False, True, False]
    assert session.notes == notes and not asking.proposals.isVisible()
    shown = asking.answer.toPlainText()
    assert shown.startswith("What is it?\nIt fires [")
    assert f"{bold} (no evidence)" in shown and "Struck: the open graph has no node" in shown
    assert "propose_pin (failed)" in shown and "money" in shown
    assert "Let me look." in dock.transcript.words.toPlainText()
    assert asking.text == ""  # the next question

    click_link(qtbot, dock, 1)
    intervene = online.window.docks["intervene"]
    assert isinstance(intervene, InterveneDock)
    until(qtbot, lambda: intervene.result.run is not None)
    online.commands.run("go.agents")
    click_link(qtbot, dock, 0)
    assert session.selection == name and online.window.graph_dock.in_front
    assert "What is it?" in asking.answer.toPlainText()  # what was said stays in sight

    # With leave there is a list, and each change of it is one step that can be undone.
    server.turns = [
        asks_for(
            ("propose_pin", f'{{"nodes": ["{name}"], "why": "it matters"}}'),
            ("propose_label", f'{{"node": "{name}", "text": "a <i>label</i>"}}'),
        ),
        says(f"Both for [{site}/{number}]."),
    ]
    online.commands.run("agents.ask")
    qtbot.mouseClick(asking.propose, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    assert asking.propose.isChecked()
    asked(qtbot, dock, "Name it")
    until(qtbot, lambda: len(runs(online)) == 2)
    assert session.notes == notes
    rows = asking.proposals.list
    assert rows.count() == 2 and "a <i>label</i>" in rows.item(1).text()
    button = dock.findChild(QPushButton, "button.agents.accept")
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert session.pinned == (name,) and rows.item(0).text().startswith("✓ Pin")
    assert session.notes.labels == notes.labels
    qtbot.keyClick(rows, Qt.Key.Key_Return)
    assert session.notes.labels[f"{site}/{number}"] == "a <i>label</i>"
    session.undo_stack.undo()
    assert session.notes.labels == notes.labels and session.pinned == (name,)
    assert rows.item(1).text().startswith("Label")
    session.undo_stack.undo()
    assert session.notes == notes and rows.item(0).text().startswith("Pin")
    click_link(qtbot, dock, 0)
    assert session.feature is not None and session.feature[0].label == site

    # A run can be gone back to; only its row is made, and it is kept with the workspace.
    online.commands.run("go.agents")
    dock.runs.setCurrentIndex(1)
    dock.runs.activated.emit(1)
    assert asking.answer.toPlainText() == shown
    online.window.scripts.copy("agents.ask")
    copied = QGuiApplication.clipboard().text()
    folder = session.workspace.folder if session.workspace is not None else None
    assert f"# attention-studio ask 'What is it?' --workspace {folder} --model demo" in copied
    assert "--propose --backend endpoint --max-tokens 200000" in copied
    assert key == session.graph_key


def test_a_slow_answer_holds_nobody_up_and_is_kept_when_the_window_goes(
    online: Studio, server: ChatServer, qtbot: QtBot
) -> None:
    dock = opened(online, qtbot, "endpoint")
    server.turns = [never_ends("slow "), asks_for(("workspace", "{}")), falls_silent_after("It")]
    asked(qtbot, dock, "How?")
    until(qtbot, lambda: "slow slow" in dock.asking.answer.toPlainText())
    # The model is free meanwhile, and nobody else is asked at the same time.
    free = threading.Event()
    online.runner.submit(lambda _ctx: free.set(), title="Compute")
    until(qtbot, free.is_set)
    online.commands.run("agents.describe")
    message = online.window.messages.current
    assert message is not None and "at work already" in message.what
    online.commands.run("agents.stop")
    until(qtbot, lambda: len(runs(online)) == 1)
    assert server.hung_up.wait(10)
    assert runs(online)[0]["answer"] is None
    assert "Stopped before" in dock.asking.answer.toPlainText()
    assert "[no answer]" in dock.transcript.words.toPlainText()
    assert dock.asking.text == "How?"  # it may be asked again

    qtbot.keyClick(dock.asking.question, Qt.Key.Key_Return)
    until(qtbot, lambda: "It" in dock.asking.answer.toPlainText().splitlines())
    assert "Looked: workspace" in dock.asking.answer.toPlainText()
    folder = online.session.workspace.folder if online.session.workspace is not None else None
    assert folder is not None
    online.window.close()
    until(qtbot, lambda: not online.window.isVisible())
    kept = WorkspaceReader(folder).records(RUN)
    assert [len(run["transcript"]["exchanges"]) for run in kept] == [1, 2]
    assert kept[1]["question"] == "How?" and kept[1]["answer"] is None


def test_what_questions_need_and_what_stories_take_is_said(studio: Studio, qtbot: QtBot) -> None:
    dock = opened(studio, qtbot, "none")
    assert "Questions need a language model" in dock.asking.who.text()
    asked(qtbot, dock, "Why?")
    assert not studio.runner.busy and runs(studio) == ()
    message = studio.window.messages.current
    assert message is not None and "ATTENTION_STUDIO_AGENT_URL" in message.todo
    assert dock.pages.currentWidget() is dock.form
    studio.commands.run("agents.estimate_story")
    until(qtbot, lambda: "interventions" in dock.explaining.cost.text())
    assert "no model is asked" in dock.explaining.cost.text()
    dock.form.who_field.setCurrentIndex(dock.form.who_field.findData("local"))
    studio.commands.run("agents.estimate_story")
    until(qtbot, lambda: "about 3 questions" in dock.explaining.cost.text())
