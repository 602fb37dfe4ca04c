"""Drawing what a text is about, so that training text and held-out text never ask the same."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from attention_studio.demo.words import MEN, WOMEN
from attention_studio.demo.world import World
from attention_studio.utils.errors import StudioError

T = TypeVar("T")

HELD_OUT_PERCENT = 15
_TRIES = 2_000


class GrammarError(StudioError):
    """The grammar cannot say what was asked for."""


class Grammar:
    """A source of choices on one side of the split.

    What a text asks has a *key* (the pair of names, the two numbers, the city and the relation).
    The seed decides for every key on which side of the split it lies; a grammar draws until the
    key is on its own side.

    Args:
        world: the facts.
        seed: decides the split, and is the world's.
        rng: where the choices come from.
        held_out: the side of the split.
        wanted: what to choose instead of drawing, in order, wherever it is among the choices.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        rng: random.Random,
        held_out: bool,
        wanted: Sequence[object] = (),
    ) -> None:
        self.world = world
        self.rng = rng
        self.held_out = held_out
        self.wanted = list(wanted)
        """What was wanted and was no choice so far."""
        self._seed = seed

    def fits(self, *key: object) -> bool:
        """Whether a key lies on this grammar's side of the split."""
        text = "|".join(map(str, (self._seed, *key)))
        return (zlib.crc32(text.encode()) % 100 < HELD_OUT_PERCENT) is self.held_out

    def pick(self, choices: Sequence[T]) -> T:
        """One of ``choices``."""
        for index, wanted in enumerate(self.wanted):
            if wanted in choices:
                del self.wanted[index]
                return cast(T, wanted)
        return self.rng.choice(choices)

    def some(self, choices: Sequence[T], count: int) -> list[T]:
        """``count`` different ones of ``choices``."""
        if not self.wanted:
            return self.rng.sample(choices, count)
        chosen: list[T] = []
        for _ in range(count):
            chosen.append(self.pick([choice for choice in choices if choice not in chosen]))
        return chosen

    def draw(self, make: Callable[[], T], key: Callable[[T], tuple[object, ...]]) -> T:
        """What ``make`` gives first whose key lies on this side of the split.

        Raises:
            GrammarError: after many tries; such keys have nothing on this side.
        """
        wanted = list(self.wanted)
        for _ in range(_TRIES):
            made = make()
            if self.fits(*key(made)):
                return made
            self.wanted = list(wanted)
        raise GrammarError(
            f"The demo's grammar has nothing like {made}",
            "everything of that kind lies on the other side of the split",
            "Ask for the other side",
        )


def pronoun(name: str) -> str:
    """ "she" or "he"."""
    return "she" if name in _WOMEN else "he"


def possessive(name: str) -> str:
    """ "her" or "his"."""
    return "her" if name in _WOMEN else "his"


def gender(name: str) -> str:
    """ "woman" or "man"."""
    return "woman" if name in _WOMEN else "man"


_WOMEN = frozenset(WOMEN)
assert not _WOMEN & set(MEN)
