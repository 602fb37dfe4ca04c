"""The line (or lines) that one types Python into: history, Tab, Enter."""

from __future__ import annotations

import re
from typing import Optional

from PySide6.QtCore import QEvent, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QTextCursor
from PySide6.QtWidgets import QPlainTextEdit, QWidget

from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.controls import named

MOST_LINES = 8
KEPT = 500
_WORD = re.compile(r"[A-Za-z_][\w.]*$")
_INDENT = "    "


class ConsoleInput(QPlainTextEdit):
    """Where a statement is typed.

    ``entered`` says that Enter was pressed (with True where Ctrl was held: run it as it is),
    ``completion_wanted`` carries the word before the cursor, ``stop_wanted`` that Ctrl+C was
    pressed with nothing to copy.
    """

    entered = Signal(bool)
    completion_wanted = Signal(str)
    stop_wanted = Signal()

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._history: list[str] = []
        self._place = 0
        self._draft = ""
        named(
            self, "console.input", "Python statement",
            "Enter runs; Shift+Enter begins a new line; Up and Down go through what was run; Tab "
            "completes a name",
        )  # fmt: skip
        self.setPlaceholderText("Python, such as graph.summary()")
        self.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.textChanged.connect(self._fit)
        theme.changed.connect(self._on_theme)
        self._on_theme()

    def remember(self, source: str) -> None:
        """Put a statement into the history, and empty the line."""
        if not self._history or self._history[-1] != source:
            self._history = [*self._history[1 - KEPT :], source]
        self._place = len(self._history)
        self.clear()

    def new_line(self) -> None:
        """Begin a new line, indented as the one before, or further after a colon."""
        cursor = self.textCursor()
        line = cursor.block().text()
        indent = line[: len(line) - len(line.lstrip())]
        if line[: cursor.positionInBlock()].rstrip().endswith(":"):
            indent += _INDENT
        cursor.insertText(f"\n{indent}")
        self.ensureCursorVisible()

    def complete(self, word: str, completed: str) -> None:
        """Write the completed word in the place of the one before the cursor, if it is there."""
        if self.word() == word and completed.startswith(word):
            self.textCursor().insertText(completed[len(word) :])

    def word(self) -> str:
        """The name, with attributes, before the cursor."""
        cursor = self.textCursor()
        found = _WORD.search(cursor.block().text()[: cursor.positionInBlock()])
        return found.group() if found else ""

    def event(self, event: QEvent) -> bool:
        """Keep Ctrl+C from becoming a shortcut of the window."""
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            control = event.modifiers() == Qt.KeyboardModifier.ControlModifier
            if control and event.key() in (Qt.Key.Key_C, Qt.Key.Key_Return, Qt.Key.Key_Enter):
                event.accept()
                return True
        return bool(super().event(event))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Run, go through the history, complete, interrupt, or type."""
        key, held = event.key(), event.modifiers()
        control = bool(held & Qt.KeyboardModifier.ControlModifier)
        shift = bool(held & Qt.KeyboardModifier.ShiftModifier)
        block = self.textCursor().blockNumber()
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if shift:
                self.new_line()
            else:
                self.entered.emit(control)
        elif key == Qt.Key.Key_Up and block == 0 and not shift:
            self._go(-1)
        elif key == Qt.Key.Key_Down and block == self.blockCount() - 1 and not shift:
            self._go(1)
        elif key == Qt.Key.Key_Tab and self.word():
            self.completion_wanted.emit(self.word())
        elif key == Qt.Key.Key_Tab and self._inside_block():
            self.textCursor().insertText(_INDENT)
        elif key in (Qt.Key.Key_Tab, Qt.Key.Key_Backtab):
            # Nothing to complete: the keyboard goes on to the next control.
            self.setTabChangesFocus(True)
            self.focusNextPrevChild(key == Qt.Key.Key_Tab)
            self.setTabChangesFocus(False)
        elif key == Qt.Key.Key_C and control and not shift and not self.textCursor().hasSelection():
            self.stop_wanted.emit()
        else:
            super().keyPressEvent(event)

    def _inside_block(self) -> bool:
        cursor = self.textCursor()
        before = cursor.block().text()[: cursor.positionInBlock()]
        return self.blockCount() > 1 and not before.strip()

    def _go(self, step: int) -> None:
        place = self._place + step
        if not 0 <= place <= len(self._history):
            return
        if self._place == len(self._history):
            self._draft = self.toPlainText()
        self._place = place
        shown = self._draft if place == len(self._history) else self._history[place]
        self.setPlainText(shown)
        self.moveCursor(QTextCursor.MoveOperation.End)

    @Slot()
    def _fit(self) -> None:
        """As high as its lines, up to a limit."""
        lines = min(MOST_LINES, max(1, self.blockCount()))
        self.setFixedHeight(round(lines * self.fontMetrics().lineSpacing()) + 24)
        more = self.blockCount() > MOST_LINES
        policy = Qt.ScrollBarPolicy
        self.setVerticalScrollBarPolicy(
            policy.ScrollBarAsNeeded if more else policy.ScrollBarAlwaysOff
        )

    @Slot()
    def _on_theme(self) -> None:
        self.setFont(self._theme.font(mono=True))
        self.document().setDefaultFont(self.font())
        self._fit()
