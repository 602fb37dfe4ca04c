"""The agent that tells the story of a circuit.

Code finds the parts of the circuit, runs the interventions, and checks every sentence. A language
model may do three things: call supernodes something, propose which raises or lowers which (that is
run through the real model, and what is refuted is struck), and say sentences in other words. What
it says goes through the same check as everything else; where it fails, the code's own words stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field

from attention_studio.agents.backends.json_answers import JsonAnswerError
from attention_studio.agents.backends.records import Backend, BackendError
from attention_studio.agents.base_agent import BaseAgent
from attention_studio.agents.budget import BudgetSpentError
from attention_studio.agents.circuit_looks import find_looks
from attention_studio.agents.circuit_measuring import Wanted, measure
from attention_studio.agents.circuit_parts import CircuitParts, CircuitSettings, find_parts
from attention_studio.agents.circuit_story import (
    EDGE,
    MAX_TEXT,
    Claim,
    Link,
    Sentence,
    Story,
    StoryLook,
    StoryRun,
    StorySupernode,
    Struck,
)
from attention_studio.agents.circuit_writer import Hypothesis, sentence_of, write_story
from attention_studio.agents.explanations import DETERMINISTIC
from attention_studio.agents.story_checks import EvidenceBook, name_problem
from attention_studio.agents.story_words import listed, plain_name, shown

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.core.replacement_model import CompleteReplacementModel

_SYSTEM = (
    "You help to describe how a language model came to its next token. Supernodes are groups of "
    "its features. What you say is checked by code against measurements; what does not hold is "
    "struck out."
)
_NAME = (
    "Give supernodes short names that say what they stand for, from the tokens that they hear and "
    "raise: a common theme, in at most five words. Use no word of the prompt unless the supernode "
    "is at it or hears it. Leave out those that you cannot tell."
)
_PROPOSE = (
    "Propose what else may hold: which supernode (cause) raises or lowers which other supernode or "
    "the answer (effect). Each is tested by changing the cause in the real model: ablate it, or "
    "scale it by a value. In 'says', say it in one sentence with both keys (S1, S2; the answer in "
    "quotes)."
)
_PHRASE = (
    "Say sentences in plainer words. Keep keys such as S2, quoted words and figures as they are, "
    "and add nothing. Say 'raises' or 'lowers' as the sentence does. Leave out those that you "
    "cannot better."
)
_LOOK = (
    "Look at the graph with the tools where that helps, then say in a few sentences what you see."
)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class NameGiven(_Answer):
    """What a model calls a supernode."""

    key: str = Field(max_length=20)
    name: str = Field(max_length=200)


class Names(_Answer):
    """Names of supernodes."""

    names: list[NameGiven] = Field(max_length=50)


class EffectProposed(_Answer):
    """What a model thinks one thing does to another, and how to test it."""

    cause: str = Field(max_length=200)
    effect: str = Field(max_length=200, description="a supernode's key, or: answer")
    direction: Literal["raises", "lowers"]
    action: Literal["ablate", "scale"] = "ablate"
    value: float = Field(default=0.0, ge=-8.0, le=8.0, allow_inf_nan=False)
    says: str = Field(default="", max_length=2000)


class Proposals(_Answer):
    """What a model wants to have tested."""

    proposals: list[EffectProposed] = Field(max_length=50)


class Wording(_Answer):
    """A sentence in a model's words."""

    key: str = Field(max_length=20)
    text: str = Field(max_length=2000)


class Wordings(_Answer):
    """Sentences in a model's words."""

    sentences: list[Wording] = Field(max_length=200)


@dataclass
class _Draft:
    """A story in the making."""

    parts: CircuitParts
    runs: tuple[StoryRun, ...] = ()
    struck: list[Struck] = field(default_factory=list)
    more: list[Sentence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class CircuitAgent(BaseAgent):
    """Tells stories of graphs with a language model that is believed nothing.

    Args:
        backend: the model.
        settings: what is told and how it is tested.
        options: see ``BaseAgent``. With ``tools`` the model may look around before it proposes.
    """

    def __init__(
        self, backend: Backend, settings: Optional[CircuitSettings] = None, **options: Any
    ) -> None:
        super().__init__(backend, **options)
        self.settings = settings or CircuitSettings()

    def tell(
        self,
        graph: AttributionGraph,
        replacement: Optional[CompleteReplacementModel] = None,
        *,
        pruned: Optional[PrunedGraph] = None,
        notes: Optional[GraphNotes] = None,
        store: Optional[FeatureStore] = None,
    ) -> Story:
        """The story of a graph's circuit.

        A model that cannot be asked, gives no usable answer, or has used up its budget leaves the
        story that code tells; ``Story.notes`` say so. Arguments as ``tell_story``.

        Raises:
            StoryError: the graph explains no next token, or is of another model.
            Cancelled: through ``ctx``.
        """
        parts = find_parts(
            graph,
            self.settings,
            pruned=pruned,
            notes=notes,
            replacement=replacement,
            store=store,
            ctx=self.ctx,
        )
        draft = _Draft(parts)
        self._try(draft, "Names", lambda: self._name(graph, draft))
        looks: tuple[StoryLook, ...] = ()
        if replacement is not None:
            looks = find_looks(replacement, graph, parts.supernodes, self.settings.looks, self.ctx)
            mine = [Wanted(one.key, proposed_by=DETERMINISTIC) for one in draft.parts.supernodes]
            draft.runs = self._measure(graph, replacement, draft, mine)
        story = write_story(graph, draft.parts, draft.runs, self.settings, looks)
        if replacement is not None:
            self._try(draft, "Proposals", lambda: self._propose(graph, replacement, draft, story))
        added = [replace(one, key=f"P{n}") for n, one in enumerate(draft.more, 1)]
        story = replace(
            story,
            runs=draft.runs,
            sentences=(*story.sentences, *added),
            author=self.backend.name,
        )
        book = EvidenceBook(graph, story.supernodes, story.runs, story.examples, story.looks)
        worded = list(story.sentences)
        self._try(draft, "Wordings", lambda: self._phrase(book, draft, worded))
        return replace(
            story,
            sentences=tuple(worded),
            struck=(*story.struck, *draft.struck),
            notes=(*story.notes, *draft.notes),
        )

    # ---- what the model may do -------------------------------------------------------------------

    def _try(self, draft: _Draft, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except (BackendError, BudgetSpentError, JsonAnswerError) as error:
            draft.notes.append(f"{what}: {error}")

    def _name(self, graph: AttributionGraph, draft: _Draft) -> None:
        """Let the model call supernodes something; a name that belongs elsewhere is struck."""
        supernodes = draft.parts.supernodes
        if not supernodes:
            return
        said = self.answer_as(Names, f"{_SYSTEM}\n{_NAME}", _shown_parts(graph, draft.parts))
        book = EvidenceBook(graph, supernodes, (), draft.parts.examples)
        given: dict[str, str] = {}
        for one in said.names:
            group = book.supernodes.get(one.key)
            if group is None or group.named_by != DETERMINISTIC or one.key in given:
                continue  # a person's name stays
            name = plain_name(one.name)
            wrong = name_problem(book, one.key, name)
            if wrong is None:
                given[one.key] = name
            else:
                links = (Link("supernode", one.key),)
                sentence = Sentence(f"{one.key} is called “{name}”.", (), links, self.backend.name)
                draft.struck.append(Struck(sentence, wrong))
        named = tuple(
            replace(one, name=given[one.key], named_by=self.backend.name)
            if one.key in given
            else one
            for one in supernodes
        )
        draft.parts = replace(draft.parts, supernodes=named)

    def _propose(
        self,
        graph: AttributionGraph,
        replacement: CompleteReplacementModel,
        draft: _Draft,
        story: Story,
    ) -> None:
        """Have the model say what may hold, run it, and keep what holds."""
        task = f"{_shown_parts(graph, draft.parts)}\n\nWhat was found:\n{_shown_story(story)}"
        if len(self.tools):
            seen = self.converse(f"{_SYSTEM}\n{_LOOK}", task).text
            task += f"\n\nYou noted: {' '.join(seen.split())[:2000]}"
        said = self.answer_as(Proposals, f"{_SYSTEM}\n{_PROPOSE}", task)
        keys = {one.key for one in story.supernodes}
        told = {
            (claim.subject, claim.object, claim.direction)
            for sentence in story.sentences
            for claim in sentence.claims
        }
        asked: list[tuple[EffectProposed, str]] = []
        for one in said.proposals[: self.settings.proposals]:
            target = story.answer if one.effect.strip().casefold() == "answer" else one.effect
            known = one.cause in keys and target in {*keys, story.answer} - {one.cause}
            if not known or (one.action == "scale" and one.value == 1.0):
                claim = Claim("effect", one.cause, target, one.direction)
                draft.struck.append(
                    Struck(
                        Sentence(_one_line(one.says), (claim,), (), self.backend.name),
                        "nothing can be run for it: it needs two different things of the story",
                    )
                )
            elif (one.cause, target, one.direction) not in told:
                asked.append((one, target))
        wanted = [Wanted(one.cause, one.action, one.value, self.backend.name) for one, _ in asked]
        new = [one for one in dict.fromkeys(wanted) if self._run_of(draft, one) is None]
        draft.runs += self._measure(graph, replacement, draft, new)
        book = EvidenceBook(graph, story.supernodes, draft.runs, story.examples, story.looks)
        for (one, target), want in zip(asked, wanted, strict=True):
            run = self._run_of(draft, want)
            assert run is not None  # it was run just now, or before
            hypothesis = Hypothesis(one.cause, target, one.direction)
            plain = sentence_of(book, story, hypothesis, run, self.backend.name)
            own = replace(plain, text=_one_line(one.says))
            wrong = book.problem(plain)
            if wrong is not None:
                draft.struck.append(Struck(own if one.says else plain, wrong))
                continue
            # The claim holds; the words may still say something else.
            worded = book.problem(own) if one.says else "it says nothing"
            if worded is not None and one.says:
                draft.struck.append(Struck(own, worded))
            draft.more.append(plain if worded is not None else own)

    def _phrase(self, book: EvidenceBook, draft: _Draft, worded: list[Sentence]) -> None:
        """Let the model reword sentences, with the same claims and evidence."""
        if not worded:
            return
        task = "\n".join(f"{one.key}: {one.text}" for one in worded)
        said = self.answer_as(Wordings, f"{_SYSTEM}\n{_PHRASE}", task)
        place = {one.key: n for n, one in enumerate(worded)}
        for wording in said.sentences:
            n = place.pop(wording.key, None)
            if n is None:
                continue
            own = replace(worded[n], text=_one_line(wording.text), author=self.backend.name)
            wrong = book.problem(own)
            if wrong is None:
                worded[n] = own
            else:
                draft.struck.append(Struck(own, wrong))

    # ---- runs ------------------------------------------------------------------------------------

    def _measure(
        self,
        graph: AttributionGraph,
        replacement: CompleteReplacementModel,
        draft: _Draft,
        wanted: Sequence[Wanted],
    ) -> tuple[StoryRun, ...]:
        return measure(
            replacement,
            graph,
            draft.parts.supernodes,
            draft.parts.answer,
            wanted,
            self.settings.controls,
            self.settings.seed,
            len(draft.runs),
            self.ctx,
        )

    @staticmethod
    def _run_of(draft: _Draft, wanted: Wanted) -> Optional[StoryRun]:
        """The run that did what is wanted."""
        for run in draft.runs:
            edit = run.run.plan.edits[0]
            same = (run.subject, edit.action) == (wanted.subject, wanted.action)
            if same and (edit.action == "ablate" or edit.value == wanted.value):
                return run
        return None


def _shown_parts(graph: AttributionGraph, parts: CircuitParts) -> str:
    """What the model is told of a circuit: data, one thing a line."""
    answer = graph.node_tokens.get(graph.find(parts.answer), "?")
    lines = [
        f"Tokens of the prompt: {listed(graph.tokens[1:])}",
        f"The answer: “{shown(answer)}”",
        "Supernodes:",
    ]
    lines += [_shown_group(one) for one in parts.supernodes]
    lines.append("Ways from tokens to the answer:")
    for way in parts.ways[:8]:
        first = graph.tokens[int(graph.nodes.position[graph.find(way.stops[0])])]
        stops = (f"“{shown(first)}”", *way.stops[1:-1], f"“{shown(answer)}”")
        lines.append(EDGE.join(stops))
    return "\n".join(lines)


def _shown_group(one: StorySupernode) -> str:
    heard = listed(token for token, _ in one.hears) or "nothing much"
    return (
        f"{one.key} “{one.name}”: {len(one.nodes)} features at {listed(one.at)}; hears {heard}; "
        f"raises {listed(one.writes)}; lowers {listed(one.suppresses)}"
    )


def _shown_story(story: Story) -> str:
    return "\n".join(sentence.text for sentence in story.sentences)


def _one_line(text: str) -> str:
    return " ".join(text.split())[: MAX_TEXT + 1]
