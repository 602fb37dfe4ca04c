"""Reads queries into their tree, and says what is wrong with those that make no sense."""

from __future__ import annotations

import difflib
import math
import re
from typing import Optional, Union

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.query_language import (
    FIELDS,
    FLAGS,
    FUNCTIONS,
    OPERATORS_OF,
    Compare,
    Either,
    Every,
    Expression,
    Flag,
    Linked,
    Module,
    Named,
    NodeName,
    Not,
    Query,
    QueryError,
    QueryField,
    Span,
    Token,
    Words,
    field_called,
    tokens_of,
)
from attention_studio.core.sites import Site

MAX_LENGTH = 2_000
"""Characters of a query."""
MAX_DEPTH = 40
"""How deep brackets may be nested."""

_NUMBER = r"[+-]?(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?%?"
_SPAN = re.compile(rf"({_NUMBER})?\.\.({_NUMBER})?")
_MODULE = re.compile(r"([LA])([0-9]{1,4})", re.IGNORECASE)
_NODE = re.compile(
    r"[LA][0-9]{1,4}/P[0-9]{1,9}/error|P[0-9]{1,9}/(token|logit/[0-9-]{1,40})", re.IGNORECASE
)


def parse(text: str) -> Query:
    """Read a query as typed.

    Raises:
        QueryError: says what cannot be understood, and where it stands.
    """
    if len(text) > MAX_LENGTH:
        raise QueryError(
            "This query is too long", f"{len(text):,} characters, and {MAX_LENGTH:,} are read",
            "ask for less", MAX_LENGTH, len(text),
        )  # fmt: skip
    return Query(text, _Parser(text).read())


def _field_names() -> list[str]:
    return [name for entry in FIELDS for name in (entry.name, *entry.aliases)]


class _Parser:
    """Reads one query from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._at = 0
        self._depth = 0
        for token in self._tokens:
            if not token.closed:
                raise QueryError(
                    "A quotation mark has no partner", "the text after it has no end",
                    'put " behind the text', token.start, token.end,
                )  # fmt: skip

    def read(self) -> Expression:
        if not self._tokens:
            return Every()
        found = self._either()
        left = self._next()
        if left is not None:
            raise self._error(left, f"“{left.text}” has nothing to close", "take it out")
        return found

    # -- from the loosest to the tightest -------------------------------------------------------

    def _either(self) -> Expression:
        parts = [self._every()]
        while self._is_word("or"):
            self._at += 1
            parts.append(self._every())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _every(self) -> Expression:
        parts = [self._not()]
        while True:
            if self._is_word("and"):
                self._at += 1
            else:
                token = self._next()
                if token is None or token.kind == ")" or self._is_word("or"):
                    break
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _not(self) -> Expression:
        turns = 0
        while self._is_word("not") or self._is("!"):
            turns += 1
            self._at += 1
        found = self._part()
        return Not(found) if turns % 2 else found

    def _part(self) -> Expression:
        token = self._next()
        if token is None or token.kind == ")" or self._is_word("or", "and"):
            raise self._missing(token)
        self._at += 1
        if token.kind == "(":
            return self._inside(token)
        if token.kind in ("operator", ","):
            raise self._error(
                token, f"“{token.text}” has nothing before it", "put the name of a field there"
            )
        after = self._next()
        if token.kind == "word" and after is not None:
            if after.kind == "operator":
                return self._compare(token)
            if after.kind == "(" and token.text.casefold() in FUNCTIONS:
                self._at += 1
                return self._linked(token.text.casefold(), after)
        return self._single(token)

    def _inside(self, opened: Token) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(opened, "Brackets are nested too deep", "ask for something simpler")
        found = self._either()
        if not self._is(")"):
            raise self._error(opened, "A bracket is not closed", "put ) at its end")
        self._at += 1
        self._depth -= 1
        return found

    def _linked(self, function: str, opened: Token) -> Expression:
        inner = self._inside(opened)
        token = self._next()
        if token is None or token.kind != "operator":
            return Linked(function, inner)
        self._at += 1
        if function not in ("in", "out") or token.text not in OPERATORS_OF["share"][2:]:
            raise self._error(
                token, f"“{token.text}” cannot follow {function}(…)",
                "compare the edges of in(…) or out(…), as in in(#12)>5%",
            )  # fmt: skip
        value = self._value(token)
        return Linked(function, inner, token.text, self._number(value, value.text, percent=True))

    def _single(self, token: Token) -> Expression:
        word = token.text
        if token.kind == "string":
            return Words(word)
        if word.casefold() in FLAGS:
            return Flag(word.casefold())
        if word.startswith("#"):
            if not re.fullmatch("#[0-9]{1,18}", word):
                raise self._error(token, "# stands before a feature's number", "type #1043")
            return Compare("index", "=", (Span(float(word[1:]), float(word[1:])),))
        module = _MODULE.fullmatch(word)
        if module is not None:
            return Module(Site(int(module[2]), "attention" if module[1] in "Aa" else "mlp"))
        named = FeatureName.read(word) if "/" in word else None
        if named is not None:
            return Named(named)
        if _NODE.fullmatch(word):
            parts = (part.lower() if part.isalpha() else part.upper() for part in word.split("/"))
            return NodeName("/".join(parts))
        return Words(word)

    # -- comparisons ----------------------------------------------------------------------------

    def _compare(self, name: Token) -> Expression:
        entry = field_called(name.text)
        operator = self._tokens[self._at]
        if entry is None:
            near = difflib.get_close_matches(name.text.casefold(), _field_names(), 1)
            raise QueryError(
                f"There is no field “{name.text}”",
                "a query compares " + ", ".join(known.name for known in FIELDS),
                f"did you mean {near[0]}?" if near else "choose one of those",
                name.start, name.end,
            )  # fmt: skip
        if operator.text not in OPERATORS_OF[entry.kind]:
            raise self._error(
                operator, f"“{operator.text}” cannot be asked of {entry.name}",
                f"use one of {' '.join(OPERATORS_OF[entry.kind])}",
            )  # fmt: skip
        self._at += 1
        tokens = [self._value(operator)]
        while self._is(","):
            comma = self._tokens[self._at]
            self._at += 1
            tokens.append(self._value(comma))
        sign = operator.text
        if sign[0] in "<>" and len(tokens) > 1:
            raise self._error(tokens[1], f"“{sign}” compares with one number", "give one")
        found = Compare(
            entry.name,
            sign.lstrip("!"),
            tuple(self._read_value(entry, sign, token) for token in tokens),
        )
        return Not(found) if sign[0] == "!" else found

    def _value(self, before: Token) -> Token:
        token = self._next()
        if token is None or token.kind not in ("word", "string"):
            raise QueryError(
                f"“{before.text}” needs a value after it", "there is none",
                "type a number, a word or a text in quotes", before.start, before.end,
            )  # fmt: skip
        self._at += 1
        return token

    def _read_value(self, entry: QueryField, sign: str, token: Token) -> Union[Span, str]:
        word = token.text
        if entry.kind == "text" or sign in ("~", "!~"):
            if not word:
                raise self._error(token, "There is no text to look for", "type some")
            return word
        if entry.kind == "choice":
            if word.casefold() not in entry.choices:
                raise self._error(
                    token, f"No node has the {entry.name} “{word}”",
                    f"choose one of {', '.join(entry.choices)}",
                )  # fmt: skip
            return word.casefold()
        number = token.kind == "word" and re.fullmatch(rf"{_NUMBER}|{_SPAN.pattern}", word)
        if entry.kind == "position" and not number:
            if sign[0] in "<>":
                raise self._error(token, f"“{sign}” compares numbers", "give a position")
            return word
        percent = entry.kind == "share"
        span = _SPAN.fullmatch(word)
        if span is not None and (span[1] or span[2]) and sign in ("=", "!="):
            low = self._number(token, span[1], percent) if span[1] else -math.inf
            high = self._number(token, span[2], percent) if span[2] else math.inf
            # Positions below zero count from the end: which is which depends on the prompt.
            if low > high and (low < 0) == (high < 0):
                raise self._error(token, f"Nothing lies in {word}", "put the smaller one first")
            return Span(low, high)
        value = self._number(token, word, percent)
        return Span(value, value)

    def _number(self, token: Token, word: str, percent: bool) -> float:
        if token.kind == "string" or not re.fullmatch(_NUMBER, word):
            raise self._error(token, f"“{word}” is no number", "type one, such as 12 or 0.5")
        if word.endswith("%") and not percent:
            raise self._error(token, f"“{word}” is a share", "leave out the %")
        value = float(word.rstrip("%")) / (100.0 if word.endswith("%") else 1.0)
        if not math.isfinite(value):
            raise self._error(token, f"“{word}” is too large", "type a smaller number")
        return value

    # -- hands ------------------------------------------------------------------------------------

    def _next(self) -> Optional[Token]:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _is(self, kind: str) -> bool:
        token = self._next()
        return token is not None and token.kind == kind

    def _is_word(self, *words: str) -> bool:
        """Whether one of these key words comes next."""
        token = self._next()
        return token is not None and token.kind == "word" and token.text.casefold() in words

    def _missing(self, token: Optional[Token]) -> QueryError:
        start = len(self._text) if token is None else token.start
        end = start + 1 if token is None else token.end
        before = self._tokens[self._at - 1].text if self._at else ""
        return QueryError(
            "Something is missing here",
            f"nothing follows “{before}”" if before else "nothing stands before it",
            "type what nodes must have, such as layer>10", start, end,
        )  # fmt: skip

    @staticmethod
    def _error(token: Token, what: str, todo: str) -> QueryError:
        return QueryError(what, "", todo, token.start, token.end)
