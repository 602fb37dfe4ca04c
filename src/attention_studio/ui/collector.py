"""Garbage collection on the main thread only.

Python runs its cycle collector on whichever thread happens to allocate. On a lane that would
destroy widgets and timers off the main thread, which Qt forbids. So automatic collection is off
while the window lives, and a timer collects here, youngest objects first. The million objects that
torch and transformers make when they are imported are frozen out of its sight by ``core.engine``,
since walking them would freeze the window for a tenth of a second.
"""

from __future__ import annotations

import gc
from typing import Optional

from PySide6.QtCore import QObject, QTimer, Slot

INTERVAL_MS = 500
_YOUNG, _MIDDLE, _OLD = 2_000, 10, 10


class MainThreadCollector(QObject):
    """Takes over from the automatic collector between ``start`` and ``stop``."""

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._timer = QTimer(self)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._collect)
        self._was_enabled = False

    def start(self) -> None:
        """Turn automatic collection off and collect from the timer."""
        self._was_enabled = gc.isenabled()
        gc.disable()
        self._timer.start()

    def stop(self) -> None:
        """Turn automatic collection on again, if it was on."""
        self._timer.stop()
        if self._was_enabled:
            gc.enable()

    @Slot()
    def _collect(self) -> None:
        young, middle, old = gc.get_count()
        if old > _OLD:
            gc.collect(2)
        elif middle > _MIDDLE:
            gc.collect(1)
        elif young > _YOUNG:
            gc.collect(0)
