"""How often a feature fires how strongly, and where its activation on the prompt lies in that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Slot
from PySide6.QtGui import QColor, QFontMetricsF, QHelpEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from attention_studio.ui.text import count
from attention_studio.ui.widgets.controls import named

if TYPE_CHECKING:
    from attention_studio.core.feature_records import Histogram
    from attention_studio.ui.figures.look import Look
    from attention_studio.ui.theme import Theme

_BARS_PX = 56.0


@dataclass(frozen=True, eq=False)
class HistogramView:
    """A histogram and what is marked in it.

    Attributes:
        edges: [n + 1] of the bins; counts: [n] of activations in each.
        here: the activation on the prompt; None: it is not known, 0: it does not fire there.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    here: Optional[float] = None

    @classmethod
    def of(cls, histogram: Histogram, here: Optional[float]) -> HistogramView:
        """What a store has, with a mark."""
        return cls(
            tuple(float(edge) for edge in histogram.edges),
            tuple(int(number) for number in histogram.counts),
            here,
        )

    @property
    def total(self) -> int:
        """How many activations there are in all."""
        return sum(self.counts)

    def words(self) -> str:
        """The histogram in a sentence, for those who do not see it."""
        if not self.total:
            return "The feature never fired"
        most = int(np.argmax(self.counts))
        told = (
            f"{count(self.total)} activations from {self.edges[0]:.3g} to {self.edges[-1]:.3g}; "
            f"most of them, {count(self.counts[most])}, from {self.edges[most]:.3g} to "
            f"{self.edges[most + 1]:.3g}"
        )
        if self.here is not None and self.here > 0:
            told += f"; {self.here:.3g} on your prompt, more than {self.below():.0%} of them"
        return told

    def below(self) -> float:
        """The share of activations in bins below the prompt's own."""
        if self.here is None or not self.total:
            return 0.0
        under = sum(
            number
            for number, high in zip(self.counts, self.edges[1:], strict=True)
            if high <= self.here
        )
        return under / self.total


def histogram_height(look: Look) -> float:
    """The room that ``paint_histogram`` wants."""
    return _BARS_PX + 2 * QFontMetricsF(look.font(0.82)).height() + 8.0


def _bins(look: Look, width: float) -> QRectF:
    line = QFontMetricsF(look.font(0.82)).height()
    return QRectF(1.0, line + 3.0, max(10.0, width - 2.0), _BARS_PX)


def _x(view: HistogramView, box: QRectF, value: float) -> float:
    low, high = view.edges[0], view.edges[-1]
    share = (value - low) / (high - low) if high > low else 0.5
    return box.left() + box.width() * min(1.0, max(0.0, share))


def paint_histogram(painter: QPainter, look: Look, view: HistogramView, width: float) -> None:
    """Paint bars (their height by the logarithm of the counts), the ends, and the prompt's line."""
    t, box = look.tokens, _bins(look, width)
    font = look.font(0.82)
    painter.setFont(font)
    metrics = QFontMetricsF(font)
    tallest = math.log1p(max(view.counts, default=0)) or 1.0
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(t.series[0]))
    ends = [_x(view, box, edge) for edge in view.edges]
    bars = []
    for number, left, right in zip(view.counts, ends[:-1], ends[1:], strict=True):
        if number:
            tall = max(1.5, box.height() * math.log1p(number) / tallest)
            wide = max(1.0, right - left - 1.0)
            bars.append(QRectF(left + 0.5, box.bottom() - tall, wide, tall))
    painter.drawRects(bars)
    painter.setPen(QPen(QColor(t.border_strong), 1.0))
    painter.drawLine(box.bottomLeft(), box.bottomRight())
    painter.setPen(QColor(t.muted))
    base = box.bottom() + 2.0 + metrics.ascent()
    first, last = f"{view.edges[0]:.3g}", f"{view.edges[-1]:.3g}"
    painter.drawText(QPointF(box.left(), base), first)
    painter.drawText(QPointF(box.right() - metrics.horizontalAdvance(last), base), last)
    middle = "activation (log counts)"
    room = box.width() - metrics.horizontalAdvance(first + last) - 16.0
    if metrics.horizontalAdvance(middle) < room:
        painter.drawText(
            QRectF(box.left(), box.bottom() + 2.0, box.width(), metrics.height()),
            Qt.AlignmentFlag.AlignHCenter, middle,
        )  # fmt: skip
    if view.here is not None and view.here > 0:
        _paint_here(painter, look, view, box, metrics)


def _paint_here(
    painter: QPainter, look: Look, view: HistogramView, box: QRectF, metrics: QFontMetricsF
) -> None:
    assert view.here is not None
    t, at = look.tokens, _x(view, box, view.here)
    painter.setPen(QPen(QColor(t.negative), 1.8, Qt.PenStyle.DashLine))
    painter.drawLine(QPointF(at, box.top() - 2.0), QPointF(at, box.bottom()))
    text = f"your prompt {view.here:.2f}"
    wide = metrics.horizontalAdvance(text)
    left = min(max(box.left(), at - wide / 2), max(box.left(), box.right() - wide))
    painter.setPen(QColor(t.text))
    painter.drawText(QPointF(left, metrics.ascent()), text)


class ActivationHistogram(QWidget):
    """The histogram of one feature."""

    def __init__(self, theme: Theme, name: str, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._view: Optional[HistogramView] = None
        named(self, name, "How strongly the feature fires")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._on_theme)

    @property
    def view(self) -> Optional[HistogramView]:
        """What is shown."""
        return self._view

    def show_view(self, view: Optional[HistogramView]) -> None:
        """Show another histogram."""
        self._view = view
        self.setAccessibleDescription("" if view is None else view.words())
        self.update()

    def sizeHint(self) -> QSize:
        """Bars, and a line of text above and below."""
        return QSize(220, math.ceil(histogram_height(self._theme)))

    def minimumSizeHint(self) -> QSize:
        """Any width that bars can be told apart in."""
        return QSize(110, self.sizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the histogram."""
        if self._view is None or len(self._view.edges) < 2:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        paint_histogram(painter, self._theme, self._view, float(self.width()))

    def event(self, event: QEvent) -> bool:
        """Say what the bin under the pointer holds."""
        if isinstance(event, QHelpEvent) and self._view is not None and self._view.total:
            view, box = self._view, _bins(self._theme, float(self.width()))
            share = (event.pos().x() - box.left()) / box.width()
            bin_ = min(len(view.counts) - 1, max(0, int(share * len(view.counts))))
            low, high = view.edges[bin_], view.edges[bin_ + 1]
            QToolTip.showText(
                event.globalPos(),
                f"{view.counts[bin_]:,} activations from {low:.3g} to {high:.3g}", self,
            )  # fmt: skip
            return True
        return bool(super().event(event))

    @Slot()
    def _on_theme(self) -> None:
        self.updateGeometry()
        self.update()
