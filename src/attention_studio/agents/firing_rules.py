"""When a feature fires, as a rule that code can apply to tokens and say in words.

A rule is what the deterministic explainer finds and what the deterministic judge applies. It knows
no language: tokens, what stands before them, what was said earlier, what they look like. Texts are
parted by start tokens, and nothing before one counts as said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Optional

import numpy as np
from numpy.typing import NDArray

Shape = Literal["a number", "a capitalised word", "a word in small letters", "a sign"]
Repeats = Literal["the token", "the token before it"]
Floats = NDArray[np.float32]

BOUNDARIES = frozenset({"<|endoftext|>", "<s>", "</s>", "<bos>", "<eos>", "<|begin_of_text|>"})
"""Tokens that part texts, as the usual tokenizers write them."""
_SHOWN = 8
_SHAPES: dict[str, Callable[[str], bool]] = {
    "a number": str.isdecimal,
    "a capitalised word": lambda word: word[:1].isupper(),
    "a word in small letters": lambda word: word.isalpha() and word.islower(),
    "a sign": lambda word: bool(word) and not any(map(str.isalnum, word)),
}
SHAPES: tuple[Shape, ...] = (
    "a number",
    "a capitalised word",
    "a word in small letters",
    "a sign",
)


def has_shape(token: str, shape: Shape) -> bool:
    """Whether a token, without the space before it, looks like that."""
    return _SHAPES[shape](token.strip())


def text_starts(tokens: Sequence[str]) -> list[int]:
    """Of each token the first position of the text that it is in."""
    starts, start = [], 0
    for position, token in enumerate(tokens):
        if token in BOUNDARIES:
            start = position + 1
        starts.append(min(start, position))
    return starts


@dataclass(frozen=True)
class Earlier:
    """One of ``tokens`` was said among the ``within`` tokens before (0: in the text so far)."""

    tokens: tuple[str, ...]
    within: int = 0


@dataclass(frozen=True)
class Clause:
    """All of this holds where a feature fires; what is empty does not matter.

    Attributes:
        tokens: the token is one of these.
        before: the one right before it is one of these.
        earlier: each of these was said.
        shape: what the token looks like.
        repeats: the token, or the one before it, was said before in the text.
        followed: the one right after it is one of these. A feature cannot see what comes next; it
            may foretell it.
        level: how strongly the feature fires there, as a share of its largest activation.
        levels: the same by token, in the order of ``tokens``; () where only ``level`` is known.
    """

    tokens: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    earlier: tuple[Earlier, ...] = ()
    shape: Optional[Shape] = None
    repeats: Optional[Repeats] = None
    level: float = 1.0
    levels: tuple[float, ...] = ()
    followed: tuple[str, ...] = ()

    def matches(self, tokens: Sequence[str]) -> NDArray[np.bool_]:
        """[n] where it holds in a text."""
        found = np.zeros(len(tokens), dtype=bool)
        own, before = frozenset(self.tokens), frozenset(self.before)
        after = frozenset(self.followed)
        said = [(frozenset(one.tokens), one.within) for one in self.earlier]
        starts = text_starts(tokens)
        for position, token in enumerate(tokens):
            start = starts[position]
            if (own and token not in own) or token in BOUNDARIES:
                continue
            if before and (position == start or tokens[position - 1] not in before):
                continue
            if after and not after.intersection(tokens[position + 1 : position + 2]):
                continue
            if self.shape is not None and not has_shape(token, self.shape):
                continue
            if self.repeats == "the token" and token not in tokens[start:position]:
                continue
            if self.repeats == "the token before it" and (
                position == start or tokens[position - 1] not in tokens[start : position - 1]
            ):
                continue
            if all(
                wanted.intersection(
                    tokens[max(start, position - within) if within else start : position]
                )
                for wanted, within in said
            ):
                found[position] = True
        return found

    def activations(self, tokens: Sequence[str]) -> Floats:
        """[n] how strongly it says the feature fires, as shares of its largest activation."""
        by_token = dict(zip(self.tokens, self.levels, strict=False))
        found = self.matches(tokens)
        return np.array(
            [
                by_token.get(token, self.level) if on else 0.0
                for token, on in zip(tokens, found, strict=True)
            ],
            dtype=np.float32,
        )

    def words(self) -> str:
        """What it says, in words, quoting tokens."""
        if self.tokens:
            subject = quoted(self.tokens)
        else:
            subject = self.shape or ("any token" if self._limited() else "every token")
        parts = [subject]
        if self.before:
            parts.append(f"right after {quoted(self.before)}")
        if self.repeats is not None:
            parts.append(
                "said again"
                if self.repeats == "the token"
                else "after a token that was said before"
            )
        for one in self.earlier:
            near = f" in the last {one.within} tokens" if one.within else ""
            parts.append(f"with {quoted(one.tokens)} earlier{near}")
        if self.followed:
            parts.append(f"where {quoted(self.followed)} comes next")
        return " ".join(parts)

    @property
    def named(self) -> tuple[str, ...]:
        """The tokens that a person would say it is about: those that it holds on, or else those
        before or after them."""
        said = tuple(token for one in self.earlier for token in one.tokens)
        return self.tokens or self.before or self.followed or said

    def _limited(self) -> bool:
        return bool(self.before or self.earlier or self.repeats or self.followed)


@dataclass(frozen=True)
class FiringRule:
    """A feature fires where at least one clause holds. Without clauses it says nothing."""

    clauses: tuple[Clause, ...] = ()

    def matches(self, tokens: Sequence[str]) -> NDArray[np.bool_]:
        """[n] where it says that the feature fires."""
        found = np.zeros(len(tokens), dtype=bool)
        for clause in self.clauses:
            found |= clause.matches(tokens)
        return found

    def activations(self, tokens: Sequence[str]) -> Floats:
        """[n] how strongly, as shares of the largest activation."""
        found = np.zeros(len(tokens), dtype=np.float32)
        for clause in self.clauses:
            np.maximum(found, clause.activations(tokens), out=found)
        return found

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens that it says the feature fires on, those of the first clause first."""
        return tuple(dict.fromkeys(token for clause in self.clauses for token in clause.tokens))

    def words(self) -> str:
        """What it says, in words."""
        return "; or ".join(clause.words() for clause in self.clauses)


def quoted(tokens: Sequence[str], shown: int = _SHOWN) -> str:
    """Tokens as a person reads them: quoted, the space before them kept, some of many."""
    named = ", ".join(f"'{printable(token)}'" for token in tokens[:shown])
    more = len(tokens) - shown
    return f"{named} and {more} more" if more > 0 else named


def printable(token: str) -> str:
    """A token on one line: control characters as escapes, everything else as it is."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in token
    )


# ---- rules out of words ------------------------------------------------------------------------

_QUOTED = re.compile(r"'([^'\n]{1,40})'|\"([^\"\n]{1,40})\"|`([^`\n]{1,40})`|“([^”\n]{1,40})”")
_AFTER = re.compile(r"\b(?:after|following|follows|preceded by)\b[^.;]{0,24}$", re.IGNORECASE)
_EARLIER = re.compile(r"\b(?:earlier|mentioned|context of|contain\w*|with)\b[^.;]{0,24}$", re.I)
_NEXT = re.compile(
    r"\b(?:right before|followed by|predict\w*|foretells?|next (?:token|word) is)\b[^.;]{0,24}$",
    re.I,
)
_WORD = re.compile(r"[^\W_]+")
_EMPTY_WORDS = frozenset(
    """a about activates activation active after all also an and any are as at be because been
    before begin being both but by can common concept context contexts describe described
    different do does each earlier example examples feature features fire fires firing first
    following for found from has have in indicate indicates indicating into is it its language
    last like likely mention mentioned mentions model more most name names next no not of often
    on one or other pattern phrase phrases preceded predict predicts presence promotes raises
    refer reference references related right sentence sentences set several some specific such
    term terms text texts that the their them then there these they this to token tokens type
    use used uses usually various very was were what when where which with word words""".split()
)


def named_tokens(words: str) -> list[str]:
    """What is quoted in an explanation."""
    return [next(group for group in match.groups() if group) for match in _QUOTED.finditer(words)]


def rule_from_words(words: str, vocabulary: Sequence[str]) -> Optional[FiringRule]:
    """Read a rule out of an explanation that has none of its own, as plainly as code can.

    Quoted tokens are what the feature fires on; those behind "after" stand right before it, those
    behind "right before" or "predicts" right after it, those behind "earlier" or "with" were said.
    Where nothing is quoted, the words of the explanation that are words of the text count, but for
    the commonest. What an explanation means beyond the tokens that it names is lost here; a model
    that reads can do better.

    Args:
        words: the explanation.
        vocabulary: tokens that there are; a quoted word means all tokens that read like it but for
            spaces, and if there are none but for small and capital letters.

    Returns:
        None: no token is named.
    """
    known: dict[str, list[str]] = {}
    exact: dict[str, list[str]] = {}
    for token in dict.fromkeys(vocabulary):
        exact.setdefault(token.strip(), []).append(token)
        known.setdefault(token.strip().casefold(), []).append(token)
    own: list[str] = []
    before: list[str] = []
    followed: list[str] = []
    earlier: list[str] = []
    for match in _QUOTED.finditer(words):
        piece = next(group for group in match.groups() if group is not None)
        # As it is written, if there is such a token; else however it is written.
        meant = exact.get(piece.strip()) or known.get(piece.strip().casefold(), [])
        lead = words[max(0, match.start() - 40) : match.start()]
        if _NEXT.search(lead):
            followed += meant
        elif _AFTER.search(lead):
            before += meant
        elif _EARLIER.search(lead):
            earlier += meant
        else:
            own += meant
    if not (own or before or followed or earlier):
        plain = [word.casefold() for word in _WORD.findall(words)]
        own = [t for word in plain if word not in _EMPTY_WORDS for t in known.get(word, [])]
    if not (own or before or followed or earlier):
        return None
    return FiringRule(
        (
            Clause(
                tokens=tuple(dict.fromkeys(own)),
                before=tuple(dict.fromkeys(before)),
                earlier=(Earlier(tuple(dict.fromkeys(earlier))),) if earlier else (),
                followed=tuple(dict.fromkeys(followed)),
            ),
        )
    )
