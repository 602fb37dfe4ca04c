"""Tokens whose logits a feature raises or lowers, as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Slot
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.controls import named

if TYPE_CHECKING:
    from attention_studio.ui.figures.look import Look
    from attention_studio.ui.theme import Theme

Effects = Sequence[tuple[str, float]]


def effects_pitch(look: Look) -> float:
    """Height of a row."""
    return QFontMetricsF(look.font(0.95, mono=True)).height() + 4


def paint_effects(
    painter: QPainter, look: Look, effects: Effects, scale: float, width: float
) -> None:
    """Paint (token, effect) row by row: token, bar, number. A bar of length ``scale`` fills the
    width."""
    font = look.font(0.95, mono=True)
    painter.setFont(font)
    metrics = QFontMetricsF(font)
    t, height = look.tokens, effects_pitch(look)
    figures = metrics.horizontalAdvance("+0.00") + 8
    words = [visible_token(token) for token, _ in effects]
    widest = max((metrics.horizontalAdvance(word) for word in words), default=0.0)
    left = min(widest, width * 0.5) + 8
    room = max(8.0, width - left - figures)
    for number, ((_, effect), word) in enumerate(zip(effects, words, strict=True)):
        y = number * height
        base = y + (height + metrics.ascent() - metrics.descent()) / 2
        painter.setPen(QColor(t.text))
        shown = metrics.elidedText(word, Qt.TextElideMode.ElideRight, left - 6)
        painter.drawText(QPointF(0, base), shown)
        if math.isnan(effect):  # the file that it is from does not say
            continue
        length = max(2.0, room * min(1.0, abs(effect) / scale))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(t.positive if effect >= 0 else t.negative))
        painter.drawRoundedRect(QRectF(left, y + height / 2 - 4, length, 8), 2.5, 2.5)
        figure = f"{effect:+.2f}"
        painter.setPen(QColor(t.muted))
        painter.drawText(QPointF(width - metrics.horizontalAdvance(figure), base), figure)


def _figure(effect: float) -> str:
    return "" if math.isnan(effect) else f" {effect:+.2f}"


class EffectBars(QWidget):
    """Tokens with the feature's effect on their logits, as bars on a common scale."""

    def __init__(
        self, theme: Theme, name: str, text: str, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self._effects: tuple[tuple[str, float], ...] = ()
        self._scale = 1.0
        named(self, name, text)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._on_theme)

    def set_effects(self, effects: Effects, scale: float) -> None:
        """Show (token, effect); a bar of the length ``scale`` fills the width."""
        self._effects = tuple(effects)
        self._scale = scale if scale > 0 else 1.0
        self.setAccessibleDescription(
            ", ".join(
                f"{token.strip() or repr(token)}{_figure(effect)}" for token, effect in effects
            )
        )
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """All rows."""
        return QSize(180, round(effects_pitch(self._theme) * len(self._effects)))

    def minimumSizeHint(self) -> QSize:
        """All rows, at any width that leaves room for a word."""
        return QSize(110, self.sizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the rows."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        paint_effects(painter, self._theme, self._effects, self._scale, float(self.width()))

    @Slot()
    def _on_theme(self) -> None:
        self.updateGeometry()
        self.update()
