"""Small graphs made by hand."""

from __future__ import annotations

import numpy as np

from attention_studio.core.attribution_graph import AttributionGraph, GraphNodes, NodeKind
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_settings import GraphSettings

TOKENS = ("<s>", "the", " cat", "\n")
N_LAYERS = 3


def hand_graph(complete: bool = True, seed: int = 0, per_place: int = 2) -> AttributionGraph:
    """Random edges between random features at every module and position, errors, tokens and two
    outputs; ``complete`` gives the attentions features, too."""
    generator = np.random.default_rng(seed)
    length = len(TOKENS)
    rows: list[tuple[int, int, int, int, int]] = []
    kinds = (0, 1) if complete else (1,)
    for layer in range(N_LAYERS):
        for kind in kinds:
            for position in range(1, length):
                for index in sorted(generator.choice(50, per_place, replace=False).tolist()):
                    rows.append((NodeKind.FEATURE, kind, layer, position, index))
    n_features = len(rows)
    rows += [
        (NodeKind.ERROR, kind, layer, position, -1)
        for layer in range(N_LAYERS)
        for kind in kinds
        for position in range(length)
    ]
    rows += [(NodeKind.EMBEDDING, -1, -1, position, 100 + position) for position in range(length)]
    n_sources = len(rows)
    rows += [(NodeKind.LOGIT, -1, N_LAYERS, length - 1, token) for token in (7, 11)]
    kind, site_kind, layer_of, position_of, index_of = np.array(rows).T
    probability = np.zeros(len(rows), dtype=np.float32)
    probability[-2:] = (0.625, 0.25)
    nodes = GraphNodes(
        kind=kind.astype(np.int8),
        site_kind=site_kind.astype(np.int8),
        layer=layer_of.astype(np.int16),
        position=position_of.astype(np.int32),
        index=index_of.astype(np.int64),
        activation=generator.uniform(0.5, 3, len(rows)).astype(np.float32),
        probability=probability,
    )
    depth = nodes.depth
    sources, targets = [], []
    for target in [*range(n_features), *range(n_sources, len(rows))]:
        below = (depth[:n_sources] < depth[target]) & (
            nodes.position[:n_sources] <= nodes.position[target]
        )
        chosen = np.flatnonzero(below & (generator.random(n_sources) < 0.6))
        sources.append(chosen)
        targets.append(np.full(len(chosen), target))
    source, target_of = np.concatenate(sources), np.concatenate(targets)
    weight = generator.standard_normal(len(source)).astype(np.float32)
    edges = GraphEdges.from_links(n_sources, depth, source, target_of, weight)
    biases = generator.standard_normal(len(edges.targets)).astype(np.float32)
    sums = np.concatenate([block.weights.sum(1) for block in edges.blocks()])
    words = {n_sources - length + i: text for i, text in enumerate(TOKENS)}
    return AttributionGraph(
        prompt="the cat\n",
        tokens=TOKENS,
        token_ids=(100, 101, 102, 103),
        model_name="tiny",
        model_hash="ab" * 32,
        crm_name="by hand",
        n_layers=N_LAYERS,
        nodes=nodes,
        node_tokens={**words, n_sources: ' "sat"', n_sources + 1: "\x00\n"},
        edges=edges,
        biases=biases,
        values=(sums + biases).astype(np.float32),
        settings=GraphSettings(),
        seconds=0.5,
        captions={0: "mat, hat"},
    )
