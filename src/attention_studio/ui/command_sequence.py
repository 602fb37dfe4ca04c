"""Commands one after the other, each when the work of the one before is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional

from loguru import logger
from PySide6.QtCore import QObject, QTimer, Slot

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner


class CommandSequence(QObject):
    """Runs commands while nothing else goes on. One that makes no sense then is left out, which the
    log says."""

    def __init__(
        self,
        commands: Commands,
        runner: JobRunner,
        ids: Iterable[str],
        parent: Optional[QObject] = None,
    ) -> None:
        super().__init__(parent)
        self._commands = commands
        self._runner = runner
        self._ids = deque(ids)
        # What a job has brought is shown, and may ask for another job, before the next command.
        self._turn = QTimer(self)
        self._turn.setSingleShot(True)
        self._turn.setInterval(100)
        self._turn.timeout.connect(self._next)
        runner.idle.connect(self._turn.start)

    @Slot()
    def start(self) -> None:
        """Begin."""
        self._turn.start()

    @Slot()
    def _next(self) -> None:
        if self._runner.busy or not self._ids:
            return
        command_id = self._ids.popleft()
        if not self._commands.run(command_id):
            logger.warning(f"{command_id} makes no sense now and was left out")
        self._turn.start()
