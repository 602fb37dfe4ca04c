"""What the subgraph shows, as plain records and numpy arrays. Knows no Qt.

A ``SubgraphScene`` is one picture: boxes with their words, sizes and places, and the links that are
drawn. The dock makes a new one for every change; places come from the layout optimizer, from a
person's hand, or from somewhere between two layouts while the picture moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Optional

import numpy as np

from attention_studio.core.graph_layout import LayoutConnections, LayoutElements
from attention_studio.core.layout_geometry import line_ends, spread_ends
from attention_studio.core.subgraph import row_levels
from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.graph_scene import (
    EMBEDDING,
    ERROR,
    FEATURE,
    LOGIT,
    Bools,
    Direction,
    Floats,
    Ints,
    quoted,
)

if TYPE_CHECKING:
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.core.subgraph import Subgraph

# From this share of the target's input on, links are drawn at first.
LEAST_SHARE = 0.02
# However little a link's share may be, no more than so many are drawn, the strongest.
MAX_LINKS = 400
# So many members of a supernode are drawn as signs in its box.
MAX_SIGNS = 12


@dataclass(frozen=True)
class BoxWords:
    """What a box says: a title, a smaller line below, and the kinds of its nodes."""

    title: str
    detail: str
    kinds: tuple[int, ...]


@dataclass(frozen=True)
class SubgraphScene:
    """Boxes and links.

    Attributes:
        subgraph: what is shown.
        words: [n] what the boxes say.
        links: indices of the subgraph's edges that are drawn, weakest first.
        width, height: [n] of the boxes.
        x, y: [n] their centres.
        placed: [n] which were put there by hand.
    """

    subgraph: Subgraph
    words: tuple[BoxWords, ...]
    links: Ints
    width: Floats
    height: Floats
    x: Floats
    y: Floats
    placed: Bools

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """[n] keys of the boxes."""
        return tuple(box.key for box in self.subgraph.boxes)

    @cached_property
    def source(self) -> Ints:
        """Boxes that the drawn links leave."""
        return self.subgraph.source[self.links]

    @cached_property
    def target(self) -> Ints:
        """Boxes that the drawn links arrive at."""
        return self.subgraph.target[self.links]

    @cached_property
    def share(self) -> Floats:
        """Signed shares of the drawn links."""
        return self.subgraph.share[self.links]

    @cached_property
    def ends(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Where the drawn links begin and end: x and y of both."""
        boxes = (self.x, self.y, self.width, self.height)
        return spread_ends(
            line_ends(*boxes, self.source, self.target), boxes, self.source, self.target
        )

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of all boxes; zeros without any."""
        if not len(self):
            return 0.0, 0.0, 0.0, 0.0
        return (
            float((self.x - self.width / 2).min()),
            float((self.y - self.height / 2).min()),
            float((self.x + self.width / 2).max()),
            float((self.y + self.height / 2).max()),
        )

    def at(self, x: Floats, y: Floats) -> SubgraphScene:
        """The same picture with its boxes elsewhere."""
        return replace(self, x=x, y=y)

    def hit(self, at_x: float, at_y: float) -> Optional[int]:
        """The box under a point, the last drawn first; None where there is none."""
        inside = (np.abs(self.x - at_x) <= self.width / 2) & (
            np.abs(self.y - at_y) <= self.height / 2
        )
        found = np.flatnonzero(inside)
        return int(found[-1]) if len(found) else None

    def inside(self, left: float, top: float, right: float, bottom: float) -> Ints:
        """The boxes whose middle lies in a rectangle."""
        wide = (self.x >= left) & (self.x <= right)
        return np.flatnonzero(wide & (self.y >= top) & (self.y <= bottom))

    def touching(self, box: int) -> Ints:
        """Which of the drawn links begin or end at a box."""
        return np.flatnonzero((self.source == box) | (self.target == box))

    def step(self, start: Optional[int], direction: Direction) -> Optional[int]:
        """Where an arrow key leads from a box: to the nearest one in that direction, looking twice
        as far ahead as aside; from nowhere to the uppermost."""
        if not len(self):
            return None
        if start is None:
            return int(np.lexsort((self.x, self.y))[0])
        dx, dy = self.x - self.x[start], self.y - self.y[start]
        ahead, aside = {
            Direction.LEFT: (-dx, dy),
            Direction.RIGHT: (dx, dy),
            Direction.UP: (-dy, dx),
            Direction.DOWN: (dy, dx),
        }[direction]
        cost = np.where(ahead > 1.0, ahead + 2.0 * np.abs(aside), np.inf)
        best = int(np.argmin(cost))
        return best if np.isfinite(cost[best]) else start

    def describe(self, box: int) -> str:
        """A box in one line of plain text, for screen readers and tooltips."""
        words, held = self.words[box], self.subgraph.boxes[box]
        parts = [words.detail]
        heard = float(self.subgraph.heard[box])
        if not np.isnan(heard):
            parts.append(f"{percent(min(1.0, heard))} of its input comes from boxes shown")
        if self.placed[box]:
            parts.append("placed by hand")
        kind = "Supernode " if held.is_group else ""
        return f"{kind}{words.title}: {', '.join(parts)}"

    def facts(self, box: int) -> list[str]:
        """What the card under the pointer says, line by line."""
        graph, held = self.subgraph.graph, self.subgraph.boxes[box]
        lines = [self.words[box].title, self.words[box].detail]
        if held.is_group:
            shown = [
                f"{label} ({graph.node_name(node)})" if label else graph.label(node)
                for node, label in islice(zip(held.nodes, held.labels, strict=True), MAX_SIGNS)
            ]
            lines += [visible_token(line, spaces=False) for line in shown]
            if len(held.nodes) > MAX_SIGNS:
                lines.append(f"and {len(held.nodes) - MAX_SIGNS} more")
        else:
            lines.append(graph.node_name(held.nodes[0]))
        if LOGIT not in self.words[box].kinds:
            lines.append(f"Influence {float(graph.influence[list(held.nodes)].sum()):.1%}")
        heard = float(self.subgraph.heard[box])
        if not np.isnan(heard):
            lines.append(f"{percent(min(1.0, heard))} of its input comes from boxes shown")
        if self.placed[box]:
            lines.append("Placed by hand")
        return lines


def words_of(subgraph: Subgraph) -> tuple[BoxWords, ...]:
    """What the boxes of a subgraph say."""
    return tuple(
        _group_words(subgraph, number) if box.is_group else _node_words(subgraph, number)
        for number, box in enumerate(subgraph.boxes)
    )


def _node_words(subgraph: Subgraph, number: int) -> BoxWords:
    graph, box = subgraph.graph, subgraph.boxes[number]
    node = box.nodes[0]
    kind, site = int(graph.nodes.kind[node]), graph.nodes.site(node)
    position = int(graph.nodes.position[node])
    text = visible_token(graph.node_tokens.get(node, "?"))
    if kind == EMBEDDING:
        return BoxWords(f"“{text}”", f"Token {position}", (kind,))
    if kind == LOGIT:
        share = float(graph.nodes.probability[node])
        return BoxWords(f"“{text}”", f"Output, {share:.1%}" if share else "Output", (kind,))
    where = quoted(graph.tokens[position])
    module = "" if site is None else site.label
    if kind == ERROR:
        return BoxWords(box.name or "Not explained", f"{module} at {where}", (kind,))
    index = int(graph.nodes.index[node])
    promoted = visible_token(graph.captions.get(node, ""), spaces=False)
    title = box.name or (promoted if promoted.strip("␣ ") else f"#{index}")
    return BoxWords(title, f"{module} #{index} at {where}", (kind,))


def _group_words(subgraph: Subgraph, number: int) -> BoxWords:
    graph, box = subgraph.graph, subgraph.boxes[number]
    kinds = tuple(int(graph.nodes.kind[node]) for node in box.nodes)
    sites = [site for node in box.nodes if (site := graph.nodes.site(node)) is not None]
    count = len(box.nodes)
    what = "feature" if set(kinds) == {FEATURE} else "node"
    parts = [f"{count} {what}{'' if count == 1 else 's'}"]
    if sites:
        first, last = sites[0].label, sites[-1].label
        parts.append(first if first == last else f"{first} to {last}")
    return BoxWords(box.name or "Supernode", ", ".join(parts), kinds)


def arranged_by(
    subgraph: Subgraph,
    notes: GraphNotes,
    links: Ints,
    sizes: Sequence[tuple[float, float]],
) -> tuple[LayoutElements, LayoutConnections]:
    """The layout problem of a subgraph: boxes, and the links that pull at them.

    Args:
        subgraph: what is shown.
        notes: where a person has put boxes.
        links: indices of the edges that are drawn.
        sizes: [n] width and height of the boxes.
    """
    nodes = subgraph.graph.nodes
    n = len(subgraph)
    place = np.full((n, 2), np.nan)
    for number, box in enumerate(subgraph.boxes):
        if box.key in notes.places:
            place[number] = notes.places[box.key]
    source, target = subgraph.source[links], subgraph.target[links]
    ends = (-2.0, float(nodes.depth.max()))
    size = np.asarray(sizes, dtype=np.float64).reshape(n, 2)
    elements = LayoutElements(
        width=size[:, 0],
        height=size[:, 1],
        level=row_levels(subgraph.depth, ends, source, target),
        hint=subgraph.position,
        place_x=place[:, 0],
        place_y=place[:, 1],
    )
    return elements, LayoutConnections(source, target, np.abs(subgraph.share[links]))


def carried_over(
    old: Optional[SubgraphScene], keys: Sequence[str], x: Floats, y: Floats
) -> tuple[Floats, Floats]:
    """Where boxes are now that are to go to ``x``, ``y``: in the old picture, if they are in it.

    A new box begins where it is to be.
    """
    if old is None:
        return x.copy(), y.copy()
    before: Mapping[str, int] = {key: number for number, key in enumerate(old.keys)}
    now_x, now_y = x.copy(), y.copy()
    for number, key in enumerate(keys):
        if key in before:
            now_x[number], now_y[number] = old.x[before[key]], old.y[before[key]]
    return now_x, now_y
