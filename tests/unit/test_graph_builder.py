"""Graphs of tiny random models: their nodes, their identities, and what is not traced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attention_studio.core.graph_builder import (
    AttributionGraph,
    GraphBudgetError,
    GraphBuilder,
    GraphError,
    GraphSettings,
    NodeKind,
)
from attention_studio.core.model_manager import EmptyPromptError, PromptTooLongError
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.crms import COMPLETE, CROSS, complete, replacement
from tests.tiny import PROMPT


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma3_text"])
def test_every_graph_passes_its_identity_and_scores_lie_between_0_and_1(family: str) -> None:
    graph = GraphBuilder(replacement(family)).build(PROMPT)
    assert graph.scores.max_identity_error < 1e-4
    assert 0 < graph.scores.replacement < 1
    assert 0 < graph.scores.completeness < 1
    n_logits = int((graph.nodes.kind == NodeKind.LOGIT).sum())
    assert graph.edges.dense().shape == (len(graph.targets), len(graph.nodes) - n_logits)


@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS], ids=["complete", "cross"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_graphs_with_attention_features_pass_theirs(
    family: str, dictionaries: dict[str, Any]
) -> None:
    graph = GraphBuilder(complete(family, dictionaries)).build(PROMPT)
    assert graph.scores.max_identity_error < 1e-4
    assert 0 < graph.scores.replacement < 1
    assert 0 < graph.scores.completeness < 1
    nodes, length = graph.nodes, len(graph.tokens)
    replaced = len(dictionaries["attention"].get("layers", range(3)))
    assert (nodes.kind == NodeKind.ERROR).sum() == (3 + replaced) * length
    features = nodes.kind == NodeKind.FEATURE
    assert (
        graph.summary()["n_attention_features_active"] == (features & (nodes.site_kind == 0)).sum()
    )
    for kind in (0, 1):
        assert (features & (nodes.site_kind == kind)).sum() > 0
    # Pruning hands influence down level by level: no edge may stay within one.
    row, column = np.nonzero(graph.edges.dense())
    assert (nodes.depth[column] < nodes.depth[graph.targets[row]]).all()
    names = [graph.node_name(node) for node in range(len(nodes))]
    assert len(set(names)) == len(names)
    part = graph.prune()
    modules = {data["module"] for _, data in graph.to_networkx(part).nodes(data=True)}
    assert modules == {"attention", "mlp", ""}


def test_scores_count_the_errors_of_attentions_where_lorsas_stand_in() -> None:
    """Where a Lorsa says nothing, all that the attention writes is error, and is counted so."""
    silent = complete()
    for lorsa in silent.dictionaries.lorsas.values():
        lorsa.W_O.data.zero_()
        lorsa.b_D.data.zero_()
    graph = GraphBuilder(silent).build(PROMPT)
    errors = (graph.nodes.kind == NodeKind.ERROR) & (graph.nodes.site_kind == 0)
    assert graph.influence[errors].sum() > 0
    local = silent.localize(graph.token_ids)
    writes = local.record.attention_out.norm(dim=-1).flatten()
    assert np.allclose(graph.nodes.activation[errors], writes.numpy(), rtol=1e-5)
    attention = (graph.nodes.kind == NodeKind.FEATURE) & (graph.nodes.site_kind == 0)
    assert graph.influence[attention].sum() == 0
    leaves = (graph.nodes.kind == NodeKind.ERROR) | (graph.nodes.kind == NodeKind.EMBEDDING)
    tokens = graph.nodes.kind == NodeKind.EMBEDDING
    share = graph.influence[tokens].sum() / graph.influence[leaves].sum()
    assert graph.scores.replacement == pytest.approx(float(share), abs=1e-5)


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
    assert np.allclose(graph.edges.dense()[order], other.edges.dense()[other_order], atol=1e-6)


def test_a_bounded_graph_keeps_the_rows_that_it_traces(graph: AttributionGraph) -> None:
    few = GraphBuilder(replacement()).build(PROMPT, GraphSettings(max_features=20))
    assert len(few.targets) == 20 + (few.nodes.kind == NodeKind.LOGIT).sum()
    for node in few.targets:
        theirs, ours = few.inputs(int(node)), graph.inputs(int(node))
        assert np.allclose(theirs.weights, ours.weights, atol=1e-6)
    assert few.scores.max_identity_error < 1e-4


def test_a_graph_that_cannot_fit_is_refused_with_a_reason() -> None:
    with pytest.raises(GraphBudgetError, match="Shorten the prompt") as told:
        GraphBuilder(replacement()).build(PROMPT, GraphSettings(max_gigabytes=1e-6))
    assert told.value.smaller is None


def test_a_graph_that_is_too_large_is_refused_with_the_settings_that_fit() -> None:
    builder = GraphBuilder(replacement())
    size = builder.build(PROMPT).edges.layout.size
    tight = GraphSettings(max_gigabytes=4 * (size - 1) / 1e9)
    with pytest.raises(GraphBudgetError, match="max_features") as told:
        builder.build(PROMPT, tight)
    smaller = told.value.smaller
    assert smaller is not None and smaller.max_features is not None
    graph = builder.build(PROMPT, smaller)
    assert len(graph.targets) > smaller.max_features
    assert 4 * graph.edges.layout.size <= 1e9 * tight.max_gigabytes


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


def test_bad_prompts_are_refused() -> None:
    builder = GraphBuilder(replacement())
    with pytest.raises(EmptyPromptError):
        builder.build("   ")
    with pytest.raises(PromptTooLongError):
        builder.build("the cat " * 100)


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

    # Before, between and after the batches.
    for settings in (GraphSettings(batch=1), GraphSettings(influence=0.99), GraphSettings()):
        counted = StopAfter(10**6)
        builder = GraphBuilder(replacement())
        builder.build(PROMPT, settings, counted)
        n_checks = 10**6 - counted.left
        assert n_checks >= 3
        for calls in range(n_checks):
            with pytest.raises(Cancelled):
                builder.build(PROMPT, settings, StopAfter(calls))


def test_a_model_without_dictionaries_has_a_graph_of_errors_and_tokens() -> None:
    graph = GraphBuilder(replacement(layers=())).build(PROMPT)
    assert graph.n_features == 0
    assert graph.scores.max_identity_error < 1e-4
