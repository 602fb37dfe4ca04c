"""A session, lanes, commands and a theme for tests of docks, and hands to use them with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QApplication,
    QComboBox,
    QLineEdit,
    QMainWindow,
    QTabBar,
    QWidget,
)
from pytestqt.qtbot import QtBot

from attention_studio.ui.commands import Commands
from attention_studio.ui.jobs import JobRunner
from attention_studio.ui.session import Session
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.studio_dock import StudioDock

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

Dock = TypeVar("Dock", bound=StudioDock)


@dataclass
class Stage:
    """What every dock gets, and a window to show it in."""

    session: Session
    runner: JobRunner
    commands: Commands
    theme: Theme
    window: QMainWindow
    qtbot: QtBot

    def put(self, kind: type[Dock], width: int = 1300, height: int = 850) -> Dock:
        """Show a dock of that kind alone in the window."""
        dock = kind(self.session, self.runner, self.commands, self.theme)
        self.commands.bind(kind.TITLE.lower(), dock)
        self.window.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, dock)
        self.window.resize(width, height)
        self.window.show()
        self.qtbot.waitExposed(self.window)
        self.settle()
        return dock

    def settle(self) -> None:
        """Wait until the lanes are idle and what they brought is shown."""
        self.qtbot.waitUntil(lambda: not self.runner.busy, timeout=10_000)
        for _ in range(3):
            QApplication.processEvents()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, at most some seconds."""
        self.qtbot.waitUntil(condition, timeout=10_000)


@pytest.fixture
def stage(qtbot: QtBot) -> Iterator[Stage]:
    """An empty session on a light theme, torn down with its lanes."""
    theme = Theme("light")
    theme.apply()
    session, runner = Session(), JobRunner()
    commands = Commands(session, theme)
    window = QMainWindow()
    qtbot.addWidget(window)
    yield Stage(session, runner, commands, theme, window, qtbot)
    window.close()
    assert runner.shutdown(5.0, force=False)


def unnamed_controls(root: QWidget) -> list[str]:
    """The controls below ``root`` that lack an object name, accessible name or tooltip."""
    kinds = (QAbstractButton, QAbstractSlider, QComboBox, QLineEdit, QAbstractItemView)
    missing = []
    for child in root.findChildren(QWidget):
        own = child.objectName().startswith("qt_") or not isinstance(child, kinds)
        inside = child.parentWidget() is not None and isinstance(
            child.parentWidget(), (QAbstractItemView, QComboBox, QLineEdit, QTabBar)
        )
        # Scroll bars, clear buttons and pop-up lists belong to the control that they are part of.
        part = child.metaObject().className() in ("QScrollBar", "QTableCornerButton")
        if own or inside or part or child.window() is not root.window():
            continue
        if not child.objectName() or not child.accessibleName():
            missing.append(f"{type(child).__name__} {child.objectName()!r} has no name")
        elif isinstance(child, (QAbstractButton, QComboBox, QLineEdit)) and not child.toolTip():
            missing.append(f"{child.objectName()} has no tooltip")
    return missing
