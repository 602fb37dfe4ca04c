"""What painters need to know of colours and fonts: the window's theme has it, and so has a figure.

Whoever paints with a ``Look`` alone can paint on the screen and on paper.
"""

from __future__ import annotations

from typing import Protocol

from PySide6.QtGui import QFont

from attention_studio.ui.tokens import Tokens, diverging

TEXT_PX = 40.0 / 3.0
"""Pixels of ordinary text in a figure's own units: ten points on a screen of 96 dots an inch."""


class Look(Protocol):
    """Colours and fonts; ``ui.theme.Theme`` is one."""

    @property
    def tokens(self) -> Tokens:
        """Colours by meaning."""

    def font(self, factor: float = 1.0, *, bold: bool = False, mono: bool = False) -> QFont:
        """A font relative to ordinary text."""

    def diverging(self, steps: int = 15) -> tuple[str, ...]:
        """Opaque colours from fully negative to fully positive."""

    def series_colour(self, index: int) -> str:
        """The colour of curve ``index``; the list begins anew after its end."""


class FigureLook:
    """The look of a figure: a palette, and fonts in the figure's own units (see ``TEXT_PX``).

    Args:
        tokens: the palette's colours.
        sans, mono: families of the fonts.
    """

    def __init__(self, tokens: Tokens, sans: str, mono: str) -> None:
        self._tokens = tokens
        self.sans = sans
        self.mono = mono

    @property
    def tokens(self) -> Tokens:
        """Colours by meaning."""
        return self._tokens

    def font(self, factor: float = 1.0, *, bold: bool = False, mono: bool = False) -> QFont:
        """A font relative to ordinary text, measured in pixels so that no device's dots count."""
        font = QFont(self.mono if mono else self.sans)
        font.setPixelSize(max(1, round(TEXT_PX * factor)))
        font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
        # Hints are for one size on one grid; a figure is painted at any.
        font.setHintingPreference(QFont.HintingPreference.PreferNoHinting)
        return font

    def diverging(self, steps: int = 15) -> tuple[str, ...]:
        """Opaque colours from fully negative to fully positive on the paper."""
        return diverging(self._tokens, steps)

    def series_colour(self, index: int) -> str:
        """The colour of curve ``index``; the list begins anew after its end."""
        return self._tokens.series[index % len(self._tokens.series)]
