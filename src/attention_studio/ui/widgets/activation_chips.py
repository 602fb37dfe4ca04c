"""A prompt's tokens as chips, shaded by how strongly one feature fires at each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QHelpEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QToolTip, QWidget

from attention_studio.ui.text import visible_token
from attention_studio.ui.tokens import contrast, mix
from attention_studio.ui.widgets.controls import named
from attention_studio.ui.widgets.token_views import TokenChips

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

Floats = NDArray[np.float32]


class ActivationChips(TokenChips):
    """The tokens, shaded by how strongly one feature fires at each; the strongest is underlined."""

    def __init__(
        self, theme: Theme, name: str = "features.tokens", parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(theme, parent)
        self._activations: Floats = np.zeros(0, dtype=np.float32)
        self._marked: Optional[int] = None
        named(self, name, "Where the feature fires",
              "The tokens of a text, shaded by the feature's activation")  # fmt: skip
        self.setToolTip("")

    def set_activations(
        self, tokens: Sequence[str], ids: Sequence[int], activations: Floats, marked: Optional[int]
    ) -> None:
        """Show a feature: its activation at every token, and the token it was chosen at."""
        self._activations = activations
        self._marked = marked
        self.set_tokens(tokens, ids)
        fires = [
            f"{tokens[position].strip() or tokens[position]!r} {activations[position]:.2f}"
            for position in np.flatnonzero(activations > 0).tolist()
        ]
        self.setAccessibleDescription("Fires at " + ", ".join(fires) if fires else "Fires nowhere")

    def shades(self) -> tuple[float, ...]:
        """Return how dark every token is shaded, 0 to 1."""
        top = float(self._activations.max(initial=0.0))
        return tuple((self._activations / top).tolist()) if top > 0 else (0.0,) * len(self._tokens)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the chips that lie in the exposed part."""
        self._lay_out(self.width())
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._theme.font(0.95, mono=True))
        t = self._theme.tokens
        metrics = painter.fontMetrics()
        strongest = int(self._activations.argmax()) if self._activations.any() else -1
        for position, (token, box, shade) in enumerate(
            zip(self._tokens, self._boxes, self.shades(), strict=True)
        ):
            if not box.intersects(QRectF(event.rect())):
                continue
            # Even a weak activation is told from none.
            fill = mix(t.surface, t.accent, 0.12 + 0.78 * shade) if shade > 0 else t.sunken
            dark_text = contrast(t.text, fill) >= contrast(t.on_accent, fill)
            marked = position == self._marked
            painter.setPen(QPen(QColor(t.text if marked else t.border), 1.6 if marked else 1.0))
            painter.setBrush(QColor(fill))
            painter.drawRoundedRect(box.adjusted(0.8, 0.8, -0.8, -0.8), 5, 5)
            idle = t.muted if shade <= 0 else t.text
            painter.setPen(QColor(idle if dark_text else t.on_accent))
            shown = metrics.elidedText(
                visible_token(token), Qt.TextElideMode.ElideRight, int(box.width() - 8)
            )
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, shown)
            if position == strongest:
                painter.setPen(QPen(painter.pen().color(), 1.6))
                under = box.bottom() - 4.0
                painter.drawLine(QPointF(box.left() + 6, under), QPointF(box.right() - 6, under))

    def event(self, event: QEvent) -> bool:
        """Say how strongly the feature fires at the token under the pointer."""
        if isinstance(event, QHelpEvent):
            for position, box in enumerate(self._boxes):
                if box.contains(QPointF(event.pos())):
                    value = float(self._activations[position])
                    fires = f"activation {value:.3f}" if value > 0 else "does not fire"
                    QToolTip.showText(event.globalPos(), f"Position {position}: {fires}", self)
                    return True
            QToolTip.hideText()
            return True
        return bool(super().event(event))
