"""An attribution graph: nodes, exact edges, and the questions one asks of them.

This file knows numpy and networkx only, so a stored graph opens without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from attention_studio.core.graph_edges import EdgeBlock, GraphEdges
from attention_studio.core.graph_pruning import (
    TINY,
    GraphScores,
    completeness_score,
    input_totals,
    node_influence,
    prune,
    replacement_score,
)
from attention_studio.core.graph_settings import GraphError, GraphSettings
from attention_studio.core.path_search import PathsFound, strongest_paths
from attention_studio.core.sites import SITE_KINDS, Site
from attention_studio.core.validation_report import ValidationReport
from attention_studio.utils.progress import WorkContext

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class NodeKind(IntEnum):
    """What a node is."""

    FEATURE = 0
    ERROR = 1
    EMBEDDING = 2
    LOGIT = 3


CONTRAST_BASE = 1 << 32
"""Indices of logits from here on are those of contrasts, see ``contrast_index``."""


def contrast_index(first: int, second: int) -> int:
    """The index of the logit of one token minus that of another."""
    return (first + 1) * CONTRAST_BASE + second  # so that no first token makes it a token's own


def contrasted(index: int) -> Optional[tuple[int, int]]:
    """The two tokens of a contrast's index; None for that of a single token."""
    first, second = divmod(index, CONTRAST_BASE)
    return (first - 1, second) if first > 0 else None


@dataclass(frozen=True)
class GraphNodes:
    """The nodes of a graph, as columns of length N: features, errors, embeddings, then logits.

    Attributes:
        kind: a ``NodeKind``.
        site_kind: of a feature or error the place of its module's kind in ``SITE_KINDS`` (0
            attention, 1 MLP), else -1.
        layer: -1 for embeddings, the number of layers for logits.
        position: token position.
        index: latent of a feature, token id of an embedding or logit (of a logit minus another
            both, see ``contrast_index``), -1 for an error.
        activation: a feature's activation; a logit's distance from the mean logit, or from the
            other one; the norm of what an error or embedding writes.
        probability: a logit's probability, else 0.
    """

    kind: NDArray[np.int8]
    site_kind: NDArray[np.int8]
    layer: NDArray[np.int16]
    position: NDArray[np.int32]
    index: Ints
    activation: Floats
    probability: Floats

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def depth(self) -> Ints:
        """[N] place in order of the forward pass: -2 for embeddings, then ``Site.number``, and for
        logits a number above all sites. An edge always leads to a greater depth."""
        depth: Ints = 2 * self.layer.astype(np.int64) + (self.site_kind == 1)
        return depth

    @property
    def has_attention(self) -> bool:
        """Whether a dictionary stands in for the attention of some layer."""
        return bool((self.site_kind == 0).any())

    def site(self, node: int) -> Optional[Site]:
        """The module of a feature or error; None for other nodes."""
        kind = int(self.site_kind[node])
        return None if kind < 0 else Site(int(self.layer[node]), SITE_KINDS[kind])


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
        edges: what feeds what; sources are the first nodes (all but the logits).
        biases: [n_targets] what biases add to each of ``edges.targets``.
        values: [n_targets] what each target reads in the model's own pass.
        settings: how it was traced.
        seconds: how long tracing took.
        captions: words for some features, by node: the tokens that they promote.
        output_weights: [N] what each output of the graph weighs when influence is counted, 0 for
            all other nodes; None: a logit's probability.
        validation: what came of testing its predictions in the model; None: nobody has.
        made_with: versions, number format, device and dictionaries, by name (see
            ``trace_circumstances``); empty where that is not known.
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
    edges: GraphEdges
    biases: Floats
    values: Floats
    settings: GraphSettings
    seconds: float
    captions: Mapping[int, str] = field(default_factory=dict)
    output_weights: Optional[Floats] = None
    validation: Optional[ValidationReport] = None
    made_with: Mapping[str, str] = field(default_factory=dict)

    # ---- what is in it -------------------------------------------------------------------------

    @property
    def n_features(self) -> int:
        """Active features, traced or not."""
        return int((self.nodes.kind == NodeKind.FEATURE).sum())

    @property
    def targets(self) -> Ints:
        """[n_targets] the nodes whose inputs were traced."""
        return self.edges.targets

    @property
    def n_edges(self) -> int:
        """Edges that are not zero."""
        return self.edges.n_edges

    @property
    def start(self) -> Floats:
        """[N] what each output weighs, 0 for other nodes: where influence begins."""
        return self.nodes.probability if self.output_weights is None else self.output_weights

    @cached_property
    def totals(self) -> Floats:
        """[N] sum of |edges| into each node, by which shares are measured; 0 for no target."""
        return input_totals(self.edges.blocks(), len(self.nodes))

    @cached_property
    def influence(self) -> Floats:
        """Influence of every node on the traced outputs [N]."""
        return node_influence(self.edges.blocks(), self.totals, self.start)

    @cached_property
    def untraced(self) -> NDArray[np.bool_]:
        """[N] features whose inputs were not traced though they may have some."""
        traced = np.zeros(len(self.nodes), dtype=bool)
        traced[self.targets] = True
        untraced: NDArray[np.bool_] = (self.nodes.kind == NodeKind.FEATURE) & ~traced
        return untraced

    @cached_property
    def scores(self) -> GraphScores:
        """Replacement, completeness and the largest identity error."""
        errors = self.nodes.kind == NodeKind.ERROR
        embeddings = self.nodes.kind == NodeKind.EMBEDDING
        return GraphScores(
            replacement=replacement_score(self.influence, embeddings, errors | self.untraced),
            completeness=completeness_score(
                self.edges.blocks(), self.totals, self.influence, self.start, errors, self.untraced
            ),
            max_identity_error=float(self.identity_errors.max(initial=0.0)),
        )

    @cached_property
    def identity_errors(self) -> Floats:
        """``|sum of edges + bias - value| / sum |edges|`` for every target [n_targets]."""
        sums = [block.weights.sum(1, dtype=np.float64) for block in self.edges.blocks()]
        gap = np.abs(np.concatenate([np.zeros(0), *sums]) + self.biases - self.values)
        relative: Floats = (gap / np.maximum(self.totals[self.targets], TINY)).astype(np.float32)
        return relative

    # ---- names ---------------------------------------------------------------------------------

    def node_name(self, node: int) -> str:
        """A short unambiguous name: ``L12/P5/F1043`` (``A12/P5/F1043`` for the attention of that
        layer), ``L3/P2/error``, ``P4/token``, ``P7/logit/42``, ``P7/logit/42-17`` for one logit
        over another."""
        nodes, site = self.nodes, self.nodes.site(node)
        module = "" if site is None else site.label
        return _name(
            int(nodes.kind[node]), module, int(nodes.position[node]), int(nodes.index[node])
        )

    def find(self, name: str) -> int:
        """The node with a name that ``node_name`` gave.

        Raises:
            GraphError: there is none.
        """
        node = self._named.get(name)
        if node is not None:
            return node
        raise GraphError(
            f"There is no node {name} in this graph",
            f"it has {len(self.nodes)} nodes of the forms L12/P5/F1043 (A12 for attention), "
            "L3/P2/error, P4/token",
            "copy a name from the graph or from the features command",
        )

    def has(self, name: str) -> bool:
        """Whether a node has this name."""
        return name in self._named

    @cached_property
    def _named(self) -> dict[str, int]:
        # Lists, not arrays: a graph may have a hundred thousand nodes, and a window may wait.
        nodes = self.nodes
        modules = {
            (layer, kind): Site(layer, SITE_KINDS[kind]).label if kind >= 0 else ""
            for layer, kind in set(zip(nodes.layer.tolist(), nodes.site_kind.tolist(), strict=True))
        }
        columns = (nodes.kind, nodes.layer, nodes.site_kind, nodes.position, nodes.index)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {
            _name(kind, modules[layer, site_kind], position, index): node
            for node, (kind, layer, site_kind, position, index) in enumerate(rows)
        }

    def label(self, node: int) -> str:
        """Words for a node, for people."""
        kind, site = self.nodes.kind[node], self.nodes.site(node)
        if site is not None and kind == NodeKind.FEATURE:
            caption = self.captions.get(node)
            name = f"{site.label} #{int(self.nodes.index[node])}"
            return f"{name} \N{RIGHTWARDS ARROW} {caption}" if caption else name
        if site is not None:
            return f"{site.label} not explained"
        text = self.node_tokens.get(node, "?")
        if kind == NodeKind.EMBEDDING:
            return f"Token \N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"
        if contrasted(int(self.nodes.index[node])) is not None:
            return f"Output {text}"
        percent = 100 * float(self.nodes.probability[node])
        return (
            f"Output \N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK} "
            f"{percent:.1f}%"
        )

    # ---- questions -----------------------------------------------------------------------------

    def inputs(self, node: int) -> NodeEdges:
        """The edges into a node, strongest first; none for a node that was not traced."""
        nodes, weights = self.edges.into(int(node))
        return self._strongest(nodes, weights, np.full(len(nodes), self.totals[node]))

    def outputs(self, node: int) -> NodeEdges:
        """The edges out of a node, strongest first; none for a logit."""
        nodes, weights = self.edges.out_of(int(node))
        return self._strongest(nodes, weights, self.totals[nodes])

    @staticmethod
    def _strongest(nodes: Ints, weights: Floats, totals: Floats) -> NodeEdges:
        there = np.flatnonzero(weights)
        order = there[np.argsort(-np.abs(weights[there]), kind="stable")]
        shares = weights[order] / np.maximum(totals[order], TINY)
        return NodeEdges(nodes[order], weights[order], shares.astype(np.float32))

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
        kept = prune(
            self.edges.blocks(),
            self.influence,
            self.start,
            always=(kind == NodeKind.EMBEDDING) | (kind == NodeKind.LOGIT) | (self.start > 0),
            needs_inputs=(kind == NodeKind.FEATURE) & ~self.untraced,
            node_share=node_threshold,
            edge_share=edge_threshold,
        )
        totals = np.maximum(self.totals[kept.target], TINY)
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

        Nodes are named by ``node_name`` and carry kind, module (``attention`` or ``mlp``, ``""``
        for tokens and outputs), layer, position, index, activation, influence and label; edges
        carry ``weight`` and ``share``.
        """
        part = self.prune() if pruned is None else pruned
        graph = nx.DiGraph(prompt=self.prompt, model=self.model_name)
        for node in part.node_ids:
            site = self.nodes.site(node)
            graph.add_node(
                self.node_name(node),
                kind=NodeKind(int(self.nodes.kind[node])).name.lower(),
                module="" if site is None else site.kind,
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

        Looked for among all edges, or in a pruned graph; None where no path leads from one to the
        other.
        """
        found = self.strongest_paths((source,), target, 1, pruned).paths
        return list(found[0].nodes) if found else None

    def strongest_paths(
        self,
        sources: Iterable[int],
        target: int,
        k: int = 10,
        pruned: Optional[PrunedGraph] = None,
        ctx: Optional[WorkContext] = None,
    ) -> PathsFound:
        """The ``k`` paths from any of the sources to the target with the largest product of
        |shares|, and the share of the influence that they cover (see ``path_search``).

        Looked for among all edges, or in a pruned graph; shares are of the target's whole input in
        both.

        Raises:
            Cancelled: through ``ctx``.
        """
        edges, totals = self.edges, self.totals
        if pruned is not None:
            edges = GraphEdges.from_links(
                len(self.nodes), self.nodes.depth,
                pruned.edge_source, pruned.edge_target, pruned.edge_share,
            )  # fmt: skip
            totals = np.ones(len(self.nodes), dtype=np.float32)
        return strongest_paths(edges, totals, sources, target, k, ctx)

    def subgraph_scores(self, kept: Iterable[int]) -> GraphScores:
        """The scores of a part of the graph: what some features alone explain.

        The features that are not ``kept`` count as errors of their modules, so nothing is explained
        by what feeds them. With all features these are ``scores``, with none what errors and tokens
        write straight to the outputs.
        """
        rows = self.start > 0
        rows[list(kept)] = True
        features = self.nodes.kind == NodeKind.FEATURE
        folded = (self.nodes.kind == NodeKind.ERROR) | (features & ~rows)
        untraced = self.untraced & rows
        blocks = [
            EdgeBlock(block.targets[mine], block.columns, block.weights[mine])
            for block in self.edges.blocks()
            for mine in [np.flatnonzero(rows[block.targets])]
            if len(mine)
        ]
        influence = node_influence(blocks, self.totals, self.start)
        tokens = self.nodes.kind == NodeKind.EMBEDDING
        return GraphScores(
            replacement=replacement_score(influence, tokens, folded | untraced),
            completeness=completeness_score(
                blocks, self.totals, influence, self.start, folded, untraced
            ),
            max_identity_error=self.scores.max_identity_error,
        )

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
            "n_attention_features_active": int(
                ((self.nodes.kind == NodeKind.FEATURE) & (self.nodes.site_kind == 0)).sum()
            ),
            "n_nodes": len(self.nodes),
            "n_edges": self.n_edges,
            "seconds": round(self.seconds, 3),
            "replacement_score": scores.replacement,
            "completeness_score": scores.completeness,
            # Another tool's graph does not tell what its targets read.
            "max_identity_error": _number(scores.max_identity_error),
            "output": [
                {
                    "token": self.node_tokens.get(int(node), "?"),
                    "token_id": int(self.nodes.index[node]),
                    "probability": float(self.nodes.probability[node]),
                }
                for node in np.flatnonzero(self.nodes.kind == NodeKind.LOGIT)
            ],
            "n_features_untraced": int(self.untraced.sum()),
            "validated": self.validation is not None,
        }


def _name(kind: int, module: str, position: int, index: int) -> str:
    """A node's name; ``module``: the label of its site, "" for none."""
    if module:
        what = f"F{index}" if kind == NodeKind.FEATURE else "error"
        return f"{module}/P{position}/{what}"
    if kind == NodeKind.EMBEDDING:
        return f"P{position}/token"
    pair = contrasted(index)
    token = str(index) if pair is None else f"{pair[0]}-{pair[1]}"
    return f"P{position}/logit/{token}"


def _number(value: float) -> Optional[float]:
    return value if np.isfinite(value) else None
