"""Which position of one prompt plays the part of which position of another. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attention_studio.utils.errors import StudioError

Ints = NDArray[np.int64]
AlignmentRule = Literal["tokens", "number", "end"]

MAX_CELLS = 1 << 24
"""Of the table that tokens are aligned with, which takes four bytes each."""


class AlignmentError(StudioError):
    """Positions cannot stand for each other as somebody says."""


@dataclass(frozen=True)
class PositionMap:
    """Which position of a second prompt plays the part of which of a first.

    Attributes:
        second: for every position of the first prompt that of the second, or -1; no position of
            the second comes twice.
        n_second: how many positions the second has.

    Raises:
        AlignmentError: a position is not there, or comes twice.
    """

    second: tuple[int, ...]
    n_second: int

    def __post_init__(self) -> None:
        used = [place for place in self.second if place != -1]
        if any(not 0 <= place < self.n_second for place in used):
            raise AlignmentError(
                f"There are no such positions: {self.second}",
                f"the second prompt has positions 0 to {self.n_second - 1}",
                "give positions of the second prompt, or -1 for none",
            )
        if len(set(used)) != len(used):
            raise AlignmentError(
                "One position of the second prompt stands for two of the first",
                "every position can stand for one other",
                "leave one of them out",
            )

    @property
    def n_first(self) -> int:
        """How many positions the first prompt has."""
        return len(self.second)

    @property
    def n_pairs(self) -> int:
        """How many positions stand for each other."""
        return sum(place >= 0 for place in self.second)

    @property
    def plain(self) -> bool:
        """Whether every position stands for the one of its own number."""
        return self.second == tuple(range(self.n_second))

    def first(self) -> Ints:
        """[n_second] for every position of the second prompt that of the first, or -1."""
        back = np.full(self.n_second, -1, dtype=np.int64)
        second = np.array(self.second, dtype=np.int64)
        mapped = np.flatnonzero(second >= 0)
        back[second[mapped]] = mapped
        return back

    @property
    def inverse(self) -> PositionMap:
        """The same pairs, seen from the second prompt."""
        return PositionMap(tuple(self.first().tolist()), self.n_first)

    def paired(self, first: int, second: int) -> PositionMap:
        """Let these two stand for each other (-1: none for that of the first); whichever position
        the second one stood for before stands alone then.

        Raises:
            AlignmentError: there is no such position.
        """
        places = [-1 if place == second else place for place in self.second]
        if not 0 <= first < len(places):
            raise AlignmentError(
                f"There is no position {first}",
                f"the first prompt has positions 0 to {len(places) - 1}",
                "give one of those",
            )
        places[first] = second
        return PositionMap(tuple(places), self.n_second)

    @classmethod
    def by_rule(
        cls, rule: AlignmentRule, first: Sequence[str], second: Sequence[str]
    ) -> PositionMap:
        """Positions of two prompts of these tokens by the tokens, or by their numbers from the
        start or the end."""
        if rule == "number":
            return cls.same(len(first), len(second))
        if rule == "end":
            return cls.from_end(len(first), len(second))
        return cls.by_tokens(first, second)

    @classmethod
    def same(cls, n_first: int, n_second: int) -> PositionMap:
        """Positions of equal number stand for each other, counted from the start."""
        return cls(tuple(p if p < n_second else -1 for p in range(n_first)), n_second)

    @classmethod
    def from_end(cls, n_first: int, n_second: int) -> PositionMap:
        """Positions of equal number stand for each other, counted from the end; the first ones,
        which hold the start token, too."""
        shift = n_second - n_first
        places = [max(-1, p + shift) for p in range(n_first)]
        if n_first and n_second:
            places = [-1 if place == 0 else place for place in places]
            places[0] = 0
        return cls(tuple(places), n_second)

    @classmethod
    def by_tokens(cls, first: Sequence[str], second: Sequence[str]) -> PositionMap:
        """Align the tokens with the fewest changes (Levenshtein 1966): equal tokens stand for each
        other, and so do tokens of which one was put in the other's place.

        Where several alignments need equally few changes, later tokens are paired: a name of
        several tokens is known at its last one, and what comes later has read more. Equal first
        positions stand for each other all the same, for that is where attention rests. Where the
        table would have more than ``MAX_CELLS`` entries, the common beginning stays where it is;
        where that is not enough, what lies between it and the common end is aligned by number.
        """
        n_first, n_second = len(first), len(second)
        least = min(n_first, n_second)
        head = int(least > 0 and first[0] == second[0])
        tail = next(
            (i for i in range(least - head) if first[-1 - i] != second[-1 - i]), least - head
        )
        if (n_first - head - tail) * (n_second - head - tail) > MAX_CELLS:
            head = next((i for i in range(least - tail) if first[i] != second[i]), least - tail)
        middle_first = first[head : n_first - tail]
        middle_second = second[head : n_second - tail]
        if len(middle_first) * len(middle_second) > MAX_CELLS:
            between = list(cls.same(len(middle_first), len(middle_second)).second)
        else:
            between = _aligned(middle_first, middle_second)
        shift = n_second - n_first
        return cls(
            (
                *range(head),
                *(place if place < 0 else place + head for place in between),
                *(p + shift for p in range(n_first - tail, n_first)),
            ),
            n_second,
        )


def _aligned(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """For every token of the first the place of the one that stands for it in the second, or -1."""
    numbers = {text: i for i, text in enumerate(dict.fromkeys([*first, *second]))}
    a = np.array([numbers[text] for text in first], dtype=np.int32)
    b = np.array([numbers[text] for text in second], dtype=np.int32)
    along = np.arange(len(b) + 1, dtype=np.int32)
    cost = np.empty((len(a) + 1, len(b) + 1), dtype=np.int32)
    cost[0] = along
    for i, token in enumerate(a):
        row = cost[i] + 1
        np.minimum(row[1:], cost[i, :-1] + (b != token), out=row[1:])
        # What is left out of the second: the least of what lies to the left and the way from there.
        cost[i + 1] = np.minimum.accumulate(row - along) + along
    found = [-1] * len(a)
    i, j = len(a), len(b)
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + int(a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            found[i] = j
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return found
