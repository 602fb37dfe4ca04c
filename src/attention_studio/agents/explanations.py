"""What is said of a feature, what it rests on, and how well it holds: records, and their JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal, Optional

from pydantic import TypeAdapter, ValidationError

from attention_studio.agents.firing_rules import FiringRule
from attention_studio.utils.errors import StudioError

EvidenceKind = Literal["example", "token", "logit", "neighbour", "attack"]
ScoreKind = Literal["detection", "fuzzing", "simulation"]
SCORE_KINDS: tuple[ScoreKind, ...] = ("detection", "fuzzing", "simulation")

DETERMINISTIC = "deterministic"
"""The author of what code says without a language model."""
MAX_LABEL, MAX_SENTENCE = 120, 600
"""Characters: what a model writes beyond them is cut."""
FEW_EXAMPLES = 10
"""Below so many examples of either side a score says that it rests on few."""


class ExplanationError(StudioError):
    """A record of an explanation cannot be read, or makes no sense."""


@dataclass(frozen=True)
class Evidence:
    """What a statement rests on.

    Attributes:
        kind: what is pointed to.
        reference: ``text SEQUENCE:START`` of an example, a token, a feature's name, an attack's
            text.
        says: what is to be seen there.
    """

    kind: EvidenceKind
    reference: str
    says: str


@dataclass(frozen=True)
class Explanation:
    """What a feature stands for, as somebody says it.

    Attributes:
        feature: its name, as ``core.feature_names`` writes it.
        label: a few words.
        sentence: one sentence.
        evidence: what it rests on.
        author: the model's name, ``DETERMINISTIC`` or
            ``feature_records.PERSON``.
        made_at: UTC, ISO 8601.
        rule: when it fires, where the author said that so that code can apply it.
    """

    feature: str
    label: str
    sentence: str
    evidence: tuple[Evidence, ...] = ()
    author: str = ""
    made_at: str = ""
    rule: Optional[FiringRule] = None

    @property
    def words(self) -> str:
        """All that it says, as a judge is told."""
        return f"{self.label}. {self.sentence}" if self.label else self.sentence


@dataclass(frozen=True)
class Score:
    """How well an explanation foretells a feature on examples that its author has not seen.

    Attributes:
        kind: ``detection`` (which whole examples fire), ``fuzzing`` (whether the marked tokens are
            the ones), both as balanced accuracy; ``simulation``: correlation of the activations
            that it foretells with those that are.
        value: 0.5 is chance for accuracies, 0 for correlations; None: it cannot be said.
        low, high: about 95 of 100 such measurements hold the truth between them.
        n_fires, n_silent, n_near: examples of each sort; near misses are silent ones that have
            the feature's tokens, or fire a feature like it.
        near_accuracy: share of the near misses that were told apart; None: there is none.
        unanswered: questions that the judge gave no usable answer to; they count as wrong.
        judge: who judged.
        judge_score: the same measure for that judge on cases whose truth is certain; None: not
            measured.
        judge_cases: how many those were.
    """

    kind: ScoreKind
    value: Optional[float]
    n_fires: int
    n_silent: int
    n_near: int = 0
    low: Optional[float] = None
    high: Optional[float] = None
    near_accuracy: Optional[float] = None
    unanswered: int = 0
    judge: str = ""
    judge_score: Optional[float] = None
    judge_cases: int = 0

    @property
    def caution(self) -> str:
        """What speaks against relying on it; empty: nothing that is known."""
        found = []
        if self.value is None:
            found.append("it cannot be said from these examples")
        if min(self.n_fires, self.n_silent + self.n_near) < FEW_EXAMPLES:
            found.append(
                f"only {self.n_fires} examples that fire and "
                f"{self.n_silent + self.n_near} that do not"
            )
        if self.judge_score is None:
            found.append("the judge was not measured")
        elif self.judge_score < (0.5 if self.kind == "simulation" else 0.75):
            found.append(f"the judge reaches {self.judge_score:.2f} where the truth is known")
        return "; ".join(found)

    def with_judge(self, score: Optional[float], cases: int) -> Score:
        """The same beside how the judge did on known cases."""
        return replace(self, judge_score=score, judge_cases=cases)


@dataclass(frozen=True)
class Attack:
    """A text that was written to refute an explanation, and what the model made of it.

    Attributes:
        text: what was written.
        should_fire: what the explanation says.
        activation: the feature's largest activation in it, measured; None: the text could not be
            run.
        at: the token where.
        by: who wrote it.
    """

    text: str
    should_fire: bool
    activation: Optional[float]
    at: str
    by: str

    @property
    def refutes(self) -> bool:
        """Whether the model does otherwise than the explanation says."""
        return self.activation is not None and (self.activation > 0) is not self.should_fire


@dataclass(frozen=True)
class Assessment:
    """An explanation with everything that was measured of it."""

    explanation: Explanation
    scores: tuple[Score, ...] = ()
    attacks: tuple[Attack, ...] = ()

    def score(self, kind: ScoreKind) -> Optional[Score]:
        """Its score of a kind."""
        return next((score for score in self.scores if score.kind == kind), None)

    @property
    def overall(self) -> Optional[float]:
        """The mean of its scores, correlations below 0 as 0; None: there is none."""
        values = [max(score.value, 0.0) for score in self.scores if score.value is not None]
        return math.fsum(values) / len(values) if values else None

    @property
    def withstood(self) -> Optional[float]:
        """Share of the attacks that did not refute it; None: there was none."""
        ran = [attack for attack in self.attacks if attack.activation is not None]
        return sum(not attack.refutes for attack in ran) / len(ran) if ran else None


@dataclass(frozen=True)
class FeatureVerdict:
    """What came of explaining one feature.

    Attributes:
        chosen: what stands: the model's explanation if it beats the baseline, else the baseline.
        baseline: the deterministic explainer's.
        tried: the model's attempts, in order.
        reason: why ``chosen`` was chosen, or why there is no more.
    """

    chosen: Assessment
    baseline: Assessment
    tried: tuple[Assessment, ...] = ()
    reason: str = ""


def now() -> str:
    """The time, as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def verdict_record(verdict: FeatureVerdict) -> dict[str, Any]:
    """A verdict as a JSON value."""
    record: dict[str, Any] = _VERDICT.dump_python(verdict, mode="json")
    return record


def read_verdict(record: Any) -> FeatureVerdict:
    """A verdict out of a JSON value.

    Raises:
        ExplanationError: it is none.
    """
    try:
        return _VERDICT.validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ExplanationError(
            "This is no record of an explanation", f"{place or 'it'}: {first['msg']}"
        ) from None


_VERDICT = TypeAdapter(FeatureVerdict)
