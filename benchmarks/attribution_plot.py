"""Draws how the time and the memory of a trace grow with the text, beside what paper says."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SIZE = (900, 380)
_MEASURED, _PAPER = "#1f5fbf", "#888888"


def draw_lengths(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Two log-log plots side by side, as PNG.

    Args:
        rows: of ``attribution.py``'s part ``lengths``.
        path: of the file.
    """
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    import pyqtgraph as pg
    from pyqtgraph.exporters import ImageExporter

    pg.setConfigOptions(background="w", foreground="k", antialias=True)
    application = pg.mkQApp()
    view = pg.GraphicsLayoutWidget()
    view.resize(*_SIZE)
    tokens = [row["length"] for row in rows]
    panels = {
        "CPU seconds": ([row["cpu"] for row in rows], [row["paper"]["seconds"] for row in rows]),
        "MiB": ([row["memory"] for row in rows], [row["paper"]["bytes"] / 2**20 for row in rows]),
    }
    for name, (measured, paper) in panels.items():
        plot = view.addPlot()
        plot.setLogMode(x=True, y=True)
        plot.setLabel("bottom", "tokens")
        plot.setLabel("left", name)
        plot.getAxis("bottom").setTicks([[(math.log10(n), str(n)) for n in tokens]])
        low, high = min(measured + paper), max(measured + paper)
        plot.getAxis("left").setTicks([_ticks(low, high)])
        plot.addLegend(offset=(10, 10))
        plot.plot(
            tokens, paper, pen=pg.mkPen(_PAPER, width=2, style=pg.QtCore.Qt.DashLine), name="paper"
        )
        plot.plot(
            tokens,
            measured,
            pen=pg.mkPen(_MEASURED, width=2),
            symbol="o",
            symbolBrush=_MEASURED,
            name="measured",
        )
    view.show()
    application.processEvents()
    exporter = ImageExporter(view.scene())
    exporter.parameters()["width"] = 2 * _SIZE[0]
    exporter.export(str(path))
    view.close()


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Places 1, 2 and 5 of each power of ten from ``low`` to ``high``, as logarithms."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [(math.log10(value), f"{value:g}") for value in values if low / 2 <= value <= 2 * high]
