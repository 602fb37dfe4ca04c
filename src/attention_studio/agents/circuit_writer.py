"""Writes the story of a circuit without any language model: what the graph says, as sentences, and
what became of it when it was measured. It is what is used where there is no model, and the draft
that a model may reword."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional, get_args

from attention_studio.agents.circuit_looks import find_looks
from attention_studio.agents.circuit_measuring import Wanted, measure
from attention_studio.agents.circuit_parts import CircuitParts, CircuitSettings, find_parts
from attention_studio.agents.circuit_story import (
    EDGE,
    LEAST_LOG_ODDS,
    Claim,
    ClaimKind,
    Direction,
    Effect,
    Link,
    Sentence,
    Story,
    StoryLook,
    StoryRun,
    StorySupernode,
)
from attention_studio.agents.explanations import DETERMINISTIC, now
from attention_studio.agents.story_checks import EvidenceBook, check_story
from attention_studio.agents.story_words import listed, quote
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.core.replacement_model import CompleteReplacementModel

_TOKENS_EACH = 2
_FEEDS_EACH = 3
_WORDS = 3


@dataclass(frozen=True)
class Hypothesis:
    """That one thing raises or lowers another: keys of supernodes, or an output's node."""

    subject: str
    object: str
    direction: Direction


def tell_story(
    graph: AttributionGraph,
    replacement: Optional[CompleteReplacementModel] = None,
    settings: Optional[CircuitSettings] = None,
    *,
    pruned: Optional[PrunedGraph] = None,
    notes: Optional[GraphNotes] = None,
    store: Optional[FeatureStore] = None,
    ctx: Optional[WorkContext] = None,
) -> Story:
    """The story of a graph's circuit, with what the model refutes struck.

    Args:
        graph: the whole graph.
        replacement: what it was traced with; without it nothing is measured, and the story says
            what the graph says and no more.
        settings: what is told and how it is tested.
        pruned, notes, store: see ``find_parts``.
        ctx: progress and cancellation.

    Raises:
        StoryError: the graph explains no next token, or is of another model.
        Cancelled: through ``ctx``.
    """
    settings = settings or CircuitSettings()
    parts = find_parts(
        graph, settings, pruned=pruned, notes=notes, replacement=replacement, store=store, ctx=ctx
    )
    runs: tuple[StoryRun, ...] = ()
    looks: tuple[StoryLook, ...] = ()
    if replacement is not None:
        looks = find_looks(replacement, graph, parts.supernodes, settings.looks, ctx)
        runs = measure(
            replacement,
            graph,
            parts.supernodes,
            parts.answer,
            [Wanted(one.key, proposed_by=DETERMINISTIC) for one in parts.supernodes],
            settings.controls,
            settings.seed,
            ctx=ctx,
        )
    return write_story(graph, parts, runs, settings, looks)


def write_story(
    graph: AttributionGraph,
    parts: CircuitParts,
    runs: Sequence[StoryRun],
    settings: Optional[CircuitSettings] = None,
    looks: Sequence[StoryLook] = (),
) -> Story:
    """Sentences from parts, runs and looks, checked.

    Raises:
        StoryError: parts, runs or looks are not of this graph.
    """
    settings = settings or CircuitSettings()
    node = graph.find(parts.answer)
    text = graph.node_tokens.get(node, "?")
    story = Story(
        prompt=graph.prompt,
        model_name=graph.model_name,
        model_hash=graph.model_hash,
        crm_name=graph.crm_name,
        answer=parts.answer,
        answer_text=text,
        probability=float(graph.nodes.probability[node]),
        supernodes=parts.supernodes,
        ways=parts.ways[: settings.ways],
        runs=tuple(runs),
        examples=parts.examples,
        looks=tuple(looks),
        author=DETERMINISTIC,
        made_at=now(),
        notes=() if runs else ("Nothing was measured: this is what the graph says.",),
    )
    book = EvidenceBook(graph, story.supernodes, story.runs, story.examples, story.looks)
    sentences = [_answer(story), *_looks(book, story)]
    for one in story.supernodes:
        sentences += _from_tokens(book, one, parts.tokens, settings.least_share)
        sentences += _writes(one, graph.tokens[1:])
        sentences += _fires(book, one)
    for hypothesis in hypotheses(book, story, settings.least_share):
        sentences.append(sentence_of(book, story, hypothesis))
    return check_story(story, graph, _keyed(_ordered(story, sentences)))


def hypotheses(book: EvidenceBook, story: Story, least_share: float) -> list[Hypothesis]:
    """What the graph says of supernodes: which feed which, and which way each moves the answer.

    The latter is the linear model's total effect where it was worked out, else the direct edge.
    """
    found: list[Hypothesis] = []
    keys = [one.key for one in story.supernodes]
    for target in keys:
        shares = {source: book.share(source, target) for source in keys if source != target}
        strong = sorted(shares, key=lambda source: -abs(shares[source]))[:_FEEDS_EACH]
        found += [
            Hypothesis(source, target, _way(shares[source]))
            for source in strong
            if abs(shares[source]) >= least_share
        ]
    for key in keys:
        runs = book.runs_of(key)
        predicted = runs[0].predicted.get(story.answer) if runs else None
        if predicted is not None:
            if abs(predicted) >= LEAST_LOG_ODDS:
                # Taking it out is foretold to do this; it does the contrary.
                found.append(Hypothesis(key, story.answer, _way(-predicted)))
        elif abs(share := book.share(key, story.answer)) >= least_share:
            found.append(Hypothesis(key, story.answer, _way(share)))
    return found


def sentence_of(
    book: EvidenceBook,
    story: Story,
    hypothesis: Hypothesis,
    run: Optional[StoryRun] = None,
    author: str = DETERMINISTIC,
) -> Sentence:
    """A hypothesis as a sentence: with what was measured, or as what the graph says where nothing
    was. It says what the hypothesis says, whether that holds or not; the check finds out."""
    subject, target = hypothesis.subject, hypothesis.object
    runs = [run] if run is not None else book.runs_of(subject)
    effect = next(
        ((one, found) for one in runs if (found := book.effect(one, target)) is not None), None
    )
    links = [_link(book, subject), _link(book, target)]
    if effect is None:
        share = book.share(subject, target)
        text = (
            f"By the graph, {_called(book, subject)} {hypothesis.direction} "
            f"{_called(book, target)}: {100 * share:.1f}% of what that reads."
        )
        claim = Claim("feeds", subject, target, hypothesis.direction)
        links.append(Link("edge", f"{subject}{EDGE}{target}"))
        return Sentence(text, (claim,), tuple(links), author)
    which, found = effect
    links.append(Link("run", which.key))
    if book.share(subject, target):
        links.append(Link("edge", f"{subject}{EDGE}{target}"))
    claim = Claim("effect", subject, target, hypothesis.direction)
    text = _measured(book, hypothesis, which, found)
    return Sentence(text, (claim,), tuple(links), author)


def _measured(book: EvidenceBook, hypothesis: Hypothesis, run: StoryRun, effect: Effect) -> str:
    subject, target = hypothesis.subject, hypothesis.object
    less = effect.sense < 0
    # What it says would happen; a sentence that the figures do not bear out is struck.
    goes = "rises" if (hypothesis.direction == "lowers") is less else "falls"
    edit = run.run.plan.edits[0]
    if edit.action == "ablate":
        did = f"Without {_called(book, subject)}"
    elif less:
        did = f"With {_called(book, subject)} muted to {edit.value:g} times"
    else:
        did = f"With {edit.value:g} times {_called(book, subject)}"
    if target in book.supernodes:
        moved = f"{goes} to {100 * effect.shown[1]:.1f}% of its activity"
    else:
        before, after = (100 * level for level in effect.shown)
        moved = f"{goes} from {before:.2f}% to {after:.2f}%"
    ending = f": {subject} {hypothesis.direction} it." if less else "."
    return f"{did}, {_called(book, target)} {moved}{ending}"


def _answer(story: Story) -> Sentence:
    text = f"The model goes on with {quote(story.answer_text)}, at {100 * story.probability:.2f}%."
    claim = Claim("answer", story.answer, story.answer_text)
    return Sentence(text, (claim,), (Link("node", story.answer),), DETERMINISTIC)


def _from_tokens(
    book: EvidenceBook, group: StorySupernode, tokens: Sequence[str], least: float
) -> list[Sentence]:
    """What tokens give to a supernode straight."""
    shares = {name: book.share(name, group.key) for name in tokens}
    strong = sorted(shares, key=lambda name: -abs(shares[name]))[:_TOKENS_EACH]
    found = []
    for name in strong:
        if abs(shares[name]) < least:
            continue
        way, token = _way(shares[name]), book.token(name) or "?"
        text = (
            f"By the graph, the token {quote(token)} ({name}) {way} {_called(book, group.key)}: "
            f"{100 * shares[name]:.1f}% of what that reads."
        )
        claims = (Claim("token", name, token), Claim("feeds", name, group.key, way))
        links = (
            Link("node", name),
            Link("supernode", group.key),
            Link("edge", f"{name}{EDGE}{group.key}"),
        )
        found.append(Sentence(text, claims, links, DETERMINISTIC))
    return found


def _writes(group: StorySupernode, prompt: Sequence[str]) -> list[Sentence]:
    """What it raises, and which tokens of the prompt it lowers."""
    # What attention moves is mostly no token of the vocabulary.
    if all(name.startswith("A") for name in group.nodes):
        return []
    n = len(group.nodes)
    who = (
        f"{group.key} {quote(group.name)}, {n} {'feature' if n == 1 else 'features'} at "
        f"{listed(group.at)},"
    )
    lowered = [word for word in group.suppresses if word in prompt]
    sides: tuple[tuple[Direction, Sequence[str]], ...] = (
        ("raises", group.writes),
        ("lowers", lowered),
    )
    found = []
    for way, words in sides:
        told = words[:_WORDS]
        if told:
            text = f"{who} {way} {listed(told)} by what it writes."
            claims = tuple(Claim("writes", group.key, word, way) for word in told)
            found.append(Sentence(text, claims, (Link("supernode", group.key),), DETERMINISTIC))
    return found


def _looks(book: EvidenceBook, story: Story) -> list[Sentence]:
    """Where attention looked and which two words brought it there, each way once."""
    ways: dict[tuple[object, ...], StoryLook] = {}
    for one in story.looks:
        ways.setdefault((one.query, one.key, one.query_word, one.key_word), one)
    found = []
    for one in ways.values():
        at = f"P{one.key}/token"
        names = dict.fromkeys((at, f"P{one.query}/token", one.query_word, one.key_word))
        claims = (
            Claim("looks", one.supernode, at),
            Claim("matches", one.query_word, one.key_word),
            *(Claim("token", name, book.token(name) or "?") for name in names),
        )
        links = (
            Link("supernode", one.supernode),
            Link("look", one.feature),
            *(Link("node", name) for name in names),
        )
        found.append(Sentence(book.look_words(one), claims, links, DETERMINISTIC))
    return found


def _fires(book: EvidenceBook, group: StorySupernode) -> list[Sentence]:
    own = {name.split("/")[0] + "/" + name.split("/")[-1] for name in group.nodes}
    some = [one for one in book.examples.values() if one.feature in own and one.value > 0]
    tokens = list(dict.fromkeys(one.tokens[one.peak] for one in some))[:_WORDS]
    if not tokens:
        return []
    text = f"In the corpus {group.key} {quote(group.name)} fires on {listed(tokens)}."
    claims = tuple(Claim("fires", group.key, token) for token in tokens)
    links = (Link("supernode", group.key), *(Link("example", one.link) for one in some))
    return [Sentence(text, claims, links, DETERMINISTIC)]


def _ordered(story: Story, sentences: Sequence[Sentence]) -> list[Sentence]:
    """The answer, then each supernode with what leads to it, what it writes, and what it does."""
    keys = {one.key: place for place, one in enumerate(story.supernodes)}
    order = {kind: place for place, kind in enumerate(get_args(ClaimKind))}

    def place(sentence: Sentence) -> tuple[int, int]:
        claim = sentence.claims[0]
        about = claim.subject
        if claim.kind == "token":
            about = sentence.claims[-1].object
        return keys.get(about, -1), order[claim.kind]

    return sorted(sentences, key=place)


def _keyed(sentences: Sequence[Sentence]) -> list[Sentence]:
    return [replace(one, key=f"T{number}") for number, one in enumerate(sentences, 1)]


def _called(book: EvidenceBook, name: str) -> str:
    group = book.supernodes.get(name)
    if group is not None:
        return f"{group.key} {quote(group.name)}"
    token = book.token(name)
    return name if token is None else quote(token)


def _link(book: EvidenceBook, name: str) -> Link:
    return Link("supernode" if name in book.supernodes else "node", name)


def _way(signed: float) -> Direction:
    return "raises" if signed > 0 else "lowers"
