"""Graphs and reports made from random numbers, in the shape of real ones, for tests of the window.

Their weights are drawn so that a picture of them looks like one of a real prompt: few strong edges,
many weak ones, most influence at the last token and in the first and last layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attention_studio.core.attribution_graph import (
    AttributionGraph,
    GraphNodes,
    GraphSettings,
    NodeKind,
)
from attention_studio.core.graph_edges import GraphEdges

if TYPE_CHECKING:
    from attention_studio.core.feature_extractor import FeatureReport

TOKENS = ("<|endoftext|>", "The", " Eiffel", " Tower", " is", " in", " the", " city", " of")
LOGITS = (
    (" Paris", 0.62),
    (" London", 0.11),
    (" Lyon", 0.06),
    (" the", 0.04),
    (" Par", 0.03),
    (" Rome", 0.02),
    (" France", 0.012),
    (" Berlin", 0.008),
)
WORDS = (
    "Paris, France, Lyon", "tower, towers", "city, cities", "located, situated", "the, this",
    "Europe, European", "of, from", "capital, Capital", "building, monument", "in, within",
    "iron, steel", "London, UK", "is, was", "Seine, river", "tall, height",
)  # fmt: skip


def synthetic_graph(
    tokens: tuple[str, ...] = TOKENS,
    n_layers: int = 30,
    n_features: int = 900,
    seed: int = 0,
    density: float = 0.3,
    attention: bool = False,
) -> AttributionGraph:
    """An attribution graph of random weights that satisfies the identity of a real one.

    ``attention``: half of the features and errors are those of attentions.
    """
    rng = np.random.default_rng(seed)
    n_tokens = len(tokens)
    where = np.r_[0.0, rng.uniform(0.4, 1.6, n_tokens - 2), 3.0]
    where /= where.sum()
    depth = np.ones(n_layers)
    depth[: max(1, n_layers // 8)] = 2.0
    depth[-max(1, n_layers // 5) :] = 2.0
    layer = np.sort(rng.choice(n_layers, n_features, p=depth / depth.sum()))
    site = 2 * layer + 1
    error_sites = 2 * np.arange(n_layers) + 1
    if attention:
        site = np.sort(site - rng.integers(0, 2, n_features))
        error_sites = np.arange(2 * n_layers)
    position = rng.choice(n_tokens, n_features, p=where)
    n_errors, n_logits = len(error_sites) * n_tokens, len(LOGITS)
    kinds = (NodeKind.FEATURE, NodeKind.ERROR, NodeKind.EMBEDDING, NodeKind.LOGIT)
    counts = (n_features, n_errors, n_tokens, n_logits)
    chance = np.array([probability for _, probability in LOGITS], dtype=np.float32)
    every = np.arange(n_tokens)
    nodes = GraphNodes(
        kind=np.repeat(np.array(kinds, dtype=np.int8), counts),
        site_kind=np.r_[
            site % 2, np.repeat(error_sites % 2, n_tokens), np.full(n_tokens + n_logits, -1)
        ].astype(np.int8),
        layer=np.r_[
            site // 2,
            np.repeat(error_sites // 2, n_tokens),
            np.full(n_tokens, -1),
            np.full(n_logits, n_layers),
        ].astype(np.int16),
        position=np.r_[
            position, np.tile(every, len(error_sites)), every, np.full(n_logits, n_tokens - 1)
        ].astype(np.int32),
        index=np.r_[
            rng.permutation(max(4096, n_features))[:n_features],
            np.full(n_errors, -1),
            100 + every,
            500 + np.arange(n_logits),
        ].astype(np.int64),
        activation=np.r_[
            rng.gamma(2.0, 2.0, n_features),
            rng.gamma(2.0, 4.0, n_errors),
            np.ones(n_tokens),
            8.0 + np.log(chance / chance[0]),
        ].astype(np.float32),
        probability=np.r_[np.zeros(n_features + n_errors + n_tokens), chance].astype(np.float32),
    )
    n_sources = n_features + n_errors + n_tokens
    targets = np.r_[n_sources + np.arange(n_logits), np.arange(n_features)].astype(np.int64)
    weights = _weights(rng, nodes, targets, n_sources, density)
    edges, _ = GraphEdges.from_matrix(weights, targets, nodes.depth)
    biases = rng.normal(0.0, 0.1, len(targets)).astype(np.float32)
    first = n_features + n_errors
    texts = [*tokens, *(text for text, _ in LOGITS)]
    return AttributionGraph(
        prompt="".join(tokens[1:]),
        tokens=tokens,
        token_ids=tuple(range(100, 100 + n_tokens)),
        model_name="smollm2-135m",
        model_hash="0" * 64,
        crm_name="synthetic",
        n_layers=n_layers,
        nodes=nodes,
        node_tokens={first + number: text for number, text in enumerate(texts)},
        edges=edges,
        biases=biases,
        values=(edges.dense().sum(1, dtype=np.float64) + biases).astype(np.float32),
        settings=GraphSettings(),
        seconds=2.31,
        captions={int(node): WORDS[node % len(WORDS)] for node in range(n_features)},
    )


def _weights(
    rng: np.random.Generator,
    nodes: GraphNodes,
    targets: np.ndarray,
    n_sources: int,
    density: float,
) -> np.ndarray:
    importance = 0.02 + rng.pareto(1.5, n_sources)
    kind = nodes.kind[:n_sources]
    importance[kind == NodeKind.ERROR] *= 0.25
    importance[kind == NodeKind.EMBEDDING] += 1.5
    weights = np.zeros((len(targets), n_sources), dtype=np.float32)
    for row, target in enumerate(targets):
        below = np.flatnonzero(
            (nodes.depth[:n_sources] < nodes.depth[target])
            & (nodes.position[:n_sources] <= nodes.position[target])
        )
        below = below[(rng.random(len(below)) < density) | (kind[below] == NodeKind.EMBEDDING)]
        rise = nodes.layer[target].astype(float) - nodes.layer[below]
        near = np.exp(-rise / 9.0) + 0.05
        near *= np.where(nodes.position[below] == nodes.position[target], 3.0, 1.0)
        size = near * importance[below] * rng.random(len(below)) ** 3
        weights[row, below] = size * rng.choice([-1.0, 1.0], len(below), p=[0.3, 0.7])
    return weights


def synthetic_report(
    tokens: tuple[str, ...] = TOKENS,
    n_layers: int = 30,
    top_k: int = 20,
    seed: int = 0,
    attention: bool = False,
) -> FeatureReport:
    """A report of random features, each active at one to four positions.

    ``attention``: those of even numbers are features of attentions.
    """
    from attention_studio.core.feature_extractor import FeatureRecord, FeatureReport
    from attention_studio.core.sites import Site

    rng = np.random.default_rng(seed)
    n_tokens = len(tokens)
    active: dict[tuple[int, int, int], float] = {}
    while len(active) < n_tokens * top_k * 3:
        layer, index = int(rng.integers(n_layers)), int(rng.integers(4096))
        for position in rng.choice(np.arange(1, n_tokens), min(4, n_tokens - 1), replace=False)[
            : rng.integers(1, 5)
        ]:
            active[layer, int(position), index] = float(rng.gamma(2.0, 2.0))

    def site_of(key: tuple[int, int, int]) -> Site:
        return Site(key[0], "attention" if attention and key[2] % 2 == 0 else "mlp")

    def record(key: tuple[int, int, int]) -> FeatureRecord:
        layer, position, index = key
        site = site_of(key)
        words = WORDS[index % len(WORDS)].split(", ") + WORDS[layer % len(WORDS)].split(", ")
        against = [*WORDS[(index + 7) % len(WORDS)].split(", "), "never", "not"]
        return FeatureRecord(
            layer,
            position,
            index,
            active[key],
            tuple((" " + word, 2.2 - 0.35 * rank) for rank, word in enumerate(words)),
            tuple((" " + word, -1.9 + 0.3 * rank) for rank, word in enumerate(against)),
            site.kind,
        )

    order = sorted(active, key=lambda key: -active[key])
    by_position = tuple(
        tuple(record(key) for key in [k for k in order if k[1] == position][:top_k])
        for position in range(n_tokens)
    )
    keys = np.array([(site_of(key).number, *key[1:]) for key in order], dtype=np.int64)
    return FeatureReport(
        prompt="".join(tokens[1:]),
        tokens=tokens,
        token_ids=tuple(range(n_tokens)),
        overall=tuple(record(key) for key in order[:top_k]),
        by_position=by_position,
        n_active=len(order),
        seconds=0.4,
        active=keys,
        active_values=np.array([active[key] for key in order], dtype=np.float32),
    )
