"""Runs where circuit-tracer is installed: traces prompts, and writes what it finds.

Takes a JSON file with a list of [MODEL FOLDER, TRANSCODER FOLDER, TOKEN IDS, OUT]. For each it
writes OUT.safetensors

    active [n, 3]        layer, position and latent of each active feature
    tokens, probability  of the traced outputs
    edge [2, m]          target and source of each edge that is not zero, in circuit-tracer's order
    weight [m]           of nodes: features, errors by layer and position, tokens, outputs
    nodes_i [k]          what is left of them after pruning at the i-th thresholds
    edges_i [2, j]       likewise

and OUT.json with the scores, the thresholds, the ids and the versions.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from circuit_tracer import attribute
from circuit_tracer.graph import compute_graph_scores, prune_graph
from circuit_tracer_model import open_model
from safetensors.torch import save_file

THRESHOLDS = ((0.8, 0.98), (0.6, 0.9))


def trace(folder: str, transcoders: str, ids: list[int], out: str) -> None:
    model = open_model(Path(folder), Path(transcoders))
    graph = attribute(torch.tensor(ids), model, batch_size=16)
    assert graph.input_tokens.tolist() == ids
    matrix = graph.adjacency_matrix
    edge = matrix.nonzero().T
    tensors = {
        "active": graph.active_features.int(),
        "tokens": graph.logit_token_ids.int(),
        "probability": graph.logit_probabilities,
        "edge": edge.int(),
        "weight": matrix[edge[0], edge[1]],
    }
    for i, (nodes, edges) in enumerate(THRESHOLDS):
        pruned = prune_graph(graph, nodes, edges)
        tensors[f"nodes_{i}"] = pruned.node_mask.nonzero().squeeze(1).int()
        tensors[f"edges_{i}"] = pruned.edge_mask.nonzero().T.int()
    replacement, completeness = compute_graph_scores(graph)
    found = {
        "ids": ids,
        "replacement": replacement,
        "completeness": completeness,
        "thresholds": THRESHOLDS,
        "versions": {name: version(name) for name in ("circuit-tracer", "torch")},
    }
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, f"{out}.safetensors")
    Path(f"{out}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        trace(*job)
