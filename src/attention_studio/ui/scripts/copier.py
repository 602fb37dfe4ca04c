"""Puts what was done on the clipboard, or into a file, as a script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication

from attention_studio.core.script_text import ScriptError
from attention_studio.ui.scripts.table import (
    Recorded,
    Source,
    command_script,
    record,
    session_script,
)
from attention_studio.ui.widgets.dialogs import ask_save
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.utils.files import FileWriteError, atomic_write

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import Job, JobRunner
    from attention_studio.ui.session import Session

_NO_ACTIONS = ("script.", "palette.", "help.", "go.", "view.", "console.", "figure.show")
"""Commands that nobody means by "the last action"."""
_KINDS = (("Python script", "py"),)


class ScriptCopier(QObject):
    """Remembers what was run last, and writes it down on demand.

    ``message`` carries a ``Message`` for the message bar.
    """

    message = Signal(object)

    def __init__(
        self,
        session: Session,
        commands: Commands,
        runner: JobRunner,
        parent: Optional[QObject] = None,
    ) -> None:
        super().__init__(parent)
        self._source = Source(session, commands)
        self._last = ""
        self._running = ""
        self._recorded: dict[str, Recorded] = {}
        commands.about_to_run.connect(self._on_about_to_run)
        commands.ran.connect(self._on_ran)
        runner.submitted.connect(self._on_submitted)

    @property
    def last(self) -> str:
        """Id of the command that counts as the last action, or ""."""
        return self._last

    def script(self, command_id: str) -> str:
        """Return a script that does what a command does now.

        Raises:
            ScriptError: the script would have nothing to begin with.
        """
        return command_script(command_id, self._source, self._recorded.get(command_id))

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def copy_last(self) -> None:
        """Copy the last action as a script."""
        if not self._last:
            self.message.emit(
                Message("info", "Nothing was done yet that a script could do over", "", "")
            )
            return
        self.copy(self._last)

    @Slot()
    def copy_session(self) -> None:
        """Copy how to get to all that the window holds."""
        try:
            text = session_script(self._source)
        except ScriptError as error:
            self.message.emit(Message.of(error))
            return
        self._put(text, "Everything that the window holds is on the clipboard as a script")

    @Slot(str)
    def copy(self, command_id: str) -> None:
        """Copy what a command does now as a script."""
        try:
            text = self.script(command_id)
        except ScriptError as error:
            self.message.emit(Message.of(error))
            return
        name = self._source.commands.command(command_id).text.rstrip("…")
        self._put(text, f"“{name}” is on the clipboard as a script")

    @Slot()
    def save_session(self) -> None:
        """Choose a file and write there how to get to all that the window holds."""
        window = QApplication.activeWindow()
        if window is not None:
            ask_save(window, "Save as script", self.save_session_to, _KINDS, "attention-studio")

    @Slot(str)
    def save_session_to(self, file: str) -> None:
        """Write how to get to all that the window holds to a file."""
        path = Path(file)
        try:
            text = session_script(self._source)
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except (ScriptError, FileWriteError) as error:
            self.message.emit(Message.of(error))
            return
        self.message.emit(Message("success", f"The script was written to {path.name}", str(path)))

    def _put(self, text: str, told: str) -> None:
        QGuiApplication.clipboard().setText(text)
        lines = len(text.splitlines())
        self.message.emit(Message("success", told, f"{lines} lines of Python", ""))

    # -- what is run --------------------------------------------------------------------------

    @Slot(str)
    def _on_about_to_run(self, command_id: str) -> None:
        self._running = command_id

    @Slot(str)
    def _on_ran(self, command_id: str) -> None:
        self._running = ""
        if not command_id.startswith(_NO_ACTIONS):
            self._last = command_id

    @Slot(object, object, object)
    def _on_submitted(
        self, job: Job, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        if not self._running or job.quiet:
            return
        # Written down at once: the arguments themselves would keep a model alive.
        try:
            self._recorded[self._running] = record(function, arguments, self._source.session)
        except ScriptError:
            self._recorded.pop(self._running, None)
