"""What a person has made of a graph: pins, supernodes, labels, remarks, places and saved queries.

One frozen record, so that every change is a new one: undo keeps the old, and a workspace writes the
newest. Nodes go by their names (``L12/P5/F1043``, see ``AttributionGraph.node_name``), so notes
outlive thresholds and a graph traced anew. Knows neither Qt nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Optional, Union

from attention_studio.utils.errors import StudioError

MAX_TEXT = 20_000
"""Characters of one label, name or remark."""
MAX_ITEMS = 100_000
"""Pins, places, labels, ... of one graph."""


class NotesError(StudioError):
    """Notes that cannot be kept or read."""


@dataclass(frozen=True)
class Supernode:
    """Several nodes that are one thing to a person.

    Attributes:
        key: what it is known by, unlike any other supernode's of the graph.
        name: what the person calls it.
        nodes: names of its nodes, in the order in which they came; no node is in two supernodes.
    """

    key: str
    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class SavedQuery:
    """A query that a person wants again: its name and what was typed."""

    name: str
    text: str


@dataclass(frozen=True)
class GraphNotes:
    """Everything that a person has made of one graph.

    Attributes:
        pinned: names of pinned nodes, in the order in which they were pinned.
        supernodes: in the order in which they were made.
        labels: a feature's name without position (``L12/F1043``) to what the person calls it.
        remarks: name of a node, or key of a supernode, or "" (the whole graph), to what the person
            wrote there.
        places: name of a node, or key of a supernode, to where the person has put it in the
            subgraph, in the subgraph's own units.
        queries: saved queries.
    """

    pinned: tuple[str, ...] = ()
    supernodes: tuple[Supernode, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    remarks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    places: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    queries: tuple[SavedQuery, ...] = ()

    # -- looking ------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nothing has been noted."""
        return self == GraphNotes()

    def supernode(self, key: str) -> Optional[Supernode]:
        """The supernode of that key."""
        return next((group for group in self.supernodes if group.key == key), None)

    def supernode_of(self, node: str) -> Optional[Supernode]:
        """The supernode that holds a node."""
        return next((group for group in self.supernodes if node in group.nodes), None)

    def label_of(self, node: str) -> str:
        """What the person calls the feature that a node is; "" where nothing."""
        feature = feature_of(node)
        return "" if feature is None else self.labels.get(feature, "")

    def focused_group(
        self, selection: Optional[str], chosen: tuple[str, ...] = ()
    ) -> Optional[Supernode]:
        """The supernode that a person means: the selected one, the one that holds the selected
        node, or the one that holds all chosen nodes."""
        if selection is not None:
            return self.supernode(selection) or self.supernode_of(selection)
        if not chosen:
            return None
        group = self.supernode_of(chosen[0])
        return group if group is not None and set(chosen) <= set(group.nodes) else None

    # -- changed copies -----------------------------------------------------------------------

    def with_pinned(self, nodes: Iterable[str]) -> GraphNotes:
        """Pin exactly these nodes; a supernode keeps those of its nodes that stay pinned.

        Raises:
            NotesError: there are more than ``MAX_ITEMS``.
        """
        pinned = tuple(dict.fromkeys(nodes))
        if len(pinned) > MAX_ITEMS:
            raise NotesError(
                "So many nodes cannot be pinned",
                f"{len(pinned):,} are more than {MAX_ITEMS:,}",
                "pin fewer: a query finds those that matter",
            )
        kept = set(pinned)
        groups = (
            replace(group, nodes=tuple(node for node in group.nodes if node in kept))
            for group in self.supernodes
        )
        return replace(
            self, pinned=pinned, supernodes=tuple(group for group in groups if group.nodes)
        )

    def grouped(self, nodes: Iterable[str], name: str) -> tuple[GraphNotes, Supernode]:
        """Make one supernode of these nodes; they leave the ones that they were in, and are pinned.

        Raises:
            NotesError: there are no nodes.
        """
        members = tuple(dict.fromkeys(nodes))
        if not members:
            raise NotesError("Nothing to group", "no node is chosen", "choose nodes first")
        # Nor one that a place or a remark of a supernode that is gone still goes by.
        taken = {*(group.key for group in self.supernodes), *self.places, *self.remarks}
        key = next(key for key in (f"S{n}" for n in range(1, len(taken) + 2)) if key not in taken)
        group = Supernode(key, name[:MAX_TEXT], members)
        pinned = self.with_pinned((*self.pinned, *members))
        return replace(
            pinned, supernodes=(*_without(pinned.supernodes, set(members)), group)
        ), group

    def ungrouped(self, key: str) -> GraphNotes:
        """Dissolve a supernode; its nodes stay pinned."""
        rest = tuple(group for group in self.supernodes if group.key != key)
        places = {name: place for name, place in self.places.items() if name != key}
        remarks = {name: text for name, text in self.remarks.items() if name != key}
        return replace(
            self,
            supernodes=rest,
            places=MappingProxyType(places),
            remarks=MappingProxyType(remarks),
        )

    def without_from_group(self, nodes: Iterable[str]) -> GraphNotes:
        """Take nodes out of the supernodes that they are in; they stay pinned."""
        return replace(self, supernodes=_without(self.supernodes, set(nodes)))

    def renamed(self, key: str, name: str) -> GraphNotes:
        """Give a supernode another name."""
        groups = (
            replace(group, name=name[:MAX_TEXT]) if group.key == key else group
            for group in self.supernodes
        )
        return replace(self, supernodes=tuple(groups))

    def labelled(self, feature: str, text: str) -> GraphNotes:
        """Call a feature (``L12/F1043``) something; "" takes the label away."""
        return replace(self, labels=_with(self.labels, feature, text.strip()[:MAX_TEXT]))

    def over(self, labels: Mapping[str, str]) -> GraphNotes:
        """These notes, and what others call the features that they call nothing."""
        return replace(self, labels=MappingProxyType({**labels, **self.labels}))

    def remarked(self, about: str, text: str) -> GraphNotes:
        """Write something about a node, a supernode or ("") the graph; "" takes it away."""
        return replace(self, remarks=_with(self.remarks, about, text[:MAX_TEXT]))

    def placed(self, places: Mapping[str, tuple[float, float]]) -> GraphNotes:
        """Put nodes or supernodes somewhere."""
        return replace(self, places=MappingProxyType({**self.places, **places}))

    def unplaced(self, names: Optional[Iterable[str]] = None) -> GraphNotes:
        """Let places go, of these names or (None) all."""
        gone = set(self.places) if names is None else set(names)
        left = {name: place for name, place in self.places.items() if name not in gone}
        return replace(self, places=MappingProxyType(left))

    def with_queries(self, queries: Iterable[SavedQuery]) -> GraphNotes:
        """Keep exactly these queries."""
        return replace(self, queries=tuple(queries))

    # -- files --------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """As plain values for a JSON file; ``from_json`` gives an equal record."""
        return {
            "pinned": list(self.pinned),
            "supernodes": [
                {"key": group.key, "name": group.name, "nodes": list(group.nodes)}
                for group in self.supernodes
            ],
            "labels": dict(self.labels),
            "remarks": dict(self.remarks),
            "places": {name: [x, y] for name, (x, y) in self.places.items()},
            "queries": [{"name": query.name, "text": query.text} for query in self.queries],
        }

    @classmethod
    def from_json(cls, value: Any) -> GraphNotes:
        """Read what ``to_json`` made.

        Raises:
            NotesError: it is something else.
        """
        try:
            notes = cls(
                pinned=tuple(dict.fromkeys(_text(node) for node in _items(value, "pinned", list))),
                supernodes=tuple(
                    Supernode(
                        _text(group["key"]),
                        _text(group["name"]),
                        tuple(_text(node) for node in _items(group, "nodes", list)),
                    )
                    for group in _items(value, "supernodes", list)
                ),
                labels=_texts(value, "labels"),
                remarks=_texts(value, "remarks"),
                places=MappingProxyType(
                    {
                        _text(name): (_number(place[0]), _number(place[1]))
                        for name, place in _items(value, "places", dict).items()
                    }
                ),
                queries=tuple(
                    SavedQuery(_text(query["name"]), _text(query["text"]))
                    for query in _items(value, "queries", list)
                ),
            )
            members = [node for group in notes.supernodes for node in group.nodes]
            if len(set(members)) < len(members):
                raise ValueError("a node is in two supernodes")
            if len({group.key for group in notes.supernodes}) < len(notes.supernodes):
                raise ValueError("two supernodes have one key")
            return notes
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise NotesError(
                "These notes cannot be read",
                f"they are not as the studio writes them: {error}",
                "open a workspace that the studio has written, or leave the notes out",
            ) from error


def feature_of(node: str) -> Optional[str]:
    """The feature that a node is, without its position, by which labels go: ``L12/F1043`` of
    ``L12/P5/F1043``; None for errors, tokens and outputs."""
    parts = node.split("/")
    is_feature = len(parts) == 3 and parts[1].startswith("P") and parts[2].startswith("F")
    return f"{parts[0]}/{parts[2]}" if is_feature else None


def _without(groups: Iterable[Supernode], nodes: set[str]) -> tuple[Supernode, ...]:
    """The supernodes without these nodes; those that become empty go."""
    left = (
        replace(group, nodes=tuple(node for node in group.nodes if node not in nodes))
        for group in groups
    )
    return tuple(group for group in left if group.nodes)


def _with(texts: Mapping[str, str], name: str, text: str) -> Mapping[str, str]:
    changed = {**texts, name: text}
    if not text:
        del changed[name]
    return MappingProxyType(changed)


def _items(value: Any, name: str, kind: type[Union[list[Any], dict[str, Any]]]) -> Any:
    found: Any = value.get(name, kind()) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise TypeError(f"“{name}” is not a {kind.__name__}")
    if len(found) > MAX_ITEMS:
        raise ValueError(f"“{name}” has more than {MAX_ITEMS:,} entries")
    return found


def _texts(value: Any, name: str) -> Mapping[str, str]:
    found = _items(value, name, dict)
    return MappingProxyType({_text(key): _text(text) for key, text in found.items()})


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise TypeError("a name or text is no string of bounded length")
    return value


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, (bool, str)) or not math.isfinite(number):
        raise ValueError("a place is no pair of finite numbers")
    return number
