"""The Console dock: Python on what the window holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtGui import QColor, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QHBoxLayout, QMainWindow, QPlainTextEdit, QVBoxLayout, QWidget

from attention_studio.ui import work_console
from attention_studio.ui.console.interpreter import Interpreter, Kind
from attention_studio.ui.console.session_view import MainThreadCalls, SessionView
from attention_studio.ui.jobs import Job, JobFailure, JobState
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.console_input import ConsoleInput
from attention_studio.ui.widgets.controls import CommandTool, label, line, named, push_button, row
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme

FLUSH_MS = 50
_LEAST_HEIGHT, _GOOD_HEIGHT = 200, 280
KEPT_LINES = 5_000
KEPT_PIECES = 5_000
_TOKENS = {
    Kind.INPUT: "accent",
    Kind.OUTPUT: "text",
    Kind.VALUE: "text",
    Kind.ERROR: "error",
    Kind.NOTE: "muted",
}
GREETING = (
    "Python on what the window holds: graph, pruned, selection, chosen, notes, features, model, "
    "crm, prompt, session, run(command), np and ctx.\n"
    "Names follow the window at each statement. Statements run beside the window, after whatever "
    "uses the model; Ctrl+C interrupts.\n"
)


class ConsoleDock(StudioDock):
    """A Python console. The interpreter is made for the first statement."""

    NAME = "consoleDock"
    TITLE = "Console"
    ICON = "console"
    LAZY = True
    # What is dropped by the window must not live on in the console's own names.
    WATCHES = frozenset((SessionPart.MODEL, SessionPart.CRM, SessionPart.GRAPH))

    message = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        theme: Theme,
        parent: Optional[QWidget] = None,
    ) -> None:
        self.interpreter: Optional[Interpreter] = None
        self._job: Optional[Job] = None
        # Written to from the lane.
        self._coming: deque[tuple[str, Kind]] = deque()
        self._pieces: deque[tuple[str, Kind]] = deque(maxlen=KEPT_PIECES)
        super().__init__(session, runner, commands, theme, parent)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._calls = MainThreadCalls(self)
        self.output = named(
            QPlainTextEdit(), "console.output", "What statements gave",
            "Values, prints and errors of the statements that were run",
        )  # fmt: skip
        self.output.setReadOnly(True)
        self.output.setMaximumBlockCount(KEPT_LINES)
        self.output.setUndoRedoEnabled(False)
        self.output.setTabChangesFocus(True)
        self.input = ConsoleInput(self.theme)
        self._state = label("", "caption", name="console.state")
        self.run_button = push_button("Run", "console.run", "Run the statement (Enter)")
        self.stop_button = push_button(
            "Stop", "console.stop", "Interrupt the statement that runs (Ctrl+C)", look="danger"
        )
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.output, 1)
        layout.addWidget(line())
        below = QHBoxLayout()
        below.setContentsMargins(8, 6, 8, 6)
        below.setSpacing(8)
        below.addWidget(self.input, 1)
        below.addLayout(row(self._state, self.run_button, self.stop_button))
        layout.addLayout(below)
        self.set_content(body)
        self.setFocusProxy(self.input)
        self.add_title_widget(CommandTool(self.commands, "console.clear", "console.clear"))
        self._flush = QTimer(self)
        self._flush.setInterval(FLUSH_MS)
        self._flush.timeout.connect(self._take)
        self.input.entered.connect(self._on_entered)
        self.input.stop_wanted.connect(self.stop)
        self.input.completion_wanted.connect(self._on_completion_wanted)
        self.run_button.clicked.connect(self._on_run)
        self.stop_button.clicked.connect(self.stop)
        self.theme.changed.connect(self._repaint)
        self._pieces.append((GREETING, Kind.NOTE))
        self._repaint()
        self._show_state()

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def go_there(self) -> None:
        """Show the dock and put the keyboard into the line."""
        super().go_there()
        self.input.setFocus()
        window = self.parentWidget()
        if isinstance(window, QMainWindow) and self.height() < _LEAST_HEIGHT:
            # Where it lies with the list of tasks there is room for two lines.
            window.resizeDocks([self], [_GOOD_HEIGHT], Qt.Orientation.Vertical)

    @Slot()
    def stop(self) -> None:
        """Interrupt the statement that runs."""
        if self._job is not None:
            self.runner.cancel(self._job)
            return
        self.input.clear()

    @Slot()
    def clear(self) -> None:
        """Empty the output."""
        self._take()
        self._pieces.clear()
        self.output.clear()

    # -- running ------------------------------------------------------------------------------

    def names(self) -> dict[str, Any]:
        """What statements find under these names now."""
        import numpy as np

        session = self.session
        return {
            "graph": session.graph,
            "pruned": session.pruned,
            "selection": session.selection,
            "chosen": session.chosen,
            "notes": session.notes,
            "features": session.features,
            "model": session.model,
            "crm": session.crm,
            "prompt": session.prompt,
            "run": self._run_command,
            "np": np,
        }

    def _run_command(self, command: str) -> bool:
        """Run a command of the window by its id; returns whether it made sense now."""
        job = self._job
        if job is None:
            return False
        done: bool = self._calls.call(job.context, partial(self.commands.run, command))
        return done

    @Slot()
    def _on_run(self) -> None:
        self._on_entered(True)
        self.input.setFocus()

    @Slot(bool)
    def _on_entered(self, as_it_is: bool) -> None:
        source = self.input.toPlainText()
        if not source.strip():
            return
        if self.interpreter is None:
            self.interpreter = Interpreter()
        last = source.rsplit("\n", 1)[-1]
        if not as_it_is and "\n" in source and last[:1].isspace() and last.strip():
            # Inside a block: an empty line ends it, as in Python's own console.
            self.input.new_line()
            return
        try:
            statement = self.interpreter.read(source.rstrip() + "\n")
        except SyntaxError as error:
            self._echo(source)
            where = f" (line {error.lineno}, column {error.offset})" if error.lineno else ""
            self._write(f"SyntaxError: {error.msg}{where}\n", Kind.ERROR)
            self._take()
            return
        if statement is None:
            self.input.new_line()
        elif self._job is None:
            self._echo(source)
            self.input.remember(source)
            first = " ".join(source.split())
            title = f"Console: {first[:60]}{'…' if len(first) > 60 else ''}"
            job = self.runner.submit(
                work_console.run_statement, self.interpreter, statement, self.names(),
                self.session, self._calls, self._write, title=title, key="console", quiet=True,
            )  # fmt: skip
            if job.state.over:  # the runner takes no more work
                return
            self._job = job
            for signal in (job.finished, job.cancelled):
                signal.connect(self._on_done)
            job.failed.connect(self._on_failed)
            job.progress.connect(self._show_state)
            self.runner.job_changed.connect(self._on_job_changed)
            self._flush.start()
            self._show_state()

    @Slot(object)
    def _on_job_changed(self, job: Job) -> None:
        if job is self._job:
            self._show_state()

    @Slot(object)
    def _on_done(self, _value: object) -> None:
        self._job = None
        self.runner.job_changed.disconnect(self._on_job_changed)
        self._flush.stop()
        self._take()
        self._show_state()
        self._give()

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self._write(failure.details or failure.what, Kind.ERROR)
        self._on_done(None)

    @Slot()
    def _show_state(self) -> None:
        job = self._job
        text = ""
        if job is not None:
            waits = job.state is JobState.QUEUED
            text = "Waits for what uses the model" if waits else "Running…"
        self._state.setText(text)
        self._state.setVisible(bool(text))
        self.run_button.setVisible(job is None)
        self.stop_button.setVisible(job is not None)

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Let go of what the window has let go of."""
        self._give()

    # -- completion ---------------------------------------------------------------------------

    @Slot(str)
    def _on_completion_wanted(self, word: str) -> None:
        if self.interpreter is None:
            self.interpreter = Interpreter()
        self._give()
        job = self.runner.submit(
            work_console.complete, self.interpreter, word, title="Complete a name", lane="quick",
            key="console.complete", quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_completed)

    @Slot(object)
    def _on_completed(self, found: tuple[str, tuple[str, ...]]) -> None:
        word, names = found
        if not names or self.input.word() != word:
            return
        common = _common_beginning(names)
        if len(common) > len(word):
            self.input.complete(word, common)
        if len(names) > 1:
            shown = "   ".join(name.rsplit(".", 1)[-1] for name in names)
            self._write(f"{shown}\n", Kind.NOTE)
            self._take()

    def _give(self) -> None:
        """Let the console's names say what the window holds now, while nothing runs."""
        if self._job is None and self.interpreter is not None:
            ctx = WorkContext()
            view = SessionView(self.session, self._calls, ctx)
            self.interpreter.give({**self.names(), "session": view, "ctx": ctx})

    @property
    def busy(self) -> bool:
        """Whether a statement runs, or waits to."""
        return self._job is not None

    # -- output -------------------------------------------------------------------------------

    def text(self) -> str:
        """Everything that is written in the output."""
        self._take()
        return self.output.toPlainText()

    def _write(self, text: str, kind: Kind) -> None:
        """Take a piece of output, from any thread."""
        self._coming.append((text, kind))

    def _echo(self, source: str) -> None:
        lines = source.rstrip().splitlines()
        shown = [f">>> {lines[0]}", *(f"... {line}" for line in lines[1:])]
        self._write("\n".join(shown) + "\n", Kind.INPUT)

    @Slot()
    def _take(self) -> None:
        """Show what has come in."""
        if not self._coming:
            return
        pieces = []
        while self._coming:
            pieces.append(self._coming.popleft())
        self._pieces.extend(pieces)
        self._append(pieces)

    def _append(self, pieces: Iterable[tuple[str, Kind]]) -> None:
        bar = self.output.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 2
        cursor = QTextCursor(self.output.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        for text, kind in pieces:
            style = QTextCharFormat()
            style.setForeground(QColor(getattr(self.theme.tokens, _TOKENS[kind])))
            cursor.insertText(text, style)
        if at_end:
            bar.setValue(bar.maximum())

    @Slot()
    def _repaint(self) -> None:
        """Write everything anew in the theme's colours."""
        font = self.theme.font(mono=True)
        self.output.setFont(font)
        self.output.document().setDefaultFont(font)
        self.output.clear()
        self._append(self._pieces)
        bar = self.output.verticalScrollBar()
        bar.setValue(bar.maximum())


def _common_beginning(names: tuple[str, ...]) -> str:
    least, most = min(names), max(names)
    pairs = enumerate(zip(least, most, strict=False))
    return least[: next((place for place, (a, b) in pairs if a != b), len(least))]
