"""Plots side by side, made and drawn one at a time. Only imported once pyqtgraph has been imported
on a lane."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Optional

import pyqtgraph as pg
from PySide6.QtCore import QTimer, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from attention_studio.ui.figures.chart import ChartFigure, Panel
from attention_studio.ui.widgets.controls import named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attention_studio.ui.theme import Theme

_TICK_MS = 200


class StudioPlot:
    """One plot with the theme's colours and fonts, and nothing in it."""

    def __init__(
        self, name: str, title: str, tip: str, theme: Theme, axis: Optional[pg.AxisItem] = None
    ) -> None:
        self._title = title
        self.widget = pg.PlotWidget(axisItems={} if axis is None else {"bottom": axis})
        named(self.widget, name, title, tip)
        self.widget.setMinimumSize(150, 110)
        # The first paint is the dearest. Each plot waits for its own turn with it.
        self.widget.setUpdatesEnabled(False)
        item = self.widget.getPlotItem()
        item.hideButtons()
        item.setMenuEnabled(False)
        item.setContentsMargins(2, 2, 8, 2)
        item.getAxis("left").setWidth(44)
        self.fill(item)
        self.paint(theme)

    def fill(self, item: pg.PlotItem) -> None:
        """Put what is drawn into the plot."""

    def panel(self) -> Panel:
        """What the plot shows now, for a figure."""
        return Panel(self._title, "", "", ())

    def paint(self, theme: Theme) -> None:
        """Take over the theme's colours and fonts."""
        t = theme.tokens
        self.widget.setBackground(t.canvas)
        item = self.widget.getPlotItem()
        item.setTitle(self._title, color=t.text, size=f"{theme.font(0.95).pointSizeF():.1f}pt")
        item.showGrid(x=True, y=True, alpha=0.12)
        font = theme.font(0.82)
        for side in ("left", "bottom"):
            axis = item.getAxis(side)
            axis.setPen(pg.mkPen(t.border_strong))
            axis.setTextPen(pg.mkPen(t.muted))
            axis.setTickFont(font)


class PlotGrid(QWidget):
    """Plots two by two. They are made one per timer tick and redrawn in turn, so that no tick takes
    long; while nobody looks nothing is drawn."""

    def __init__(
        self,
        theme: Theme,
        makers: Sequence[Callable[[], StudioPlot]],
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self._makers = tuple(makers)
        self._theme = theme
        self.plots: list[StudioPlot] = []
        self._dirty: list[int] = []
        self._grid = QGridLayout()
        self._grid.setSpacing(6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 4, 8, 8)
        layout.addLayout(self._grid)
        self._timer = QTimer(self)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._tick)
        self._timer.start()
        self._asleep: list[StudioPlot] = []
        self._waking = QTimer(self)
        self._waking.setInterval(0)
        self._waking.timeout.connect(self._wake)
        theme.changed.connect(self._on_theme)

    @property
    def ready(self) -> bool:
        """Whether all plots have been made."""
        return len(self.plots) == len(self._makers)

    @abstractmethod
    def draw(self, number: int) -> None:
        """Draw the newest numbers into a plot."""

    def figure(self, name: str, title: str, caption: str) -> Optional[ChartFigure]:
        """The plots as a figure; None where nothing is drawn in any."""
        panels = tuple(panel for panel in (plot.panel() for plot in self.plots) if panel.series)
        return ChartFigure(name, title, caption, panels) if panels else None

    @property
    def waiting(self) -> bool:
        """Whether something new is still to be drawn."""
        return bool(self._dirty)

    @Slot()
    def mark(self) -> None:
        """Something new is to be drawn."""
        self._dirty = list(range(len(self._makers)))
        if not self._timer.isActive():
            self._timer.start()

    @Slot()
    def _tick(self) -> None:
        if not self.ready:
            number = len(self.plots)
            plot = self._makers[number]()
            self.plots.append(plot)
            self._grid.addWidget(plot.widget, number // 2, number % 2)
            self._timer.setInterval(_TICK_MS if self.ready else 30)
            return
        if not self._dirty or not self.isVisible():
            self._timer.stop()
            return
        number = self._dirty.pop(0)
        self.plots[number].widget.setUpdatesEnabled(True)
        self.draw(number)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Paint the plots at their new sizes one after the other: all at once, when a message moves
        everything, they take a tenth of a second."""
        super().resizeEvent(event)
        if self.ready and self.isVisible():
            for plot in self.plots:
                plot.widget.setUpdatesEnabled(False)
            self._asleep = list(self.plots)
            self._waking.start()

    @Slot()
    def _wake(self) -> None:
        if self._asleep:
            self._asleep.pop(0).widget.setUpdatesEnabled(True)
        else:
            self._waking.stop()

    def showEvent(self, event: Any) -> None:
        """Draw what came in while hidden."""
        super().showEvent(event)
        self.mark()

    @Slot()
    def _on_theme(self) -> None:
        for plot in self.plots:
            plot.paint(self._theme)
