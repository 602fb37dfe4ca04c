"""One feature: where it fires in the prompt, and what it promotes and suppresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Slot
from PySide6.QtGui import QColor, QFontMetricsF, QHelpEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QScrollArea, QSizePolicy, QToolTip, QVBoxLayout, QWidget

from attention_studio.ui.tokens import contrast, mix
from attention_studio.ui.widgets.controls import ElidedLabel, icon_button, label, named
from attention_studio.ui.widgets.token_views import TokenChips, visible_token

if TYPE_CHECKING:
    from attention_studio.core.feature_extractor import FeatureRecord, FeatureReport
    from attention_studio.ui.theme import Theme

Floats = NDArray[np.float32]


class ActivationChips(TokenChips):
    """The prompt's tokens, shaded by how strongly one feature fires at each."""

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(theme, parent)
        self._activations: Floats = np.zeros(0, dtype=np.float32)
        self._marked: Optional[int] = None
        named(self, "features.tokens", "Where the feature fires",
              "The prompt's tokens, shaded by the feature's activation")  # fmt: skip
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

    def set_effects(self, effects: Sequence[tuple[str, float]], scale: float) -> None:
        """Show (token, effect); a bar of the length ``scale`` fills the width."""
        self._effects = tuple(effects)
        self._scale = scale or 1.0
        self.setAccessibleDescription(
            ", ".join(f"{token.strip() or repr(token)} {effect:+.2f}" for token, effect in effects)
        )
        self.updateGeometry()
        self.update()

    def _row_height(self) -> float:
        return QFontMetricsF(self._theme.font(0.95, mono=True)).height() + 4

    def sizeHint(self) -> QSize:
        """All rows."""
        return QSize(180, round(self._row_height() * len(self._effects)))

    def minimumSizeHint(self) -> QSize:
        """All rows, at any width that leaves room for a word."""
        return QSize(110, self.sizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the rows: token, bar, number."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = self._theme.font(0.95, mono=True)
        painter.setFont(font)
        metrics = QFontMetricsF(font)
        t = self._theme.tokens
        height = self._row_height()
        figures = metrics.horizontalAdvance("+0.00") + 8
        words = [visible_token(token) for token, _ in self._effects]
        widest = max((metrics.horizontalAdvance(word) for word in words), default=0.0)
        left = min(widest, self.width() * 0.5) + 8
        room = max(8.0, self.width() - left - figures)
        for number, ((_, effect), word) in enumerate(zip(self._effects, words, strict=True)):
            y = number * height
            base = y + (height + metrics.ascent() - metrics.descent()) / 2
            painter.setPen(QColor(t.text))
            shown = metrics.elidedText(word, Qt.TextElideMode.ElideRight, left - 6)
            painter.drawText(QPointF(0, base), shown)
            length = max(2.0, room * min(1.0, abs(effect) / self._scale))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(t.positive if effect >= 0 else t.negative))
            painter.drawRoundedRect(QRectF(left, y + height / 2 - 4, length, 8), 2.5, 2.5)
            figure = f"{effect:+.2f}"
            painter.setPen(QColor(t.muted))
            at = self.width() - metrics.horizontalAdvance(figure)
            painter.drawText(QPointF(at, base), figure)

    @Slot()
    def _on_theme(self) -> None:
        self.updateGeometry()
        self.update()


class FeatureDetail(QScrollArea):
    """The chosen feature. ``pin`` is the button that pins it; whoever holds this connects it."""

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        named(self, "features.detail", "The selected feature")
        self.setWidgetResizable(True)
        self._title = ElidedLabel(role="title")
        self._title.setObjectName("features.detail.title")
        self._facts = label("", "caption", wrap=True, name="features.detail.facts")
        self.pin = icon_button(
            theme, "pin", "features.pin", "Pin the selected feature",
            "Pin the selected feature in the graph, or let it go (P)",
        )  # fmt: skip
        self.pin.setCheckable(True)
        self.chips = ActivationChips(theme)
        self.promoted = EffectBars(theme, "features.promoted", "Tokens that the feature promotes")
        self.suppressed = EffectBars(
            theme, "features.suppressed", "Tokens that the feature suppresses"
        )
        self._heads = [
            label("Where it fires", "section"),
            label("Promotes", "section"),
            label("Suppresses", "section"),
        ]
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(12, 8, 12, 10)
        layout.setSpacing(5)
        top = QHBoxLayout()
        top.addWidget(self._title, 1)
        top.addWidget(self.pin)
        layout.addLayout(top)
        layout.addWidget(self._facts)
        layout.addWidget(self._heads[0])
        layout.addWidget(self.chips)
        effects = QHBoxLayout()
        effects.setSpacing(22)
        for head, bars in ((self._heads[1], self.promoted), (self._heads[2], self.suppressed)):
            column = QVBoxLayout()
            column.setSpacing(3)
            column.addWidget(head)
            column.addWidget(bars)
            column.addStretch(1)
            effects.addLayout(column, 1)
        layout.addSpacing(2)
        layout.addLayout(effects)
        layout.addStretch(1)
        self.setWidget(body)
        self.show_record(None, None, pinned=False)

    def show_record(
        self, report: Optional[FeatureReport], record: Optional[FeatureRecord], pinned: bool
    ) -> None:
        """Show another feature, or none."""
        there = report is not None and record is not None
        for widget in (*self._heads, self.chips, self.promoted, self.suppressed):
            widget.setVisible(there)
        self.pin.setEnabled(there)
        self.pin.setChecked(pinned and there)
        if report is None or record is None:
            self._title.set_whole("No feature selected")
            self._facts.setText("Choose a row to see where the feature fires and what it promotes.")
            return
        activations = report.activations(record.layer, record.index)
        n_fires = int((activations > 0).sum())
        self._title.set_whole(f"L{record.layer} #{record.index}")
        self._facts.setText(
            f"Activation {record.activation:.3f} at position {record.position} "
            f"{visible_token(report.tokens[record.position])} · fires at {n_fires} of "
            f"{len(report.tokens)} tokens"
        )
        self.chips.set_activations(report.tokens, report.token_ids, activations, record.position)
        both = (*record.promoted, *record.suppressed)
        scale = max((abs(effect) for _, effect in both), default=1.0)
        self.promoted.set_effects(record.promoted, scale)
        self.suppressed.set_effects(record.suppressed, scale)
