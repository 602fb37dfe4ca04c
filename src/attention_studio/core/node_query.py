"""Which nodes of a graph a query means, in numpy: some milliseconds for twenty thousand nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.node_table import FEATURE, KIND_WORDS, NodeTable, TableEdges
from attention_studio.core.query_language import (
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
    Span,
    Words,
)
from attention_studio.core.query_parsing import parse
from attention_studio.core.sites import SITE_KINDS

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_density import FeatureDensity

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_COMPARE: dict[str, Callable[[Floats, float], Bools]] = {
    "<": lambda values, bound: values < bound,
    "<=": lambda values, bound: values <= bound,
    ">": lambda values, bound: values > bound,
    ">=": lambda values, bound: values >= bound,
}


@dataclass(frozen=True, eq=False)
class NodeView:
    """The nodes of a graph and all that can be asked about them.

    Attributes:
        table: the nodes.
        edges: those that ``in``, ``out``, ``inputs`` and so on follow.
        shown: [N] nodes that the thresholds leave.
        notes: what a person has made of the graph.
        chosen: names of the nodes that are chosen together.
        selected: name of the selected node.
        density: [N] of features, NaN where it is not known; None: it was not measured.
    """

    table: NodeTable
    edges: TableEdges
    shown: Bools
    notes: GraphNotes = field(default_factory=GraphNotes)
    chosen: tuple[str, ...] = ()
    selected: Optional[str] = None
    density: Optional[Floats] = None

    @classmethod
    def of(
        cls,
        graph: AttributionGraph,
        pruned: Optional[PrunedGraph] = None,
        whole: bool = False,
        notes: Optional[GraphNotes] = None,
        density: Optional[FeatureDensity] = None,
        table: Optional[NodeTable] = None,
    ) -> NodeView:
        """All that can be asked about the nodes of a graph.

        Args:
            pruned: what the thresholds leave; None: everything.
            whole: follow all edges of the graph, rather than those of ``pruned``.
            density: of the replacement model that the graph was traced with.
            table: of that graph, where it was made before.
        """
        made = NodeTable.of(graph) if table is None else table
        shown = np.ones(len(made), dtype=bool)
        if pruned is not None:
            shown[:] = False
            shown[pruned.node_ids] = True
        return cls(
            table=made,
            edges=TableEdges(graph, None if whole else pruned),
            shown=shown,
            notes=GraphNotes() if notes is None else notes,
            density=None if density is None else density.of_nodes(graph.nodes),
        )

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """[N] what the person calls each node, "" where nothing."""
        if not self.notes.labels:
            return ("",) * len(self.table)
        return tuple(self.notes.label_of(name) for name in self.table.names)

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """[N] what the person has written about each node, "" where nothing."""
        return tuple(self.notes.remarks.get(name, "") for name in self.table.names)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """[N] the name of the supernode that holds each node, "" where none does."""
        name_of = {
            node: group.name or group.key for group in self.notes.supernodes for node in group.nodes
        }
        return tuple(name_of.get(name, "") for name in self.table.names)

    @cached_property
    def degrees(self) -> tuple[Floats, Floats]:
        """[N] edges into each node and [N] out of it."""
        into, out_of = self.edges.degrees()
        return into.astype(np.float64), out_of.astype(np.float64)


def find_nodes(
    graph: AttributionGraph,
    text: str,
    pruned: Optional[PrunedGraph] = None,
    notes: Optional[GraphNotes] = None,
    density: Optional[FeatureDensity] = None,
) -> tuple[str, ...]:
    """The names of the nodes that a query finds, the most influential first.

    Args:
        text: the query, see ``core.query_language``.
        pruned: where nodes and edges are looked for; None: in the whole graph.

    Raises:
        QueryError: it cannot be read.
    """
    view = NodeView.of(graph, pruned, notes=notes, density=density)
    rows = by_influence(view, evaluate(parse(text), view) & view.shown)
    return tuple(view.table.names[row] for row in rows.tolist())


def by_influence(view: NodeView, fits: Bools) -> NDArray[np.int64]:
    """The rows of the nodes that fit, the most influential first."""
    rows = np.flatnonzero(fits)
    return rows[np.argsort(-view.table.influence[rows], kind="stable")]


def evaluate(query: Query, view: NodeView) -> Bools:
    """[N] which nodes fit a query.

    A node fits no comparison of something that it has not (the layer of a token, a density that was
    not measured), so it fits what must *not* hold: ``layer!=3`` finds tokens, too.
    """
    return _fits(query.root, view)


def _fits(part: Expression, view: NodeView) -> Bools:
    table = view.table
    if isinstance(part, Every):
        return _all(_fits(inner, view) for inner in part.parts) if part.parts else _every(view)
    if isinstance(part, Either):
        found: Bools = ~_all(~_fits(inner, view) for inner in part.parts)
        return found
    if isinstance(part, Not):
        return ~_fits(part.part, view)
    if isinstance(part, Compare):
        return _compare(part, view)
    if isinstance(part, Flag):
        return _flag(part.name, view)
    if isinstance(part, Module):
        site = part.site
        here: Bools = table.module == SITE_KINDS.index(site.kind)
        here &= table.layer == site.layer
        return here
    if isinstance(part, Named):
        return _named(part, table)
    if isinstance(part, NodeName):
        return table.mask((part.name,))
    if isinstance(part, Words):
        return _words(part.text.casefold(), view)
    return _linked(part, view)


def _every(view: NodeView) -> Bools:
    return np.ones(len(view.table), dtype=bool)


def _all(parts: Iterable[Bools]) -> Bools:
    first, *rest = parts
    for part in rest:
        first = first & part
    return first


def _flag(name: str, view: NodeView) -> Bools:
    table, notes = view.table, view.notes
    if name == "pinned":
        return table.mask(notes.pinned)
    if name == "chosen":
        return table.mask(view.chosen)
    if name == "selected":
        return table.mask(() if view.selected is None else (view.selected,))
    if name == "shown":
        return view.shown
    if name == "labelled":
        return _bools(bool(label) for label in view.labels)
    if name == "remarked":
        return table.mask(tuple(notes.remarks))
    return table.mask(tuple(node for group in notes.supernodes for node in group.nodes))


def _named(part: Named, table: NodeTable) -> Bools:
    site, position, latent = part.name
    fits: Bools = table.kind == FEATURE
    fits &= (table.module == SITE_KINDS.index(site.kind)) & (table.layer == site.layer)
    if position is not None and position != "*":
        fits &= table.position == position
    if latent != "*":
        fits &= table.index == latent
    return fits


def _linked(part: Linked, view: NodeView) -> Bools:
    inner = _fits(part.inner, view)
    if part.function == "upstream":
        return view.edges.upstream(inner)
    if part.function == "downstream":
        return view.edges.downstream(inner)
    shares = view.edges.into(inner) if part.function == "in" else view.edges.out_of(inner)
    linked: Bools = shares > 0
    return linked & _COMPARE[part.operator](shares, part.bound) if part.operator else linked


# ---- comparisons --------------------------------------------------------------------------------


def _compare(part: Compare, view: NodeView) -> Bools:
    table = view.table
    if part.field == "kind":
        return np.isin(table.kind, [KIND_WORDS.index(str(word)) for word in part.values])
    if part.field == "module":
        return np.isin(table.module, [SITE_KINDS.index(word) for word in part.values])
    fits = [
        _number(part.field, part.operator, value, view)
        if isinstance(value, Span)
        else _text(part.field, part.operator, value.casefold(), view)
        for value in part.values
    ]
    return ~_all(~one for one in fits)


def _number(name: str, operator: str, value: Span, view: NodeView) -> Bools:
    table = view.table
    if name == "pos":
        value = Span(*(end + len(table.tokens) if -1e9 < end < 0 else end for end in value))
    if name == "density":
        numbers = np.full(len(table), np.nan) if view.density is None else view.density
    elif name in ("inputs", "outputs"):
        numbers = view.degrees[name == "outputs"]
    else:
        column: NDArray[np.generic] = getattr(table, "position" if name == "pos" else name)
        numbers = column.astype(np.float64)
    if operator == "=":
        return (numbers >= value.low) & (numbers <= value.high)
    return _COMPARE[operator](numbers, value.low)


def _text(name: str, operator: str, wanted: str, view: NodeView) -> Bools:
    table = view.table
    if name == "pos":
        return _bools(_holds(token, operator, wanted) for token in table.folded_tokens)[
            table.position
        ]
    if name == "label":
        columns: tuple[Sequence[str], ...] = (table.folded_titles, _folded(view.labels))
    elif name == "group":
        keys = {node: group.key for group in view.notes.supernodes for node in group.nodes}
        columns = (_folded(view.groups), [keys.get(n, "").casefold() for n in table.names])
    elif name == "remark":
        columns = (_folded(view.remarks),)
    else:
        columns = (_folded(table.names),)
    found = np.zeros(len(table), dtype=bool)
    for texts in columns:
        # What a node has no text of, it does not have: group="" finds nobody.
        found |= _bools(bool(text) and _holds(text, operator, wanted) for text in texts)
    return found


def _words(wanted: str, view: NodeView) -> Bools:
    table = view.table
    found = _bools(wanted in token for token in table.folded_tokens)[table.position]
    for texts in (
        table.folded_titles,
        _folded(view.labels),
        _folded(view.remarks),
        _folded(view.groups),
        _folded(table.names),
    ):
        found |= _bools(wanted in text for text in texts)
    return found


def _holds(text: str, operator: str, wanted: str) -> bool:
    return text == wanted if operator == "=" else wanted in text


def _folded(texts: Sequence[str]) -> list[str]:
    return [text.casefold() for text in texts]


def _bools(values: Iterable[bool]) -> Bools:
    return np.fromiter(values, bool)
