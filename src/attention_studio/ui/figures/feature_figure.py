"""The page of a feature as a figure: facts, histogram, what it says, and its strongest texts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF

from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.widgets.activation_histogram import (
    HistogramView,
    histogram_height,
    paint_histogram,
)
from attention_studio.ui.widgets.effect_bars import effects_pitch, paint_effects
from attention_studio.ui.widgets.example_list import (
    PlacedExample,
    look_shares,
    paint_example,
    place_examples,
)
from attention_studio.ui.widgets.token_text import (
    Shading,
    TextLayout,
    lay_out_tokens,
    paint_tokens,
)

if TYPE_CHECKING:
    from PySide6.QtGui import QPainter

    from attention_studio.core.feature_records import Example
    from attention_studio.ui.feature_view import FeatureView
    from attention_studio.ui.figures.look import Look

MOST_EXAMPLES = 8
"""Texts on a page of paper."""
_SPACE = 10.0


@dataclass(frozen=True)
class FeatureFigure(Figure):
    """The page of one feature.

    Attributes:
        view: what is known of it.
    """

    view: FeatureView

    def _examples(self) -> tuple[Example, ...]:
        page = self.view.page
        groups = page.groups if page is not None else ()
        return groups[0].examples[:MOST_EXAMPLES] if groups else ()

    def _histogram(self) -> Optional[HistogramView]:
        page = self.view.page
        if page is None or page.dead or not len(page.histogram.counts):
            return None
        return HistogramView.of(page.histogram, self.view.here)

    def _head(self) -> tuple[str, ...]:
        called = f"“{self.view.label}”" if self.view.label else ""
        return tuple(line for line in (called, *self.view.facts().splitlines()) if line)

    def _placed(self, look: Look, width: float) -> tuple[tuple[PlacedExample, ...], float]:
        return place_examples(self._examples(), look, width)

    def _prompt(self, look: Look, width: float) -> Optional[TextLayout]:
        values = self.view.activations()
        if values is None or self.view.report is None:
            return None
        peak = int(values.argmax()) if values.any() else -1
        return lay_out_tokens(self.view.report.tokens, peak, look, width)

    def height(self, look: Look, width: float) -> float:
        """All parts, one below the other."""
        line = QFontMetricsF(look.font(0.92)).height() * 1.25
        high = line * len(self._head()) + _SPACE
        prompt = self._prompt(look, width)
        if prompt is not None:
            high += line + prompt.n_lines * prompt.pitch + _SPACE
        if self._histogram() is not None:
            high += line + histogram_height(look) + _SPACE
        rows = max(len(self.view.promoted), len(self.view.suppressed))
        if rows:
            high += line + rows * effects_pitch(look) + _SPACE
        if self._examples():
            high += line + self._placed(look, width)[1]
        return high

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Paint all parts."""
        line = QFontMetricsF(look.font(0.92)).height() * 1.25
        y = 0.0
        painter.setFont(look.font(0.92))
        painter.setPen(QColor(look.tokens.text))
        for text in self._head():
            painter.drawText(QRectF(0, y, width, line), int(Qt.AlignmentFlag.AlignVCenter), text)
            y += line
        y += _SPACE
        y = self._paint_prompt(painter, look, width, y, line)
        histogram = self._histogram()
        if histogram is not None:
            _section(painter, look, "Activations over the text", 0.0, y, width, line)
            painter.save()
            painter.translate(0.0, y + line)
            paint_histogram(painter, look, histogram, width)
            painter.restore()
            y += line + histogram_height(look) + _SPACE
        y = self._paint_effects(painter, look, width, y, line)
        if self._examples():
            _section(painter, look, "Strongest texts", 0.0, y, width, line)
            painter.save()
            painter.translate(0.0, y + line)
            page = self.view.page
            scale = page.max_activation if page is not None else 1.0
            for one in self._placed(look, width)[0]:
                example = one.example
                shading = Shading(example.values, scale, example.peak, look_shares(example))
                paint_example(painter, look, one, shading, width)
            painter.restore()

    def _paint_prompt(
        self, painter: QPainter, look: Look, width: float, y: float, line: float
    ) -> float:
        layout, values, report = (
            self._prompt(look, width), self.view.activations(), self.view.report,
        )  # fmt: skip
        if layout is None or values is None or report is None:
            return y
        _section(painter, look, "On the prompt", 0.0, y, width, line)
        painter.save()
        painter.translate(0.0, y + line)
        peak = int(values.argmax()) if values.any() else -1
        shading = Shading(values, float(values.max(initial=0.0)), peak)
        paint_tokens(painter, look, report.tokens, layout, shading, (0, layout.n_lines))
        painter.restore()
        return y + line + layout.n_lines * layout.pitch + _SPACE

    def _paint_effects(
        self, painter: QPainter, look: Look, width: float, y: float, line: float
    ) -> float:
        both = (self.view.promoted, self.view.suppressed)
        rows = max(len(effects) for effects in both)
        if not rows:
            return y
        known = (abs(e) for effects in both for _, e in effects if not math.isnan(e))
        scale = max(known, default=1.0) or 1.0
        half = (width - 24.0) / 2.0
        for place, (text, effects) in enumerate(zip(("Promotes", "Suppresses"), both, strict=True)):
            left = place * (half + 24.0)
            _section(painter, look, text, left, y, half, line)
            painter.save()
            painter.translate(left, y + line)
            paint_effects(painter, look, effects, scale, half)
            painter.restore()
        return y + line + rows * effects_pitch(look) + _SPACE


def _section(
    painter: QPainter, look: Look, text: str, x: float, y: float, width: float, line: float
) -> None:
    painter.setFont(look.font(0.92, bold=True))
    painter.setPen(QColor(look.tokens.text))
    painter.drawText(QRectF(x, y, width, line), int(Qt.AlignmentFlag.AlignVCenter), text)
