"""The window's tests: drawn offscreen, every leak named, every Qt warning a failure."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import pytest
import shiboken6
from PySide6.QtCore import QCoreApplication, QEvent, QThread, QTimer, QtMsgType
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio, build_studio
from attention_studio.utils.config import Settings
from tests.ui.flow import folder, loaded, text
from tests.ui.stage import stage

__all__ = ["folder", "loaded", "stage", "text"]

# The offscreen platform says this whenever a window with a least size is shown, and when a list
# drops down below a text that is being typed.
_HARMLESS = (
    "This plugin does not support propagateSizeHints()",
    "This plugin does not support raise()",
    "This plugin does not support grabbing the keyboard",
)


class _Births:
    """Remembers QThreads, QTimers and Python threads, and where they were started."""

    def __init__(self) -> None:
        self._where: dict[int, str] = {}
        self._started: list[weakref.ref[Any]] = []

    def note(self, thing: object) -> None:
        # By hand: a traceback reads the lines of all files on the way, and timers start often.
        frame = first = sys._getframe(2)
        while frame.f_back is not None and "attention_studio" not in frame.f_code.co_filename:
            frame = frame.f_back
        if "attention_studio" not in frame.f_code.co_filename:
            frame = first
        code = frame.f_code
        where = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
        self._where[id(thing)] = where
        self._started.append(weakref.ref(thing))

    def of(self, thing: object) -> str:
        return self._where.get(id(thing), "unknown place")

    def left(self) -> list[Any]:
        """What was started and is still there."""
        found = {id(thing): thing for one in self._started if (thing := one()) is not None}
        return [thing for thing in found.values() if isinstance(thing, (QThread, QTimer))]


@pytest.fixture(autouse=True)
def no_leaks(qapp: QApplication, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a test leaves a running thread, an active timer or a widget of ours behind."""
    births = _Births()
    _patch_start(monkeypatch, QThread, births)
    _patch_start(monkeypatch, QTimer, births)
    _patch_start(monkeypatch, threading.Thread, births)
    threads_before = set(threading.enumerate())
    widgets_before = {id(widget) for widget in _our_widgets()}
    # What is there already stays: the collector need not look through torch after each test.
    gc.freeze()
    yield
    left = _leftovers(births, threads_before, widgets_before)
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def no_qt_warnings(qtlog: Any) -> Iterator[None]:
    """Fail if Qt warned during the test."""
    yield
    levels = (QtMsgType.QtWarningMsg, QtMsgType.QtCriticalMsg)
    told = [
        record.message
        for record in qtlog.records
        if record.type in levels and record.message.strip() not in _HARMLESS
    ]
    if told:
        pytest.fail("Qt warned:\n" + "\n".join(told), pytrace=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that keep everything in the test's own folder and open no connection."""
    return Settings(
        cache_dir=tmp_path / "cache", state_dir=tmp_path / "state", offline=True, threads=1
    )


@pytest.fixture
def new_studio(qtbot: QtBot, settings: Settings) -> Iterator[Callable[[], Studio]]:
    """Builds whole studios on the same settings; all of them are torn down afterwards."""
    made: list[Studio] = []

    def build() -> Studio:
        studio = build_studio(settings)
        made.append(studio)
        return studio

    yield build
    for studio in made:
        tear_down(studio)
    made.clear()
    QApplication.instance().setStyleSheet("")  # type: ignore[union-attr]


@pytest.fixture
def studio(new_studio: Callable[[], Studio], qtbot: QtBot) -> Studio:
    """A whole studio with its window shown."""
    built = new_studio()
    with qtbot.waitExposed(built.window):
        built.window.show()
    return built


def tear_down(studio: Studio) -> None:
    """Close a studio's window and end its lanes, whether or not the test has done so."""
    if not shiboken6.isValid(studio.window):
        return
    studio.window.close()
    assert studio.runner.shutdown(10.0, force=False), "a lane did not end"
    studio.window.log_dock.shutdown()
    studio.window.close()
    studio.window.deleteLater()
    delete_now()


def delete_now() -> None:
    """Carry out all ``deleteLater`` calls."""
    for _ in range(3):
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QApplication.processEvents()


def _patch_start(monkeypatch: pytest.MonkeyPatch, kind: Any, births: _Births) -> None:
    original = kind.start

    def start(self: Any, *arguments: Any) -> Any:
        births.note(self)
        return original(self, *arguments)

    monkeypatch.setattr(kind, "start", start)


def _our_widgets() -> list[Any]:
    return [
        widget
        for widget in QApplication.allWidgets()
        if shiboken6.isValid(widget) and type(widget).__module__.startswith("attention_studio")
    ]


def _leftovers(
    births: _Births, threads_before: set[threading.Thread], widgets_before: set[int]
) -> list[str]:
    delete_now()
    gc.collect()
    delete_now()
    left = []
    for thing in births.left():
        if shiboken6.isValid(thing):
            alive = thing.isRunning() if isinstance(thing, QThread) else thing.isActive()
            main = isinstance(thing, QThread) and thing is QThread.currentThread()
            if alive and not main:
                left.append(f"{type(thing).__name__} started at {births.of(thing)}")
    for thread in threading.enumerate():
        # Qt's own threads show up as dummies once Python code has run on them.
        # tqdm keeps one daemon of its own for the whole process.
        dummy = isinstance(thread, threading._DummyThread) or thread.name == "tqdm_monitor"
        if thread not in threads_before and thread.is_alive() and not dummy:
            left.append(f"Python thread {thread.name} started at {births.of(thread)}")
    for widget in _our_widgets():
        if id(widget) not in widgets_before:
            left.append(f"widget {type(widget).__name__} {widget.objectName()!r}")
    return left
