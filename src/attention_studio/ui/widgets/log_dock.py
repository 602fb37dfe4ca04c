"""The Log dock: what the studio writes to its log, to be filtered, searched and copied."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QTimer, Slot
from PySide6.QtGui import QGuiApplication, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QComboBox, QLineEdit, QPlainTextEdit, QVBoxLayout, QWidget

from attention_studio.ui.widgets.controls import icon_button, named, row
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.utils.logging import add_sink

if TYPE_CHECKING:
    from collections.abc import Callable


LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
KEPT_LINES = 5_000
FLUSH_MS = 150
# The lines are gone through when the filter has been still for so long,
SEARCH_MS = 120
# and so many of those that fit are written before the event loop gets its turn.
SLICE_LINES = 200


@dataclass(frozen=True)
class _Line:
    level: str
    text: str


class _Buffer:
    """Takes lines from any thread. Not a QObject: lanes write into it."""

    def __init__(self) -> None:
        self._lines: deque[_Line] = deque(maxlen=KEPT_LINES)

    def write(self, level: str, text: str) -> None:
        self._lines.append(_Line(level, text))

    def take(self) -> list[_Line]:
        taken = []
        while self._lines:
            taken.append(self._lines.popleft())
        return taken


class LogDock(StudioDock):
    """Shows the newest lines of the log."""

    NAME = "logDock"
    TITLE = "Log"
    ICON = "log"

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._all: deque[_Line] = deque(maxlen=KEPT_LINES)
        self._waiting: deque[_Line] = deque(maxlen=KEPT_LINES)
        self._buffer = _Buffer()
        self._remove_sink: Optional[Callable[[], None]] = add_sink(self._buffer.write, "DEBUG")
        self._level = QComboBox()
        named(self._level, "log.level", "Least level shown", "Show this level and above")
        for level in LEVELS[1:6]:
            self._level.addItem(level.capitalize(), level)
        self._level.setCurrentIndex(self._level.findData("INFO"))
        self._search = QLineEdit()
        named(self._search, "log.search", "Search the log", "Show only lines that contain this")
        self._search.setPlaceholderText("Search…")
        self._search.setClearButtonEnabled(True)
        copy = icon_button(
            self.theme, "copy", "log.copy", "Copy log", "Copy the lines that are shown"
        )
        clear = icon_button(self.theme, "trash", "log.clear", "Clear log",
                            "Forget the lines here; the log file keeps them")  # fmt: skip
        self._text = QPlainTextEdit()
        named(self._text, "log.text", "Log lines", "The newest line is at the end")
        self._text.setReadOnly(True)
        self._text.setProperty("look", "log")
        self._text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._text.setMaximumBlockCount(KEPT_LINES)
        self._text.setUndoRedoEnabled(False)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(8, 6, 8, 0)
        layout.setSpacing(6)
        layout.addLayout(row(self._level, self._search, copy, clear, stretch=1))
        layout.addWidget(self._text, 1)
        self.set_content(body)
        self.set_empty("Nothing logged yet", "What the studio does is written here, step by step.")
        self._timer = QTimer(self)
        self._timer.setInterval(FLUSH_MS)
        self._timer.timeout.connect(self._flush)
        self._timer.start()
        self._pouring = QTimer(self)
        self._pouring.setSingleShot(True)
        self._pouring.setInterval(0)
        self._pouring.timeout.connect(self._pour)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(SEARCH_MS)
        self._typing.timeout.connect(self._rebuild)
        self._level.currentIndexChanged.connect(self._rebuild)
        self._search.textChanged.connect(self._on_search)
        copy.clicked.connect(self._copy)
        clear.clicked.connect(self._clear)
        self.theme.changed.connect(self._rebuild)

    def shutdown(self) -> None:
        """Stop listening to the log. May be called again."""
        for timer in (self._timer, self._typing, self._pouring):
            timer.stop()
        remove, self._remove_sink = self._remove_sink, None
        if remove is not None:
            remove()

    def shown_text(self) -> str:
        """The lines that are shown."""
        return self._text.toPlainText()

    def _fits(self, line: _Line) -> bool:
        least = LEVELS.index(self._level.currentData())
        rank = LEVELS.index(line.level) if line.level in LEVELS else len(LEVELS)
        return rank >= least and self._search.text().lower() in line.text.lower()

    @Slot()
    def _flush(self) -> None:
        new = self._buffer.take()
        if not new:
            return
        self._all.extend(new)
        self.show_empty(False)
        self._waiting.extend(line for line in new if self._fits(line))
        self._pour()

    @Slot(str)
    def _on_search(self, _text: str) -> None:
        self._typing.start()

    @Slot()
    def _rebuild(self) -> None:
        self._typing.stop()
        self._text.clear()
        self._waiting.clear()
        self._waiting.extend(line for line in self._all if self._fits(line))
        self._pour()

    @Slot()
    def _pour(self) -> None:
        """Write a slice of the lines that wait, and go on when the event loop has had its turn."""
        room = min(SLICE_LINES, len(self._waiting))
        self._append([self._waiting.popleft() for _ in range(room)])
        if self._waiting:
            self._pouring.start()

    def _append(self, lines: list[_Line]) -> None:
        if not lines:
            return
        bar = self._text.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 4
        cursor = QTextCursor(self._text.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        cursor.beginEditBlock()
        first = self._text.document().isEmpty()
        for line in lines:
            if not first:
                cursor.insertBlock()
            first = False
            cursor.insertText(line.text, self._format(line.level))
        cursor.endEditBlock()
        if at_end:
            bar.setValue(bar.maximum())

    def _format(self, level: str) -> QTextCharFormat:
        token = {
            "DEBUG": "muted",
            "TRACE": "muted",
            "SUCCESS": "success",
            "WARNING": "warning",
            "ERROR": "error",
            "CRITICAL": "error",
        }.get(level, "text")
        style = QTextCharFormat()
        style.setForeground(self.theme.colour(token))
        return style

    @Slot()
    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._text.toPlainText())

    @Slot()
    def _clear(self) -> None:
        self._all.clear()
        self._waiting.clear()
        self._text.clear()
        self.show_empty(True)
