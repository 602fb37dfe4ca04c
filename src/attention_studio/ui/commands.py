"""The commands as actions.

Menus, toolbar, shortcuts and the command palette are made from ``COMMANDS``; nothing else creates a
``QAction``. A handler is named as ``"target.method"``: the main window is ``"window"``, docks
register under their own names with ``Commands.bind``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Qt, Signal, Slot
from PySide6.QtGui import QAction, QKeySequence

from attention_studio.ui.command import Command
from attention_studio.ui.command_table import COMMANDS
from attention_studio.ui.session import Session, SessionPart
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.ui.theme import Theme


def fuzzy_score(query: str, text: str) -> Optional[float]:
    """How well ``query`` fits ``text``: higher is better, None where it does not fit.

    Each word of the query must fit on its own, in any order: its letters must occur in order.
    Letters at the beginning of words and letters in a row count more, and so do short texts.
    """
    lowered = text.lower()
    total = -0.02 * len(lowered) if query.strip() else 0.0
    for word in query.lower().split():
        score = _word_score(word, lowered)
        if score is None:
            return None
        total += score
    return total + (4.0 if query.strip() and query.lower().strip() in lowered else 0.0)


def _word_score(word: str, text: str) -> Optional[float]:
    score = 0.0
    position = -1
    for letter in word:
        found = text.find(letter, position + 1)
        if found < 0:
            return None
        if found != position + 1 or position < 0:
            # Prefer the beginning of a word, where this letter begins one later on.
            start = found
            while start > 0 and text[start - 1].isalnum():
                start = text.find(letter, start + 1)
            if start >= 0 and (start == 0 or not text[start - 1].isalnum()):
                found = start
        score += 1.0
        if found == position + 1 and position >= 0:
            score += 2.0
        if found == 0 or not text[found - 1].isalnum():
            score += 1.5
        position = found
    return score + (2.0 if word in text else 0.0)


class Commands(QObject):
    """The commands as actions, enabled by what the session holds.

    ``ran`` carries the id of a command after it was run, ``about_to_run`` before.
    """

    about_to_run = Signal(str)
    ran = Signal(str)

    def __init__(
        self,
        session: Session,
        theme: Theme,
        parent: Optional[QObject] = None,
        table: tuple[Command, ...] = COMMANDS,
    ) -> None:
        super().__init__(parent)
        self._session = session
        self._theme = theme
        self._table = {command.id: command for command in table}
        self._targets: dict[str, object] = {}
        self._actions: dict[str, QAction] = {}
        # What was last said of each, so that only what is new is said: this is asked often.
        self._told: dict[str, tuple[bool, str, Command]] = {}
        for command in table:
            action = QAction(command.text, self)
            action.setObjectName(f"action.{command.id}")
            action.setData(command.id)
            action.setCheckable(command.checkable)
            action.setVisible(command.shown)
            # In a menu the check mark stands where the icon would.
            action.setIconVisibleInMenu(not command.checkable)
            if command.shortcut:
                action.setShortcut(QKeySequence.fromString(command.shortcut))
                action.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
            action.triggered.connect(self._on_triggered)
            self._actions[command.id] = action
        session.changed.connect(self._on_session_changed)
        session.history_changed.connect(self.refresh)
        theme.changed.connect(self._on_theme_changed)
        self._on_theme_changed()
        self.refresh()

    def bind(self, name: str, target: object) -> None:
        """Register whom handlers named ``"name.method"`` belong to."""
        self._targets[name] = target

    @property
    def docks(self) -> tuple[StudioDock, ...]:
        """The docks that handle commands, in the order in which they were bound."""
        return tuple(one for one in self._targets.values() if isinstance(one, StudioDock))

    @property
    def table(self) -> tuple[Command, ...]:
        """All commands, in the order of the table."""
        return tuple(self._table.values())

    def command(self, command_id: str) -> Command:
        """The command of that id. Raises KeyError if there is none."""
        return self._table[command_id]

    def action(self, command_id: str) -> QAction:
        """The action of that id. Raises KeyError if there is none."""
        return self._actions[command_id]

    def actions(self) -> tuple[QAction, ...]:
        """All actions, in the order of the table."""
        return tuple(self._actions.values())

    def handler(self, command_id: str) -> Callable[[], object]:
        """The bound method that the command calls.

        Raises:
            LookupError: its target is not registered or has no such method.
        """
        name = self._table[command_id].handler
        target_name, _, method_name = name.partition(".")
        target = self._targets.get(target_name)
        if isinstance(target, StudioDock):
            target.catch_up()
        method = getattr(target, method_name, None)
        if not callable(method):
            raise LookupError(f"nobody handles {name}")
        argument = self._table[command_id].argument
        bound: Callable[[], object] = method if argument is None else partial(method, argument)
        return bound

    def rename(self, command_id: str, text: str, about: str) -> None:
        """Call a command something else, and show it: a recent file, a layout of the person's."""
        self._table[command_id] = replace(self._table[command_id], text=text, help=about)
        action = self._actions[command_id]
        # A single one would underline the next letter.
        action.setText(text.replace("&", "&&"))
        action.setVisible(True)
        self.refresh()

    def hide(self, command_id: str) -> None:
        """Take a command away until it is renamed."""
        self._actions[command_id].setVisible(False)

    def set_checked(self, command_id: str, on: bool) -> None:
        """Say whether what the command switches is on."""
        self._actions[command_id].setChecked(on)

    def run(self, command_id: str) -> bool:
        """Run the command if it makes sense now. Returns whether it was run."""
        self.refresh()
        action = self._actions[command_id]
        if not action.isEnabled():
            return False
        action.trigger()
        return True

    def hindrance(self, command_id: str) -> str:
        """Why the command must wait although it would make sense, or ""."""
        return self._table[command_id].hindered(self._session)

    @Slot()
    def refresh(self) -> None:
        """Ask every command whether it makes sense now."""
        for command_id, command in self._table.items():
            action = self._actions[command_id]
            hindrance = command.hindered(self._session)
            told = command.when(self._session) and not hindrance, hindrance, command
            if told == self._told.get(command_id):
                continue
            self._told[command_id] = told
            action.setEnabled(told[0])
            action.setStatusTip(hindrance or command.help)
            action.setToolTip(hindrance or self._tooltip(command))
        undo, redo = self._session.undo_stack.undoText(), self._session.undo_stack.redoText()
        for command_id, text in (("edit.undo", undo), ("edit.redo", redo)):
            if command_id in self._actions:
                plain = self._table[command_id].text
                self._actions[command_id].setText(f"{plain}: {text}" if text else plain)

    def search(self, query: str) -> tuple[Command, ...]:
        """Commands that fit the query, the best first; all of them for an empty one."""
        scored = []
        for order, command in enumerate(self.table):
            if not self._actions[command.id].isVisible():
                continue
            score = fuzzy_score(query, command.text)
            if score is None:
                weak = fuzzy_score(query, f"{command.menu} {command.text} {command.help}")
                # A hit scattered over the help text is noise; keep whole words only.
                if weak is None or query.lower().strip() not in command.help.lower():
                    continue
                score = weak - 5.0
            scored.append((-score, order, command))
        return tuple(command for _, _, command in sorted(scored, key=lambda entry: entry[:2]))

    @staticmethod
    def _tooltip(command: Command) -> str:
        if not command.shortcut:
            return command.help
        keys = QKeySequence.fromString(command.shortcut).toString(
            QKeySequence.SequenceFormat.NativeText
        )
        return f"{command.help} ({keys})"

    @Slot()
    def _on_triggered(self) -> None:
        action = self.sender()
        if not isinstance(action, QAction):
            return
        command_id = action.data()
        self.about_to_run.emit(command_id)
        self.handler(command_id)()
        self.ran.emit(command_id)

    @Slot(object, object)
    def _on_session_changed(self, _part: SessionPart, _initiator: object) -> None:
        self.refresh()

    @Slot()
    def _on_theme_changed(self) -> None:
        for command_id, command in self._table.items():
            if command.icon:
                self._actions[command_id].setIcon(self._theme.icon(command.icon))
