"""An attribution graph: nodes, exact edges, and the questions one asks of them.

This file knows numpy and networkx only, so a stored graph opens without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from attention_studio.core.graph_pruning import (
    EdgeMatrix,
    GraphScores,
    completeness_score,
    node_influence,
    prune,
    replacement_score,
)
from attention_studio.utils.errors import StudioError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


_TINY = np.float32(1e-10)


class GraphError(StudioError):
    """A question was asked of a graph that it cannot answer, or a stored graph cannot be read."""


class NodeKind(IntEnum):
    """What a node is."""

    FEATURE = 0
    ERROR = 1
    EMBEDDING = 2
    LOGIT = 3


@dataclass(frozen=True)
class GraphNodes:
    """The nodes of a graph, as columns of length N: features, errors, embeddings, then logits.

    Attributes:
        kind: a ``NodeKind``.
        layer: -1 for embeddings, the number of layers for logits.
        position: token position.
        index: latent of a feature, token id of an embedding or logit, -1 for an error.
        activation: a feature's activation; a logit's distance from the mean logit; the norm of what
            an error or embedding writes.
        probability: a logit's probability, else 0.
    """

    kind: NDArray[np.int8]
    layer: NDArray[np.int16]
    position: NDArray[np.int32]
    index: Ints
    activation: Floats
    probability: Floats

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True)
class GraphSettings:
    """How a graph is traced.

    Attributes:
        max_logits: at most so many output tokens.
        logit_mass: the fewest most probable tokens that reach this probability together.
        max_features: trace the inputs of at most so many features, those with the largest total
            effect on the logits; None: of all that fit ``max_gigabytes``.
        max_gigabytes: bound on the edge matrix.
        batch: targets traced at once; bounds the working memory, changes no number.

    Raises:
        GraphError: a setting has a value with which nothing could be traced.
    """

    max_logits: int = 10
    logit_mass: float = 0.95
    max_features: Optional[int] = None
    max_gigabytes: float = 2.0
    batch: int = 64

    def __post_init__(self) -> None:
        fits = {
            "max_logits": self.max_logits >= 1,
            "logit_mass": 0.0 < self.logit_mass <= 1.0,
            "max_features": self.max_features is None or self.max_features >= 0,
            "max_gigabytes": self.max_gigabytes > 0.0,
            "batch": self.batch >= 1,
        }
        for name, usable in fits.items():
            if not usable:
                raise GraphError(
                    f"{name} = {getattr(self, name)} cannot be used for a graph",
                    "it needs at least one output token, a share of probability above 0 and at "
                    "most 1, and no negative number of features",
                    "correct it or leave it out",
                )


@dataclass(frozen=True)
class NodeEdges:
    """Edges at one node, strongest first: the other ``nodes``, ``weights``, and ``shares``.

    A share is the weight divided by the sum of |weights| into the edge's target.
    """

    nodes: Ints
    weights: Floats
    shares: Floats


@dataclass(frozen=True)
class PrunedGraph:
    """The part of a graph that matters most.

    ``node_ids`` [n] are indices into the graph's nodes; ``edge_source``, ``edge_target`` [m] too.
    ``edge_share`` [m] is the signed share of the target's whole input; ``influence`` [n].
    """

    node_ids: Ints
    edge_source: Ints
    edge_target: Ints
    edge_weight: Floats
    edge_share: Floats
    influence: Floats
    node_threshold: float
    edge_threshold: float


@dataclass(frozen=True)
class AttributionGraph:
    """Everything that was found out about one prompt.

    Attributes:
        prompt: the text that was traced.
        tokens: its tokens as the model sees them, start token included [T].
        token_ids: their ids [T].
        model_name: the model; ``model_hash`` identifies its weights.
        crm_name: the dictionaries.
        n_layers: layers of the model.
        nodes: the nodes [N].
        node_tokens: text of embeddings' and logits' tokens, by node.
        weights: [n_targets, n_sources] edges; row r are the inputs of node ``targets[r]``; sources
            are the first n_sources nodes (all but the logits).
        targets: [n_targets] node of each row.
        biases: [n_targets] what biases add to each target.
        values: [n_targets] what each target reads in the model's own pass.
        settings: how it was traced.
        seconds: how long tracing took.
        captions: words for some features, by node: the tokens that they promote.
    """

    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    model_name: str
    model_hash: str
    crm_name: str
    n_layers: int
    nodes: GraphNodes
    node_tokens: Mapping[int, str]
    weights: Floats
    targets: Ints
    biases: Floats
    values: Floats
    settings: GraphSettings
    seconds: float
    captions: Mapping[int, str] = field(default_factory=dict)

    # ---- what is in it -------------------------------------------------------------------------

    @property
    def n_features(self) -> int:
        """Active features, traced or not."""
        return int((self.nodes.kind == NodeKind.FEATURE).sum())

    @property
    def n_edges(self) -> int:
        """Edges that are not zero."""
        return int(np.count_nonzero(self.weights))

    @cached_property
    def matrix(self) -> EdgeMatrix:
        """The edges in the form that scoring and pruning work on."""
        levels = self.nodes.layer[self.targets].astype(np.int64)
        return EdgeMatrix.of(self.weights, self.targets, levels, len(self.nodes))

    @cached_property
    def influence(self) -> Floats:
        """Influence of every node on the traced logits [N]."""
        return node_influence(self.matrix, self.nodes.probability)

    @cached_property
    def scores(self) -> GraphScores:
        """Replacement, completeness and the largest identity error."""
        errors = self.nodes.kind == NodeKind.ERROR
        embeddings = self.nodes.kind == NodeKind.EMBEDDING
        start = self.nodes.probability
        return GraphScores(
            replacement=replacement_score(self.influence, embeddings, errors),
            completeness=completeness_score(self.matrix, self.influence, start, errors),
            max_identity_error=float(self.identity_errors.max(initial=0.0)),
        )

    @cached_property
    def identity_errors(self) -> Floats:
        """``|sum of edges + bias - value| / sum |edges|`` for every target [n_targets]."""
        sums = self.weights.sum(1, dtype=np.float64)
        gap = np.abs(sums + self.biases - self.values)
        relative: Floats = (gap / np.maximum(self.matrix.totals, _TINY)).astype(np.float32)
        return relative

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {int(node): row for row, node in enumerate(self.targets)}

    # ---- names ---------------------------------------------------------------------------------

    def node_name(self, node: int) -> str:
        """A short unambiguous name: ``L12/P5/F1043``, ``L3/P2/error``, ``P4/token``, ``logit``."""
        kind = self.nodes.kind[node]
        layer, position = int(self.nodes.layer[node]), int(self.nodes.position[node])
        index = int(self.nodes.index[node])
        if kind == NodeKind.FEATURE:
            return f"L{layer}/P{position}/F{index}"
        if kind == NodeKind.ERROR:
            return f"L{layer}/P{position}/error"
        if kind == NodeKind.EMBEDDING:
            return f"P{position}/token"
        return f"P{position}/logit/{index}"

    def find(self, name: str) -> int:
        """The node with a name that ``node_name`` gave.

        Raises:
            GraphError: there is none.
        """
        for node in range(len(self.nodes)):
            if self.node_name(node) == name:
                return node
        raise GraphError(
            f"There is no node {name} in this graph",
            f"it has {len(self.nodes)} nodes of the forms L12/P5/F1043, L3/P2/error, P4/token",
            "copy a name from the graph or from the features command",
        )

    def label(self, node: int) -> str:
        """Words for a node, for people."""
        kind = self.nodes.kind[node]
        layer = int(self.nodes.layer[node])
        if kind == NodeKind.FEATURE:
            caption = self.captions.get(node)
            name = f"L{layer} #{int(self.nodes.index[node])}"
            return f"{name} \N{RIGHTWARDS ARROW} {caption}" if caption else name
        if kind == NodeKind.ERROR:
            return f"L{layer} not explained"
        text = self.node_tokens.get(node, "?")
        if kind == NodeKind.EMBEDDING:
            return f"Token \N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"
        percent = 100 * float(self.nodes.probability[node])
        return (
            f"Output \N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK} "
            f"{percent:.1f}%"
        )

    # ---- questions -----------------------------------------------------------------------------

    def inputs(self, node: int) -> NodeEdges:
        """The edges into a node, strongest first; none for a node that was not traced."""
        row = self._row_of.get(int(node))
        if row is None:
            return _no_edges()
        weights = self.weights[row]
        nodes = np.flatnonzero(weights)
        order = nodes[np.argsort(-np.abs(weights[nodes]), kind="stable")]
        chosen = weights[order]
        return NodeEdges(order, chosen, chosen / max(self.matrix.totals[row], _TINY))

    def outputs(self, node: int) -> NodeEdges:
        """The edges out of a node, strongest first; none for a logit."""
        if node >= self.weights.shape[1]:
            return _no_edges()
        weights = self.weights[:, node]
        rows = np.flatnonzero(weights)
        order = rows[np.argsort(-np.abs(weights[rows]), kind="stable")]
        chosen = weights[order]
        shares = chosen / np.maximum(self.matrix.totals[order], _TINY)
        return NodeEdges(self.targets[order], chosen, shares)

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> PrunedGraph:
        """The smallest set of nodes, then of edges, that holds the given shares of influence.

        Logits and embeddings always stay. 1.0 keeps everything that has any influence.

        Raises:
            GraphError: a threshold is not within [0, 1].
        """
        for name, value in (("node", node_threshold), ("edge", edge_threshold)):
            if not 0.0 <= value <= 1.0:
                raise GraphError(
                    f"The {name} threshold {value} cannot be used",
                    "it is a share of influence",
                    "give a number from 0 to 1",
                )
        kind = self.nodes.kind
        traced = np.zeros(len(self.nodes), dtype=bool)
        traced[self.targets] = True
        kept = prune(
            self.matrix,
            self.influence,
            self.nodes.probability,
            always=(kind == NodeKind.EMBEDDING) | (kind == NodeKind.LOGIT),
            needs_inputs=(kind == NodeKind.FEATURE) & traced,
            node_share=node_threshold,
            edge_share=edge_threshold,
        )
        row_of = np.zeros(len(self.nodes), dtype=np.int64)
        row_of[self.targets] = np.arange(len(self.targets))
        totals = np.maximum(self.matrix.totals[row_of[kept.target]], _TINY)
        return PrunedGraph(
            node_ids=kept.nodes,
            edge_source=kept.source,
            edge_target=kept.target,
            edge_weight=kept.weight,
            edge_share=kept.weight / totals,
            influence=self.influence[kept.nodes],
            node_threshold=node_threshold,
            edge_threshold=edge_threshold,
        )

    def to_networkx(self, pruned: Optional[PrunedGraph] = None) -> nx.DiGraph:
        """The (by default pruned) graph for networkx.

        Nodes are named by ``node_name`` and carry kind, layer, position, index, activation,
        influence and label; edges carry ``weight`` and ``share``.
        """
        part = self.prune() if pruned is None else pruned
        graph = nx.DiGraph(prompt=self.prompt, model=self.model_name)
        for node in part.node_ids:
            graph.add_node(
                self.node_name(node),
                kind=NodeKind(int(self.nodes.kind[node])).name.lower(),
                layer=int(self.nodes.layer[node]),
                position=int(self.nodes.position[node]),
                index=int(self.nodes.index[node]),
                activation=float(self.nodes.activation[node]),
                influence=float(self.influence[node]),
                label=self.label(int(node)),
            )
        for source, target, weight, share in zip(
            part.edge_source, part.edge_target, part.edge_weight, part.edge_share, strict=True
        ):
            graph.add_edge(
                self.node_name(source),
                self.node_name(target),
                weight=float(weight),
                share=float(share),
            )
        return graph

    def strongest_path(
        self, source: int, target: int, pruned: Optional[PrunedGraph] = None
    ) -> Optional[list[int]]:
        """The path from ``source`` to ``target`` with the largest product of |shares|.

        Looked for in the (by default pruned) graph; None where no path leads from one to the other.
        """
        part = self.prune() if pruned is None else pruned
        graph = nx.DiGraph()
        graph.add_nodes_from(int(node) for node in part.node_ids)
        cost = -np.log(np.maximum(np.abs(part.edge_share), 1e-30))
        graph.add_weighted_edges_from(
            zip(part.edge_source.tolist(), part.edge_target.tolist(), cost.tolist(), strict=True)
        )
        try:
            path: list[int] = nx.shortest_path(graph, int(source), int(target), weight="weight")
        except (nx.NetworkXNoPath, nx.NodeNotFound):
            return None
        return path

    # ---- files ---------------------------------------------------------------------------------

    def save(self, path: Path, pruned: Optional[PrunedGraph] = None) -> None:
        """Write to ``.safetensors`` (everything) or ``.json`` (the pruned graph, for viewers)."""
        from attention_studio.core.graph_files import save_graph

        save_graph(self, Path(path), pruned)

    @classmethod
    def load(cls, path: Path) -> AttributionGraph:
        """Read a graph that ``save`` wrote as ``.safetensors``."""
        from attention_studio.core.graph_files import load_graph

        return load_graph(Path(path))

    def summary(self) -> dict[str, Any]:
        """The figures that describe a graph, for reports and ``--json``."""
        scores = self.scores
        return {
            "prompt": self.prompt,
            "model": self.model_name,
            "crm": self.crm_name,
            "n_tokens": len(self.tokens),
            "n_features_active": self.n_features,
            "n_nodes": len(self.nodes),
            "n_edges": self.n_edges,
            "seconds": round(self.seconds, 3),
            "replacement_score": scores.replacement,
            "completeness_score": scores.completeness,
            "max_identity_error": scores.max_identity_error,
            "output": [
                {
                    "token": self.node_tokens[int(node)],
                    "token_id": int(self.nodes.index[node]),
                    "probability": float(self.nodes.probability[node]),
                }
                for node in np.flatnonzero(self.nodes.kind == NodeKind.LOGIT)
            ],
        }


def _no_edges() -> NodeEdges:
    empty = np.zeros(0, dtype=np.float32)
    return NodeEdges(np.zeros(0, dtype=np.int64), empty, empty)
