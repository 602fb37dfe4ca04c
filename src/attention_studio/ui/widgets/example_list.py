"""Texts in which a feature fires, painted one below the other, with hover and keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRect, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QFontMetricsF,
    QHelpEvent,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from PySide6.QtWidgets import QApplication, QSizePolicy, QToolTip, QWidget

from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.controls import named, plain_tip
from attention_studio.ui.widgets.token_text import (
    LEAST_LOOK,
    Shading,
    TextLayout,
    lay_out_tokens,
    paint_tokens,
    token_at,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.core.feature_records import Example
    from attention_studio.ui.figures.look import Look
    from attention_studio.ui.theme import Theme

LINES = 3
"""Lines of an example that are shown before somebody asks for all of it."""
REACH, WHOLE_REACH = 120, 2048
"""Tokens on either side of the peak that are placed of an example, and of one shown whole: texts of
others may be of any length, and placing takes time by the token."""
_WIDTHS = 4
_BETWEEN = 7.0
_GUTTER = "000.00 "


@dataclass(frozen=True, eq=False)
class PlacedExample:
    """An example and where it stands.

    Attributes:
        layout: of its tokens; lines: [first, last) of those that are shown.
        top: of the example; height: of what is shown.
    """

    example: Example
    layout: TextLayout
    lines: tuple[int, int]
    top: float
    height: float

    @property
    def cut(self) -> bool:
        """Whether there is more of the text than is shown."""
        return any(self.more)

    @property
    def more(self) -> tuple[bool, bool]:
        """Whether there is more of it before, and after."""
        first, last = self.lines
        return self.layout.before or first > 0, self.layout.after or last < self.layout.n_lines

    def shows(self, token: int) -> bool:
        """Whether a token is among what is shown."""
        line = self.layout.line_of(token)
        return line is not None and self.lines[0] <= line < self.lines[1]

    @property
    def peak_line(self) -> int:
        """The line of the peak."""
        return self.layout.line_of(self.example.peak) or 0


def look_shares(example: Example) -> Optional[NDArray[np.float32]]:
    """[n] what share of its activation at the peak an attention feature takes from each token;
    None: that is not known."""
    if example.looks_at is None:
        return None
    looks = np.asarray(example.looks_at, dtype=np.float32)
    return looks / np.float32(example.value) if example.value else looks


def gutter(look: Look) -> float:
    """The room for the activation beside an example."""
    return QFontMetricsF(look.font(0.85, mono=True)).horizontalAdvance(_GUTTER)


def place_examples(
    examples: Sequence[Example], look: Look, width: float, whole: frozenset[int] = frozenset()
) -> tuple[tuple[PlacedExample, ...], float]:
    """Place examples one below the other; those in ``whole`` with all their lines.

    Returns:
        The examples, and the height of all.
    """
    room = width - gutter(look) - 2.0
    placed: list[PlacedExample] = []
    top = 2.0
    for number, example in enumerate(examples):
        reach = WHOLE_REACH if number in whole else REACH
        layout = lay_out_tokens(example.tokens, example.peak, look, room, reach)
        most = layout.n_lines if number in whole else LINES
        lines = layout.window(layout.line_of(example.peak) or 0, most)
        height = (lines[1] - lines[0]) * layout.pitch
        placed.append(PlacedExample(example, layout, lines, top, height))
        top += height + _BETWEEN
    return tuple(placed), max(0.0, top - _BETWEEN + 2.0)


def paint_example(
    painter: QPainter, look: Look, one: PlacedExample, shading: Shading, width: float
) -> None:
    """Paint an example at its place: its activation, its text, and dots where the text goes on."""
    t, example = look.tokens, one.example
    painter.save()
    painter.translate(0.0, one.top)
    font = look.font(0.85, mono=True)
    painter.setFont(font)
    metrics = QFontMetricsF(font)
    painter.setPen(QColor(t.disabled if example.repeated else t.muted))
    base = (one.peak_line - one.lines[0]) * one.layout.pitch + metrics.ascent() + 2.5
    painter.drawText(QPointF(0.0, base), f"{example.value:.2f}")
    left = gutter(look)
    if one.cut:
        for there, line in zip(one.more, (one.lines[0], one.lines[1] - 1), strict=True):
            if there:
                at = (line - one.lines[0]) * one.layout.pitch + metrics.ascent() + 2.5
                if abs(at - base) > 1.0 or one.lines[1] - one.lines[0] == 1:
                    painter.drawText(QPointF(left - metrics.horizontalAdvance("… "), at), "…")
    painter.translate(left, 0.0)
    paint_tokens(painter, look, example.tokens, one.layout, shading, one.lines)
    painter.restore()


class ExampleList(QWidget):
    """Examples of one feature.

    Up and Down go from example to example, Left and Right from token to token, Enter shows the
    whole text or a part of it, Ctrl+C copies it. ``told`` carries what there is to say of the token
    that is pointed at or gone to ("" for none), ``reached`` the part of the widget to bring into
    view.
    """

    told = Signal(str)
    reached = Signal(QRect)

    def __init__(self, theme: Theme, name: str, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._examples: tuple[Example, ...] = ()
        # By width: layouts ask for the height at several before they settle on one.
        self._placed: dict[float, tuple[tuple[PlacedExample, ...], float]] = {}
        self._scale = 1.0
        self._whole: frozenset[int] = frozenset()
        # The example and the token that are gone to by keys, and those under the pointer.
        self._row, self._token = 0, -1
        self._hovered = (-1, -1)
        named(self, name, "Texts in which the feature fires")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme.changed.connect(self._on_theme)

    @property
    def examples(self) -> tuple[Example, ...]:
        """What is shown."""
        return self._examples

    def show_examples(self, examples: Sequence[Example], scale: float) -> None:
        """Show other examples; ``scale`` is the activation that is shaded darkest."""
        self._examples, self._scale = tuple(examples), scale
        self._whole = frozenset()
        self._row, self._token, self._hovered = 0, -1, (-1, -1)
        self._placed.clear()
        told = f"{len(self._examples)} texts"
        if self._examples:
            told += f". {self._describe(0, self._examples[0].peak)}"
        self.setAccessibleDescription(told)
        self.updateGeometry()
        self.update()

    # -- places -------------------------------------------------------------------------------

    def _place(self, width: float) -> tuple[PlacedExample, ...]:
        return self._placed_at(width)[0]

    def _placed_at(self, width: float) -> tuple[tuple[PlacedExample, ...], float]:
        found = self._placed.get(width)
        if found is None:
            if len(self._placed) >= _WIDTHS:
                self._placed.clear()
            found = place_examples(self._examples, self._theme, width, self._whole)
            self._placed[width] = found
        return found

    def hasHeightForWidth(self) -> bool:
        """Texts wrap."""
        return True

    def heightForWidth(self, width: int) -> int:
        """Height of all examples."""
        return math.ceil(self._placed_at(float(width))[1])

    def sizeHint(self) -> QSize:
        """As wide as there is room."""
        width = max(160, self.width())
        return QSize(width, self.heightForWidth(width))

    def minimumSizeHint(self) -> QSize:
        """Some words must fit."""
        return QSize(110, 20)

    def box_of(self, example: int, token: int) -> QRectF:
        """Where a token of an example is drawn; an empty box where it is not shown."""
        one = self._place(float(self.width()))[example]
        place = one.layout.place(token)
        if place is None or not one.shows(token):
            return QRectF()
        rise = one.top - one.lines[0] * one.layout.pitch
        return place.box.translated(gutter(self._theme), rise)

    def _at(self, spot: QPointF) -> tuple[int, int]:
        """The example and the token at a point; -1 for none."""
        for row, one in enumerate(self._place(float(self.width()))):
            if one.top <= spot.y() < one.top + one.height:
                inside = spot - QPointF(gutter(self._theme), one.top)
                return row, token_at(one.layout, one.lines, inside)
        return -1, -1

    # -- drawing ------------------------------------------------------------------------------

    def _shading(self, row: int, example: Example) -> Shading:
        pointed = row == self._hovered[0] or (self.hasFocus() and row == self._row)
        looks_at = None
        if pointed:
            looks_at = look_shares(example)
        here = self._hovered[1] if row == self._hovered[0] else -1
        if here < 0 and self.hasFocus() and row == self._row:
            here = self._token
        return Shading(example.values, self._scale, example.peak, looks_at, here)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the examples that lie in the exposed part."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        exposed = QRectF(event.rect())
        painter.setClipRect(exposed)
        for row, one in enumerate(self._place(float(self.width()))):
            band = QRectF(0.0, one.top - 3.0, self.width(), one.height + 5.0)
            if not band.intersects(exposed):
                continue
            shading = self._shading(row, one.example)
            paint_example(painter, self._theme, one, shading, float(self.width()))
            if self.hasFocus() and row == self._row:
                painter.setPen(QPen(QColor(self._theme.tokens.focus), 1.2))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawRoundedRect(band.adjusted(0.6, 0.6, -0.6, -0.6), 4, 4)

    # -- words --------------------------------------------------------------------------------

    def _describe(self, row: int, token: int) -> str:
        """What there is to say of a token of an example."""
        example = self._examples[row]
        if not 0 <= token < len(example.tokens):
            return ""
        value = float(example.values[token])
        fires = f"activation {value:.3f}" if value > 0 else "does not fire"
        told = f"{visible_token(example.tokens[token])} {fires}"
        if example.repeated:
            told += ", in a text that stands further up already"
        if token == example.peak:
            told += ", what the text is shown for"
        looks = look_shares(example)
        if looks is not None:
            share = float(looks[token])
            if abs(share) >= LEAST_LOOK:
                told += f"; {share:.0%} of the look"
            if token == example.peak:
                order = np.argsort(-np.abs(looks), kind="stable")[:3]
                best = [place for place in order if abs(looks[place]) >= LEAST_LOOK]
                words = (
                    f"{visible_token(example.tokens[int(place)])} {float(looks[place]):.0%}"
                    for place in best
                )
                told += "; looks at " + ", ".join(words) if best else ""
                before = example.looks_before / example.value if example.value else 0.0
                if abs(before) >= LEAST_LOOK:
                    told += f", and {before:.0%} further up"
        return told

    def _tell(self, row: int, token: int) -> None:
        text = self._describe(row, token) if row >= 0 and token >= 0 else ""
        self.told.emit(text)
        if text:
            self.setAccessibleDescription(f"Text {row + 1} of {len(self._examples)}. {text}")

    # -- from the person ----------------------------------------------------------------------

    def event(self, event: QEvent) -> bool:
        """Say what the token under the pointer does."""
        if isinstance(event, QHelpEvent):
            row, token = self._at(QPointF(event.pos()))
            if token >= 0:
                tip = self._describe(row, token)
                example = self._examples[row]
                tip += f" · place {example.start + token} of text {example.sequence}"
                QToolTip.showText(event.globalPos(), plain_tip(tip), self)
            else:
                QToolTip.hideText()
            return True
        return bool(super().event(event))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Point at the token under the pointer; an attention feature shows what it looks at."""
        found = self._at(event.position())
        if found != self._hovered:
            self._hovered = found
            self._tell(*found)
            self.update()

    def leaveEvent(self, event: QEvent) -> None:
        """Point at nothing."""
        super().leaveEvent(event)
        self._hovered = (-1, -1)
        self.told.emit("")
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go to what is clicked."""
        row, token = self._at(event.position())
        if row >= 0:
            self._go(row, token)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Show the whole text, or a part of it."""
        row, _ = self._at(event.position())
        if row >= 0:
            self._toggle_whole(row)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Go through examples and tokens."""
        if not self._examples:
            super().keyPressEvent(event)
            return
        example, key = self._examples[self._row], event.key()
        last = len(self._examples) - 1
        token = example.peak if self._token < 0 else self._token
        if event.matches(QKeySequence.StandardKey.Copy):
            QApplication.clipboard().setText("".join(example.tokens))
        elif key in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            step = 1 if key == Qt.Key.Key_Down else -1
            row = min(last, max(0, self._row + step))
            self._go(row, self._examples[row].peak)
        elif key in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            step = 1 if key == Qt.Key.Key_Right else -1
            start = token if self._token >= 0 else token - step
            self._go(self._row, min(len(example.tokens) - 1, max(0, start + step)))
        elif key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            row = 0 if key == Qt.Key.Key_Home else last
            self._go(row, self._examples[row].peak)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._toggle_whole(self._row)
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Say where one is."""
        super().focusInEvent(event)
        if self._examples and event.reason() != Qt.FocusReason.MouseFocusReason:
            self._go(self._row, self._examples[self._row].peak)

    def go_to(self, row: int, token: int) -> None:
        """Go to a token of an example, and bring it into view."""
        self._go(row, token)

    def _go(self, row: int, token: int) -> None:
        self._row, self._token = row, token
        one = self._place(float(self.width()))[row]
        if token >= 0 and row not in self._whole and not one.shows(token):
            self._toggle_whole(row)
            one = self._place(float(self.width()))[row]
        self._tell(row, token)
        self.reached.emit(
            QRectF(0.0, one.top - 4.0, self.width(), one.height + 8.0).toAlignedRect()
        )
        self.update()

    def _toggle_whole(self, row: int) -> None:
        self._whole = self._whole ^ {row}
        self._placed.clear()
        self.updateGeometry()
        self.update()

    @Slot()
    def _on_theme(self) -> None:
        self._placed.clear()
        self.updateGeometry()
        self.update()
