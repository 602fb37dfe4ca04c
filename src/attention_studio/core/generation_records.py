"""Text that a model goes on with, original and changed: no torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

from attention_studio.core.intervention_specs import Freeze, Intervention, InterventionError
from attention_studio.core.model_records import TokenProbability
from attention_studio.core.position_map import PositionMap


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0: always the likeliest; else logits are divided by it and drawn from.
        seed: of the draws. All rows of a batch share their random numbers (the Gumbel trick), so
            texts differ by what was changed and not by chance.

    Raises:
        InterventionError: the temperature is none.
    """

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InterventionError(
                f"{self.temperature} is no temperature", "", "give 0 (greedy) or more"
            )


@dataclass(frozen=True)
class GeneratedToken:
    """One token that was chosen, its probability and the likeliest at that place (before any
    temperature)."""

    token_id: int
    text: str
    probability: float
    candidates: tuple[TokenProbability, ...]


@dataclass(frozen=True)
class GenerationStep:
    """A partial result: the tokens of one step, the original's first; None where a text has ended.

    ``number`` counts from 0.
    """

    number: int
    tokens: tuple[Optional[GeneratedToken], ...]


@dataclass(frozen=True)
class Continuation:
    """How one text goes on.

    Attributes:
        intervention: what was done; None: nothing.
        tokens: what was generated, with the end token where it was reached.
        text: the same as text, without the end token.
        ended: whether the model ended the text by itself.
    """

    intervention: Optional[Intervention]
    tokens: tuple[GeneratedToken, ...]
    text: str
    ended: bool

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the tokens."""
        return tuple(token.token_id for token in self.tokens)


@dataclass(frozen=True)
class Generation:
    """The original and the changed continuations of one prompt."""

    prompt: str
    freeze: Freeze
    sampling: Sampling
    original: Continuation
    changed: tuple[Continuation, ...]

    def first_difference(self, case: int) -> Optional[int]:
        """At which generated token a changed text leaves the original; None: it does not."""
        one, other = self.original.token_ids, self.changed[case].token_ids
        for number, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return number
        return None if len(one) == len(other) else min(len(one), len(other))

    def aligned(self, case: int) -> tuple[tuple[Optional[int], Optional[int]], ...]:
        """Which generated tokens of the original and of a changed text stand beside each other.

        Up to the first difference, where both were chosen behind the same text, that is the same
        one; from there on tokens are aligned with the fewest changes (``PositionMap.by_tokens``),
        so that what comes again behind a longer name stands beside itself. None: the text has
        nothing to put there.
        """
        one, other = (
            [str(token) for token in text.token_ids] for text in (self.original, self.changed[case])
        )
        least = min(len(one), len(other))
        first = self.first_difference(case)
        done = least if first is None else min(first + 1, least)
        rows: list[tuple[Optional[int], Optional[int]]] = [(n, n) for n in range(done)]
        begin = done
        for place, beside in enumerate(PositionMap.by_tokens(one[begin:], other[begin:]).second):
            if beside < 0:
                rows.append((begin + place, None))
                continue
            rows += [(None, number) for number in range(done, begin + beside)]
            rows.append((begin + place, begin + beside))
            done = begin + beside + 1
        rows += [(None, number) for number in range(done, len(other))]
        return tuple(rows)
