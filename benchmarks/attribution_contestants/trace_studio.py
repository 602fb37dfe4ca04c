"""The studio's graphs: traced, scored, pruned and written, as a person would have it done."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import clock
import numpy as np
import paper
from answers import Job
from prepare import load

from attention_studio.core.attribution_graph import AttributionGraph, GraphSettings, NodeKind
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.utils.progress import WorkContext

GIGABYTES = 8.0
"""Room for the edges: nothing here is left out for want of it."""


class Stages(WorkContext):
    """What is being done, and the CPU seconds of each part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self._now: Optional[str] = None
        self._began = 0.0

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        stage = text.partition(" ")[0]  # numbers may follow
        if stage != self._now:
            self.close()
            self._now, self._began = stage, time.process_time()

    def close(self) -> None:
        """The last part is over."""
        if self._now is not None:
            spent = time.process_time() - self._began
            self.seconds[self._now] = self.seconds.get(self._now, 0.0) + spent


class Studio:
    """A model with its dictionaries, and the graph that was traced last."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loaded = load(job)
        self._graph: Optional[AttributionGraph] = None
        self._exact: Optional[AttributionGraph] = None
        """The last one with nothing set."""
        self._builders: dict[str, GraphBuilder] = {}

    def _builder(self, which: str) -> GraphBuilder:
        """``kept`` or ``complete``, after a first small trace: caches are filled."""
        if which not in self._builders:
            crm = CompleteReplacementModel.from_folder(self._loaded, Path(self._job[which]))
            self._builders[which] = GraphBuilder(crm)
            self._builders[which].build(self._job["prompt"], GraphSettings(max_features=1))
        return self._builders[which]

    def known(self) -> Job:
        """The token ids of the prompt, and the model's width."""
        ids = self._loaded.encode(self._job["prompt"])
        return {"ids": ids, "d_model": self._loaded.adapter.d_model}

    def forward(self, times: int, length: Optional[int] = None) -> Job:
        """The model's own pass over the prompt: medians."""
        ids = self._loaded.encode(self._prompt(length))
        adapter = self._loaded.adapter
        adapter.logits(ids)
        found = [clock.measured(lambda: adapter.logits(ids))[1] for _ in range(times)]
        return {name: statistics.median(one[name] for one in found) for name in ("wall", "cpu")}

    def trace(self, which: str, settings: dict[str, Any], length: Optional[int] = None) -> Job:
        """Trace the prompt, or so many tokens of text."""
        builder, self._graph = self._builder(which), None
        told = GraphSettings(**{"max_gigabytes": GIGABYTES, **settings})
        prompt, stages = self._prompt(length), Stages()
        graph, took = clock.measured(lambda: builder.build(prompt, told, stages))
        stages.close()
        self._graph = graph
        if not settings:
            self._exact = graph
        return {
            **took,
            "stages": stages.seconds,
            "features": graph.n_features,
            "nodes": len(graph.nodes),
            "rows": len(graph.targets),
            "edges": graph.n_edges,
            "identity_error": graph.scores.max_identity_error,
            "paper": vars(paper.of_graph(self._loaded.adapter, graph)),
            "tokens": graph.nodes.index[graph.nodes.kind == NodeKind.LOGIT].tolist(),
        }

    def differences(self) -> Job:
        """Between the last graph and the last one of all edges in float32: of edges the largest
        difference by the largest edge and the norm of all by the norm of the edges, where both have
        them all, and the share of the nodes left after pruning that both have."""
        graph, exact = self._graph, self._exact
        assert graph is not None and exact is not None  # they are traced first
        ours, theirs = (set(one.prune().node_ids.tolist()) for one in (graph, exact))
        found = {"shared": len(ours & theirs) / len(ours | theirs)}
        edges, wanted = graph.edges.data, exact.edges.data
        if len(edges) == len(wanted):
            gap = edges - wanted
            found["largest"] = float(np.abs(gap).max() / np.abs(wanted).max())
            found["rms"] = float(np.linalg.norm(gap) / np.linalg.norm(wanted))
        return found

    def score(self) -> Job:
        graph = self._fresh()
        (scores, pruned), took = clock.measured(lambda: (graph.scores, graph.prune()))
        return {
            **took,
            "replacement": scores.replacement,
            "completeness": scores.completeness,
            "pruned_nodes": len(pruned.node_ids),
            "pruned_edges": len(pruned.edge_source),
        }

    def write(self) -> Job:
        graph = self._fresh()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.json"
            _, took = clock.measured(lambda: graph.save(path))
            return {**took, "bytes": path.stat().st_size}

    def _fresh(self) -> AttributionGraph:
        """The graph as it is when nothing has been asked of it yet."""
        assert self._graph is not None  # it is traced first
        return replace(self._graph)

    def _prompt(self, length: Optional[int]) -> str:
        if length is None:
            prompt: str = self._job["prompt"]
            return prompt
        text = Path(self._job["text"]).read_text(encoding="utf-8")
        ids = self._loaded.text_ids(text)
        # Not every cut is one that the tokenizer would make.
        for start in range(0, len(ids) - length, 7):
            part = self._loaded.tokenizer.decode(ids[start : start + length - 1])
            if len(self._loaded.encode(part)) == length:
                return str(part)
        raise ValueError(f"the text holds no {length} tokens")


if __name__ == "__main__":
    studio = Studio(json.loads(sys.argv[1]))
    words = ("known", "forward", "trace", "differences", "score", "write")
    clock.serve({word: getattr(studio, word) for word in words})
