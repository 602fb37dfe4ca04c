"""Finding the rule that best says on which tokens a feature fires. No language model.

Rules are built one condition after the other, the one that helps most first ("separate and
conquer", Fürnkranz 1999): what is said by a clause is set aside, and another clause is sought for
the rest. A condition on tokens is the set of tokens with the largest balance of precision and
recall; such a set is a prefix of the tokens in order of their precision (Lewis 1995), so it is
found without trying all sets.

What comes next is a condition as well, if it is a token that the feature raises: a feature sees
nothing of what follows, but it may foretell it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Optional, get_args

import numpy as np
from numpy.typing import NDArray

from attention_studio.agents.firing_rules import (
    BOUNDARIES,
    SHAPES,
    Clause,
    Earlier,
    FiringRule,
    has_shape,
    text_starts,
)
from attention_studio.core.feature_records import Example

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

Condition = Literal["tokens", "before", "followed", "shape", "repeats", "earlier"]
"""The sorts of conditions that a clause may have; named as in ``Clause``."""
CONDITIONS: tuple[Condition, ...] = get_args(Condition)

_REACHES = (4, 10, 0)
"""How far back a word may have been said; 0: anywhere in the text."""
_MOST_SAID = 400
_LONGEST_SET = 150
_LEAST_GAIN = 0.02
_CLAUSE_GAIN = 0.04
_MOST_CLAUSES, _MOST_CONDITIONS, _STARTS = 3, 4, 3
_SET_COST, _CONDITION_COST = 0.006, 0.01
_FORETOLD_COST = 0.02
"""More for what comes next: where what a feature can see says the same, that is told."""
_DOUBT = 1.0
"""Added to what speaks against a token, so that one that occurs once is not believed at once."""


@dataclass(frozen=True)
class FoundRule:
    """A rule and how well it fits the examples that it was found on.

    Attributes:
        rule: what was found; without clauses where nothing fits.
        fit: balance of precision and recall over tokens (F1), firings weighed by strength.
    """

    rule: FiringRule
    fit: float


def find_rule(
    examples: Sequence[Example],
    top: float,
    raised: Sequence[str] = (),
    conditions: Collection[Condition] = CONDITIONS,
) -> FoundRule:
    """The rule that fits best.

    Args:
        examples: stretches of text with a feature's activations, some of them all zero.
        top: the largest activation that the feature has anywhere.
        raised: next tokens that the feature makes likelier: these alone may be foretold.
        conditions: what may be said.
    """
    told = _Told(examples, max(top, 1e-12), raised, conditions)
    if not told.fires.any():
        return FoundRule(FiringRule(), 0.0)
    clauses: list[Clause] = []
    covered = np.zeros(len(told.fires), dtype=bool)
    fit = 0.0
    for _ in range(_MOST_CLAUSES):
        clause, mask = told.best_clause(covered)
        if clause is None:
            break
        better = told.fit(covered | mask)
        if better < fit + (_CLAUSE_GAIN if clauses else _LEAST_GAIN):
            break
        clauses.append(told.with_levels(clause, mask))
        covered, fit = covered | mask, better
    return FoundRule(FiringRule(tuple(clauses)), fit)


@dataclass(frozen=True)
class _Step:
    """A clause in the making: where it holds, and its worth, fit less what its length costs."""

    clause: Clause
    mask: Bools
    worth: float
    cost: float


class _Told:
    """The tokens of all examples in one row, with what is known of each."""

    def __init__(
        self,
        examples: Sequence[Example],
        top: float,
        raised: Sequence[str],
        conditions: Collection[Condition],
    ) -> None:
        self._conditions = frozenset(conditions)
        pieces = sorted({token for example in examples for token in example.tokens})
        self.pieces = pieces
        number = {token: place for place, token in enumerate(pieces)}
        own: list[int] = []
        before: list[int] = []
        after: list[int] = []
        starts: list[int] = []
        example_of: list[int] = []
        for place, example in enumerate(examples):
            first = len(own)
            begins = text_starts(example.tokens)
            ids = [number[token] for token in example.tokens]
            own += ids
            before += [ids[p - 1] if p > begins[p] else -1 for p in range(len(ids))]
            after += [*ids[1:], -1]
            starts += [first + begin for begin in begins]
            example_of += [place] * len(ids)
        self.own, self.before = np.array(own, dtype=np.int64), np.array(before, dtype=np.int64)
        foretold = [
            number[token] for token in raised if token in number and token not in BOUNDARIES
        ]
        following = np.array(after, dtype=np.int64)
        self.after = np.where(np.isin(following, foretold), following, -1)
        self.starts, self.example = np.array(starts), np.array(example_of)
        values = np.concatenate([example.values for example in examples]).astype(np.float64)
        self.values = values / top
        counted = ~np.isin(self.own, [number[b] for b in BOUNDARIES if b in number])
        self.counted: Bools = counted
        self.fires: Bools = (values > 0) & counted
        self.weight: Doubles = np.sqrt(np.clip(self.values, 0.0, 1.0)) * self.fires
        self.total = float(self.weight.sum())
        # A token that should not have fired counts as much as one that fires on average.
        self.against: Doubles = (counted & ~self.fires) * (self.total / max(self.fires.sum(), 1))
        self._shapes = {
            shape: np.array([has_shape(token, shape) for token in pieces])[self.own]
            for shape in SHAPES
        }
        self._repeats = self._find_repeats()
        self._said_ids = self._worth_saying()
        self._said = {reach: self._said_within(reach) for reach in _REACHES}

    # ---- what holds where ----------------------------------------------------------------------

    def _find_repeats(self) -> dict[str, Bools]:
        token = np.zeros(len(self.own), dtype=bool)
        seen: set[int] = set()
        for place, piece in enumerate(self.own.tolist()):
            if place == self.starts[place]:
                seen = set()
            token[place] = piece in seen
            seen.add(piece)
        before = np.zeros(len(self.own), dtype=bool)
        inside = self.before >= 0
        before[inside] = token[np.flatnonzero(inside) - 1]
        return {"the token": token, "the token before it": before}

    def _worth_saying(self) -> Ints:
        """Tokens that are said before firings of at least two examples, the commonest first."""
        count = np.zeros(len(self.pieces), dtype=np.int64)
        for place in np.unique(self.example[self.fires]).tolist():
            inside = np.flatnonzero(self.example == place)
            last = inside[self.fires[inside]].max()
            count[np.unique(self.own[self.starts[last] : last])] += 1
        order = np.argsort(-count, kind="stable")
        boundaries = [i for i, piece in enumerate(self.pieces) if piece in BOUNDARIES]
        return np.array(
            [i for i in order[:_MOST_SAID].tolist() if count[i] >= 2 and i not in boundaries],
            dtype=np.int64,
        )

    def _said_within(self, reach: int) -> Bools:
        """[tokens, said] whether each of the tokens worth it was said so shortly before."""
        said = np.zeros((len(self.own), len(self._said_ids)), dtype=bool)
        for column, piece in enumerate(self._said_ids.tolist()):
            last = np.where(self.own == piece, np.arange(len(self.own)), -1)
            last = np.concatenate([[-1], np.maximum.accumulate(last)[:-1]])
            begin = (
                self.starts
                if not reach
                else np.maximum(self.starts, np.arange(len(self.own)) - reach)
            )
            said[:, column] = last >= begin
        return said

    # ---- how well ------------------------------------------------------------------------------

    def fit(self, mask: Bools) -> float:
        """The balance of precision and recall (F1) of firing where ``mask`` holds."""
        hit = float(self.weight[mask].sum())
        return 2 * hit / max(hit + float(self.against[mask].sum()) + self.total, 1e-12)

    def best_clause(self, covered: Bools) -> tuple[Optional[Clause], Bools]:
        """The clause that together with what is covered fits best, and where it holds."""
        everywhere = self.counted.copy()
        first = sorted(
            self._longer(_Step(Clause(), everywhere, 0.0, 0.0), covered),
            key=lambda step: -step.worth,
        )
        best: Optional[_Step] = None
        for step in first[:_STARTS]:
            for _ in range(_MOST_CONDITIONS - 1):
                further = max(
                    self._longer(step, covered), key=lambda other: other.worth, default=None
                )
                if further is None or further.worth < step.worth + _LEAST_GAIN:
                    break
                step = further
            if best is None or step.worth > best.worth:
                best = step
        always = self.fit(covered | everywhere)
        if best is None or always >= best.worth:
            return (Clause(), everywhere) if always > 0.5 else (None, everywhere)
        return best.clause, best.mask

    def _longer(self, step: _Step, covered: Bools) -> Iterator[_Step]:
        """A clause with one condition more, in every way."""

        def made(clause: Clause, holds: Bools, size: int, more: float = 0.0) -> _Step:
            mask = step.mask & holds
            cost = step.cost + _CONDITION_COST + more + _SET_COST * float(np.log2(max(size, 1)))
            return _Step(clause, mask, self.fit(covered | mask) - cost, cost)

        open_to = step.mask & ~covered
        clause = step.clause
        may = self._conditions
        if "tokens" in may and not clause.tokens and clause.shape is None:
            chosen = self._best_set(self.own, open_to, covered)
            if len(chosen):
                longer = replace(clause, tokens=self._named(chosen))
                yield made(longer, np.isin(self.own, chosen), len(chosen))
        if "before" in may and not clause.before:
            chosen = self._best_set(self.before, open_to, covered)
            if len(chosen):
                longer = replace(clause, before=self._named(chosen))
                yield made(longer, np.isin(self.before, chosen), len(chosen))
        if "followed" in may and not clause.followed and bool((self.after >= 0).any()):
            chosen = self._best_set(self.after, open_to, covered)
            if len(chosen):
                longer = replace(clause, followed=self._named(chosen))
                yield made(longer, np.isin(self.after, chosen), len(chosen), _FORETOLD_COST)
        if "shape" in may and clause.shape is None and not clause.tokens:
            for shape in SHAPES:
                yield made(replace(clause, shape=shape), self._shapes[shape], 1)
        if "repeats" in may and clause.repeats is None:
            for repeats in ("the token", "the token before it"):
                yield made(replace(clause, repeats=repeats), self._repeats[repeats], 1)
        if "earlier" in may and len(clause.earlier) < 2:
            for reach in _REACHES:
                columns, holds = self._best_said(reach, open_to, covered)
                if len(columns):
                    said = Earlier(self._named(self._said_ids[columns]), reach)
                    yield made(
                        replace(clause, earlier=(*clause.earlier, said)), holds, len(columns)
                    )

    def _named(self, ids: Ints) -> tuple[str, ...]:
        return tuple(self.pieces[place] for place in ids.tolist())

    def _best_set(self, column: Ints, open_to: Bools, covered: Bools) -> Ints:
        """The set of tokens of a column that fits best among ``open_to``, the surest first."""
        inside = open_to & (column >= 0)
        size = len(self.pieces)
        hits = np.bincount(column[inside], self.weight[inside], size)
        misses = np.bincount(column[inside], self.against[inside], size)
        unit = self.total / max(self.fires.sum(), 1)
        sure = hits / (hits + misses + _DOUBT * unit)
        order = np.lexsort((-hits, -sure))[:_LONGEST_SET]
        order = order[hits[order] > 0]
        if not len(order):
            return order
        base_hit = float(self.weight[covered].sum())
        base_miss = float(self.against[covered].sum())
        hit = base_hit + hits[order].cumsum()
        miss = base_miss + misses[order].cumsum()
        worth = 2 * hit / (hit + miss + self.total)
        worth = worth - _SET_COST * np.log2(np.arange(1, len(order) + 1))
        chosen = order[: int(worth.argmax()) + 1]
        return chosen[np.argsort(-hits[chosen], kind="stable")]

    def _best_said(self, reach: int, open_to: Bools, covered: Bools) -> tuple[Ints, Bools]:
        """Which tokens, one of them said before, fit best among ``open_to``; and where they are."""
        nothing = np.zeros(0, dtype=np.int64)
        said = self._said[reach]
        rows = np.flatnonzero(open_to)
        if not said.shape[1] or not len(rows):
            return nothing, open_to
        weight, against = self.weight[rows], self.against[rows]
        here = said[rows]
        hits, misses = weight @ here, against @ here
        unit = self.total / max(self.fires.sum(), 1)
        sure = hits / (hits + misses + 2 * _DOUBT * unit)
        order = np.lexsort((-hits, -sure))
        order = order[hits[order] > 0][:40]
        any_of = np.zeros(len(rows), dtype=bool)
        base_hit, base_miss = float(self.weight[covered].sum()), float(self.against[covered].sum())
        best, upto = -1.0, 0
        for place, column in enumerate(order.tolist()):
            any_of |= here[:, column]
            hit = base_hit + float(weight[any_of].sum())
            miss = base_miss + float(against[any_of].sum())
            worth = 2 * hit / (hit + miss + self.total) - _SET_COST * float(np.log2(place + 1))
            if worth > best + 1e-9:
                best, upto = worth, place + 1
        chosen = order[:upto]
        holds: Bools = np.asarray(said[:, chosen].any(axis=1), dtype=bool)
        return chosen, holds

    # ---- how strongly --------------------------------------------------------------------------

    def with_levels(self, clause: Clause, mask: Bools) -> Clause:
        """A clause with how strongly the feature fires where it holds, as shares of ``top``."""
        level = float(np.clip(self.values[mask].mean(), 0.0, 1.0)) if mask.any() else 0.0
        levels = []
        for token in clause.tokens:
            here = self.values[mask & (self.own == self.pieces.index(token))]
            # Drawn towards the mean of all, as if that had been seen once more.
            levels.append(float(np.clip((here.sum() + level) / (len(here) + 1), 0.0, 1.0)))
        return replace(clause, level=level, levels=tuple(levels))
