"""Live curves of a training run. Only imported once pyqtgraph has been imported on a lane."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Optional

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from attention_studio.ui.figures.chart import Marks, Panel, Series, known_series
from attention_studio.ui.text import count
from attention_studio.ui.widgets.plot_grid import PlotGrid, StudioPlot
from attention_studio.ui.widgets.train_history import (
    METRICS,
    OTHER_MARKS,
    Choice,
    Metric,
    OtherRun,
    RunHistory,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from attention_studio.core.sites import Site
    from attention_studio.ui.theme import Theme


class _CountAxis(pg.AxisItem):  # type: ignore[misc]
    """Ticks in thousands and millions, written out."""

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        """The text at each tick."""
        return [count(value * scale) for value in values]


class _CurvePlot(StudioPlot):
    """One metric: the batch's curve, its range over modules, held-out points."""

    def __init__(self, metric: Metric, theme: Theme) -> None:
        self._metric = metric
        name = f"train.plot.{metric.key}"
        super().__init__(name, metric.title, metric.help, theme, _CountAxis("bottom"))

    def fill(self, item: pg.PlotItem) -> None:
        """Four curves, empty."""
        view = item.getViewBox()
        view.setMouseEnabled(x=True, y=True)
        view.setDefaultPadding(0.04)
        view.setLimits(xMin=0, minYRange=self._metric.least_range)
        if self._metric.positive:
            view.setLimits(yMin=0)
        self._item = item
        self._others: list[pg.PlotDataItem] = []
        self._low = item.plot()
        self._high = item.plot()
        self._line = item.plot()
        self._heldout = item.plot()

    def paint(self, theme: Theme) -> None:
        """Take over the theme's colours and fonts."""
        super().paint(theme)
        t = theme.tokens
        line, held = theme.series_colour(0), theme.series_colour(1)
        range_pen = pg.mkPen(t.neutral, width=1, style=Qt.PenStyle.DotLine)
        self._low.setPen(range_pen)
        self._high.setPen(range_pen)
        self._line.setPen(pg.mkPen(line, width=1.6))
        self._heldout.setPen(pg.mkPen(held, width=1.6))
        self._heldout.setSymbol("o")
        self._heldout.setSymbolSize(6)
        self._heldout.setSymbolBrush(pg.mkBrush(held))
        self._heldout.setSymbolPen(pg.mkPen(t.canvas))
        for number, curve in enumerate(self._others):
            _paint_other(curve, number, theme)

    @property
    def heldout(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The held-out points that are drawn: tokens and values."""
        tokens, values = self._heldout.getOriginalDataset()
        empty = np.zeros(0)
        return (empty, empty) if tokens is None else (tokens, values)

    def panel(self) -> Panel:
        """What the plot shows now: this run's batches and held-out points, and other runs'."""
        found = [
            _drawn("batches", self._line, "line", 0),
            _drawn("least and most of the modules", self._low, "dots", 0),
            _drawn("", self._high, "dots", 0),
            _drawn("held-out text", self._heldout, "line and points", 1),
            *(
                _drawn(f"other run {place + 1}, held-out text", curve, "line and points", 2 + place)
                for place, curve in enumerate(self._others)
            ),
        ]
        shown = tuple(series for series in found if series is not None)
        return Panel(self._metric.title, "tokens", "", shown, zero=self._metric.positive)

    def show_others(
        self, others: Sequence[OtherRun], choice: Choice, sites: tuple[Site, ...], theme: Theme
    ) -> None:
        """Draw what other runs measured of the same modules on held-out text."""
        while len(self._others) < len(others):
            curve = self._item.plot()
            _paint_other(curve, len(self._others), theme)
            self._others.append(curve)
        for curve, other in zip(self._others, others, strict=False):
            tokens, values = other.history.heldout[self._metric.key].arrays()
            held = _mean(values, other.places(choice, sites))
            known = np.isfinite(held)
            curve.setData(tokens[known], held[known])
        while len(self._others) > len(others):
            self._item.removeItem(self._others.pop())

    def show(self, history: RunHistory, places: tuple[int, ...]) -> None:
        """Draw the modules at these places: one, or the mean of several with their range."""
        tokens, values = history.batch[self._metric.key].arrays()
        self._line.setData(tokens, _mean(values, places))
        if self._metric.together and len(places) > 1:
            held_tokens, held_values = history.together.arrays()
            held = _mean(held_values, (0,))
        else:
            held_tokens, held_values = history.heldout[self._metric.key].arrays()
            held = _mean(held_values, places)
        known = np.isfinite(held)
        self._heldout.setData(held_tokens[known], held[known])
        wide = len(places) > 1 and values.size > 0
        empty = np.zeros(0)
        chosen = values[:, list(places)] if wide else values
        self._low.setData(tokens if wide else empty, chosen.min(1) if wide else empty)
        self._high.setData(tokens if wide else empty, chosen.max(1) if wide else empty)


def _drawn(text: str, drawn: pg.PlotDataItem, marks: Marks, colour: int) -> Optional[Series]:
    x, y = drawn.getOriginalDataset()
    return None if x is None else known_series(text, np.asarray(x), np.asarray(y), marks, colour)


def other_colour(number: int, theme: Theme) -> str:
    """The colour of a run that is drawn beside."""
    return theme.series_colour(2 + number)


def _paint_other(curve: pg.PlotDataItem, number: int, theme: Theme) -> None:
    colour = other_colour(number, theme)
    # Another sign besides the colour: each run has a mark of its own.
    curve.setPen(pg.mkPen(colour, width=1.4, style=Qt.PenStyle.DashLine))
    curve.setSymbol(OTHER_MARKS[number % len(OTHER_MARKS)][0])
    curve.setSymbolSize(7)
    curve.setSymbolBrush(pg.mkBrush(colour))
    curve.setSymbolPen(pg.mkPen(theme.tokens.canvas))


def _mean(values: NDArray[np.float64], places: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean over some columns of ``values`` [n, modules], without those that are unknown."""
    if not values.size or not places:
        return np.full(len(values), np.nan)
    chosen = values[:, list(places)]
    known = np.isfinite(chosen)
    sums = np.where(known, chosen, 0.0).sum(1)
    counts = known.sum(1)
    mean: NDArray[np.float64] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return mean


class TrainCurves(PlotGrid):
    """Four plots against tokens, for one module or for the mean of some with their range."""

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(theme, [partial(_CurvePlot, metric, theme) for metric in METRICS], parent)
        self._history: Optional[RunHistory] = None
        self._choice: Optional[Choice] = None
        self._others: tuple[OtherRun, ...] = ()

    def show_run(
        self, history: RunHistory, choice: Choice, others: Sequence[OtherRun] = ()
    ) -> None:
        """Show these modules of a run from now on, and the same ones of others beside."""
        self._history, self._choice, self._others = history, choice, tuple(others)
        self.mark()

    def draw(self, number: int) -> None:
        """Draw the newest numbers into a plot."""
        plot = self.plots[number]
        history, choice = self._history, self._choice
        if history is not None and choice is not None and isinstance(plot, _CurvePlot):
            plot.show(history, choice.places)
            plot.show_others(self._others, choice, history.sites, self._theme)
