"""How the nodes and edges of two graphs differ, in a word each, and what the graph shows of it."""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.difference_records import moved
from attention_studio.ui.highlight import Highlight, Role

if TYPE_CHECKING:
    from attention_studio.ui.work_comparing import Compared

MOST_EDGES = 60
"""Edges that are emphasised in the graph: all of them would be one dark cloud."""


class Which(Enum):
    """Which rows are listed."""

    DIFFERENT = "different"
    FIRST = "first"
    SECOND = "second"
    CHANGED = "changed"
    ALL = "all"


_ONLY, _MORE = "only in {}", "more in {}"
WORDS = ("alike", _MORE.format(1), _MORE.format(2), _ONLY.format(1), _ONLY.format(2))
"""By ``states``."""
ALIKE, MORE_FIRST, MORE_SECOND, ONLY_FIRST, ONLY_SECOND = range(5)
ROLES = (None, Role.FIRST, Role.SECOND, Role.FIRST, Role.SECOND)


def states(
    presence: NDArray[np.int8], values: NDArray[np.float64], tolerance: float
) -> NDArray[np.int64]:
    """[n] how each thing differs: a place in ``WORDS``.

    Args:
        presence: [n] of ``difference_records.Presence``.
        values: [n, 2] in either graph.
        tolerance: share of the larger value up to which two are alike.
    """
    larger = moved(values, tolerance).astype(np.int64)
    alone = presence.astype(np.int64)
    return np.where(alone > 0, alone + 2, larger)


def listed(state: NDArray[np.int64], which: Which) -> NDArray[np.int64]:
    """Which things a table lists."""
    wanted = {
        Which.DIFFERENT: state != ALIKE,
        Which.FIRST: state == ONLY_FIRST,
        Which.SECOND: state == ONLY_SECOND,
        Which.CHANGED: (state == MORE_FIRST) | (state == MORE_SECOND),
        Which.ALL: np.ones(len(state), dtype=bool),
    }
    return np.flatnonzero(wanted[which]).astype(np.int64)


def difference_highlight(
    compared: Compared, nodes: NDArray[np.int64], edges: NDArray[np.int64]
) -> Optional[Highlight]:
    """What differs, for the views that draw the first graph; None where nothing does.

    What is in the second graph alone has no place there. Of the edges those are taken along which
    most more or less influence goes.

    Args:
        nodes, edges: of the compared ones how each differs, from ``states``.
    """
    graph, found = compared.first, compared.difference
    names = {
        row: graph.node_name(int(node)) for row, node in enumerate(found.nodes.first) if node >= 0
    }
    shown = {names[row]: role for row, role in _roles(nodes) if row in names}
    drawn: dict[tuple[str, str], Role] = {}
    for row, role in _roles(edges):
        ends = int(found.edges.source[row]), int(found.edges.target[row])
        if ends[0] in names and ends[1] in names:
            drawn[names[ends[0]], names[ends[1]]] = role
        if len(drawn) >= MOST_EDGES:
            break
    if not shown and not drawn:
        return None
    title = f"Compared with “{compared.second.graph.prompt}”"
    return Highlight(title, MappingProxyType(shown), MappingProxyType(drawn))


def _roles(state: NDArray[np.int64]) -> list[tuple[int, Role]]:
    found = ((row, ROLES[int(place)]) for row, place in enumerate(state))
    return [(row, role) for row, role in found if role is not None]
