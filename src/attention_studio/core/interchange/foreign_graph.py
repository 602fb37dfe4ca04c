"""Another tool's graph file as an ``AttributionGraph``: shown, pruned and scored like our own.

What the file does not say is not made up. Values that targets read are NaN (so there is no identity
error), unknown token ids are -1, unknown activations NaN, the model's hash is empty; ``notes`` says
so in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Optional

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from attention_studio.core.attribution_graph import (
    AttributionGraph,
    GraphNodes,
    NodeKind,
    PrunedGraph,
)
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_settings import GraphError, GraphSettings
from attention_studio.core.interchange.graph_document import GraphDocument, is_error
from attention_studio.core.interchange.node_facts import (
    MAX_INDEX,
    MAX_LAYERS,
    NodeFact,
    check_distinct,
    fact_of,
    refused,
)
from attention_studio.core.sites import SITE_KINDS
from attention_studio.core.trace_circumstances import read_circumstances

_LOGIT_WORDS = re.compile(r'(?:Output|Logit) "(?P<token>.*)" \(p=(?P<p>[0-9.]{1,20})\)', re.DOTALL)


@dataclass(frozen=True, eq=False)
class ForeignGraph:
    """A file and the graph that was made of it.

    Attributes:
        document: everything that is in the file.
        graph: what of it is a graph to us. Its rows are those of a pruned graph: the inputs that
            the file has, not all that there were.
        places: [n_nodes] where in the file's ``nodes`` every node of ``graph`` is.
        links: int64 [n_links, 3], of every link of the file that is one of ``graph``: its nodes
            (source, target), and where it is among the file's ``links``, in the file's order.
        notes: what the file does not tell, or what was left out, in sentences.
    """

    document: GraphDocument
    graph: AttributionGraph
    places: tuple[int, ...]
    links: NDArray[np.int64]
    notes: tuple[str, ...]

    @cached_property
    def node_ids(self) -> tuple[str, ...]:
        """[n_nodes] the id in the file of every node of ``graph``; a few may be the same."""
        return tuple(self.document.nodes[place].node_id for place in self.places)

    @cached_property
    def _by_id(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for node, name in enumerate(self.node_ids):
            found[name] = (*found.get(name, ()), node)
        return found

    @property
    def pinned(self) -> tuple[int, ...]:
        """Pinned nodes of the graph."""
        return tuple(node for i in self.document.pinned_ids for node in self.nodes_of(i))

    @property
    def supernodes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Labels and nodes of the groups; members that are no nodes of the graph are left out."""
        return tuple(
            (group.label, tuple(node for i in group.node_ids for node in self.nodes_of(i)))
            for group in self.document.supernodes
        )

    def nodes_of(self, node_id: str) -> tuple[int, ...]:
        """The nodes with an id of the file: one, none, or two where ids collide."""
        return self._by_id.get(node_id, ())

    def everything(self) -> PrunedGraph:
        """All nodes and edges, as the file has them."""
        return everything(self.graph)


def read_foreign_graph(path: Path) -> ForeignGraph:
    """Open a graph file of circuit-tracer, Neuronpedia or Llamascopium.

    Raises:
        GraphDocumentError: it cannot be read, or is no graph that can be traced.
    """
    return as_graph(GraphDocument.read(path), path.name)


def everything(graph: AttributionGraph) -> PrunedGraph:
    """The graph with all nodes and edges, in the form of a pruned one."""
    sources, targets, weights = [], [], []
    for block in graph.edges.blocks():
        row, column = np.nonzero(block.weights)
        sources.append(block.columns[column])
        targets.append(block.targets[row])
        weights.append(block.weights[row, column])
    source, target = (
        np.concatenate(part or [np.zeros(0, np.int64)]) for part in (sources, targets)
    )
    weight = np.concatenate(weights or [np.zeros(0, np.float32)])
    totals = np.bincount(target, np.abs(weight), len(graph.nodes)).astype(np.float32)
    return PrunedGraph(
        node_ids=np.arange(len(graph.nodes), dtype=np.int64),
        edge_source=source,
        edge_target=target,
        edge_weight=weight,
        edge_share=weight / np.maximum(totals[target], np.float32(1e-10)),
        influence=graph.influence,
        node_threshold=1.0,
        edge_threshold=1.0,
    )


def as_graph(document: GraphDocument, name: str = "the graph") -> ForeignGraph:
    """Make a graph of a document; ``name`` is for messages.

    Raises:
        GraphDocumentError: a node is of no layer or latent that can be told, two nodes are the
            same, two links join the same nodes, or a link does not lead forward through the model
            (as in every circle one does).
    """
    biases: set[str] = set()
    unknown: dict[str, int] = {}
    facts: list[NodeFact] = []
    for place, node in enumerate(document.nodes):
        fact = fact_of(document, node, place, name)
        if fact is not None:
            facts.append(fact)
        elif node.feature_type == "bias":
            biases.add(node.node_id)
        else:
            unknown[node.feature_type] = unknown.get(node.feature_type, 0) + 1
    facts.sort(key=lambda fact: fact.kind)
    check_distinct(facts, name)
    own_layers = document.own.get("n_layers")
    n_layers = _n_layers(document, facts, own_layers if type(own_layers) is int else None)
    nodes, node_tokens = _nodes(document, facts, n_layers)
    n_sources = sum(fact.kind is not NodeKind.LOGIT for fact in facts)
    notes = list(_notes(document, facts, unknown))
    edges, links, bias_of, ambiguous = _edges(document, facts, nodes, n_sources, biases, name)
    if ambiguous:
        notes.append(
            f"{ambiguous} links start at an id that both a feature and an error have; "
            "they are taken for the feature's"
        )
    own = document.own
    known = ("model_name", "model_hash", "crm_name")
    names = {key: own[key] for key in known if isinstance(own.get(key), str)}
    scan = document.metadata.scan
    scan = ", ".join(scan) if isinstance(scan, list) else scan or ""
    graph = AttributionGraph(
        prompt=document.metadata.prompt,
        tokens=tuple(document.metadata.prompt_tokens),
        token_ids=_token_ids(document, facts),
        model_name=names.get("model_name", scan or "unknown"),
        model_hash=names.get("model_hash", ""),
        crm_name=names.get("crm_name", _dictionaries(document) or "unknown"),
        n_layers=n_layers,
        nodes=nodes,
        node_tokens=node_tokens,
        edges=edges,
        biases=bias_of[edges.targets].astype(np.float32),
        values=np.full(len(edges.targets), np.nan, dtype=np.float32),
        settings=_settings(document),
        seconds=0.0,
        captions=dict(_captions(facts)),
        output_weights=_output_weights(document, facts),
        made_with=_made_with(document),
    )
    return ForeignGraph(document, graph, tuple(fact.place for fact in facts), links, tuple(notes))


def _made_with(document: GraphDocument) -> dict[str, str]:
    try:
        return read_circumstances(document.own.get("made_with", {}))
    except ValueError:
        return {}


# ---- nodes -------------------------------------------------------------------------------------


def _n_layers(document: GraphDocument, facts: list[NodeFact], own: Optional[int]) -> int:
    below = max((fact.site.layer + 1 for fact in facts if fact.site is not None), default=0)
    if own is not None and below <= own <= MAX_LAYERS:
        return own
    logits = [int(fact.node.layer) for fact in facts if fact.kind is NodeKind.LOGIT]
    if not logits:
        return max(below, 1)
    # circuit-tracer leaves a row free between the last layer and the outputs.
    layers = {
        "circuit-tracer": max(logits) - 1,
        "neuronpedia": max(logits),
        "llamascopium": max(logits) // 2,
    }[document.dialect]
    return min(max(below, layers, 1), MAX_LAYERS)


def _nodes(
    document: GraphDocument, facts: list[NodeFact], n_layers: int
) -> tuple[GraphNodes, dict[int, str]]:
    probability = np.zeros(len(facts), dtype=np.float32)
    activation = np.full(len(facts), np.nan, dtype=np.float32)
    words: dict[int, str] = {}
    for place, fact in enumerate(facts):
        node = fact.node
        if node.activation is not None:
            activation[place] = np.float32(node.activation)
        if fact.kind == NodeKind.EMBEDDING:
            words[place] = document.metadata.prompt_tokens[node.ctx_idx]
        elif fact.kind is NodeKind.LOGIT:
            told = _LOGIT_WORDS.fullmatch(node.clerp or "")
            words[place] = node.token or (told["token"] if told else node.clerp) or "?"
            if node.token_prob is not None:
                probability[place] = node.token_prob
            elif told is not None:
                probability[place] = _probability(told["p"])
    nodes = GraphNodes(
        kind=np.array([fact.kind for fact in facts], dtype=np.int8),
        site_kind=np.array(
            [-1 if fact.site is None else SITE_KINDS.index(fact.site.kind) for fact in facts],
            dtype=np.int8,
        ),
        layer=np.array(
            [_depth_of(fact, n_layers) for fact in facts],
            dtype=np.int16,
        ),
        position=np.array([fact.node.ctx_idx for fact in facts], dtype=np.int32),
        index=np.array([fact.index for fact in facts], dtype=np.int64),
        activation=activation,
        probability=probability,
    )
    return nodes, words


def _depth_of(fact: NodeFact, n_layers: int) -> int:
    if fact.site is not None:
        return fact.site.layer
    return n_layers if fact.kind is NodeKind.LOGIT else -1


def _probability(text: str) -> float:
    try:
        return min(float(text), 1.0)
    except ValueError:
        return 0.0


def _output_weights(
    document: GraphDocument, facts: list[NodeFact]
) -> Optional[np.ndarray[Any, np.dtype[np.float32]]]:
    """What this studio wrote of them; None in every other file."""
    found = document.own.get("outputs")
    if not isinstance(found, dict):
        return None
    weights = np.zeros(len(facts), dtype=np.float32)
    for place, fact in enumerate(facts):
        weight = found.get(fact.node.node_id)
        if isinstance(weight, float) and 0.0 <= weight <= _MOST and not is_error(fact.node):
            weights[place] = weight
    return weights


_MOST = 1e30


def _token_ids(document: GraphDocument, facts: list[NodeFact]) -> tuple[int, ...]:
    ids = [-1] * len(document.metadata.prompt_tokens)
    for fact in facts:
        if fact.kind == NodeKind.EMBEDDING and 0 <= fact.index < MAX_INDEX:
            ids[fact.node.ctx_idx] = fact.index
    return tuple(ids)


def _captions(facts: list[NodeFact]) -> Iterator[tuple[int, str]]:
    """The words at features; what our own writer put before them is taken off again."""
    for place, fact in enumerate(facts):
        text = (fact.node.clerp or "").strip()
        if fact.kind != NodeKind.FEATURE or not text or fact.site is None:
            continue
        own = f"{fact.site.label} #{fact.index}"
        if text.startswith(own):
            text = text[len(own) :].removeprefix(" \N{RIGHTWARDS ARROW} ")
        if text:
            yield place, text


# ---- edges -------------------------------------------------------------------------------------


def _edges(
    document: GraphDocument,
    facts: list[NodeFact],
    nodes: GraphNodes,
    n_sources: int,
    biases: set[str],
    name: str,
) -> tuple[GraphEdges, NDArray[np.int64], NDArray[np.float64], int]:
    """The edges, the links that they are (``ForeignGraph.links``), what bias nodes add to each
    node, and how many links start at a shared id."""
    first, second = _facts_at(document, facts)
    is_bias = np.array([node.node_id in biases for node in document.nodes], dtype=bool)
    start, end = document.sources, document.targets
    depth = nodes.depth
    # Of a feature and an error with one id, the feature alone has inputs.
    source, target = first[start], first[end]
    there = target >= 0
    biased = there & is_bias[start]
    linked = there & ~is_bias[start] & (source >= 0)
    alone = linked & (second[start] < 0)
    wrong = np.where(there, nodes.kind[target] == NodeKind.ERROR, is_bias[end])
    wrong |= alone & (depth[source] >= depth[target])
    for place in np.flatnonzero(wrong).tolist():
        _refuse_link(document, nodes, place, int(target[place]), name)
    bias_of = np.bincount(target[biased], document.weights[biased], len(nodes)).astype(np.float64)
    ambiguous: set[tuple[int, int]] = set()
    taken: set[tuple[int, int]] = set()
    for place in np.flatnonzero(linked & ~alone).tolist():
        into = int(target[place])
        candidates = (int(first[start[place]]), int(second[start[place]]))
        possible = [node for node in candidates if depth[node] < depth[into]]
        if not possible:
            _refuse_link(document, nodes, place, into, name)
        # circuit-tracer lists features' links before errors'.
        found = next((node for node in possible if (node, into) not in taken), possible[-1])
        if len(possible) > 1:
            # Told apart only where there is a link of each.
            pair = (int(start[place]), into)
            (ambiguous.add if found == possible[0] else ambiguous.discard)(pair)
        taken.add((found, into))
        source[place] = found
    places = np.flatnonzero(linked)
    _refuse_twice(document, source[places] * len(nodes) + target[places], places, name)
    links = np.stack([source[places], target[places], places], 1).astype(np.int64)
    weights = document.weights[links[:, 2]].astype(np.float32)
    edges = GraphEdges.from_links(n_sources, depth, links[:, 0], links[:, 1], weights)
    return edges, links, bias_of, len(ambiguous)


def _facts_at(
    document: GraphDocument, facts: list[NodeFact]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By the place of a node of the file, the node of the graph that has its id, and the other one
    where two have it (features before errors); -1 where none."""
    first = np.full(len(document.nodes), -1, dtype=np.int64)
    second = first.copy()
    place_of: dict[str, int] = {}
    for place, node in enumerate(document.nodes):
        place_of.setdefault(node.node_id, place)
    for number, fact in enumerate(facts):
        place = place_of[fact.node.node_id]
        (first if first[place] < 0 else second)[place] = number
    return first, second


def _refuse_link(
    document: GraphDocument, nodes: GraphNodes, place: int, target: int, name: str
) -> NoReturn:
    """Say what is wrong with a link.

    Raises:
        GraphDocumentError: always.
    """
    start = document.nodes[int(document.sources[place])].node_id
    end = document.nodes[int(document.targets[place])].node_id
    if target < 0:
        raise refused(name, f"links.{place} leads into {end!r}, and biases read nothing")
    if nodes.kind[target] == NodeKind.ERROR:
        raise refused(name, f"links.{place} leads into {end!r}, and errors read nothing")
    raise refused(
        name,
        f"links.{place} leads from {start!r} to {end!r}, which is not later in the "
        "forward pass: links that run back or in a circle cannot be traced",
    )


def _refuse_twice(
    document: GraphDocument, pairs: NDArray[np.int64], places: NDArray[np.int64], name: str
) -> None:
    """Refuse two links between the same nodes.

    Raises:
        GraphDocumentError: names the ends of the first that is there again.
    """
    order = np.argsort(pairs, kind="stable")
    again = np.flatnonzero(np.diff(pairs[order]) == 0)
    if len(again):
        place = int(places[order[again + 1]].min())
        start = document.nodes[int(document.sources[place])].node_id
        end = document.nodes[int(document.targets[place])].node_id
        raise refused(name, f"two links lead from {start!r} to {end!r}")


# ---- the rest ----------------------------------------------------------------------------------


_OWN_SETTINGS = TypeAdapter(GraphSettings)


def _settings(document: GraphDocument) -> GraphSettings:
    """As far as the file tells and they make sense; else the defaults, which nothing depends on.

    How much memory and what batches are used is not for a file to say.
    """
    own = document.own.get("settings")
    if isinstance(own, dict):
        own = {key: part for key, part in own.items() if key not in ("max_gigabytes", "batch")}
        with suppress(ValidationError, GraphError):
            return _OWN_SETTINGS.validate_python(own)
    raw = document.head.get("generation_settings")
    raw = raw if isinstance(raw, dict) else {}
    kept: dict[str, Any] = {}
    for name, key in (("max_logits", "max_n_logits"), ("max_features", "max_feature_nodes")):
        value = raw.get(key)
        if type(value) is int and 1 <= value < MAX_INDEX:
            kept[name] = value
    mass = raw.get("desired_logit_prob")
    if isinstance(mass, (int, float)) and not isinstance(mass, bool) and 0 < mass <= 1:
        kept["logit_mass"] = float(mass)
    return GraphSettings(**kept)


def _dictionaries(document: GraphDocument) -> str:
    """What the file calls the dictionaries; "" where it does not."""
    places = (
        ("info", "transcoder_set"),
        ("feature_details", "neuronpedia_source_set"),
        ("info", "neuronpedia_source_set"),
    )
    for table, key in places:
        found = document.head.get(table)
        if isinstance(found, dict) and isinstance(found.get(key), str):
            return str(found[key])
    names = document.head.get("transcoder_list")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return ", ".join(names)
    return ""


def _notes(
    document: GraphDocument, facts: list[NodeFact], unknown: dict[str, int]
) -> Iterator[str]:
    if not document.own.get("model_hash"):
        yield "The file does not identify the model's weights"
    yield (
        "The file has no values that targets read and none of the links that pruning took away, so "
        "there is no identity error, and scores are those of the pruned graph"
    )
    if not any(
        fact.node.token_prob or fact.node.clerp for fact in facts if fact.kind == NodeKind.LOGIT
    ):
        yield "No output has a probability, so there are no influences and no scores"
    missing = sum(fact.kind == NodeKind.FEATURE and fact.node.activation is None for fact in facts)
    if missing:
        yield f"{missing} features have no activation"
    for word, count in sorted(unknown.items()):
        yield f"{count} nodes of a kind that is not known here are left out: {word[:60]!r}"
