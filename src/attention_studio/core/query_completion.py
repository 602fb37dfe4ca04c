"""What can be typed next in a query, and a page of examples.

Works on queries that are not finished, so it looks at the pieces before the cursor only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Optional

from attention_studio.core.query_language import (
    FIELDS,
    FLAGS,
    FUNCTIONS,
    OPERATORS,
    OPERATORS_OF,
    WORDS,
    QueryField,
    Token,
    field_called,
    quoted_value,
    tokens_of,
)

MAX_OPTIONS = 40

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("layer>10", "Features and errors of the layers above the tenth"),
    ("layer=3..8", "Layers three to eight; layer=3,5,8 names them"),
    ('pos="Dallas"', "Nodes at that token; pos=-1 are those at the last one"),
    ("label~city", "Nodes whose label holds “city”"),
    ("density<1%", "Features that are active at fewer than one token in a hundred"),
    ("influence>=0.5%", "Nodes that matter that much to the outputs"),
    ("kind=feature", "Features; the others are error, token and output"),
    ("#12 L3 A3/F7", "A feature's number, a module (A: attention), a feature by its name"),
    ("in(#12)", "What feeds feature 12; out(#12) is what it feeds"),
    ("in(kind=output)>5%", "What feeds an output by more than 5% of its input"),
    ("upstream(pinned)", "All that leads to pinned nodes, over any number of edges"),
    ("L3 or not pinned", "Parts side by side must all hold; or, not and brackets work too"),
    ("capital", "Any other word: nodes with text that holds it"),
)
"""Queries to start from, and what each finds."""


@dataclass(frozen=True)
class Known:
    """What a graph and its notes offer as values.

    ``tokens`` are the prompt's, ``labels`` and ``groups`` what the person calls features and
    supernodes.
    """

    tokens: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One thing that can be typed: what is put there, and what it means."""

    text: str
    help: str


@dataclass(frozen=True)
class Completion:
    """What can stand in place of the characters from ``start`` to ``end``."""

    start: int
    end: int
    options: tuple[Option, ...] = field(default_factory=tuple)


def complete(text: str, cursor: int, known: Known) -> Completion:
    """What can be typed at a place of a query, the likeliest first; never fails.

    A word that the cursor stands in or behind is what is completed.
    """
    cursor = max(0, min(cursor, len(text)))
    # Far back nothing matters: what is looked at stays short however long the text is.
    before = tokens_of(text[max(0, cursor - 500) : cursor])
    word = ""
    start = cursor
    if before and before[-1].kind in ("word", "string") and _touches(before[-1], text, cursor):
        last = before.pop()
        word, start = last.text, cursor - (last.end - last.start)
    compared = _compared(before)
    if compared is not None:
        return Completion(start, cursor, _fitting(_values(compared, known), word))
    if before and before[-1].kind in ("operator", ","):
        return Completion(cursor, cursor)
    found = field_called(word)
    if found is not None and start < cursor:
        signs = [Option(sign, OPERATORS[sign]) for sign in OPERATORS_OF[found.kind]]
        return Completion(cursor, cursor, tuple(signs))
    return Completion(start, cursor, _fitting(_beginnings(), word))


def _touches(last: Token, text: str, cursor: int) -> bool:
    """Whether the last piece reaches up to the cursor: nothing but it stands between."""
    return not text[cursor - 1].isspace() or (last.kind == "string" and not last.closed)


def _compared(before: list[Token]) -> Optional[QueryField]:
    """The field whose value is to be typed next, if one is."""
    at = len(before) - 1
    while at >= 1 and before[at].kind == "," and before[at - 1].kind in ("word", "string"):
        at -= 2
    if at >= 1 and before[at].kind == "operator" and before[at - 1].kind == "word":
        return field_called(before[at - 1].text)
    return None


def _values(entry: QueryField, known: Known) -> list[Option]:
    if entry.kind == "choice":
        return [Option(word, entry.help) for word in entry.choices]
    offered: Iterable[tuple[str, str]] = ()
    if entry.name == "pos":
        offered = ((token, f"Position {place}") for place, token in enumerate(known.tokens))
    elif entry.name == "label":
        offered = ((label, "Label") for label in known.labels)
    elif entry.name == "group":
        offered = ((group, "Supernode") for group in known.groups)
    named: dict[str, str] = {}
    for value, what in offered:
        stripped = value.strip()
        if stripped and stripped.isprintable():
            named.setdefault(quoted_value(stripped), what)
    return [Option(value, what) for value, what in named.items()]


def _beginnings() -> list[Option]:
    return [
        *(Option(entry.name, entry.help) for entry in FIELDS),
        *(Option(flag, what) for flag, what in FLAGS.items()),
        *(Option(f"{name}(", what) for name, what in FUNCTIONS.items()),
        *(Option(name, what) for name, what in WORDS.items()),
    ]


def _fitting(options: list[Option], word: str) -> tuple[Option, ...]:
    """Those that begin with what was typed, then those that hold it."""
    wanted = word.casefold()

    def plain(option: Option) -> str:
        return option.text.strip('"').casefold()

    first = [option for option in options if plain(option).startswith(wanted)]
    then = [option for option in options if wanted in plain(option) and option not in first]
    return tuple((*first, *then)[:MAX_OPTIONS])
