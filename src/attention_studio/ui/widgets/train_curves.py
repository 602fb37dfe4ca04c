"""Live curves of a training run. Only imported once pyqtgraph has been imported on a lane."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtWidgets import QComboBox, QGridLayout, QVBoxLayout, QWidget

from attention_studio.ui.text import count
from attention_studio.ui.widgets.controls import label, named, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from attention_studio.core.training_events import Evaluated, LayerMetrics, StepDone
    from attention_studio.ui.theme import Theme

MAX_POINTS = 1_000
_TICK_MS = 200
_MEAN = -1


@dataclass(frozen=True)
class _Metric:
    """What one plot shows. ``least_range`` keeps a flat curve from being blown up to noise."""

    key: str
    title: str
    help: str
    least_range: float
    positive: bool = True


METRICS = (
    _Metric(
        "fvu", "FVU", "Share of the output's variance that is not explained; lower is better", 0.05
    ),
    _Metric("l0", "L0", "Active latents per token", 2.0),
    _Metric("dead", "Dead latents", "Share of latents that never fire", 0.02),
    _Metric(
        "recovered",
        "Loss recovered",
        "On held-out text; 1 is as good as the MLP itself",
        0.1,
        positive=False,
    ),
)


@dataclass
class Series:
    """Values of all layers over tokens; thinned out by half whenever it grows too long."""

    tokens: list[float] = field(default_factory=list)
    values: list[NDArray[np.float64]] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    def add(self, tokens: float, values: NDArray[np.float64]) -> None:
        """Add one point: ``values`` [layers]."""
        self._seen += 1
        if self._seen % self._stride:
            return
        self.tokens.append(tokens)
        self.values.append(values)
        if len(self.tokens) > MAX_POINTS:
            self.tokens, self.values = self.tokens[1::2], self.values[1::2]
            self._stride *= 2

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Tokens [n] and values [n, layers]."""
        if not self.tokens:
            return np.zeros(0), np.zeros((0, 0))
        return np.asarray(self.tokens), np.stack(self.values)


class RunHistory:
    """What a run has reported so far, on its batches and on held-out text."""

    def __init__(self, layers: tuple[int, ...], d_latent: int) -> None:
        self.layers = layers
        self._d_latent = max(1, d_latent)
        self.batch = {metric.key: Series() for metric in METRICS}
        self.heldout = {metric.key: Series() for metric in METRICS}

    def add_step(self, done: StepDone) -> None:
        """Take over the numbers of one batch."""
        by_layer = {m.layer: m for m in done.layer_metrics}
        ordered = [by_layer.get(layer) for layer in self.layers]
        rows = {
            "fvu": [m.fvu if m else np.nan for m in ordered],
            "l0": [m.l0 if m else np.nan for m in ordered],
            "dead": [m.dead / self._d_latent if m else np.nan for m in ordered],
        }
        for key, values in rows.items():
            self.batch[key].add(done.tokens, np.asarray(values, dtype=float))

    def add_evaluation(self, seen: Evaluated) -> None:
        """Take over the numbers of one evaluation."""
        self._add_heldout(seen.tokens, seen.layers)

    def add_earlier(self, rows: Sequence[LayerMetrics]) -> None:
        """Take over what a resumed run had measured before, in order of training."""
        for tokens, group in itertools.groupby(rows, key=lambda row: row.tokens):
            self._add_heldout(tokens, tuple(group))

    def _add_heldout(self, tokens: int, layers: Sequence[LayerMetrics]) -> None:
        by_layer = {m.layer: m for m in layers}
        ordered = [by_layer.get(layer) for layer in self.layers]
        rows: dict[str, list[float]] = {
            "fvu": [m.fvu if m else np.nan for m in ordered],
            "l0": [m.l0 if m else np.nan for m in ordered],
            "dead": [m.dead_fraction if m else np.nan for m in ordered],
            "recovered": [
                m.loss_recovered if m and m.loss_recovered is not None else np.nan for m in ordered
            ],
        }
        for key, values in rows.items():
            self.heldout[key].add(tokens, np.asarray(values, dtype=float))


class _CountAxis(pg.AxisItem):  # type: ignore[misc]
    """Ticks in thousands and millions, written out."""

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        """The text at each tick."""
        return [count(value * scale) for value in values]


class _Plot:
    """One metric: the batch's curve, its range over layers, held-out points."""

    def __init__(self, metric: _Metric, theme: Theme) -> None:
        self.metric = metric
        self.widget = pg.PlotWidget(axisItems={"bottom": _CountAxis("bottom")})
        named(self.widget, f"train.plot.{metric.key}", metric.title, metric.help)
        self.widget.setMinimumSize(150, 110)
        item = self.widget.getPlotItem()
        item.hideButtons()
        item.setMenuEnabled(False)
        item.setContentsMargins(2, 2, 8, 2)
        item.getAxis("left").setWidth(44)
        view = item.getViewBox()
        view.setMouseEnabled(x=True, y=True)
        view.setDefaultPadding(0.04)
        view.setLimits(xMin=0, minYRange=metric.least_range)
        if metric.positive:
            view.setLimits(yMin=0)
        self._low = item.plot()
        self._high = item.plot()
        self._line = item.plot()
        self._heldout = item.plot()
        self.paint(theme)

    def paint(self, theme: Theme) -> None:
        """Take over the theme's colours and fonts."""
        t = theme.tokens
        self.widget.setBackground(t.canvas)
        item = self.widget.getPlotItem()
        item.setTitle(
            self.metric.title, color=t.text, size=f"{theme.font(0.95).pointSizeF():.1f}pt"
        )
        item.showGrid(x=True, y=True, alpha=0.12)
        font = theme.font(0.82)
        for side in ("left", "bottom"):
            axis = item.getAxis(side)
            axis.setPen(pg.mkPen(t.border_strong))
            axis.setTextPen(pg.mkPen(t.muted))
            axis.setTickFont(font)
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

    def show(self, history: RunHistory, layer: int) -> None:
        """Draw one layer (by its place), or the mean of all."""
        tokens, values = history.batch[self.metric.key].arrays()
        held_tokens, held_values = history.heldout[self.metric.key].arrays()
        self._line.setData(tokens, _column(values, layer))
        held = _column(held_values, layer)
        known = np.isfinite(held)
        self._heldout.setData(held_tokens[known], held[known])
        wide = layer == _MEAN and values.size > 0 and values.shape[1] > 1
        empty = np.zeros(0)
        self._low.setData(tokens if wide else empty, values.min(1) if wide else empty)
        self._high.setData(tokens if wide else empty, values.max(1) if wide else empty)


def _column(values: NDArray[np.float64], layer: int) -> NDArray[np.float64]:
    if not values.size:
        return np.zeros(0)
    if layer != _MEAN:
        column: NDArray[np.float64] = values[:, layer]
        return column
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(1)
    counts = known.sum(1)
    mean: NDArray[np.float64] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return mean


class TrainCurves(QWidget):
    """Four plots against tokens, for one layer or for the mean of all with its range.

    Plots are made one per timer tick and redrawn in turn, so that no tick takes long.
    """

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._history: Optional[RunHistory] = None
        self._plots: list[_Plot] = []
        self._dirty: list[int] = []
        self._layer = QComboBox()
        named(self._layer, "train.curves.layer", "Layer shown", "Which layer the curves show")
        self._legend = label("", "caption", name="train.curves.legend")
        self._grid = QGridLayout()
        self._grid.setSpacing(6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 8)
        layout.setSpacing(4)
        layout.addLayout(row(self._layer, self._legend, stretch=1))
        layout.addLayout(self._grid, 1)
        self._timer = QTimer(self)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._tick)
        self._timer.start()
        self._layer.currentIndexChanged.connect(self._mark_all)
        theme.changed.connect(self._on_theme)

    @property
    def ready(self) -> bool:
        """Whether all plots have been made."""
        return len(self._plots) == len(METRICS)

    def start(self, history: RunHistory) -> None:
        """Show a run from now on."""
        self._history = history
        self._layer.blockSignals(True)
        self._layer.clear()
        self._layer.addItem("Mean of layers" if len(history.layers) > 1 else "One layer", _MEAN)
        if len(history.layers) > 1:
            for place, layer in enumerate(history.layers):
                self._layer.addItem(f"Layer {layer}", place)
        self._layer.blockSignals(False)
        self._mark_all()

    @Slot()
    def update_curves(self) -> None:
        """Something new is in the history."""
        self._mark_all()

    @Slot()
    def _mark_all(self) -> None:
        self._dirty = list(range(len(METRICS)))
        many = self._layer.currentData() == _MEAN and self._layer.count() > 1
        dotted = ", dotted: range over layers" if many else ""
        self._legend.setText(f"Line: training batches, points: held-out text{dotted}")
        if not self._timer.isActive():
            self._timer.start()

    @Slot()
    def _tick(self) -> None:
        if not self.ready:
            number = len(self._plots)
            plot = _Plot(METRICS[number], self._theme)
            self._plots.append(plot)
            self._grid.addWidget(plot.widget, number // 2, number % 2)
            self._timer.setInterval(_TICK_MS if self.ready else 30)
            return
        if not self._dirty or not self.isVisible():
            self._timer.stop()
            return
        number = self._dirty.pop(0)
        if self._history is not None:
            layer: Any = self._layer.currentData()
            self._plots[number].show(self._history, _MEAN if layer is None else int(layer))

    def showEvent(self, event: Any) -> None:
        """Draw what came in while hidden."""
        super().showEvent(event)
        self._mark_all()

    @Slot()
    def _on_theme(self) -> None:
        for plot in self._plots:
            plot.paint(self._theme)
