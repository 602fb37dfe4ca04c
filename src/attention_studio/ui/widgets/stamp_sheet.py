"""Small pictures on one large one, stamped by the thousand in a single call.

Stamping ten thousand nodes one by one takes most of a frame in calls alone. Qt stamps any number of
parts of one picture from an array of plain numbers, which numpy fills.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import shiboken6
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPixmap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Pictures in a row of the sheet, and rows; a sheet that is full begins anew.
_ACROSS, _DOWN = 24, 24


class StampSheet:
    """Square pictures of at most ``extent`` pixels, by key, for one ratio of device pixels."""

    def __init__(self, extent: int, ratio: float) -> None:
        self._cell = max(1, round(extent * ratio))
        self._ratio = ratio
        self._places: dict[object, int] = {}
        self._sheet: Optional[QPixmap] = None

    @property
    def size(self) -> int:
        """How many pictures there are room for."""
        return _ACROSS * _DOWN

    def place(self, key: object, paint: Callable[[QPainter, QPointF], None]) -> int:
        """Where the picture of a key is; it is painted about a point where there is none yet.

        The caller asks for at most ``size`` keys between two calls of ``begin``.
        """
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._places)
            if self._sheet is None:
                side = self._cell
                self._sheet = QPixmap(_ACROSS * side, _DOWN * side)
                self._sheet.fill(Qt.GlobalColor.transparent)
            left, top = (self._cell * part for part in (place % _ACROSS, place // _ACROSS))
            painter = QPainter(self._sheet)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setClipRect(QRectF(left, top, self._cell, self._cell))
            painter.translate(left + self._cell / 2.0, top + self._cell / 2.0)
            painter.scale(self._ratio, self._ratio)
            paint(painter, QPointF(0.0, 0.0))
            painter.end()
        return place

    def begin(self, n_keys: int) -> None:
        """Make sure that there is room for so many further pictures."""
        if len(self._places) + n_keys > self.size:
            self._places.clear()
            self._sheet = None

    def stamp(self, painter: QPainter, x: Floats, y: Floats, places: Ints) -> None:
        """Stamp the pictures at ``places`` [k] with their middles at (x, y) [k], in that order."""
        if self._sheet is None or not len(x):
            return
        # x, y, left, top, width, height, two scales, rotation, opacity: QPainter.PixmapFragment.
        fragments = np.empty((len(x), 10), dtype=np.float64)
        fragments[:, 0], fragments[:, 1] = x, y
        fragments[:, 2] = places % _ACROSS * self._cell
        fragments[:, 3] = places // _ACROSS * self._cell
        fragments[:, 4:6] = self._cell
        fragments[:, 6:8] = 1.0 / self._ratio
        fragments[:, 8], fragments[:, 9] = 0.0, 1.0
        # Typed as any object of Qt's; it is the first of the array.
        first: Any = shiboken6.wrapInstance(fragments.ctypes.data, QPainter.PixmapFragment)
        painter.drawPixmapFragments(first, len(fragments), self._sheet)
