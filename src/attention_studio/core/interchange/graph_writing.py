"""A pruned graph as JSON in the dialects of circuit-tracer, Neuronpedia and Llamascopium.

What the readers want, found in their sources: circuit-tracer's viewer looks for ``"token" (p=0.5)``
in the words at an output and shows pages for features of type ``cross layer transcoder`` alone;
it and Neuronpedia number a feature by the Cantor pair of ``layer`` and latent and hide what has an
``influence`` above ``node_threshold``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

import attention_studio
from attention_studio.core.attribution_graph import AttributionGraph, NodeKind, PrunedGraph
from attention_studio.core.interchange.foreign_graph import ForeignGraph, everything
from attention_studio.core.interchange.graph_document import Dialect
from attention_studio.core.interchange.json_writing import write_ascii_json
from attention_studio.core.interchange.node_facts import cantor_pair
from attention_studio.core.qk_records import KeyTrace, strongest
from attention_studio.core.sites import Site, SiteKind

_WORDS: dict[tuple[NodeKind, Optional[SiteKind]], str] = {
    (NodeKind.FEATURE, "attention"): "lorsa",
    # Viewers know no other word for a transcoder of whichever kind.
    (NodeKind.FEATURE, "mlp"): "cross layer transcoder",
    (NodeKind.ERROR, "attention"): "lorsa error",
    (NodeKind.ERROR, "mlp"): "mlp reconstruction error",
    (NodeKind.EMBEDDING, None): "embedding",
    (NodeKind.LOGIT, None): "logit",
}


@dataclass(frozen=True)
class GraphView:
    """What a person did with a graph in a window: ``qParams``. Nodes are those of the graph.

    Attributes:
        pinned: pinned nodes.
        supernodes: labels and nodes of groups.
        clicked: the node that was clicked last.
        link_type: which links are shown: ``both``, ``input`` or ``output``.
        positions: where a viewer drew what was pinned (its ``sg_pos``).
    """

    pinned: tuple[int, ...] = ()
    supernodes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    clicked: Optional[int] = None
    link_type: str = "both"
    positions: str = ""


@dataclass(frozen=True)
class AttentionContributors:
    """What made an attention feature look where it looks, strongest first.

    ``pairs`` (query's node, key's node, value); ``queries`` and ``keys`` (node, value): all pairs
    of that node.
    """

    pairs: tuple[tuple[int, int, float], ...] = ()
    queries: tuple[tuple[int, float], ...] = ()
    keys: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, trace: KeyTrace, most: int = 10) -> AttentionContributors:
        """The strongest contributors to one key's score, at most ``most`` of each sort.

        A trace's sources are numbered like the nodes of a graph of its prompt; its last source, the
        biases, is no node and is left out.
        """
        n_nodes = len(trace.by_query) - 1

        def marginal(values: NDArray[np.float32]) -> tuple[tuple[int, float], ...]:
            order = strongest(values[:n_nodes], most).tolist()
            return tuple((node, float(values[node])) for node in order)

        pairs = zip(
            trace.pair_query.tolist(),
            trace.pair_key.tolist(),
            trace.pair_value.tolist(),
            strict=True,
        )
        kept = [(q, k, value) for q, k, value in pairs if q < n_nodes and k < n_nodes]
        return cls(tuple(kept[:most]), marginal(trace.by_query), marginal(trace.by_key))


@dataclass(frozen=True)
class GraphLabels:
    """What a written graph is called, and where a viewer finds pages about its features.

    Attributes:
        slug: its short name; viewers make an address of it.
        scan: names model and dictionaries; Neuronpedia takes it for its name of the model,
            circuit-tracer's server for the folder of feature files. None: the CRM's name.
        feature_details: Neuronpedia's ``feature_details``, such as ``neuronpedia_source_set``.
        dictionary_names: Llamascopium's names of dictionaries, by module.
    """

    slug: str = "graph"
    scan: Optional[str] = None
    feature_details: Mapping[str, str] = field(default_factory=dict)
    dictionary_names: Mapping[Site, str] = field(default_factory=dict)


def graph_json(
    graph: AttributionGraph,
    pruned: PrunedGraph,
    dialect: Dialect = "neuronpedia",
    labels: Optional[GraphLabels] = None,
    view: Optional[GraphView] = None,
    attention: Optional[Mapping[int, AttentionContributors]] = None,
) -> dict[str, Any]:
    """The pruned graph as a tool reads it.

    A graph without attention features has the same ids for Neuronpedia as for circuit-tracer:
    ``layer_latent_position``. One with them is written for Neuronpedia as its own graphs of
    complete replacement models are (``layer_lor_latent_position``, ``layer_cro_…``), and for
    circuit-tracer with modules counted as layers (2ℓ the attention, 2ℓ+1 the MLP), because it knows
    one dictionary per layer. Llamascopium counts modules always.

    Args:
        graph: the graph.
        pruned: which part of it.
        dialect: whose.
        labels: names; the defaults if None.
        view: what was pinned and grouped; nodes outside of ``pruned`` are left out.
        attention: by node, what made attention features look where they look.
    """
    writer = _Writer(graph, pruned, dialect, labels or GraphLabels())
    return writer.document(view or GraphView(), attention or {})


def save_graph_json(
    graph: AttributionGraph,
    pruned: PrunedGraph,
    path: Path,
    dialect: Dialect = "neuronpedia",
    labels: Optional[GraphLabels] = None,
    view: Optional[GraphView] = None,
) -> None:
    """Write what ``graph_json`` gives.

    Raises:
        FileWriteError: it cannot be written.
    """
    write_ascii_json(path, graph_json(graph, pruned, dialect, labels, view))


def converted(foreign: ForeignGraph, dialect: Dialect) -> dict[str, Any]:
    """Another tool's file in another tool's dialect.

    In its own dialect it is what was read. Else nodes and links are named anew, and every field
    that is not about names goes along, known here or not; ids in it are translated where they
    stand for nodes. Nodes and links that are no part of the graph (see ``ForeignGraph.notes``) are
    left out.
    """
    document = foreign.document
    if document.dialect == dialect:
        return document.value
    graph = foreign.graph
    scan = document.metadata.scan
    labels = GraphLabels(
        slug=document.metadata.slug or "graph", scan=scan if isinstance(scan, str) else None
    )
    writer = _Writer(graph, everything(graph), dialect, labels)
    clicked = foreign.nodes_of(document.view.clickedId or "")
    view = GraphView(
        pinned=foreign.pinned,
        supernodes=foreign.supernodes,
        clicked=clicked[0] if clicked else None,
        link_type=document.view.linkType or "both",
        positions=document.view.sg_pos or "",
    )
    made = writer.document(view, {})
    translation = {old: writer.ids[node] for node, old in enumerate(foreign.node_ids)}
    return _with_the_rest(made, foreign, translation)


def cumulative_influence(influence: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N] the share of all influence that a node and all with more influence have together.

    This is what viewers mean by ``influence`` (circuit-tracer's ``cumulative_scores``): the most
    influential node has the smallest share, and a threshold keeps what lies below it.
    """
    order = np.argsort(-influence, kind="stable")
    total = max(float(influence.sum(dtype=np.float64)), 1e-10)
    shares = np.empty(len(influence))
    shares[order] = np.minimum(np.cumsum(influence[order], dtype=np.float64) / total, 1.0)
    return shares


_Facts = tuple[NodeKind, Optional[SiteKind], int, int, int]


class _Writer:
    """Names and fields of one graph in one dialect."""

    def __init__(
        self, graph: AttributionGraph, pruned: PrunedGraph, dialect: Dialect, labels: GraphLabels
    ) -> None:
        self.graph, self.pruned, self.labels = graph, pruned, labels
        complete = graph.nodes.has_attention
        if dialect == "neuronpedia" and not complete:
            dialect = "circuit-tracer"
        self.dialect = dialect
        self.sites = dialect == "llamascopium" or (complete and dialect == "circuit-tracer")
        self._known: dict[int, _Facts] = {}
        self.ids = {int(node): self._id(int(node)) for node in pruned.node_ids}
        self.likeliest = float(graph.start.max(initial=0.0))

    # ---- names ---------------------------------------------------------------------------------

    def _facts(self, node: int) -> _Facts:
        """Kind, module, layer, position and index of a node, shown or not."""
        found = self._known.get(node)
        if found is None:
            nodes, site = self.graph.nodes, self.graph.nodes.site(node)
            found = self._known[node] = (
                NodeKind(int(nodes.kind[node])),
                None if site is None else site.kind,
                int(nodes.layer[node]),
                int(nodes.position[node]),
                int(nodes.index[node]),
            )
        return found

    def _layer(self, node: int) -> int:
        """The number of a node's layer; -1 for an embedding."""
        kind, site_kind, layer, _, _ = self._facts(node)
        if kind is NodeKind.EMBEDDING:
            return -1
        if kind is NodeKind.LOGIT:
            rows = 2 * self.graph.n_layers if self.sites else self.graph.n_layers
            # circuit-tracer leaves a row free below the outputs.
            return rows + (self.dialect == "circuit-tracer")
        return 2 * layer + (site_kind == "mlp") if self.sites else layer

    def _id(self, node: int) -> str:
        kind, site_kind, _, position, index = self._facts(node)
        if kind is NodeKind.EMBEDDING:
            return f"E_{index}_{position}"
        layer = self._layer(node)
        if kind is NodeKind.LOGIT:
            return f"{layer}_{index}_{position}"
        if kind is NodeKind.ERROR:
            if self.dialect == "neuronpedia":
                return f"{layer}_error_{'attn' if site_kind == 'attention' else 'mlp'}_{position}"
            if self.dialect == "llamascopium":
                return f"{layer}_error_{position}"
            # circuit-tracer itself writes 0_L_P, which is also feature L of layer 0; this is how
            # Neuronpedia's version of it avoids that.
            return f"{layer}_-1_{position}"
        if self.dialect == "neuronpedia":
            word = "lor" if site_kind == "attention" else "cro"
            return f"{layer}_{word}_{index}_{position}"
        return f"{layer}_{index}_{position}"

    def _word(self, node: int) -> str:
        kind, site_kind, _, _, _ = self._facts(node)
        if kind is NodeKind.FEATURE and self.dialect == "circuit-tracer":
            return _WORDS[kind, "mlp"]
        return _WORDS[kind, site_kind]

    def _says(self, node: int) -> str:
        kind, site_kind, _, position, _ = self._facts(node)
        if kind is NodeKind.FEATURE:
            return self.graph.label(node)
        if kind is NodeKind.ERROR:
            place = "attn" if site_kind == "attention" else "mlp"
            return f'Err: {place} "{self.graph.tokens[position]}"'
        text = self.graph.node_tokens.get(node, "?")
        if kind is NodeKind.EMBEDDING:
            return f'Emb: "{text}"'
        return f'Output "{text}" (p={float(self.graph.start[node]):.3f})'

    # ---- parts ---------------------------------------------------------------------------------

    def document(
        self, view: GraphView, attention: Mapping[int, AttentionContributors]
    ) -> dict[str, Any]:
        """Everything."""
        make = self._for_llamascopium if self.dialect == "llamascopium" else self._for_viewers
        shares = cumulative_influence(self.graph.influence)
        nodes = []
        for node in self.pruned.node_ids.tolist():
            made = make(node, float(shares[node]))
            if node in attention:
                made["qk_tracing_results"] = self._contributors(attention[node])
            nodes.append(made)
        ids = self.ids
        links = [
            {"source": ids[source], "target": ids[target], "weight": weight}
            for source, target, weight in zip(
                self.pruned.edge_source.tolist(),
                self.pruned.edge_target.tolist(),
                self.pruned.edge_weight.tolist(),
                strict=True,
            )
        ]
        return {
            "metadata": self._metadata(),
            "qParams": self._view(view),
            "nodes": nodes,
            "links": links,
        }

    def _for_viewers(self, node: int, share: float) -> dict[str, Any]:
        kind, _, _, position, index = self._facts(node)
        layer, length = self._layer(node), len(self.graph.tokens)
        complete = self.dialect == "neuronpedia"
        if kind is NodeKind.FEATURE:
            number: Optional[int] = cantor_pair(layer, index)
            js = f"{layer}_{index}-0"
        elif kind is NodeKind.LOGIT:
            number, js = index, f"L_{index}-{position}"
        elif kind is NodeKind.EMBEDDING:
            number, js = (None if complete else position), f"E_{index}-{position}"
        else:
            number, js = (None if complete else -1), f"{layer}_-1-{position}"
        identity = self.ids[node]
        weight = float(self.graph.start[node]) if kind is NodeKind.LOGIT else 0.0
        return {
            "node_id": identity,
            "feature": number,
            "layer": "E" if kind is NodeKind.EMBEDDING else str(layer),
            "ctx_idx": position,
            "feature_type": self._word(node),
            "token_prob": weight,
            "is_target_logit": kind is NodeKind.LOGIT and weight == self.likeliest,
            "run_idx": 0,
            "reverse_ctx_idx": length - 1 - position,
            "jsNodeId": identity if complete else js,
            "clerp": self._says(node),
            "influence": None if kind is NodeKind.LOGIT else share,
            "activation": self._activation(node),
        }

    def _for_llamascopium(self, node: int, share: float) -> dict[str, Any]:
        kind, site_kind, layer, position, index = self._facts(node)
        made: dict[str, Any] = {
            "feature_type": self._word(node),
            "node_id": self.ids[node],
            "layer": self._layer(node),
            "ctx_idx": position,
            "is_target_logit": False,
            "is_from_qk_tracing": False,
            "influence": None if kind is NodeKind.LOGIT else share,
        }
        if kind is NodeKind.FEATURE and site_kind is not None:
            made["feature"] = index
            made["sae_name"] = self.labels.dictionary_names.get(Site(layer, site_kind))
            made["activation"] = self._activation(node)
            made["qk_tracing_results"] = None
            made["clerp"] = self._says(node)
        elif kind is not NodeKind.ERROR:
            made["token"] = self.graph.node_tokens.get(node, "?")
        if kind is NodeKind.LOGIT:
            weight = float(self.graph.start[node])
            made["feature"] = index
            made["token_prob"] = weight
            made["is_target_logit"] = weight == self.likeliest
        return made

    def _activation(self, node: int) -> Optional[float]:
        if self._facts(node)[0] is not NodeKind.FEATURE:
            return None
        return _number(self.graph.nodes.activation[node])

    def _contributors(self, found: AttentionContributors) -> dict[str, Any]:
        def ids(node: int) -> str:
            return self.ids.get(node) or self._id(node)

        return {
            "pair_wise_contributors": [[ids(q), ids(k), value] for q, k, value in found.pairs],
            "top_q_marginal_contributors": [[ids(node), value] for node, value in found.queries],
            "top_k_marginal_contributors": [[ids(node), value] for node, value in found.keys],
        }

    def _view(self, view: GraphView) -> dict[str, Any]:
        groups = [
            [label, *(self.ids[node] for node in members if node in self.ids)]
            for label, members in view.supernodes
        ]
        return {
            "linkType": view.link_type,
            "pinnedIds": [self.ids[node] for node in view.pinned if node in self.ids],
            "clickedId": "" if view.clicked is None else self.ids.get(view.clicked, ""),
            "supernodes": [group for group in groups if len(group) > 1],
            "sg_pos": view.positions,
        }

    def _metadata(self) -> dict[str, Any]:
        graph, pruned, settings = self.graph, self.pruned, self.graph.settings
        own: dict[str, Any] = {
            "n_layers": graph.n_layers,
            "model_name": graph.model_name,
            "model_hash": graph.model_hash,
            "crm_name": graph.crm_name,
            "made_with": dict(graph.made_with),
            "scores": {name: _number(value) for name, value in asdict(graph.scores).items()},
            "settings": asdict(settings),
        }
        if self.sites:
            own["layers"] = "sites"
        if graph.output_weights is not None:
            outputs = [node for node in self.ids if graph.output_weights[node] > 0]
            own["outputs"] = {self.ids[node]: float(graph.output_weights[node]) for node in outputs}
        made: dict[str, Any] = {
            "slug": self.labels.slug,
            "scan": self.labels.scan or graph.crm_name,
            "transcoder_list": [],
            "prompt_tokens": list(graph.tokens),
            "prompt": graph.prompt,
            "node_threshold": pruned.node_threshold,
            "schema_version": 1,
            "info": {
                "creator_name": "AttentionStudio",
                "generator": {"name": "attention-studio", "version": attention_studio.__version__},
            },
            "generation_settings": {
                "max_n_logits": settings.max_logits,
                "desired_logit_prob": settings.logit_mass,
            },
            "pruning_settings": {
                "node_threshold": pruned.node_threshold,
                "edge_threshold": pruned.edge_threshold,
            },
            "attention_studio": own,
        }
        # Neuronpedia's schema knows numbers here, or no such field.
        chosen = (("max_feature_nodes", settings.max_features), ("batch_size", settings.batch))
        made["generation_settings"].update({key: n for key, n in chosen if n is not None})
        if self.labels.feature_details:
            made["feature_details"] = dict(self.labels.feature_details)
        return made


def _number(value: Any) -> Optional[float]:
    """A number, or None for what is not known (JSON has no NaN)."""
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None


_OF_NAMES = {
    "node_id",
    "jsNodeId",
    "feature",
    "layer",
    "feature_type",
    "ctx_idx",
    "qk_tracing_results",
}
"""Fields of a node that each dialect has its own way to write."""


def _with_the_rest(
    made: dict[str, Any], foreign: ForeignGraph, translation: Mapping[str, str]
) -> dict[str, Any]:
    """``made`` with what else the file had: fields of nodes, of links (their weights with all
    digits), of the head, of the view, of all."""
    value = foreign.document.value
    ids = [node["node_id"] for node in made["nodes"]]
    made["links"] = [
        {**value["links"][place], "source": ids[source], "target": ids[target]}
        for source, target, place in foreign.links.tolist()
    ]
    for node, place in zip(made["nodes"], foreign.places, strict=True):
        raw = value["nodes"][place]
        for key, kept in raw.items():
            if key not in _OF_NAMES and (kept is not None or key not in node):
                node[key] = kept
        if raw.get("qk_tracing_results") is not None:
            node["qk_tracing_results"] = _translated(raw["qk_tracing_results"], translation)
    head = foreign.document.head
    ours = ("schema_version", "transcoder_list", "attention_studio", "slug", "scan")
    made["metadata"] = {
        **made["metadata"],
        **{key: kept for key, kept in head.items() if key not in ours and kept is not None},
    }
    for key, kept in (value.get("qParams") or {}).items():
        made["qParams"].setdefault(key, _translated(kept, translation))
    for key, kept in value.items():
        made.setdefault(key, kept)
    return made


def _translated(value: Any, translation: Mapping[str, str]) -> Any:
    """The same value with ids of nodes in lists and tables as the new dialect has them."""
    if isinstance(value, str):
        return translation.get(value, value)
    if isinstance(value, list):
        return [_translated(part, translation) for part in value]
    if isinstance(value, dict):
        return {key: _translated(part, translation) for key, part in value.items()}
    return value
