"""Tokens as running text, shaded by how strongly a feature fires at each: painted, never markup.

Shading is not the only sign: the token where the feature fires most is bold and underlined, and
what an attention feature looks at from there has a bar below it, as long as its share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPen

from attention_studio.ui.text import visible_token
from attention_studio.ui.tokens import ink_on, mix

if TYPE_CHECKING:
    from attention_studio.ui.figures.look import Look

Floats = NDArray[np.float32]
SIZE = 0.95
"""Of the letters, relative to ordinary text."""
LEAST_LOOK = 0.005
"""Smaller shares of what an attention feature looks at are not shown."""
_GAP, _PAD = 2.0, 0.8
_MOST_FONTS, _MOST_MEASURED = 16, 50_000
_MEASURED: dict[str, dict[str, float]] = {}


@dataclass(frozen=True)
class TokenPlace:
    """Where a token stands: which, on which line, and its box."""

    number: int
    line: int
    box: QRectF


@dataclass(frozen=True)
class TextLayout:
    """Tokens on lines.

    Attributes:
        spots: of each token that is placed, in their order: its line, where on it the token
            begins, and how wide it is.
        first: the number of the first token that is placed.
        pitch: from one line to the next; ``high``: of a box.
        before, after: whether the text has more tokens before and after those that are placed.
    """

    spots: tuple[tuple[int, float, float], ...]
    first: int
    pitch: float
    high: float
    before: bool = False
    after: bool = False

    @property
    def n_lines(self) -> int:
        """How many lines there are."""
        return self.spots[-1][0] + 1 if self.spots else 0

    @cached_property
    def places(self) -> tuple[TokenPlace, ...]:
        """One for each token that is placed. Boxes are made when somebody looks at them: most
        texts are laid out for their height alone."""
        return tuple(
            TokenPlace(number, line, QRectF(x, line * self.pitch, wide, self.high))
            for number, (line, x, wide) in enumerate(self.spots, self.first)
        )

    def line_of(self, token: int) -> Optional[int]:
        """The line on which a token stands; None: it is not placed."""
        at = token - self.first
        return self.spots[at][0] if 0 <= at < len(self.spots) else None

    def place(self, token: int) -> Optional[TokenPlace]:
        """Where a token stands; None: it is not placed."""
        at = token - self.first
        return self.places[at] if 0 <= at < len(self.spots) else None

    def window(self, line: int, most: int) -> tuple[int, int]:
        """The lines [first, last) to show where only ``most`` are to be seen around one."""
        first = max(0, min(line - most // 2, self.n_lines - most))
        return first, min(self.n_lines, first + most)


def lay_out_tokens(
    tokens: Sequence[str], peak: int, look: Look, width: float, reach: Optional[int] = None
) -> TextLayout:
    """Place tokens one after the other, on as many lines as the width asks for.

    Args:
        peak: which token is bold; -1: none.
        width: of the room.
        reach: how many tokens on either side of the peak are placed; None: all.
    """
    first = 0 if reach is None else max(0, peak - reach)
    last = len(tokens) if reach is None else min(len(tokens), max(peak, 0) + reach + 1)
    plain = look.font(SIZE)
    high = QFontMetricsF(plain).height() + 3.0
    width_of = _widths(plain)
    width_of_peak = _widths(look.font(SIZE, bold=True))
    spots: list[tuple[int, float, float]] = []
    x, line = 0.0, 0
    room = max(30.0, width)
    for number, token in enumerate(tokens[first:last], first):
        wide = (width_of if number != peak else width_of_peak)(token) + 2 * _PAD
        if wide > room:
            wide = room
        if x > 0 and x + wide > room:
            x, line = 0.0, line + 1
        spots.append((line, x, wide))
        x += wide
    before, after = first > 0, last < len(tokens)
    return TextLayout(tuple(spots), first, high + _GAP, high, before, after)


def _widths(font: QFont) -> Callable[[str], float]:
    """How wide tokens are in a font. The same ones come again and again, are placed for several
    widths of the room, and are painted; so what was measured is kept."""
    if len(_MEASURED) > _MOST_FONTS:
        _MEASURED.clear()
    known = _MEASURED.setdefault(font.key(), {})
    if len(known) > _MOST_MEASURED:
        known.clear()
    metrics = QFontMetricsF(font)

    def width_of(token: str) -> float:
        found = known.get(token)
        if found is None:
            found = known[token] = metrics.horizontalAdvance(shown_token(token))
        return found

    return width_of


def shown_token(token: str) -> str:
    """A token within running text: its line ends are marked, its spaces are spaces."""
    if not token or token.isprintable():  # nearly all
        return token or "\u2205"
    if not token.strip(" "):
        return token
    body = visible_token(token, spaces=False)
    before = len(token) - len(token.lstrip(" "))
    after = len(token) - len(token.rstrip(" "))
    return " " * before + body + " " * after


@dataclass(frozen=True, eq=False)
class Shading:
    """What a feature does at every token.

    Attributes:
        values: [n] its activation.
        scale: the activation that is shaded darkest.
        peak: where it is bold; -1: nowhere.
        looks_at: [n] what it looks at from the peak, as shares in [-1, 1]; None: not shown.
        here: the token that is pointed at; -1: none.
    """

    values: Floats
    scale: float
    peak: int
    looks_at: Optional[Floats] = None
    here: int = -1

    def ground(self, look: Look, number: int) -> Optional[str]:
        """The colour below a token, or None where the feature does not fire."""
        value = float(self.values[number])
        if value <= 0:
            return None
        share = min(1.0, value / self.scale) if self.scale > 0 else 1.0
        # Even a weak activation is told from none.
        return mix(look.tokens.surface, look.tokens.accent, 0.14 + 0.72 * share)


def paint_tokens(
    painter: QPainter,
    look: Look,
    tokens: Sequence[str],
    layout: TextLayout,
    shading: Shading,
    lines: tuple[int, int],
) -> None:
    """Paint the lines [first, last) of a text with its top left corner at the origin, as far as
    they lie within the painter's clip."""
    t = look.tokens
    text_ink = QColor(t.text)
    fonts = look.font(SIZE), look.font(SIZE, bold=True)
    widths = tuple(map(_widths, fonts))
    ascents = tuple(QFontMetricsF(font).ascent() for font in fonts)
    clip = painter.clipBoundingRect() if painter.hasClipping() else None
    bold: Optional[bool] = None
    for number, (line, x, wide) in enumerate(layout.spots, layout.first):
        if not lines[0] <= line < lines[1]:
            continue
        top = (line - lines[0]) * layout.pitch
        if clip is not None and (top + layout.high < clip.top() or top > clip.bottom()):
            continue
        box = QRectF(x, top, wide, layout.high)
        ground, ink = shading.ground(look, number), text_ink
        if ground is not None:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(ground))
            painter.drawRoundedRect(box.adjusted(0.3, 0, -0.3, 0), 2.5, 2.5)
            ink = QColor(ink_on(ground))
        peak = number == shading.peak
        if peak is not bold:
            painter.setFont(fonts[peak])
            bold = peak
        painter.setPen(ink)
        base = top + 1.5 + ascents[peak]
        text = shown_token(tokens[number])
        if widths[peak](tokens[number]) > wide:
            metrics = QFontMetricsF(fonts[peak])
            text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, wide - 2 * _PAD)
        painter.drawText(QPointF(x + _PAD, base), text)
        if peak:
            painter.setPen(QPen(ink, 1.6))
            under = base + 2.4
            painter.drawLine(QPointF(box.left() + 2.0, under), QPointF(box.right() - 2.0, under))
        if shading.looks_at is not None:
            _paint_look(painter, look, box, float(shading.looks_at[number]))
        if number == shading.here:
            painter.setPen(QPen(QColor(t.focus), 1.4))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 2.5, 2.5)


def _paint_look(painter: QPainter, look: Look, box: QRectF, share: float) -> None:
    """A bar below a token: how much of what the feature reads comes from there."""
    if abs(share) < LEAST_LOOK:
        return
    colour = QColor(look.tokens.positive if share < 0 else look.tokens.negative)
    painter.setPen(QPen(colour, 1.0))
    painter.setBrush(colour)
    long = max(2.0, (box.width() - 2.0) * min(1.0, abs(share)))
    painter.drawRect(QRectF(box.left() + 1.0, box.bottom() - 3.2, long, 2.6))


def token_at(layout: TextLayout, lines: tuple[int, int], at: QPointF) -> int:
    """The token at a point of what ``paint_tokens`` painted; -1: none."""
    spot = at + QPointF(0.0, lines[0] * layout.pitch)
    for place in layout.places:
        if lines[0] <= place.line < lines[1] and place.box.contains(spot):
            return place.number
    return -1
