"""Interventions as a person makes them: what was asked for and what came of it, as records that are
kept and opened again. No torch here, so that the window can use it freely.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Optional

from pydantic import Field

from attention_studio.core.generation_records import (
    Continuation,
    GeneratedToken,
    Generation,
    Sampling,
)
from attention_studio.core.intervention_outcomes import TokenEffect
from attention_studio.core.intervention_specs import (
    Action,
    Edit,
    FeatureAt,
    Freeze,
    FreezeMode,
    Intervention,
    InterventionError,
)
from attention_studio.core.model_records import TokenProbability
from attention_studio.core.stored_record import (
    Count,
    Name,
    Number,
    StoredKind,
    StrictRecord,
    Text,
)
from attention_studio.utils.errors import StudioError
from attention_studio.utils.ranges import parse_ranges

FORMAT = "attention-studio-intervention"
FORMAT_VERSION = 1
EVERYWHERE = "*"
"""Stands for every position, and every token that is generated."""
KEPT_FEATURES = 200
"""Of the features that moved, so many are kept, those that moved most."""
_MAX_ITEMS = 10_000


class RunFormatError(StudioError):
    """What should be a stored intervention is none."""


def at_positions(
    features: Iterable[FeatureAt], where: str, n_tokens: Optional[int] = None
) -> tuple[FeatureAt, ...]:
    """The same latents at other positions.

    Args:
        features: where they are now.
        where: "" leaves them there, ``*`` means every position, else positions such as ``5, 7-9``.
        n_tokens: of the prompt, the start token included; None: unknown.

    Raises:
        RangeError: ``where`` cannot be understood, or names a position beyond the prompt.
    """
    wanted, found = where.strip(), tuple(features)
    if not wanted:
        return found
    positions: Sequence[Optional[int]] = [None]
    if wanted != EVERYWHERE:
        positions = parse_ranges(wanted, _MAX_ITEMS if n_tokens is None else n_tokens, "position")
    return tuple(
        dict.fromkeys(at._replace(position=position) for at in found for position in positions)
    )


@dataclass(frozen=True)
class InterventionPlan:
    """What is to be done.

    Attributes:
        prompt: the text.
        edits: what is changed, at once.
        freeze: what stays as it was.
        n_tokens: how many tokens of text are generated on; 0: none.
        sampling: how they are chosen.
        name: what the person calls it, or "".

    Raises:
        InterventionError: nothing is changed, or text is asked for where everything is frozen.
    """

    prompt: str
    edits: tuple[Edit, ...]
    freeze: Freeze = field(default_factory=Freeze)
    n_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    name: str = ""

    def __post_init__(self) -> None:
        if not self.edits:
            raise InterventionError(
                "Nothing is to be changed", "", "add a feature, and say what becomes of it"
            )
        if self.n_tokens and self.freeze.mode == "all":
            raise InterventionError(
                "No text can be generated with everything frozen",
                "the linear model holds for the tokens of its prompt only",
                "freeze the attention or nothing, or generate no text",
            )

    @property
    def intervention(self) -> Intervention:
        """The edits as one intervention."""
        return Intervention(self.edits, self.name)

    def __str__(self) -> str:
        return str(self.intervention)


@dataclass(frozen=True)
class FeatureChange:
    """One feature at one position: what it read and wrote before and after.

    ``feature`` is its name with position, as ``AttributionGraph.node_name`` gives it.
    """

    feature: str
    pre_before: float
    pre_after: float
    activation_before: float
    activation_after: float

    @property
    def change(self) -> float:
        """By how much the activation moved."""
        return self.activation_after - self.activation_before


@dataclass(frozen=True)
class InterventionRun:
    """What was done and what came of it.

    Attributes:
        plan: what was asked for.
        model_name, model_hash, crm_name: of what.
        tokens: the prompt as the model sees it.
        when: in UTC, as ISO 8601.
        seconds: how long it took.
        next_tokens: the likeliest next tokens before and after, by probability after, falling.
        divergence: Kullback-Leibler divergence of the next token after from before, in nats.
        edited: the latents that were changed, at the prompt's positions.
        moved: other features that moved most, the most first; ``n_moved`` is how many moved.
        newly_active: latents that are active only now, the strongest first.
        generation: the text generated on, original and changed; None: none was asked for.
    """

    plan: InterventionPlan
    model_name: str
    model_hash: str
    crm_name: str
    tokens: tuple[str, ...]
    when: str
    seconds: float
    next_tokens: tuple[TokenEffect, ...]
    divergence: float
    edited: tuple[FeatureChange, ...]
    moved: tuple[FeatureChange, ...]
    n_moved: int
    newly_active: tuple[FeatureChange, ...]
    generation: Optional[Generation] = None

    @property
    def features(self) -> tuple[FeatureChange, ...]:
        """All that is known of features: edited, moved, active only now."""
        return (*self.edited, *self.moved, *self.newly_active)

    def top(self, after: bool, n: int = 5) -> tuple[TokenProbability, ...]:
        """The likeliest next tokens, before or after."""
        found = [
            TokenProbability(
                effect.token_id,
                effect.token,
                effect.probability_after if after else effect.probability_before,
            )
            for effect in self.next_tokens
        ]
        return tuple(sorted(found, key=lambda token: -token.probability)[:n])

    # -- files ---------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """As plain values for a JSON file; ``from_json`` gives an equal record."""
        generation = self.generation
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "plan": _plan_json(self.plan),
            "model_name": self.model_name,
            "model_hash": self.model_hash,
            "crm_name": self.crm_name,
            "tokens": list(self.tokens),
            "when": self.when,
            "seconds": self.seconds,
            "next_tokens": [asdict(effect) for effect in self.next_tokens],
            "divergence": self.divergence,
            "edited": [asdict(change) for change in self.edited],
            "moved": [asdict(change) for change in self.moved],
            "n_moved": self.n_moved,
            "newly_active": [asdict(change) for change in self.newly_active],
            "generation": None
            if generation is None
            else {
                "original": _continuation_json(generation.original),
                "changed": _continuation_json(generation.changed[0]),
            },
        }

    @classmethod
    def from_json(cls, data: Any) -> InterventionRun:
        """Read what ``to_json`` made.

        Raises:
            RunFormatError: it is something else, of a newer version, or too large.
        """
        try:
            return _KIND.read(data).run()
        except InterventionError as e:
            raise _KIND.damaged(f"{e.what}: {e.why}") from None


def _plan_json(plan: InterventionPlan) -> dict[str, Any]:
    return {
        "prompt": plan.prompt,
        "edits": [
            {**asdict(edit), "features": [str(at) for at in edit.features]} for edit in plan.edits
        ],
        "freeze": asdict(plan.freeze),
        "n_tokens": plan.n_tokens,
        "sampling": asdict(plan.sampling),
        "name": plan.name,
    }


def _continuation_json(continuation: Continuation) -> dict[str, Any]:
    return {
        # Lists, as a file would give them back: records are read from memory too.
        "tokens": [
            {**asdict(token), "candidates": [asdict(c) for c in token.candidates]}
            for token in continuation.tokens
        ],
        "text": continuation.text,
        "ended": continuation.ended,
    }


# ---- reading with limits -----------------------------------------------------------------------


class _Edit(StrictRecord):
    features: Annotated[list[Name], Field(max_length=_MAX_ITEMS)]
    action: Action
    value: Number
    from_prompt: Optional[Text]
    from_position: Optional[Count]

    def edit(self) -> Edit:
        at = tuple(map(FeatureAt.parse, self.features))
        return Edit(at, self.action, self.value, self.from_prompt, self.from_position)


class _Freeze(StrictRecord):
    mode: FreezeMode
    first_layer: Count
    last_layer: Optional[Count]
    features_respond: bool


class _Sampling(StrictRecord):
    temperature: Number
    seed: Count


class _Plan(StrictRecord):
    prompt: Text
    edits: Annotated[list[_Edit], Field(max_length=_MAX_ITEMS)]
    freeze: _Freeze
    n_tokens: Count
    sampling: _Sampling
    name: Text

    def plan(self) -> InterventionPlan:
        return InterventionPlan(
            self.prompt,
            tuple(edit.edit() for edit in self.edits),
            Freeze(**self.freeze.model_dump()),
            self.n_tokens,
            Sampling(**self.sampling.model_dump()),
            self.name,
        )


class _TokenEffect(StrictRecord):
    token_id: Count
    token: Text
    logit_before: Number
    logit_after: Number
    probability_before: Number
    probability_after: Number


class _FeatureChange(StrictRecord):
    feature: Name
    pre_before: Number
    pre_after: Number
    activation_before: Number
    activation_after: Number


class _Candidate(StrictRecord):
    token_id: Count
    token: Text
    probability: Number


class _GeneratedToken(StrictRecord):
    token_id: Count
    text: Text
    probability: Number
    candidates: Annotated[list[_Candidate], Field(max_length=_MAX_ITEMS)]

    def record(self) -> GeneratedToken:
        candidates = tuple(TokenProbability(**c.model_dump()) for c in self.candidates)
        return GeneratedToken(self.token_id, self.text, self.probability, candidates)


class _Continuation(StrictRecord):
    tokens: Annotated[list[_GeneratedToken], Field(max_length=_MAX_ITEMS)]
    text: Text
    ended: bool

    def record(self) -> Continuation:
        tokens = tuple(token.record() for token in self.tokens)
        return Continuation(None, tokens, self.text, self.ended)


class _Generation(StrictRecord):
    original: _Continuation
    changed: _Continuation


_MAX_CHANGES = 1_000_000
"""A supernode of hundreds at every position of a long prompt; the whole file is bounded, too."""
_Changes = Annotated[list[_FeatureChange], Field(max_length=_MAX_CHANGES)]


class _RunFile(StrictRecord):
    plan: _Plan
    model_name: Text
    model_hash: Text
    crm_name: Text
    tokens: Annotated[list[Text], Field(max_length=1 << 20)]
    when: Name
    seconds: Number
    next_tokens: Annotated[list[_TokenEffect], Field(max_length=_MAX_ITEMS)]
    divergence: Number
    edited: _Changes
    moved: _Changes
    n_moved: Count
    newly_active: _Changes
    generation: Optional[_Generation]

    def run(self) -> InterventionRun:
        plan = self.plan.plan()
        generation = None
        if self.generation is not None:
            changed = replace(self.generation.changed.record(), intervention=plan.intervention)
            original = self.generation.original.record()
            generation = Generation(plan.prompt, plan.freeze, plan.sampling, original, (changed,))
        return InterventionRun(
            plan=plan,
            model_name=self.model_name,
            model_hash=self.model_hash,
            crm_name=self.crm_name,
            tokens=tuple(self.tokens),
            when=self.when,
            seconds=self.seconds,
            next_tokens=tuple(TokenEffect(**t.model_dump()) for t in self.next_tokens),
            divergence=self.divergence,
            edited=_records(self.edited),
            moved=_records(self.moved),
            n_moved=self.n_moved,
            newly_active=_records(self.newly_active),
            generation=generation,
        )


def _records(changes: Iterable[_FeatureChange]) -> tuple[FeatureChange, ...]:
    return tuple(FeatureChange(**change.model_dump()) for change in changes)


_KIND = StoredKind(
    FORMAT,
    FORMAT_VERSION,
    _RunFile,
    RunFormatError,
    none="This is no stored intervention",
    called="The stored intervention is",
    again="run it again",
)
