"""What the link graph shows, as numpy arrays. Knows no Qt.

A ``GraphScene`` is built from a pruned attribution graph on a lane (ordering the nodes takes some
milliseconds), and handed to the view as one frozen record. Inside it nodes have *local* indices
0 … n−1; ``node_ids`` leads back to the graph's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.cell_order import (
    CellElements,
    CellLinks,
    CellOrder,
    CellOrderOptimizer,
)
from attention_studio.core.graph_notes import feature_of
from attention_studio.core.sites import Site
from attention_studio.ui.text import percent, visible_token

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_density import FeatureDensity
    from attention_studio.utils.progress import WorkContext

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# The kinds of node by number, as ``core.attribution_graph.NodeKind`` has them. They are repeated
# here because that module brings networkx, which the first paint does not wait for.
FEATURE, ERROR, EMBEDDING, LOGIT = range(4)
# What a node is drawn as: its kind, but that features of attentions have a shape of their own.
ATTENTION_SHAPE = 4
KIND_NAMES = ("feature", "error", "embedding", "logit")

# From this share of a target's input on, an edge has its full colour.
FULL_SHARE = 0.3
# So many edges are ranked by influence, for arranging the nodes and for drawing at rest.
MAX_RANKED_EDGES = 20_000
_NO_EDGES = np.zeros(0, dtype=np.int64)


class LinkMode(Enum):
    """Which edges are drawn in colour: some of the selected node, or those among the pinned."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"
    EITHER = "either"
    PINNED = "both pinned"


class Direction(Enum):
    """Where the keyboard moves the cursor."""

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True)
class EdgeIndex:
    """The edges at every node, found without a search.

    ``order`` [m] holds edges sorted by node, ``bounds`` [n + 1] where each node's begin.
    """

    order: Ints
    bounds: Ints

    @classmethod
    def of(cls, ends: Ints, n_nodes: int) -> EdgeIndex:
        """Index edges by one of their ends."""
        order = np.argsort(ends, kind="stable")
        return cls(order, np.searchsorted(ends[order], np.arange(n_nodes + 1)))

    def at(self, node: int) -> Ints:
        """Return the edges at a node."""
        return self.order[self.bounds[node] : self.bounds[node + 1]]


@dataclass(frozen=True)
class GraphScene:
    """The nodes and edges that are drawn.

    Attributes:
        tokens: the prompt's tokens, one per column.
        n_layers: layers of the model.
        split: whether a layer has two rows, its attention's below its MLP's, or one. Row 0 is the
            embedding, the last row the logits.
        node_ids: [n] index of each node in the attribution graph.
        names: the graph's name of each node, by which the session knows it.
        words: text of a token or logit; what a feature promotes, where that is known; else "".
        modules: name of each feature's or error's module, as ``Site.label`` has it; else "".
        kind, column, row: [n] what a node is and where it belongs.
        shape: [n] ``kind``, or ``ATTENTION_SHAPE``.
        index: [n] latent (feature) or token id (embedding, logit).
        activation, probability: [n] as in the graph.
        influence: [n] on the logits, as the pruned graph has it.
        density: [n] share of tokens of a text at which a feature is active; nan where unknown.
        bias: [n] what biases add to what a node reads, and ``reads``: all that it reads; nan where
            nothing feeds it, or where that is not known.
        edge_source, edge_target: [m] local indices.
        edge_weight: [m] attribution.
        edge_share: [m] signed share of the target's input.
        strongest: the edges that carry most influence, at most ``MAX_RANKED_EDGES``, weakest
            first.
        incoming, outgoing: the edges at every node.
        layout: the order within the cells.
    """

    tokens: tuple[str, ...]
    n_layers: int
    split: bool
    node_ids: Ints
    names: tuple[str, ...]
    words: tuple[str, ...]
    modules: tuple[str, ...]
    kind: Ints
    shape: Ints
    column: Ints
    row: Ints
    index: Ints
    activation: Floats
    probability: Floats
    influence: Floats
    density: Floats
    bias: Floats
    reads: Floats
    edge_source: Ints
    edge_target: Ints
    edge_weight: Floats
    edge_share: Floats
    strongest: Ints
    incoming: EdgeIndex = field(repr=False)
    outgoing: EdgeIndex = field(repr=False)
    layout: CellOrder
    local_of: dict[str, int] = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """What the person calls features, by their names without position."""

    @property
    def n_nodes(self) -> int:
        """How many nodes are drawn."""
        return len(self.node_ids)

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return len(self.edge_source)

    @property
    def n_rows(self) -> int:
        """How many rows the picture has."""
        return (2 if self.split else 1) * self.n_layers + 2

    def local(self, name: Optional[str]) -> Optional[int]:
        """Return the local index of the node of that name, or None where it is not drawn."""
        return None if name is None else self.local_of.get(name)

    def labelled(self, labels: Mapping[str, str]) -> GraphScene:
        """Return the same scene with other labels."""
        return self if labels == self.labels else replace(self, labels=labels)

    def edges_among(self, nodes: Ints) -> Ints:
        """Return the edges whose both ends are among these nodes, weakest first."""
        inside = np.zeros(self.n_nodes, dtype=bool)
        inside[nodes] = True
        edges = np.flatnonzero(inside[self.edge_source] & inside[self.edge_target])
        return edges[np.argsort(np.abs(self.edge_weight[edges]), kind="stable")]

    def edges_of(self, local: int, mode: LinkMode = LinkMode.EITHER) -> Ints:
        """Return the edges into and out of a node, weakest first (so the strongest lie on top).

        With ``LinkMode.PINNED`` they are those into and out of it too: what else is pinned, a scene
        does not know.
        """
        into = self.incoming.at(local) if mode is not LinkMode.OUTPUTS else _NO_EDGES
        out = self.outgoing.at(local) if mode is not LinkMode.INPUTS else _NO_EDGES
        edges = np.concatenate([into, out])
        return edges[np.argsort(np.abs(self.edge_weight[edges]), kind="stable")]

    def strongest_edges(self, limit: int) -> Ints:
        """Return the ``limit`` edges that carry most influence, weakest first."""
        return self.strongest[max(0, len(self.strongest) - limit) :]

    def row_name(self, row: int) -> str:
        """Return what stands at the left of a row."""
        if row == 0:
            return "Embed"
        if row == self.n_rows - 1:
            return "Logits"
        return Site.of_number(row - 1).label if self.split else f"L{row - 1}"

    def title(self, local: int) -> str:
        """Return a short name of a node for people, such as ``L12 #1043``."""
        kind = int(self.kind[local])
        if kind == FEATURE:
            return f"{self.modules[local]} #{self.index[local]}"
        if kind == ERROR:
            return f"{self.modules[local]} not explained"
        word = quoted(self.words[local])
        return f"Token {word}" if kind == EMBEDDING else f"Output {word}"

    def promotes(self, local: int) -> str:
        """Return in a few tokens what a feature promotes; "" where that is not known."""
        words = self.words[local] if self.kind[local] == FEATURE else ""
        return visible_token(words, spaces=False) if words.strip(" ") else ""

    def label(self, local: int) -> str:
        """Return what the person calls a feature; "" where nothing, and for other nodes."""
        feature = feature_of(self.names[local]) if self.labels else None
        return "" if feature is None else self.labels.get(feature, "")

    def caption(self, local: int) -> str:
        """Return what a feature is about: the person's label, else what it promotes, else ""."""
        return self.label(local) or self.promotes(local)

    def facts(self, local: int) -> list[tuple[str, str]]:
        """Return what the hover card and a screen reader say about a node, as name and value."""
        kind = int(self.kind[local])
        column = int(self.column[local])
        facts = [("Kind", KIND_NAMES[kind]), ("Layer", self.row_name(int(self.row[local])))]
        facts.append(("Position", f"{column}  {quoted(self.tokens[column])}"))
        if kind == LOGIT:
            facts.append(("Probability", f"{self.probability[local]:.1%}"))
        # Another tool's file may not tell it.
        if kind in (FEATURE, LOGIT) and not np.isnan(self.activation[local]):
            name = "Activation" if kind == FEATURE else "Logit over mean"
            facts.append((name, f"{self.activation[local]:.3g}"))
        facts.append(("Influence", f"{self.influence[local]:.2%}"))
        if not np.isnan(self.bias[local]):
            facts.append(("Bias", f"{self.bias[local]:+.3g} of {self.reads[local]:.3g}"))
        if not np.isnan(self.density[local]):
            facts.append(("Density", percent(float(self.density[local]))))
        return facts

    def describe(self, local: int) -> str:
        """Return a node's title and facts as one line of plain text."""
        facts = [f"{name.lower()} {value}" for name, value in self.facts(local)]
        if self.promotes(local):
            facts.insert(0, f"promotes {self.promotes(local)}")
        if self.label(local):
            facts.insert(0, f"labelled {self.label(local)}")
        return f"{self.title(local)}: {', '.join(facts)}"

    def step(self, local: Optional[int], direction: Direction) -> Optional[int]:
        """Return where an arrow key leads from a node.

        Left and right go along the row; up and down follow the strongest edge out of or into the
        node, and without one go to the nearest node of the next row that has any. From nowhere
        every key leads to the likeliest output, from where Down walks the circuit backwards.
        """
        if not self.n_nodes:
            return None
        if local is None:
            # Features have no probability; they come first only where there is no output.
            return int(np.lexsort((self.influence, self.probability))[-1])
        if direction in (Direction.LEFT, Direction.RIGHT):
            return self._step_sideways(local, 1 if direction is Direction.RIGHT else -1)
        return self._step_upright(local, 1 if direction is Direction.UP else -1)

    def _slots(self) -> Floats:
        ends = np.cumsum(self.layout.column_slots)
        centre = ends - self.layout.column_slots / 2.0
        return np.asarray(centre[self.column] + self.layout.offset)

    def _step_sideways(self, local: int, sign: int) -> int:
        distance = (self._slots() - self._slots()[local]) * sign
        beside = np.flatnonzero((self.row == self.row[local]) & (distance > 1e-9))
        return int(beside[np.argmin(distance[beside])]) if len(beside) else local

    def _step_upright(self, local: int, sign: int) -> int:
        near, far = (
            (self.edge_source, self.edge_target)
            if sign > 0
            else (self.edge_target, self.edge_source)
        )
        edges = np.flatnonzero(near == local)
        if len(edges):
            return int(far[edges[np.argmax(np.abs(self.edge_weight[edges]))]])
        rise = (self.row - self.row[local]) * sign
        beyond = np.flatnonzero(rise > 0)
        if not len(beyond):
            return local
        next_row = beyond[rise[beyond] == rise[beyond].min()]
        slots = self._slots()
        return int(next_row[np.argmin(np.abs(slots[next_row] - slots[local]))])


def quoted(token: str) -> str:
    """Return a token in quotes, with spaces, line ends and tabs made visible."""
    return f"“{visible_token(token)}”"


def build_scene(
    graph: AttributionGraph,
    pruned: PrunedGraph,
    show_errors: bool = True,
    density: Optional[FeatureDensity] = None,
    max_density: float = 1.0,
) -> GraphScene:
    """Arrange a pruned graph for drawing.

    Args:
        graph: the whole graph, for what its nodes are.
        pruned: the nodes and edges to draw.
        show_errors: whether error nodes (and their edges) are drawn.
        density: how often features are active; None: not known.
        max_density: features that are known to be active more often are left out.
    """
    nodes = graph.nodes
    ids = np.asarray(pruned.node_ids, dtype=np.int64)
    influence = np.asarray(pruned.influence, dtype=np.float64)
    often = np.full(len(ids), np.nan) if density is None else density.of_nodes(nodes)[ids]
    keep = np.isnan(often) | (often <= max_density)
    if not show_errors:
        keep &= nodes.kind[ids] != ERROR
    ids, influence, often = ids[keep], influence[keep], often[keep]
    local = np.full(len(nodes.kind), -1, dtype=np.int64)
    local[ids] = np.arange(len(ids))
    source, target = local[pruned.edge_source], local[pruned.edge_target]
    drawn = (source >= 0) & (target >= 0)
    source, target = source[drawn], target[drawn]
    share = np.asarray(pruned.edge_share, dtype=np.float64)[drawn]
    strength = np.abs(share) * influence[target]
    column = np.asarray(nodes.position[ids], dtype=np.int64)
    split = nodes.has_attention
    depth = nodes.depth[ids] if split else np.asarray(nodes.layer[ids], dtype=np.int64)
    row = np.maximum(depth + 1, 0)
    sites = [nodes.site(int(node)) for node in ids]
    strongest = _strongest(strength, MAX_RANKED_EDGES)
    layout = CellOrderOptimizer(
        CellElements(column, row, len(graph.tokens)),
        CellLinks(source[strongest], target[strongest], strength[strongest]),
    ).optimize()
    layout = _likeliest_first(layout, nodes.kind[ids] == LOGIT, nodes.probability[ids])
    names = tuple(graph.node_name(int(node)) for node in ids)
    return GraphScene(
        tokens=tuple(graph.tokens),
        n_layers=int(graph.n_layers),
        split=split,
        node_ids=ids,
        names=names,
        words=tuple(
            graph.node_tokens.get(int(node)) or graph.captions.get(int(node), "") for node in ids
        ),
        modules=tuple("" if site is None else site.label for site in sites),
        kind=np.asarray(nodes.kind[ids], dtype=np.int64),
        shape=np.where(
            (nodes.kind[ids] == FEATURE) & (nodes.site_kind[ids] == 0),
            ATTENTION_SHAPE,
            nodes.kind[ids],
        ).astype(np.int64),
        column=column,
        row=row,
        index=np.asarray(nodes.index[ids], dtype=np.int64),
        activation=np.asarray(nodes.activation[ids], dtype=np.float64),
        probability=np.asarray(nodes.probability[ids], dtype=np.float64),
        influence=influence,
        density=often,
        bias=_of_targets(graph, graph.biases)[ids],
        reads=_of_targets(graph, graph.values)[ids],
        edge_source=source,
        edge_target=target,
        edge_weight=np.asarray(pruned.edge_weight, dtype=np.float64)[drawn],
        edge_share=share,
        strongest=strongest,
        incoming=EdgeIndex.of(target, len(ids)),
        outgoing=EdgeIndex.of(source, len(ids)),
        layout=layout,
        local_of={name: number for number, name in enumerate(names)},
    )


@dataclass(frozen=True)
class SceneRequest:
    """How a graph is to be shown: node and edge threshold, whether errors are drawn, and how often
    active (as ``density`` has counted) a feature may be."""

    thresholds: tuple[float, float]
    show_errors: bool
    density: Optional[FeatureDensity] = None
    max_density: float = 1.0


@dataclass(frozen=True)
class PreparedScene:
    """A graph, the part of it that is shown, and how it is arranged."""

    graph: AttributionGraph
    pruned: PrunedGraph
    scene: GraphScene
    request: SceneRequest


def prepare_scene(
    ctx: WorkContext,
    graph: AttributionGraph,
    pruned: Optional[PrunedGraph],
    request: SceneRequest,
) -> PreparedScene:
    """Prune a graph (unless that was done) and arrange it. Made for a lane.

    The scores are computed here too, so that the main thread finds them ready.
    """
    ctx.check()
    part = graph.prune(*request.thresholds) if pruned is None else pruned
    ctx.check()
    _ = graph.scores
    ctx.check()
    scene = build_scene(graph, part, request.show_errors, request.density, request.max_density)
    return PreparedScene(graph, part, scene, request)


def _strongest(strength: Floats, limit: int) -> Ints:
    """Return the ``limit`` largest, smallest first."""
    if len(strength) > limit:
        chosen = np.argpartition(strength, len(strength) - limit)[-limit:]
    else:
        chosen = np.arange(len(strength))
    return chosen[np.argsort(strength[chosen], kind="stable")]


def _of_targets(graph: AttributionGraph, values: NDArray[Any]) -> Floats:
    """[N] what is known of targets alone, nan for all other nodes."""
    found = np.full(len(graph.nodes), np.nan)
    found[graph.edges.targets] = values
    return found


def _likeliest_first(layout: CellOrder, logits: Bools, probability: NDArray[Any]) -> CellOrder:
    """Order the logits from left to right by falling probability, as one reads."""
    members = np.flatnonzero(logits)
    offset = layout.offset.copy()
    order = members[np.argsort(-probability[members], kind="stable")]
    offset[order] = np.arange(len(order)) - (len(order) - 1) / 2.0
    return replace(layout, offset=offset)
