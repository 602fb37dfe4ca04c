"""Somebody who clicks and types at random, while jobs run: nothing may break, hang or be left."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from loguru import logger
from PySide6.QtCore import QEvent, QObject, QPoint, QPointF, Qt, QTimer
from PySide6.QtGui import QInputMethodEvent, QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractScrollArea,
    QApplication,
    QComboBox,
    QDialog,
    QMenu,
    QSlider,
    QTabBar,
    QWidget,
)
from pytestqt.qtbot import QtBot

from attention_studio.demo.text import DemoText
from attention_studio.ui.app import Studio
from attention_studio.ui.pump import PumpState
from tests.ui.demo_window import LONG, traced

# Leaving is tested elsewhere.
_NOT = ("app.quit",)
_KEYS = (
    Qt.Key.Key_Return, Qt.Key.Key_Escape, Qt.Key.Key_Tab, Qt.Key.Key_Backtab, Qt.Key.Key_Space,
    Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down, Qt.Key.Key_Home,
    Qt.Key.Key_End, Qt.Key.Key_PageDown, Qt.Key.Key_Delete, Qt.Key.Key_Backspace, Qt.Key.Key_F2,
)  # fmt: skip
_MODIFIERS = (
    Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.NoModifier,
    Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier,
)  # fmt: skip
_TEXTS = (
    "Dallas", "layer>1", "", "'", "in(#", "-3", "1e99", "\u0301\u202e", "a" * 300, "0-3", "{}", " ",
)  # fmt: skip
_CLICKED = (QAbstractButton, QAbstractScrollArea, QTabBar, QComboBox, QSlider)


class StaysOpen(QObject):
    """Keeps a window open: random keys find their way to Quit, too."""

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802  Qt calls it
        """Swallow what would close the window."""
        if event.type() == QEvent.Type.Close:
            event.ignore()
            return True
        return False


class Monkey:
    """Acts on a studio's windows. The same seed does the same, as far as jobs allow."""

    def __init__(self, studio: Studio, seed: int) -> None:
        self.studio = studio
        self.chance = random.Random(seed)
        self.done: list[str] = []
        # A menu at a button has an event loop of its own, out of which only its end leads.
        self._closer = QTimer(studio.window)
        self._closer.setInterval(100)
        self._closer.timeout.connect(_close_popup)
        self._closer.start()
        self._guard = StaysOpen(studio.window)
        studio.window.installEventFilter(self._guard)
        self._acts: tuple[tuple[int, Callable[[], str]], ...] = (
            (40, self._click), (15, self._key), (10, self._type), (20, self._command),
            (8, self._drag), (5, self._wheel), (2, self._resize),
        )  # fmt: skip

    def act(self) -> None:
        """Do something."""
        weights = [weight for weight, _ in self._acts]
        (_, what) = self.chance.choices(self._acts, weights)[0]
        self.done.append(f"{what.__name__} ...")
        self.done[-1] = what()
        QApplication.processEvents()
        self._leave_dialogs()

    def stop(self) -> None:
        """Act no more."""
        self._closer.stop()
        self.studio.window.removeEventFilter(self._guard)

    def _widgets(self, *kinds: type[QWidget]) -> list[QWidget]:
        window = self.studio.window
        return [
            child
            for child in window.findChildren(QWidget)
            if isinstance(child, kinds)
            and child.isVisible()
            and child.isEnabled()
            and child.width() > 2
            and child.height() > 2
            and not _closes(child)
        ]

    def _one(self, *kinds: type[QWidget]) -> QWidget:
        found = self._widgets(*kinds)
        widget = self.chance.choice(found) if found else self.studio.window
        if isinstance(widget, QAbstractScrollArea):
            return widget.viewport()
        return widget

    def _point(self, widget: QWidget) -> QPoint:
        return QPoint(
            self.chance.randrange(max(1, widget.width())),
            self.chance.randrange(max(1, widget.height())),
        )

    def _click(self) -> str:
        widget = self._one(*_CLICKED)
        at, modifiers = self._point(widget), self.chance.choice(_MODIFIERS)
        told = f"click {widget.objectName() or type(widget).__name__} at {at.x()}, {at.y()}"
        if self.chance.random() < 0.15 and isinstance(widget.parent(), QAbstractItemView):
            QTest.mouseDClick(widget, Qt.MouseButton.LeftButton, modifiers, at)
        else:
            QTest.mouseClick(widget, Qt.MouseButton.LeftButton, modifiers, at)
        return told

    def _drag(self) -> str:
        widget = self._one(QAbstractScrollArea, QSlider)
        start, end = self._point(widget), self._point(widget)
        modifiers = self.chance.choice(_MODIFIERS)
        QTest.mousePress(widget, Qt.MouseButton.LeftButton, modifiers, start)
        for part in (0.3, 0.7, 1.0):
            QTest.mouseMove(widget, start + (end - start) * part)
            QApplication.processEvents()
        QTest.mouseRelease(widget, Qt.MouseButton.LeftButton, modifiers, end)
        return f"drag on {widget.parent()} from {start} to {end}"

    def _wheel(self) -> str:
        widget = self._one(QAbstractScrollArea)
        at = QPointF(self._point(widget))
        turned = QPoint(0, self.chance.choice((-240, -120, 120, 240)))
        event = QWheelEvent(
            at, QPointF(widget.mapToGlobal(at.toPoint())), QPoint(), turned,
            Qt.MouseButton.NoButton, self.chance.choice(_MODIFIERS),
            Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(widget, event)
        return f"wheel on {widget.parent()}"

    def _key(self) -> str:
        widget = QApplication.focusWidget() or self.studio.window
        key, modifiers = self.chance.choice(_KEYS), self.chance.choice(_MODIFIERS)
        QTest.keyClick(widget, key, modifiers)
        return f"{key} in {widget.objectName()}"

    def _type(self) -> str:
        widget = QApplication.focusWidget() or self.studio.window
        typed = self.chance.choice(_TEXTS)
        if typed.isascii():
            QTest.keyClicks(widget, typed)
        else:
            # Other signs come through an input method; QTest's keys are those of ASCII.
            event = QInputMethodEvent("", [])
            event.setCommitString(typed)
            QApplication.sendEvent(widget, event)
        return f"type {typed!r} in {widget.objectName()}"

    def _command(self) -> str:
        command = self.chance.choice(self.studio.commands.table)
        if command.id in _NOT:
            return f"not {command.id}"
        ran = self.studio.commands.run(command.id)
        return f"{'run' if ran else 'tried'} {command.id}"

    def _resize(self) -> str:
        size = self.chance.choice(((1400, 900), (1000, 640), (1800, 1100)))
        self.studio.window.resize(*size)
        return f"resize to {size}"

    def _leave_dialogs(self) -> None:
        """Close what would stand in the way of everything else."""
        for widget in QApplication.topLevelWidgets():
            if isinstance(widget, (QDialog, QMenu)) and widget.isVisible():
                widget.close()


def _close_popup() -> None:
    popup = QApplication.activePopupWidget()
    if popup is not None:
        popup.close()


def _closes(widget: QWidget) -> bool:
    return widget.objectName().endswith("app.quit")


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is logged as an error: only what nobody has thought of is."""
    found: list[str] = []
    number = logger.add(lambda message: found.append(str(message)), level="ERROR")
    yield found
    logger.remove(number)


def play(
    studio: Studio, qtbot: QtBot, text: Path, actions: int, seed: int, told: list[str]
) -> None:
    """Let a monkey act on the demo, with a run training meanwhile."""
    traced(studio, qtbot)
    dock = studio.window.train_dock
    dock.catch_up()
    dock.form.texts.set_sources((str(text),))
    dock.form.d_latent.setValue(64)
    dock.form.tokens.setValue(50_000)
    dock.form.out_dir.setText(str(text.parent / "run"))
    assert studio.commands.run("train.start")
    monkey = Monkey(studio, seed)
    slow: list[tuple[float, str]] = []
    for _ in range(actions):
        begin = time.process_time()
        monkey.act()
        slow.append((time.process_time() - begin, monkey.done[-1]))
        assert not told, "\n".join([*monkey.done[-20:], *told])
        assert studio.window.isVisible(), "\n".join(monkey.done[-20:])
    monkey.stop()
    # Nothing hangs: what was begun ends once nobody asks for more.
    dock.pump.abandon()
    for job in studio.runner.jobs:
        studio.runner.cancel(job)
    qtbot.waitUntil(
        lambda: not studio.runner.busy and dock.pump.state is PumpState.IDLE, timeout=LONG
    )
    assert not told, told
    worst = max(slow)
    assert worst[0] < 15.0, worst


def words(path: Path) -> Path:
    """A text in the demo's words."""
    file = path / "text.txt"
    samples = islice(DemoText(0).stream(held_out=False), 1_000)
    file.write_text("\n".join(sample.text for sample in samples))
    return file


def test_random_clicks_and_keys_break_nothing(
    studio: Studio, qtbot: QtBot, tmp_path: Path, told: list[str]
) -> None:
    play(studio, qtbot, words(tmp_path), 250, 0, told)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_thousand_random_actions_break_nothing(
    studio: Studio, qtbot: QtBot, tmp_path: Path, told: list[str], seed: int
) -> None:
    play(studio, qtbot, words(tmp_path), 2_000, seed, told)
