"""Makes large graph files in the layout of Neuronpedia, of random nodes and links."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

_TOKENS = 12


def neuronpedia_file(path: Path, megabytes: float, seed: int = 0) -> None:
    """Write a graph file of about that size as Neuronpedia has them."""
    rng = np.random.default_rng(seed)
    n_links = round(megabytes * 1e6 / 83)
    n_features = max(60, round(2.4 * np.sqrt(n_links)))
    layers = np.sort(rng.integers(0, 26, n_features))
    where = rng.integers(1, _TOKENS, n_features)
    tokens = [f" t{number}" for number in range(_TOKENS)]
    blank = {"is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0}
    nodes = [
        {
            "node_id": f"{layer}_{number}_{at}", "feature": int(number), "layer": str(layer),
            "ctx_idx": int(at), "feature_type": "cross layer transcoder", "token_prob": 0.0,
            "jsNodeId": f"{layer}_{number}-0", "clerp": "", "influence": 0.5, "activation": 1.5,
            **blank,
        }
        for number, (layer, at) in enumerate(zip(layers.tolist(), where.tolist(), strict=True))
    ]  # fmt: skip
    nodes += [
        {
            "node_id": f"E_{at}_{at}", "feature": at, "layer": "E", "ctx_idx": at,
            "feature_type": "embedding", "token_prob": 0.0, "jsNodeId": f"E_{at}-{at}",
            "clerp": "", "influence": None, "activation": None, **blank,
        }
        for at in range(_TOKENS)
    ]  # fmt: skip
    logit = {
        "node_id": f"27_7_{_TOKENS - 1}", "feature": 7, "layer": "27", "ctx_idx": _TOKENS - 1,
        "feature_type": "logit", "token_prob": 0.9, "jsNodeId": "L_7-0",
        "clerp": 'Output " x" (p=0.900)', "influence": None, "activation": None, **blank,
        "is_target_logit": True,
    }  # fmt: skip
    nodes.append(logit)
    source, target = np.triu_indices(n_features, 1)
    forward = (layers[source] < layers[target]) & (where[source] <= where[target])
    pairs = np.stack([source[forward], target[forward]], 1)
    pairs = pairs[rng.permutation(len(pairs))[:n_links]]
    weights = rng.standard_normal(len(pairs)).tolist()
    names = [node["node_id"] for node in nodes]
    links = [
        {"source": names[start], "target": names[end], "weight": weight}
        for (start, end), weight in zip(pairs.tolist(), weights, strict=True)
    ]
    links += [
        {"source": name, "target": logit["node_id"], "weight": 0.1} for name in names[:n_features]
    ]
    value = {
        "metadata": {
            "slug": "made-up", "scan": "gemma-2-2b", "prompt_tokens": tokens,
            "prompt": "".join(tokens), "node_threshold": 0.8, "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": ""},
        "nodes": nodes, "links": links,
    }  # fmt: skip
    path.write_text(json.dumps(value), encoding="ascii")
