"""What features of the demo's model are known to stand for, by the grammar that told its text.

The grammar knows of every token which word it is, of what kind, what stands before it, whether it
was said before, what must follow and through what. Each of these is a *concept*: a set of places in
a text, known by construction. A feature is *known* if it fires at the places of a concept and
nearly nowhere else (``KNOWN_FIT``), on text that explanations are not made from. Nothing here looks
at explanations; whether one says the concept is decided by two rules that are fixed beforehand: it
picks out the same places (``agreement``), or its words name the concept (``Concept.named``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.corpus import TokenCorpus
from attention_studio.demo import words
from attention_studio.demo.samples import Sample
from attention_studio.demo.text import DemoText
from attention_studio.demo.tokenizer import START, piece_ids
from attention_studio.demo.world import RELATIONS, World

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

KNOWN_FIT = 0.8
"""Least balance of precision and recall (F1) at which a feature counts as known."""
LEAST_FIRED = 20
"""Least number of places, of the feature and of the concept."""
TRUTH_PART, TEXT_PART = 12, 11
"""Streams of the demo's text: the one that says what is known, and the one to explain from."""
_LENGTH = 128
_WORD = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")

FAMILIES = (
    "token",
    "kind of word",
    "after a token",
    "after a kind of word",
    "what must follow",
    "the word that follows",
    "unsaid",
    "said before",
    "said again",
    "inside signs",
    "task",
    "token in a task",
)
"""In order of simplicity: of concepts that fit equally well a feature has the first."""

_AFTER = frozenset("after follow follows following preceded behind before".split())
_NEXT = frozenset("next before predicts predict follows says raises likelier says".split())
_SAID = frozenset("earlier before said mentioned context contain contains with about".split())
_AGAIN = frozenset("again repeated repeats repeat repetition before twice earlier second".split())


@dataclass(frozen=True)
class Concept:
    """Something that the grammar knows of places in its text.

    Attributes:
        family: of ``FAMILIES``.
        name: in words.
        tokens: the pieces that it is about.
        lead: words one of which has to be there for its words to name it; empty: none needs to.
        words: other ways to name what it is about: all of these words.
    """

    family: str
    name: str
    tokens: frozenset[str]
    lead: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What somebody who knows says of a feature that stands for it, quoting tokens."""
        lead = ""
        if self.family.startswith("after"):
            lead = "right after "
        elif self.family in ("what must follow", "the word that follows", "unsaid"):
            lead = "right before "
        listed = ", ".join(f"{lead}'{token.strip()}'" for token in sorted(self.tokens))
        return f"Fires on tokens {listed}." if lead else f"Fires on {listed}."

    def named(self, said: str, tokens: Collection[str]) -> bool:
        """Whether an explanation names it.

        Args:
            said: the explanation.
            tokens: the tokens that it names.

        Its words have to be there; or the tokens that it names have to be mostly (two thirds) the
        concept's, and at least three of them, or all if there are fewer. And a word of ``lead``.
        """
        spoken = [word.casefold() for word in _WORD.findall(said)]
        heard = set(spoken) | {word.removesuffix("s") for word in spoken}
        if self.lead and not heard & self.lead:
            return False
        if self.words and all(word.casefold() in heard for word in self.words):
            return True
        own = {token.strip().casefold() for token in self.tokens}
        meant = {token.strip().casefold() for token in tokens}
        hit = len(own & meant)
        return hit >= min(3, len(own)) and 3 * hit >= 2 * len(meant) and hit > 0


@dataclass(frozen=True)
class Truth:
    """A text with the places of every concept in it.

    Attributes:
        corpus: the text.
        concepts: what there is.
        places: of each concept int64 ascending, ``row * seq_len + position``.
    """

    corpus: TokenCorpus
    concepts: tuple[Concept, ...]
    places: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class KnownFeature:
    """The concept that a feature stands for, and how well both go together (F1)."""

    concept: int
    fit: float


def demo_corpus(loaded: LoadedModel, tokens: int, part: int = TEXT_PART) -> TokenCorpus:
    """About so many tokens of the demo's own text, one of its endless streams."""
    return _told(loaded, tokens, part)[0]


def truth_of(loaded: LoadedModel, tokens: int, part: int = TRUTH_PART) -> Truth:
    """A text of the demo with the places of every concept in it."""
    corpus, samples = _told(loaded, tokens, part)
    kinds = word_kinds(DemoText(0).world)
    found: dict[Concept, list[int]] = {}
    made: dict[tuple[str, str], Concept] = {}
    for place, sample in samples:
        end = (place // _LENGTH + 1) * _LENGTH
        for index, key, make in concepts_of(sample, kinds):
            if place + index < end:
                concept = made.get(key)
                if concept is None:
                    concept = made.setdefault(key, make)
                found.setdefault(concept, []).append(place + index)
    kept = [concept for concept, where in found.items() if len(where) >= LEAST_FIRED]
    kept.sort(key=lambda concept: (FAMILIES.index(concept.family), concept.name))
    return Truth(corpus, tuple(kept), tuple(np.unique(found[concept]) for concept in kept))


def agreement(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """The balance of precision and recall (F1) of two sets of places, both ascending."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return 2 * both / max(len(one) + len(other), 1)


def known_feature(truth: Truth, where: NDArray[np.int64]) -> Optional[KnownFeature]:
    """The concept at whose places a feature fires (``where``, ascending), if there is one."""
    if len(where) < LEAST_FIRED:
        return None
    n = truth.corpus.tokens.size
    fires = np.zeros(n, dtype=bool)
    fires[where] = True
    best, fit = -1, 0.0
    for number, places in enumerate(truth.places):
        # Nothing fits well whose size is far from the feature's own.
        if not KNOWN_FIT / 2 <= len(places) / len(where) <= 2 / KNOWN_FIT:
            continue
        value = 2 * int(fires[places].sum()) / (len(places) + len(where))
        if value > fit + 1e-9:
            best, fit = number, value
    return KnownFeature(best, fit) if fit >= KNOWN_FIT else None


def word_kinds(world: World) -> Mapping[str, tuple[frozenset[str], tuple[str, ...]]]:
    """Kinds of words by name: the words, and how the kind is called in words."""
    kinds: dict[str, tuple[Collection[str], tuple[str, ...]]] = {
        "women": (words.WOMEN, ("women",)),
        "men": (words.MEN, ("men",)),
        "people": (words.PEOPLE, ("people",)),
        "surnames": (words.SURNAMES, ("surname",)),
        "places": (words.PLACES, ("place",)),
        "gifts": (words.GIFTS, ("gift",)),
        "verbs of giving": (words.GIVE_VERBS, ("verb", "giving")),
        "things": (words.THINGS, ("thing",)),
        "colours": (words.COLOURS, ("colour",)),
        "sizes": (words.SIZES, ("size",)),
        "looks": ((*words.COLOURS, *words.SIZES), ("colour", "size")),
        "verbs of losing": (words.LOSE_VERBS, ("verb", "losing")),
        "moods": (words.MOODS, ("mood",)),
        "things to wear": (words.WEARABLES, ("wear",)),
        "events": (words.EVENTS, ("event",)),
        "things counted": (words.COUNTED, ("counted",)),
        "words of sequences": (words.SEQUENCE_WORDS, ("sequence",)),
        "plural nouns": (tuple(words.PLURALS.values()), ("plural", "noun")),
        "singular nouns": ((*words.SUBJECTS, *words.ATTRACTORS), ("singular", "noun")),
        "links": (words.LINKS, ("preposition",)),
        "singular verbs": (words.SINGULAR_VERBS, ("singular", "verb")),
        "plural verbs": (words.PLURAL_VERBS, ("plural", "verb")),
        "opening signs": (tuple('([{"'), ("opening",)),
        "closing signs": (tuple(')]}"'), ("closing",)),
        "pronouns": ("she he her his".split(), ("pronoun",)),
        "cities": (world.cities, ("city",)),
        "regions": (tuple(world.named), ("region",)),
        "numbers": (tuple(str(n) for n in range(100)), ("number",)),
        "years": (tuple(f"{n:02d}" for n in range(100)), ("year",)),
    }
    for relation in RELATIONS:
        values = tuple(r.facts[relation] for r in world.regions if relation in r.facts)
        kinds[f"values of {relation}"] = (values, (relation,))
    for kind in ("state", "country", "land"):
        mine = [region for region in world.regions if region.kind == kind]
        kinds[f"names of a {kind}"] = (tuple(r.name for r in mine), (kind,))
        kinds[f"cities of a {kind}"] = (tuple(c for r in mine for c in r.cities), ("city", kind))
    for region in world.regions:
        kinds[f"cities of {region.name}"] = (region.cities, ("city", region.name))
        everything = (region.name, *region.cities, *region.facts.values())
        kinds[f"words of {region.name}"] = (everything, (region.name,))
    kinds["verbs of looks"] = (("painted", "made"), ("verb", "look"))
    kinds["relations"] = (RELATIONS, ("relation",))
    return {name: (frozenset(listed), called) for name, (listed, called) in kinds.items()}


# ---- the text ----------------------------------------------------------------------------------


def _told(
    loaded: LoadedModel, tokens: int, part: int
) -> tuple[TokenCorpus, list[tuple[int, Sample]]]:
    """Rows of text, and each sample with the place of its first piece."""
    ids = piece_ids(loaded.tokenizer)
    start = ids[START]
    stream = DemoText(0).stream(held_out=False, part=part)
    n_rows = max(-(-tokens // _LENGTH), 2)
    rows = np.full((n_rows, _LENGTH), start, dtype=np.int32)
    samples = []
    for row in range(n_rows):
        at = 1
        while at < _LENGTH:
            sample = next(stream)
            taken = [ids[piece] for piece in sample.pieces[: _LENGTH - at]]
            rows[row, at : at + len(taken)] = taken
            samples.append((row * _LENGTH + at, sample))
            at += len(sample.pieces) + 1  # a start token between texts
    lengths = np.full(n_rows, _LENGTH, dtype=np.int32)
    return TokenCorpus.of(rows, lengths, start), samples


def concepts_of(
    sample: Sample, kinds: Mapping[str, tuple[frozenset[str], tuple[str, ...]]]
) -> Iterator[tuple[int, tuple[str, str], Concept]]:
    """The places of every concept in a sample: index of the piece, (family, name), concept."""

    def concept(
        family: str,
        name: str,
        tokens: Collection[str],
        lead: frozenset[str] = frozenset(),
        called: tuple[str, ...] = (),
    ) -> tuple[tuple[str, str], Concept]:
        return (family, name), Concept(family, name, frozenset(tokens), lead, called)

    pieces = sample.pieces
    of_piece = [
        [name for name, (listed, _) in kinds.items() if piece.strip() in listed] for piece in pieces
    ]
    seen: set[str] = set()
    kinds_seen: set[str] = set()
    opened: list[str] = []
    task_words = {piece for piece in pieces if piece.strip().isalpha()}
    for index, piece in enumerate(pieces):
        yield (index, *concept("token", f"{piece!r}", [piece]))
        yield (index, *concept("task", sample.task, task_words, frozenset(), (sample.task,)))
        yield (
            index,
            *concept("token in a task", f"{piece!r} in {sample.task}", [piece]),
        )
        for name in of_piece[index]:
            listed, called = kinds[name]
            yield (index, *concept("kind of word", name, listed, frozenset(), called))
        if index:
            before = pieces[index - 1]
            yield (index, *concept("after a token", f"after {before!r}", [before], _AFTER))
            for name in of_piece[index - 1]:
                listed, called = kinds[name]
                yield (
                    index,
                    *concept("after a kind of word", f"after {name}", listed, _AFTER, called),
                )
            if before in seen:
                yield (
                    index,
                    *concept("said again", "after a word said before", [], _AGAIN, ("after",)),
                )
        for name in kinds_seen:
            listed, called = kinds[name]
            yield (index, *concept("said before", f"{name} before", listed, _SAID, called))
        if piece in seen:
            yield (index, *concept("said again", "a word said before", [], _AGAIN, ("said",)))
        if opened:
            sign = opened[-1]
            yield (index, *concept("inside signs", f"inside {sign}", [sign]))
        stripped = piece.strip()
        if stripped in '([{"' and not (stripped == '"' and opened and opened[-1] == '"'):
            opened.append(stripped)
        elif opened and stripped in ')]}"':
            opened.pop()
        if index:
            seen.add(pieces[index - 1])
        kinds_seen.update(of_piece[index])
    for answer in sample.answers:
        index = answer.position - 2  # pieces count from 0, positions from 1, and it is foretold
        if index < 0:
            continue
        role = answer.steps[-1].role
        piece = sample.piece_at(answer.position)
        yield (
            index,
            *concept(
                "what must follow",
                f"a {role} must follow ({answer.task})",
                answer.allowed,
                _NEXT,
                tuple(role.split()),
            ),
        )
        yield (index, *concept("the word that follows", f"{piece!r} follows", [piece], _NEXT))
        for step in answer.steps:
            if step.position is None:
                listed = kinds.get(f"words of {step.value}", (frozenset((step.value,)), ()))[0]
                yield (
                    index,
                    *concept(
                        "unsaid",
                        f"{step.role} {step.value}",
                        listed,
                        frozenset(),
                        (step.value,),
                    ),
                )
