"""How often latents fire and how large errors are. Only imported once pyqtgraph has been imported
on a lane."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Optional

import numpy as np
import pyqtgraph as pg
from PySide6.QtWidgets import QWidget

from attention_studio.core.training_events import DENSITY_EDGES, ERROR_EDGES
from attention_studio.ui import text
from attention_studio.ui.figures.chart import Panel, Series
from attention_studio.ui.widgets.plot_grid import PlotGrid, StudioPlot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attention_studio.core.training_events import SiteMetrics
    from attention_studio.ui.theme import Theme


def _multiple(value: float) -> str:
    return f"{value:.3g}"


class _LogAxis(pg.AxisItem):  # type: ignore[misc]
    """Ticks at powers of ten, written out."""

    def __init__(self, write: Callable[[float], str]) -> None:
        super().__init__("bottom")
        self._write = write

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        """Whole powers only."""
        whole = range(int(np.ceil(low - 1e-6)), int(np.floor(high + 1e-6)) + 1)
        return [(1.0, [float(power) for power in whole])]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        """The text at each tick."""
        return [self._write(10.0**value) for value in values]


class _HistogramPlot(StudioPlot):
    """Counts between edges that are log10 of something."""

    def __init__(
        self,
        name: str,
        title: str,
        tip: str,
        things: str,
        edges: tuple[float, ...],
        write: Callable[[float], str],
        theme: Theme,
    ) -> None:
        self._edges, self._things, self._write = edges, things, write
        super().__init__(name, title, tip, theme, _LogAxis(write))

    def fill(self, item: pg.PlotItem) -> None:
        """Bars without height."""
        view = item.getViewBox()
        view.setMouseEnabled(x=False, y=False)
        view.setLimits(yMin=0)
        view.setXRange(self._edges[0], self._edges[-1], padding=0.02)
        self._bars = pg.BarGraphItem(
            x0=list(self._edges[:-1]), x1=list(self._edges[1:]), height=[0] * self._bins
        )
        item.addItem(self._bars)

    def paint(self, theme: Theme) -> None:
        """Take over the theme's colours and fonts."""
        super().paint(theme)
        self._bars.setOpts(
            brush=pg.mkBrush(theme.series_colour(0)), pen=pg.mkPen(theme.tokens.canvas)
        )

    def show(self, counts: Sequence[int]) -> None:
        """Draw these counts, and say in words where most of them lie."""
        self._bars.setOpts(height=list(counts) or [0] * self._bins)
        told = f"No {self._things}"
        if sum(counts):
            most = int(np.argmax(counts))
            low, high = (self._write(10.0 ** self._edges[most + side]) for side in (0, 1))
            told = (
                f"{text.count(sum(counts))} {self._things}; most of them, "
                f"{text.count(counts[most])}, from {low} to {high}"
            )
        self.widget.setAccessibleDescription(told)

    def panel(self) -> Panel:
        """The histogram as it is drawn now."""
        heights = np.asarray(self._bars.opts["height"], dtype=float)
        if not heights.any():
            return Panel(self._title, "", "", ())
        bars = Series("", np.asarray(self._edges, dtype=float), heights, "bars")
        return Panel(self._title, "", self._things, (bars,), zero=True, powers=True)

    @property
    def _bins(self) -> int:
        return len(self._edges) - 1


class ModuleHistograms(PlotGrid):
    """Density of latents and error of tokens, summed over the modules that are shown."""

    def __init__(self, name: str, theme: Theme, parent: Optional[QWidget] = None) -> None:
        density = partial(
            _HistogramPlot, f"{name}.density", "Density of latents",
            "Latents by the share of held-out tokens at which they are active, dead ones left out",
            "latents", DENSITY_EDGES, text.percent, theme,
        )  # fmt: skip
        errors = partial(
            _HistogramPlot, f"{name}.errors", "Error of tokens",
            "Held-out tokens by their squared error over the variance; its mean is the FVU",
            "tokens", ERROR_EDGES, _multiple, theme,
        )  # fmt: skip
        super().__init__(theme, (density, errors), parent)
        self.counts: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def show_modules(self, rows: Sequence[SiteMetrics]) -> None:
        """Show the sums over these modules."""
        self.counts = (_sum([r.density for r in rows]), _sum([r.errors for r in rows]))
        self.mark()

    def draw(self, number: int) -> None:
        """Draw the newest numbers into a plot."""
        plot = self.plots[number]
        if isinstance(plot, _HistogramPlot):
            plot.show(self.counts[number])


def _sum(histograms: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(counts) for counts in zip(*histograms, strict=True))
