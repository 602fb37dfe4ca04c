"""circuit-tracer's own ``attribute``, scores, pruning and files."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Optional

import clock
import torch
from answers import Job
from circuit_tracer import attribute
from circuit_tracer.graph import Graph, compute_graph_scores, prune_graph
from circuit_tracer.utils import create_graph_files
from circuit_tracer_model import open_model

BATCH = 16
"""Its best on a CPU: larger batches run longer per target."""


class CircuitTracer:
    """A model with transcoders, and the graph that was traced last."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job["threads"])
        self._ids = torch.tensor(job["ids"])
        self._model = open_model(Path(job["folder"]), Path(job["transcoders"]))
        with torch.no_grad():
            self._model(self._ids)
        self._graph: Optional[Graph] = None

    def trace(self) -> Job:
        self._graph = None
        graph, took = clock.measured(lambda: attribute(self._ids, self._model, batch_size=BATCH))
        self._graph = graph
        return {
            **took,
            "features": len(graph.selected_features),
            "nodes": len(graph.adjacency_matrix),
            "edges": int(torch.count_nonzero(graph.adjacency_matrix)),
            "tokens": graph.logit_token_ids.tolist(),
        }

    def score(self) -> Job:
        graph = self._graph
        found, took = clock.measured(lambda: (compute_graph_scores(graph), prune_graph(graph)))
        (replacement, completeness), pruned = found
        return {
            **took,
            "replacement": replacement,
            "completeness": completeness,
            "pruned_nodes": int(pruned.node_mask.sum()),
            "pruned_edges": int(pruned.edge_mask.sum()),
        }

    def write(self) -> Job:
        with tempfile.TemporaryDirectory() as folder:
            _, took = clock.measured(
                lambda: create_graph_files(self._graph, slug="graph", output_path=folder)
            )
            return {**took, "bytes": (Path(folder) / "graph.json").stat().st_size}


if __name__ == "__main__":
    contestant = CircuitTracer(json.loads(sys.argv[1]))
    clock.serve({"trace": contestant.trace, "score": contestant.score, "write": contestant.write})
