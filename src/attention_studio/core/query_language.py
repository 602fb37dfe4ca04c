"""The language that people ask for nodes of a graph in: ``layer>10 pos="Dallas" in(#12)``.

``core.query_parsing`` reads a query into a small tree, ``core.node_query`` says which nodes it
means. What can be asked:

========================== ====================================================================
``layer>10``               a number: ``= != < <= > >=``, several ``3,5`` and spans ``3..8``
``density<1%``             a share, with ``%`` or without
``pos="Dallas"``, ``pos=5`` the token at the node's position, or the position; ``-1`` is the last
``label~city``             text that holds ``city``, capitals or not; ``!~`` does not; ``=`` is all
``kind=output``            one of a few words
``#12``, ``L3``, ``A3/F7`` a feature's number, a module, a name
``pinned``                 something that holds or not
``in(…)``, ``out(…)``      what feeds the nodes of another query, what they feed
``in(…)>5%``               by an edge of more than that share of its target's input
``upstream(…)``            what feeds them over any number of edges; ``downstream`` the other way
``paris``                  any other word: text about the node that holds it
========================== ====================================================================

Parts side by side must all hold; ``or``, ``not`` (or ``!``) and brackets do as one expects, and
``or`` binds less than what stands side by side. Knows neither Qt nor torch nor numpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Optional, Union

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError

FieldKind = Literal["number", "share", "position", "text", "choice"]


class QueryError(StudioError):
    """A query that cannot be read.

    ``start`` and ``end`` say which of its characters are to blame.
    """

    def __init__(self, what: str, why: str, todo: str, start: int, end: int) -> None:
        super().__init__(what, why, todo)
        self.start = start
        self.end = max(end, start + 1)

    def __reduce__(self) -> tuple[type[QueryError], tuple[object, ...]]:
        return (type(self), (self.what, self.why, self.todo, self.start, self.end))

    @property
    def column(self) -> int:
        """The first character to blame, counted from 1."""
        return self.start + 1


@dataclass(frozen=True)
class QueryField:
    """Something that a node has and a query can compare.

    ``choices`` are the words that can be given, where there are only a few.
    """

    name: str
    kind: FieldKind
    help: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


FIELDS: tuple[QueryField, ...] = (
    QueryField("layer", "number", "Layer of a feature or an error, from 0"),
    QueryField("pos", "position", "Token at the node's position, or the position; -1 is the last",
               ("position", "token")),
    QueryField("label", "text", "Your label, or what the studio calls the node"),
    QueryField("density", "share", "Share of tokens at which the feature is active over a text"),
    QueryField("influence", "share", "Influence on the outputs"),
    QueryField("activation", "number", "How strongly the feature fires", ("act",)),
    QueryField("probability", "share", "Probability of an output", ("prob",)),
    QueryField("index", "number", "Number of the feature in its dictionary", ("feature",)),
    QueryField("inputs", "number", "How many edges lead into the node"),
    QueryField("outputs", "number", "How many edges lead out of the node"),
    QueryField("kind", "choice", "What the node is",
               choices=("feature", "error", "token", "output")),
    QueryField("module", "choice", "What the dictionary stands in for", ("site",),
               choices=("attention", "mlp")),
    QueryField("group", "text", "Name of the supernode that holds the node", ("supernode",)),
    QueryField("remark", "text", "What you wrote about the node"),
    QueryField("name", "text", "Name of the node, such as L12/P5/F1043"),
)  # fmt: skip
FLAGS: dict[str, str] = {
    "pinned": "Nodes that are pinned",
    "chosen": "Nodes that are chosen together",
    "selected": "The node that is selected",
    "shown": "Nodes that the thresholds leave",
    "labelled": "Features that you have given a label",
    "remarked": "Nodes that you have written about",
    "grouped": "Nodes in a supernode",
}
FUNCTIONS: dict[str, str] = {
    "in": "What feeds the nodes in the brackets",
    "out": "What the nodes in the brackets feed",
    "upstream": "All that leads to the nodes in the brackets",
    "downstream": "All that the nodes in the brackets lead to",
}
WORDS: dict[str, str] = {
    "or": "One of both must hold",
    "and": "Both must hold, as if it were left out",
    "not": "What follows must not hold",
}
OPERATORS: dict[str, str] = {
    "=": "is", "!=": "is not", "<": "is less than", "<=": "is at most", ">": "is more than",
    ">=": "is at least", "~": "holds the text", "!~": "does not hold the text",
}  # fmt: skip
OPERATORS_OF: dict[FieldKind, tuple[str, ...]] = {
    "number": ("=", "!=", "<", "<=", ">", ">="),
    "share": ("=", "!=", "<", "<=", ">", ">="),
    "position": ("=", "!=", "<", "<=", ">", ">=", "~", "!~"),
    "text": ("=", "!=", "~", "!~"),
    "choice": ("=", "!="),
}
_BY_NAME = {name: entry for entry in FIELDS for name in (entry.name, *entry.aliases)}


def field_called(word: str) -> Optional[QueryField]:
    """The field of that name or alias, in capitals or not."""
    return _BY_NAME.get(word.casefold())


# ---- the tree -----------------------------------------------------------------------------------


class Span(NamedTuple):
    """Numbers from ``low`` to ``high``, both among them."""

    low: float
    high: float


@dataclass(frozen=True)
class Every:
    """All of several must hold (all nodes, where there are none)."""

    parts: tuple[Expression, ...] = ()


@dataclass(frozen=True)
class Either:
    """One of several must hold."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Not:
    """Something must not hold."""

    part: Expression


@dataclass(frozen=True)
class Compare:
    """A field against values, one of which must fit. ``operator`` is one of ``OPERATORS`` that says
    something positive: ``!=`` and ``!~`` are read as ``Not``."""

    field: str
    operator: str
    values: tuple[Union[Span, str], ...]


@dataclass(frozen=True)
class Flag:
    """One of ``FLAGS``."""

    name: str


@dataclass(frozen=True)
class Module:
    """Features and errors of one module: ``L3``, ``A3``."""

    site: Site


@dataclass(frozen=True)
class Named:
    """A feature, at a position or wherever it is."""

    name: FeatureName


@dataclass(frozen=True)
class NodeName:
    """The node of that name."""

    name: str


@dataclass(frozen=True)
class Words:
    """Some text about the node holds this."""

    text: str


@dataclass(frozen=True)
class Linked:
    """``function`` (one of ``FUNCTIONS``) of the nodes that ``inner`` means; with ``operator`` the
    strongest |share| of those edges is compared with ``bound``."""

    function: str
    inner: Expression
    operator: str = ""
    bound: float = 0.0


Expression = Union[Every, Either, Not, Compare, Flag, Module, Named, NodeName, Words, Linked]


@dataclass(frozen=True)
class Query:
    """A query as typed, and what it says."""

    text: str
    root: Expression = field(default_factory=Every)

    @property
    def everything(self) -> bool:
        """Whether nothing is asked, so that every node fits."""
        return self.root == Every()

    def parts(self) -> Iterator[Expression]:
        """All parts of the tree."""
        left: list[Expression] = [self.root]
        while left:
            part = left.pop()
            yield part
            if isinstance(part, (Every, Either)):
                left.extend(part.parts)
            elif isinstance(part, Not):
                left.append(part.part)
            elif isinstance(part, Linked):
                left.append(part.inner)

    def asks(self, name: str) -> bool:
        """Whether it compares the field of that name."""
        return any(isinstance(part, Compare) and part.field == name for part in self.parts())


# ---- tokens -------------------------------------------------------------------------------------


class Token(NamedTuple):
    """A piece of a query: "word", "string", "operator", "(", ")", "," or "!".

    ``text`` is without quotes; ``closed`` is False for a string that has no end yet.
    """

    kind: str
    text: str
    start: int
    end: int
    closed: bool = True


_QUOTES = '"“”'
_TOKEN = re.compile(
    rf"""\s+
    | (?P<string>[{_QUOTES}](?:\\.|[^\\{_QUOTES}])*(?P<close>[{_QUOTES}])?)
    | (?P<operator>!=|!~|<=|>=|==|[=<>~])
    | (?P<mark>[(),!])
    | (?P<word>[^\s(),!=<>~{_QUOTES}]+)
    | (?P<lost>.)""",
    re.VERBOSE | re.DOTALL,
)


def tokens_of(text: str) -> list[Token]:
    """The pieces of a query, whether or not they make sense together."""
    found = []
    for match in _TOKEN.finditer(text):
        kind, start, end = match.lastgroup, match.start(), match.end()
        if kind in ("string", "close"):
            closed = match["close"] is not None
            inner = match["string"][1 : -1 if closed else None]
            found.append(Token("string", re.sub(r"\\(.)", r"\1", inner), start, end, closed))
        elif kind == "operator":
            found.append(Token("operator", match[0].replace("==", "="), start, end))
        elif kind == "mark":
            found.append(Token(match[0], match[0], start, end))
        elif kind in ("word", "lost"):
            found.append(Token("word", match[0], start, end))
    return found


def quoted_value(text: str) -> str:
    """A text as it has to be typed: in quotes, where it would be read as something else."""
    plain = re.fullmatch(rf"[^\s(),!=<>~{_QUOTES}\\#%/.\d-][^\s(),!=<>~{_QUOTES}\\%/]*", text)
    if plain and text.casefold() not in {*_BY_NAME, *FLAGS, *FUNCTIONS, *WORDS}:
        return text
    return '"' + re.sub(rf"([\\{_QUOTES}])", r"\\\1", text) + '"'
