"""The composition root: builds everything once and hands it over by constructor."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from loguru import logger
from PySide6.QtCore import (
    QCoreApplication,
    QObject,
    QSocketNotifier,
    QTimer,
    QtMsgType,
    Slot,
    qInstallMessageHandler,
)
from PySide6.QtWidgets import QApplication

from attention_studio import __version__
from attention_studio.ui.collector import MainThreadCollector
from attention_studio.ui.command_sequence import CommandSequence
from attention_studio.ui.commands import Commands
from attention_studio.ui.event_filters import end_watching
from attention_studio.ui.jobs import JobFailure, JobRunner
from attention_studio.ui.main_window import MainWindow
from attention_studio.ui.session import Session
from attention_studio.ui.theme import Theme
from attention_studio.ui.watchdog import StallWatchdog
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.window_state import WindowState
from attention_studio.utils.config import Settings, load_settings
from attention_studio.utils.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, TracebackType

    from PySide6.QtCore import QMessageLogContext

# Lanes run Python of their own (tokenisers, imports). The event loop gets its turn this often.
SWITCH_INTERVAL_S = 0.001
WATCHDOG_VARIABLE = "ATTENTION_STUDIO_WATCHDOG"


@dataclass
class Studio:
    """Everything that one window is made of."""

    settings: Settings
    theme: Theme
    session: Session
    runner: JobRunner
    commands: Commands
    window: MainWindow


def build_studio(settings: Settings) -> Studio:
    """Build the window and all it needs. There must be a QApplication."""
    state = WindowState(settings.state_dir)
    theme = Theme(state.scheme, state.text_scale, settings.state_dir / "theme")
    theme.begin()
    session = Session(settings)
    runner = JobRunner()
    commands = Commands(session, theme)
    window = MainWindow(session, runner, commands, theme, state)
    theme.dress()
    return Studio(settings, theme, session, runner, commands, window)


class _Signals(QObject):
    """Turns SIGINT and SIGTERM into closing the window.

    Python runs its handlers only when the interpreter gets a turn, which an idle event loop never
    gives. The signal's number arrives through a socket, which wakes the event loop.
    """

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._notifier = QSocketNotifier(self._ours.fileno(), QSocketNotifier.Type.Read, self)
        self._notifier.activated.connect(self._on_signal)
        self._old_descriptor = signal.set_wakeup_fd(
            self._theirs.fileno(), warn_on_full_buffer=False
        )
        self._old = {s: signal.signal(s, _ignore) for s in (signal.SIGINT, signal.SIGTERM)}

    def close(self) -> None:
        """Give the signals back."""
        self._notifier.setEnabled(False)
        signal.set_wakeup_fd(self._old_descriptor)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._ours.close()
        self._theirs.close()

    @Slot()
    def _on_signal(self) -> None:
        try:
            self._ours.recv(64)
        except BlockingIOError:
            return
        self._window.close()


class _Surprises:
    """Shows what a slot on the main thread let escape. The event loop goes on after it."""

    def __init__(self, window: MainWindow) -> None:
        self._window = window
        self._old = sys.excepthook
        sys.excepthook = self._report

    def close(self) -> None:
        """Report to whom it was before."""
        sys.excepthook = self._old

    def _report(
        self, kind: type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        if not isinstance(error, Exception):
            self._old(kind, error, trace)
            return
        failure = JobFailure.of(error, "The window's last step")
        logger.error(f"{failure.what}. {failure.why}\n{failure.details}")
        self._window.say(Message.of(failure))


def _ignore(_number: int, _frame: Optional[FrameType]) -> None:
    """Handled through the socket."""


def _leave() -> None:
    QCoreApplication.exit(0)


def _qt_message(kind: QtMsgType, _context: QMessageLogContext, message: str) -> None:
    level = {
        QtMsgType.QtDebugMsg: "DEBUG",
        QtMsgType.QtInfoMsg: "INFO",
        QtMsgType.QtWarningMsg: "WARNING",
        QtMsgType.QtCriticalMsg: "ERROR",
        QtMsgType.QtFatalMsg: "CRITICAL",
    }[kind]
    logger.log(level, f"Qt: {message}")


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        "attention-studio app",
        description="Open the window. What Qt knows, such as -platform, is passed on to it.",
    )
    parser.add_argument(
        "--workspace", type=Path, metavar="DIR",
        help="open the workspace in this folder, or begin one there (default: the last one)",
    )  # fmt: skip
    return parser.parse_known_args(list(arguments))


def run(arguments: Sequence[str] = (), commands: Sequence[str] = ()) -> int:
    """Open the window and return the exit status when it is closed.

    Args:
        arguments: of ``attention-studio app``.
        commands: ids of commands to run then, each when the work of the one before is done.

    Raises:
        SystemExit: they are wrong, or ask for help.
        ConfigError: a setting cannot be used.
    """
    asked, rest = _parse(arguments)
    settings = load_settings()
    configure_logging(settings)
    qInstallMessageHandler(_qt_message)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    QApplication.setApplicationName("AttentionStudio")
    QApplication.setApplicationVersion(__version__)
    QApplication.setDesktopFileName("attention-studio")
    app = QApplication([sys.argv[0], *rest])
    app.setStyle("Fusion")
    studio = build_studio(settings)
    collector = MainThreadCollector(app)
    collector.start()
    signals = _Signals(studio.window)
    surprises = _Surprises(studio.window)
    watchdog: Optional[StallWatchdog] = None
    if os.environ.get(WATCHDOG_VARIABLE):
        watchdog = StallWatchdog(log=True, parent=app)
        watchdog.start()
    # A window that only hides, since a task does not listen, does not end the event loop.
    studio.window.stopped.connect(_leave)
    studio.window.show()
    # After the first paint: the list of models, and torch in the background.
    QTimer.singleShot(50, studio.window.model_dock, studio.window.model_dock.start)
    studio.window.begin(asked.workspace)
    sequence = CommandSequence(studio.commands, studio.runner, commands, studio.window)
    QTimer.singleShot(300, sequence, sequence.start)
    status = app.exec()
    end_watching()
    if watchdog is not None:
        logger.info(f"event loop: {watchdog.stop()}")
    signals.close()
    studio.runner.shutdown()
    surprises.close()
    collector.stop()
    qInstallMessageHandler(None)
    return status
