"""Graphs of tiny random models: identities, questions, files."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from attention_studio.core import interventions, replacement_model
from attention_studio.core.dictionaries.transcoder import UnfoldedDictionaryError
from attention_studio.core.feature_extractor import FeatureError, FeatureExtractor
from attention_studio.core.graph_builder import (
    AttributionGraph,
    GraphBuilder,
    GraphError,
    GraphSettings,
    NodeKind,
)
from attention_studio.core.graph_files import graph_json
from attention_studio.core.interventions import InterventionError, agreement, validate
from attention_studio.core.model_manager import EmptyPromptError, PromptTooLongError
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import PROMPT, random_transcoders, tiny_loaded


def replacement(family: str = "llama", **config: Any) -> CompleteReplacementModel:
    loaded = tiny_loaded(family)
    return CompleteReplacementModel(loaded, random_transcoders(loaded.adapter, **config))


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    return GraphBuilder(replacement()).build(PROMPT)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma3_text"])
def test_every_graph_passes_its_identity_and_scores_lie_between_0_and_1(family: str) -> None:
    graph = GraphBuilder(replacement(family)).build(PROMPT)
    assert graph.scores.max_identity_error < 1e-4
    assert 0 < graph.scores.replacement < 1
    assert 0 < graph.scores.completeness < 1
    n_logits = int((graph.nodes.kind == NodeKind.LOGIT).sum())
    assert graph.weights.shape == (len(graph.targets), len(graph.nodes) - n_logits)


def test_nodes_come_as_features_errors_embeddings_logits(graph: AttributionGraph) -> None:
    kinds = graph.nodes.kind
    assert list(kinds) == sorted(kinds)
    length = len(graph.tokens)
    assert (kinds == NodeKind.ERROR).sum() == graph.n_layers * length
    assert (kinds == NodeKind.EMBEDDING).sum() == length
    logits = np.flatnonzero(kinds == NodeKind.LOGIT)
    assert list(graph.nodes.probability[logits]) == sorted(
        graph.nodes.probability[logits], reverse=True
    )
    assert graph.tokens[0] == "<|endoftext|>"
    assert "".join(graph.tokens[1:]) == PROMPT


def test_logits_stop_at_the_mass_that_is_asked_for() -> None:
    model = replacement()
    few = GraphBuilder(model).build(PROMPT, GraphSettings(logit_mass=0.2))
    chosen = few.nodes.probability[few.nodes.kind == NodeKind.LOGIT]
    assert chosen.sum() >= 0.2
    assert chosen[:-1].sum() < 0.2


def test_batching_changes_no_edge(graph: AttributionGraph) -> None:
    other = GraphBuilder(replacement()).build(PROMPT, GraphSettings(batch=7))
    order, other_order = np.argsort(graph.targets), np.argsort(other.targets)
    assert np.allclose(graph.weights[order], other.weights[other_order], atol=1e-6)


def test_a_bounded_graph_keeps_the_rows_that_it_traces(graph: AttributionGraph) -> None:
    few = GraphBuilder(replacement()).build(PROMPT, GraphSettings(max_features=20))
    assert len(few.targets) == 20 + (few.nodes.kind == NodeKind.LOGIT).sum()
    for node in few.targets:
        theirs, ours = few.inputs(int(node)), graph.inputs(int(node))
        assert np.allclose(theirs.weights, ours.weights, atol=1e-6)
    assert few.scores.max_identity_error < 1e-4


def test_a_graph_that_cannot_fit_is_refused_with_a_reason() -> None:
    with pytest.raises(GraphError, match="too long to trace"):
        GraphBuilder(replacement()).build(PROMPT, GraphSettings(max_gigabytes=1e-6))


def test_inputs_and_outputs_tell_the_same_edges(graph: AttributionGraph) -> None:
    node = int(graph.targets[-1])
    inputs = graph.inputs(node)
    assert list(np.abs(inputs.weights)) == sorted(np.abs(inputs.weights), reverse=True)
    assert np.abs(inputs.shares).sum() == pytest.approx(1, abs=1e-5)
    source = int(inputs.nodes[0])
    outputs = graph.outputs(source)
    place = int(np.flatnonzero(outputs.nodes == node)[0])
    assert outputs.weights[place] == inputs.weights[0]
    assert outputs.shares[place] == pytest.approx(inputs.shares[0])
    logit = len(graph.nodes) - 1
    assert len(graph.outputs(logit).nodes) == 0
    assert len(graph.inputs(graph.weights.shape[1] - 1).nodes) == 0


def test_names_find_their_nodes(graph: AttributionGraph) -> None:
    names = [graph.node_name(node) for node in range(len(graph.nodes))]
    assert len(set(names)) == len(names)
    assert graph.find(names[17]) == 17
    with pytest.raises(GraphError, match="no node L99"):
        graph.find("L99/P0/F0")


def test_pruning_keeps_logits_and_tokens_and_shrinks(graph: AttributionGraph) -> None:
    small, large = graph.prune(0.5, 0.8), graph.prune(1.0, 1.0)
    assert len(small.node_ids) < len(large.node_ids)
    assert len(small.edge_weight) < len(large.edge_weight)
    kinds = graph.nodes.kind[small.node_ids]
    assert (kinds == NodeKind.EMBEDDING).sum() == len(graph.tokens)
    assert set(small.edge_source) | set(small.edge_target) <= set(small.node_ids)
    with pytest.raises(GraphError, match="from 0 to 1"):
        graph.prune(1.2)


def test_networkx_gets_every_kept_node_and_edge(graph: AttributionGraph) -> None:
    part = graph.prune()
    other = graph.to_networkx(part)
    assert other.number_of_nodes() == len(part.node_ids)
    assert other.number_of_edges() == len(part.edge_weight)
    assert nx.is_directed_acyclic_graph(other)


def test_the_strongest_path_is_the_best_of_all_paths(graph: AttributionGraph) -> None:
    part = graph.prune(0.6, 0.7)
    other = graph.to_networkx(part)
    logit = len(graph.nodes) - len(graph.nodes.kind[graph.nodes.kind == NodeKind.LOGIT])
    names_of = {graph.node_name(node): node for node in range(len(graph.nodes))}
    above = nx.ancestors(other, graph.node_name(logit))
    token = next(names_of[name] for name in sorted(above) if name.endswith("token"))
    path = graph.strongest_path(token, logit, part)
    assert path is not None
    assert path[0] == token
    assert path[-1] == logit

    def strength(names: list[str]) -> float:
        pairs = itertools.pairwise(names)
        return float(np.prod([abs(other.edges[pair]["share"]) for pair in pairs]))

    names = [graph.node_name(node) for node in path]
    every = nx.all_simple_paths(other, names[0], names[-1])
    assert strength(names) == pytest.approx(max(strength(p) for p in every), rel=1e-6)


def test_no_path_gives_none(graph: AttributionGraph) -> None:
    logit = len(graph.nodes) - 1
    token = int(np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING)[2])
    assert graph.strongest_path(logit, token) is None
    untouched = graph.prune(0.0, 0.0)
    lost = int(np.setdiff1d(np.arange(graph.n_features), untouched.node_ids)[0])
    assert graph.strongest_path(lost, logit, untouched) is None


def test_a_saved_graph_opens_equal(graph: AttributionGraph, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    again = AttributionGraph.load(path)
    for name in ("weights", "targets", "biases", "values"):
        assert np.array_equal(getattr(again, name), getattr(graph, name))
    assert again.summary() == graph.summary()
    assert again.captions == graph.captions
    assert again.settings == graph.settings
    assert np.array_equal(again.prune().node_ids, graph.prune().node_ids)


def test_json_is_what_viewers_read(graph: AttributionGraph, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    graph.save(path)
    read = json.loads(path.read_text(encoding="utf-8"))
    part = graph.prune()
    assert read == json.loads(json.dumps(graph_json(graph, part)))
    assert set(read) == {"metadata", "qParams", "nodes", "links"}
    ids = [node["node_id"] for node in read["nodes"]]
    assert len(set(ids)) == len(ids) == len(part.node_ids)
    assert all(link["source"] in ids and link["target"] in ids for link in read["links"])
    assert read["metadata"]["prompt_tokens"] == list(graph.tokens)
    feature = next(n for n in read["nodes"] if n["feature_type"] == "cross layer transcoder")
    layer, index, position = map(int, feature["node_id"].split("_"))
    assert feature["feature"] == (layer + index) * (layer + index + 1) // 2 + index
    assert feature["ctx_idx"] == position


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"\xff" * 64), "cannot be opened"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be opened"),
        (lambda path: path.unlink(), "no graph"),
        (lambda path: path.write_bytes(b""), "cannot be opened"),
    ],
)
def test_a_damaged_file_gets_a_clear_error(
    graph: AttributionGraph, tmp_path: Path, damage: Any, words: str
) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    damage(path)
    with pytest.raises(GraphError, match=words):
        AttributionGraph.load(path)


def test_arrays_that_do_not_fit_together_are_refused(
    graph: AttributionGraph, tmp_path: Path
) -> None:
    path = tmp_path / "g.safetensors"
    for wrong, name in (
        (replace(graph, targets=graph.targets + len(graph.nodes)), "targets"),
        (replace(graph, biases=graph.biases[:-1]), "biases"),
        (replace(graph, weights=np.full_like(graph.weights, np.nan)), "not finite"),
        (replace(graph, token_ids=graph.token_ids[:-1]), "tokens"),
    ):
        wrong.save(path)
        with pytest.raises(GraphError, match=name):
            AttributionGraph.load(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [("weights", lambda w: w.ravel()), ("targets", lambda t: t.astype(np.float32))],
)
def test_arrays_of_another_form_are_refused(
    graph: AttributionGraph, tmp_path: Path, name: str, change: Any
) -> None:
    path = tmp_path / "g.safetensors"
    replace(graph, **{name: change(getattr(graph, name))}).save(path)
    with pytest.raises(GraphError, match=name):
        AttributionGraph.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_logits", 0),
        ("logit_mass", 0.0),
        ("logit_mass", 1.5),
        ("logit_mass", float("nan")),
        ("max_features", -1),
        ("max_gigabytes", 0.0),
        ("batch", 0),
    ],
)
def test_settings_that_trace_nothing_are_refused(name: str, value: float) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(GraphError, match=name):
        GraphSettings(**settings)


def test_an_unknown_ending_is_refused(graph: AttributionGraph, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="ending"):
        graph.save(tmp_path / "g.pt")


def test_bad_prompts_are_refused() -> None:
    builder = GraphBuilder(replacement())
    with pytest.raises(EmptyPromptError):
        builder.build("   ")
    with pytest.raises(PromptTooLongError):
        builder.build("the cat " * 100)


def test_a_prompt_whose_frozen_pass_fits_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = replacement()
    # Three layers of 11 tokens: patterns of 4 heads, six rows and six features of width 32.
    patterns, rows, pairs = 3 * 4 * 11**2, 3 * 11 * 6 * 32, 3 * 11 * 6 * 2 * 32
    ids = model.loaded.encode(PROMPT)
    assert len(ids) == 11
    monkeypatch.setattr(replacement_model, "free_bytes", lambda _: 4 * (patterns + rows + pairs))
    with pytest.raises(PromptTooLongError, match="active features"):
        GraphBuilder(model).build(PROMPT)
    monkeypatch.setattr(replacement_model, "free_bytes", lambda _: 8 * (patterns + rows + pairs))
    assert len(model.localize(ids).features) > 0


def test_tracing_stops_when_asked() -> None:
    class StopAfter(WorkContext):
        def __init__(self, calls: int) -> None:
            super().__init__()
            self.left = calls

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                self.cancel()
            super().check()

    builder = GraphBuilder(replacement())
    for calls in range(6):
        with pytest.raises(Cancelled):
            builder.build(PROMPT, ctx=StopAfter(calls))


def test_an_unfolded_dictionary_is_refused() -> None:
    loaded = tiny_loaded()
    transcoders = random_transcoders(loaded.adapter)
    transcoders[1].input_scale.fill_(2.0)
    with pytest.raises(UnfoldedDictionaryError, match="layer 1"):
        CompleteReplacementModel(loaded, transcoders)


def test_the_callers_dictionaries_stay_as_they_are() -> None:
    loaded = tiny_loaded()
    double = {layer: t.double() for layer, t in random_transcoders(loaded.adapter).items()}
    model = CompleteReplacementModel(loaded, double)
    assert {str(t.W_E.dtype) for t in model.transcoders.values()} == {"torch.float32"}
    assert {str(t.W_E.dtype) for t in double.values()} == {"torch.float64"}
    single = random_transcoders(loaded.adapter)
    assert CompleteReplacementModel(loaded, single).transcoders[1] is single[1]


def test_a_model_without_dictionaries_has_a_graph_of_errors_and_tokens() -> None:
    graph = GraphBuilder(replacement(layers=())).build(PROMPT)
    assert graph.n_features == 0
    assert graph.scores.max_identity_error < 1e-4


def test_features_are_ranked_by_what_they_write_and_found_again() -> None:
    model = replacement()
    report = FeatureExtractor(model).extract_features(PROMPT, top_k=5)
    assert len(report.overall) == 5
    assert len(report.by_position) == len(report.tokens)
    assert report.by_position[0] == ()
    norms = [
        record.activation * float(model.transcoders[record.layer].W_D[record.index].norm())
        for record in report.overall
    ]
    assert norms == sorted(norms, reverse=True)
    first = report.overall[0]
    fires = report.activations(first.layer, first.index)
    assert fires[first.position] == pytest.approx(first.activation)
    assert fires[0] == 0
    promoted = [effect for _, effect in first.promoted]
    suppressed = [effect for _, effect in first.suppressed]
    assert promoted == sorted(promoted, reverse=True)
    assert suppressed == sorted(suppressed)
    assert promoted[-1] >= suppressed[-1]
    with pytest.raises(FeatureError):
        FeatureExtractor(model).extract_features(PROMPT, top_k=0)


def test_predictions_hold_exactly_under_the_freezes_and_roughly_without() -> None:
    report = validate(replacement(), PROMPT, samples=16)
    assert report.n_samples == 16
    assert report.largest_freeze_gap < 1e-4
    assert abs(report.control.correlation) < abs(report.logits.correlation)
    with pytest.raises(InterventionError):
        validate(replacement(), PROMPT, samples=0)
    with pytest.raises(InterventionError, match="No feature is active"):
        validate(replacement(layers=()), PROMPT)


def test_validation_measures_the_same_in_passes_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = replacement()
    whole = validate(model, PROMPT, samples=9)
    sizes: list[int] = []
    final_normed = model.adapter.final_normed

    def watched(ids: Any) -> Any:
        sizes.append(len(ids))
        return final_normed(ids)

    n_tokens = len(model.loaded.encode(PROMPT))
    monkeypatch.setattr(model.adapter, "final_normed", watched)
    monkeypatch.setattr(interventions, "_VALUES_PER_PASS", 5 * n_tokens * model.adapter.d_mlp)
    parts = validate(model, PROMPT, samples=9)
    assert sizes == 2 * [5, 5, 2]
    measured = [[check.measured for check in report.checks] for report in (whole, parts)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-5)
    assert parts.features.correlation == pytest.approx(whole.features.correlation, abs=1e-4)


def test_dictionaries_that_write_nothing_cannot_be_validated() -> None:
    model = replacement(skip=False)
    for transcoder in model.transcoders.values():
        transcoder.W_D.data.zero_()
    with pytest.raises(InterventionError, match="has an effect"):
        validate(model, PROMPT)


def test_agreement_of_a_line_with_itself() -> None:
    import torch

    x = torch.tensor([1.0, -2.0, 3.0])
    same, half = agreement(x, x), agreement(x, x / 2)
    assert (same.slope, same.correlation, same.relative_error) == pytest.approx((1, 1, 0))
    assert half.slope == pytest.approx(0.5)
    assert half.relative_error == pytest.approx(1.0)
