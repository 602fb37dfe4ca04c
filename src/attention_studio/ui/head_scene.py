"""What one head's picture shows, and how large things are in it. Knows no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.tokens import Tokens, mix

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MOST_LINES = 150
"""Lines that are drawn at once, at most; the strongest."""
LEAST_LINE = 0.04
"""Lines below this share are left out, unless one token's lines are looked at."""
STEPS = 33
"""Colours of a scale, odd so that zero has one of its own."""


@dataclass(frozen=True)
class Spot:
    """Where a person points: a query, a key, or both."""

    query: Optional[int] = None
    key: Optional[int] = None


@dataclass(frozen=True)
class HeadScene:
    """Where a head looks, or what a feature takes from there.

    Attributes:
        name: of the head, or of the feature.
        tokens: [T] of the prompt.
        values: [T, T]; row t is the query at t. Shares of one, or with ``signed`` parts of a
            pre-activation.
        signed: whether values have a sign and no fixed scale.
    """

    name: str
    tokens: tuple[str, ...]
    values: Floats
    signed: bool = False

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.tokens)

    @cached_property
    def shares(self) -> Floats:
        """[T, T] in [-1, 1]: values as they are, or relative to the largest where signed."""
        if not self.signed:
            return self.values
        largest = float(np.abs(np.tril(self.values)).max(initial=0.0))
        scaled: Floats = self.values / np.float32(largest if largest > 0 else 1.0)
        return scaled

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The tokens as axes have them."""
        return tuple(visible_token(token, spaces=False) for token in self.tokens)

    def steps(self) -> NDArray[np.int16]:
        """[T, T] places in ``scale_colours``; −1 above the diagonal, where nothing is seen."""
        if self.signed:
            place = np.rint((self.shares + 1) / 2 * (STEPS - 1))
        else:
            # A scale of square roots: what is small shows, and 1 is still the darkest.
            place = np.rint(np.sqrt(np.clip(self.shares, 0, 1)) * (STEPS - 1))
        found = np.clip(place, 0, STEPS - 1).astype(np.int16)
        found[~np.tri(self.length, dtype=bool)] = -1
        return found

    def value_text(self, query: int, key: int) -> str:
        """One value for people."""
        value = float(self.values[query, key])
        return f"{value:+.2f}" if self.signed else percent(value)

    def strongest(self, query: int, n: int) -> tuple[int, ...]:
        """The keys that matter most to a query, by absolute value, at most ``n``; none that are
        below half a percent of the whole."""
        row = np.abs(self.shares[query, : query + 1])
        order = np.argsort(-row, kind="stable")[:n]
        return tuple(int(key) for key in order if row[key] >= 0.005)

    def sentence(self, query: int, n: int = 6) -> str:
        """Where a query looks, in words: ``7 “is” looks at 3 “France” 62%, 0 “start” 30%``."""
        parts = [
            f"{key} “{self.words[key]}” {self.value_text(query, key)}"
            for key in self.strongest(query, n)
        ]
        verb = "takes from" if self.signed else "looks at"
        listed = ", ".join(parts) if parts else "nothing that counts"
        return f"{query} “{self.words[query]}” {verb} {listed}"

    def cell_sentence(self, spot: Spot) -> str:
        """What a person points at, in words."""
        if spot.query is not None and spot.key is not None:
            verb = "takes" if self.signed else "looks"
            where = "from" if self.signed else "at"
            return (
                f"{spot.query} “{self.words[spot.query]}” {verb} {where} {spot.key} "
                f"“{self.words[spot.key]}”: {self.value_text(spot.query, spot.key)}"
            )
        if spot.query is not None:
            return self.sentence(spot.query)
        if spot.key is None:
            return ""
        column = self.shares[spot.key :, spot.key]
        order = np.argsort(-np.abs(column), kind="stable")[:6]
        listed = ", ".join(
            f"{spot.key + int(i)} “{self.words[spot.key + int(i)]}” "
            f"{self.value_text(spot.key + int(i), spot.key)}"
            for i in order
            if abs(column[i]) >= 0.005
        )
        seen = "is taken from by" if self.signed else "is seen by"
        return f"{spot.key} “{self.words[spot.key]}” {seen} {listed or 'nobody'}"

    def lines(self, spot: Spot) -> tuple[Ints, Ints, Floats]:
        """Queries, keys and shares of the lines that are drawn, the weakest first.

        A query or a key that is pointed at has all its lines, and nobody else has any.
        """
        chosen = np.tril(np.ones((self.length, self.length), dtype=bool))
        size = np.abs(self.shares)
        if spot.query is not None or spot.key is not None:
            mine = np.zeros_like(chosen)
            if spot.query is not None:
                mine[spot.query] = True
            else:
                mine[:, spot.key] = True
            chosen &= mine & (size >= 0.005)
        else:
            chosen &= size >= LEAST_LINE
        query, key = np.nonzero(chosen)
        strength = size[query, key]
        order = np.argsort(strength, kind="stable")[-MOST_LINES:]
        query, key = query[order].astype(np.int64), key[order].astype(np.int64)
        return query, key, self.shares[query, key]


@lru_cache(maxsize=8)
def scale_colours(tokens: Tokens, signed: bool) -> tuple[str, ...]:
    """``STEPS`` opaque colours: from the canvas to full, or with a sign from orange to blue."""
    if signed:
        half = STEPS // 2
        # Nothing is nearly the canvas, so that what is there stands out.
        none = mix(tokens.canvas, tokens.neutral, 0.07)
        return tuple(
            mix(none, tokens.negative if step < half else tokens.positive, abs(step - half) / half)
            for step in range(STEPS)
        )
    return tuple(mix(tokens.canvas, tokens.accent, step / (STEPS - 1)) for step in range(STEPS))
