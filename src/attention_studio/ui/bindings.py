"""Qt's classes get their Python types when they are first asked for.

Such a type must not come to be on one thread while the main thread is in Qt: another thread may be
given the interpreter in the middle of it, and the main thread then meets half a type: the process
dies. pyqtgraph asks for every class of Qt as it is imported, on a lane. So the main thread asks for
all of them before, a few at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Optional

from PySide6 import QtCore, QtGui, QtSvg, QtWidgets
from PySide6.QtCore import QObject, QTimer, Signal, Slot

SLICE_MS = 4.0
_MODULES = (QtCore, QtGui, QtWidgets, QtSvg)


def _ask_for_all() -> Iterator[None]:
    for module in _MODULES:
        for name in dir(module):
            getattr(module, name)
            yield


class QtBindings(QObject):
    """Has all types made, in slices of the main thread's time; ``ready`` follows ``start``."""

    ready = Signal()

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._rest: Optional[Iterator[None]] = None
        self._timer = QTimer(self)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._slice)

    def start(self) -> None:
        """Begin. What is there already takes next to no time."""
        if self._rest is None:
            self._rest = _ask_for_all()
            self._timer.start()

    @Slot()
    def _slice(self) -> None:
        if self._rest is None:
            return
        until = time.perf_counter() + SLICE_MS / 1000
        for _ in self._rest:
            if time.perf_counter() >= until:
                return
        self._timer.stop()
        self._rest = None
        self.ready.emit()
