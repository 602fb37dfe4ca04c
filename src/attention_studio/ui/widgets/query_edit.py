"""The line in which a query is typed: what is wrong is underlined, what can follow is offered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QEvent, QRect, Qt, Signal, Slot
from PySide6.QtGui import QFocusEvent, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QLineEdit, QWidget
from shiboken6 import isValid

from attention_studio.core.query_completion import Completion, Known, complete
from attention_studio.core.query_language import QueryError
from attention_studio.core.query_parsing import MAX_LENGTH
from attention_studio.ui.widgets.controls import named
from attention_studio.ui.widgets.suggestions import Suggestions, wavy

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme


class QueryEdit(QLineEdit):
    """A line for a query.

    ``typed`` carries the text whenever a person changes it. ``submitted`` is Enter with nothing of
    the list chosen, ``left`` Down where there is no list, and ``help_wanted`` F1.
    """

    typed = Signal(str)
    submitted = Signal()
    left = Signal()
    help_wanted = Signal()

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        named(
            self, "nodes.query", "Find nodes",
            "What nodes must have, such as layer>10 or label~city; F1 lists more, "
            "Ctrl+Space what can follow",
        )  # fmt: skip
        self.setPlaceholderText('Find nodes: layer>10  pos="Dallas"  label~city  in(#12)')
        self.setClearButtonEnabled(True)
        self.setMaxLength(MAX_LENGTH)
        self._theme = theme
        self._error: Optional[QueryError] = None
        self._completion = Completion(0, 0)
        self.known = Known()
        """What the graph and its notes offer as values."""
        self._list: Optional[Suggestions] = None
        self.textEdited.connect(self._on_typed)

    @property
    def error(self) -> Optional[QueryError]:
        """What is wrong with the query."""
        return self._error

    def set_error(self, error: Optional[QueryError]) -> None:
        """Underline what is wrong."""
        self._error = error
        self.update()

    # -- the list -------------------------------------------------------------------------------

    @property
    def suggestions(self) -> Suggestions:
        """The list of what can follow. It lives in the window that the line is in."""
        if self._list is None or not isValid(self._list):
            self._list = Suggestions(
                self._theme, "nodes.query.suggestions", "What can follow", self.window()
            )
            self._list.taken.connect(self._on_taken)
        return self._list

    @property
    def suggesting(self) -> bool:
        """Whether the list is shown."""
        return self._list is not None and isValid(self._list) and self._list.isVisible()

    @Slot()
    def suggest(self) -> None:
        """List what can stand at the cursor, even where nothing has been typed yet."""
        self._completion = complete(self.text(), self.cursorPosition(), self.known)
        options = [(option.text, option.help) for option in self._completion.options]
        x = self._x_of(self._completion.start)
        self.suggestions.show_at(self, options, max(0, min(x, self.width() - 40)))

    @Slot(str)
    def _on_typed(self, text: str) -> None:
        self.set_error(None)
        place = self.cursorPosition()
        before = text[:place]
        found = complete(text, place, self.known)
        word = text[found.start : place]
        done = len(found.options) == 1 and found.options[0].text == word
        # Between two parts of a query everything could follow: that is listed when asked for.
        if done or not before or (before[-1].isspace() and found.start == place):
            self._hide_list()
        else:
            self.suggest()
        self.typed.emit(text)

    @Slot(int)
    def _on_taken(self, place: int) -> None:
        option, found = self._completion.options[place], self._completion
        self.setSelection(found.start, found.end - found.start)
        self.insert(option.text)
        after = complete(self.text(), self.cursorPosition(), self.known)
        if after.options and after.start == self.cursorPosition():
            self.suggest()  # the signs that a field can be compared with
        self.typed.emit(self.text())

    def _hide_list(self) -> None:
        if self.suggesting:
            self.suggestions.hide()

    # -- keys -----------------------------------------------------------------------------------

    def event(self, event: QEvent) -> bool:
        """Keep Tab and Escape for the list while it is shown."""
        if isinstance(event, QKeyEvent) and self.suggesting:
            if event.type() == QEvent.Type.ShortcutOverride and event.key() == Qt.Key.Key_Escape:
                event.accept()
                return True
            if event.type() == QEvent.Type.KeyPress and event.key() == Qt.Key.Key_Tab:
                chosen = self.suggestions.current
                self.suggestions.take(0 if chosen is None else chosen)
                return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Walk the list, take from it, ask for it."""
        key = event.key()
        if key == Qt.Key.Key_Space and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.suggest()
        elif key == Qt.Key.Key_F1:
            self._hide_list()
            self.help_wanted.emit()
        elif key in (Qt.Key.Key_Down, Qt.Key.Key_Up) and self.suggesting:
            self.suggestions.move_by(1 if key == Qt.Key.Key_Down else -1)
        elif key == Qt.Key.Key_Down:
            self.left.emit()
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if self.suggesting and self.suggestions.current is not None:
                self.suggestions.take()
            else:
                self._hide_list()
                self.submitted.emit()
        elif key == Qt.Key.Key_Escape and self.suggesting:
            self._hide_list()
        else:
            super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Close the list."""
        self._hide_list()
        super().focusOutEvent(event)

    # -- drawing --------------------------------------------------------------------------------

    def _x_of(self, place: int) -> int:
        """Where a character begins, in pixels from the left."""
        cursor: QRect = self.cursorRect()
        here = self.cursorPosition()
        metrics, text = self.fontMetrics(), self.text()
        middle = cursor.x() + cursor.width() // 2
        if place < here:
            return int(middle - metrics.horizontalAdvance(text[place:here]))
        return int(middle + metrics.horizontalAdvance(text[here:place]))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the line of text, and under what is wrong a wavy one."""
        super().paintEvent(event)
        if self._error is None:
            return
        left = self._x_of(min(self._error.start, len(self.text())))
        right = self._x_of(min(self._error.end, len(self.text())))
        inside = self.contentsRect().adjusted(6, 0, -6, 0)
        right = max(right, left + 8)
        painter = QPainter(self)
        pen = QPen(self._theme.colour("error"), 1.4)
        y = (self.height() + self.fontMetrics().height()) / 2 - 1
        wavy(painter, max(left, inside.left()), min(right, inside.right()), y, pen)
