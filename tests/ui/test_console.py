"""The Python console: what one types, what comes of it, and that it never stops the window."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.console.interpreter import MAX_OUTPUT, Interpreter, Kind
from attention_studio.ui.widgets.console_dock import ConsoleDock
from tests.ui.demo_window import LONG, traced
from tests.ui.stage import Stage, unnamed_controls

_CONTROL = Qt.KeyboardModifier.ControlModifier


class Sink:
    """Takes down what is written, by kind."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, Kind]] = []

    def __call__(self, text: str, kind: Kind) -> None:
        self.pieces.append((text, kind))

    def of(self, kind: Kind) -> str:
        return "".join(text for text, one in self.pieces if one is kind)


def run(interpreter: Interpreter, source: str) -> Sink:
    """Run a statement on this thread."""
    statement = interpreter.read(source)
    assert statement is not None
    sink = Sink()
    interpreter.run(statement, sink)
    return sink


# -- the interpreter ------------------------------------------------------------------------------


def test_values_prints_and_errors_are_told_apart() -> None:
    python = Interpreter()
    assert run(python, "1 + 1\n'two'\nNone\n").of(Kind.VALUE) == "2\n'two'\n"
    assert run(python, "print('out')\n").of(Kind.OUTPUT) == "out\n"
    assert run(python, "import sys; sys.stderr.write('err')\n").of(Kind.ERROR) == "err"
    assert python.namespace["_"] == 3  # what write() gave
    told = run(python, "def f():\n    return 1 / 0\n\nf()\n").of(Kind.ERROR)
    # It begins with what was typed, and shows its lines.
    assert told.startswith("Traceback") and "return 1 / 0" in told
    assert "interpreter.py" not in told and told.rstrip().endswith("division by zero")


def test_streams_and_the_display_hook_are_given_back() -> None:
    before = sys.stdout, sys.stderr, sys.stdin, sys.displayhook
    run(Interpreter(), "raise SystemExit\n")
    assert (sys.stdout, sys.stderr, sys.stdin, sys.displayhook) == before


def test_other_threads_print_where_they_always_did(capsys: pytest.CaptureFixture[str]) -> None:
    python = Interpreter()
    python.namespace["other"] = lambda: sys.stdout.write("from elsewhere\n")
    source = "import threading\nt = threading.Thread(target=other); t.start(); t.join()\n"
    assert run(python, source).of(Kind.OUTPUT) == ""
    assert capsys.readouterr().out == "from elsewhere\n"


def test_a_statement_that_goes_on_is_no_statement_yet() -> None:
    python = Interpreter()
    assert python.read("for i in range(3):") is None
    assert python.read("f(1,") is None
    with pytest.raises(SyntaxError):
        python.read("1 +* 2")


def test_nobody_answers_a_question() -> None:
    assert "EOFError" in run(Interpreter(), "input('name? ')\n").of(Kind.ERROR)


def test_endless_output_and_values_are_cut() -> None:
    python = Interpreter()
    sink = run(python, "for i in range(60_000): print('0123456789')\n")
    assert len(sink.of(Kind.OUTPUT)) == MAX_OUTPUT
    assert "left out" in sink.of(Kind.NOTE)
    assert len(run(python, "'x' * 1_000_000\n").of(Kind.VALUE)) < 30_000


def test_names_follow_the_giver_until_the_person_takes_them() -> None:
    python, first, second = Interpreter(), object(), object()
    python.give({"graph": first})
    run(python, "graph = 'mine'\n")
    python.give({"graph": first})
    assert python.namespace["graph"] == "mine"
    python.give({"graph": second})
    assert python.namespace["graph"] is second


def test_an_endless_loop_is_interrupted_and_nothing_else_is() -> None:
    python = Interpreter()
    assert not python.interrupt()
    statement = python.read("while True: pass\n")
    assert statement is not None
    sink, after = Sink(), []

    def work() -> None:
        assert not python.run(statement, sink)
        # An interrupt that came late must not reach what follows.
        after.append(sum(range(100_000)))

    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + 20.0
    while thread.is_alive() and time.monotonic() < until:
        python.interrupt()
        thread.join(0.01)
    assert not thread.is_alive() and after == [sum(range(100_000))]
    assert sink.of(Kind.ERROR) == "Interrupted\n"


def test_completion_knows_names_and_attributes() -> None:
    python = Interpreter()
    python.namespace["words"] = ["a"]
    assert "words" in python.completions("wor")
    assert any(one.startswith("words.append") for one in python.completions("words.app"))
    assert python.completions("nothing_like_it") == ()


# -- the dock -------------------------------------------------------------------------------------


def enter(dock: ConsoleDock, qtbot: QtBot, source: str) -> str:
    """Type a statement and press Enter; returns what came of it."""
    before = len(dock.text())
    qtbot.keyClicks(dock.input, source)
    qtbot.keyClick(dock.input, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not dock.busy, timeout=LONG)
    return dock.text()[before:]


def test_nothing_of_it_is_there_before_it_is_used(stage: Stage, qtbot: QtBot) -> None:
    dock = stage.put(ConsoleDock)
    assert dock.interpreter is None
    assert "graph" in dock.text()
    assert enter(dock, qtbot, "1 + 1").strip().endswith("2")
    assert dock.interpreter is not None
    assert unnamed_controls(dock) == []


def test_blocks_history_and_completion(stage: Stage, qtbot: QtBot) -> None:
    dock = stage.put(ConsoleDock)
    qtbot.keyClicks(dock.input, "def double(x):")
    qtbot.keyClick(dock.input, Qt.Key.Key_Return)
    assert dock.input.toPlainText() == "def double(x):\n    "
    qtbot.keyClicks(dock.input, "return 2 * x")
    qtbot.keyClick(dock.input, Qt.Key.Key_Return)
    for _ in range(4):
        qtbot.keyClick(dock.input, Qt.Key.Key_Backspace)
    qtbot.keyClick(dock.input, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not dock.busy, timeout=LONG)
    assert enter(dock, qtbot, "double(21)").rstrip().endswith("42")
    qtbot.keyClick(dock.input, Qt.Key.Key_Up)
    assert dock.input.toPlainText() == "double(21)"
    qtbot.keyClick(dock.input, Qt.Key.Key_Down)
    assert dock.input.toPlainText() == ""
    qtbot.keyClicks(dock.input, "doub")
    qtbot.keyClick(dock.input, Qt.Key.Key_Tab)
    qtbot.waitUntil(lambda: dock.input.toPlainText().startswith("double"), timeout=LONG)
    dock.input.clear()
    assert "SyntaxError" in enter(dock, qtbot, "1 +* 2")
    assert dock.input.toPlainText() == "1 +* 2"  # to be mended
    # With nothing to complete, Tab goes on to the next control.
    dock.input.clear()
    dock.input.setFocus()
    qtbot.keyClick(dock.input, Qt.Key.Key_Tab)
    assert not dock.input.hasFocus()


def test_statements_see_the_window_and_act_on_it(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    assert studio.commands.run("go.console")
    dock = studio.window.docks["console"]
    assert isinstance(dock, ConsoleDock) and dock.input.hasFocus()
    session = studio.session

    def told(source: str) -> str:
        return enter(dock, qtbot, source).split("\n", 1)[1].strip()

    assert told("graph.n_features") == str(graph.n_features)
    assert told("model.info.name, crm is session.crm, selection") == "('demo', True, None)"
    assert told("session.set_selection(graph.node_name(3))") == ""
    assert session.selection == graph.node_name(3)
    assert told("selection") == repr(session.selection)
    assert told("session.toggle_pin(selection); session.pinned") == f"({session.selection!r},)"
    assert session.undo_stack.canUndo()
    assert told("run('edit.undo')") == "True" and session.pinned == ()
    assert told("int(np.argmax(graph.influence)) >= 0") == "True"
    assert "set it by a method" in told("session.selection = None")
    # What the window lets go of, the console's own names let go of too.
    session.set_graph(None, None)
    assert dock.interpreter is not None and dock.interpreter.namespace["graph"] is None


def test_the_window_lives_while_a_statement_runs(studio: Studio, qtbot: QtBot) -> None:
    assert studio.commands.run("go.console")
    dock = studio.window.docks["console"]
    assert isinstance(dock, ConsoleDock)
    stop = dock.findChild(QPushButton, "console.stop")
    assert isinstance(stop, QPushButton) and not stop.isVisible()
    qtbot.keyClicks(dock.input, "while True: pass")
    qtbot.keyClick(dock.input, Qt.Key.Key_Return, _CONTROL)
    qtbot.waitUntil(stop.isVisible, timeout=LONG)
    # The event loop goes on: commands run, and what is typed arrives.
    before = studio.theme.dark
    assert studio.commands.run("theme.toggle") and studio.theme.dark is not before
    qtbot.keyClicks(dock.input, "1 + 2")
    assert dock.input.toPlainText() == "1 + 2" and dock.busy
    qtbot.mouseClick(stop, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.busy, timeout=LONG)
    assert dock.text().rstrip().endswith("Interrupted") and not stop.isVisible()
    qtbot.keyClick(dock.input, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: dock.text().rstrip().endswith("3"), timeout=LONG)


def test_the_window_closes_in_the_middle_of_a_statement(studio: Studio, qtbot: QtBot) -> None:
    assert studio.commands.run("go.console")
    dock = studio.window.docks["console"]
    assert isinstance(dock, ConsoleDock)
    qtbot.keyClicks(dock.input, "while True: pass")
    qtbot.keyClick(dock.input, Qt.Key.Key_Return, _CONTROL)
    qtbot.waitUntil(lambda: dock.busy, timeout=LONG)
    studio.window.close()
    qtbot.waitUntil(lambda: not studio.window.isVisible(), timeout=LONG)
    assert not studio.runner.busy


def test_the_output_can_be_cleared_and_follows_the_theme(stage: Stage, qtbot: QtBot) -> None:
    dock = stage.put(ConsoleDock)
    enter(dock, qtbot, "'kept'")
    stage.theme.set_choice("dark")
    assert "'kept'" in dock.text()
    assert stage.commands.run("console.clear")
    assert dock.text() == ""
