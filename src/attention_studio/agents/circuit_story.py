"""The story of a circuit: sentences that point to what they rest on, as records, and their JSON.

A sentence has words for people and claims for code. Its links name what there is to see: nodes and
edges of the graph, supernodes of the story, examples of features, interventions that were run.
``story_checks`` holds claims and words against these; a sentence that does not hold is struck, and
stays in the record with the reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

from pydantic import TypeAdapter, ValidationError

from attention_studio.core.intervention_runs import InterventionRun
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import read_json, write_json_atomic

FORMAT, VERSION = "attention-studio-story", 1
_MAX_BYTES = 64 << 20

MAX_TEXT, MAX_NAME = 400, 60
LEAST_LOG_ODDS, LEAST_SHARE = 0.05, 0.02
"""Changes below count for none: nats of an output's log-odds, a share of a supernode's activity."""

LinkKind = Literal["node", "edge", "supernode", "example", "run", "look"]
ClaimKind = Literal["answer", "token", "looks", "matches", "fires", "writes", "feeds", "effect"]
"""In the order in which a story tells of them."""
Direction = Literal["raises", "lowers"]
EDGE = " -> "


class StoryError(StudioError):
    """A story cannot be made or read."""


@dataclass(frozen=True)
class Link:
    """Something to look at.

    Attributes:
        kind: what it is.
        reference: a node's name; of an edge both, ``SOURCE -> TARGET`` (nodes or supernodes); a
            supernode's or run's key; of an example ``L0/F523 text 12:33``; of a look the name of
            the attention feature that looks.
    """

    kind: LinkKind
    reference: str


@dataclass(frozen=True)
class Claim:
    """What a sentence says, for code.

    Attributes:
        kind: ``token``: node ``subject`` is the token ``object``; ``answer``: output ``subject``
            is ``object``; ``writes``: what ``subject`` writes raises or lowers the token
            ``object``; ``fires``: ``subject`` fires on the token ``object`` in an example;
            ``looks``: attention of ``subject`` looks at the token's node ``object``; ``matches``:
            a look goes there because the query has the token's node ``subject`` and the key
            ``object``;
            ``feeds``: by the graph's edges ``subject`` raises or lowers ``object``; ``effect``: the
            same, measured in the model.
        subject: a node's name or a supernode's key.
        object: the same, or a token.
        direction: of what the subject does.
    """

    kind: ClaimKind
    subject: str
    object: str
    direction: Optional[Direction] = None


@dataclass(frozen=True)
class Sentence:
    """One sentence.

    Attributes:
        text: plain text.
        claims: what it says.
        evidence: what it rests on.
        author: who worded it: ``deterministic``, or a model's name.
        key: what it is known by within its story.
    """

    text: str
    claims: tuple[Claim, ...]
    evidence: tuple[Link, ...]
    author: str
    key: str = ""

    @property
    def support(self) -> Literal["measured", "graph", "shown"]:
        """``measured`` in the model, said by the ``graph`` alone, or there to be ``shown``."""
        kinds = {claim.kind for claim in self.claims}
        if "effect" in kinds:
            return "measured"
        return "graph" if kinds & {"feeds", "writes", "looks"} else "shown"


@dataclass(frozen=True)
class Struck:
    """A sentence that does not stand, and why."""

    sentence: Sentence
    reason: str


@dataclass(frozen=True)
class StorySupernode:
    """Features that the story treats as one thing.

    Attributes:
        key: ``S1``, ``S2``, ... in order of the forward pass.
        name: what it is called.
        named_by: who called it that.
        nodes: names of the features.
        at: the tokens that they are at, by position.
        writes, suppresses: next tokens that they raise and lower most together, strongest first.
        hears: the tokens from whose positions they hear, with shares of what they hear.
    """

    key: str
    name: str
    named_by: str
    nodes: tuple[str, ...]
    at: tuple[str, ...]
    writes: tuple[str, ...] = ()
    suppresses: tuple[str, ...] = ()
    hears: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class StoryExample:
    """A text on which a feature of the story fires."""

    feature: str
    reference: str
    tokens: tuple[str, ...]
    peak: int
    value: float

    @property
    def link(self) -> str:
        """What links to it say."""
        return f"{self.feature} {self.reference}"


@dataclass(frozen=True)
class StoryRun:
    """An intervention that was run for the story.

    Attributes:
        key: ``R1``, ``R2``, ...
        subject: the supernode whose features were changed.
        run: what was done and what came of it.
        predicted: what the graph foretold, by output or supernode: change of log-odds (nats), or of
            the sum of activations.
        control: the same measured where as many other features of the same places were changed
            instead: root mean square over ``n_controls`` draws.
        proposed_by: who wanted it.
    """

    key: str
    subject: str
    run: InterventionRun
    predicted: Mapping[str, float] = field(default_factory=dict)
    control: Mapping[str, float] = field(default_factory=dict)
    n_controls: int = 0
    proposed_by: str = ""


@dataclass(frozen=True)
class StoryLook:
    """Where a feature of attention looked, and why: see ``core.qk_tracing``.

    Attributes:
        feature: name of its node.
        supernode: key of the one that it is in.
        query, key: positions it looked from and at.
        attention: share of its head's attention at ``key``.
        query_word, key_word: names of the tokens' nodes whose pair adds most to the score there, of
            all pairs of tokens, features followed down to what they read.
        value: what that pair adds.
        score: all pairs, less the mean over what the head sees; other words, errors and biases
            among them, so that it may be less than ``value``.
    """

    feature: str
    supernode: str
    query: int
    key: int
    attention: float
    query_word: str
    key_word: str
    value: float
    score: float


@dataclass(frozen=True)
class Way:
    """The paths that lead from a token over the same supernodes to the answer, taken together.

    Attributes:
        stops: the token's node, supernodes' keys, the output's node.
        strength: sum of the paths' strengths: a share of the influence on the answer.
        net: the same with signs.
        n_paths: how many of the paths that were followed.
    """

    stops: tuple[str, ...]
    strength: float
    net: float
    n_paths: int


@dataclass(frozen=True)
class Story:
    """A circuit, told.

    Attributes:
        prompt, model_name, model_hash, crm_name: of what.
        answer: name of the output's node that the story leads to.
        answer_text: its token.
        probability: of it.
        supernodes, ways: what the graph is taken to consist of.
        sentences: what stands.
        struck: what does not.
        runs, examples, looks: what sentences link to.
        author: ``deterministic`` or a model's name.
        made_at: UTC, ISO 8601.
        notes: what went otherwise than planned, in words.
    """

    prompt: str
    model_name: str
    model_hash: str
    crm_name: str
    answer: str
    answer_text: str
    probability: float
    supernodes: tuple[StorySupernode, ...] = ()
    ways: tuple[Way, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    struck: tuple[Struck, ...] = ()
    runs: tuple[StoryRun, ...] = ()
    examples: tuple[StoryExample, ...] = ()
    looks: tuple[StoryLook, ...] = ()
    author: str = ""
    made_at: str = ""
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All that stands, as one text."""
        return " ".join(sentence.text for sentence in self.sentences)

    def supernode(self, key: str) -> Optional[StorySupernode]:
        """The supernode of that key."""
        return next((one for one in self.supernodes if one.key == key), None)

    def run(self, key: str) -> Optional[StoryRun]:
        """The run of that key."""
        return next((one for one in self.runs if one.key == key), None)


# ---- what a run says ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """What a run did to one thing.

    Attributes:
        before, after: of an output its log-odds as the next token (nats), of a supernode the sum of
            its activations.
        shown: the same as people read it: a probability, or 1 and what is left as a share of it.
        control: see ``StoryRun``.
        sense: 1 where the run made more of its subject, -1 where it made less.
        least: the change that counts for something.
    """

    before: float
    after: float
    shown: tuple[float, float]
    control: float
    sense: int
    least: float

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before

    @property
    def clear(self) -> bool:
        """Whether it is more than other features do, and more than nothing."""
        return abs(self.change) > max(self.control, self.least)

    @property
    def direction(self) -> Direction:
        """What the subject does to the thing."""
        return "raises" if self.change * self.sense > 0 else "lowers"


def log_odds(probability: float) -> float:
    """``log(p / (1 - p))``; of 0 and 1 what is next to them."""
    p = min(max(probability, 1e-12), 1.0 - 1e-12)
    return math.log(p) - math.log1p(-p)


def sense_of(run: InterventionRun) -> int:
    """Whether a run made more (1) or less (-1) of what it changed; 0: neither."""
    changed = math.fsum(one.change for one in run.edited)
    return (changed > 0) - (changed < 0)


def output_levels(run: InterventionRun, token_id: int) -> Optional[tuple[float, float]]:
    """A token's probability before and after; None: the run does not tell."""
    for one in run.next_tokens:
        if one.token_id == token_id:
            return one.probability_before, one.probability_after
    return None


def activity(run: InterventionRun, names: Iterable[str]) -> Optional[tuple[float, float]]:
    """Sum of the activations of features before and after; None: the run does not tell of all."""
    known = {one.feature: one for one in run.features}
    found = [known.get(name) for name in names]
    there = [one for one in found if one is not None]
    if len(there) < len(found) or not there:
        return None
    return (
        math.fsum(one.activation_before for one in there),
        math.fsum(one.activation_after for one in there),
    )


# ---- JSON --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _StoredRun:
    key: str
    subject: str
    run: dict[str, Any]
    predicted: dict[str, float]
    control: dict[str, float]
    n_controls: int
    proposed_by: str


@dataclass(frozen=True)
class _Stored(Story):
    runs: tuple[_StoredRun, ...] = ()  # type: ignore[assignment]


_STORED = TypeAdapter(_Stored)


def story_record(story: Story) -> dict[str, Any]:
    """A story as a JSON value."""
    stored = tuple(
        _StoredRun(
            one.key,
            one.subject,
            one.run.to_json(),
            dict(one.predicted),
            dict(one.control),
            one.n_controls,
            one.proposed_by,
        )
        for one in story.runs
    )
    fields = {f.name: getattr(story, f.name) for f in dataclasses.fields(story)}
    record = _STORED.dump_python(_Stored(**{**fields, "runs": stored}), mode="json")
    return {"format": FORMAT, "version": VERSION, **record}


def story_from(record: Any) -> Story:
    """A story out of a JSON value.

    Raises:
        StoryError: it is none, of another version, or damaged.
    """
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise StoryError("This is no story of a circuit", "", "Have the circuit described again")
    if record.get("version") != VERSION:
        raise StoryError(
            f"The story is of version {record.get('version')}",
            f"this AttentionStudio reads version {VERSION}",
            "Update AttentionStudio or have the circuit described again",
        )
    values = {name: value for name, value in record.items() if name not in ("format", "version")}
    try:
        stored = _STORED.validate_python(values)
        runs = tuple(
            StoryRun(
                one.key,
                one.subject,
                InterventionRun.from_json(one.run),
                one.predicted,
                one.control,
                one.n_controls,
                one.proposed_by,
            )
            for one in stored.runs
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise StoryError("The story is damaged", f"{place or 'it'}: {first['msg']}") from None
    except StudioError as error:
        raise StoryError("The story is damaged", str(error)) from None
    fields = {f.name: getattr(stored, f.name) for f in dataclasses.fields(stored)}
    return Story(**{**fields, "runs": runs})


def save_story(story: Story, path: Path) -> None:
    """Write a story, whole or not at all.

    Raises:
        FileWriteError: it cannot be written.
    """
    write_json_atomic(path, story_record(story), _MAX_BYTES)


def read_story(path: Path) -> Story:
    """Read a story.

    Raises:
        FileReadError: it cannot be read.
        StoryError: it is none.
    """
    return story_from(read_json(path, _MAX_BYTES))
