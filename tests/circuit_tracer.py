"""The same tiny model and transcoders, traced by circuit-tracer and by us.

What circuit-tracer leaves out has to be left out of ours before anything is compared: the error of
the first position, where neither has features. Learned position embeddings are no source there;
here they are part of the token's, so models are made without any. Biases are no edges in either.

    python -m tests.circuit_tracer

makes ``tests/data/circuit_tracer`` anew: for each family the model, its transcoders, and what
circuit-tracer finds, which the everyday tests hold ours against.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import safetensors.numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.dictionaries.crm_folder import ModelReference
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign import circuit_tracer
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.replacement_model import CompleteReplacementModel
from tests.tiny import random_dictionaries, tiny_model, tiny_tokenizer

RECORDS = Path(__file__).parent / "data" / "circuit_tracer"
RECORDED = ("gpt2", "llama")
PROMPT = "the cat sat on the mat"
_SCRIPT = Path(__file__).parent / "peer_scripts" / "circuit_tracer_graph_peer.py"
_SMALL = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_inner": 24},
    "llama": {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "head_dim": 4},
}


@dataclass(frozen=True)
class Case:
    """What is traced: a family of models, what replaces its MLPs, and a seed.

    ``small`` is for what is kept.
    """

    family: str
    mlp: Optional[dict[str, Any]] = None
    clt: Optional[dict[str, Any]] = None
    seed: int = 0
    small: bool = False

    def write(self, place: Path) -> None:
        """Folders ``model`` and ``transcoders`` below ``place``."""
        from benchmarks.model_folder import write_model  # not where everyday tests need it

        shape: dict[str, Any] = dict(_SMALL[self.family]) if self.small else {}
        if self.family == "llama":
            # TransformerLens knows no Llama with biases.
            shape |= {"attention_bias": False}
        model = tiny_model(self.family, self.seed, **shape)
        if self.family == "gpt2":
            torch.nn.init.zeros_(model.transformer.wpe.weight)
        tokenizer = tiny_tokenizer()
        loaded = LoadedModel.from_parts(model, tokenizer)
        (place / "model").mkdir(parents=True)
        (place / "transcoders").mkdir()
        write_model(model, tokenizer, place / "model")
        dictionaries = random_dictionaries(loaded.adapter, mlp=self.mlp, clt=self.clt)
        reference = ModelReference.of(loaded.info)
        circuit_tracer.write_folder(place / "transcoders", dictionaries, reference)


def graph_of(place: Path) -> AttributionGraph:
    """Our graph of what is in a folder that ``Case.write`` made."""
    transformers_logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    loaded = LoadedModel.from_parts(model, tokenizer)
    found = open_foreign(place / "transcoders").dictionaries
    read = [(item.sites, item.load(loaded.adapter)) for item in found]
    if len(read[0][0]) > 1:
        dictionaries = DictionarySet(clt=read[0][1])
    else:
        dictionaries = DictionarySet({sites[0].layer: item for sites, item in read})
    return GraphBuilder(CompleteReplacementModel(loaded, dictionaries)).build(PROMPT)


def let_trace(places: Sequence[Path], ids: Sequence[int]) -> None:
    """Let circuit-tracer trace token ids through what is in the folders, and write what it finds
    there.

    Raises:
        PeerError: it cannot be installed, or fails.
    """
    from benchmarks import peers

    jobs = [
        [*(str(place / part) for part in ("model", "transcoders")), [*ids], str(place / "found")]
        for place in places
    ]
    told = places[0] / "jobs.json"
    told.write_text(json.dumps(jobs))
    python = str(peers.peer_python("circuit-tracer"))
    # Where circuit_tracer_model is.
    folder = str(Path(peers.__file__).parent)
    command = [python, "-W", "ignore", str(_SCRIPT), str(told)]
    peers.run_checked(command, PYTHONPATH=folder, OMP_NUM_THREADS="1")
    told.unlink()


@dataclass(frozen=True)
class Theirs:
    """What circuit-tracer found; see its script for the names of ``arrays`` and ``about``."""

    arrays: dict[str, Any]
    about: dict[str, Any]

    @classmethod
    def read(cls, place: Path) -> Theirs:
        """What ``let_trace`` left in a folder."""
        about = json.loads((place / "found.json").read_text())
        return cls(safetensors.numpy.load_file(place / "found.safetensors"), about)

    def matrix(self, n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """All edges [n, n], row by target."""
        matrix = np.zeros((n, n), dtype=np.float32)
        target, source = self.arrays["edge"]
        matrix[target, source] = self.arrays["weight"]
        return matrix


def as_theirs(graph: AttributionGraph) -> AttributionGraph:
    """Our graph without what circuit-tracer leaves out. Its rows no longer sum."""
    nodes = graph.nodes
    left_out = np.flatnonzero((nodes.kind == NodeKind.ERROR) & (nodes.position == 0))
    matrix = graph.edges.dense()
    assert matrix[:, left_out].any()  # else there was nothing to leave out
    matrix[:, left_out] = 0
    edges, order = GraphEdges.from_matrix(matrix, graph.targets, nodes.depth)
    return replace(graph, edges=edges, biases=graph.biases[order], values=graph.values[order])


def compare_nodes(graph: AttributionGraph, theirs: Theirs) -> None:
    """The same features are active, the same outputs traced."""
    nodes, arrays = graph.nodes, theirs.arrays
    assert list(graph.token_ids) == theirs.about["ids"]
    features = nodes.kind == NodeKind.FEATURE
    ours = np.stack([nodes.layer, nodes.position, nodes.index], 1)[features]
    assert np.array_equal(ours, arrays["active"])
    logits = nodes.kind == NodeKind.LOGIT
    assert np.array_equal(nodes.index[logits], arrays["tokens"])
    assert np.allclose(nodes.probability[logits], arrays["probability"], rtol=0, atol=1e-6)


def compare_edges(graph: AttributionGraph, theirs: Theirs) -> None:
    """Edges are equal to 1e-5 of the largest. Nodes come in the same order."""
    n = len(graph.nodes)
    ours, other = np.zeros((n, n), dtype=np.float32), theirs.matrix(n)
    dense = graph.edges.dense()
    ours[graph.targets, : dense.shape[1]] = dense
    assert np.abs(ours - other).max() <= 1e-5 * np.abs(other).max()


def compare_scores(graph: AttributionGraph, theirs: Theirs) -> None:
    """Scores are equal to 1e-4, pruned nodes and edges altogether."""
    scores, about = graph.scores, theirs.about
    assert abs(scores.replacement - about["replacement"]) < 1e-4
    assert abs(scores.completeness - about["completeness"]) < 1e-4
    for i, (of_nodes, of_edges) in enumerate(about["thresholds"]):
        pruned = graph.prune(of_nodes, of_edges)
        assert set(pruned.node_ids.tolist()) == set(theirs.arrays[f"nodes_{i}"].tolist())
        ours = zip(pruned.edge_target.tolist(), pruned.edge_source.tolist(), strict=True)
        assert set(ours) == set(map(tuple, theirs.arrays[f"edges_{i}"].T.tolist()))


def main() -> None:
    """Make the records anew."""
    shutil.rmtree(RECORDS, ignore_errors=True)
    places = [RECORDS / family for family in RECORDED]
    for place in places:
        Case(place.name, {"activation": "jumprelu", "skip": False}, small=True).write(place)
    ids = LoadedModel.from_parts(tiny_model("llama"), tiny_tokenizer()).encode(PROMPT)
    let_trace(places, ids)


if __name__ == "__main__":
    main()
