"""Tokens as chips and next tokens as bars, painted by hand: one widget each at any length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Slot
from PySide6.QtGui import QColor, QFontMetricsF, QHelpEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.controls import named, plain_tip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.ui.theme import Theme


class TokenChips(QWidget):
    """Tokens in a row that wraps. Spaces are shown as a faint mark."""

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._tokens: tuple[str, ...] = ()
        self._ids: tuple[int, ...] = ()
        self._boxes: list[QRectF] = []
        named(self, "prompt.tokens", "Tokens", "The prompt as the model sees it")
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme.changed.connect(self._on_theme)

    def set_tokens(self, tokens: Sequence[str], ids: Sequence[int]) -> None:
        """Show these tokens; ``ids`` are the model's numbers for them."""
        self._tokens, self._ids = tuple(tokens), tuple(ids)
        self.setAccessibleDescription(" | ".join(self._tokens[:200]))
        self._lay_out(self.width())
        self.updateGeometry()
        self.update()

    def hasHeightForWidth(self) -> bool:
        """Chips wrap."""
        return True

    def heightForWidth(self, width: int) -> int:
        """Height of the wrapped chips."""
        return self._lay_out(width)

    def sizeHint(self) -> QSize:
        """As wide as there is room."""
        width = max(120, self.width())
        return QSize(width, self._lay_out(width))

    def minimumSizeHint(self) -> QSize:
        """One chip must fit."""
        return QSize(80, self._lay_out(max(80, self.width())))

    def _lay_out(self, width: int) -> int:
        metrics = QFontMetricsF(self._theme.font(0.95, mono=True))
        height = metrics.height() + 8
        x = y = 0.0
        self._boxes = []
        for token in self._tokens:
            chip = min(float(max(40, width)), metrics.horizontalAdvance(visible_token(token)) + 12)
            if x > 0 and x + chip > width:
                x, y = 0.0, y + height + 4
            self._boxes.append(QRectF(x, y, chip, height))
            x += chip + 3
        return round(y + height + 2) if self._tokens else 0

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the chips that lie in the exposed part."""
        self._lay_out(self.width())
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = self._theme.font(0.95, mono=True)
        painter.setFont(font)
        t = self._theme.tokens
        marks = self._theme.colour("muted")
        for position, (token, box) in enumerate(zip(self._tokens, self._boxes, strict=True)):
            if not box.intersects(QRectF(event.rect())):
                continue
            first = position == 0
            fill = mix(t.surface, t.accent, 0.13 if position % 2 else 0.07)
            painter.setPen(QPen(self._theme.colour("border"), 1))
            painter.setBrush(self._theme.colour("sunken") if first else QColor(fill))
            painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 5, 5)
            painter.setPen(marks if first else self._theme.colour("text"))
            shown = painter.fontMetrics().elidedText(
                visible_token(token), Qt.TextElideMode.ElideRight, int(box.width() - 8)
            )
            self._draw_text(painter, box, shown)

    def _draw_text(self, painter: QPainter, box: QRectF, shown: str) -> None:
        # Space marks are fainter than the text.
        metrics = QFontMetricsF(painter.font())
        x = box.left() + 6
        base = box.center().y() + (metrics.ascent() - metrics.descent()) / 2
        pen = painter.pen()
        for piece, is_mark in _pieces(shown):
            painter.setPen(self._theme.colour("disabled") if is_mark else pen)
            painter.drawText(QPointF(x, base), piece)
            x += metrics.horizontalAdvance(piece)
        painter.setPen(pen)

    def event(self, event: QEvent) -> bool:
        """Say position and number of the token under the pointer."""
        if isinstance(event, QHelpEvent):
            for position, box in enumerate(self._boxes):
                if box.contains(QPointF(event.pos())):
                    text = f"Position {position}, token {self._ids[position]}"
                    if position == 0:
                        text += ", the start token"
                    QToolTip.showText(event.globalPos(), text, self)
                    return True
            QToolTip.hideText()
            return True
        return super().event(event)

    @Slot()
    def _on_theme(self) -> None:
        self.updateGeometry()
        self.update()


class ProbabilityBars(QWidget):
    """Candidates for the next token, each with a bar and its probability."""

    def __init__(
        self,
        theme: Theme,
        parent: Optional[QWidget] = None,
        *,
        name: str = "prompt.next",
        accessible: str = "Next token",
        tip: str = "What the model would say next, likeliest first",
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self._rows: tuple[tuple[str, int, float], ...] = ()
        named(self, name, accessible, tip)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._on_theme)

    def set_candidates(self, rows: Sequence[tuple[str, int, float]]) -> None:
        """Show (token, token id, probability) in this order."""
        self._rows = tuple(rows)
        self.setAccessibleDescription(
            ", ".join(f"{token.strip() or token!r} {percent(p)}" for token, _, p in self._rows)
        )
        self.updateGeometry()
        self.update()

    def _row_height(self) -> float:
        return QFontMetricsF(self._theme.font(0.95, mono=True)).height() + 6

    def sizeHint(self) -> QSize:
        """All rows."""
        return QSize(200, round(self._row_height() * len(self._rows)))

    def minimumSizeHint(self) -> QSize:
        """All rows, at any width that leaves room for a word."""
        return QSize(120, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the rows."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        mono = self._theme.font(0.95, mono=True)
        painter.setFont(mono)
        metrics = QFontMetricsF(mono)
        height = self._row_height()
        words = [visible_token(token) for token, _, _ in self._rows]
        widest = max((metrics.horizontalAdvance(word) for word in words), default=0.0)
        left = min(widest, self.width() * 0.45) + 10
        figures = metrics.horizontalAdvance("00.0%") + 6
        room = max(10.0, self.width() - left - figures)
        top = max((p for _, _, p in self._rows), default=1.0) or 1.0
        for number, ((_, _, probability), word) in enumerate(zip(self._rows, words, strict=True)):
            y = number * height
            middle = y + height / 2
            base = middle + (metrics.ascent() - metrics.descent()) / 2
            painter.setPen(self._theme.colour("text"))
            shown = metrics.elidedText(word, Qt.TextElideMode.ElideRight, left - 8)
            painter.drawText(QPointF(0, base), shown)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._theme.colour("sunken"))
            painter.drawRoundedRect(QRectF(left, middle - 5, room, 10), 3, 3)
            painter.setBrush(self._theme.colour("accent"))
            # Bars are relative to the likeliest, which is what the eye compares; figures are exact.
            length = max(2.0, room * probability / top)
            painter.drawRoundedRect(QRectF(left, middle - 5, length, 10), 3, 3)
            painter.setPen(self._theme.colour("muted"))
            figure = percent(probability)
            painter.drawText(
                QPointF(self.width() - metrics.horizontalAdvance(figure), base), figure
            )

    def event(self, event: QEvent) -> bool:
        """Say number and probability of the candidate under the pointer."""
        if isinstance(event, QHelpEvent) and self._rows:
            number = int(event.pos().y() / self._row_height())
            if 0 <= number < len(self._rows):
                token, token_id, probability = self._rows[number]
                shown = f"{visible_token(token)}  token {token_id}, {100 * probability:.3g}%"
                QToolTip.showText(event.globalPos(), plain_tip(shown), self)
                return True
        return super().event(event)

    @Slot()
    def _on_theme(self) -> None:
        self.updateGeometry()
        self.update()


def _pieces(shown: str) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    for letter in shown:
        is_mark = letter in "␣⏎⇥␍"
        if pieces and pieces[-1][1] == is_mark:
            pieces[-1] = (pieces[-1][0] + letter, is_mark)
        else:
            pieces.append((letter, is_mark))
    return pieces
