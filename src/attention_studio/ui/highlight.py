"""What a view wants to be seen in the graph: one record that the link graph and the subgraph draw.

A path, the answer to a query, the difference of two graphs, edges that were verified: whoever found
it puts a ``Highlight`` into the session, and the drawing views emphasise what it names. Roles say
in which way; a view that draws them gives each role a colour and a second sign (dash, ring, mark),
since colour is never the only carrier of meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class Role(Enum):
    """In which way something is emphasised."""

    MARKED = "marked"
    """It is what was looked for: on the path, fits the query."""
    FIRST = "first"
    """Only in the first of two, or stronger there."""
    SECOND = "second"
    """Only in the second of two, or stronger there."""
    CONFIRMED = "confirmed"
    """Predicted and measured agree."""
    REFUTED = "refuted"
    """Predicted and measured do not agree."""


@dataclass(frozen=True)
class Highlight:
    """What is to be emphasised.

    Attributes:
        title: what it is, for the line above the graph: "3 strongest paths", "12 nodes match".
        nodes: name of a node to its role.
        edges: (name of the source, name of the target) to its role.
        dim_rest: whether everything else steps back.
    """

    title: str
    nodes: Mapping[str, Role] = field(default_factory=lambda: MappingProxyType({}))
    edges: Mapping[tuple[str, str], Role] = field(default_factory=lambda: MappingProxyType({}))
    dim_rest: bool = True
