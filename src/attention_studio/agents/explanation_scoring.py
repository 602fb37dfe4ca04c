"""Scoring explanations on examples that their authors have not seen.

Detection and fuzzing as in Paulo et al. 2024 ("Automatically Interpreting Millions of Features in
Large Language Models"), simulation as in Bills et al. 2023 ("Language models can explain neurons in
language models"). Beside them stands how the same judge does on cases whose truth is certain by
construction: a score cannot be better than its judge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.agents.explanations import SCORE_KINDS, Explanation, Score, ScoreKind
from attention_studio.agents.feature_texts import ScoringExamples
from attention_studio.agents.judges import Floats, Judge, Marked
from attention_studio.core.feature_records import Example
from attention_studio.utils.progress import WorkContext

_DRAWS = 200
_NORMAL_95 = 1.96
_KNOWN_WORDS = 2
_PLAIN_WORD = re.compile(r" ?[A-Za-z]{3,}")


@dataclass(frozen=True)
class JudgeRecord:
    """How a judge did on known cases: by kind of score its value, and on how many examples."""

    judge: str
    scores: Mapping[ScoreKind, tuple[Optional[float], int]]

    def beside(self, score: Score) -> Score:
        """A score with that beside it."""
        value, cases = self.scores.get(score.kind, (None, 0))
        return score.with_judge(value, cases)


def score_explanation(
    judge: Judge,
    explanation: Explanation,
    examples: ScoringExamples,
    kinds: Sequence[ScoreKind] = SCORE_KINDS,
    known: Optional[JudgeRecord] = None,
    seed: int = 0,
    ctx: Optional[WorkContext] = None,
) -> tuple[Score, ...]:
    """All scores of an explanation.

    Args:
        judge: foretells, from the explanation alone, what the feature does.
        examples: none of which the explanation was made from.
        kinds: which scores.
        known: how the judge did on known cases.
        seed: of the order of questions, of the marks that are wrong, and of the intervals.

    Raises:
        BackendError: a judge that is a model could not be asked.
        Cancelled: through ``ctx``.
    """
    ctx = ctx or WorkContext()
    scores = tuple(_SCORERS[kind](judge, explanation, examples, seed, ctx) for kind in kinds)
    return scores if known is None else tuple(known.beside(score) for score in scores)


def detection_score(
    judge: Judge, explanation: Explanation, examples: ScoringExamples, seed: int, ctx: WorkContext
) -> Score:
    """Can one tell by the explanation on which texts the feature fires at all?"""
    asked = [*examples.fires, *examples.quiet]
    truth = [True] * len(examples.fires) + [False] * len(examples.quiet)
    order = np.random.default_rng([seed, 1]).permutation(len(asked))
    told = judge.fires(explanation, [asked[place].tokens for place in order], ctx)
    answers = _in_order(told, order)
    n_near = len(examples.near)
    near = [answer is False for answer in answers[len(asked) - n_near :]] if n_near else []
    return _accuracy("detection", judge, truth, answers, n_near, near)


def fuzzing_score(
    judge: Judge, explanation: Explanation, examples: ScoringExamples, seed: int, ctx: WorkContext
) -> Score:
    """Can one tell by the explanation whether the marked tokens are those that fire?

    In every other example that fires as many other tokens are marked instead.
    """
    rng = np.random.default_rng([seed, 2])
    asked: list[Marked] = []
    truth: list[bool] = []
    for place, example in enumerate(examples.fires):
        fires = np.flatnonzero(example.values > 0)
        others = np.flatnonzero(example.values <= 0)
        right = place % 2 == 0 or not len(others)
        marks = fires if right else rng.choice(others, min(len(fires), len(others)), replace=False)
        asked.append(Marked(example.tokens, frozenset(marks.tolist())))
        truth.append(bool(right))
    order = rng.permutation(len(asked))
    told = judge.marks_right(explanation, [asked[place] for place in order], ctx)
    return _accuracy("fuzzing", judge, truth, _in_order(told, order), 0, [])


def simulation_score(
    judge: Judge, explanation: Explanation, examples: ScoringExamples, seed: int, ctx: WorkContext
) -> Score:
    """How well do the activations that the explanation foretells, token by token, go with those
    that are? What a judge does not say counts as no activation."""
    asked = [*examples.fires, *examples.quiet]
    told = judge.activations(explanation, [example.tokens for example in asked], ctx)
    pairs = [
        (np.zeros(len(e.tokens), dtype=np.float32) if t is None else t, e.values)
        for t, e in zip(told, asked, strict=True)
    ]
    low, high = _resampled(pairs, seed)
    return Score(
        kind="simulation",
        value=correlation(pairs),
        n_fires=len(examples.fires),
        n_silent=len(examples.silent),
        n_near=len(examples.near),
        low=low,
        high=high,
        unanswered=sum(t is None for t in told),
        judge=judge.name,
    )


Scorer = Callable[[Judge, Explanation, ScoringExamples, int, WorkContext], Score]
_SCORERS: dict[ScoreKind, Scorer] = {
    "detection": detection_score,
    "fuzzing": fuzzing_score,
    "simulation": simulation_score,
}


# ---- the judge itself --------------------------------------------------------------------------


def measure_judge(
    judge: Judge,
    texts: Iterable[Example],
    kinds: Sequence[ScoreKind] = SCORE_KINDS,
    seed: int = 0,
    ctx: Optional[WorkContext] = None,
) -> JudgeRecord:
    """How a judge does where the truth is certain: see ``known_cases``.

    Raises:
        BackendError: a judge that is a model could not be asked.
        Cancelled: through ``ctx``.
    """
    cases = known_cases(texts)
    found: dict[ScoreKind, tuple[Optional[float], int]] = {}
    for kind in kinds:
        values = []
        asked = 0
        for explanation, examples in cases:
            (score,) = score_explanation(judge, explanation, examples, [kind], None, seed, ctx)
            if score.value is not None:
                values.append(score.value)
                asked += score.n_fires + score.n_silent
        found[kind] = (float(np.mean(values)) if values else None, asked)
    return JudgeRecord(judge.name, found)


def known_cases(texts: Iterable[Example]) -> list[tuple[Explanation, ScoringExamples]]:
    """Explanations that are right by construction, with texts on which that is so.

    For some words of the texts a feature is made up that fires on that token alone, and for some
    one that fires on the token right after it. Its activations follow from the texts; nothing
    about them is measured.
    """
    pool = list({example.tokens: example for example in texts}.values())
    counts = Counter(token for example in pool for token in set(example.tokens[:-1]))
    half = len(pool) / 2
    words = sorted(
        (token for token in counts if _PLAIN_WORD.fullmatch(token) and counts[token] >= 2),
        key=lambda token: (abs(counts[token] - half), token),
    )
    words = [word for word in words if counts[word] < len(pool)][: 2 * _KNOWN_WORDS]
    cases = []
    for place, word in enumerate(words):
        after = place % 2 == 1
        where = f"the token right after '{word}'" if after else f"the token '{word}'"
        explanation = Explanation(
            feature="known case",
            label=where,
            sentence=f"Fires on {where} and on nothing else.",
            author="construction",
        )
        cases.append((explanation, _certain(pool, word, after)))
    return cases


def _certain(pool: Sequence[Example], word: str, after: bool) -> ScoringExamples:
    fires: list[Example] = []
    silent: list[Example] = []
    for example in pool:
        on = np.array([token == word for token in example.tokens])
        if after:
            on = np.concatenate([[False], on[:-1]])
        made = replace(example, values=on.astype(np.float32), looks_at=None)
        (fires if on.any() else silent).append(made)
    return ScoringExamples(tuple(fires[:10]), tuple(silent[:10]), (), 1.0)


# ---- arithmetic ----------------------------------------------------------------------------------


def _in_order(told: Sequence[Optional[bool]], order: NDArray[np.int64]) -> list[Optional[bool]]:
    answers: list[Optional[bool]] = [None] * len(order)
    for answer, place in zip(told, order.tolist(), strict=True):
        answers[place] = answer
    return answers


def _accuracy(
    kind: ScoreKind,
    judge: Judge,
    truth: Sequence[bool],
    answers: Sequence[Optional[bool]],
    n_near: int,
    near: Sequence[bool],
) -> Score:
    right = [answer is actual for answer, actual in zip(answers, truth, strict=True)]
    yes = [one for one, actual in zip(right, truth, strict=True) if actual]
    no = [one for one, actual in zip(right, truth, strict=True) if not actual]
    value = balanced_accuracy(yes, no)
    low, high = _interval(yes, no, value)
    return Score(
        kind=kind,
        value=value,
        n_fires=len(yes),
        n_silent=len(no) - n_near,
        n_near=n_near,
        low=low,
        high=high,
        near_accuracy=float(np.mean(near)) if near else None,
        unanswered=sum(answer is None for answer in answers),
        judge=judge.name,
    )


def balanced_accuracy(yes: Sequence[bool], no: Sequence[bool]) -> Optional[float]:
    """The mean of the shares of right answers where the truth is yes and where it is no; None
    where there are none of either."""
    return float((np.mean(yes) + np.mean(no)) / 2) if yes and no else None


def _interval(
    yes: Sequence[bool], no: Sequence[bool], value: Optional[float]
) -> tuple[Optional[float], Optional[float]]:
    """About 95%: normal, with two right and two wrong answers added to each side (Agresti and
    Coull 1998), so that it does not vanish where all is right."""
    if value is None:
        return None, None
    shares = [(sum(side) + 2) / (len(side) + 4) for side in (yes, no)]
    spread = [
        share * (1 - share) / (len(side) + 4) for share, side in zip(shares, (yes, no), strict=True)
    ]
    middle, reach = sum(shares) / 2, _NORMAL_95 * float(np.sqrt(sum(spread))) / 2
    return max(min(middle - reach, value), 0.0), min(max(middle + reach, value), 1.0)


Pair = tuple[Floats, Floats]


def correlation(pairs: Sequence[Pair]) -> Optional[float]:
    """Pearson's, over all tokens of all texts; None where the truth does not vary. A constant
    foretelling goes with nothing: 0."""
    if not pairs:
        return None
    told = np.concatenate([pair[0] for pair in pairs]).astype(np.float64)
    truth = np.concatenate([pair[1] for pair in pairs]).astype(np.float64)
    told, truth = told - told.mean(), truth - truth.mean()
    size = float(np.sqrt((told**2).sum() * (truth**2).sum()))
    if not (truth**2).sum() > 0:
        return None
    return float((told * truth).sum() / size) if size > 0 else 0.0


def _resampled(pairs: Sequence[Pair], seed: int) -> tuple[Optional[float], Optional[float]]:
    """About 95%, from texts drawn with replacement."""
    if len(pairs) < 2:
        return None, None
    rng = np.random.default_rng([seed, 3])
    drawn = [
        correlation([pairs[place] for place in rng.integers(len(pairs), size=len(pairs))])
        for _ in range(_DRAWS)
    ]
    values = [value for value in drawn if value is not None]
    if not values:
        return None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
